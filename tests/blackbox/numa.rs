//! NUMA memory policy, and the execution domain.

use serde_json::{Value, json};

use crate::harness::{Fixture, Ran, lodger_only, peer_differs, skip};

/// What the memory of a container's process is bound to, a word a mapping, each once.
fn memory_policy(policy: &Value) -> Ran {
    let mut fixture = Fixture::new();
    fixture.config["linux"]["memoryPolicy"] = policy.clone();
    fixture.args(&["cat", "/proc/self/numa_maps"]);
    fixture.run()
}

fn has_numa() -> bool {
    std::path::Path::new("/proc/self/numa_maps").exists()
}

#[test]
fn a_memory_policy() {
    peer_differs!("runc", "1.1 ignores linux.memoryPolicy in silence");
    peer_differs!("crun", "1.8.1 ignores linux.memoryPolicy in silence");
    if !has_numa() {
        skip!("this kernel has no NUMA");
    }
    for (policy, wanted) in [
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_PREFERRED"}), "local"),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-0"}),
            "interleave:0",
        ),
        (
            json!({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}),
            "prefer (many):0",
        ),
        (
            json!({"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0"}),
            "weighted interleave:0",
        ),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0,7", "flags": ["MPOL_F_STATIC_NODES"]}),
            "bind=static:0",
        ),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}),
            "bind=relative:0",
        ),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}),
            "bind=balancing:0",
        ),
    ] {
        let maps = memory_policy(&policy).ok();
        assert!(!maps.is_empty());
        for line in maps.lines() {
            let told = line.split_once(' ').unwrap().1;
            assert!(told.starts_with(wanted), "{policy}: {line}");
        }
    }
}

#[test]
fn a_memory_node_that_is_not_there_is_an_error() {
    lodger_only!("refusing memory nodes that are not there");
    if !has_numa() {
        skip!("this kernel has no NUMA");
    }
    let bind = |nodes| json!({"mode": "MPOL_BIND", "nodes": nodes});
    memory_policy(&bind("900")).fails(
        1,
        "cannot set MPOL_BIND (/linux/memoryPolicy)\n  caused by: set_mempolicy(",
    );
    memory_policy(&bind("0,900-901"))
        .fails(1, "memory nodes 900-901 are not there, or not allowed");
}

#[test]
fn exec_has_the_memory_policy_of_the_container() {
    lodger_only!("linux.memoryPolicy, among peers of this age,");
    if !has_numa() {
        skip!("this kernel has no NUMA");
    }
    let mut fixture = Fixture::new();
    fixture.config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    fixture.sleeping("c");
    let maps = fixture
        .bare(&["exec", "c", "cat", "/proc/self/numa_maps"])
        .ok();
    assert!(maps.lines().all(|line| line.contains(" bind:0")), "{maps}");
}

#[test]
fn the_execution_domain() {
    peer_differs!("runc", "1.1 ignores linux.personality in silence");
    let machine = rustix::system::uname();
    let machine = machine.machine().to_str().unwrap();
    if machine != "x86_64" {
        skip!("what uname(2) says under LINUX32 is known for x86_64 only");
    }
    for (domain, wanted) in [("LINUX", "x86_64\n"), ("LINUX32", "i686\n")] {
        let mut fixture = Fixture::new();
        fixture.config["linux"]["personality"] = json!({"domain": domain});
        fixture.args(&["uname", "-m"]);
        assert_eq!(fixture.run().ok(), wanted);
        fixture.sleeping("e");
        let joined = fixture.bare(&["exec", "e", "uname", "-m"]);
        assert_eq!(joined.ok(), wanted, "exec");
    }
}

/// `setarch -R` of the caller takes address space randomisation away; a domain of the config gives it back.
#[test]
fn the_execution_domain_takes_the_callers_flags_away() {
    lodger_only!("personality(2) without flags, among peers of this age,");
    let mut fixture = Fixture::new();
    fixture.config["linux"]["personality"] = json!({"domain": "LINUX"});
    fixture.args(&["cat", "/proc/self/personality"]);
    fixture.write_config();
    let run = fixture.command(&["run", "c"]);
    let mut command = std::process::Command::new("setarch");
    command
        .arg("-R")
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(fixture.bundle());
    let ran = crate::harness::spawn(&mut command, b"").wait();
    assert_eq!(ran.ok(), "00000000\n");
}

#[test]
fn flags_of_a_personality_are_refused() {
    peer_differs!("runc", "1.1 ignores linux.personality in silence");
    peer_differs!("crun", "1.8.1 ignores the flags of linux.personality");
    let mut fixture = Fixture::new();
    fixture.config["linux"]["personality"] =
        json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]});
    fixture.run().fails(
        1,
        "/linux/personality/flags/0: \"ADDR_NO_RANDOMIZE\": the specification has no flags of a personality",
    );
}
