//! Scheduling policy, I/O priority, CPUs and oom score.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{
    Fixture, LIMIT, Ran, Running, lodger_only, peer_differs, skip, spawn, wait_for,
};

/// Prints policy, real-time priority, nice value (proc_pid_stat(5)) and I/O priority of the shell itself.
const TELL: &str = "read -r s </proc/self/stat; set -- $s; echo policy ${41} priority ${40} nice ${19}; ionice -p $$";

/// What a container's first process tells of its scheduling.
fn told(process: &[(&str, Value)]) -> String {
    let mut fixture = asking(process);
    fixture.sh(TELL);
    patiently(fixture.background(&["run", "c"], b"")).ok()
}

/// Waits for the end of one who may have to let everybody else on this machine go first.
fn patiently(mut running: Running) -> Ran {
    let ran = running.wait_at_most(LIMIT * 5);
    ran.expect("it ends")
}

fn asking(process: &[(&str, Value)]) -> Fixture {
    let mut fixture = Fixture::new();
    for (name, value) in process {
        fixture.config["process"][*name] = value.clone();
    }
    fixture
}

/// What `run` says to a process with these members.
fn refusal(process: &[(&str, Value)]) -> Ran {
    asking(process).run()
}

#[track_caller]
fn assert_told(told: &str, wanted: &[&str]) {
    for line in wanted {
        assert!(
            told.lines().any(|l| l.ends_with(line)),
            "no {line:?} in {told}"
        );
    }
}

/// The caller's own hard limit, by its name in /proc/self/limits.
fn hard_limit(name: &str) -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    let hard = line.unwrap().split_whitespace().nth(1).unwrap();
    hard.parse().unwrap_or(u64::MAX)
}

#[test]
fn a_policy_and_a_nice_value() {
    peer_differs!("runc", "1.1 ignores process.scheduler in silence");
    peer_differs!("crun", "1.8.1 ignores process.scheduler in silence");
    for (policy, nice, wanted) in [
        ("SCHED_OTHER", 0, "policy 0 priority 0 nice 0"),
        ("SCHED_OTHER", 7, "policy 0 priority 0 nice 7"),
        ("SCHED_BATCH", 0, "policy 3 priority 0 nice 0"),
        ("SCHED_BATCH", 19, "policy 3 priority 0 nice 19"),
        ("SCHED_IDLE", 0, "policy 5 priority 0 nice 0"),
    ] {
        let told = told(&[("scheduler", json!({"policy": policy, "nice": nice}))]);
        assert_told(&told, &[wanted]);
    }
}

