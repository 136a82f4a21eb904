//! state and list: what is told about a container.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, peer, wait_for};

#[test]
fn state_has_the_fields_of_the_specification() {
    let mut fixture = Fixture::new();
    fixture.config["annotations"] = json!({"org.example.key": "value with \"quotes\" and ü"});
    fixture.sleeping("c");
    let state = fixture.state("c");
    assert_eq!(state["id"], "c");
    assert_eq!(state["status"], "running");
    assert_eq!(state["bundle"], fixture.bundle().to_str().unwrap());
    assert_eq!(
        state["annotations"]["org.example.key"],
        "value with \"quotes\" and ü"
    );
    assert!(state["pid"].as_u64().unwrap() > 1);
    let version = state["ociVersion"].as_str().unwrap();
    assert!(version.starts_with("1."), "{version}");
}

#[test]
fn state_has_the_fields_that_engines_read() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let state = fixture.state("c");
    let created = state["created"].as_str().unwrap();
    assert_rfc3339(created);
    assert!(
        state["rootfs"].as_str().unwrap().starts_with('/'),
        "{state}"
    );
    if !peer() {
        assert!(state["owner"].is_string(), "{state}");
    }
}

/// `2026-01-02T03:04:05[.frac]Z` (or an offset): what Go's time.Time reads.
pub(crate) fn assert_rfc3339(time: &str) {
    let shape: String = time
        .chars()
        .take(19)
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00", "{time}");
    assert!(
        time.ends_with('Z') || time[19..].contains(['+', '-']),
        "{time}"
    );
}

#[test]
fn a_created_container_has_a_pid_and_a_stopped_one_none_that_runs() {
    let fixture = Fixture::new();
    fixture.runtime(&["create", "c"]).ok();
    let state = fixture.state("c");
    assert_eq!(state["status"], "created");
    assert!(state["pid"].as_u64().unwrap() > 1);
    fixture.bare(&["start", "c"]).ok();
    fixture.wait_status("c", "stopped");
    let stopped = fixture.state("c");
    assert!(
        matches!(stopped.get("pid").and_then(Value::as_u64), None | Some(0)),
        "{stopped}"
    );
}

#[test]
fn list_shows_all_containers_as_a_table() {
    let mut fixture = Fixture::new();
    fixture.sleeping("one");
    fixture.sleeping("two");
    let table = fixture.bare(&["list"]).ok();
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    if peer() {
        assert_eq!(
            header[..3],
            ["ID", "PID", "STATUS"].map(|h| if h == "ID" { header[0] } else { h })
        );
    } else {
        assert_eq!(
            header,
            ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
        );
    }
    let mut rows: Vec<Vec<&str>> = lines
        .map(|line| line.split_whitespace().collect())
        .collect();
    rows.sort();
    assert_eq!(rows.len(), 2, "{table}");
    for (row, id) in rows.iter().zip(["one", "two"]) {
        let pid = fixture.state(id)["pid"].to_string();
        assert_eq!(
            row[..4],
            [id, &pid, "running", fixture.bundle().to_str().unwrap()]
        );
    }
}

#[test]
fn list_as_json() {
    let mut fixture = Fixture::new();
    fixture.sleeping("one");
    for option in ["-f", "--format"] {
        let text = fixture.bare(&["list", option, "json"]).ok();
        let list: Value = serde_json::from_str(&text).unwrap();
        let list = list.as_array().unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(list[0]["id"], "one");
        assert_eq!(list[0]["status"], "running");
        assert_eq!(list[0]["pid"], fixture.state("one")["pid"]);
        assert_rfc3339(list[0]["created"].as_str().unwrap());
    }
}

#[test]
fn list_quietly() {
    let mut fixture = Fixture::new();
    fixture.sleeping("one");
    fixture.sleeping("two");
    for option in ["-q", "--quiet"] {
        let out = fixture.bare(&["list", option]).ok();
        let mut ids: Vec<&str> = out.lines().collect();
        ids.sort_unstable();
        assert_eq!(ids, ["one", "two"]);
    }
}

#[test]
fn list_of_nothing() {
    let fixture = Fixture::new();
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
    let text = fixture.bare(&["list", "-f", "json"]).ok();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert!(list.is_null() || list == json!([]), "{list}");
}

#[test]
fn list_without_a_state_root_is_empty() {
    let fixture = Fixture::new();
    std::fs::remove_dir(fixture.path("state")).unwrap();
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
}

#[test]
fn list_of_an_unknown_format_is_an_error() {
    Fixture::new()
        .bare(&["list", "-f", "yaml"])
        .fails(1, "yaml");
}

#[test]
fn a_container_whose_process_was_killed_from_outside_is_stopped() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let pid = u32::try_from(fixture.state("c")["pid"].as_u64().unwrap()).unwrap();
    crate::harness::send_signal(pid, "KILL");
    fixture.wait_status("c", "stopped");
    let list: Value = serde_json::from_str(&fixture.bare(&["list", "-f", "json"]).ok()).unwrap();
    assert_eq!(list[0]["status"], "stopped");
    fixture.bare(&["delete", "c"]).ok();
}

#[test]
fn state_starts_no_helper_and_enters_no_namespace() {
    lodger_only!("a state command that runs nothing else");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let mut command = std::process::Command::new("/usr/bin/strace");
    if !std::path::Path::new("/usr/bin/strace").exists() {
        crate::harness::skip!("strace is not installed");
    }
    command
        .args([
            "-f",
            "-qq",
            "-e",
            "trace=setns,unshare,clone,clone3,fork,vfork,execve",
        ])
        .arg(crate::harness::runtime_binary())
        .arg("--root")
        .arg(fixture.path("state"))
        .args(["state", "c"]);
    let ran = crate::harness::spawn(&mut command, b"").wait().exits(0);
    let calls: Vec<&str> = ran
        .err
        .lines()
        .filter(|line| !line.starts_with("execve(") && !line.contains("exited with"))
        .collect();
    assert_eq!(calls, Vec::<&str>::new());
}

/// What ran to its end has a status, whatever becomes of what it leaves.
#[test]
fn the_status_is_the_programs_also_when_its_state_cannot_be_removed() {
    lodger_only!("telling both");
    let mut fixture = Fixture::with_own_root();
    fixture.sh("until [ -e /tmp/end ]; do sleep 0.01; done; exit 7");
    let running = fixture.background(&["run", "c"], b"");
    wait_for("the container", || {
        let ran = fixture.bare(&["state", "c"]);
        ran.out.contains("\"running\"").then_some(())
    });
    fs::write(fixture.path("state/c/state.json"), "damaged").unwrap();
    fs::write(fixture.rootfs().join("tmp/end"), "").unwrap();
    let ran = running.wait().exits(7);
    assert!(
        ran.err.contains("cannot remove container \"c\"") && ran.err.contains("delete -f c"),
        "{ran:#?}"
    );
    fixture.bare(&["delete", "-f", "c"]).ok();
}
