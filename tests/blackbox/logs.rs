//! Where messages go: files, the journal, syslog; and which.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Fixture, Ran, lodger_only, read_lossy, spawn};

/// A fixture whose `run` tells a note.
fn with_a_note() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    fixture
}

#[test]
fn a_file_may_be_called_so() {
    lodger_only!("--log file:");
    let fixture = Fixture::new();
    let log = fixture.path("log");
    let target = format!("file:{}", log.display());
    fixture
        .bare(&["--log", &target, "state", "nobody"])
        .fails(1, "container does not exist");
    assert!(read_lossy(&log).contains("container does not exist"));
}

#[test]
fn an_empty_log_is_stderr() {
    lodger_only!("--log=");
    let fixture = Fixture::new();
    let ran = fixture.bare(&["--log=", "--log-format=json", "state", "nobody"]);
    let object: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(object["level"], "error");
}

#[test]
fn the_level_says_what_is_written() {
    lodger_only!("--log-level");
    let fixture = with_a_note();
    let log = fixture.path("log");
    let target = log.to_str().unwrap();
    for (level, note, debug) in [
        ("error", false, false),
        ("warning", true, false),
        ("warn", true, false),
        ("INFO", true, false),
        ("debug", true, true),
        ("trace", true, true),
    ] {
        let _gone = std::fs::remove_file(&log);
        let options = [
            "--log",
            target,
            "--log-level",
            level,
            "--log-format",
            "json",
        ];
        let args: Vec<&str> = options.iter().chain(&["run", "c"]).copied().collect();
        // The harness deletes what it saw `run` for.
        let _cleaned = fixture.command(&["run", "c"]);
        let ran = fixture.runtime(&args).exits(0);
        assert_eq!(ran.err, "", "{level}");
        let text = read_lossy(&log);
        let levels: Vec<String> = text
            .lines()
            .map(|line| {
                let object: Value = serde_json::from_str(line).unwrap();
                object["level"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(
            levels.iter().any(|l| l == "warning"),
            note,
            "{level}: {text}"
        );
        assert_eq!(
            levels.iter().any(|l| l == "debug"),
            debug,
            "{level}: {text}"
        );
    }
}

#[test]
fn debug_is_never_less_than_the_level() {
    lodger_only!("--log-level");
    let fixture = Fixture::new();
    let ran = fixture
        .runtime(&["--debug", "--log-level", "error", "list", "-q"])
        .exits(0);
    assert!(ran.err.contains("level=debug"), "{ran:#?}");
}

#[test]
fn a_system_log_that_is_not_there_is_one_clear_error() {
    lodger_only!("journald: and syslog:");
    let fixture = Fixture::new();
    // A namespace where nothing listens.
    for (target, mount) in [("journald:x", "/run"), ("syslog:x", "/dev")] {
        let ran = hidden(&fixture, &format!("mount -t tmpfs none {mount}"), target);
        assert!(ran.err.contains("hint: "), "{ran:#?}");
        ran.fails(1, "cannot reach the system's log");
    }
    for target in ["journald:", "syslog:", "journald:a\nMESSAGE=forged"] {
        fixture
            .bare(&["--log", target, "list"])
            .fails(1, "invalid log");
    }
}

/// `state nobody` with its log at `target`, in namespaces made by `prepare`.
fn hidden(fixture: &Fixture, prepare: &str, target: &str) -> Ran {
    let inner = fixture.command(&["--log", target, "state", "nobody"]);
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "/bin/sh", "-ec"])
        .args([&format!("{prepare}\n\"$@\""), "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    spawn(&mut command, b"").wait()
}

/// What a failing command sends to a socket of the system's log.
fn received(prepare: impl Fn(&str) -> String, target: &str) -> Vec<u8> {
    let fixture = Fixture::new();
    let directory = fixture.path("listen");
    std::fs::create_dir(&directory).unwrap();
    let socket = UnixDatagram::bind(directory.join("socket")).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    hidden(&fixture, &prepare(directory.to_str().unwrap()), target)
        .fails(1, "container does not exist");
    let mut packet = vec![0; 65536];
    let length = socket.recv(&mut packet).unwrap();
    packet.truncate(length);
    packet
}

#[test]
fn the_journal_gets_the_error() {
    lodger_only!("journald:");
    let journal = |directory: &str| {
        format!(
            "mount -t tmpfs none /run; mkdir -p /run/systemd/journal
             ln -s {directory}/socket /run/systemd/journal/socket"
        )
    };
    let packet = received(journal, "journald:web");
    let text = String::from_utf8_lossy(&packet);
    assert!(
        text.starts_with("PRIORITY=3\nSYSLOG_IDENTIFIER=web\nMESSAGE\n"),
        "{text:?}"
    );
    assert!(text.contains("container does not exist"), "{text:?}");
}

#[test]
fn syslog_gets_the_error() {
    lodger_only!("syslog:");
    let syslog =
        |directory: &str| format!("mount -t tmpfs none /dev; ln -s {directory}/socket /dev/log");
    let packet = received(syslog, "syslog:web");
    let text = String::from_utf8_lossy(&packet);
    assert!(text.starts_with("<11>web["), "{text:?}");
    assert!(text.contains("container does not exist"), "{text:?}");
}
