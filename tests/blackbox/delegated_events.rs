//! events of a container in a cgroup beneath the caller's own, which counts processor time and pressure whatever is enabled.

use std::fs;
use std::path::Path;

use crate::events::{lines, numbers, numbers_with_memory};
use crate::harness::{Fixture, lodger_only, skip, wait_for};

/// The controllers of the cgroup that the tests run in.
fn controllers() -> String {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    fs::read_to_string(format!("/sys/fs/cgroup{}/cgroup.controllers", own.unwrap())).unwrap()
}

#[test]
fn what_every_cgroup_counts_is_not_summed() {
    lodger_only!("what /proc adds to a cgroup");
    let mut fixture = Fixture::new();
    fixture.sleeping("counted");
    let (data, said) = numbers_with_memory(&fixture, "counted");
    assert!(!said.contains("processor time"), "{said}");
    if !controllers().contains("memory") {
        assert!(
            said.contains("no cgroup of its own counts memory"),
            "{said}"
        );
    }
    let pressure = Path::new("/proc/pressure/cpu").exists();
    for resource in ["cpu", "memory", "blkio"] {
        let total = &data[resource]["psi"]["some"]["total"];
        assert_eq!(total.is_u64(), pressure, "{resource}: {data}");
    }
}

#[test]
fn pressure_is_told_of_at_once() {
    lodger_only!("pressure among the events");
    if !Path::new("/proc/pressure/cpu").exists() {
        skip!("this kernel counts no pressure");
    }
    let mut fixture = Fixture::new();
    // More of them than processors: each waits for one.
    let busy = "x ".repeat(4 * std::thread::available_parallelism().unwrap().get());
    fixture.sh(&format!("while [ ! -e /tmp/go ]; do sleep 0.1; done; for i in {busy}; do (while :; do :; done) & done; wait"));
    fixture.mount(serde_json::json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    fixture.runtime(&["run", "-d", "pressed"]).ok();
    let events = fixture.background(&["events", "--interval", "1h", "pressed"], b"");
    fixture
        .bare(&["exec", "pressed", "/bin/touch", "/tmp/go"])
        .ok();
    // On a machine without free memory, that may be waited for first.
    let event = wait_for("pressure", || {
        let mut told = lines(&events.out()).into_iter();
        told.find(|event| event["data"]["resource"] == "cpu")
    });
    assert_eq!(event["type"], "pressure");
    assert_eq!(event["id"], "pressed");
    assert!(
        event["data"]["psi"]["some"]["total"].as_u64() > Some(150_000),
        "{event}"
    );
    fixture.bare(&["kill", "pressed", "KILL"]).ok();
    let ran = events.wait().exits(0);
    assert_eq!(ran.err, "");
}

#[test]
fn huge_pages_are_counted_where_they_are_limited() {
    lodger_only!("a limit without root");
    if !controllers().contains("hugetlb") {
        skip!("the hugetlb controller is not delegated here");
    }
    let mut fixture = Fixture::new();
    fixture.config["linux"]["resources"] =
        serde_json::json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]});
    fixture.sleeping("huge");
    let (data, _) = numbers(&fixture, "huge");
    assert_eq!(
        data["hugetlb"]["2MB"],
        serde_json::json!({"failcnt": 0}),
        "{data}"
    );
}

#[test]
fn a_paused_container_is_watched_to_its_end() {
    lodger_only!("events of a rootless container");
    let mut fixture = Fixture::new();
    fixture.sleeping("frozen");
    numbers_with_memory(&fixture, "frozen");
    fixture.bare(&["pause", "frozen"]).ok();
    let (data, _) = numbers(&fixture, "frozen");
    assert!(
        data["memory"]["usage"]["usage"].as_u64() > Some(0),
        "{data}"
    );
    let table = fixture.bare(&["stats"]).ok();
    assert!(table.contains("\nfrozen "), "{table}");
    let events = fixture.background(&["events", "--interval", "20ms", "frozen"], b"");
    wait_for("an event", || lines(&events.out()).pop());
    fixture.bare(&["resume", "frozen"]).ok();
    fixture.bare(&["kill", "frozen", "KILL"]).ok();
    events.wait().exits(0);
}
