//! Checks on the JSON value itself: what the typed form would not show, or would say less well.

use serde_json::{Map, Value};

use super::attributes::SCHEDULER_FLAGS;
use super::{Problem, pointer_token, seccomp};
use crate::plan::{CapabilitySet, MEMORY_POLICY_FLAGS, RESOURCES};

/// Members without which an object means nothing; oci-spec would refuse it with less to say, or put a default in.
const REQUIRED: &[(&str, &[&str])] = &[
    ("/process", &["cwd"]),
    ("/mounts/*", &["destination"]),
    ("/process/rlimits/*", &["type", "soft", "hard"]),
    ("/process/ioPriority", &["class", "priority"]),
    ("/linux/personality", &["domain"]),
    ("/hooks/prestart/*", &["path"]),
    ("/hooks/createRuntime/*", &["path"]),
    ("/hooks/createContainer/*", &["path"]),
    ("/hooks/startContainer/*", &["path"]),
    ("/hooks/poststart/*", &["path"]),
    ("/hooks/poststop/*", &["path"]),
    ("/linux/namespaces/*", &["type"]),
    ("/linux/devices/*", &["type", "path"]),
    ("/linux/uidMappings/*", &["containerID", "hostID", "size"]),
    ("/linux/gidMappings/*", &["containerID", "hostID", "size"]),
    ("/linux/seccomp", &["defaultAction"]),
    ("/linux/seccomp/syscalls/*", &["names", "action"]),
    (
        "/linux/seccomp/syscalls/*/args/*",
        &["index", "value", "op"],
    ),
    ("/linux/resources/pids", &["limit"]),
    ("/linux/resources/hugepageLimits/*", &["pageSize", "limit"]),
    (
        "/linux/resources/network/priorities/*",
        &["name", "priority"],
    ),
    (
        "/linux/resources/blockIO/weightDevice/*",
        &["major", "minor"],
    ),
    (
        "/linux/resources/blockIO/throttleReadBpsDevice/*",
        &["major", "minor", "rate"],
    ),
    (
        "/linux/resources/blockIO/throttleWriteBpsDevice/*",
        &["major", "minor", "rate"],
    ),
    (
        "/linux/resources/blockIO/throttleReadIOPSDevice/*",
        &["major", "minor", "rate"],
    ),
    (
        "/linux/resources/blockIO/throttleWriteIOPSDevice/*",
        &["major", "minor", "rate"],
    ),
    (
        "/mounts/*/uidMappings/*",
        &["containerID", "hostID", "size"],
    ),
    (
        "/mounts/*/gidMappings/*",
        &["containerID", "hostID", "size"],
    ),
];

/// What takes the place of a member that was refused, so that the typed form shows the other problems.
const PLACEHOLDERS: &[(&str, &str)] = &[
    ("cwd", "/"),
    ("destination", "/missing"),
    ("defaultAction", seccomp::ACTIONS[0]),
    ("action", seccomp::ACTIONS[0]),
    ("op", seccomp::OPERATORS[0]),
    ("class", "IOPRIO_CLASS_BE"),
    ("domain", "LINUX"),
    ("name", "missing"),
    ("pageSize", "2MB"),
    ("path", "/missing"),
];

/// Lists in which no two elements have the same `type`.
const UNIQUE: &[&str] = &["/process/rlimits", "/linux/namespaces"];

/// Strings that are one of a list, and what the list is of.
const CHOICES: &[(&str, &str, &[&str])] = &[
    ("/process/rlimits/*/type", "resource limit", &RESOURCES),
    ("/linux/namespaces/*/type", "namespace type", &NAMESPACES),
    ("/linux/devices/*/type", "device type", &DEVICE_TYPES),
    (
        "/linux/rootfsPropagation",
        "propagation",
        &[
            "shared",
            "slave",
            "private",
            "unbindable",
            "rshared",
            "rslave",
            "rprivate",
            "runbindable",
            "",
        ],
    ),
    (
        "/linux/seccomp/defaultAction",
        "seccomp action",
        &seccomp::ACTIONS,
    ),
    (
        "/linux/seccomp/architectures/*",
        "seccomp architecture",
        &seccomp::ARCHITECTURES,
    ),
    ("/linux/seccomp/flags/*", "seccomp flag", &seccomp::FLAGS),
    (
        "/linux/seccomp/syscalls/*/action",
        "seccomp action",
        &seccomp::ACTIONS,
    ),
    (
        "/linux/seccomp/syscalls/*/args/*/op",
        "seccomp operator",
        &seccomp::OPERATORS,
    ),
    (
        "/process/scheduler/flags/*",
        "scheduling flag",
        &SCHEDULER_FLAGS,
    ),
    (
        "/process/ioPriority/class",
        "I/O priority class",
        &["IOPRIO_CLASS_BE", "IOPRIO_CLASS_RT", "IOPRIO_CLASS_IDLE"],
    ),
    (
        "/linux/memoryPolicy/flags/*",
        "memory policy flag",
        &MEMORY_POLICY_FLAGS,
    ),
    (
        "/linux/personality/domain",
        "execution domain",
        &["LINUX", "LINUX32"],
    ),
];

/// The namespace types of config-linux.md.
const NAMESPACES: [&str; 8] = [
    "pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time",
];

/// The device types of config-linux.md.
const DEVICE_TYPES: [&str; 4] = ["c", "b", "u", "p"];

/// The capability sets of config.md.
const CAPABILITY_SETS: &str = "/process/capabilities/*";

/// Calls `f` with every value that `pattern` names and its pointer; `*` stands for any array element or object member.
pub(super) fn visit(value: &mut Value, pattern: &str, f: &mut dyn FnMut(&str, &mut Value)) {
    let tokens: Vec<&str> = pattern.split('/').skip(1).collect();
    descend(value, &tokens, &mut String::new(), f);
}

