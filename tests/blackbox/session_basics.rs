//! What a systemd user session has, which the other tests `session_…` rely on: `tests/guest/session`.

use std::fs;
use std::process::Command;

use crate::harness::{Fixture, spawn, wait_for};

/// What a command says, without the end of the line.
fn says(program: &str, arguments: &[&str]) -> String {
    let ran = spawn(Command::new(program).args(arguments), b"").wait();
    ran.ok().trim_end().to_string()
}

/// Her own manager is there, all its units have started, and its cgroup is the one that is delegated to her.
#[test]
fn her_manager_answers() {
    // While another test has a unit of its own fail, it says so.
    wait_for("all to run", || {
        let mut asks = Command::new("systemctl");
        asks.args(["--user", "is-system-running"]);
        (spawn(&mut asks, b"").wait().out == "running\n").then_some(())
    });
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(
        says(
            "systemctl",
            &["--user", "show", "--property=ControlGroup", "--value"]
        ),
        format!("/user.slice/user-{uid}.slice/user@{uid}.service")
    );
}

/// The tests run in a session of logind: in a scope that is not hers, beside her manager.
#[test]
fn the_caller_is_in_a_session() {
    let session = std::env::var("XDG_SESSION_ID").unwrap();
    let uid = rustix::process::getuid().as_raw();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let scope = format!("0::/user.slice/user-{uid}.slice/session-{session}.scope");
    assert!(own.lines().any(|line| line == scope), "{own}");
    let shown = says(
        "loginctl",
        &[
            "show-session",
            &session,
            "--property=Class",
            "--property=Name",
        ],
    );
    assert_eq!(shown, "Name=lodger\nClass=user");
}

/// Only version 2 is mounted, and its root is the root of what is seen.
#[test]
fn cgroups_are_of_version_2() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroups: Vec<_> = mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .collect();
    assert_eq!(cgroups.len(), 1, "{cgroups:?}");
    assert!(cgroups[0].contains(" / /sys/fs/cgroup "), "{cgroups:?}");
    assert!(cgroups[0].contains(" - cgroup2 "), "{cgroups:?}");
}

/// The output of her own units is in a journal that she can read.
#[test]
fn her_journal_is_kept() {
    // It is there when the journal asks for its unit.
    let script = "echo for the journal; exec sleep 600";
    let unit = "--unit=journal-of-hers";
    says(
        "systemd-run",
        &["--user", "--quiet", unit, "/bin/sh", "-c", script],
    );
    let user_unit = "--user-unit=journal-of-hers";
    wait_for("the journal to have it", || {
        let read = spawn(
            Command::new("journalctl").args(["--user", user_unit, "--output=cat"]),
            b"",
        );
        read.wait().out.contains("for the journal").then_some(())
    });
    says("systemctl", &["--user", "stop", "journal-of-hers.service"]);
}

#[test]
fn a_container_runs() {
    let mut fixture = Fixture::new();
    fixture.sh("echo from $(hostname)");
    assert_eq!(fixture.run().ok(), "from inside\n");
}

/// On a root filesystem of its own, which is written to.
#[test]
fn a_container_writes_to_its_root() {
    let mut fixture = Fixture::with_own_root();
    fixture.sh("echo written >/file && cat /file");
    assert_eq!(fixture.run().ok(), "written\n");
}