#[test]
fn children_are_reset_where_the_flag_says_so() {
    lodger_only!("process.scheduler, among peers of this age,");
    let mut fixture = asking(&[(
        "scheduler",
        json!({"policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
    )]);
    fixture.sh("command -v chrt >/dev/null || exit 9; chrt -p $$");
    let ran = fixture.run();
    if ran.code == 9 {
        skip!("the root filesystem has no chrt");
    }
    assert_told(&ran.ok(), &["policy: SCHED_BATCH|SCHED_RESET_ON_FORK"]);
}

#[test]
fn flags_that_keep_what_the_caller_has() {
    lodger_only!("process.scheduler, among peers of this age,");
    for flag in ["SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_KEEP_PARAMS"] {
        let told = told(&[(
            "scheduler",
            json!({"policy": "SCHED_OTHER", "nice": 0, "flags": [flag]}),
        )]);
        assert_told(&told, &["policy 0 priority 0 nice 0"]);
    }
}

/// With a limit of the config's, as the caller's soft one is 0 most often: so the limits are in force first.
#[test]
fn a_real_time_policy_within_the_limits_of_the_config() {
    lodger_only!("process.scheduler, among peers of this age,");
    for (policy, priority, wanted) in [
        ("SCHED_FIFO", 1, "policy 1 priority 1 nice 0"),
        ("SCHED_RR", 7, "policy 2 priority 7 nice 0"),
    ] {
        let asked = json!({"policy": policy, "priority": priority});
        let limits = json!([{"type": "RLIMIT_RTPRIO", "soft": 7, "hard": 7}]);
        let mut fixture = asking(&[("scheduler", asked), ("rlimits", limits)]);
        fixture.sh(TELL);
        let ran = fixture.run();
        if hard_limit("Max realtime priority") < 7 {
            ran.fails(1, "RLIMIT_RTPRIO cannot be raised to 7");
            continue;
        }
        assert_told(&ran.ok(), &[wanted]);
    }
}

#[test]
fn a_negative_nice_value_within_the_limits_of_the_config() {
    lodger_only!("process.scheduler, among peers of this age,");
    let asked = json!({"policy": "SCHED_OTHER", "nice": -5});
    let limits = json!([{"type": "RLIMIT_NICE", "soft": 25, "hard": 25}]);
    let mut fixture = asking(&[("scheduler", asked), ("rlimits", limits)]);
    fixture.sh(TELL);
    let ran = fixture.run();
    if hard_limit("Max nice priority") < 25 {
        ran.fails(1, "RLIMIT_NICE cannot be raised to 25");
    } else {
        assert_told(&ran.ok(), &["policy 0 priority 0 nice -5"]);
    }
}

/// What an ordinary user may not have is known before anything is made.
#[test]
fn a_policy_that_no_limit_allows_is_refused_with_the_reason() {
    lodger_only!("refusing what cannot be had of process.scheduler");
    let table = [
        (
            json!({"policy": "SCHED_FIFO", "priority": 10}),
            "/process/scheduler/priority: SCHED_FIFO with priority 10 needs RLIMIT_RTPRIO 10, which will be ",
        ),
        (
            json!({"policy": "SCHED_RR", "priority": 99}),
            "/process/scheduler/priority: SCHED_RR with priority 99 needs RLIMIT_RTPRIO 99, which will be ",
        ),
        (
            json!({"policy": "SCHED_OTHER", "nice": -20}),
            "/process/scheduler/nice: going from nice 0 to -20 needs RLIMIT_NICE 40, which will be ",
        ),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 10_000_000, "deadline": 20_000_000, "period": 20_000_000}),
            "/process/scheduler/policy: SCHED_DEADLINE needs CAP_SYS_NICE in the initial user namespace",
        ),
        (
            json!({"policy": "SCHED_ISO"}),
            "/process/scheduler/policy: SCHED_ISO is reserved and was never part of Linux",
        ),
    ];
    for (scheduler, why) in table {
        let fixture = asking(&[("scheduler", scheduler)]);
        fixture.run().fails(1, why);
        fixture.bare(&["state", "c"]).exits(1);
    }
}

/// A limit of the config counts, not the caller's: the policy is asked for when it is in force.
#[test]
fn a_limit_that_the_config_lowers_is_the_one_that_counts() {
    lodger_only!("refusing what cannot be had of process.scheduler");
    refusal(&[
        ("scheduler", json!({"policy": "SCHED_FIFO", "priority": 5})),
        (
            "rlimits",
            json!([{"type": "RLIMIT_RTPRIO", "soft": 0, "hard": 0}]),
        ),
    ])
    .fails(1, "needs RLIMIT_RTPRIO 5, which will be 0: ");
}

/// A nice value is not given back: without one the config means 0, which is less than what the caller has.
#[test]
fn a_nice_value_is_counted_from_the_callers() {
    lodger_only!("process.scheduler, among peers of this age,");
    let run = |scheduler| {
        let mut fixture = asking(&[("scheduler", scheduler)]);
        fixture.sh(TELL);
        fixture.write_config();
        let run = fixture.command(&["run", "c"]);
        let mut command = std::process::Command::new("nice");
        command
            .args(["-n", "5"])
            .arg(run.get_program())
            .args(run.get_args())
            .current_dir(fixture.bundle());
        spawn(&mut command, b"").wait()
    };
    let told = run(json!({"policy": "SCHED_BATCH", "nice": 7})).ok();
    assert_told(&told, &["policy 3 priority 0 nice 7"]);
    run(json!({"policy": "SCHED_OTHER"})).fails(
        1,
        "/process/scheduler/nice: going from nice 5 to 0 needs RLIMIT_NICE 20, which will be ",
    );
}

#[test]
fn what_the_kernel_refuses_is_explained() {
    lodger_only!("refusing what cannot be had of process.scheduler");
    // Known to the kernel alone: whether it was built with CONFIG_UCLAMP_TASK.
    let fixture = asking(&[(
        "scheduler",
        json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN"]}),
    )]);
    let ran = fixture.run();
    if ran.code != 0 {
        let ran = ran.fails(
            1,
            "cannot run with SCHED_OTHER (/process/scheduler)\n  caused by: sched_setattr(",
        );
        assert!(ran.err.contains("CONFIG_UCLAMP_TASK"), "{ran:#?}");
        fixture.bare(&["state", "c"]).exits(1);
    }
}

