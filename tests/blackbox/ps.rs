//! ps: the processes of a container, for engines and for people.

use serde_json::Value;

use crate::harness::{Fixture, lodger_only};

/// Everything of the fixture's container `c` that `ps` prints as JSON.
fn pids(fixture: &Fixture) -> Vec<u64> {
    let text = fixture.bare(&["ps", "--format", "json", "c"]).ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn ps_as_json_is_an_array_of_the_hosts_pids() {
    lodger_only!("a container without a cgroup");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let first = fixture.state("c")["pid"].as_u64().unwrap();
    assert_eq!(pids(&fixture), [first]);
    fixture.bare(&["exec", "-d", "c", "/bin/sleep", "601"]).ok();
    let both = pids(&fixture);
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both.contains(&first) && both.is_sorted());
    let text = fixture.bare(&["ps", "-f", "json", "c"]).ok();
    let array: Value = serde_json::from_str(&text).unwrap();
    assert!(
        array.as_array().unwrap().iter().all(Value::is_u64),
        "{text}"
    );
}

#[test]
fn ps_of_a_created_and_of_a_stopped_container() {
    lodger_only!("a container without a cgroup");
    let fixture = Fixture::new();
    fixture.runtime(&["create", "c"]).ok();
    assert_eq!(
        pids(&fixture),
        [fixture.state("c")["pid"].as_u64().unwrap()]
    );
    fixture.bare(&["start", "c"]).ok();
    fixture.wait_status("c", "stopped");
    assert_eq!(fixture.bare(&["ps", "-f", "json", "c"]).ok(), "[]\n");
    let table = fixture.bare(&["ps", "c"]).ok();
    assert_eq!(table.lines().count(), 1, "{table}");
}

#[test]
fn ps_as_a_table_is_what_the_hosts_ps_says() {
    lodger_only!("a container without a cgroup");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let pid = fixture.state("c")["pid"].to_string();
    for args in [&["ps", "c"][..], &["ps", "-f", "table", "c"]] {
        let table = fixture.bare(args).ok();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2, "{table}");
        assert!(lines[0].starts_with("UID"), "{table}");
        assert_eq!(lines[1].split_whitespace().nth(1), Some(pid.as_str()));
        assert!(lines[1].ends_with("/bin/sleep 600"), "{table}");
    }
    let table = fixture.bare(&["ps", "c", "-eo", "args,pid"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(
        lines[1].starts_with("/bin/sleep 600") && lines[1].ends_with(&pid),
        "{table}"
    );
    // A program named ps earlier in PATH is not run.
    let directory = fixture.path("evil");
    std::fs::create_dir(&directory).unwrap();
    crate::harness::write_program(&directory.join("ps"), b"#!/bin/sh\necho PID evil\n");
    let mut command = fixture.command(&["ps", "c"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", directory.display()));
    let out = crate::harness::spawn(&mut command, b"").wait().ok();
    assert!(!out.contains("evil"), "{out}");
}

#[test]
fn ps_says_what_the_hosts_ps_does_not_like() {
    lodger_only!("a container without a cgroup");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    fixture
        .bare(&["ps", "c", "-o", "args"])
        .fails(1, "couldn't find PID field in ps output");
    fixture
        .bare(&["ps", "c", "--no-such-option"])
        .fails(1, "cannot run ps(1)");
    fixture.bare(&["ps", "-f", "xml", "c"]).fails(1, "xml");
    fixture
        .bare(&["ps", "nobody"])
        .fails(1, "container does not exist");
}

/// A caller may have ignored SIGCHLD, and exec(3) keeps that: the kernel then reaps children before anybody asks.
#[test]
fn a_caller_that_ignores_her_children_can_call_every_verb() {
    lodger_only!("ps and wait");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let ignoring = |args: &[&str]| {
        let command = fixture.command(args);
        let mut shell = std::process::Command::new("/bin/bash");
        shell
            .args(["-c", "trap '' CHLD; exec \"$@\"", "bash"])
            .arg(command.get_program())
            .args(command.get_args());
        crate::harness::spawn(&mut shell, b"")
    };
    let table = ignoring(&["ps", "c"]).wait().ok();
    assert_eq!(table.lines().count(), 2, "{table}");
    assert_eq!(
        ignoring(&["exec", "c", "/bin/echo", "x"]).wait().ok(),
        "x\n"
    );
    if !crate::wait::keeps_exit() {
        return;
    }
    let waiting = crate::wait::waiting(&fixture, "c", ignoring);
    fixture.bare(&["kill", "c", "KILL"]).ok();
    waiting.wait().exits(128 + 9);
}
