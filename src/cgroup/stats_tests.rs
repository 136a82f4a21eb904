use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::cgroup::sums::{self, Sums, Units};

/// A cgroup of Linux 7.2 with cpu, io, memory and pids, after an OOM kill.
const LIMITED: [(&str, &str); 13] = [
    (
        "cpu.stat",
        "usage_usec 860000\nuser_usec 850000\nsystem_usec 10000\nnice_usec 0\nnr_periods 25\nnr_throttled 7\n\
         throttled_usec 1234\nnr_bursts 0\nburst_usec 0\n",
    ),
    ("memory.current", "495616\n"),
    ("memory.max", "33554432\n"),
    ("memory.peak", "33554432\n"),
    ("memory.swap.current", "4096\n"),
    ("memory.swap.max", "1048576\n"),
    (
        "memory.events",
        "low 0\nhigh 0\nmax 109\noom 1\noom_kill 1\noom_group_kill 0\nsock_throttled 0\n",
    ),
    (
        "memory.stat",
        "anon 192512\nfile 167936\nkernel 180224\nslab 60312\npgfault 10229\nzswpwb 0\n",
    ),
    ("pids.current", "2\n"),
    ("pids.max", "20\n"),
    (
        "io.stat",
        "98:0 rbytes=647168 wbytes=5267456 rios=38 wios=171 dbytes=0 dios=0\n",
    ),
    ("cpuset.cpus.effective", "0-1,3\n"),
    ("cpuset.mems.effective", "0\n"),
];

/// A cgroup of Linux 6.18 in which no controller is enabled but hugetlb.
const UNLIMITED: [(&str, &str); 6] = [
    ("cgroup.events", "populated 1\nfrozen 0\n"),
    (
        "cpu.stat",
        "usage_usec 1000\nuser_usec 400\nsystem_usec 600\nnice_usec 0\n",
    ),
    ("hugetlb.2MB.current", "4194304\n"),
    ("hugetlb.2MB.rsvd.current", "6291456\n"),
    ("hugetlb.2MB.events", "max 3\n"),
    ("hugetlb.1GB.current", "0\n"),
];

fn files<'a>(table: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| {
        let found = table.iter().find(|(file, _)| *file == name);
        found.map(|(_, text)| (*text).to_owned())
    }
}

fn nobody() -> Result<Sums> {
    panic!("nothing is to be summed")
}

fn processes() -> Result<Sums> {
    Ok(Sums {
        user: 5_000_000_000,
        kernel: 20_000_000,
        resident: 8192,
        threads: 3,
        read: Some(512),
        written: None,
    })
}

#[test]
fn a_cgroup_with_all_controllers_in_runcs_words() {
    let (stats, summed) = Stats::gather(&files(&LIMITED), &[], &nobody).unwrap();
    assert!(summed.is_empty(), "{summed:?}");
    let expected = json!({
        "cpu": {
            "usage": {"total": 860_000_000, "kernel": 10_000_000, "user": 850_000_000},
            "throttling": {"periods": 25, "throttledPeriods": 7, "throttledTime": 1_234_000}
        },
        "cpuset": {
            "cpus": [0, 1, 3], "cpu_exclusive": 0, "mems": [0], "mem_hardwall": 0, "mem_exclusive": 0,
            "memory_migrate": 0, "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0,
            "sched_load_balance": 0, "sched_relax_domain_level": 0
        },
        "memory": {
            "cache": 167_936,
            "usage": {"limit": 33_554_432, "usage": 495_616, "max": 33_554_432, "failcnt": 109},
            "swap": {"limit": 34_603_008, "usage": 499_712, "failcnt": 0},
            "kernel": {"limit": 0, "failcnt": 0},
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": {"anon": 192_512, "file": 167_936, "kernel": 180_224, "pgfault": 10_229, "slab": 60_312, "zswpwb": 0},
            "event_count": {
                "low": 0, "high": 0, "max": 109, "oom": 1, "oom_kill": 1, "oom_group_kill": 0, "sock_throttled": 0
            }
        },
        "pids": {"current": 2, "limit": 20},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": 98, "op": "Read", "value": 647_168}, {"major": 98, "op": "Write", "value": 5_267_456}
            ],
            "ioServicedRecursive": [
                {"major": 98, "op": "Read", "value": 38}, {"major": 98, "op": "Write", "value": 171}
            ]
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null
    });
    assert_eq!(serde_json::to_value(&stats).unwrap(), expected);
}

