//! What is printed where: logs, errors, help, `spec` and `plan`.

use std::fs;

use serde_json::Value;

use crate::harness::{Fixture, Ran, lodger_only, peer, peer_differs, read_lossy};
use crate::state::assert_rfc3339;

/// Runs a command that fails, with its log in a file; gives the run and the log.
fn failing_with_log(fixture: &Fixture, format: &str) -> (Ran, String) {
    let log = fixture.path("log");
    let ran = fixture.bare(&[
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        format,
        "state",
        "nobody",
    ]);
    let text = read_lossy(&log);
    (ran, text)
}

#[test]
fn a_failure_is_one_json_object_in_the_log() {
    let fixture = Fixture::new();
    let (ran, log) = failing_with_log(&fixture, "json");
    ran.fails(1, "container does not exist");
    let object: Value =
        serde_json::from_str(&log).unwrap_or_else(|error| panic!("{error}: {log:?}"));
    let object = object.as_object().unwrap();
    let mut keys: Vec<&str> = object
        .keys()
        .map(String::as_str)
        .filter(|key| !["hint", "code"].contains(key))
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["level", "msg", "time"]);
    assert_eq!(object["level"], "error");
    assert_rfc3339(object["time"].as_str().unwrap());
    if !peer() {
        assert!(
            object["msg"]
                .as_str()
                .unwrap()
                .contains("container does not exist"),
            "{log}"
        );
    }
}

#[test]
fn a_failed_run_is_one_json_object_in_the_log() {
    let mut fixture = Fixture::new();
    fixture.args(&["no-such-program"]);
    let log = fixture.path("log");
    let ran = fixture.runtime(&[
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "run",
        "c",
    ]);
    ran.fails(1, "executable file not found in $PATH");
    let object: Value = serde_json::from_str(&read_lossy(&log)).unwrap();
    let message = object["msg"].as_str().unwrap();
    assert!(message.contains("executable file"), "{message}");
}

#[test]
fn a_log_is_appended_to() {
    let fixture = Fixture::new();
    fs::write(fixture.path("log"), "before\n").unwrap();
    let (_, log) = failing_with_log(&fixture, "text");
    assert!(log.starts_with("before\n"), "{log}");
    assert!(log.len() > "before\n".len(), "{log}");
}

#[test]
fn a_success_writes_nothing_to_stderr_or_the_log() {
    let fixture = Fixture::new();
    let log = fixture.path("log");
    let ran = fixture
        .runtime(&["--log", log.to_str().unwrap(), "run", "c"])
        .exits(0);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
    if log.exists() {
        assert_eq!(read_lossy(&log), "");
    }
}

#[test]
fn debug_tells_more_and_keeps_stdout_clean() {
    let mut fixture = Fixture::new();
    fixture.sh("echo out");
    let ran = fixture.runtime(&["--debug", "run", "c"]).exits(0);
    assert_eq!(ran.out, "out\n");
    if !peer() {
        assert_ne!(ran.err, "");
    }
}

#[test]
fn an_error_has_one_first_line_and_indented_others() {
    lodger_only!("the shape of an error");
    let mut fixture = Fixture::new();
    fixture.args(&["no-such-program"]);
    let ran = fixture.run().exits(1);
    let mut lines = ran.err.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("error: "), "{first}");
    assert!(!first.ends_with('.'), "{first}");
    for line in lines {
        assert!(
            line.starts_with("  caused by: ")
                || line.starts_with("  hint: ")
                || line.starts_with("  code: LDG-")
                || line.starts_with("    "),
            "{line:?}"
        );
    }
}

#[test]
fn control_characters_of_a_config_are_not_printed_raw() {
    lodger_only!("the escaping of what a config says");
    let mut fixture = Fixture::new();
    fixture.args(&["no-such\u{1b}]0;title\u{7}\nerror: forged"]);
    let ran = fixture.run().exits(1);
    assert!(!ran.err.contains(['\u{1b}', '\u{7}']), "{:?}", ran.err);
    assert!(
        !ran.err
            .lines()
            .any(|line| line.starts_with("error: forged")),
        "{:?}",
        ran.err
    );
}

#[test]
fn spec_writes_a_config_that_runs() {
    let fixture = Fixture::with_own_root();
    let args: &[&str] = if peer() {
        &["spec", "--rootless"]
    } else {
        &["spec"]
    };
    fixture.bare(args).ok();
    let path = fixture.bundle().join("config.json");
    let mut config: Value = serde_json::from_str(&read_lossy(&path)).unwrap();
    config["process"]["args"] = serde_json::json!(["/bin/echo", "it runs"]);
    if peer() {
        config["process"]["terminal"] = false.into();
        if config["linux"].get("uidMappings").is_none() {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "user");
            crate::base::add_user_namespace(&mut config);
        }
    }
    fs::write(path, config.to_string()).unwrap();
    // It has a terminal, which ends lines in its own way.
    let ran = fixture.bare(&["run", "c"]).ok();
    assert_eq!(ran.trim_end(), "it runs");
}

