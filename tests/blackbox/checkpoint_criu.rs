//! Programs that say that they are CRIU, and are not: the container lives, and nothing is left of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::checkpoint_lab::{Lab, checkpoints_or_skip};
use crate::harness::{Ran, write_program};

/// Writes one that does this when it is to work: `$N` is the number of its socket.
fn fake(lab: &Lab, what: &str) -> String {
    let script = format!(
        "#!/bin/bash\n[ \"$1\" = --version ] && {{ echo 'Version: 4.2.1'; exit; }}\nN=$2\n{what}\n"
    );
    let path = lab.fixture.path("criu");
    write_program(&path, script.as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

const FAKES: [(&str, &str); 6] = [
    ("ends at once", "exit 3"),
    ("talks and ends", "echo it does not like it >&2; exit 1"),
    ("is killed", "kill -9 $$"),
    ("says nonsense", "printf 'nonsense' >&$N; exec sleep 600"),
    // criu_resp: of a dump, without success.
    ("refuses", "printf '\\x08\\x01\\x10\\x00' >&$N; exit 1"),
    // A dump that has succeeded without a single image.
    ("lies", "printf '\\x08\\x01\\x10\\x01' >&$N; exit 0"),
];

fn left(lab: &Lab) -> Vec<String> {
    let names = fs::read_dir(lab.fixture.path("ck"));
    let names = names.into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".log")).collect()
}

fn failed(lab: &Lab, how: &str, ran: Ran) {
    ran.fails(1, "cannot checkpoint container \"c\"");
    assert_eq!(left(lab), [""; 0], "{how}");
    assert_eq!(lab.fixture.status("c"), "running", "{how}");
    lab.look("c");
}

#[test]
fn a_checkpoint_by_what_is_not_criu_fails_and_leaves_nothing() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    for (how, what) in FAKES {
        let criu = fake(&lab, what);
        let ran = lab.checkpoint(&["--criu", &criu, "--timeout", "2s"]);
        failed(&lab, how, ran);
    }
}

/// Those that do nothing, however much they say.
const IDLE: [(&str, &str); 3] = [
    ("silent", "exec sleep 600"),
    ("deaf", "trap '' TERM INT HUP; while :; do sleep 600; done"),
    (
        "chatty",
        "while :; do printf '\\x08\\x06\\x10\\x01\\x2a\\x03\\x0a\\x01x' >&$N; done",
    ),
];

#[test]
fn a_criu_that_does_nothing_is_ended() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    for (how, what) in IDLE {
        let criu = fake(&lab, what);
        let ran = lab.checkpoint(&["--criu", &criu, "--timeout", "2s"]);
        failed(&lab, how, ran);
    }
}

#[test]
fn a_restore_by_what_is_not_criu_fails_and_leaves_nothing() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    lab.checkpoint(&[]).ok();
    for (how, what) in FAKES {
        let criu = fake(&lab, what);
        let ran = lab.restore(&["-d", "--criu", &criu], "c");
        ran.fails(1, "cannot restore container \"c\"");
        assert_eq!(lab.ids(), [""; 0], "{how}");
    }
    lab.restore(&["-d"], "c").ok();
    lab.look("c");
}

#[test]
fn a_restore_by_a_criu_that_does_nothing_is_given_up() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    lab.checkpoint(&[]).ok();
    for (how, what) in IDLE {
        let criu = fake(&lab, what);
        let ran = lab.restore(&["-d", "--criu", &criu, "--timeout", "2s"], "c");
        ran.fails(1, "cannot restore container \"c\"");
        assert_eq!(lab.ids(), [""; 0], "{how}");
    }
    lab.restore(&["-d"], "c").ok();
    lab.look("c");
}

/// It is read with the caller's rights, and she is told of it: it may have CRIU run programs.
#[test]
fn a_configuration_file_of_crius_is_read_and_told_of() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&[]);
    let directory = lab.fixture.path("private");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("criu.conf");
    fs::write(&file, "no-such-option-of-criu\n").unwrap();
    lab.fixture.config["annotations"] = json!({"org.criu.config": file.to_str().unwrap()});
    lab.start();
    lab.checkpoint(&[]).fails(1, "criu");
    assert_eq!(lab.fixture.status("c"), "running");
    fs::write(&file, "ghost-limit 4096\n").unwrap();
    let ran = lab.checkpoint(&[]);
    let told = "the programs in there are run outside of the container";
    assert!(ran.err.contains(told), "{ran:#?}");
    ran.ok();
    fs::write(&file, "no-such-option-of-criu\n").unwrap();
    lab.restore(&["-d"], "c").fails(1, "criu");
    fs::write(&file, "ghost-limit 4096\n").unwrap();
    let ran = lab.restore(&["-d"], "c");
    assert!(ran.err.contains(told), "{ran:#?}");
    ran.ok();
    lab.look("c");
}
