//! One change to a valid configuration, and the one problem it must lead to.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bundle::{Bundle, BundleError, template};

/// The template with `value` at `pointer`, whose parent must exist.
fn problems(pointer: &str, value: Value) -> Vec<String> {
    let mut config: Value = serde_json::from_str(template()).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match config.pointer_mut(parent).unwrap() {
        Value::Object(members) => drop(members.insert(key.replace("~1", "/"), value)),
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        _ => panic!("{parent} is neither object nor array"),
    }
    match Bundle::parse(PathBuf::from("/b"), config.to_string().into_bytes()) {
        Ok(_) => Vec::new(),
        Err(BundleError::Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
        Err(BundleError::WrongType(problem)) => vec![format!("wrong type: {problem}")],
        Err(other) => panic!("{other}"),
    }
}

/// Where, what (as JSON), and the message.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "/ociVersion",
        r#""2.0.0""#,
        "/ociVersion: version \"2.0.0\" of the specification is not supported: only 1.x is",
    ),
    (
        "/ociVersion",
        r#""1.0""#,
        "/ociVersion: \"1.0\" is not a version (SemVer 2.0.0)",
    ),
    (
        "/ociVersion",
        r#""01.0.0""#,
        "/ociVersion: \"01.0.0\" is not a version (SemVer 2.0.0)",
    ),
    (
        "/ociVersion",
        r#""1.0.0-01""#,
        "/ociVersion: \"1.0.0-01\" is not a version (SemVer 2.0.0)",
    ),
    ("/ociVersion", r#""""#, "/ociVersion: is required"),
    (
        "/ociVersion",
        r#"1"#,
        "wrong type: /ociVersion: invalid type: integer `1`, expected a string",
    ),
    ("/root", r#"null"#, "/root: is required"),
    ("/root/path", r#""""#, "/root/path: must not be empty"),
    ("/process", r#"null"#, "/process: is required"),
    (
        "/process/args",
        r#"[]"#,
        "/process/args: must name a program",
    ),
    (
        "/process/args/0",
        r#""""#,
        "/process/args/0: must not be empty",
    ),
    (
        "/process/args/-",
        r#""a\u0000b""#,
        "/process/args/1: contains a NUL character",
    ),
    (
        "/process/args/-",
        r#"{"\u001b": 1}"#,
        "wrong type: /process/args/1: invalid type: map, expected a string",
    ),
    (
        "/process/cwd",
        r#""srv""#,
        "/process/cwd: must be an absolute path",
    ),
    ("/process/cwd", r#"null"#, "/process/cwd: is required"),
    (
        "/process/env/-",
        r#""NAME""#,
        "/process/env/2: is not of the form NAME=value",
    ),
    (
        "/process/env/-",
        r#""=x""#,
        "/process/env/2: has no name before the \"=\"",
    ),
    (
        "/process/env/-",
        r#""A=\u0000""#,
        "/process/env/2: contains a NUL character",
    ),
    (
        "/process/user/uid",
        r#"-1"#,
        "wrong type: /process/user/uid: invalid value: integer `-1`, expected u32",
    ),
    (
        "/process/user/umask",
        r#"512"#,
        "/process/user/umask: has more than the nine permission bits",
    ),
    (
        "/process/oomScoreAdj",
        r#"-1001"#,
        "/process/oomScoreAdj: is not within -1000 and 1000",
    ),
    (
        "/process/rlimits/-",
        r#"{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}"#,
        "/process/rlimits/1/type: \"RLIMIT_NOFILE\" is there twice",
    ),
    (
        "/process/rlimits/-",
        r#"{"type": "NOFILE", "soft": 1, "hard": 1}"#,
        "/process/rlimits/1/type: there is no resource limit \"NOFILE\"",
    ),
    (
        "/process/rlimits/-",
        r#"{"type": "RLIMIT_CPU", "soft": 1}"#,
        "/process/rlimits/1/hard: is required",
    ),
    (
        "/process/rlimits/-",
        r#"{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}"#,
        "/process/rlimits/1: the soft limit 2 of RLIMIT_CPU is above its hard limit 1",
    ),
    (
        "/hostname",
        r#""xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx""#,
        "/hostname: is longer than the kernel's 64 bytes",
    ),
    (
        "/mounts/-",
        r#"{"destination": "/x"}"#,
        "/mounts/7/type: is required, as the options have neither \"bind\" nor \"rbind\"",
    ),
    (
        "/mounts/-",
        r#"{"type": "tmpfs"}"#,
        "/mounts/7/destination: is required",
    ),
    (
        "/mounts/-",
        r#"{"destination": "/x", "type": "bind"}"#,
        "/mounts/7/source: is required for a bind mount",
    ),
    (
        "/annotations",
        r#"{"": "x"}"#,
        "/annotations/: a key must not be empty",
    ),
    (
        "/annotations",
        r#"{"a/\u0000": "x"}"#,
        "/annotations/a~1\\0: the name contains a NUL character",
    ),
    (
        "/linux/namespaces/-",
        r#"{"type": "pid"}"#,
        "/linux/namespaces/6/type: \"pid\" is there twice",
    ),
    (
        "/linux/namespaces/-",
        r#"{"type": "net\u001b[2J"}"#,
        "/linux/namespaces/6/type: there is no namespace type \"net\\u{1b}[2J\"",
    ),
    (
        "/linux/namespaces/-",
        r#"{}"#,
        "/linux/namespaces/6/type: is required",
    ),
    (
        "/linux/namespaces/-",
        r#"{"type": "time", "path": "x"}"#,
        "/linux/namespaces/6/path: must be an absolute path",
    ),
    (
        "/linux/rootfsPropagation",
        r#""down""#,
        "/linux/rootfsPropagation: there is no propagation \"down\"",
    ),
    (
        "/linux/maskedPaths/0",
        r#""proc""#,
        "/linux/maskedPaths/0: must be an absolute path",
    ),
    (
        "/linux/readonlyPaths/0",
        r#""""#,
        "/linux/readonlyPaths/0: must be an absolute path",
    ),
    (
        "/linux/netDevices",
        r#"{"eth0": {"name": "a name"}}"#,
        "/linux/netDevices/eth0/name: is not the name of a network device: it may have no \"/\", \":\", \"%\" or space, but for one \"%d\" in the new name",
    ),
    (
        "/linux/timeOffsets",
        r#"{"boottime": {"secs": 1}}"#,
        "/linux/timeOffsets: needs a new namespace of type \"time\" in /linux/namespaces",
    ),
    (
        "/process",
        r#"{"args": ["x"], "cwd": "/", "terminal": true, "consoleSize": {"height": 65536, "width": 80}}"#,
        "/process/consoleSize/height: is more than a terminal can have: 65535",
    ),
    (
        "/process/scheduler",
        r#"{"nice": 1}"#,
        "/process/scheduler/policy: is required",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_RT", "priority": 200}"#,
        "/process/scheduler/policy: there is no scheduling policy \"SCHED_RT\"",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_FIFO", "priority": 100}"#,
        "/process/scheduler/priority: must be within 1 and 99 (highest) for a real-time policy",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_RR"}"#,
        "/process/scheduler/priority: must be within 1 and 99 (highest) for a real-time policy",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_DEADLINE", "nice": -5, "runtime": 1}"#,
        "/process/scheduler/nice: means nothing with SCHED_DEADLINE: only with SCHED_OTHER and SCHED_BATCH",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_BATCH", "priority": 1}"#,
        "/process/scheduler/priority: means nothing with SCHED_BATCH: only with SCHED_FIFO and SCHED_RR",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_NO"]}"#,
        "/process/scheduler/flags/0: there is no scheduling flag \"SCHED_FLAG_NO\"",
    ),
    (
        "/process/ioPriority",
        r#"{"class": "IOPRIO_CLASS_BE"}"#,
        "/process/ioPriority/priority: is required",
    ),
    (
        "/process/ioPriority",
        r#"{"class": "IOPRIO_CLASS_IDLE", "priority": 8}"#,
        "/process/ioPriority/priority: is not within 0 (highest) and 7 (lowest)",
    ),
    (
        "/process/execCPUAffinity",
        r#"{"initial": "0,", "final": "0-1,3"}"#,
        "/process/execCPUAffinity/initial: \"0,\": is not a list of numbers and ranges like \"0-3,7\"",
    ),
    (
        "/linux/memoryPolicy",
        r#"{"nodes": "0"}"#,
        "/linux/memoryPolicy/mode: is required",
    ),
    (
        "/linux/memoryPolicy",
        r#"{"mode": "MPOL_BIND"}"#,
        "/linux/memoryPolicy/nodes: is required with MPOL_BIND",
    ),
    (
        "/linux/memoryPolicy",
        r#"{"mode": "MPOL_DEFAULT", "nodes": "0"}"#,
        "/linux/memoryPolicy/nodes: must be empty with MPOL_DEFAULT",
    ),
    (
        "/linux/memoryPolicy",
        r#"{"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}"#,
        "/linux/memoryPolicy/flags/0: excludes MPOL_F_RELATIVE_NODES",
    ),
    (
        "/linux/memoryPolicy",
        r#"{"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_STATIC_NODES"]}"#,
        "/linux/memoryPolicy/flags/0: MPOL_F_STATIC_NODES means nothing without nodes",
    ),
    (
        "/linux/personality",
        r#"{"flags": []}"#,
        "/linux/personality/domain: is required",
    ),
    (
        "/mounts/1/uidMappings",
        r#"[{"containerID": 0, "hostID": 0, "size": 1}]"#,
        "/mounts/1/gidMappings: is required when the other kind of mappings is given",
    ),
    (
        "/linux/devices",
        r#"[{"path": "x", "type": "p"}]"#,
        "/linux/devices/0/path: must be an absolute path",
    ),
    (
        "/linux/devices",
        r#"[{"path": "/x", "type": "b", "major": 1}]"#,
        "/linux/devices/0/minor: is required",
    ),
    (
        "/freebsd",
        r#"{"devices": [1]}"#,
        "/freebsd: this is for FreeBSD, not Linux",
    ),
];

#[test]
fn each_mistake_is_found_at_its_place() {
    for (pointer, value, expected) in MISTAKES {
        let value = serde_json::from_str(value).unwrap();
        assert_eq!(problems(pointer, value), [*expected], "{pointer}");
    }
}

#[test]
fn names_need_a_namespace_of_their_own() {
    let shared = problems("/linux/namespaces", json!([{"type": "pid"}]));
    assert_eq!(
        shared,
        ["/hostname: needs a namespace of type \"uts\" in /linux/namespaces"]
    );
}

#[test]
fn what_asks_for_nothing_or_is_unknown_passes() {
    let cases = [
        ("/ociVersion", json!("1.99.0-rc.1+build-7")),
        ("/windows", json!(null)),
        ("/hooks", json!({"prestart": [], "poststop": null})),
        ("/somethingNew", json!({"deep": [1, {"er": true}]})),
        ("/process/user", json!(null)),
        ("/process/apparmorProfile", json!("")),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO", "nice": 0, "priority": 1, "runtime": 0,
                   "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_KEEP_PARAMS",
                             "SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"]}),
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3,
                   "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"]}),
        ),
        (
            "/process/execCPUAffinity",
            json!({"initial": "", "final": null}),
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_PREFERRED", "nodes": "", "flags": []}),
        ),
        ("/process/consoleSize", json!({"height": 24, "width": 80})),
        ("/linux/devices", json!([])),
        ("/linux/cgroupsPath", json!("user.slice:libpod:x")),
        (
            "/linux/resources",
            json!({"cpu": {}, "memory": {"limit": null}, "newKind": {"x": 1}, "blockIO": {"weight": 0}}),
        ),
        ("/linux/seccomp", json!(null)),
        ("/linux/rootfsPropagation", json!("")),
        (
            "/linux",
            json!({"namespaces": [{"type": "uts", "path": ""}]}),
        ),
    ];
    for (pointer, value) in cases {
        assert_eq!(
            problems(pointer, value.clone()),
            [""; 0],
            "{pointer} = {value}"
        );
    }
}

#[test]
fn every_capability_that_is_known_is_read() {
    for name in crate::plan::CapabilitySet(u64::MAX >> 23).names() {
        let found = problems("/process/capabilities/ambient", json!([name]));
        assert_eq!(found, [""; 0], "{name}");
    }
}
