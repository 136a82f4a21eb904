//! What cannot be checkpointed or restored is refused, before anything is touched, and the container goes on as if nobody had asked.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint_lab::{Lab, checkpoints_or_skip, criu};
use crate::debian_basics::is_written;
use crate::harness::{Ran, read_lossy, skip, spawn, write_program};

/// Asserts that `ran` was refused with these words, and that the container goes on.
#[track_caller]
pub(crate) fn refused(lab: &Lab, ran: Ran, words: &[&str]) {
    for word in words {
        assert!(ran.err.contains(word), "no {word:?} in {ran:#?}");
    }
    ran.fails(1, "");
    goes_on(lab);
    assert!(!lab.fixture.path("ck/lodger.json").exists());
    assert!(!lab.fixture.path("ck/.new").exists());
}

#[track_caller]
fn goes_on(lab: &Lab) {
    assert_eq!(lab.fixture.status("c"), "running");
    let first = lab.look("c");
    lab.look("c").goes_on_from(&first);
    let status = read_lossy(Path::new(&format!("/proc/{}/status", lab.pid("c"))));
    assert!(status.contains("TracerPid:\t0"), "{status}");
}

/// `checkpoint` with the CRIU that is found in this PATH.
fn with_path(lab: &Lab, path: &str, options: &[&str]) -> Ran {
    let images = lab.word("ck");
    let args = [&["checkpoint", "--image-path", &images], options, &["c"]].concat();
    let mut command = lab.command(&args);
    command.env("PATH", path);
    spawn(&mut command, b"").wait()
}

#[test]
fn without_criu() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    let empty = lab.fixture.path("empty");
    fs::create_dir(&empty).unwrap();
    let ran = with_path(&lab, empty.to_str().unwrap(), &[]);
    refused(&lab, ran, &["criu", "LDG-CRIU-MISSING", "4.0"]);
    let ran = lab.checkpoint(&["--criu", "/no/such/criu"]);
    refused(&lab, ran, &["/no/such/criu"]);
    // What is named is taken, wherever PATH leads.
    let criu = criu().unwrap();
    let ran = with_path(&lab, "/bin", &["--criu", criu.to_str().unwrap()]);
    ran.ok();
}

#[test]
fn with_a_criu_that_is_too_old() {
    checkpoints_or_skip!();
    let Some(old) = std::env::var_os("LODGER_TEST_OLD_CRIU").map(PathBuf::from) else {
        skip!("no old CRIU is to be had here");
    };
    let lab = Lab::with(&[]);
    lab.start();
    let ran = lab.checkpoint(&["--criu", old.to_str().unwrap()]);
    refused(&lab, ran, &["3.17", "4.0", "LDG-CRIU-OLD"]);
    lab.checkpoint(&[]).ok();
    let ran = lab.restore(&["-d", "--criu", old.to_str().unwrap()], "c");
    ran.fails(1, "LDG-CRIU-OLD");
    assert_eq!(lab.ids(), [""; 0]);
}

/// A program that is no CRIU, that says nothing, or that does not end.
#[test]
fn with_a_criu_that_is_none() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    for script in [
        "exit 0",
        "exit 1",
        "echo Version: 4.2; [ \"$1\" = --version ]",
        "kill -9 $$",
    ] {
        let path = lab.fixture.path("criu");
        write_program(&path, format!("#!/bin/sh\n{script}\n").as_bytes());
        let options = ["--criu", path.to_str().unwrap(), "--timeout", "5s"];
        let ran = lab.checkpoint(&options);
        refused(&lab, ran, &["criu"]);
    }
}

/// Each is named with what it is about.
#[test]
fn programs_that_cannot_be_read_without_privilege() {
    checkpoints_or_skip!();
    for (word, said) in [
        ("filter", &["filter"][..]),
        ("deleted", &["/deleted"]),
        ("tcp", &["--tcp-established"]),
        ("lock", &["--file-locks"]),
    ] {
        let lab = Lab::with(&[word]);
        lab.start();
        refused(&lab, lab.checkpoint(&[]), said);
    }
}

