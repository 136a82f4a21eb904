use serde_json::{Value, json};

use super::*;

#[path = "resources_unified_tests.rs"]
mod unified_files;

#[path = "resources_random_tests.rs"]
mod random;

fn of(version: &str, resources: &Value) -> Converted {
    let resources = serde_json::from_value(resources.clone()).unwrap();
    convert(&resources, version, RESOURCES)
}

/// `property controller file=value[ | file=value]`, one for each setting.
fn settings(converted: &Converted) -> Vec<String> {
    let text = |setting: &Setting| {
        let writes: Vec<_> = setting
            .writes
            .iter()
            .map(|write| format!("{}={}", write.file, write.value))
            .collect();
        let property = setting.property.strip_prefix(RESOURCES).unwrap();
        format!("{property} {} {}", setting.controller, writes.join(" | "))
    };
    converted.settings.iter().map(text).collect()
}

/// `Name=value@since`, one for each property.
fn properties(converted: &Converted) -> Vec<String> {
    let text = |property: &UnitProperty| {
        let value = match &property.value {
            PropertyValue::U64(u64::MAX) => "infinity".to_owned(),
            PropertyValue::U64(number) => number.to_string(),
            PropertyValue::Bytes(bytes) => format!("{bytes:?}"),
            PropertyValue::Text(text) => text.clone(),
            PropertyValue::Bool(value) => value.to_string(),
            PropertyValue::DeviceNumbers(list) => format!("{list:?}"),
            other => format!("{other:?}"),
        };
        format!("{}={value}@{}", property.name, property.since)
    };
    converted.properties.iter().map(text).collect()
}

fn problems(converted: &Converted) -> Vec<String> {
    let text = |problem: &Problem| {
        let member = problem.pointer.strip_prefix(RESOURCES).unwrap();
        format!("{member}: {}", problem.message)
    };
    converted.problems.iter().map(text).collect()
}

fn notes(converted: &Converted) -> Vec<&str> {
    let notes = converted.notes.iter();
    notes
        .map(|note| note.property.strip_prefix(RESOURCES).unwrap())
        .collect()
}

#[test]
fn memory_and_swap() {
    for (memory, expected, units) in [
        (
            json!({"limit": 1_048_576}),
            "limit memory.max=1048576",
            "MemoryMax=1048576@231",
        ),
        (
            json!({"limit": 1000, "swap": 3000, "reservation": 500}),
            "limit memory.max=1000, swap memory.swap.max=2000, reservation memory.low=500",
            "MemoryMax=1000@231, MemorySwapMax=2000@232, MemoryLow=500@231",
        ),
        (
            json!({"limit": 1000, "swap": 1000}),
            "limit memory.max=1000, swap memory.swap.max=0",
            "MemoryMax=1000@231, MemorySwapMax=0@232",
        ),
        (
            json!({"limit": 1000, "swap": -1}),
            "limit memory.max=1000, swap memory.swap.max=max",
            "MemoryMax=1000@231, MemorySwapMax=infinity@232",
        ),
        (
            json!({"limit": -1}),
            "limit memory.max=max, limit memory.swap.max=max",
            "MemoryMax=infinity@231, MemorySwapMax=infinity@232",
        ),
        (
            json!({"limit": -1, "swap": 7000}),
            "limit memory.max=max, swap memory.swap.max=7000",
            "MemoryMax=infinity@231, MemorySwapMax=7000@232",
        ),
        (
            json!({"reservation": -1}),
            "reservation memory.low=max",
            "MemoryLow=infinity@231",
        ),
    ] {
        let converted = of("1.2.0", &json!({"memory": memory}));
        let found = settings(&converted).join(", ");
        let found = found.replace("/memory/", "").replace(" memory ", " ");
        assert_eq!(found, expected, "{memory}");
        assert_eq!(properties(&converted).join(", "), units, "{memory}");
        assert!(converted.problems.is_empty() && converted.notes.is_empty());
    }
}

fn assert_refused(table: &[(Value, &str)]) {
    for (resources, why) in table {
        let found = problems(&of("1.3.0", resources));
        assert!(
            found.len() == 1 && found[0].starts_with(why),
            "{found:?} {why}"
        );
    }
}