#[test]
fn an_io_priority() {
    peer_differs!("runc", "1.1 ignores process.ioPriority in silence");
    peer_differs!("crun", "1.8.1 ignores process.ioPriority in silence");
    for (class, priority, wanted) in [
        ("IOPRIO_CLASS_BE", 7, "best-effort: prio 7"),
        ("IOPRIO_CLASS_BE", 0, "best-effort: prio 0"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
    ] {
        let told = told(&[("ioPriority", json!({"class": class, "priority": priority}))]);
        assert_told(&told, &[wanted]);
    }
}

#[test]
fn a_real_time_io_priority_is_refused_with_the_reason() {
    lodger_only!("refusing what cannot be had of process.ioPriority");
    let asked = json!({"class": "IOPRIO_CLASS_RT", "priority": 3});
    refusal(&[("ioPriority", asked)]).fails(
        1,
        "/process/ioPriority/class: IOPRIO_CLASS_RT needs CAP_SYS_NICE in the initial user namespace",
    );
}

#[test]
fn exec_has_the_scheduling_of_the_containers_process() {
    lodger_only!("process.scheduler and process.ioPriority, among peers of this age,");
    let mut fixture = asking(&[
        ("scheduler", json!({"policy": "SCHED_BATCH", "nice": 4})),
        (
            "ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 6}),
        ),
    ]);
    fixture.sleeping("c");
    let told = fixture.bare(&["exec", "c", "/bin/sh", "-c", TELL]).ok();
    assert_told(
        &told,
        &["policy 3 priority 0 nice 4", "best-effort: prio 6"],
    );
}

#[test]
fn exec_has_the_scheduling_of_its_process_file() {
    lodger_only!("process.scheduler and process.ioPriority, among peers of this age,");
    let mut fixture = asking(&[("scheduler", json!({"policy": "SCHED_BATCH", "nice": 4}))]);
    fixture.sleeping("c");
    let mut process = fixture.config["process"].clone();
    process["args"] = json!(["/bin/sh", "-c", TELL]);
    process["scheduler"] = json!({"policy": "SCHED_IDLE"});
    process["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7});
    let told = exec_process(&fixture, &process).ok();
    assert_told(&told, &["policy 5 priority 0 nice 0", "idle"]);
    process["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": 99});
    exec_process(&fixture, &process).fails(255, "/process/scheduler/priority: SCHED_FIFO");
    process["scheduler"] = json!({"policy": "SCHED_LIFO"});
    exec_process(&fixture, &process).fails(
        255,
        "/process/scheduler/policy: there is no scheduling policy \"SCHED_LIFO\"",
    );
}

fn exec_process(fixture: &Fixture, process: &Value) -> Ran {
    let path = fixture.path("process.json");
    fs::write(&path, process.to_string()).unwrap();
    let args = ["exec", "--process", path.to_str().unwrap(), "c"];
    patiently(fixture.background(&args, b""))
}

/// The CPUs this test may run on.
fn own_cpus() -> Vec<u32> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    list.trim()
        .split(',')
        .flat_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<u32>().unwrap()..=last.parse().unwrap()
        })
        .collect()
}

/// The CPUs of the shell, as the kernel tells them.
const CPUS: &str = "grep Cpus_allowed_list: /proc/self/status";

fn joined_on(affinity: &Value) -> (String, Ran) {
    let mut fixture = asking(&[("execCPUAffinity", affinity.clone())]);
    fixture.sh("grep Cpus_allowed_list: /proc/self/status; exec sleep 600");
    let run = fixture.runtime(&["run", "-d", "c"]).exits(0);
    fixture.wait_status("c", "running");
    let ran = fixture.bare(&["exec", "c", "/bin/sh", "-c", CPUS]);
    (run.out, ran)
}

#[test]
fn the_cpus_of_a_process_that_joins() {
    peer_differs!("runc", "1.1 ignores process.execCPUAffinity in silence");
    peer_differs!("crun", "1.8.1 ignores process.execCPUAffinity in silence");
    let own = own_cpus();
    let [first, .., last] = own[..] else {
        skip!("there is but one CPU");
    };
    for (affinity, wanted) in [
        (json!({"initial": first.to_string()}), first),
        (json!({"final": last.to_string()}), last),
        (
            json!({"initial": first.to_string(), "final": last.to_string()}),
            last,
        ),
    ] {
        let (_, joined) = joined_on(&affinity);
        let wanted = format!("Cpus_allowed_list:\t{wanted}\n");
        assert_eq!(joined.ok(), wanted, "{affinity}");
    }
}

