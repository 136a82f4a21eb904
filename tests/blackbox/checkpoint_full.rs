//! A host that has no more room or files when a container is checkpointed: it goes on, what was in the directory is there,
//! and the error says what is missing, where, and what to do.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::checkpoint_lab::{Answer, Lab, checkpoints_or_skip, criu};
use crate::harness::{Ran, Running, skip, spawn, wait_for, write_program};
use crate::kills::processes_with;
use crate::nested::maps_all;
use crate::weak::{Outcome, held_by};

/// A container in a user and a mount namespace of the caller's, with a small filesystem of hers.
struct Small {
    lab: Lab,
    holder: Running,
}

impl Small {
    /// `options` are those of the tmpfs.
    fn with(options: &str) -> Small {
        Self::of(&["shared", "memfd", "unix"], options)
    }

    fn of(tasks: &[&str], options: &str) -> Small {
        let lab = Lab::with(tasks);
        lab.fixture.write_config();
        let disk = lab.word("disk");
        fs::create_dir(&disk).unwrap();
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["--user", "--map-root-user", "--map-auto", "--mount"]);
        let script =
            "mount -t tmpfs -o \"mode=700,$1\" none \"$2\" && echo ready && exec sleep 600";
        command.args(["sh", "-c", script, "sh", options, &disk]);
        let holder = spawn(&mut command, b"");
        wait_for("the small filesystem", || {
            (holder.out() == "ready\n").then_some(())
        });
        let small = Small { lab, holder };
        small.lodger(&[], &["run", "-d", "c"]).ok();
        small.lab.first_answer();
        small
    }

    /// A command in these namespaces.
    fn inside(&self, before: &[&str], inner: &Command) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        let holder = self.holder.pid().to_string();
        command.args(["-t", &holder, "-U", "-m", "--preserve-credentials"]);
        command.args(["sh", "-c", "cd \"$0\" && exec \"$@\""]);
        command.arg(self.lab.fixture.bundle()).args(before);
        command.arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
    }

    /// lodger in there, as the last argument of `before`.
    fn lodger(&self, before: &[&str], args: &[&str]) -> Ran {
        spawn(&mut self.inside(before, &self.lab.command(args)), b"").wait()
    }

    fn mount(&self, args: &[&str]) {
        let mut mount = Command::new("mount");
        mount.args(args);
        spawn(&mut self.inside(&[], &mount), b"").wait().ok();
    }

    fn checkpoint_to(&self, name: &str) -> Ran {
        let images = self.lab.word(name);
        self.lodger(
            &[],
            &[
                "checkpoint",
                "--leave-running",
                "--image-path",
                &images,
                "c",
            ],
        )
    }

    /// A path in the small filesystem, seen from outside.
    fn disk(&self, name: &str) -> PathBuf {
        let disk = self.lab.word("disk");
        PathBuf::from(format!("/proc/{}/root{disk}", self.holder.pid())).join(name)
    }

    /// What it has left: bytes, and inodes.
    fn left(&self) -> (u64, u64) {
        let left = rustix::fs::statvfs(self.disk("")).unwrap();
        (left.f_bavail * left.f_frsize, left.f_favail)
    }

    /// The checkpoint in there: all but logs.
    fn kept(&self) -> BTreeMap<String, Vec<u8>> {
        contents(&self.disk("ck"))
    }

    /// Leaves this many bytes.
    fn leave_bytes(&self, bytes: u64) {
        let path = self.disk("fill");
        fs::remove_file(&path).unwrap_or_default();
        let size = self.left().0.saturating_sub(bytes);
        let mut file = fs::File::create(path).unwrap();
        let zeros = vec![0; usize::try_from(size).unwrap()];
        file.write_all(&zeros).unwrap();
        assert_eq!(self.left().0, bytes);
    }

    /// Asserts that the container goes on as before, restores what was kept, and that this is as `first`.
    fn ends_well(&self, first: &Answer) {
        self.lab.look("c").goes_on_from(first);
        self.lab.fixture.bare(&["delete", "-f", "c"]).ok();
        fs::remove_file(self.disk("fill")).unwrap_or_default();
        let images = self.lab.word("disk/ck");
        self.lodger(&[], &["restore", "-d", "--image-path", &images, "c"])
            .ok();
        self.lab.look("c").goes_on_from(first);
    }
}

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| !name.ends_with(".log") && !name.starts_with("stats-"))
        .map(|(name, path)| (name, fs::read(path).unwrap_or_default()))
        .collect()
}

macro_rules! small_or_skip {
    ($options:expr) => {{
        checkpoints_or_skip!();
        if !maps_all() {
            skip!("unshare(1) has no --map-auto, or there are no subordinate ids");
        }
        Small::with($options)
    }};
}