#[test]
fn memory_that_version_2_cannot_limit_is_refused() {
    let memory = |memory: Value| json!({"memory": memory});
    assert_refused(&[
        (
            memory(json!({"swap": 1000})),
            "/memory/swap: needs memory/limit",
        ),
        (
            memory(json!({"limit": 2000, "swap": 1000})),
            "/memory/swap: 1000 is less than memory/limit, 2000",
        ),
        (
            memory(json!({"limit": -2})),
            "/memory/limit: -2 is no number",
        ),
        (
            memory(json!({"limit": 1, "swap": -2})),
            "/memory/swap: -2 is no number",
        ),
        (
            memory(json!({"reservation": -9})),
            "/memory/reservation: -9 is no",
        ),
        (memory(json!({"kernel": 1})), "/memory/kernel: version 2"),
        (
            memory(json!({"kernelTCP": 1})),
            "/memory/kernelTCP: version 2",
        ),
        (
            memory(json!({"swappiness": 0})),
            "/memory/swappiness: version 2",
        ),
        (
            memory(json!({"disableOOMKiller": true})),
            "/memory/disableOOMKiller: version 2",
        ),
    ]);
}

#[test]
fn processors_that_version_2_cannot_limit_are_refused() {
    let cpu = |cpu: Value| json!({"cpu": cpu});
    assert_refused(&[
        (cpu(json!({"idle": 2})), "/cpu/idle: is neither 0 nor 1"),
        (cpu(json!({"quota": 999})), "/cpu/quota: 999 µs are less"),
        (
            cpu(json!({"period": 999})),
            "/cpu/period: 999 µs are not within",
        ),
        (
            cpu(json!({"period": 1_000_001})),
            "/cpu/period: 1000001 µs are not",
        ),
        (
            cpu(json!({"quota": 2000, "burst": 2001})),
            "/cpu/burst: 2001 µs are more",
        ),
        (
            cpu(json!({"realtimeRuntime": 1})),
            "/cpu/realtimeRuntime: version 2",
        ),
        (cpu(json!({"cpus": "a"})), "/cpu/cpus: is not a list"),
        (cpu(json!({"mems": "3-1"})), "/cpu/mems: the range"),
        (
            json!({"pids": {"limit": -2}}),
            "/pids/limit: -2 is no number",
        ),
    ]);
}

#[test]
fn block_io_that_version_2_cannot_limit_is_refused() {
    let block = |block: Value| json!({"blockIO": block});
    let device = |device: Value| json!({"blockIO": {"weightDevice": [device]}});
    assert_refused(&[
        (
            block(json!({"weight": 9})),
            "/blockIO/weight: 9 is not within 10 and 1000",
        ),
        (block(json!({"weight": 1001})), "/blockIO/weight: 1001"),
        (
            block(json!({"leafWeight": 10})),
            "/blockIO/leafWeight: version 2",
        ),
        (
            device(json!({"major": 8, "minor": 0})),
            "/blockIO/weightDevice/0: needs a weight",
        ),
        (
            device(json!({"major": 8, "minor": 0, "leafWeight": 10})),
            "/blockIO/weightDevice/0/leafWeight: version 2",
        ),
        (
            device(json!({"major": -1, "minor": 0, "weight": 10})),
            "/blockIO/weightDevice/0: there is no device -1:0",
        ),
        (
            block(
                json!({"throttleWriteIOPSDevice": [{"major": 8, "minor": 1_u64 << 32, "rate": 1}]}),
            ),
            "/blockIO/throttleWriteIOPSDevice/0: there is no device",
        ),
    ]);
}

#[test]
fn the_rest_that_version_2_cannot_limit_is_refused() {
    let pages =
        |size: &str, limit: i64| json!({"hugepageLimits": [{"pageSize": size, "limit": limit}]});
    assert_refused(&[
        (
            pages("2M", 0),
            "/hugepageLimits/0/pageSize: \"2M\" is no size",
        ),
        (
            pages("MB", 0),
            "/hugepageLimits/0/pageSize: \"MB\" is no size",
        ),
        (
            pages("02MB", 0),
            "/hugepageLimits/0/pageSize: \"02MB\" is no size",
        ),
        (
            pages("../2MB", 0),
            "/hugepageLimits/0/pageSize: \"../2MB\" is no size",
        ),
        (pages("2MB", -1), "/hugepageLimits/0/limit: -1 is no number"),
        (
            json!({"network": {"classID": 1}}),
            "/network/classID: version 2",
        ),
        (
            json!({"network": {"priorities": [{"name": "eth0", "priority": 0}]}}),
            "/network/priorities: version 2",
        ),
        (
            json!({"rdma": {"mlx5_1": {}}}),
            "/rdma/mlx5_1: needs hcaHandles",
        ),
        (
            json!({"rdma": {"a b": {"hcaHandles": 1}}}),
            "/rdma/a b: is no name",
        ),
    ]);
}

