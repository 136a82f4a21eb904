//! events and stats of a container without a cgroup of its own: what /proc tells, when it ends, and what is no interval.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Fixture, Running, lodger_only, read_lossy, spawn, wait_for};
use crate::pty::Pty;
use crate::tracing::is_in_call;

const NOTE: &str = "no cgroup of its own counts processor time, memory, tasks and block I/O: summed over its processes";

/// The objects, one a line, that `events` wrote.
pub(crate) fn lines(text: &str) -> Vec<Value> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    whole.lines().map(parse).collect()
}

/// `data` of `events --stats`, and what was said on stderr.
pub(crate) fn numbers(fixture: &Fixture, id: &str) -> (Value, String) {
    let ran = fixture.bare(&["events", "--stats", id]).exits(0);
    let mut event = match &lines(&ran.out)[..] {
        [event] => event.clone(),
        _ => panic!("{ran:#?}"),
    };
    assert_eq!(event["type"], "stats", "{ran:#?}");
    assert_eq!(event["id"], id, "{ran:#?}");
    (event["data"].take(), ran.err)
}

/// [`numbers`] once there is memory among them: of a program that has just begun the kernel counts none, as it is some pages late.
pub(crate) fn numbers_with_memory(fixture: &Fixture, id: &str) -> (Value, String) {
    wait_for("memory to be counted", || {
        let usage = |data: &Value| data["memory"]["usage"]["usage"].as_u64();
        Some(numbers(fixture, id)).filter(|(data, _)| usage(data) > Some(0))
    })
}

fn number(data: &Value, pointer: &str) -> u64 {
    let found = data.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no {pointer} in {data}"))
}

/// `events` of `c` in the background, which has begun to watch: what happens from now on, it tells of.
pub(crate) fn watching(fixture: &Fixture, interval: &str) -> Running {
    let log = tempfile::NamedTempFile::new_in(fixture.bundle()).unwrap();
    let path = log.path().to_str().unwrap();
    let args = ["--debug", "--log", path, "events", "--interval", interval];
    let mut events = fixture.background(&[&args[..], &["c"]].concat(), b"");
    wait_for("`events` to have begun", || {
        let early = events.wait_at_most(Duration::ZERO);
        assert!(early.is_none(), "{early:#?}");
        let told = read_lossy(log.path());
        told.contains("watching the container").then_some(())
    });
    events
}

/// Waits until `events` waits, which has nothing else to do once it watches. Its state alone would say so before that is counted.
fn idle(events: &Running) {
    wait_for("events to wait", || {
        is_in_call(events.pid(), nix::libc::SYS_ppoll).then_some(())
    });
}

/// How often the process has begun to wait.
fn switches(events: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", events.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn numbers_without_a_cgroup_are_sums_and_said_to_be() {
    lodger_only!("a container without a cgroup");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let (data, said) = numbers_with_memory(&fixture, "c");
    assert!(said.contains(NOTE) && said.contains("hint: "), "{said}");
    assert_eq!(number(&data, "/pids/current"), 1);
    let one = number(&data, "/memory/usage/usage");
    assert!(one.is_multiple_of(4096), "{data}");
    // No limit of its own, and nothing that nobody counts.
    assert_eq!(number(&data, "/memory/usage/limit"), u64::MAX);
    assert!(data["memory"].get("raw").is_none(), "{data}");
    assert_eq!(data["hugetlb"], serde_json::json!({}));
    assert_eq!(data["network_interfaces"], serde_json::json!([]));
    let entries = data["blkio"]["ioServiceBytesRecursive"].as_array().unwrap();
    let ops: Vec<&Value> = entries.iter().map(|entry| &entry["op"]).collect();
    assert_eq!(ops, ["Read", "Write"], "{data}");
    // What joins it is counted.
    fixture.bare(&["exec", "-d", "c", "/bin/sleep", "601"]).ok();
    wait_for("two processes to be counted", || {
        let (data, _) = numbers(&fixture, "c");
        let more = number(&data, "/memory/usage/usage") > one;
        (number(&data, "/pids/current") == 2 && more).then_some(())
    });
}

