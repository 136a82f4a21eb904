//! What the kernel keeps for each thread is there after a restore, or it is told that it is not.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::checkpoint_lab::{Lab, checkpoints_or_skip};
use crate::harness::skip;

/// The timer slack of the threads of a process, in nanoseconds, in the order of their numbers.
fn slacks(pid: u32) -> Vec<String> {
    let names = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name());
    let mut tids: Vec<u32> = names
        .map(|name| name.to_str().unwrap().parse().unwrap())
        .collect();
    tids.sort_unstable();
    let slack = |tid| fs::read_to_string(format!("/proc/{tid}/timerslack_ns")).unwrap();
    tids.into_iter()
        .map(|tid| slack(tid).trim().to_owned())
        .collect()
}

/// Checkpoints and restores it; what is told of either.
#[track_caller]
fn go_round(lab: &Lab) -> String {
    let checkpoint = lab.checkpoint(&[]).exits(0);
    let restore = lab.restore(&["-d"], "c").exits(0);
    format!("{}{}", checkpoint.err, restore.err)
}

fn manifest(lab: &Lab) -> Value {
    let text = fs::read(lab.fixture.path("ck/lodger.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn change(lab: &Lab, change: impl FnOnce(&mut Value)) {
    let mut manifest = manifest(lab);
    change(&mut manifest);
    fs::write(lab.fixture.path("ck/lodger.json"), manifest.to_string()).unwrap();
}

#[test]
fn each_thread_has_its_own_again() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[
        "attributes=first-cpu,best-effort,slack,reset,slice,huge:last-cpu,idle-io,little-slack,batch:first-cpu,core,idle",
    ]);
    lab.start();
    let before = lab.look("c");
    assert!(before.get("attributes.1").contains(" io=4006 "));
    assert_eq!(slacks(lab.pid("c")), ["123456", "7"]);
    for _ in 0..2 {
        assert_eq!(go_round(&lab), "");
        lab.look("c").goes_on_from(&before);
        assert_eq!(slacks(lab.pid("c")), ["123456", "7"]);
    }
    // The child, by its number on the host.
    let children = format!("/proc/{0}/task/{0}/children", lab.pid("c"));
    let child = fs::read_to_string(children).unwrap();
    let filter = fs::read_to_string(format!("/proc/{}/coredump_filter", child.trim())).unwrap();
    assert_eq!(filter.trim(), "00000001");
}

#[test]
fn who_has_nothing_of_its_own_is_not_told_of() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["attributes=:nice:nice"]);
    lab.start();
    let before = lab.look("c");
    assert_eq!(go_round(&lab), "");
    assert_eq!(manifest(&lab).get("attributes"), None);
    lab.look("c").goes_on_from(&before);
}

/// Only who is that user, or root of this machine, may set its I/O priority.
#[test]
fn processes_of_another_user() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["attributes=first-cpu::best-effort,last-cpu,slack,core,user"]);
    let caps = json!(["CAP_SETUID", "CAP_SETGID", "CAP_KILL"]);
    lab.fixture.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    lab.start();
    let before = lab.look("c");
    assert!(before.get("attributes.2").contains(" io=4006 "));
    assert_eq!(go_round(&lab), "");
    lab.look("c").goes_on_from(&before);
    let children = format!("/proc/{0}/task/{0}/children", lab.pid("c"));
    let child = fs::read_to_string(children).unwrap();
    assert_eq!(slacks(child.trim().parse().unwrap()), ["123456"]);
}

#[test]
fn what_the_config_asks_for() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["attributes="]);
    let config = &mut lab.fixture.config;
    config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 3});
    config["process"]["scheduler"] = json!({
        "policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]
    });
    config["linux"]["personality"] = json!({"domain": "LINUX32"});
    if Path::new("/proc/self/numa_maps").exists() {
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    }
    lab.start();
    let before = lab.look("c");
    assert_eq!(before.get("attribute.personality"), "8");
    let own = before.get("attributes.1");
    assert!(
        own.contains(" io=4003 policy=3 flags=1 nice=5 "),
        "{before:?}"
    );
    for _ in 0..2 {
        assert_eq!(go_round(&lab), "");
        lab.look("c").goes_on_from(&before);
    }
}

