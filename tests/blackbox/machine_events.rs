//! events of a container with limits: the kernel's numbers, and an OOM kill as it happens.

use serde_json::{Value, json};

use crate::events::{lines, numbers};
use crate::harness::{Fixture, lodger_only, wait_for};

const LIMIT: u64 = 32 << 20;

/// A container `c` with limits, whose program computes until SIGUSR1 makes it take all the memory there is. It ends as what took it,
/// once /tmp/seen is there: the cgroup goes with it, and with that what the kernel tells of the kill.
fn limited() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fixture.sh(
        "trap '/bin/busybox tail /dev/zero; code=$?; until [ -e /tmp/seen ]; do sleep 0.1; done; exit $code' USR1; \
         while :; do :; done",
    );
    fixture.config["linux"]["resources"] = json!({
        "memory": {"limit": LIMIT, "swap": LIMIT},
        "pids": {"limit": 20},
        "cpu": {"quota": 20_000, "period": 100_000}
    });
    fixture
}

fn number(data: &Value, pointer: &str) -> u64 {
    data.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

#[test]
fn an_oom_kill_is_an_event_and_the_numbers_are_the_kernels() {
    lodger_only!("events of a rootless container");
    let fixture = limited();
    let run = fixture.background(&["run", "c"], b"");
    wait_for("it to run", || {
        fixture
            .bare(&["state", "c"])
            .out
            .contains("\"running\"")
            .then_some(())
    });
    let events = fixture.background(&["events", "--interval", "200ms", "c"], b"");
    let data = wait_for("the processor to be denied", || {
        let mut stats = lines(&events.out());
        let last = stats.pop()?["data"].take();
        (number(&last, "/cpu/throttling/throttledPeriods") > 0).then_some(last)
    });
    assert!(number(&data, "/cpu/throttling/throttledTime") > 0, "{data}");
    assert!(number(&data, "/cpu/usage/total") > 1_000_000, "{data}");
    let usage = &data["memory"]["usage"];
    assert_eq!(number(usage, "/limit"), LIMIT, "{data}");
    assert!((1..=LIMIT).contains(&number(usage, "/usage")), "{data}");
    assert!(number(&data, "/memory/raw/anon") > 0, "{data}");
    assert_eq!(number(&data, "/memory/swap/limit"), LIMIT, "{data}");
    assert_eq!(data["pids"], json!({"current": 1, "limit": 20}));
    // All of it is the kernel's, and so nothing has to be said.
    let (_, said) = numbers(&fixture, "c");
    assert_eq!(said, "");
    let table = fixture.bare(&["stats", "c"]).ok();
    let row = table.lines().nth(1).unwrap();
    assert!(
        row.contains(" / 32.0 MiB   ") && row.ends_with(" 1"),
        "{table}"
    );

    fixture.bare(&["kill", "c", "USR1"]).ok();
    wait_for("the kill to be told", || {
        let told = lines(&events.out());
        told.iter().any(|line| line["type"] == "oom").then_some(())
    });
    std::fs::write(fixture.rootfs().join("tmp/seen"), "").unwrap();
    run.wait().exits(128 + 9);
    let ran = events.wait().exits(0);
    assert_eq!(ran.err, "");
    let kinds: Vec<Value> = lines(&ran.out)
        .iter()
        .map(|line| line["type"].clone())
        .collect();
    let kills = kinds.iter().filter(|kind| **kind == "oom").count();
    assert_eq!(kills, 1, "{kinds:?}");
}

#[test]
fn a_process_that_is_killed_for_memory_need_not_be_the_first() {
    lodger_only!("events of a rootless container");
    let mut fixture = limited();
    fixture.sh("trap '/bin/busybox tail /dev/zero' USR1; while :; do sleep 0.1; done");
    fixture.runtime(&["run", "-d", "c"]).ok();
    let events = fixture.background(&["events", "--interval", "1h", "c"], b"");
    // One after the other: each is an event of its own.
    for kills in 1..=3 {
        fixture.bare(&["kill", "c", "USR1"]).ok();
        wait_for("an OOM kill", || {
            (lines(&events.out()).len() == kills).then_some(())
        });
        let (data, _) = numbers(&fixture, "c");
        assert_eq!(data["memory"]["event_count"]["oom_kill"], kills, "{data}");
    }
    assert_eq!(lines(&events.out())[2], json!({"type": "oom", "id": "c"}));
    assert_eq!(fixture.status("c"), "running");
}

#[test]
fn a_container_without_limits_is_counted_too() {
    lodger_only!("events of a rootless container");
    let mut fixture = Fixture::with_own_root();
    fixture.sleeping("free");
    let (data, said) = numbers(&fixture, "free");
    assert_eq!(said, "");
    assert_eq!(number(&data, "/memory/usage/limit"), u64::MAX, "{data}");
    assert!(number(&data, "/memory/raw/anon") > 0, "{data}");
    // The manager's default may limit it (DefaultTasksMax).
    assert_eq!(number(&data, "/pids/current"), 1, "{data}");
    fixture
        .bare(&["exec", "-d", "free", "/bin/sleep", "601"])
        .ok();
    wait_for("what joins to be counted", || {
        let (data, _) = numbers(&fixture, "free");
        (number(&data, "/pids/current") == 2).then_some(())
    });
}