/// CRIU leaves a process that had no groups those of its own: the caller's, who is root of the container's user namespace here.
#[test]
fn the_callers_groups_do_not_reach_a_restored_program() {
    let small = small_or_skip!("size=16m");
    assert_eq!(small.lab.look("c").get("status.Groups"), "");
    let images = small.lab.word("disk/ck");
    small
        .lodger(&[], &["checkpoint", "--image-path", &images, "c"])
        .ok();
    small.lab.fixture.bare(&["delete", "-f", "c"]);
    held_by(&["Groups"], || {
        small
            .lodger(&[], &["restore", "-d", "--image-path", &images, "c"])
            .ok();
        let groups = small.lab.look("c").get("status.Groups").to_owned();
        small.lab.fixture.bare(&["delete", "-f", "c"]).ok();
        match groups.is_empty() {
            true => Outcome::Held("it has no groups".to_owned()),
            false => Outcome::Succeeded(format!("it is in the groups {groups}")),
        }
    });
}

/// From nothing at all to all that is needed.
#[test]
fn a_full_disk_at_any_moment() {
    let small = small_or_skip!("size=16m");
    let first = small.lab.look("c");
    let empty = small.left().0;
    small.checkpoint_to("disk/ck").ok();
    let needed = empty - small.left().0;
    let kept = small.kept();
    let coarse = (0..12).map(|n| needed * n / 12 / 4096 * 4096);
    // lodger's own files come last: lodger.json and what is kept of how it was made.
    let last = needed.saturating_sub(64 << 10) / 4096 * 4096;
    let fine = (0..24).map(|n| last + n * 4096);
    let mut failures = 0;
    for bytes in coarse.chain(fine) {
        small.leave_bytes(bytes);
        let ran = small.checkpoint_to("disk/ck");
        if ran.code == 0 {
            break;
        }
        failures += 1;
        let ran = ran.fails(1, "LDG-HOME-BYTES");
        for word in [
            "no free space",
            "disk/ck",
            "--image-path",
            "is still running",
        ] {
            assert!(ran.err.contains(word), "{bytes}: no {word:?} in {ran:#?}");
        }
        assert!(small.kept() == kept, "{bytes}: {:?}", small.kept().keys());
    }
    assert!(failures >= 12, "{failures}");
    small.ends_well(&first);
}

#[test]
fn no_inodes_at_any_moment() {
    let small = small_or_skip!("size=16m,nr_inodes=120");
    let first = small.lab.look("c");
    small.checkpoint_to("disk/ck").ok();
    let kept = small.kept();
    let fill = small.disk("many");
    fs::create_dir(&fill).unwrap();
    let mut count = 0;
    while fs::write(fill.join(count.to_string()), "").is_ok() {
        count += 1;
    }
    small
        .checkpoint_to("disk/other")
        .fails(1, "LDG-HOME-INODES");
    assert!(!small.disk("other").exists());
    for left in 0.. {
        let ran = small.checkpoint_to("disk/ck");
        if ran.code == 0 {
            assert!(left > 10, "{left}");
            break;
        }
        let ran = ran.fails(1, "LDG-HOME-INODES");
        for word in ["no free inodes", "disk/ck", "--image-path"] {
            assert!(ran.err.contains(word), "{left}: no {word:?} in {ran:#?}");
        }
        assert!(small.kept() == kept, "{left}: {:?}", small.kept().keys());
        // The log of the first failure takes one that stays.
        count -= 1;
        fs::remove_file(fill.join(count.to_string())).unwrap();
    }
    small.ends_well(&first);
}

#[test]
fn a_read_only_filesystem() {
    let small = small_or_skip!("size=16m");
    let first = small.lab.look("c");
    small.checkpoint_to("disk/ck").ok();
    let disk = small.lab.word("disk");
    small.mount(&["-o", "remount,ro", &disk]);
    for name in ["disk/ck", "disk/other"] {
        let ran = small.checkpoint_to(name).fails(1, "LDG-HOME-READONLY");
        assert!(ran.err.contains("--image-path"), "{ran:#?}");
        assert!(!ran.err.contains("--store"), "{ran:#?}");
    }
    small.mount(&["-o", "remount,rw", &disk]);
    small.ends_well(&first);
}

#[test]
fn the_state_has_no_room_for_a_restore() {
    let small = small_or_skip!("size=16m");
    small.checkpoint_to("disk/ck").ok();
    small.lab.fixture.bare(&["delete", "-f", "c"]).ok();
    let state = small.lab.word("state");
    let images = small.lab.word("disk/ck");
    let restore = ["restore", "-d", "--image-path", &images, "c"];
    small.mount(&["-t", "tmpfs", "-o", "size=4k,mode=700", "none", &state]);
    let ran = small.lodger(&[], &restore).fails(1, "LDG-HOME-BYTES");
    assert!(ran.err.contains("--root DIR"), "{ran:#?}");
    assert_eq!(small.lodger(&[], &["list", "-q"]).ok(), "");
    small.mount(&["-o", "remount,size=1m", &state]);
    small.lodger(&[], &restore).ok();
    // The state is seen in there alone.
    fs::remove_file(small.lab.fixture.rootfs().join("answer")).unwrap();
    small.lodger(&[], &["kill", "c", "USR1"]).ok();
    small.lab.first_answer();
    small.lodger(&[], &["delete", "-f", "c"]).ok();
}