#[test]
fn processor_time_grows_and_is_nobody_elses() {
    lodger_only!("a container without a cgroup");
    let mut fixture = Fixture::new();
    fixture.sleeping("idle");
    fixture.sh("while :; do :; done");
    fixture.runtime(&["run", "-d", "busy"]).ok();
    // In nanoseconds: half a second.
    wait_for("processor time to be used", || {
        let (data, _) = numbers(&fixture, "busy");
        (number(&data, "/cpu/usage/user") > 500_000_000).then_some(())
    });
    let (data, _) = numbers(&fixture, "busy");
    let sum = number(&data, "/cpu/usage/user") + number(&data, "/cpu/usage/kernel");
    assert_eq!(number(&data, "/cpu/usage/total"), sum);
    let (data, _) = numbers(&fixture, "idle");
    let user = number(&data, "/cpu/usage/user");
    assert!(user < 500_000_000, "{data}");
}

#[test]
fn a_created_container_has_numbers() {
    lodger_only!("a container without a cgroup");
    let fixture = Fixture::new();
    fixture.runtime(&["create", "c"]).ok();
    let (data, _) = numbers(&fixture, "c");
    assert_eq!(number(&data, "/pids/current"), 1);
}

#[test]
fn a_container_that_has_stopped_is_not_running() {
    let fixture = Fixture::new();
    fixture.runtime(&["run", "-d", "c"]).ok();
    fixture.wait_status("c", "stopped");
    let told = "container with id c is not running";
    fixture.bare(&["events", "c"]).fails(1, told);
    fixture.bare(&["events", "--stats", "c"]).fails(1, told);
    fixture.bare(&["stats", "c"]).fails(1, told);
    for verb in ["events", "stats"] {
        let ran = fixture.bare(&[verb, "nobody"]);
        ran.fails(1, "container does not exist");
    }
}

#[test]
fn intervals_are_durations_of_go() {
    lodger_only!("the words for a wrong interval");
    let fixture = Fixture::new();
    for verb in ["events", "stats"] {
        for (interval, told) in [
            ("0", "duration interval must be greater than 0"),
            ("-1s", "duration interval must be greater than 0"),
            ("5", "it is not a duration such as 5s, 1m30s or 500ms"),
            ("soon", "it is not a duration"),
        ] {
            let ran = fixture.bare(&[verb, "--interval", interval, "c"]);
            ran.fails(1, told);
        }
        // What is one is taken: the container is what is missing.
        for interval in ["1m30s", "0.5s", "100us", "2562047h"] {
            let ran = fixture.bare(&[verb, "--interval", interval, "c"]);
            ran.fails(1, "container does not exist");
        }
    }
}

#[test]
fn the_stream_ends_with_the_container() {
    lodger_only!("a container without a cgroup");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    numbers_with_memory(&fixture, "c");
    let events = fixture.background(&["events", "--interval", "20ms", "c"], b"");
    wait_for("three events", || {
        (lines(&events.out()).len() >= 3).then_some(())
    });
    fixture.bare(&["kill", "c", "KILL"]).ok();
    let ran = events.wait().exits(0);
    // Once, not with each event.
    assert_eq!(ran.err.matches(NOTE).count(), 1, "{ran:#?}");
    for event in lines(&ran.out) {
        assert_eq!(event["type"], "stats");
        assert!(number(&event, "/data/memory/usage/usage") > 0, "{event}");
    }
}

#[test]
fn nothing_is_looked_at_between_events() {
    lodger_only!("a container without a cgroup");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let events = watching(&fixture, "1h");
    idle(&events);
    let before = switches(&events);
    for _ in 0..5 {
        fixture.state("c");
    }
    assert_eq!(switches(&events), before);
    let status = fs::read_to_string(format!("/proc/{}/status", events.pid())).unwrap();
    assert!(status.contains("\nThreads:\t1\n"), "{status}");
    assert_eq!(events.out(), "");
    fixture.bare(&["kill", "c", "KILL"]).ok();
    let ran = events.wait().exits(0);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
}

