//! The table of what engines match: exit statuses, texts on stderr, and the one object in the JSON log.
//!
//! containerd looks for `does not exist` and `container not running` or `no such process`, CRI-O for the same in stderr;
//! Podman's and Docker's exit statuses 126 and 127 are made from the texts about the program.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::harness::{Fixture, lodger_only, read_lossy};
use crate::state::assert_rfc3339;

/// What a container `c` is before the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Nothing,
    Created,
    Running,
    Stopped,
    /// A config whose program is this.
    Program(&'static str),
}
use Given::{Created, Nothing, Program, Running, Stopped};

/// Situation, arguments, exit status, and the text that stderr and `msg` have.
type Row = (Given, &'static [&'static str], i32, &'static str);

const TABLE: &[Row] = &[
    (Nothing, &["state", "c"], 1, "container does not exist"),
    (Nothing, &["start", "c"], 1, "container does not exist"),
    (Nothing, &["kill", "c", "9"], 1, "container does not exist"),
    (
        Nothing,
        &["kill", "--all", "c", "9"],
        1,
        "container does not exist",
    ),
    (Nothing, &["delete", "c"], 1, "container does not exist"),
    (
        Nothing,
        &["ps", "--format", "json", "c"],
        1,
        "container does not exist",
    ),
    (Nothing, &["wait", "c"], 1, "container does not exist"),
    (
        Nothing,
        &["exec", "c", "true"],
        255,
        "container does not exist",
    ),
    (Nothing, &["state", "a/b"], 1, "invalid container ID format"),
    (
        Nothing,
        &["create", "a/b"],
        1,
        "invalid container ID format",
    ),
    (Nothing, &["run", ".."], 1, "invalid container ID format"),
    (
        Nothing,
        &["exec", "a/b", "true"],
        255,
        "invalid container ID format",
    ),
    (
        Created,
        &["create", "c"],
        1,
        "container with given ID already exists",
    ),
    (
        Created,
        &["run", "c"],
        1,
        "container with given ID already exists",
    ),
    (
        Running,
        &["start", "c"],
        1,
        "cannot start an already running container",
    ),
    (Running, &["delete", "c"], 1, "container still running"),
    (Running, &["kill", "c", "NOSUCH"], 1, "unknown signal"),
    (
        Stopped,
        &["start", "c"],
        1,
        "cannot start a container that has stopped",
    ),
    (
        Stopped,
        &["kill", "c", "9"],
        1,
        "container not running: no such process",
    ),
    (
        Stopped,
        &["exec", "c", "true"],
        255,
        "cannot exec in a stopped container",
    ),
    (Stopped, &["wait", "c"], 1, "it has stopped already"),
    (
        Program("foo"),
        &["create", "c"],
        1,
        "exec: \"foo\": executable file not found in $PATH",
    ),
    (
        Program("foo"),
        &["run", "c"],
        1,
        "exec: \"foo\": executable file not found in $PATH",
    ),
    (
        Program("/etc/passwd"),
        &["create", "c"],
        1,
        "exec: \"/etc/passwd\": permission denied",
    ),
    (
        Program("/etc"),
        &["create", "c"],
        1,
        "exec: \"/etc\": is a directory: permission denied",
    ),
    (
        Program("/no/such"),
        &["create", "c"],
        1,
        "no such file or directory",
    ),
    (
        Running,
        &["exec", "c", "foo"],
        255,
        "exec: \"foo\": executable file not found in $PATH",
    ),
    (
        Running,
        &["exec", "c", "/etc/passwd"],
        255,
        "exec: \"/etc/passwd\": permission denied",
    ),
    (
        Running,
        &["exec", "c", "/etc"],
        255,
        "is a directory: permission denied",
    ),
    (
        Running,
        &["exec", "c", "/no/such"],
        255,
        "no such file or directory",
    ),
    (
        Nothing,
        &["no-such-verb"],
        3,
        "unrecognized subcommand 'no-such-verb'",
    ),
    (
        Nothing,
        &["help", "no-such-verb"],
        3,
        "No help topic for \"no-such-verb\"",
    ),
    (
        Nothing,
        &["state"],
        1,
        "required arguments were not provided",
    ),
    (
        Nothing,
        &["run", "--no-such", "c"],
        1,
        "unexpected argument '--no-such'",
    ),
    (Nothing, &["pause", "c"], 1, "container does not exist"),
    (Nothing, &["resume", "c"], 1, "container does not exist"),
    (Nothing, &["events", "c"], 1, "container does not exist"),
    (
        Nothing,
        &["update", "-r", "-", "c"],
        1,
        "container does not exist",
    ),
    (Nothing, &["checkpoint", "c"], 1, "container does not exist"),
    (
        Nothing,
        &["restore", "--image-path", "/nonexistent", "c"],
        1,
        "cannot restore",
    ),
    (
        Nothing,
        &["--systemd-cgroup", "state", "c"],
        1,
        "container does not exist",
    ),
    (
        Nothing,
        &["--cgroup-manager=system", "list"],
        1,
        "invalid value 'system' for '--cgroup-manager <MANAGER>'",
    ),
    (
        Nothing,
        &["--cgroup-manager", "cgroupfs", "state", "c"],
        1,
        "container does not exist",
    ),
    (
        Nothing,
        &["--cgroup-manager", "disabled", "state", "c"],
        1,
        "container does not exist",
    ),
    (
        Nothing,
        &["--rootless=false", "list"],
        1,
        "--rootless=false",
    ),
    (
        Nothing,
        &["--rootless=maybe", "list"],
        1,
        "invalid --rootless",
    ),
    (
        Nothing,
        &["--rootless=true", "state", "c"],
        1,
        "container does not exist",
    ),
    (
        Nothing,
        &["--rootless", "auto", "state", "c"],
        1,
        "container does not exist",
    ),
    (
        Nothing,
        &["--log-level", "loud", "list"],
        1,
        "invalid value 'loud' for '--log-level",
    ),
    (
        Nothing,
        &["list", "-f", "yaml"],
        1,
        "invalid value 'yaml' for '--format",
    ),
];