#[test]
fn zeros_that_stand_for_nothing_are_told() {
    let resources = json!({
        "memory": {"limit": 0, "reservation": 0, "swap": 0, "kernel": 0, "kernelTCP": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "realtimeRuntime": 0, "cpus": "", "mems": ""},
        "pids": {"limit": 0}, "blockIO": {"weight": 0, "leafWeight": 0},
        "network": {"classID": 0, "priorities": []},
    });
    let converted = of("1.2.1", &resources);
    let mut found = notes(&converted);
    found.sort_unstable();
    assert_eq!(
        found,
        ["kernel", "kernelTCP", "limit", "reservation", "swap"]
            .map(|name| format!("/memory/{name}"))
            .into_iter()
            .chain(["/pids/limit".to_owned()])
            .collect::<Vec<_>>()
    );
    assert!(
        converted.settings.is_empty() && converted.problems.is_empty(),
        "{converted:?}"
    );
}

#[test]
fn what_asks_for_nothing_sets_nothing() {
    let resources = json!({
        "memory": {"kernel": -1, "kernelTCP": -1, "disableOOMKiller": false, "useHierarchy": true,
                   "checkBeforeUpdate": true},
        "cpu": {"realtimeRuntime": -1, "realtimePeriod": 1_000_000},
        "blockIO": {"weightDevice": []}, "hugepageLimits": [], "rdma": {}, "unified": {}, "devices": [],
    });
    assert_eq!(of("1.3.0", &resources), Converted::default());
    let converted = of("1.3.0", &json!({"memory": {"useHierarchy": false}}));
    assert_eq!(notes(&converted), ["/memory/useHierarchy"]);
}

#[test]
fn device_rules_are_one_note() {
    let rules = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c"}]);
    let converted = of("1.3.0", &json!({"devices": rules}));
    assert_eq!(notes(&converted), ["/devices"]);
    assert!(converted.problems.is_empty() && converted.settings.is_empty());
}

#[test]
fn processors() {
    for (cpu, expected, units) in [
        (
            json!({"shares": 1024}),
            vec!["/cpu/shares cpu cpu.weight=100"],
            vec!["CPUWeight=100@232"],
        ),
        (
            json!({"quota": 50_000, "period": 100_000, "burst": 1000}),
            vec![
                "/cpu/quota cpu cpu.max=50000 100000",
                "/cpu/burst cpu cpu.max.burst=1000",
            ],
            vec![
                "CPUQuotaPerSecUSec=500000@213",
                "CPUQuotaPeriodUSec=100000@242",
            ],
        ),
        (
            json!({"quota": -1}),
            vec!["/cpu/quota cpu cpu.max=max 100000"],
            vec![
                "CPUQuotaPerSecUSec=infinity@213",
                "CPUQuotaPeriodUSec=100000@242",
            ],
        ),
        (
            json!({"period": 50_000}),
            vec!["/cpu/period cpu cpu.max=max 50000"],
            vec![
                "CPUQuotaPerSecUSec=infinity@213",
                "CPUQuotaPeriodUSec=50000@242",
            ],
        ),
        (
            json!({"idle": 1}),
            vec!["/cpu/idle cpu cpu.idle=1"],
            vec!["CPUWeight=0@252"],
        ),
        (
            json!({"idle": 0}),
            vec!["/cpu/idle cpu cpu.idle=0"],
            vec!["CPUWeight=100@232"],
        ),
        (
            json!({"idle": 0, "shares": 2}),
            vec!["/cpu/idle cpu cpu.idle=0", "/cpu/shares cpu cpu.weight=1"],
            vec!["CPUWeight=1@232"],
        ),
        (
            json!({"cpus": "0-2, 7,,9", "mems": "0"}),
            vec![
                "/cpu/cpus cpuset cpuset.cpus=0-2,7,9",
                "/cpu/mems cpuset cpuset.mems=0",
            ],
            vec!["AllowedCPUs=[135, 2]@244", "AllowedMemoryNodes=[1]@244"],
        ),
    ] {
        let converted = of("1.3.0", &json!({"cpu": cpu}));
        assert_eq!(settings(&converted), expected, "{cpu}");
        assert_eq!(properties(&converted), units, "{cpu}");
        assert!(converted.problems.is_empty() && converted.notes.is_empty());
    }
}

