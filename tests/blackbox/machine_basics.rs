//! What the virtual machine has, which the other tests `machine_…` rely on: `tests/guest/machine`.

use std::fs;
use std::process::Command;

use crate::harness::{Fixture, spawn};

/// A limit is one when a process in a scope of hers meets it: the controllers are delegated, and they work.
#[test]
fn controllers_are_delegated() {
    let uid = rustix::process::getuid().as_raw();
    let manager = format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service");
    let controllers = fs::read_to_string(format!("{manager}/cgroup.controllers")).unwrap();
    for wanted in ["cpu", "io", "memory", "pids"] {
        assert!(
            controllers.split_whitespace().any(|there| there == wanted),
            "no {wanted} in {controllers}"
        );
    }

    let mut scope = Command::new("systemd-run");
    scope.args([
        "--user",
        "--scope",
        "--quiet",
        "--property=TasksMax=7",
        "--",
    ]);
    scope.args([
        "sh",
        "-c",
        "cat /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/pids.max",
    ]);
    assert_eq!(spawn(&mut scope, b"").wait().ok(), "7\n");

    let mut scope = Command::new("systemd-run");
    scope.args(["--user", "--scope", "--quiet", "--property=MemoryMax=16M"]);
    scope.args([
        "--property=MemorySwapMax=0",
        "--",
        "sh",
        "-c",
        "tail /dev/zero; echo $?",
    ]);
    let ran = spawn(&mut scope, b"").wait();
    assert!(
        ran.code == 143 || ran.out == "137\n",
        "no end for want of memory: {ran:#?}"
    );
}

#[test]
fn a_container_runs() {
    let mut fixture = Fixture::new();
    fixture.sh("echo from $(hostname)");
    assert_eq!(fixture.run().ok(), "from inside\n");

    let mut fixture = Fixture::with_own_root();
    fixture.sh("echo written >/file && cat /file");
    assert_eq!(fixture.run().ok(), "written\n");
}
