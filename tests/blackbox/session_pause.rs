//! A container in a scope of the user's systemd: paused, joined, and gone without a trace.

use std::process::Command;

use serde_json::json;

use crate::delegated_pause::{cgroup, unique};
use crate::harness::{Fixture, lodger_only, spawn, wait_for};
use crate::scopes::with_own_cgroups;

/// What systemd has loaded of the container.
fn units(id: &str) -> String {
    let mut command = Command::new("systemctl");
    command.args([
        "--user",
        "list-units",
        "--all",
        "--plain",
        "--no-legend",
        &format!("*{id}*"),
    ]);
    spawn(&mut command, b"").wait().ok()
}

#[test]
fn a_paused_scope_is_killed_and_forgotten() {
    lodger_only!("a scope without being told to use systemd");
    let mut fixture = Fixture::new();
    for (name, last) in [("one", &["delete", "-f"][..]), ("two", &["kill", "-a"])] {
        let id = &unique(name);
        fixture.sleeping(id);
        let place = cgroup(&fixture, id);
        assert!(
            units(id).contains(".scope loaded active running"),
            "{}",
            units(id)
        );
        fixture.bare(&["pause", id]).ok();
        assert_eq!(fixture.status(id), "paused");
        fixture.bare(&["resume", id]).ok();
        assert_eq!(fixture.status(id), "running");
        fixture.bare(&["pause", id]).ok();
        if last[0] == "kill" {
            fixture.bare(&["kill", "-a", id, "KILL"]).ok();
            assert_eq!(fixture.status(id), "stopped");
            fixture.bare(&["delete", id]).ok();
        } else {
            fixture.bare(&["delete", "-f", id]).ok();
        }
        assert_eq!(units(id), "");
        assert!(!place.exists() && !place.parent().unwrap().exists());
    }
}

#[test]
fn a_scope_that_the_container_has_divided_is_joined_and_removed() {
    lodger_only!("giving the cgroup to the container");
    let id = &unique("divided");
    let mut fixture = Fixture::with_own_root();
    with_own_cgroups(&mut fixture);
    fixture.config["process"]["user"] = json!({"uid": 5, "gid": 5});
    fixture.sh("mkdir -p /sys/fs/cgroup/sub/sub && echo 0 >/sys/fs/cgroup/sub/sub/cgroup.procs && exec sleep 600");
    fixture.runtime(&["run", "-d", id]).ok();
    let place = wait_for("the division", || {
        Some(cgroup(&fixture, id)).filter(|place| place.ends_with("container/sub/sub"))
    });
    let told = fixture
        .bare(&["exec", id, "/bin/cat", "/proc/self/cgroup"])
        .ok();
    assert!(told.lines().any(|line| line == "0::/"), "{told}");
    let told = fixture
        .bare(&[
            "exec",
            "--cgroup",
            "/sub",
            id,
            "/bin/cat",
            "/proc/self/cgroup",
        ])
        .ok();
    assert!(told.lines().any(|line| line == "0::/sub"), "{told}");
    fixture.bare(&["kill", id, "KILL"]).ok();
    fixture.wait_status(id, "stopped");
    fixture.bare(&["delete", id]).ok();
    assert_eq!(units(id), "");
    assert!(
        !place
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .exists()
    );
}
