//! Containers that would have CRIU do something outside of them: it follows their paths with the host's root as `/`, and between a
//! checkpoint and its restore another container may have written to the same root filesystem.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::checkpoint_lab::{Lab, checkpoints_or_skip};
use crate::harness::{Fixture, wait_for};
use crate::weak::{Outcome, held_by};

/// What the programs end with.
const GO_ON: &str = "touch /ready; while :; do sleep 1; done";

/// A container that runs `script`, once that has got to its end.
fn running(script: &str, change: impl FnOnce(&mut Lab)) -> Lab {
    let mut fixture = Fixture::with_own_root();
    fixture.sh(&format!("{script} {GO_ON}"));
    let mut lab = Lab::of(fixture);
    change(&mut lab);
    lab.fixture.write_config();
    lab.lodger(&["run", "-d", "c"]).ok();
    let ready = lab.fixture.rootfs().join("ready");
    wait_for("the program", || ready.exists().then_some(()));
    lab
}

/// A directory of the caller's, outside of every container, with these in it.
fn outside(lab: &Lab, directories: &[&str]) -> PathBuf {
    let outside = lab.fixture.path("outside");
    for name in [&[""], directories].concat() {
        fs::create_dir(outside.join(name)).unwrap();
    }
    outside
}

/// When something was last made in this directory, or removed.
fn last_change(path: &Path) -> (i64, i64) {
    let about = fs::metadata(path).unwrap();
    (about.mtime(), about.mtime_nsec())
}

/// While the container is on disk alone, a directory of its root becomes a link.
fn becomes_a_link(lab: &Lab, name: &str, to: &Path) {
    let place = lab.fixture.rootfs().join(name);
    fs::rename(&place, lab.fixture.path("moved")).unwrap();
    symlink(to, &place).unwrap();
}

/// Restores; whether something was made in `outside`, or removed, or there is a container now.
fn restored(lab: &Lab, outside: &Path) -> Outcome {
    let before = last_change(outside);
    let ran = lab.restore(&["-d"], "c");
    if last_change(outside) != before {
        return Outcome::Succeeded(format!("something was made in {outside:?}: {ran:?}"));
    }
    ran.fails(1, "cannot restore container");
    assert_eq!(lab.ids(), [""; 0]);
    Outcome::Held("the restore was refused".to_owned())
}

/// Changes a word in an image; how often it was there.
fn change_word(image: &Path) -> usize {
    let (old, new) = (b"unchanged-in-42", b"exchanged-in-42");
    let mut content = fs::read(image).unwrap();
    let last = content.len().saturating_sub(old.len());
    let places: Vec<usize> = (0..last)
        .filter(|at| content[*at..].starts_with(old))
        .collect();
    for at in &places {
        content[*at..at + new.len()].copy_from_slice(new);
    }
    fs::write(image, content).unwrap();
    places.len()
}

/// Memory of a container in which somebody has changed a word: it would go on with it.
#[test]
fn memory_that_was_changed_is_not_restored() {
    checkpoints_or_skip!();
    held_by(&["Checkpoint"], || {
        let lab = running("", |lab| {
            lab.fixture.sh(&format!(
                "word=unchanged-in-$((40 + 2)); trap 'echo $word >/told' USR1; {GO_ON}"
            ));
        });
        lab.checkpoint(&[]).ok();
        let images = fs::read_dir(lab.fixture.path("ck")).unwrap();
        let paths = images.map(|image| image.unwrap().path());
        let pages = paths.filter(|path| path.to_str().unwrap().contains("/pages-"));
        let changed: usize = pages.map(|path| change_word(&path)).sum();
        assert!(changed > 0, "the word is in no image");
        let ran = lab.restore(&["-d"], "c");
        if ran.code != 0 {
            ran.fails(1, "another content than was written");
            assert_eq!(lab.ids(), [""; 0]);
            return Outcome::Held("the restore was refused".to_owned());
        }
        lab.lodger(&["kill", "c", "USR1"]).ok();
        let told = lab.fixture.rootfs().join("told");
        let said = wait_for("the program's word", || {
            fs::read_to_string(&told)
                .ok()
                .filter(|text| text.ends_with('\n'))
        });
        assert_eq!(said, "exchanged-in-42\n");
        Outcome::Succeeded("the program goes on with another word".to_owned())
    });
}

/// The container needs nobody's help: the kernel goes on to show the path of a deleted file, whatever is at its place by then.
#[test]
fn a_deleted_file_is_not_made_where_a_link_leads() {
    checkpoints_or_skip!();
    held_by(&["HostReadonly"], || {
        let mut place = PathBuf::new();
        let lab = running("", |lab| {
            place = outside(lab, &[]);
            let script = format!(
                "mkdir /d; echo x >/d/f; exec 3<>/d/f; rm -r /d; ln -s {} /d; {GO_ON}",
                place.display()
            );
            lab.fixture.sh(&script);
        });
        lab.checkpoint(&[]).ok();
        restored(&lab, &place)
    });
}

#[test]
fn a_deleted_file_is_not_made_in_what_became_a_link() {
    checkpoints_or_skip!();
    held_by(&["HostReadonly"], || {
        let lab = running("mkdir /d; echo x >/d/f; exec 3<>/d/f; rm /d/f;", |_| ());
        let outside = outside(&lab, &[]);
        lab.checkpoint(&[]).ok();
        becomes_a_link(&lab, "d", &outside);
        restored(&lab, &outside)
    });
}