#[test]
fn a_container_that_does_not_run() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.fixture.write_config();
    lab.checkpoint(&[]).fails(1, "does not exist");
    lab.lodger(&["create", "c"]).ok();
    lab.checkpoint(&[]).fails(1, "has not been started");
    lab.fixture.bare(&["kill", "c", "KILL"]).ok();
    lab.fixture.wait_status("c", "stopped");
    lab.checkpoint(&[]).fails(1, "container not running");
    assert!(!lab.fixture.path("ck").exists());
}

#[test]
fn an_id_that_is_taken_and_a_directory_without_a_checkpoint() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    lab.checkpoint(&["--leave-running"]).ok();
    let before = lab.look("c");
    lab.restore(&["-d"], "c").fails(1, "already exists");
    lab.look("c").goes_on_from(&before);
    let empty = lab.word("empty");
    let private = fs::Permissions::from_mode(0o700);
    fs::create_dir(lab.fixture.path("empty")).unwrap();
    fs::set_permissions(lab.fixture.path("empty"), private).unwrap();
    for (directory, said) in [(empty, "lodger.json"), (lab.word("none"), "ENOENT")] {
        let ran = lab.lodger(&["restore", "--image-path", &directory, "-d", "d"]);
        ran.fails(1, said);
    }
    assert_eq!(lab.ids(), ["c"]);
}

/// A checkpoint, of which a copy can be changed.
struct Images {
    lab: Lab,
}

impl Images {
    fn new() -> Images {
        let lab = Lab::with(&["memfd", "unlinked"]);
        lab.start();
        lab.checkpoint(&[]).ok();
        Images { lab }
    }

    /// What `restore` says of a copy that was changed; nothing must be left of it.
    #[track_caller]
    fn changed(&self, change: impl FnOnce(&Path)) -> Ran {
        let copy = self.lab.fixture.path("copy");
        let _ = fs::remove_dir_all(&copy);
        let mut command = std::process::Command::new("cp");
        command
            .arg("-a")
            .arg(self.lab.fixture.path("ck"))
            .arg(&copy);
        spawn(&mut command, b"").wait().ok();
        change(&copy);
        let path = copy.to_str().unwrap();
        let ran = self
            .lab
            .lodger(&["restore", "--image-path", path, "-d", "c"]);
        assert_ne!(ran.code, 0, "{ran:#?}");
        assert_eq!(self.lab.ids(), [""; 0]);
        ran
    }
}

