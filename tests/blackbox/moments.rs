//! What a second command meets at an awkward moment of the first, which is stopped there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Fixture, lives, lodger_only, send_signal, skip, spawn, wait_for};
use crate::tracing::{self, Stopped, children, process_state, trace, works};

/// Long enough for a command that does not wait to be seen ending.
const MOMENT: Duration = Duration::from_millis(300);

/// Ends the test where strace cannot do its part.
macro_rules! needs_strace {
    () => {
        lodger_only!("commands that are stopped after a call of lodger's");
        if !works() {
            skip!("strace is not installed, or may not trace");
        }
    };
}

/// A fixture whose container sleeps.
fn sleeper() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]).write_config();
    fixture
}

/// [`tracing::number_of`] for a command that is run to its end first.
fn number_of(command: &Command, scratch: &Path, name: &str, text: &str) -> usize {
    let calls = trace(command, &scratch.join("trace"));
    let number = tracing::number_of(&calls, name, text);
    number.unwrap_or_else(|| panic!("no {text} of {command:?}"))
}

/// `run -d c`, stopped when its state is there and its program is not.
fn published(fixture: &Fixture, scratch: &Path) -> Stopped {
    let command = fixture.command(&["run", "-d", "c"]);
    let renames = number_of(&command, scratch, "renameat", "renameat(");
    fixture.bare(&["delete", "-f", "c"]).ok();
    let stopped = Stopped::after(&command, scratch, "renameat", renames);
    assert_eq!(fixture.status("c"), "running");
    stopped
}

/// Nobody may look into an init that has not become its program (CVE-2016-9962): whoever wants to waits for that.
#[test]
fn a_container_that_is_said_to_run_can_be_joined() {
    needs_strace!();
    for (args, namespace) in [
        (&["exec", "c", "echo", "in"][..], None),
        (&["ps", "--format", "json", "c"], None),
        (&["kill", "-a", "c", "URG"], None),
        (&["kill", "c", "KILL"], Some("pid")),
    ] {
        let mut fixture = sleeper();
        if let Some(kind) = namespace {
            fixture.without_namespace(kind).write_config();
        }
        let scratch = tempfile::tempdir().unwrap();
        let stopped = published(&fixture, scratch.path());
        let mut second = spawn(&mut fixture.command(args), b"");
        let early = second.wait_at_most(MOMENT);
        assert!(early.is_none(), "{args:?}: {early:#?}");
        stopped.go_on();
        stopped.wait().ok();
        let out = second.wait().ok();
        if args[0] == "exec" {
            assert_eq!(out, "in\n");
        }
    }
}

/// A process that joins cannot be looked into either, and is a process of the container all the same.
#[test]
fn a_process_on_its_way_into_the_container_is_ended_too() {
    needs_strace!();
    let mut fixture = Fixture::new();
    fixture.without_namespace("pid");
    fixture.args(&["/bin/sleep", "600"]);
    fixture.sleeping("c");
    let scratch = tempfile::tempdir().unwrap();
    let exec = fixture.command(&["exec", "c", "/bin/sleep", "601"]);
    // Ready has been heard, and the program was not ordered yet.
    let stopped = Stopped::after(&exec, scratch.path(), "recvmsg", 1);
    let joiner = children(stopped.runtime)[0];
    let mut killed = spawn(&mut fixture.command(&["kill", "-a", "c", "KILL"]), b"");
    let early = killed.wait_at_most(MOMENT);
    assert!(early.is_none(), "{early:#?}");
    stopped.go_on();
    killed.wait().ok();
    assert!(!lives(joiner), "it goes on");
    stopped.wait().exits(128 + 9);
}

/// What is left of a `create` of "c" that was killed, and a place for traces.
fn with_leftover() -> (Fixture, tempfile::TempDir) {
    let fixture = sleeper();
    leftover(&fixture, "c");
    (fixture, tempfile::tempdir().unwrap())
}

