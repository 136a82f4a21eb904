//! events of a container with limits: the kernel's numbers, and an OOM kill as it happens.

use serde_json::{Value, json};

use crate::events::{lines, numbers, watching};
use crate::harness::{Fixture, lodger_only, wait_for};

const LIMIT: u64 = 32 << 20;

/// A container `c` with limits, whose program computes until SIGUSR1 makes it take all the memory there is. It ends as what took it,
/// once /tmp/seen is there: the cgroup goes with it, and with that what the kernel tells of the kill. The signal is for when
/// /tmp/ready is there: the first process passes over one that it has no trap for.
fn limited() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fixture.sh(
        "trap '/bin/busybox tail /dev/zero; code=$?; until [ -e /tmp/seen ]; do sleep 0.1; done; exit $code' USR1; \
         echo >/tmp/ready; while :; do :; done",
    );
    fixture.config["linux"]["resources"] = json!({
        "memory": {"limit": LIMIT, "swap": LIMIT},
        "pids": {"limit": 20},
        "cpu": {"quota": 20_000, "period": 100_000}
    });
    fixture
}

/// Waits until the program of [`limited`] takes its signal.
fn is_ready(fixture: &Fixture) {
    let ready = fixture.rootfs().join("tmp/ready");
    wait_for("the program", || ready.exists().then_some(()));
}

fn number(data: &Value, pointer: &str) -> u64 {
    data.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

#[test]
fn an_oom_kill_is_an_event_and_the_numbers_are_the_kernels() {
    lodger_only!("events of a rootless container");
    let fixture = limited();
    let run = fixture.background(&["run", "c"], b"");
    is_ready(&fixture);
    let events = fixture.background(&["events", "--interval", "200ms", "c"], b"");
    // The kernel counts for how long when that is over, and sums memory up now and then.
    let counted = [
        "/cpu/throttling/throttledPeriods",
        "/cpu/throttling/throttledTime",
        "/memory/usage/usage",
        "/memory/raw/anon",
    ];
    let data = wait_for(
        "the processor to be denied, and memory to be counted",
        || {
            let mut stats = lines(&events.out());
            let last = stats.pop()?["data"].take();
            let all = counted.iter().all(|pointer| number(&last, pointer) > 0);
            all.then_some(last)
        },
    );
    assert!(number(&data, "/cpu/usage/total") > 1_000_000, "{data}");
    let usage = &data["memory"]["usage"];
    assert_eq!(number(usage, "/limit"), LIMIT, "{data}");
    assert!((1..=LIMIT).contains(&number(usage, "/usage")), "{data}");
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
    fixture.sh(
        "trap '/bin/busybox tail /dev/zero' USR1; echo >/tmp/ready; while :; do sleep 0.1; done",
    );
    fixture.runtime(&["run", "-d", "c"]).ok();
    is_ready(&fixture);
    // A kill before that would be none that it tells of.
    let events = watching(&fixture, "1h");
    // Pressure may be told of, too: what takes memory is denied the processor.
    let told = || -> Vec<Value> {
        let mut told = lines(&events.out());
        told.retain(|event| event["type"] == "oom");
        told
    };
    // One after the other: each is an event of its own.
    for kills in 1..=3 {
        fixture.bare(&["kill", "c", "USR1"]).ok();
        wait_for("an OOM kill", || (told().len() == kills).then_some(()));
        let (data, _) = numbers(&fixture, "c");
        assert_eq!(data["memory"]["event_count"]["oom_kill"], kills, "{data}");
    }
    assert_eq!(told()[2], json!({"type": "oom", "id": "c"}));
    assert_eq!(fixture.status("c"), "running");
}

#[test]
fn a_container_without_limits_is_counted_too() {
    lodger_only!("events of a rootless container");
    let mut fixture = Fixture::with_own_root();
    fixture.sleeping("free");
    // The kernel sums it up now and then.
    let (data, said) = wait_for("memory to be counted", || {
        Some(numbers(&fixture, "free")).filter(|(data, _)| number(data, "/memory/raw/anon") > 0)
    });
    assert_eq!(said, "");
    assert_eq!(number(&data, "/memory/usage/limit"), u64::MAX, "{data}");
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
