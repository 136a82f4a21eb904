//! Which hooks a config may have, and that no other program is run in their place.

use serde_json::json;

use crate::harness::{lodger_only, skip, spawn};
use crate::hooks::{KINDS, add, add_hook, fixture, log};

#[test]
fn everything_that_is_wrong_with_hooks_is_listed() {
    lodger_only!("the list of problems");
    let mut fixture = fixture();
    fixture.config["hooks"] = json!({
        "prestart": [{"path": "relative"}, {"path": "/bin/true"}],
        "createRuntime": [{"path": ""}],
        "createContainer": [{"path": "/bin/true", "timeout": 0}],
        "startContainer": [{"path": "/bin/true", "timeout": -5}],
        "poststart": [{"path": "/bin/true", "env": ["A=1", "B", "=c"]}],
        "poststop": [{"args": ["x"]}],
    });
    for verb in ["run", "create"] {
        let ran = fixture
            .runtime(&[verb, "c"])
            .fails(1, "/hooks/prestart/0/path: must be an absolute path");
        for text in [
            "/hooks/createRuntime/0/path: must be an absolute path",
            "/hooks/createContainer/0/timeout: must be greater than 0",
            "/hooks/startContainer/0/timeout: must be greater than 0",
            "/hooks/poststart/0/env/1: is not of the form",
            "/hooks/poststart/0/env/2: has no name",
            "/hooks/poststop/0/path: is required",
        ] {
            assert!(ran.err.contains(text), "{text}: {ran:?}");
        }
        assert!(!ran.err.contains("prestart/1"), "{ran:?}");
    }
    let features = fixture.bare(&["features"]).ok();
    for kind in KINDS {
        assert!(
            features.contains(&format!("\"{kind}\"")),
            "{kind}: {features}"
        );
    }
}

/// A program of this name in the working directory or in PATH is nobody's hook.
#[test]
fn a_hook_is_never_looked_for() {
    let mut fixture = fixture();
    let marker = fixture.path("log/found");
    let script = format!("#!/bin/sh\necho >{}\n", marker.display());
    crate::harness::write_program(&fixture.bundle().join("found"), script.as_bytes());
    add_hook(&mut fixture, "createRuntime", json!({"path": "found"}));
    fixture.write_config();
    let mut run = fixture.command(&["run", "c"]);
    run.env("PATH", fixture.bundle());
    spawn(&mut run, b"")
        .wait()
        .fails(1, "/hooks/createRuntime/0/path");
    assert!(!marker.exists());
}

/// As filters of container engines do that cannot look into its arguments.
#[test]
fn hooks_run_where_clone3_is_refused() {
    lodger_only!("how processes are made");
    if !std::path::Path::new("/usr/bin/strace").exists() {
        skip!("strace is not installed");
    }
    // Under strace a setuid helper has no privilege.
    let mut neighbour = crate::harness::Fixture::new();
    let mut fixture = fixture();
    for kind in KINDS {
        add(&mut fixture, kind, "echo ran >>$LOG/ran");
    }
    neighbour.sleeping("n");
    fixture.write_config();
    // The outer user namespace is that of a container in the same state directory.
    let run = neighbour.command(&["run", "c"]);
    let mut traced = std::process::Command::new("/usr/bin/strace");
    traced
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "--inject=clone3:error=ENOSYS",
        ])
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(fixture.bundle());
    spawn(&mut traced, b"").wait().ok();
    assert_eq!(log(&fixture, "ran"), "ran\n".repeat(6));
}
