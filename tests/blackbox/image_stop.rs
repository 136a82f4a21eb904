//! The signal that asks a container to end, where its image has one (image-spec conversion.md).

use crate::harness::{Fixture, lodger_only, wait_for};
use serde_json::json;

/// A shell that says which signal ended it; `kill` with `args` after the annotation `signal`.
fn ended_by(signal: Option<&str>, args: &[&str]) -> i32 {
    let mut fixture = Fixture::new();
    fixture.sh("trap 'exit 71' HUP; trap 'exit 72' USR1; trap 'exit 75' TERM; echo ready; while :; do sleep 0.1; done");
    if let Some(signal) = signal {
        fixture.config["annotations"] = json!({"org.opencontainers.image.stopSignal": signal});
    }
    let running = fixture.background(&["run", "c"], b"");
    wait_for("the traps", || {
        running.out().contains("ready").then_some(())
    });
    fixture.bare(&[&["kill", "c"], args].concat()).ok();
    running.wait().code
}

#[test]
fn kill_without_a_signal_sends_the_one_that_the_image_asks_for() {
    lodger_only!("peers send SIGTERM, whatever the annotation says");
    assert_eq!(ended_by(Some("SIGHUP"), &[]), 71);
    assert_eq!(ended_by(Some("usr1"), &[]), 72);
    assert_eq!(ended_by(Some("1"), &[]), 71);
}

#[test]
fn a_signal_that_is_named_or_none_at_all_is_what_it_was() {
    assert_eq!(ended_by(Some("SIGHUP"), &["TERM"]), 75);
    assert_eq!(ended_by(None, &[]), 75);
}

#[test]
fn an_image_that_asks_for_no_signal_there_is_gets_sigterm() {
    for signal in ["SIGNO", "", "0", "9 9"] {
        assert_eq!(ended_by(Some(signal), &[]), 75, "{signal:?}");
    }
}

#[test]
fn kill_by_expression_sends_each_container_its_own() {
    lodger_only!("kill --regex, and the annotation");
    let mut fixture = Fixture::new();
    fixture.sh("trap 'exit 71' HUP; trap 'exit 75' TERM; echo ready; while :; do sleep 0.1; done");
    let mut running = Vec::new();
    for (id, signal, code) in [("a1", "HUP", 71), ("a2", "TERM", 75)] {
        fixture.config["annotations"] = json!({"org.opencontainers.image.stopSignal": signal});
        let one = fixture.background(&["run", id], b"");
        wait_for("the traps", || one.out().contains("ready").then_some(()));
        running.push((one, code));
    }
    fixture.bare(&["kill", "-r", "^a"]).ok();
    for (one, code) in running {
        one.wait().exits(code);
    }
}