/// `at` is the pointer so far; it is the same again afterwards.
fn descend(
    value: &mut Value,
    tokens: &[&str],
    at: &mut String,
    f: &mut dyn FnMut(&str, &mut Value),
) {
    let Some((token, rest)) = tokens.split_first() else {
        return f(at, value);
    };
    let mut step = |name: &str, value: &mut Value| {
        let length = at.len();
        at.push('/');
        at.push_str(name);
        descend(value, rest, at, f);
        at.truncate(length);
    };
    match value {
        Value::Array(items) if *token == "*" => {
            for (index, item) in items.iter_mut().enumerate() {
                step(&index.to_string(), item);
            }
        }
        Value::Object(members) if *token == "*" => {
            for (key, member) in members.iter_mut() {
                step(&pointer_token(key), member);
            }
        }
        Value::Object(members) => {
            if let Some(member) = members.get_mut(*token) {
                step(token, member);
            }
        }
        _ => {}
    }
}

/// Lists what is wrong with the value as such, and fills in what may be absent.
pub(super) fn check(config: &mut Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    if has_nul(config) {
        find_nul(config, "", &mut problems);
    }
    // Before anything is put in the place of what is wrong.
    for pattern in UNIQUE {
        visit(config, pattern, &mut |pointer, list| {
            find_duplicates(pointer, list, &mut problems);
        });
    }
    require(config, &mut problems);
    require_numbers(config, &mut problems);
    for (pattern, what, choices) in CHOICES {
        visit(config, pattern, &mut |pointer, value| {
            if let Some(text) = value.as_str().filter(|t| !choices.contains(t)) {
                problems.push(Problem::new(
                    pointer,
                    format!("there is no {what} {text:?}"),
                ));
                *value = choices[0].into();
            }
        });
    }
    // config.md does not require `user`; the ids in it are 0 by default.
    visit(config, "/process", &mut |_, process| {
        if let Value::Object(members) = process {
            let user = members.entry("user").or_insert(Value::Null);
            if user.is_null() {
                *user = Value::Object(Map::new());
            }
        }
    });
    problems
}

fn require(config: &mut Value, problems: &mut Vec<Problem>) {
    for (pattern, required) in REQUIRED {
        visit(config, pattern, &mut |pointer, value| {
            let Value::Object(members) = value else {
                return;
            };
            for name in *required {
                if members.get(*name).is_some_and(|m| !m.is_null()) {
                    continue;
                }
                problems.push(Problem::new(format!("{pointer}/{name}"), "is required"));
                let text = PLACEHOLDERS.iter().find(|(of, _)| of == name);
                let placeholder = match (*name, text) {
                    (_, Some((_, text))) => Value::from(*text),
                    ("type", _) if pattern.ends_with("rlimits/*") => RESOURCES[0].into(),
                    ("type", _) if pattern.ends_with("devices/*") => DEVICE_TYPES[0].into(),
                    ("type", _) => NAMESPACES[0].into(),
                    ("hard", _) => u64::MAX.into(),
                    ("names", _) => vec!["missing"].into(),
                    _ => 0.into(),
                };
                members.insert((*name).to_owned(), placeholder);
            }
        });
    }
}

/// A device has numbers, unless it is a FIFO (config-linux.md, "Devices").
fn require_numbers(config: &mut Value, problems: &mut Vec<Problem>) {
    visit(config, "/linux/devices/*", &mut |pointer, device| {
        let Value::Object(members) = device else {
            return;
        };
        if members.get("type").is_some_and(|kind| kind == "p") {
            return;
        }
        for name in ["major", "minor"] {
            if members.get(name).is_none_or(Value::is_null) {
                problems.push(Problem::new(format!("{pointer}/{name}"), "is required"));
                members.insert(name.to_owned(), 0.into());
            }
        }
    });
}

fn find_duplicates(pointer: &str, list: &Value, problems: &mut Vec<Problem>) {
    let mut seen = Vec::new();
    for (index, item) in list.as_array().into_iter().flatten().enumerate() {
        let Some(kind) = item.get("type").and_then(Value::as_str) else {
            continue;
        };
        if seen.contains(&kind) {
            let message = format!("{kind:?} is there twice");
            problems.push(Problem::new(format!("{pointer}/{index}/type"), message));
        }
        seen.push(kind);
    }
}

/// No string of a configuration can reach the kernel with a NUL in it.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members
            .iter()
            .any(|(key, member)| key.contains('\0') || has_nul(member)),
        _ => false,
    }
}

/// Says where the NULs are.
fn find_nul(value: &Value, at: &str, problems: &mut Vec<Problem>) {
    match value {
        Value::String(text) if text.contains('\0') => {
            problems.push(Problem::new(at, "contains a NUL character"));
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_nul(item, &format!("{at}/{index}"), problems);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                let at = format!("{at}/{}", pointer_token(key));
                if key.contains('\0') {
                    problems.push(Problem::new(&at, "the name contains a NUL character"));
                }
                find_nul(member, &at, problems);
            }
        }
        _ => {}
    }
}

/// Takes out what the specification wants passed over with a warning: capabilities that do not exist.
pub(super) fn pass_over(config: &mut Value) -> Vec<Problem> {
    let mut warnings = Vec::new();
    visit(config, CAPABILITY_SETS, &mut |pointer, set| {
        let Value::Array(names) = set else { return };
        names.retain(|name| {
            let Some(name) = name.as_str() else {
                return true;
            };
            let known = CapabilitySet::number(name).is_some();
            if !known {
                warnings.push(Problem::new(
                    pointer,
                    format!("there is no capability {name:?}"),
                ));
            }
            known
        });
    });
    warnings
}