/// What the container had bound from its own root filesystem would be the host's afterwards.
#[test]
fn a_bind_mount_does_not_show_where_a_link_leads() {
    checkpoints_or_skip!();
    held_by(&["MountRoots"], || {
        let lab = running("", |_| ());
        let outside = outside(&lab, &["e"]);
        fs::write(outside.join("e/secret"), "the caller's").unwrap();
        let bind = "mkdir -p /d/e /m; mount --bind /d/e /m";
        let cap = ["exec", "--cap", "CAP_SYS_ADMIN", "c"];
        lab.lodger(&[&cap[..], &["/bin/sh", "-c", bind]].concat())
            .ok();
        lab.checkpoint(&[]).ok();
        becomes_a_link(&lab, "d", &outside);
        let ran = lab.restore(&["-d"], "c");
        let seen = lab.lodger(&["exec", "c", "/bin/cat", "/m/secret"]);
        if seen.out.contains("the caller's") {
            return Outcome::Succeeded("the container sees the caller's file".to_owned());
        }
        ran.fails(1, "shows something else");
        Outcome::Held("the restore was refused".to_owned())
    });
}

/// Its options are paths, which CRIU would take for the host's.
#[test]
fn an_overlay_of_the_containers_own_is_refused() {
    checkpoints_or_skip!();
    let lab = running("", |_| ());
    let mount = "mkdir /m; mount -t overlay -o lowerdir=/etc:/bin overlay /m";
    let cap = ["exec", "--cap", "CAP_SYS_ADMIN", "c"];
    lab.lodger(&[&cap[..], &["/bin/sh", "-c", mount]].concat())
        .ok();
    let ran = lab.checkpoint(&[]);
    assert!(ran.err.contains("overlay mount at \"/m\""), "{ran:#?}");
    ran.fails(1, "cannot mount that filesystem anew");
    assert_eq!(lab.fixture.status("c"), "running");
}

/// Of these nothing is made on the host, and no container comes to be that lacks one.
#[test]
fn a_mount_is_not_made_where_a_link_leads() {
    checkpoints_or_skip!();
    for name in ["proc", "dev", "sys", "d"] {
        let lab = running("", |lab| {
            fs::create_dir(lab.fixture.path("source")).unwrap();
            let source = lab.word("source");
            let place = lab.fixture.rootfs().join("d");
            for directory in ["e", "t"] {
                fs::create_dir_all(place.join(directory)).unwrap();
            }
            let bind = json!({"destination": "/d/e", "type": "bind", "source": source, "options": ["bind"]});
            let tmpfs = json!({"destination": "/d/t", "type": "tmpfs", "source": "tmpfs"});
            lab.fixture.mount(bind).mount(tmpfs);
            lab.fixture.config["linux"]["maskedPaths"] = json!(["/proc/keys"]);
        });
        let outside = outside(&lab, &["e", "t", "pts", "shm", "mqueue"]);
        lab.checkpoint(&[]).ok();
        becomes_a_link(&lab, name, &outside);
        let before = ["", "e", "t", "pts", "shm"].map(|name| last_change(&outside.join(name)));
        let ran = lab.restore(&["-d"], "c");
        let after = ["", "e", "t", "pts", "shm"].map(|name| last_change(&outside.join(name)));
        assert_eq!(before, after, "{name}: {ran:#?}");
        ran.fails(1, "cannot restore container");
        assert_eq!(lab.ids(), [""; 0], "{name}");
    }
}

#[test]
fn a_file_is_not_opened_where_a_link_leads() {
    checkpoints_or_skip!();
    let script = "mkdir /d; echo inside >/d/f; exec 3<>/d/f; mkfifo /d/p; exec 4<>/d/p; cd /d;";
    let lab = running(script, |_| ());
    let outside = outside(&lab, &[]);
    fs::write(outside.join("f"), "secret\n").unwrap();
    lab.checkpoint(&[]).ok();
    becomes_a_link(&lab, "d", &outside);
    assert!(matches!(restored(&lab, &outside), Outcome::Held(_)));
    assert_eq!(fs::read(outside.join("f")).unwrap(), b"secret\n");
}

/// Nothing of the caller's, of lodger or of CRIU is in a container that was restored.
#[test]
fn nothing_leaks_into_a_restored_container() {
    checkpoints_or_skip!();
    let lab = running("", |_| ());
    let look = || {
        let process = PathBuf::from(format!("/proc/{}", lab.pid("c")));
        let read = |name: &str| fs::read_to_string(process.join(name)).unwrap();
        let mut files: Vec<_> = fs::read_dir(process.join("fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        files.sort();
        let status = read("status");
        let restrictions = [
            "Cap",
            "NoNewPrivs",
            "Seccomp",
            "Uid",
            "Gid",
            "Groups",
            "Umask",
        ];
        let lines = status.lines();
        let status: Vec<_> = lines
            .filter(|line| restrictions.iter().any(|name| line.starts_with(name)))
            .map(str::to_owned)
            .collect();
        let places = read("mountinfo");
        let mut places: Vec<_> = places
            .lines()
            .map(|line| line.split(' ').nth(4).unwrap().to_owned())
            .collect();
        places.sort();
        let rest = ["environ", "oom_score_adj", "cgroup"].map(read);
        (files, status, places, rest)
    };
    let before = look();
    lab.checkpoint(&[]).ok();
    let mut command = lab.command(&["restore", "-d", "--image-path", &lab.word("ck"), "c"]);
    command.env("SECRET", "of the caller's");
    crate::harness::spawn(&mut command, b"").wait().ok();
    assert_eq!(look(), before);
}