/// Changes lodger.json.
fn edit(directory: &Path, change: impl FnOnce(&mut Value)) {
    let path = directory.join("lodger.json");
    let mut manifest: Value = serde_json::from_str(&read_lossy(&path)).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

/// The image of the process's memory: the largest file.
fn largest(directory: &Path) -> PathBuf {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let images = files.filter(|entry| entry.path().extension().is_some_and(|e| e == "img"));
    images
        .max_by_key(|entry| entry.metadata().unwrap().len())
        .unwrap()
        .path()
}

#[test]
fn images_that_are_not_as_they_were() {
    checkpoints_or_skip!();
    let images = Images::new();
    // One byte of memory.
    let ran = images.changed(|directory| {
        let path = largest(directory);
        let mut content = fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(path, content).unwrap();
    });
    ran.fails(1, ".img");
    let ran = images.changed(|directory| {
        let path = largest(directory);
        let length = fs::metadata(&path).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(length - 1).unwrap();
    });
    ran.fails(1, ".img");
    let ran = images.changed(|directory| fs::remove_file(largest(directory)).unwrap());
    ran.fails(1, ".img");
    let ran = images.changed(|directory| fs::write(directory.join("more.img"), "x").unwrap());
    ran.fails(1, "more.img");
    let ran = images.changed(|directory| {
        let path = directory.join("inventory.img");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
    });
    ran.fails(1, "inventory.img");
    let ran = images.changed(|directory| fs::remove_file(directory.join("lodger.json")).unwrap());
    ran.fails(1, "lodger.json");
    // It is as good as it was.
    images.lab.restore(&["-d"], "c").ok();
    images.lab.look("c");
}

#[test]
fn manifests_of_another_format_machine_or_user() {
    checkpoints_or_skip!();
    let images = Images::new();
    for version in [0, 2, 1000] {
        let ran = images.changed(|d| edit(d, |m| m["version"] = version.into()));
        ran.fails(1, "format");
    }
    let ran = images.changed(|d| edit(d, |m| m["machine"] = "alpha".into()));
    ran.fails(1, "alpha");
    let ran = images.changed(|d| fs::write(d.join("lodger.json"), "{").unwrap());
    ran.fails(1, "lodger.json");
    let ran = images.changed(|d| {
        edit(d, |m| {
            m["files"]["../../etc/passwd"] = m["files"]["inventory.img"].clone()
        })
    });
    ran.fails(1, "../../etc/passwd");
    images.changed(|d| edit(d, |m| m["uid_map"][1]["size"] = 90_000_000.into()));
    // Of a directory that others can write to, it could be anybody's.
    let ran = images.changed(|d| {
        fs::set_permissions(d, fs::Permissions::from_mode(0o777)).unwrap();
    });
    ran.fails(1, "copy");
}

/// Whether this kernel keeps track of the memory that is written: there is the bit of each page, or none ever.
fn keeps_track() -> bool {
    let written = Box::new(7_u8);
    is_written(&written)
}

/// Those that cannot work without privilege, and those that there are not.
#[test]
fn options_that_cannot_be_had() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    for option in [
        &["--lazy-pages"][..],
        &["--page-server", "127.0.0.1:1"],
        &["--auto-dedup"],
        &["--network-lock", "iptables"],
        &["--manage-cgroups-mode", "full"],
        &["--no-such-option"],
    ] {
        let ran = lab.checkpoint(option);
        assert!(ran.err.contains(option[0]), "{ran:#?}");
        assert_ne!(ran.code, 0, "{ran:#?}");
        goes_on(&lab);
    }
    if !keeps_track() {
        for option in [&["--pre-dump"][..], &["--parent-path", "x"]] {
            let ran = lab
                .checkpoint(option)
                .fails(1, "does not keep track of the memory");
            assert!(ran.err.contains("CONFIG_MEM_SOFT_DIRTY"), "{ran:#?}");
            assert!(!lab.fixture.path("ck").exists());
            goes_on(&lab);
        }
    }
    let missing = ["--criu", "/nonexistent/criu", "checkpoint", "c"];
    lab.lodger(&missing).fails(1, "/nonexistent/criu");
}

/// As runc's callers write them: the last of several is meant, and go-runc writes one dash.
#[test]
fn words_of_runcs_callers() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    let mode = "--manage-cgroups-mode";
    let ran = lab.checkpoint(&[mode, "ignore", mode, "soft", "--file-locks", "--file-locks"]);
    assert!(
        ran.err.contains("note: --manage-cgroups-mode: "),
        "{ran:#?}"
    );
    ran.ok();
    lab.restore(
        &[
            "--detach",
            "-d",
            "-no-subreaper",
            "--no-pivot",
            mode,
            "soft",
        ],
        "c",
    )
    .ok();
    lab.look("c");
    let ran = lab.checkpoint(&[mode, "soft", mode, "ignore"]);
    assert!(
        !ran.err.contains("note: --manage-cgroups-mode: "),
        "{ran:#?}"
    );
    ran.ok();
}

/// What CRIU finds out only while it dumps.
#[test]
fn a_dump_that_fails_leaves_the_container_as_it_was_and_says_why() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["threads", "shared"]);
    lab.start();
    // A place for the images that is full at once.
    let ran = lab.lodger(&["checkpoint", "--image-path", "/dev/full/ck", "c"]);
    refused(&lab, ran, &["/dev/full"]);
    let command = lab.command(&["checkpoint", "--image-path", &lab.word("ck"), "c"]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut limited = std::process::Command::new("/bin/sh");
    limited
        .args(["-c", "ulimit -f 64; exec \"$@\"", "sh"])
        .args(words);
    limited.current_dir(lab.fixture.bundle());
    limited.env("PATH", crate::checkpoint_lab::path_with(&criu().unwrap()));
    let ran = spawn(&mut limited, b"").wait();
    assert_ne!(ran.code, 0, "{ran:#?}");
    goes_on(&lab);
    lab.checkpoint(&[]).ok();
    lab.restore(&["-d"], "c").ok();
    lab.look("c");
}
