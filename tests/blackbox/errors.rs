//! The error strings and exit codes that engines match: a contract.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, peer_differs};

/// Commands on a container that is not there: arguments, exit code, text.
#[test]
fn a_missing_container() {
    const MISSING: &[(&[&str], i32)] = &[
        (&["state", "nobody"], 1),
        (&["start", "nobody"], 1),
        (&["kill", "nobody"], 1),
        (&["kill", "nobody", "KILL"], 1),
        (&["delete", "nobody"], 1),
        (&["exec", "nobody", "true"], 255),
    ];
    let fixture = Fixture::new();
    for (args, code) in MISSING {
        fixture.bare(args).fails(*code, "container does not exist");
    }
}

#[test]
fn usage_errors_exit_with_1() {
    const WRONG: &[&[&str]] = &[
        &["--no-such-flag"],
        &["state"],
        &["create"],
        &["run"],
        &["start"],
        &["run", "--no-such-flag", "c"],
        &["exec"],
        &["state", "a", "b"],
    ];
    lodger_only!("one exit code for every usage error");
    let fixture = Fixture::new();
    for args in WRONG {
        let ran = fixture.bare(args).exits(1);
        assert_ne!(ran.err, "", "{args:?}");
        assert_eq!(ran.out, "", "{args:?}");
    }
    fixture.bare(&["no-such-command"]).exits(3);
}

#[test]
fn a_flag_that_is_not_there_is_unknown_and_not_ignored() {
    let fixture = Fixture::new();
    fixture.write_config();
    let ran = fixture.bare(&["run", "--no-such", "c"]);
    ran.fails(1, "--no-such");
}

#[test]
fn ids_that_are_refused() {
    const BAD: &[&str] = &[
        "", ".", "..", ".hidden", "a/b", "a b", "ü", "a\n", "../x", "a:b",
    ];
    peer_differs!(
        "crun",
        "1.8 takes `a b` and more for ids, and `delete ..` removes the directory that its own state is in"
    );
    let fixture = Fixture::new();
    fixture.write_config();
    for id in BAD {
        let ran = fixture.bare(&["create", id]);
        if ran.code == 0 {
            peer_differs!("runc", "1.1 takes `.hidden` for an id");
        }
        ran.fails(1, "invalid container ID format");
        assert_eq!(
            fs::read_dir(fixture.path("state"))
                .unwrap()
                .filter(|entry| {
                    !entry
                        .as_ref()
                        .unwrap()
                        .file_name()
                        .to_string_lossy()
                        .starts_with('.')
                })
                .count(),
            0,
            "{id:?}"
        );
    }
}

#[test]
fn ids_that_are_taken() {
    let fixture = Fixture::new();
    for id in ["a", "A9", "with_all+of-these.1", "0"] {
        fixture.runtime(&["run", id]).ok();
    }
}

#[test]
fn a_bad_id_is_refused_by_every_command() {
    lodger_only!("refusing a bad id everywhere");
    let fixture = Fixture::new();
    for args in [
        &["state", "../x"][..],
        &["start", "../x"],
        &["kill", "../x"],
        &["delete", "../x"],
        &["delete", "-f", "../x"],
        &["exec", "../x", "true"],
    ] {
        let code = if args[0] == "exec" { 255 } else { 1 };
        fixture
            .bare(args)
            .fails(code, "invalid container ID format");
    }
}

#[test]
fn an_id_that_exists() {
    let fixture = Fixture::new();
    fixture.runtime(&["create", "c"]).ok();
    for verb in ["create", "run"] {
        fixture
            .runtime(&[verb, "c"])
            .fails(1, "container with given ID already exists");
    }
    assert_eq!(fixture.status("c"), "created");
}

#[test]
fn start_of_what_is_not_created() {
    let mut fixture = Fixture::new();
    fixture.sleeping("running");
    fixture.bare(&["start", "running"]).fails(1, "running");
    assert_eq!(fixture.status("running"), "running");
    fixture.bare(&["kill", "running", "KILL"]).ok();
    fixture.wait_status("running", "stopped");
    fixture.bare(&["start", "running"]).fails(1, "stopped");
}

#[test]
fn kill_of_a_stopped_container() {
    let fixture = Fixture::new();
    fixture.runtime(&["create", "c"]).ok();
    fixture.bare(&["start", "c"]).ok();
    fixture.wait_status("c", "stopped");
    fixture
        .bare(&["kill", "c", "KILL"])
        .fails(1, "container not running");
}

#[test]
fn kill_with_an_unknown_signal() {
    peer_differs!("crun", "1.8 takes an unknown signal for 0");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    for signal in ["NOSUCH", "SIGNOSUCH", "99999", "-1"] {
        let ran = fixture.bare(&["kill", "--", "c", signal]);
        assert_ne!(ran.code, 0, "{ran:#?}");
        assert_eq!(fixture.status("c"), "running");
    }
}