/// A file that has no name any more is made again where it was.
#[test]
fn the_root_has_no_room_for_a_restore() {
    checkpoints_or_skip!();
    if !maps_all() {
        skip!("unshare(1) has no --map-auto, or there are no subordinate ids");
    }
    let small = Small::of(&["unlinked"], "size=64m");
    let images = small.lab.word("disk/ck");
    small
        .lodger(&[], &["checkpoint", "--image-path", &images, "c"])
        .ok();
    let [root, copy] = ["bundle/rootfs", "disk/root"].map(|name| small.lab.word(name));
    let mut copying = Command::new("cp");
    copying.args(["-a", &root, &copy]);
    spawn(&mut small.inside(&[], &copying), b"").wait().ok();
    small.mount(&["--bind", &copy, &root]);
    let work = small.lab.word("work");
    fs::create_dir(&work).unwrap();
    small.leave_bytes(0);
    for (more, place) in [(&["--work-path", &work][..], &root), (&[], &images)] {
        let args = [
            &["restore", "-d", "--image-path", &images][..],
            more,
            &["c"],
        ]
        .concat();
        let ran = small.lodger(&[], &args).fails(1, "LDG-HOME-BYTES");
        for word in [&format!("{place:?} has no free space"), "make room there"] {
            assert!(ran.err.contains(word), "no {word:?} in {ran:#?}");
        }
        assert_eq!(small.lodger(&[], &["list", "-q"]).ok(), "");
    }
    // The root that there was.
    let mut unmount = Command::new("umount");
    spawn(&mut small.inside(&[], unmount.arg(&root)), b"")
        .wait()
        .ok();
    small
        .lodger(&[], &["restore", "-d", "--image-path", &images, "c"])
        .ok();
    small.lodger(&[], &["delete", "-f", "c"]).ok();
}

/// lodger's own limits, which CRIU has as well.
fn limited(lab: &Lab, limit: &str) -> Ran {
    let inner = lab.command(&[
        "checkpoint",
        "--leave-running",
        "--image-path",
        &lab.word("ck"),
        "c",
    ]);
    let mut command = Command::new("prlimit");
    command.arg(limit).arg(inner.get_program());
    command.args(inner.get_args());
    command.current_dir(lab.fixture.bundle());
    for (name, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    spawn(&mut command, b"").wait()
}

#[test]
fn few_files_and_small_ones() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["shared", "memfd", "unix"]);
    lab.start();
    let first = lab.look("c");
    lab.checkpoint(&["--leave-running"]).ok();
    let kept = contents(&lab.fixture.path("ck"));
    let mut lacked = 0;
    // With fewer the tests' own wrapper around CRIU fails.
    for files in 12..64 {
        let ran = limited(&lab, &format!("--nofile={files}"));
        if ran.code == 0 {
            break;
        }
        let ran = ran.fails(1, "LDG-NOFILE");
        assert!(ran.err.contains("RLIMIT_NOFILE"), "{files}: {ran:#?}");
        assert!(contents(&lab.fixture.path("ck")) == kept, "{files}");
        lacked += 1;
    }
    assert!(lacked > 4, "{lacked}");
    for size in ["4096", "32768"] {
        let ran = limited(&lab, &format!("--fsize={size}"));
        let ran = ran.fails(1, &format!("{size} bytes (RLIMIT_FSIZE)"));
        assert!(ran.err.contains("is still running"), "{ran:#?}");
        lab.look("c").goes_on_from(&first);
    }
    lab.survives(&[]);
}

/// A CRIU that does not begin before there is the file `go`.
pub(crate) fn patient_criu(lab: &Lab) -> String {
    let go = lab.word("go");
    let criu = criu().unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] || until [ -e '{go}' ]; do sleep 0.01; done\nexec '{}' \"$@\"\n",
        criu.display()
    );
    let path = lab.fixture.path("patient-criu");
    write_program(&path, script.as_bytes());
    path.to_str().unwrap().to_owned()
}

/// Waits until that CRIU is there to dump: all that lodger does before is done.
#[track_caller]
pub(crate) fn wait_for_criu(criu: &str) {
    // Not the one who is asked for its version, nor lodger, who has the path among its words.
    let words = format!("{criu}\0swrk\0");
    wait_for("the dump to begin", || processes_with(&words).pop());
}

#[test]
fn a_directory_that_is_removed_meanwhile() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["shared"]);
    lab.start();
    let first = lab.look("c");
    let (images, criu) = (lab.word("ck"), patient_criu(&lab));
    let args = ["checkpoint", "--criu", &criu, "--image-path", &images, "c"];
    let checkpoint = spawn(&mut lab.command(&args), b"");
    wait_for_criu(&criu);
    fs::remove_dir_all(lab.fixture.path("ck")).unwrap();
    fs::write(lab.fixture.path("go"), "").unwrap();
    checkpoint.wait().fails(1, "is still running");
    assert!(!lab.fixture.path("ck").exists());
    lab.look("c").goes_on_from(&first);
    lab.survives(&[]);
}