#[test]
fn spec_overwrites_nothing() {
    let fixture = Fixture::new();
    fs::write(fixture.bundle().join("config.json"), "mine").unwrap();
    fixture.bare(&["spec"]).fails(1, "config.json");
    assert_eq!(read_lossy(&fixture.bundle().join("config.json")), "mine");
}

#[test]
fn spec_takes_a_bundle() {
    let fixture = Fixture::new();
    let other = fixture.path("other");
    fs::create_dir(&other).unwrap();
    fixture
        .bare(&["spec", "--bundle", other.to_str().unwrap()])
        .ok();
    assert!(other.join("config.json").exists());
}

#[test]
fn spec_writes_to_another_file() {
    lodger_only!("spec -f");
    let fixture = Fixture::new();
    for option in ["-f", "--file"] {
        let name = format!("other{option}.json");
        fixture.bare(&["spec", option, &name]).ok();
        let text = read_lossy(&fixture.bundle().join(&name));
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
        fixture.bare(&["spec", option, &name]).fails(1, "it exists");
    }
    assert!(!fixture.bundle().join("config.json").exists());
}

#[test]
fn spec_rootless_names_the_callers_ids_and_runs() {
    peer_differs!("crun", "1.8 names no ids");
    let fixture = Fixture::with_own_root();
    fixture.bare(&["spec", "--rootless"]).ok();
    let path = fixture.bundle().join("config.json");
    let mut config: Value = serde_json::from_str(&read_lossy(&path)).unwrap();
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(
        config["linux"]["uidMappings"],
        serde_json::json!([{"containerID": 0, "hostID": uid, "size": 1}])
    );
    config["process"]["args"] = serde_json::json!(["/bin/sh", "-c", "id -u; id -G"]);
    config["process"]["terminal"] = false.into();
    fs::write(path, config.to_string()).unwrap();
    assert!(fixture.bare(&["run", "c"]).ok().starts_with("0\n"));
}

#[test]
fn an_unmodified_bundle_of_runc_spec_runs() {
    lodger_only!("running a bundle made for root");
    if !std::path::Path::new("/usr/sbin/runc").exists() {
        crate::harness::skip!("runc is not installed, so there is no bundle of it");
    }
    let fixture = Fixture::with_own_root();
    let mut spec = std::process::Command::new("/usr/sbin/runc");
    spec.args(["spec", "-b"]).arg(fixture.bundle());
    crate::harness::spawn(&mut spec, b"").wait().ok();
    // It asks for a terminal: what comes back is what a person would see.
    let ran = crate::harness::spawn(&mut fixture.command(&["run", "c"]), b"id -u\n").wait();
    let seen = ran.ok();
    assert!(seen.contains("\r\n0\r\n"), "{seen:?}");
}

#[test]
fn plan_prints_json_and_touches_nothing() {
    lodger_only!("plan");
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/echo", "never"]);
    fixture.write_config();
    let before = fixture.listing();
    let bundle = fixture.bundle();
    let out = fixture.bare(&["plan", bundle.to_str().unwrap()]).ok();
    let plan: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        plan["process"]["args"],
        serde_json::json!(["/bin/echo", "never"])
    );
    assert!(plan["mounts"].as_array().unwrap().len() >= 6, "{plan}");
    assert!(plan["notes"].is_array(), "{plan}");
    assert_eq!(fixture.listing(), before);
}

#[test]
fn plan_fails_where_run_would() {
    lodger_only!("plan");
    let mut fixture = Fixture::new();
    fixture.config["vm"] = serde_json::json!({"kernel": {"path": "/k"}});
    fixture.write_config();
    let bundle = fixture.bundle();
    fixture
        .bare(&["plan", bundle.to_str().unwrap()])
        .fails(1, "/vm");
}

#[test]
fn help_and_version_go_to_stdout() {
    let fixture = Fixture::new();
    for option in ["--help", "--version"] {
        let ran = fixture.bare(&[option]).exits(0);
        assert!(ran.out.contains(&crate::harness::under_test()), "{ran:#?}");
        assert_eq!(ran.err, "");
    }
}

#[test]
fn a_note_is_printed_and_the_container_runs() {
    lodger_only!("a note");
    let mut fixture = Fixture::new();
    fixture.sh("echo out");
    fixture.config["linux"]["resources"] =
        serde_json::json!({"devices": [{"allow": false, "access": "rwm"}]});
    let ran = fixture.run().exits(0);
    assert_eq!(ran.out, "out\n");
    assert!(ran.err.contains("/linux/resources/devices"), "{ran:#?}");
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error() {
    let fixture = Fixture::new();
    fixture
        .bare(&["--log", "/no/such/directory/log", "state", "nobody"])
        .fails(1, "/no/such/directory/log");
}

#[test]
fn an_unknown_log_format_is_an_error() {
    let fixture = Fixture::new();
    fixture
        .bare(&["--log-format", "xml", "list"])
        .fails(1, "xml");
}