#[test]
fn what_no_controller_counts_is_summed_and_said() {
    let sizes = ["1GB", "2MB", "64KB"].map(str::to_owned);
    let (stats, summed) = Stats::gather(&files(&UNLIMITED), &sizes, &processes).unwrap();
    assert_eq!(summed, ["memory", "tasks", "block I/O"]);
    // Counted by every cgroup of version 2.
    assert_eq!(stats.cpu.usage.total, 1_000_000);
    assert_eq!(stats.memory.usage.usage, 8192);
    assert_eq!(stats.memory.usage.limit, u64::MAX);
    assert_eq!(stats.pids.current, 3);
    let blkio = serde_json::to_value(&stats.blkio).unwrap();
    assert_eq!(
        blkio,
        json!({"ioServiceBytesRecursive": [{"op": "Read", "value": 512}]})
    );
    let hugetlb = serde_json::to_value(&stats.hugetlb).unwrap();
    let expected = json!({"1GB": {"failcnt": 0}, "2MB": {"usage": 6_291_456, "failcnt": 3}});
    assert_eq!(hugetlb, expected);
}

#[test]
fn without_a_cgroup_everything_is_summed() {
    let (stats, summed) = Stats::gather(&|_| None, &["2MB".to_owned()], &processes).unwrap();
    assert_eq!(summed, ["processor time", "memory", "tasks", "block I/O"]);
    assert_eq!(stats.cpu.usage.total, 5_020_000_000);
    assert!(stats.hugetlb.is_empty() && stats.memory.raw.is_empty());
}

#[test]
fn no_limit_is_the_largest_number_of_memory_and_none_of_tasks() {
    let table = |swap: &'static str, memory: &'static str| {
        let files = [
            ("memory.current", "10\n"),
            ("memory.max", memory),
            ("memory.swap.max", swap),
            ("pids.current", "1\n"),
            ("pids.max", "max\n"),
        ];
        let files = files.map(|(name, text)| (name, text.to_owned()));
        let read = move |name: &str| {
            let found = files
                .iter()
                .find(|(file, text)| *file == name && !text.is_empty());
            found.map(|(_, text)| text.clone())
        };
        Stats::gather(&read, &[], &processes).unwrap().0
    };
    // memory.swap.max, memory.max, and the two together as version 1 has it; empty: there is no such file.
    for (swap, memory, usage_limit, swap_limit) in [
        ("max\n", "max\n", u64::MAX, u64::MAX),
        ("100\n", "max\n", u64::MAX, u64::MAX),
        ("max\n", "200\n", 200, u64::MAX),
        ("100\n", "200\n", 200, 300),
        ("", "200\n", 200, 200),
        ("0\n", "200\n", 200, 200),
    ] {
        let stats = table(swap, memory);
        assert_eq!(stats.memory.usage.limit, usage_limit, "{swap:?} {memory:?}");
        assert_eq!(stats.memory.swap.limit, swap_limit, "{swap:?} {memory:?}");
        assert_eq!(
            stats.pids,
            Pids {
                current: 1,
                limit: 0
            }
        );
    }
    // As a number, not as a float or a text.
    let text = serde_json::to_string(&table("max\n", "max\n").memory.usage).unwrap();
    assert!(text.contains("\"limit\":18446744073709551615,"), "{text}");
}

#[test]
fn pressure_files_of_all_kernels() {
    let text = "some avg10=0.12 avg60=1.00 avg300=99.99 total=123456\nfull avg10=0.00 avg60=0.50 avg300=0.00 total=7\n";
    let expected = json!({
        "some": {"avg10": 0.12, "avg60": 1.0, "avg300": 99.99, "total": 123_456},
        "full": {"avg10": 0.0, "avg60": 0.5, "avg300": 0.0, "total": 7}
    });
    assert_eq!(serde_json::to_value(psi(text).unwrap()).unwrap(), expected);
    // Before Linux 5.13 nobody had a "full" of the processor.
    let old = psi("some avg10=1.00 avg60=0.00 avg300=0.00 total=5\n").unwrap();
    assert_eq!((old.some.total, old.full.total), (5, 0));
    for nothing in ["", "\n", "half avg10=1\n"] {
        assert_eq!(psi(nothing), None, "{nothing:?}");
    }
    // Whether or not a controller counts as well.
    let read = |name: &str| name.ends_with(".pressure").then(|| text.to_owned());
    let (stats, _) = Stats::gather(&read, &[], &processes).unwrap();
    for psi in [stats.cpu.psi, stats.memory.psi, stats.blkio.psi] {
        assert_eq!(psi.unwrap().some.total, 123_456);
    }
}

#[test]
fn io_stat_with_the_faults_of_kernels() {
    let text = "8:16 rbytes=1 wbytes=0 rios=2 wios=0 dbytes=0 dios=0\n\
                8:0 \n\
                7:1 7:0 253:2 rbytes=5 wbytes=6 rios=7 wios=8 dbytes=0 dios=0\n\
                rbytes=9\n\
                x:y rbytes=9\n\
                9:9 rbytes=many wbytes\n";
    let read = |name: &str| (name == "io.stat").then(|| text.to_owned());
    let blkio = blkio(&read).unwrap();
    let told = |entries: &[BlkioEntry]| -> Vec<(u64, u64, &str, u64)> {
        let tuples = entries.iter().map(|e| (e.major, e.minor, e.op, e.value));
        tuples.collect()
    };
    assert_eq!(
        told(&blkio.io_service_bytes_recursive),
        [
            (8, 16, "Read", 1),
            (8, 16, "Write", 0),
            (253, 2, "Read", 5),
            (253, 2, "Write", 6)
        ]
    );
    assert_eq!(
        told(&blkio.io_serviced_recursive),
        [
            (8, 16, "Read", 2),
            (8, 16, "Write", 0),
            (253, 2, "Read", 7),
            (253, 2, "Write", 8)
        ]
    );
}

