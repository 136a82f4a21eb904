use proptest::prelude::*;

use super::*;

/// File, value, setting and properties.
const WRITTEN: &[(&str, &str, &str, &str)] = &[
    ("memory.min", "1", "memory memory.min=1", "MemoryMin=1@240"),
    (
        "memory.low",
        "max",
        "memory memory.low=max",
        "MemoryLow=infinity@231",
    ),
    (
        "memory.high",
        " 64M\n",
        "memory memory.high=64M",
        "MemoryHigh=67108864@231",
    ),
    (
        "memory.max",
        "2g",
        "memory memory.max=2g",
        "MemoryMax=2147483648@231",
    ),
    ("memory.max", "0x10", "memory memory.max=0x10", ""),
    ("memory.max", "16777216E", "memory memory.max=16777216E", ""),
    (
        "memory.swap.max",
        "0",
        "memory memory.swap.max=0",
        "MemorySwapMax=0@232",
    ),
    (
        "memory.zswap.max",
        "0",
        "memory memory.zswap.max=0",
        "MemoryZSwapMax=0@253",
    ),
    (
        "memory.zswap.writeback",
        "0",
        "memory memory.zswap.writeback=0",
        "MemoryZSwapWriteback=false@256",
    ),
    (
        "memory.oom.group",
        "1",
        "memory memory.oom.group=1",
        "OOMPolicy=kill@253",
    ),
    (
        "memory.oom.group",
        "0",
        "memory memory.oom.group=0",
        "OOMPolicy=continue@253",
    ),
    ("cpu.weight", "10001", "cpu cpu.weight=10001", ""),
    (
        "cpu.weight",
        "250",
        "cpu cpu.weight=250",
        "CPUWeight=250@232",
    ),
    ("cpu.idle", "1", "cpu cpu.idle=1", "CPUWeight=0@252"),
    (
        "cpu.max",
        "5000",
        "cpu cpu.max=5000",
        "CPUQuotaPerSecUSec=50000@213 CPUQuotaPeriodUSec=100000@242",
    ),
    (
        "cpu.max",
        "max 2000",
        "cpu cpu.max=max 2000",
        "CPUQuotaPerSecUSec=infinity@213 CPUQuotaPeriodUSec=2000@242",
    ),
    ("cpu.max", "1 2 3", "cpu cpu.max=1 2 3", ""),
    ("cpu.max", "1000 0", "cpu cpu.max=1000 0", ""),
    (
        "cpuset.cpus",
        "8",
        "cpuset cpuset.cpus=8",
        "AllowedCPUs=[0,1]@244",
    ),
    (
        "cpuset.cpus.partition",
        "root",
        "cpuset cpuset.cpus.partition=root",
        "",
    ),
    ("pids.max", "0", "pids pids.max=0", "TasksMax=1@227"),
    ("io.weight", "200", "io io.weight=200", "IOWeight=200@230"),
    (
        "io.weight",
        "default 200",
        "io io.weight=default 200",
        "IOWeight=200@230",
    ),
    ("hugetlb.1GB.max", "1", "hugetlb hugetlb.1GB.max=1", ""),
    ("misc.max", "sev 1", "misc misc.max=sev 1", ""),
    ("what.ever", "?", "what what.ever=?", ""),
    ("cgroup.max.depth", "3", " cgroup.max.depth=3", ""),
    (
        "io.pressure",
        "some 150000 1000000",
        " io.pressure=some 150000 1000000",
        "",
    ),
];

#[test]
fn unified_is_written_as_it_is() {
    for (file, value, expected, units) in WRITTEN {
        let converted = of("1.3.0", &json!({"unified": {*file: value}}));
        assert_eq!(
            settings(&converted),
            [format!("/unified/{file} {expected}")]
        );
        let found = properties(&converted).join(" ").replace(", ", ",");
        assert_eq!(found, *units, "{file}={value}");
        assert!(converted.problems.is_empty() && converted.notes.is_empty());
    }
}