#[test]
fn the_cpus_of_the_containers_own_process_are_left_alone() {
    let own = own_cpus();
    let affinity = json!({"initial": own[0].to_string(), "final": own[0].to_string()});
    let mut fixture = asking(&[("execCPUAffinity", affinity)]);
    fixture.sh(CPUS);
    let before = fs::read_to_string("/proc/self/status").unwrap();
    let line = fixture.run().ok();
    assert!(before.contains(&line), "{line:?} in {before}");
}

#[test]
fn an_empty_list_of_cpus_asks_for_nothing() {
    let mut fixture = asking(&[("execCPUAffinity", json!({"initial": "", "final": ""}))]);
    fixture.sleeping("c");
    let before = fs::read_to_string("/proc/self/status").unwrap();
    let line = fixture.bare(&["exec", "c", "/bin/sh", "-c", CPUS]).ok();
    assert!(before.contains(&line), "{line:?} in {before}");
}

#[test]
fn a_cpu_that_is_not_there_is_an_error() {
    lodger_only!("refusing CPUs that are not there");
    let own = own_cpus();
    // The kernel itself says nothing where one of them is there.
    for (affinity, cause) in [
        (json!({"initial": "8000"}), "sched_setaffinity"),
        (json!({"final": "8000"}), "sched_setaffinity"),
        (
            json!({"initial": format!("{},8000-8001", own[0])}),
            "CPUs 8000-8001 are not there, or not allowed",
        ),
        (
            json!({"final": format!("{},8000", own[0])}),
            "CPUs 8000 are not there, or not allowed",
        ),
    ] {
        let (_, joined) = joined_on(&affinity);
        let ran = joined.fails(255, "cannot run on the CPUs ");
        assert!(ran.err.contains(cause), "{cause}: {ran:#?}");
        assert!(ran.err.contains("/process/execCPUAffinity/"), "{ran:#?}");
    }
}

#[test]
fn what_is_no_list_of_cpus_is_an_error_of_create() {
    peer_differs!("runc", "1.1 ignores process.execCPUAffinity in silence");
    peer_differs!("crun", "1.8.1 ignores process.execCPUAffinity in silence");
    for (text, why) in [
        ("0-", "is not a list of numbers and ranges"),
        ("3-1", "ends before it begins"),
        ("0,8192", "is more than Linux can have"),
    ] {
        let told = format!("/process/execCPUAffinity/final: {text:?}: ");
        let ran = refusal(&[("execCPUAffinity", json!({"final": text}))]).fails(1, &told);
        assert!(ran.err.contains(why), "{ran:#?}");
    }
}

#[test]
fn the_oom_score_of_a_process_that_joins_is_not_the_runtimes() {
    peer_differs!(
        "crun",
        "1.8.1 runs exec without the oomScoreAdj of the config"
    );
    let mut fixture = asking(&[("oomScoreAdj", json!(321))]);
    fixture.sleeping("c");
    let script = "cat /proc/self/oom_score_adj; exec sleep 600";
    let exec = fixture.background(&["exec", "c", "/bin/sh", "-c", script], b"");
    wait_for("the score of the process", || {
        (exec.out() == "321\n").then_some(())
    });
    let read = |pid: &str| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(read(&exec.pid().to_string()), read("self"));
}

#[test]
fn an_oom_score_that_is_too_low_is_refused_with_the_one_there_is() {
    lodger_only!("naming the current value");
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let own = own.trim();
    let mut fixture = asking(&[("oomScoreAdj", json!(-999))]);
    let ran = fixture.run().fails(
        1,
        &format!(
            "cannot set oom_score_adj to -999 (/process/oomScoreAdj): the current value is {own}"
        ),
    );
    assert!(
        ran.err.contains(&format!("ask for {own} or more")),
        "{ran:#?}"
    );
    fixture.config["process"]["oomScoreAdj"] = json!(5);
    fixture.sleeping("c");
    let mut process = fixture.config["process"].clone();
    process["args"] = json!(["/bin/true"]);
    process["oomScoreAdj"] = json!(-999);
    exec_process(&fixture, &process).fails(255, "(/process/oomScoreAdj): the current value is");
}
