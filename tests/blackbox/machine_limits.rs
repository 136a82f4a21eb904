//! Limits that hold: what the kernel does with a container that has them, where all controllers are delegated.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Fixture, Ran, lodger_only, peer_differs, wait_for};
use crate::scopes::{
    answers, assert_no_scope, kept_by, leaf, number, property, says, scope, scopes, systemctl,
    unit, with_own_cgroups,
};

const MIB: u64 = 1 << 20;

/// A container whose root is its own, with these `linux.resources`.
fn limited(resources: Value) -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fixture.config["linux"]["resources"] = resources;
    fixture
}

const BUSY: &str = "while :; do :; done";
/// Takes all the memory there is.
const GREEDY: &str = "exec /bin/busybox tail /dev/zero";

#[test]
fn memory_that_is_not_there_ends_the_container() {
    let limit = 24 * MIB;
    let mut fixture = limited(json!({"memory": {"limit": limit, "swap": limit}}));
    assert_eq!(fixture.sh(GREEDY).run().code, 128 + 9);
    // Also when what is killed is not its first process.
    fixture.sh("/bin/busybox tail /dev/zero; echo $?");
    assert_eq!(fixture.run().ok(), "137\n");
    // A group ends as one.
    fixture.config["linux"]["resources"]["unified"] = json!({"memory.oom.group": "1"});
    assert_eq!(fixture.run().exits(128 + 9).out, "");
    assert_no_scope("lodger-c.scope");
}

#[test]
fn no_more_processes_than_that() {
    let mut fixture = limited(json!({"pids": {"limit": 6}}));
    fixture.sh("for i in 1 2 3 4 5 6 7 8 9; do sleep 600 & done; echo all");
    let none = |ran: Ran| {
        assert!(ran.code != 0 && ran.out.is_empty(), "{ran:#?}");
        assert!(ran.err.contains("can't fork"), "{ran:#?}");
    };
    none(fixture.run());
    fixture.config["linux"]["resources"] = json!({"pids": {"limit": 40}});
    assert_eq!(fixture.run().ok(), "all\n");
}

/// Up to version 1.2 of the specification it was no limit; since then it is one.
#[test]
fn no_process_besides_the_first() {
    lodger_only!("the versions of the specification");
    let mut fixture = limited(json!({"pids": {"limit": 0}}));
    fixture.sh("echo first; (echo second); echo third");
    let ran = fixture.run().exits(0);
    assert_eq!(ran.out, "first\nsecond\nthird\n");
    assert!(
        ran.err.contains("0 is taken for no limit"),
        "no note: {ran:#?}"
    );
    fixture.config["ociVersion"] = json!("1.3.0");
    let ran = fixture.run();
    assert!(ran.code != 0 && ran.out == "first\n", "{ran:#?}");
    assert!(ran.err.contains("can't fork"), "{ran:#?}");
}

#[test]
fn no_more_of_the_processor_than_that() {
    let (quota, period) = (10_000, 100_000);
    let mut fixture = limited(json!({"cpu": {"quota": quota, "period": period}}));
    fixture.sh(BUSY).runtime(&["run", "-d", "c"]).ok();
    let leaf = leaf(&fixture, "c");
    let stat = |key: &str| number(&leaf, "cpu.stat", key);
    let (begin, used) = (stat("nr_periods"), stat("usage_usec"));
    // A tenth is allowed, and all is what it would take. A machine that stood still for a second makes up for its periods at
    // once, and what was lent in that time is paid back in those that come.
    wait_for("ten periods, most of them for others", || {
        let (periods, throttled) = (stat("nr_periods") - begin, stat("nr_throttled"));
        let used = stat("usage_usec") - used;
        (periods >= 10 && throttled > 0 && used < periods * period / 2).then_some(())
    });
}