#[test]
fn delete_of_a_running_container() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    fixture.bare(&["delete", "c"]).fails(1, "container");
    assert_eq!(fixture.status("c"), "running");
}

/// The program of the config: arguments and text. The text is what Podman's and Docker's exit codes are made of.
#[test]
fn programs_that_cannot_be_run() {
    const PROGRAMS: &[(&str, &str)] = &[
        ("foo", "exec: \"foo\": executable file not found in $PATH"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ("/etc", "exec: \"/etc\": is a directory: permission denied"),
        ("/no/such", "no such file or directory"),
    ];
    for verb in ["create", "run"] {
        for (program, text) in PROGRAMS {
            let mut fixture = Fixture::new();
            fixture.args(&[program]);
            let ran = fixture.runtime(&[verb, "c"]);
            ran.fails(1, text);
            fixture.bare(&["state", "c"]).exits(1);
        }
    }
}

#[test]
fn bundles_that_are_not_there() {
    let fixture = Fixture::new();
    fixture.bare(&["run", "c"]).fails(1, "config.json");
    fixture
        .bare(&["run", "-b", "/no/such/bundle", "c"])
        .fails(1, "/no/such/bundle");
}

#[test]
fn configs_that_are_not_json() {
    let fixture = Fixture::new();
    for text in ["", "{", "[]", "nonsense", "{\"ociVersion\": 1}"] {
        fs::write(fixture.bundle().join("config.json"), text).unwrap();
        fixture.bare(&["run", "c"]).fails(1, "config.json");
    }
}

/// Values that are wrong: where to put each, what, and the JSON pointer that the error names.
fn wrong_values() -> Vec<(&'static str, Value, &'static str)> {
    let core = json!({"type": "RLIMIT_CORE", "soft": 1, "hard": 1});
    vec![
        ("/process/args", json!([]), "/process/args"),
        ("/process/cwd", json!("relative"), "/process/cwd"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]),
            "/process/rlimits/0",
        ),
        (
            "/process/rlimits",
            json!([core, core]),
            "/process/rlimits/1",
        ),
        (
            "/linux/namespaces/0",
            json!({"type": "network"}),
            "/linux/namespaces",
        ),
        (
            "/linux/sysctl",
            json!({"vm.swappiness": "1"}),
            "/linux/sysctl",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x", "type": "ext4", "source": "/dev/sda"}),
            "/mounts/0",
        ),
        (
            "/linux/uidMappings",
            json!([{"containerID": 0, "hostID": 0, "size": 1}]),
            "/linux/uidMappings",
        ),
        ("/ociVersion", json!("2.0.0"), "/ociVersion"),
        (
            "/hooks",
            json!({"poststop": [{"path": "bin/true"}]}),
            "/hooks/poststop/0/path",
        ),
    ]
}

/// Values that lodger does not do yet: none may be passed over in silence.
fn unsupported_values() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        (
            "/linux/resources",
            json!({"memory": {"limit": 1_000_000}}),
            "/linux/resources/memory/limit",
        ),
        (
            "/linux/namespaces/0",
            json!({"type": "pid", "path": "/proc/1/ns/pid"}),
            "/linux/namespaces/0/path",
        ),
    ]
}

#[test]
fn an_error_names_the_json_pointer() {
    lodger_only!("naming the JSON pointer");
    for (pointer, value, named) in wrong_values().into_iter().chain(unsupported_values()) {
        let mut fixture = Fixture::new();
        set(&mut fixture.config, pointer, value);
        fixture.run().fails(1, named);
        fixture.bare(&["state", "c"]).exits(1);
    }
}

/// Sets what a JSON pointer names, which may not be there yet.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap();
    match key.parse::<usize>() {
        Ok(index) => parent[index] = value,
        Err(_) => parent[key] = value,
    }
}

#[test]
fn all_problems_are_told_at_once() {
    lodger_only!("the list of all problems");
    let mut fixture = Fixture::new();
    fixture.config["process"]["cwd"] = "relative".into();
    fixture.config["process"]["args"] = json!([]);
    let ran = fixture.run().exits(1);
    assert!(
        ran.err.contains("/process/cwd") && ran.err.contains("/process/args"),
        "{ran:#?}"
    );
}

#[test]
fn a_user_that_is_not_mapped() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["user"]["uid"] = 4_000_000_000_u32.into();
    fixture.run().fails(1, "4000000000");
}

#[test]
fn a_failure_undoes_everything() {
    let mut fixture = Fixture::with_own_root();
    fixture.mount(json!({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}));
    fixture
        .runtime(&["create", "c"])
        .fails(1, "/no/such/source");
    fixture.bare(&["state", "c"]).exits(1);
    fixture.config["mounts"].as_array_mut().unwrap().pop();
    fixture.runtime(&["create", "c"]).ok();
}
