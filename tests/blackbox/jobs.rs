//! A caller's terminal that is stopped, not the session's own, or takes nothing more.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::harness::{Fixture, Running, lodger_only, spawn, wait_for};
use crate::pty::Pty;

/// A bundle whose program is a shell script, on a terminal.
fn script(text: &str) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.config["process"]["terminal"] = true.into();
    fixture.sh(text).write_config();
    fixture
}

/// A shell with job control, and `run` of the fixture's container as one of its jobs.
fn job(fixture: &Fixture) -> Pty {
    Pty::of_shell(&fixture.command(&["run", "c"]), "")
}

/// The child of `parent` that leads a job.
fn child_of(parent: u32) -> u32 {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(path).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

/// SIGSTOP leaves no time to give the terminal back: the shell makes of it what it likes, and nothing may be taken for
/// raw afterwards that is not.
#[test]
fn a_job_that_was_stopped_without_a_word_becomes_raw_again() {
    lodger_only!("what is done after SIGSTOP");
    let fixture = script("echo begun; read a; echo got $a; exit 5");
    let mut pty = job(&fixture);
    pty.expect("begun");
    let run = child_of(pty.pid());
    crate::harness::send_signal(run, "STOP");
    pty.expect("topped");
    pty.expect("$ ");
    pty.type_keys("fg\r");
    pty.expect("run c");
    wait_for("raw mode", || (!pty.is_cooked()).then_some(()));
    pty.type_keys("typed\r");
    // Echoed by one terminal, not by both.
    let seen = pty.expect("got typed");
    assert_eq!(seen.matches("typed").count(), 2, "{seen:?}");
    pty.expect("$ ");
    pty.type_keys("echo status $?; stty -a | grep -ow '.\\?echo'\r");
    let seen = pty.expect("$ ");
    assert!(seen.contains("status 5"), "{seen:?}");
    assert!(
        seen.contains("\necho") || seen.contains("\n echo"),
        "{seen:?}"
    );
    pty.type_keys("exit\r");
    pty.wait();
}

/// `run` in a session that has no terminal, on a new one whose first end is returned.
fn without_control(fixture: &Fixture) -> (std::os::fd::OwnedFd, Running) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    unlockpt(&master).unwrap();
    let other = ioctl_tiocgptpeer(&master, flags).unwrap();
    rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let run = fixture.command(&["run", "c"]);
    let mut session = Command::new("/bin/sh");
    session
        .args(["-c", "exec setsid \"$@\" <>\"$PTY\" >&0", "sh"])
        .env("PTY", name.to_str().unwrap())
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(fixture.bundle());
    let running = spawn(&mut session, b"");
    wait_for("the terminal to be open", || {
        let link = fs::read_link(format!("/proc/{}/fd/1", running.pid())).ok()?;
        link.starts_with("/dev/pts").then_some(())
    });
    drop(other);
    (master, running)
}

/// What is on the screen, until `text` is.
fn read_until(master: &std::os::fd::OwnedFd, text: &str) -> String {
    let mut seen = Vec::new();
    wait_for(&format!("{text:?} on the screen"), || {
        let mut bytes = [0u8; 4096];
        if let Ok(count) = rustix::io::read(master, &mut bytes) {
            seen.extend_from_slice(&bytes[..count]);
        }
        let so_far = String::from_utf8_lossy(&seen).into_owned();
        so_far.contains(text).then_some(so_far)
    })
}

#[test]
fn a_terminal_that_is_not_the_sessions_own_is_used_as_any() {
    lodger_only!("a terminal without job control");
    let fixture = script("echo begun; read a; echo got $a; exit 5");
    let (master, running) = without_control(&fixture);
    read_until(&master, "begun");
    rustix::io::write(&master, b"typed\r").unwrap();
    let seen = read_until(&master, "got typed");
    assert_eq!(seen.matches("typed").count(), 2, "{seen:?}");
    running.wait().exits(5);
}

/// A terminal emulator that hangs, a connection that stalls: what is written stays where it is, and signals do not.
#[test]
fn a_terminal_that_takes_nothing_does_not_hold_up_signals() {
    lodger_only!("a terminal that nobody reads");
    let fixture = script("trap 'exit 9' TERM; (while :; do echo and so on and on; done) & wait");
    let (master, mut running) = without_control(&fixture);
    let written = || rustix::io::ioctl_fionread(&master).unwrap();
    // Full when it has not grown for a while.
    wait_for("the terminal to be full", || {
        let before = written();
        std::thread::sleep(Duration::from_millis(300));
        (before > 0 && written() == before).then_some(())
    });
    let run = running.pid();
    crate::harness::send_signal(run, "TERM");
    wait_for("the program to have ended", || {
        // What it has left to say is waited for; the second signal ends that.
        let ended = running.wait_at_most(Duration::from_millis(300));
        if ended.is_none() {
            crate::harness::send_signal(run, "TERM");
        }
        ended
    })
    .exits(9);
}

/// A process that outlives the program may write to its terminal for ever.
#[test]
fn what_others_write_after_the_end_is_not_waited_for() {
    lodger_only!("processes that outlive an exec on its terminal");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let endless =
        "trap '' HUP; (while :; do echo and so on and on and on; done) & sleep 0.1; exit 6";
    let mut piped = Command::new("/bin/bash");
    let exec = fixture.command(&["exec", "-t", "c", "/bin/sh", "-c", endless]);
    // A reader that is slower than the writer, and yet has soon read what two buffers of 64 KiB hold.
    let slow =
        "\"$@\" </dev/null | while read -r -N 8192 x; do sleep 0.05; done; echo ${PIPESTATUS[0]}";
    piped
        .args(["-c", slow, "bash"])
        .arg(exec.get_program())
        .args(exec.get_args())
        .current_dir(fixture.bundle());
    assert_eq!(spawn(&mut piped, b"").wait().ok(), "6\n");
}