/// `events … | COMMAND` with the status of events and what it said.
fn piped(fixture: &Fixture, interval: &str, into: &str) -> (String, String) {
    let events = fixture.command(&["events", "--interval", interval, "c"]);
    let said = fixture.path("said");
    let script = format!("\"$@\" 2>\"$SAID\" | {into}; echo \"${{PIPESTATUS[0]}}\"");
    let mut shell = Command::new("/bin/bash");
    shell
        .args(["-c", &script, "bash"])
        .arg(events.get_program())
        .args(events.get_args())
        .env("SAID", &said);
    (spawn(&mut shell, b"").wait().ok(), read_lossy(&said))
}

#[test]
fn the_stream_ends_in_silence_when_nobody_reads() {
    lodger_only!("a container without a cgroup");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    // At once, not with the next event.
    let (out, said) = piped(&fixture, "1h", "true");
    assert_eq!((out.as_str(), said.as_str()), ("0\n", ""));
    let (out, said) = piped(&fixture, "10ms", "head -n 1");
    let status = out.lines().last();
    assert_eq!(status, Some("0"), "{out}");
    assert!(!said.contains("error"), "{said}");
}

#[test]
fn a_table_of_those_that_run() {
    lodger_only!("stats");
    let mut fixture = Fixture::new();
    let nothing = fixture.bare(&["stats"]).ok();
    assert_eq!(nothing.lines().count(), 1, "{nothing}");
    assert!(nothing.starts_with("ID"), "{nothing}");
    fixture.sleeping("a");
    fixture.sleeping("b");
    fixture.runtime(&["run", "-d", "gone"]).ok();
    fixture.bare(&["kill", "gone", "KILL"]).ok();
    fixture.wait_status("gone", "stopped");
    // It does not run on: this is no terminal.
    let ran = fixture.bare(&["stats", "--interval", "1h"]).exits(0);
    let rows: Vec<&str> = ran.out.lines().collect();
    assert!(
        rows.len() == 3 && rows[0].contains("MEM USAGE / LIMIT"),
        "{ran:#?}"
    );
    assert!(
        rows[1].starts_with("a  ") && rows[2].starts_with("b  "),
        "{ran:#?}"
    );
    // All of it is a sum, and there is no limit.
    assert!(
        rows[1].contains("B / -") && rows[1].ends_with("~1"),
        "{ran:#?}"
    );
    assert!(ran.err.contains(&format!("note: a, b: {NOTE}")), "{ran:#?}");
    assert_eq!(ran.err.matches(NOTE).count(), 1, "{ran:#?}");
    let named = fixture.bare(&["stats", "b"]).ok();
    assert_eq!(named.lines().count(), 2, "{named}");
    fixture
        .bare(&["stats", "b", "gone"])
        .fails(1, "container with id gone is not running");
    let json = fixture.bare(&["stats", "-f", "json"]).ok();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[1]["id"], "b");
    assert!(json[1]["cpu_percent"].is_number(), "{json}");
    assert_eq!(number(&json[1], "/stats/pids/current"), 1);
    assert_eq!(json[1]["summed"][1], "memory");
}

#[test]
fn a_table_on_a_terminal_is_drawn_again_until_nothing_runs() {
    lodger_only!("stats");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let mut pty = Pty::spawn(&fixture.command(&["stats", "--interval", "20ms"]));
    // The cursor goes up over the two lines, and what is below is cleared.
    let again = "\u{1b}[2A\u{1b}[J";
    pty.expect(again);
    pty.expect(again);
    fixture.bare(&["kill", "c", "KILL"]).ok();
    let (status, screen) = pty.wait();
    assert_eq!(status, 0, "{screen}");
    fixture.sleeping("d");
    let mut pty = Pty::spawn(&fixture.command(&["stats", "--no-stream"]));
    let (status, screen) = pty.wait();
    assert_eq!(status, 0, "{screen}");
    assert!(
        !screen.contains('\u{1b}') && screen.contains("\nd  "),
        "{screen}"
    );
}
