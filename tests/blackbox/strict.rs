//! `--strict`: every adaptation is an error, and nothing is made. `--explain`: all of them as a table.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only};

/// A fixture whose `run` tells two notes, from the plan.
fn with_notes() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    fixture.config["linux"]["rootfsPropagation"] = json!("shared");
    fixture.sh("echo ran");
    fixture
}

/// A fixture whose `run` tells a note that only init can: the host's node has another mode.
fn with_a_note_of_init() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.config["linux"]["devices"] = json!([
        {"path": "/dev/other", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}
    ]);
    fixture.sh("echo ran");
    fixture
}

/// The template, as `spec` writes it.
fn of_spec() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.bare(&["spec"]).ok();
    let text = fs::read(fixture.bundle().join("config.json")).unwrap();
    let written: Value = serde_json::from_slice(&text).unwrap();
    let root = fixture.config["root"].take();
    fixture.config = written;
    fixture.config["root"] = root;
    fixture.config["process"]["terminal"] = json!(false);
    fixture.sh("echo ran");
    fixture
}

#[test]
fn what_spec_writes_runs_strictly() {
    lodger_only!("--strict");
    let ran = of_spec().runtime(&["run", "--strict", "c"]).exits(0);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("ran\n", ""));
}

#[test]
fn all_that_would_be_adapted_is_in_one_error() {
    lodger_only!("--strict");
    for fixture in [with_notes(), with_a_note_of_init()] {
        let lax = fixture.runtime(&["run", "c"]).exits(0);
        assert_eq!(lax.out, "ran\n");
        let told = lax
            .err
            .lines()
            .filter_map(|line| line.strip_prefix("note: "));
        let told: Vec<&str> = told.collect();
        assert!(!told.is_empty(), "{lax:#?}");
        let before = fixture.listing();
        for verb in ["run", "create"] {
            let strict = fixture.runtime(&["--strict", verb, "c"]).exits(1);
            assert_eq!(strict.out, "", "{strict:#?}");
            assert!(strict.err.contains("(--strict)"), "{strict:#?}");
            for note in &told {
                assert!(
                    strict.err.contains(&format!("  caused by: {note}\n")),
                    "{note}: {strict:#?}"
                );
            }
            let hints = strict.err.matches("  hint: ").count();
            assert!((1..=3).contains(&hints), "{strict:#?}");
            assert_eq!(fixture.listing(), before, "something was left");
        }
    }
}

#[test]
fn in_the_json_log_it_is_one_object() {
    lodger_only!("--strict");
    let fixture = with_notes();
    let args = ["--strict", "--log-format", "json", "run", "c"];
    let ran = fixture.runtime(&args).exits(1);
    let object: Value = serde_json::from_str(&ran.err).unwrap();
    let message = object["msg"].as_str().unwrap();
    assert!(message.contains("/linux/resources/devices: "), "{message}");
    assert!(message.contains("/linux/rootfsPropagation: "), "{message}");
}

#[test]
fn exec_and_update_are_strict_too() {
    lodger_only!("--strict");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    // One that is not in the sets it depends on.
    let process = json!({
        "args": ["/bin/echo", "ran"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "capabilities": {"ambient": ["CAP_KILL"]}
    });
    let file = fixture.path("process.json");
    fs::write(&file, process.to_string()).unwrap();
    let left_out = ["exec", "-p", file.to_str().unwrap(), "c"];
    let lax = fixture.bare(&left_out).exits(0);
    assert!(lax.err.contains("note: /process/capabilities"), "{lax:#?}");
    let strict = [&["--strict"], &left_out[..]].concat();
    fixture.bare(&strict).fails(255, "(--strict)");
    let plain = ["--strict", "exec", "c", "/bin/echo", "ran"];
    assert_eq!(fixture.bare(&plain).ok(), "ran\n");
    let kernel = ["update", "--kernel-memory", "1m", "c"];
    let lax = fixture.bare(&kernel).exits(0);
    assert!(lax.err.contains("note: "), "{lax:#?}");
    let strict = [&["--strict"], &kernel[..]].concat();
    fixture.bare(&strict).fails(1, "(--strict)");
}

#[test]
fn a_table_explains_what_was_adapted() {
    lodger_only!("--explain");
    let ran = with_notes().runtime(&["run", "--explain", "c"]).exits(0);
    assert_eq!(ran.out, "ran\n");
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!(lines[0].starts_with("PROPERTY"), "{ran:#?}");
    for column in ["WHAT WAS DONE", "REMEDY", "CODE"] {
        assert!(lines[0].contains(column), "{ran:#?}");
    }
    for property in ["/linux/resources/devices", "/linux/rootfsPropagation"] {
        let rows = lines.iter().filter(|line| line.starts_with(property));
        assert_eq!(rows.count(), 1, "{property}: {ran:#?}");
    }
    assert!(!ran.err.contains("note: "), "{ran:#?}");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 120),
        "{ran:#?}"
    );
}

#[test]
fn where_nothing_was_adapted_a_line_says_so() {
    lodger_only!("--explain");
    let mut fixture = of_spec();
    fixture.sh("echo first >&2");
    for before in [true, false] {
        let args = match before {
            true => ["--explain", "run", "c"],
            false => ["run", "--explain", "c"],
        };
        let ran = fixture.runtime(&args).exits(0);
        // The program does not wait for it.
        let mut lines: Vec<&str> = ran.err.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["first", "nothing was adapted"]);
    }
    let ran = fixture.bare(&["--explain", "state", "nobody"]).exits(1);
    assert!(!ran.err.contains("nothing was adapted"), "{ran:#?}");
}

#[test]
fn the_log_of_an_engine_stays_as_it_is() {
    lodger_only!("--explain");
    let fixture = with_notes();
    let log = |explain: &[&str]| {
        let path = fixture.path("log");
        let _gone = fs::remove_file(&path);
        let options = ["--log", path.to_str().unwrap(), "--log-format", "json"];
        let args = [&options[..], explain, &["run", "c"]].concat();
        let ran = fixture.runtime(&args).exits(0);
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| {
            let mut object: Value = serde_json::from_str(line).unwrap();
            object["time"].take();
            object
        });
        (ran.err, lines.collect::<Vec<Value>>())
    };
    let (silent, plain) = log(&[]);
    let (table, explained) = log(&["--explain"]);
    assert_eq!(silent, "");
    assert!(table.starts_with("PROPERTY"), "{table}");
    assert_eq!(plain, explained);
    assert_eq!(plain.len(), 2);
}
