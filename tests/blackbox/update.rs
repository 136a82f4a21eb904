//! update where a container has no cgroup: what is refused, and what asks for nothing.

use serde_json::{Value, json};

use crate::harness::{Fixture, Ran, lodger_only, spawn};

/// A container `c` that shares its caller's cgroup.
fn without_cgroup() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    fixture
}

/// `update` of `c` with these resources.
pub(crate) fn update(fixture: &Fixture, resources: &str) -> Ran {
    let mut command = fixture.command(&["update", "--resources", "-", "c"]);
    spawn(&mut command, resources.as_bytes()).wait()
}

#[test]
fn a_limit_needs_a_cgroup() {
    lodger_only!("a container without a cgroup");
    let fixture = without_cgroup();
    for args in [
        &["--memory", "64M"][..],
        &["--pids-limit", "20"],
        &["--cpu-quota", "50000"],
        &["--cpu-share", "512"],
        &["--cpuset-cpus", "0"],
        &["--blkio-weight", "100"],
    ] {
        let args = [&["update"], args, &["c"]].concat();
        let ran = fixture.bare(&args).fails(1, "the container has no cgroup");
        assert!(
            ran.err
                .contains("hint: limits that are given when it is created"),
            "{}",
            ran.err
        );
    }
    let ran = update(&fixture, r#"{"pids": {"limit": 5}}"#);
    ran.fails(1, "the container has no cgroup");
    assert_eq!(fixture.status("c"), "running");
}

#[test]
fn what_limits_nothing_is_no_failure() {
    lodger_only!("a container without a cgroup");
    let fixture = without_cgroup();
    for args in [
        &["update", "c"][..],
        &[
            "update",
            "--memory",
            "-1",
            "--memory-swap",
            "-1",
            "--pids-limit",
            "-1",
            "--cpu-quota",
            "-1",
            "c",
        ],
        &["update", "--cpu-share", "1024", "c"],
    ] {
        let ran = fixture.bare(args).exits(0);
        assert_eq!((&*ran.out, &*ran.err), ("", ""), "{args:?}");
    }
    let ran = fixture.bare(&["update", "--memory", "0", "c"]).exits(0);
    assert!(
        ran.err
            .contains("/linux/resources/memory/limit: 0 is taken for a limit that was not given"),
        "{}",
        ran.err
    );
    let ran = fixture
        .bare(&["update", "--kernel-memory", "5M", "c"])
        .exits(0);
    assert!(ran.err.contains("--kernel-memory: not used"), "{}", ran.err);
    for text in ["{}", r#"{"memory": null, "devices": []}"#] {
        update(&fixture, text).exits(0);
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    lodger_only!("lodger's own words");
    let fixture = without_cgroup();
    for (args, why) in [
        (&["--memory", "64X"][..], "\"64X\" is no size"),
        (&["--memory", "-2"], "\"-2\" is no size"),
        (&["--pids-limit", "many"], "invalid value 'many'"),
        (
            &["--cpu-idle", "2"],
            "/linux/resources/cpu/idle: is neither 0 nor 1",
        ),
        (
            &["--cpu-rt-runtime", "1000"],
            "/linux/resources/cpu/realtimeRuntime: version 2",
        ),
        (
            &["--memory-swap", "64M"],
            "/linux/resources/memory/swap: needs memory/limit",
        ),
        (
            &["--l3-cache-schema", "L3:0=f"],
            "resctrl, which only root of the host can write to",
        ),
        (
            &["--mem-bw-schema", "MB:0=50"],
            "resctrl, which only root of the host can write to",
        ),
        (&["-r", "-", "--memory", "5"], "cannot be used with"),
        (
            &["-r", "/nonexistent"],
            "cannot read the resources in \"/nonexistent\"",
        ),
    ] {
        let args = [&["update"], args, &["c"]].concat();
        fixture.bare(&args).fails(1, why);
    }
}

#[test]
fn resources_are_read_as_config_json_is() {
    lodger_only!("lodger's own words");
    let fixture = without_cgroup();
    for (text, why) in [
        ("", "the text is not JSON"),
        ("[]", "/linux/resources: is not an object"),
        (
            r#"{"pids": {}}"#,
            "/linux/resources/pids/limit: is required",
        ),
        (
            r#"{"pids": {"limit": 1}, "pids": {"limit": 2}}"#,
            "has the key \"pids\" twice",
        ),
        (
            r#"{"memory": {"limit": "64M"}}"#,
            "/linux/resources/memory/limit: invalid type",
        ),
        (
            r#"{"memory": {"swappiness": 5}}"#,
            "/linux/resources/memory/swappiness: version 2",
        ),
        (
            r#"{"unified": {"cgroup.procs": "1"}}"#,
            "/linux/resources/unified/cgroup.procs: is not for a config",
        ),
    ] {
        update(&fixture, text).fails(1, why);
    }
    let long = format!("{{\"x\": \"{}\"}}", "y".repeat(1 << 20));
    update(&fixture, &long).fails(1, "it has more than 1048576 bytes");
}

#[test]
fn a_container_that_has_stopped_is_not_updated() {
    let mut fixture = Fixture::new();
    fixture.args(&["true"]);
    fixture
        .bare(&["update", "--memory", "64M", "nobody"])
        .fails(1, "does not exist");
    lodger_only!("lodger's own words");
    fixture.runtime(&["run", "--keep", "c"]).exits(0);
    let ran = fixture.bare(&["update", "--memory", "64M", "c"]);
    ran.fails(1, "container not running: no such process");
    let state: Value = serde_json::from_str(&fixture.bare(&["state", "c"]).ok()).unwrap();
    assert_eq!(state["status"], json!("stopped"));
}