impl Given {
    fn make(self) -> Fixture {
        let mut fixture = Fixture::new();
        match self {
            Nothing => fixture.write_config(),
            Created => {
                fixture.runtime(&["create", "c"]).ok();
            }
            Running => fixture.sleeping("c"),
            Stopped => {
                fixture.runtime(&["run", "-d", "c"]).ok();
                fixture.wait_status("c", "stopped");
            }
            Program(program) => fixture.args(&[program]).write_config(),
        }
        fixture
    }
}

/// The one object of a log.
fn only_object(log: &Path) -> Map<String, Value> {
    let text = read_lossy(log);
    // One object: Podman reads the whole file as one.
    let object: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
    object.as_object().unwrap().clone()
}

#[test]
fn exit_status_stderr_and_log_are_what_engines_expect() {
    lodger_only!("the table of strings");
    for (given, args, code, text) in TABLE {
        let fixture = given.make();
        let log = fixture.path("log");
        let options = ["--log", log.to_str().unwrap(), "--log-format", "json"];
        let whole: Vec<&str> = options.iter().chain(*args).copied().collect();
        let ran = fixture.bare(&whole);
        let stderr = ran.err.clone();
        assert_eq!(ran.code, *code, "{given:?} {ran:#?}");
        ran.fails(*code, text);
        assert!(!stderr.contains("{\""), "JSON on stderr: {stderr}");

        let object = only_object(&log);
        let keys = object.keys().map(String::as_str);
        let keys: Vec<&str> = keys.filter(|key| *key != "code").collect();
        assert!(
            [
                &["level", "msg", "time"][..],
                &["hint", "level", "msg", "time"]
            ]
            .contains(&&keys[..]),
            "{args:?}: {keys:?}"
        );
        assert_eq!(object["level"], "error");
        assert_rfc3339(object["time"].as_str().unwrap());
        let message = object["msg"].as_str().unwrap();
        assert!(
            message.contains(text),
            "{args:?}: {message:?} has no {text:?}"
        );
        assert!(!message.contains('\n'), "{message:?}");
    }
}

/// What is an error to a person is one JSON object on stderr where that is the log.
#[test]
fn json_without_a_file_is_one_object_on_stderr() {
    lodger_only!("the table of strings");
    for (given, args, code, text) in TABLE.iter().filter(|row| row.0 == Nothing) {
        let fixture = given.make();
        let whole: Vec<&str> = ["--log-format=json"].iter().chain(*args).copied().collect();
        let ran = fixture.bare(&whole).exits(*code);
        let object: Value =
            serde_json::from_str(&ran.err).unwrap_or_else(|e| panic!("{e}: {ran:#?}"));
        assert!(object["msg"].as_str().unwrap().contains(text), "{ran:#?}");
    }
}

/// What Podman makes of a message: 126, 127, or neither.
fn podman_status(message: &str) -> Option<i32> {
    let lower = message.to_lowercase();
    if lower.contains("permission denied") || message.contains("operation not permitted") {
        return Some(126);
    }
    let missing = [
        "executable file not found in",
        "no such file or directory",
        "open executable",
    ];
    missing
        .iter()
        .any(|text| lower.contains(text))
        .then_some(127)
}

#[test]
fn podman_tells_a_program_that_is_missing_from_one_that_may_not_be_run() {
    lodger_only!("the table of strings");
    for (program, status) in [
        ("foo", 127),
        ("/no/such", 127),
        ("/etc/passwd", 126),
        ("/etc", 126),
    ] {
        let mut fixture = Fixture::new();
        fixture.args(&[program]);
        let ran = fixture.runtime(&["create", "c"]).exits(1);
        assert_eq!(podman_status(&ran.err), Some(status), "{ran:#?}");
    }
}

fn repository(name: &str) -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and tests/run set it");
    Path::new(&package).join(name)
}

/// A host without newuidmap must not look like a container without its program.
#[test]
fn a_missing_helper_is_not_taken_for_a_missing_program() {
    use lodger::bundle::Bundle;
    use lodger::host::HostFacts;
    use lodger::plan::Plan;

    lodger_only!("the table of strings");
    let host = read_lossy(&repository(
        "tests/plans/04-template-no-newuidmap/host.json",
    ));
    let facts: HostFacts = serde_json::from_str(&host).unwrap();
    assert_eq!(facts.newuidmap, None);
    let mut config = crate::base::base_config();
    let range = &facts.subuid[0];
    let map = json!([
        {"containerID": 0, "hostID": facts.uid, "size": 1},
        {"containerID": 1, "hostID": range.start, "size": 1000}
    ]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    let bundle = Bundle::parse(PathBuf::from("/b"), config.to_string().into()).unwrap();
    let problems = Plan::compute(&bundle, &facts).unwrap_err();
    let message: String = problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect();
    assert!(message.contains("newuidmap"), "{message}");
    assert_eq!(podman_status(&message), None, "{message}");
}
