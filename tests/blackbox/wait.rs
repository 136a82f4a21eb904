//! `wait`: the exit status of a container for whoever did not start it.

use std::fs;
use std::time::Duration;

use crate::harness::{Fixture, Running, lodger_only, read_lossy, skip, spawn, wait_for};

/// `wait` in the background, as `start` starts it, which has begun to wait: it holds the process, knows it for the
/// container's, and says so.
pub(crate) fn waiting(
    fixture: &Fixture,
    id: &str,
    start: impl FnOnce(&[&str]) -> Running,
) -> Running {
    let log = tempfile::NamedTempFile::new_in(fixture.bundle()).unwrap();
    let path = log.path().to_str().unwrap();
    let mut waiting = start(&["--debug", "--log", path, "wait", id]);
    wait_for("`wait` to have begun", || {
        let early = waiting.wait_at_most(Duration::ZERO);
        assert!(early.is_none(), "{early:#?}");
        let told = read_lossy(log.path());
        told.contains("waiting for the process to end")
            .then_some(())
    });
    waiting
}

/// [`waiting`], started as any other command.
fn plainly_waiting(fixture: &Fixture, id: &str) -> Running {
    let start = |args: &[&str]| spawn(&mut fixture.command(args), b"");
    waiting(fixture, id, start)
}

/// Whether the kernel tells an exit status to others than the parent, and lets them ask. A filter around the tests that does not
/// is one of which whoever has put it there tells (LODGER_TEST_LOCKED).
pub(crate) fn keeps_exit() -> bool {
    if refuses_pidfds() {
        return false;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    version >= (6, 15)
}

/// Whether pidfd_open(2) is refused around the tests.
fn refuses_pidfds() -> bool {
    std::env::var("LODGER_TEST_LOCKED").is_ok_and(|locked| locked.starts_with("nosys"))
}

#[test]
fn wait_says_what_it_needs_where_pidfds_are_refused() {
    lodger_only!("wait");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    if !refuses_pidfds() {
        // And nothing of it where they are not.
        let waiting = spawn(&mut fixture.command(&["wait", "c"]), b"");
        fixture.bare(&["delete", "-f", "c"]).ok();
        let told = waiting.wait();
        assert!(!told.err.contains("pidfd_open(2)"), "{told:#?}");
        return;
    }
    let told = fixture.bare(&["wait", "c"]).fails(1, "pidfd_open(2)");
    assert!(told.err.contains("lodger run"), "{}", told.err);
    assert_eq!(fixture.status("c"), "running");
}

#[test]
fn wait_exits_as_the_container_did() {
    lodger_only!("wait");
    if !keeps_exit() {
        skip!("before Linux 6.15 an exit status is the parent's alone");
    }
    let mut fixture = Fixture::with_own_root();
    fixture.sh("while ! [ -e /tmp/go ]; do sleep 0.02; done; exit 7");
    fixture.runtime(&["run", "-d", "c"]).ok();
    let both = [
        plainly_waiting(&fixture, "c"),
        plainly_waiting(&fixture, "c"),
    ];
    fs::write(fixture.rootfs().join("tmp/go"), "").unwrap();
    for one in both {
        let ran = one.wait().exits(7);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
    }
    assert_eq!(fixture.status("c"), "stopped");
}

#[test]
fn wait_tells_a_signal_and_begins_before_start() {
    lodger_only!("wait");
    if !keeps_exit() {
        skip!("before Linux 6.15 an exit status is the parent's alone");
    }
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["create", "c"]).ok();
    let waiting = plainly_waiting(&fixture, "c");
    fixture.bare(&["start", "c"]).ok();
    fixture.bare(&["kill", "c", "KILL"]).ok();
    let ran = waiting.wait().exits(128 + 9);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
}

/// The parent of a foreground container is stopped, so that nobody reaps it.
#[test]
fn wait_needs_nobody_to_reap() {
    lodger_only!("wait");
    if !keeps_exit() {
        skip!("before Linux 6.15 an exit status is the parent's alone");
    }
    let mut fixture = Fixture::new();
    // It is said to run before its program does, and before that the kernel does not tell how it ended.
    fixture.sh("echo begun; exec sleep 600");
    let parent = fixture.background(&["run", "c"], b"");
    wait_for("the program to run", || {
        (parent.out() == "begun\n").then_some(())
    });
    let waiting = plainly_waiting(&fixture, "c");
    parent.signal("STOP");
    fixture.bare(&["kill", "c", "KILL"]).ok();
    waiting.wait().exits(128 + 9);
    parent.signal("CONT");
    parent.wait().exits(128 + 9);
}

#[test]
fn wait_after_the_end_is_one_clear_error() {
    lodger_only!("wait");
    let fixture = Fixture::new();
    fixture.runtime(&["run", "-d", "c"]).ok();
    fixture.wait_status("c", "stopped");
    let ran = fixture.bare(&["wait", "c"]);
    assert!(
        ran.err
            .contains("hint: call `lodger wait` while the container runs"),
        "{ran:#?}"
    );
    ran.fails(1, "it has stopped already");
    fixture
        .bare(&["wait", "nobody"])
        .fails(1, "container does not exist");
}
