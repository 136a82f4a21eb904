//! Others who come while a container is checkpointed or restored: what they ask happens before, afterwards, or not at all.

use std::fs;

use crate::checkpoint_full::{patient_criu, wait_for_criu};
use crate::checkpoint_lab::{Lab, checkpoints_or_skip};
use crate::harness::{Running, lives, send_signal, spawn, wait_for};

fn begun(lab: &Lab, options: &[&str], id: &str) -> Running {
    let images = lab.word("ck");
    let args = [&["checkpoint", "--image-path", &images], options, &[id]].concat();
    spawn(&mut lab.command(&args), b"")
}

/// A checkpoint whose CRIU waits for the file `go`.
fn waiting(lab: &Lab, options: &[&str]) -> Running {
    fs::remove_file(lab.fixture.path("go")).unwrap_or_default();
    let criu = patient_criu(lab);
    let checkpoint = begun(lab, &[&["--criu", &criu], options].concat(), "c");
    wait_for_criu(&criu);
    checkpoint
}

fn go(lab: &Lab) {
    fs::write(lab.fixture.path("go"), "").unwrap();
}

#[test]
fn two_checkpoints_into_one_directory() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["shared"]);
    lab.start();
    lab.forget();
    lab.lodger(&["run", "-d", "d"]).ok();
    lab.first_answer();
    let before = lab.look("c");
    let first = waiting(&lab, &["--leave-running"]);
    begun(&lab, &["--leave-running"], "d")
        .wait()
        .fails(1, "another lodger is at work in the directory");
    go(&lab);
    first.wait().ok();
    for id in ["c", "d"] {
        assert_eq!(lab.fixture.status(id), "running");
    }
    lab.fixture.bare(&["delete", "-f", "c"]).ok();
    lab.restore(&["-d"], "c").ok();
    lab.look("c").goes_on_from(&before);
}

#[test]
fn two_restores_of_one_id() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["shared"]);
    lab.start();
    let before = lab.look("c");
    lab.checkpoint(&[]).ok();
    let images = lab.word("ck");
    let args = ["restore", "-d", "--image-path", &images, "c"];
    for _ in 0..5 {
        let both = [(); 2].map(|()| spawn(&mut lab.command(&args), b""));
        let both = both.map(Running::wait);
        let failed: Vec<_> = both.iter().filter(|ran| ran.code != 0).collect();
        assert_eq!(failed.len(), 1, "{both:#?}");
        assert!(
            failed[0].err.contains("cannot restore") || failed[0].err.contains("\"c\""),
            "{both:#?}"
        );
        lab.look("c").goes_on_from(&before);
        lab.fixture.bare(&["delete", "-f", "c"]).ok();
    }
}

/// Each is begun while CRIU waits, and so while the checkpoint has begun.
#[test]
fn commands_that_come_in_the_middle() {
    checkpoints_or_skip!();
    let commands: [&[&str]; 6] = [
        &["state", "c"],
        &["exec", "c", "/bin/true"],
        &["kill", "c", "USR1"],
        &["pause", "c"],
        &["delete", "c"],
        &["delete", "-f", "c"],
    ];
    for command in commands {
        let lab = Lab::with(&["shared"]);
        lab.start();
        let before = lab.look("c");
        let checkpoint = waiting(&lab, &[]);
        let other = spawn(&mut lab.command(command), b"");
        go(&lab);
        let (checkpoint, other) = (checkpoint.wait(), other.wait());
        let what = format!("{command:?}: {other:#?}, {checkpoint:#?}");
        let is_whole = lab.fixture.path("ck/lodger.json").exists();
        assert_eq!(checkpoint.code == 0, is_whole, "{what}");
        let ids = lab.ids();
        match (is_whole, ids.is_empty()) {
            (true, true) => {
                lab.restore(&["-d"], "c").ok();
            }
            // It was ended by force, before its images were whole.
            (false, true) => {
                assert_eq!((command[1], other.code), ("-f", 0), "{what}");
                continue;
            }
            (true, false) => panic!("both: {what}"),
            (false, false) => assert_eq!(lab.fixture.status("c"), "running", "{what}"),
        }
        lab.look("c").goes_on_from(&before);
    }
}

#[test]
fn a_container_that_ends_in_the_middle() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["shared"]);
    lab.start();
    let checkpoint = waiting(&lab, &[]);
    let pid = lab.pid("c");
    send_signal(pid, "KILL");
    wait_for("its end", || (!lives(pid)).then_some(()));
    go(&lab);
    let ran = checkpoint
        .wait()
        .fails(1, "cannot checkpoint container \"c\"");
    assert!(ran.err.contains("The container has ended."), "{ran:#?}");
    assert!(!lab.fixture.path("ck/lodger.json").exists());
    assert!(!lab.fixture.path("ck/.new").exists());
    lab.fixture.wait_status("c", "stopped");
    lab.fixture.bare(&["delete", "c"]).ok();
}