/// What is left of a `create` that was killed: a directory without a record.
fn leftover(fixture: &Fixture, id: &str) {
    let directory = fixture.path("state").join(id);
    fs::create_dir_all(&directory).unwrap();
    for path in [directory.parent().unwrap(), &directory] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

/// Whoever removes the rest of a container has it alone until it is gone.
#[test]
fn a_delete_keeps_others_out_to_its_end() {
    needs_strace!();
    let (fixture, scratch) = with_leftover();
    let delete = fixture.command(&["delete", "c"]);
    let unlinks = number_of(&delete, scratch.path(), "getdents64", "AT_REMOVEDIR");
    leftover(&fixture, "c");
    let stopped = Stopped::after(&delete, scratch.path(), "getdents64", unlinks);
    fixture
        .runtime(&["create", "c"])
        .fails(1, "container with given ID already exists");
    stopped.go_on();
    stopped.wait().ok();
    fixture.runtime(&["create", "c"]).ok();
    assert_eq!(fixture.status("c"), "created");
}

/// To ask for the status is not to be in the way of who takes a leftover over.
#[test]
fn a_question_is_no_container() {
    needs_strace!();
    let (fixture, scratch) = with_leftover();
    let state = fixture.command(&["state", "c"]);
    let stopped = Stopped::after(&state, scratch.path(), "flock", 1);
    let mut create = spawn(&mut fixture.command(&["create", "c"]), b"");
    let early = create.wait_at_most(MOMENT);
    assert!(early.is_none(), "{early:#?}");
    stopped.go_on();
    create.wait().ok();
    stopped.wait();
}

/// A container that is complete when the question after its lock has been answered is not one that stopped.
#[test]
fn a_create_that_ends_meanwhile_is_seen() {
    needs_strace!();
    let (fixture, scratch) = with_leftover();
    let state = fixture.command(&["state", "c"]);
    // It has looked for the record in vain, and looks next whether the directory is there.
    let looks = number_of(&state, scratch.path(), "openat", "\"state.json\"");
    let stopped = Stopped::after(&state, scratch.path(), "openat", looks);
    fixture.runtime(&["create", "c"]).ok();
    stopped.go_on();
    let told = stopped.wait().ok();
    assert!(told.contains("\"created\""), "{told}");
    // The same for one that is removed meanwhile.
    leftover(&fixture, "d");
    let stopped = Stopped::after(
        &fixture.command(&["state", "d"]),
        scratch.path(),
        "openat",
        looks,
    );
    fixture.bare(&["delete", "d"]).ok();
    stopped.go_on();
    stopped.wait().fails(1, "container does not exist");
}

/// Nothing of the program is run where its terminal has nobody to go to.
#[test]
fn an_exec_hands_its_terminal_over_before_its_program_begins() {
    needs_strace!();
    let mut fixture = sleeper();
    fixture.sleeping("c");
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let path = path.to_str().unwrap();
    let options = ["exec", "-d", "-t", "--console-socket", path, "c"];
    let exec = fixture.command(&[&options[..], &["touch", "/dev/shm/began"]].concat());
    let stopped = Stopped::after(&exec, scratch.path(), "recvmsg", 1);
    // Whoever listened goes away, and there is time for a program that was not told to wait.
    drop(listener);
    std::thread::sleep(MOMENT);
    stopped.go_on();
    stopped.wait().fails(255, "--console-socket");
    let began = ["exec", "c", "test", "-e", "/dev/shm/began"];
    fixture.runtime(&began).exits(1);
    fixture
        .runtime(&["exec", "c", "touch", "/dev/shm/began"])
        .ok();
    fixture.runtime(&began).ok();
}

/// A key that stops the job while the id map helpers work stops nothing: they would be waited for by who cannot be stopped.
#[test]
fn the_helpers_are_not_stopped_by_a_key() {
    needs_strace!();
    let fixture = sleeper();
    let scratch = tempfile::tempdir().unwrap();
    let command = fixture.command(&["create", "c"]);
    let calls = trace(&command, &scratch.path().join("trace"));
    fixture.bare(&["delete", "-f", "c"]).ok();
    let Some(user) = tracing::number_of(&calls, "unshare", "unshare(CLONE_NEWUSER)") else {
        skip!("no helper is called here");
    };
    let stopped = Stopped::after(&command, scratch.path(), "unshare", user);
    let helpers = children(stopped.runtime);
    assert_eq!(helpers.len(), 2);
    for helper in &helpers {
        // Past its last step before the pipe on which it waits.
        wait_for("a helper to wait", || {
            (process_state(*helper) == Some('S')).then_some(())
        });
        send_signal(*helper, "TSTP");
    }
    stopped.go_on();
    stopped.wait().ok();
}