#[test]
fn the_processor_is_shared_by_weight() {
    let mut fixture = limited(json!({}));
    fixture.sh(BUSY);
    for (id, shares) in [("light", 64), ("heavy", 4096)] {
        fixture.config["linux"]["resources"] = json!({"cpu": {"shares": shares}});
        fixture.runtime(&["run", "-d", id]).ok();
    }
    let leaves = ["light", "heavy"].map(|id| leaf(&fixture, id));
    let used = || {
        leaves
            .each_ref()
            .map(|l| number(l, "cpu.stat", "usage_usec"))
    };
    let begin = used();
    // Who ran while the machine stood still makes up for it.
    wait_for("both to have worked, and one the most of it", || {
        let now = used();
        let [light, heavy] = [now[0] - begin[0], now[1] - begin[1]];
        (light > 20_000 && light + heavy > 1_000_000 && heavy > 4 * light).then_some(())
    });
}

/// Limits are for whole disks: the one of `/`, which has no parts in the guest.
#[test]
fn no_more_of_the_disk_than_that() {
    peer_differs!("crun", "1.8.1 leaves io.max empty in a scope");
    let device = std::fs::metadata("/").unwrap().dev();
    let major = rustix::fs::major(device);
    let minor = rustix::fs::minor(device);
    let limit = json!([{"major": major, "minor": minor, "rate": MIB}]);
    let mut fixture = limited(json!({"blockIO": {"throttleWriteBpsDevice": limit}}));
    fixture.sh("exec /bin/busybox dd if=/dev/zero of=/file bs=64k count=64 conv=fsync");
    // The kernel allows what time has brought, and so it is no sooner than that: four at one a second.
    let begin = Instant::now();
    fixture.run().ok();
    assert!(begin.elapsed() > Duration::from_secs(2));
    fixture.sleeping("d");
    let line = format!("{major}:{minor} rbps=max wbps={MIB} riops=max wiops=max");
    assert_eq!(says(&leaf(&fixture, "d"), "io.max"), line);
    assert_eq!(says(&scope(&fixture, "d"), "io.max"), line);
}

/// What a container's limits are, by the files and by the properties of the scope.
const FILES: [(&str, &str); 6] = [
    ("memory.max", "67108864"),
    ("memory.swap.max", "16777216"),
    ("memory.high", "50331648"),
    ("memory.low", "33554432"),
    ("pids.max", "20"),
    ("cpu.max", "20000 50000"),
];
const PROPERTIES: [(&str, &str); 7] = [
    ("MemoryMax", "67108864"),
    ("MemorySwapMax", "16777216"),
    ("MemoryHigh", "50331648"),
    ("MemoryLow", "33554432"),
    ("TasksMax", "20"),
    ("CPUQuotaPerSecUSec", "400ms"),
    ("CPUQuotaPeriodUSec", "50ms"),
];

fn with_all() -> Fixture {
    let mut fixture = limited(json!({
        "memory": {"limit": 64 * MIB, "swap": 80 * MIB, "reservation": 32 * MIB},
        "pids": {"limit": 20},
        "cpu": {"quota": 20_000, "period": 50_000},
        "unified": {"memory.high": "50331648", "memory.oom.group": "1"}
    }));
    with_own_cgroups(&mut fixture);
    fixture.sleeping("c");
    fixture
}

#[track_caller]
fn assert_all(fixture: &Fixture) {
    let (leaf, scope) = (leaf(fixture, "c"), scope(fixture, "c"));
    for (file, value) in FILES {
        assert_eq!(says(&leaf, file), value, "{file} of the container's");
        assert_eq!(says(&scope, file), value, "{file} of the scope's");
    }
    assert_eq!(says(&leaf, "memory.oom.group"), "1");
    let unit = unit(fixture, "c");
    for (name, value) in PROPERTIES {
        assert_eq!(property(&unit, name), value, "{name}");
    }
}

