//! update of a container whose cgroup is beneath the caller's own.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::delegated_pause::unique;
use crate::harness::{Fixture, lodger_only, skip};
use crate::update::update;

/// A name that no other test's cgroup has.
pub(crate) fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    unique(&format!("update-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// A container whose cgroup no other test has.
fn placed() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.config["linux"]["cgroupsPath"] = json!(format!("/{}", name()));
    fixture
}

/// What lodger remembers of the cgroup of `c`.
pub(crate) fn remembered(fixture: &Fixture) -> Value {
    let text = fs::read_to_string(fixture.path("state/c/state.json")).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    record["cgroup"].take()
}

/// The cgroup of `c`: `path` is the container's own, `top` that above it which has the limits as well.
pub(crate) fn directory(fixture: &Fixture, which: &str) -> PathBuf {
    let path = remembered(fixture)[which].as_str().unwrap().to_owned();
    PathBuf::from(format!("/sys/fs/cgroup{path}"))
}

/// The text of a file of both.
pub(crate) fn both(fixture: &Fixture, file: &str) -> [String; 2] {
    ["top", "path"].map(|which| {
        let text = fs::read_to_string(directory(fixture, which).join(file)).unwrap();
        text.trim().to_owned()
    })
}

#[test]
fn limits_change_above_the_container_and_in_it() {
    lodger_only!("a rootless cgroup");
    let mut fixture = placed();
    fixture.sleeping("c");
    update(&fixture, r#"{"unified": {"cgroup.max.depth": "3"}}"#).ok();
    assert_eq!(both(&fixture, "cgroup.max.depth"), ["3", "3"]);
    update(
        &fixture,
        r#"{"unified": {"cgroup.max.depth": "4", "cgroup.max.descendants": "9"}}"#,
    )
    .ok();
    assert_eq!(both(&fixture, "cgroup.max.depth"), ["4", "4"]);
    let enforced = remembered(&fixture)["enforced"].take();
    let of = |file: &str, value: &str| json!({"property": format!("/linux/resources/unified/{file}"), "file": file, "value": value, "by": "cgroupfs"});
    assert_eq!(
        enforced,
        json!([
            of("cgroup.max.depth", "4"),
            of("cgroup.max.descendants", "9")
        ])
    );
}

#[test]
fn one_that_fails_changes_nothing() {
    lodger_only!("a rootless cgroup");
    let mut fixture = placed();
    fixture.sleeping("c");
    update(&fixture, r#"{"unified": {"cgroup.max.depth": "3"}}"#).ok();
    let before = remembered(&fixture);
    let wrong = r#"{"unified": {"cgroup.max.depth": "5", "cgroup.max.descendants": "-9"}}"#;
    let ran = update(&fixture, wrong).fails(
        1,
        "cannot set /linux/resources/unified/cgroup.max.descendants",
    );
    assert!(
        ran.err
            .contains("hint: nothing was changed: the limits are what they were"),
        "{}",
        ran.err
    );
    assert_eq!(both(&fixture, "cgroup.max.depth"), ["3", "3"]);
    assert_eq!(both(&fixture, "cgroup.max.descendants"), ["max", "max"]);
    assert_eq!(remembered(&fixture), before);
}

#[test]
fn a_controller_that_is_lacking_is_named() {
    lodger_only!("a rootless cgroup");
    let mut fixture = placed();
    fixture.sleeping("c");
    // No machine has it for ordinary users.
    let rdma = r#"{"rdma": {"mlx5_1": {"hcaHandles": 3}}}"#;
    update(&fixture, rdma).fails(1, "the cgroup controller \"rdma\" is not available");
    let had = fs::read_to_string(directory(&fixture, "top").join("../cgroup.controllers")).unwrap();
    if !had.contains("pids") {
        // It limits nothing: that is so already.
        fixture
            .bare(&["update", "--pids-limit", "-1", "c"])
            .exits(0);
    }
}

#[test]
fn huge_pages_are_limited_live() {
    lodger_only!("a rootless cgroup");
    let mut fixture = placed();
    fixture.sleeping("c");
    let own = fs::read_to_string(directory(&fixture, "top").join("../cgroup.controllers")).unwrap();
    if !own.contains("hugetlb") {
        skip!("this machine's cgroups have no controller for huge pages");
    }
    update(
        &fixture,
        r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#,
    )
    .ok();
    assert_eq!(
        both(&fixture, "hugetlb.2MB.rsvd.max"),
        ["4194304", "4194304"]
    );
}

#[test]
fn a_created_and_a_paused_container_are_updated() {
    lodger_only!("a rootless cgroup");
    let mut fixture = placed();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["create", "c"]).ok();
    update(&fixture, r#"{"unified": {"cgroup.max.depth": "3"}}"#).ok();
    fixture.bare(&["start", "c"]).ok();
    fixture.bare(&["pause", "c"]).ok();
    update(&fixture, r#"{"unified": {"cgroup.max.depth": "5"}}"#).ok();
    assert_eq!(fixture.status("c"), "paused");
    assert_eq!(both(&fixture, "cgroup.max.depth"), ["5", "5"]);
    fixture.bare(&["resume", "c"]).ok();
}