#[test]
fn a_file_with_lines_is_written_line_by_line() {
    let lines = "259:0 rbps=2097152 wiops=120\n253:0 rbps=max wiops=5\n";
    let converted = of("1.3.0", &json!({"unified": {"io.max": lines}}));
    assert_eq!(
        settings(&converted),
        [
            "/unified/io.max io io.max=259:0 rbps=2097152 wiops=120",
            "/unified/io.max io io.max=253:0 rbps=max wiops=5",
        ]
    );
    let max = u64::MAX;
    assert_eq!(
        properties(&converted),
        [
            format!(
                r#"IOReadBandwidthMax=[("/dev/block/259:0", 2097152), ("/dev/block/253:0", {max})]@230"#
            ),
            r#"IOWriteIOPSMax=[("/dev/block/259:0", 120), ("/dev/block/253:0", 5)]@230"#.to_owned(),
        ]
    );
}

#[test]
fn unified_keys_are_names_of_files() {
    for key in [
        "memory",
        "",
        ".",
        "..",
        "../x.y",
        "a/b.c",
        ".memory",
        "memory.max\n",
        "memory max.x",
        "cgroup.procs",
        "cgroup.threads",
        "cgroup.subtree_control",
        "cgroup.kill",
        "cgroup.freeze",
        "cgroup.type",
        "cgroup.new",
    ] {
        let converted = of("1.3.0", &json!({"unified": {key: "1"}}));
        assert_eq!(converted.problems.len(), 1, "{key:?}");
        assert!(converted.settings.is_empty(), "{key:?}");
    }
    let converted = of("1.3.0", &json!({"unified": {"memory.max": " \n"}}));
    assert_eq!(problems(&converted), ["/unified/memory.max: has no value"]);
}

#[test]
fn unified_has_the_last_word() {
    let converted = of(
        "1.3.0",
        &json!({
            "memory": {"limit": 1000, "swap": 1500}, "cpu": {"quota": 2000, "shares": 2},
            "unified": {"memory.max": "500", "cpu.max": "1 2 3", "cpu.idle": "1"},
        }),
    );
    assert_eq!(
        settings(&converted),
        [
            "/memory/swap memory memory.swap.max=500",
            "/unified/cpu.idle cpu cpu.idle=1",
            "/unified/cpu.max cpu cpu.max=1 2 3",
            "/unified/memory.max memory memory.max=500",
        ]
    );
    assert_eq!(
        properties(&converted),
        [
            "MemorySwapMax=500@232",
            "CPUWeight=0@252",
            "MemoryMax=500@231"
        ]
    );
    assert_eq!(
        notes(&converted),
        ["/cpu/quota", "/memory/limit", "/cpu/shares"]
    );
}

#[test]
fn a_new_cgroup_has_what_is_usual() {
    for resources in [
        json!({"memory": {"limit": -1, "swap": -1, "reservation": -1}, "pids": {"limit": -1}}),
        json!({"cpu": {"shares": 1024, "quota": -1, "period": 5000, "idle": 0, "burst": 0}}),
        json!({"unified": {"memory.low": "0", "memory.high": "max", "memory.oom.group": "0"}}),
        json!({"unified": {"hugetlb.2MB.max": "max", "io.max": "8:0 rbps=max wbps=max"}}),
    ] {
        let converted = of("1.3.0", &resources);
        assert!(!converted.settings.is_empty());
        assert!(
            converted.settings.iter().all(Setting::is_usual),
            "{converted:?}"
        );
    }
    for resources in [
        json!({"memory": {"limit": 1}}),
        json!({"memory": {"limit": 1, "swap": 1}}),
        json!({"pids": {"limit": 0}}),
        json!({"cpu": {"shares": 1000}}),
        json!({"cpu": {"quota": 1000}}),
        json!({"cpu": {"idle": 1}}),
        json!({"cpu": {"cpus": "0"}}),
        json!({"blockIO": {"weight": 10}}),
        json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}),
        json!({"unified": {"memory.low": "max"}}),
        json!({"unified": {"io.max": "8:0 rbps=max wbps=1"}}),
        json!({"unified": {"cgroup.max.depth": "1"}}),
    ] {
        let converted = of("1.3.0", &resources);
        assert!(
            !converted.settings.iter().all(Setting::is_usual),
            "{resources}"
        );
    }
}

proptest! {
    #[test]
    fn unified_never_panics(file in "[a-z.]{0,12}", value in "\\PC{0,20}") {
        for file in [file.as_str(), "cpu.max", "memory.max", "io.max", "io.weight", "cpuset.cpus", "pids.max"] {
            of("1.3.0", &json!({"unified": {file: value}}));
        }
    }
}