#[test]
fn limits_are_seen_by_all_and_stay_when_the_manager_begins_anew() {
    lodger_only!("a leaf in the scope");
    let fixture = with_all();
    assert_all(&fixture);
    // The container sees its own limits, at the root of what it sees.
    for (file, value) in FILES {
        let path = format!("/sys/fs/cgroup/{file}");
        let seen = fixture.bare(&["exec", "c", "cat", &path]).ok();
        assert_eq!(seen.trim_end(), value, "{file}");
    }
    let state = fixture.state("c");
    assert_eq!(state["cgroup"]["scope"], "lodger-c.scope");
    for limit in [
        "memory/limit",
        "memory/swap",
        "pids/limit",
        "cpu/quota",
        "unified/memory.high",
    ] {
        assert_eq!(kept_by(&state, limit), "systemd", "{limit}");
    }
    assert_eq!(kept_by(&state, "unified/memory.oom.group"), "cgroupfs");
    for verb in ["daemon-reload", "daemon-reexec"] {
        systemctl(&[verb]);
        // It hangs up before it begins anew, and is not to be reached for a moment.
        wait_for("the manager to answer", || answers().then_some(()));
        assert_all(&fixture);
    }
    fixture.bare(&["delete", "-f", "c"]).ok();
    assert_eq!(scopes("lodger-c.scope"), Vec::<String>::new());
}

/// Those of its own cgroup are no file of the container's, at the root of its namespace (cgroups(7), "nsdelegate"). Should they
/// be lifted all the same, the scope's hold.
#[test]
fn a_container_cannot_lift_its_limits() {
    peer_differs!(
        "crun",
        "cannot put a process of a login session into a scope"
    );
    let limit = 24 * MIB;
    let mut fixture =
        limited(json!({"memory": {"limit": limit, "swap": limit}, "pids": {"limit": 12}}));
    with_own_cgroups(&mut fixture);
    let lift = "cd /sys/fs/cgroup && for file in memory.max memory.high memory.swap.max pids.max; do echo max >$file; done";
    fixture.sh(&format!(
        "{lift}; cat memory.max pids.max; echo 1 >../memory.max; {GREEDY}"
    ));
    let ran = fixture.run();
    assert_eq!(ran.code, 128 + 9, "{ran:#?}");
    assert_eq!(ran.out, format!("{limit}\n12\n"), "{ran:#?}");
    fixture.sleeping("d");
    let leaf = leaf(&fixture, "d");
    for file in ["memory.max", "memory.swap.max", "pids.max"] {
        std::fs::write(leaf.join(file), "max").unwrap();
    }
    let greedy = fixture.bare(&["exec", "d", "/bin/busybox", "tail", "/dev/zero"]);
    assert_eq!(greedy.code, 128 + 9, "{greedy:#?}");
    fixture.bare(&["delete", "-f", "d"]).ok();
}

/// A systemd in there would use them all. Its own limits are no condition for that.
#[test]
fn a_container_has_the_controllers_for_cgroups_of_its_own() {
    lodger_only!("a leaf in the scope");
    for user in [0, 5] {
        let mut fixture = limited(json!({}));
        with_own_cgroups(&mut fixture);
        fixture.config["process"]["user"] = json!({"uid": user, "gid": user});
        fixture.sh(
            "cd /sys/fs/cgroup && mkdir -p init web && echo 1 >init/cgroup.procs && \
             echo '+cpu +io +memory +pids' >cgroup.subtree_control && echo 3 >web/pids.max && cat web/pids.max",
        );
        assert_eq!(fixture.run().ok(), "3\n", "uid {user}");
        assert_no_scope("lodger-c.scope");
    }
}

#[test]
fn a_file_that_no_kernel_has_is_an_error() {
    lodger_only!("its messages");
    for (file, error) in [
        (
            "memory.none",
            "this kernel's controller \"memory\" has no such file",
        ),
        ("none.max", "\"none\" is not delegated to /user.slice"),
    ] {
        let fixture = limited(json!({"unified": {file: "1"}}));
        let ran = fixture.run();
        let pointer = format!("/linux/resources/unified/{file}");
        assert!(ran.err.contains(&pointer), "{ran:#?}");
        ran.fails(1, error);
        assert_no_scope("lodger-c.scope");
    }
    let fixture = limited(json!({"unified": {"memory.high": "much"}}));
    fixture
        .run()
        .fails(1, "/linux/resources/unified/memory.high");
    assert_no_scope("lodger-c.scope");
}