#[test]
fn what_is_idle_has_no_share() {
    let converted = of("1.3.0", &json!({"cpu": {"idle": 1, "shares": 512}}));
    assert_eq!(settings(&converted), ["/cpu/idle cpu cpu.idle=1"]);
    assert_eq!(notes(&converted), ["/cpu/shares"]);
    assert_eq!(properties(&converted), ["CPUWeight=0@252"]);
}

#[test]
fn quotas_are_rounded_up_to_what_systemd_keeps() {
    for (quota, period, expected) in [
        (50_000, 100_000, 500_000),
        (1_000, 100_000, 10_000),
        (33_333, 100_000, 340_000),
        (1_000, 1_000_000, 10_000),
        (333_333, 1_000_000, 340_000),
        (200_001, 1_000_000, 210_000),
        (300_000, 100_000, 3_000_000),
    ] {
        let converted = of("1.3.0", &json!({"cpu": {"quota": quota, "period": period}}));
        let expected = format!("CPUQuotaPerSecUSec={expected}@213");
        assert_eq!(properties(&converted)[0], expected, "{quota}/{period}");
    }
}

#[test]
fn processes() {
    for (version, limit, expected, units) in [
        (
            "1.0.2-dev",
            7,
            "/pids/limit pids pids.max=7",
            "TasksMax=7@227",
        ),
        (
            "1.2.0",
            -1,
            "/pids/limit pids pids.max=max",
            "TasksMax=infinity@227",
        ),
        ("1.3.0", 0, "/pids/limit pids pids.max=0", "TasksMax=1@227"),
        ("1.30.0", 0, "/pids/limit pids pids.max=0", "TasksMax=1@227"),
    ] {
        let converted = of(version, &json!({"pids": {"limit": limit}}));
        assert_eq!(settings(&converted), [expected]);
        assert_eq!(properties(&converted), [units]);
    }
}

#[test]
fn block_devices() {
    let converted = of(
        "1.3.0",
        &json!({"blockIO": {
            "weight": 500,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 10}, {"major": 8, "minor": 16, "weight": 1000}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}, {"major": 9, "minor": 1, "rate": 0}],
            "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
            "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 2}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 3}],
        }}),
    );
    assert_eq!(
        settings(&converted),
        [
            "/blockIO/weight io io.bfq.weight=default 500 | io.weight=default 4950",
            "/blockIO/weightDevice/0/weight io io.bfq.weight=8:0 10 | io.weight=8:0 1",
            "/blockIO/weightDevice/1/weight io io.bfq.weight=8:16 1000 | io.weight=8:16 10000",
            "/blockIO/throttleReadBpsDevice/0 io io.max=8:0 rbps=600",
            "/blockIO/throttleReadBpsDevice/1 io io.max=9:1 rbps=max",
            "/blockIO/throttleWriteBpsDevice/0 io io.max=8:0 wbps=1",
            "/blockIO/throttleReadIOPSDevice/0 io io.max=8:0 riops=2",
            "/blockIO/throttleWriteIOPSDevice/0 io io.max=8:0 wiops=3",
        ]
    );
    assert_eq!(
        properties(&converted),
        [
            "IOWeight=4950@230".to_owned(),
            r#"IODeviceWeight=[("/dev/block/8:0", 1), ("/dev/block/8:16", 10000)]@230"#.to_owned(),
            format!(
                r#"IOReadBandwidthMax=[("/dev/block/8:0", 600), ("/dev/block/9:1", {})]@230"#,
                u64::MAX
            ),
            r#"IOWriteBandwidthMax=[("/dev/block/8:0", 1)]@230"#.to_owned(),
            r#"IOReadIOPSMax=[("/dev/block/8:0", 2)]@230"#.to_owned(),
            r#"IOWriteIOPSMax=[("/dev/block/8:0", 3)]@230"#.to_owned(),
        ]
    );
}

#[test]
fn huge_pages_and_rdma() {
    let converted = of(
        "1.3.0",
        &json!({
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 1 << 30}],
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10_000}, "mlx4_0": {"hcaObjects": 0}},
        }),
    );
    assert_eq!(
        settings(&converted),
        [
            "/hugepageLimits/0/limit hugetlb hugetlb.2MB.rsvd.max=0 | hugetlb.2MB.max=0",
            "/hugepageLimits/1/limit hugetlb hugetlb.1GB.rsvd.max=1073741824 | hugetlb.1GB.max=1073741824",
            "/rdma/mlx4_0 rdma rdma.max=mlx4_0 hca_object=0",
            "/rdma/mlx5_1 rdma rdma.max=mlx5_1 hca_handle=3 hca_object=10000",
        ]
    );
    assert_eq!(properties(&converted), [""; 0]);
}