#[test]
fn a_personality_that_all_have() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["attributes=personality"]);
    lab.start();
    let before = lab.look("c");
    assert_eq!(before.get("attribute.personality"), "262144");
    assert_eq!(go_round(&lab), "");
    lab.look("c").goes_on_from(&before);
}

#[test]
fn what_only_a_process_itself_can_set_is_told() {
    checkpoints_or_skip!();
    for (word, file, told) in [
        (
            "attributes=::personality",
            "personality",
            "personality(2) that process 2",
        ),
        (
            "attributes=memory",
            "numa_maps",
            "memory policy that process 1",
        ),
        (
            "attributes=merge",
            "ksm_stat",
            "PR_SET_MEMORY_MERGE) that process 1",
        ),
        ("attributes=group", "autogroup", "autogroup) that process 1"),
    ] {
        if !Path::new("/proc/self").join(file).exists() {
            continue;
        }
        let lab = Lab::with(&[word]);
        lab.start();
        let before = lab.look("c");
        let ran = lab.checkpoint(&["--leave-running"]).exits(0);
        assert!(ran.err.contains(told), "{word}: {ran:#?}");
        assert!(
            ran.err.contains("CRIU does not save it"),
            "{word}: {ran:#?}"
        );
        lab.look("c").goes_on_from(&before);
    }
}

#[test]
fn cpus_that_are_not_here() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["attributes=first-cpu"]);
    lab.start();
    let before = lab.look("c");
    lab.checkpoint(&[]).ok();
    let cpu = before.get("attributes.1").to_owned();
    let first = manifest(&lab)["attributes"]["tasks"][0]["cpus"].clone();
    let Some(first) = first.as_str() else {
        skip!("there is but one CPU");
    };
    // Some of them, and none.
    let some = format!("{first},8000-8001");
    for (cpus, same) in [(some.as_str(), true), ("8000-8001", false)] {
        change(&lab, |manifest| {
            manifest["attributes"]["tasks"][0]["cpus"] = json!(cpus);
        });
        let ran = lab.restore(&["-d"], "c").exits(0);
        assert!(
            ran.err.contains("CPU affinity") && ran.err.contains("CPUs 8000-8001 are not there"),
            "{ran:#?}"
        );
        assert_eq!(lab.look("c").get("attributes.1") == cpu, same);
        lab.lodger(&["delete", "-f", "c"]).ok();
    }
}

#[test]
fn attributes_that_cannot_be() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["attributes=best-effort"]);
    lab.start();
    lab.checkpoint(&[]).ok();
    let whole = manifest(&lab);
    let long = vec!["0"; 5000].join(",");
    for (attributes, why) in [
        (json!({"personality": 0x0800_0000}), "personality"),
        (json!({"tasks": [{"tid": 0}]}), "thread 0"),
        (json!({"tasks": [{"tid": 1}, {"tid": 1}]}), "twice"),
        (
            json!({"tasks": [{"tid": 1, "io_priority": 4 << 13}]}),
            "I/O priority",
        ),
        (json!({"tasks": [{"tid": 1, "cpus": long}]}), "CPUs"),
        (
            json!({"tasks": [{"tid": 1, "cpus": "0-99999"}]}),
            "more than Linux",
        ),
        (
            json!({"tasks": [{"tid": 1, "timer_slack": -1}]}),
            "invalid value",
        ),
    ] {
        change(&lab, |manifest| {
            manifest["attributes"] = attributes.clone();
        });
        let ran = lab.restore(&["-d"], "c");
        assert!(ran.err.contains("lodger.json is damaged"), "{ran:#?}");
        ran.fails(1, why);
    }
    // A real-time class takes root of this machine, and a thread may be gone.
    change(&lab, |manifest| {
        manifest["attributes"] =
            json!({"tasks": [{"tid": 1, "io_priority": 1 << 13}, {"tid": 77, "cpus": "0"}]});
    });
    let ran = lab.restore(&["-d"], "c").exits(0);
    assert!(
        ran.err.contains("I/O priority") && ran.err.contains("ioprio_set"),
        "{ran:#?}"
    );
    lab.lodger(&["delete", "-f", "c"]).ok();
    change(&lab, |manifest| *manifest = whole);
    let ran = lab.restore(&["-d"], "c").exits(0);
    assert_eq!(ran.err, "");
    assert!(lab.look("c").get("attributes.1").contains(" io=4006 "));
}
