//! update of a container in a scope with limits: the files, systemd, and all or nothing.

use std::process::Command;

use serde_json::{Value, json};

use crate::delegated_update::{both, remembered};
use crate::harness::{Fixture, lodger_only};
use crate::update::update;

/// A container `c` with limits, that sleeps.
fn limited() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fixture.config["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "swap": 64 << 20},
        "pids": {"limit": 20},
        "cpu": {"shares": 2048}
    });
    fixture.sleeping("c");
    fixture
}

/// What the caller's systemd says of the scope.
fn property(name: &str) -> String {
    let mut command = Command::new("systemctl");
    command.args([
        "--user",
        "show",
        "--value",
        "--property",
        name,
        "lodger-c.scope",
    ]);
    let output = command.output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn properties() -> Vec<String> {
    [
        "MemoryMax",
        "MemorySwapMax",
        "MemoryLow",
        "TasksMax",
        "CPUWeight",
        "CPUQuotaPerSecUSec",
    ]
    .map(property)
    .to_vec()
}

const FILES: [&str; 6] = [
    "memory.max",
    "memory.swap.max",
    "memory.low",
    "pids.max",
    "cpu.weight",
    "cpu.max",
];

/// The container's own files, and systemd's word on the scope.
fn all(fixture: &Fixture) -> (Vec<String>, Vec<String>) {
    let files = FILES.map(|file| both(fixture, file)[1].clone());
    (files.to_vec(), properties())
}

#[test]
fn limits_change_live_and_systemd_keeps_them() {
    lodger_only!("a scope of lodger's");
    let fixture = limited();
    let (files, scope) = all(&fixture);
    assert_eq!(files, ["67108864", "0", "0", "20", "174", "max 100000"]);
    assert_eq!(scope, ["67108864", "0", "0", "20", "174", "infinity"]);
    fixture
        .bare(&[
            "update",
            "--memory",
            "48M",
            "--memory-swap",
            "56M",
            "--memory-reservation",
            "8M",
            "--pids-limit",
            "30",
            "--cpu-quota",
            "33333",
            "--cpu-share",
            "1024",
            "c",
        ])
        .ok();
    let expected = [
        "50331648",
        "8388608",
        "8388608",
        "30",
        "100",
        "33333 100000",
    ];
    let of_scope = ["50331648", "8388608", "8388608", "30", "100", "340ms"];
    assert_eq!(
        all(&fixture),
        (
            expected.map(str::to_owned).to_vec(),
            of_scope.map(str::to_owned).to_vec()
        )
    );
    // A period alone leaves the quota.
    fixture.bare(&["update", "--cpu-period", "50000", "c"]).ok();
    assert_eq!(both(&fixture, "cpu.max")[1], "33333 50000");
    fixture
        .bare(&["update", "--cpu-quota", "-1", "--pids-limit", "-1", "c"])
        .ok();
    assert_eq!(both(&fixture, "cpu.max")[1], "max 50000");
    assert_eq!(property("CPUQuotaPerSecUSec"), "infinity");
    assert_eq!(property("TasksMax"), "infinity");

    let enforced = remembered(&fixture)["enforced"].take();
    let memory = enforced
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["file"] == "memory.max");
    let memory: Vec<&Value> = memory.collect();
    let expected = json!({"property": "/linux/resources/memory/limit", "file": "memory.max", "value": "50331648", "by": "systemd"});
    assert_eq!(memory, [&expected]);

    let reloaded = Command::new("systemctl")
        .args(["--user", "daemon-reload"])
        .status();
    assert!(reloaded.unwrap().success());
    assert_eq!(both(&fixture, "memory.max"), ["50331648", "50331648"]);
    assert_eq!(both(&fixture, "cpu.weight"), ["100", "100"]);
    assert_eq!(property("MemoryMax"), "50331648");
}

#[test]
fn one_that_fails_changes_nothing() {
    lodger_only!("a scope of lodger's");
    let fixture = limited();
    let before = (all(&fixture), remembered(&fixture));
    for (resources, why) in [
        (
            json!({"memory": {"limit": 32 << 20, "swap": 40 << 20}, "cpu": {"shares": 2, "idle": 1}, "pids": {"limit": 5},
                   "unified": {"pids.peak": "7"}}),
            "/linux/resources/unified/pids.peak",
        ),
        (
            json!({"memory": {"limit": 32 << 20}, "unified": {"memory.nothing": "7"}}),
            "/linux/resources/unified/memory.nothing",
        ),
        (
            json!({"pids": {"limit": 5}, "unified": {"memory.high": "much"}}),
            "/linux/resources/unified/memory.high",
        ),
        (
            json!({"memory": {"limit": 1, "swap": -1, "checkBeforeUpdate": true}}),
            "the new memory.max is less than what is in use",
        ),
    ] {
        let ran = update(&fixture, &resources.to_string()).fails(1, why);
        assert!(!ran.err.contains("could not be set back"), "{}", ran.err);
        assert_eq!((all(&fixture), remembered(&fixture)), before, "{resources}");
    }
    assert_eq!(fixture.status("c"), "running");
}

#[test]
fn an_idle_container_gets_its_weight_back() {
    lodger_only!("a scope of lodger's");
    let fixture = limited();
    fixture.bare(&["update", "--cpu-idle", "1", "c"]).ok();
    assert_eq!(both(&fixture, "cpu.idle")[1], "1");
    fixture
        .bare(&["update", "--cpu-idle", "0", "--cpu-share", "2048", "c"])
        .ok();
    assert_eq!(both(&fixture, "cpu.idle"), ["0", "0"]);
    assert_eq!(both(&fixture, "cpu.weight"), ["174", "174"]);
}