#[test]
fn lines_that_are_no_numbers_are_passed_over() {
    let expected = BTreeMap::from([("a".to_owned(), 1), ("c.d".to_owned(), 3)]);
    assert_eq!(flat_keyed("a 1\nb x\nc.d 3\n\nlonely\n"), expected);
    assert_eq!(value_of("oom 1\noom_kill 2\n", "oom_kill"), Some(2));
    assert_eq!(value_of("oom_kill 2\n", "oom"), None);
    assert_eq!(number("max\n"), Some(u64::MAX));
    assert_eq!(number("18446744073709551615\n"), Some(u64::MAX));
    for wrong in ["", "-1", "18446744073709551616", "1 2"] {
        assert_eq!(number(wrong), None, "{wrong:?}");
    }
    for (text, expected) in [
        ("\n", vec![]),
        ("3\n", vec![3]),
        ("0-2,5,7-8\n", vec![0, 1, 2, 5, 7, 8]),
        ("2-1,x,70000\n", vec![]),
    ] {
        assert_eq!(list(text), expected, "{text:?}");
    }
}

#[test]
fn the_sizes_of_huge_pages() {
    for (name, size) in [
        ("hugepages-2048kB", Some("2MB")),
        ("hugepages-1048576kB", Some("1GB")),
        ("hugepages-16777216kB", Some("16GB")),
        ("hugepages-64kB", Some("64KB")),
        ("hugepages-32768kB", Some("32MB")),
        ("hugepages-0kB", None),
        ("hugepages-kB", None),
        ("other", None),
    ] {
        assert_eq!(huge_page_size(name).as_deref(), size, "{name}");
    }
}

#[test]
fn interfaces_by_the_names_of_runc() {
    let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:   22586     382    0    0    0     0          0         0    22586     382    0    0    0     0       0          0
  eth0: 475720883   14381    1    2    0     0          0         0   744976    8647    3    4    0     0       0          0
  cut: 1 2 3\n";
    let expected = json!([{
        "Name": "eth0", "RxBytes": 475_720_883_u64, "RxPackets": 14_381, "RxErrors": 1, "RxDropped": 2,
        "TxBytes": 744_976, "TxPackets": 8647, "TxErrors": 3, "TxDropped": 4
    }]);
    assert_eq!(
        serde_json::to_value(network_interfaces(text)).unwrap(),
        expected
    );
}

#[test]
fn processes_are_summed_with_the_children_they_waited_for() {
    let units = Units {
        ticks: 100,
        page: 4096,
    };
    // utime 150, stime 50, cutime 25, cstime 5, 3 threads, 219 pages.
    let stat = "4242 (a) R 1 2) S 1 4242 4242 0 -1 4194304 93 0 0 0 150 50 25 5 20 0 3 0 987654 2613248 219 \
                18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
    let io = "rchar: 9\nwchar: 9\nsyscr: 9\nsyscw: 9\nread_bytes: 4096\nwrite_bytes: 512\ncancelled_write_bytes: 1\n";
    let mut sums = Sums::default();
    sums.add(stat, Some(io), units);
    sums.add(stat, None, units);
    // One that has ended meanwhile.
    sums.add("", None, units);
    sums.add("7 (x) S 1 2 3", Some(io), units);
    let expected = Sums {
        user: 3_500_000_000,
        kernel: 1_100_000_000,
        resident: 2 * 219 * 4096,
        threads: 6,
        read: Some(4096),
        written: Some(512),
    };
    assert_eq!(sums, expected);
}

/// What go-runc's types say must be a number or an object is one, in each of the cases above.
#[test]
fn nothing_is_null_that_must_not_be() {
    for read in [files(&LIMITED), files(&UNLIMITED)] {
        let (stats, _) = Stats::gather(&read, &[], &processes).unwrap();
        let mut value = serde_json::to_value(&stats).unwrap();
        let interfaces = value["network_interfaces"].take();
        assert_eq!(interfaces, Value::Null);
        value.as_object_mut().unwrap().remove("network_interfaces");
        assert!(!value.to_string().contains("null"), "{value}");
    }
}

#[test]
fn a_process_on_its_way_out_is_told_by_its_flags() {
    let stat = |flags| format!("42 (a) 3 b) R 1 42 42 0 -1 {flags} 93 0 0 0 0 0");
    for (flags, ending) in [("4194560", false), ("4194564", true), ("x", false)] {
        assert_eq!(sums::is_ending(&stat(flags)), ending, "{flags}");
    }
    assert!(!sums::is_ending("42 (a) R 4 4 4 4") && !sums::is_ending(""));
}
