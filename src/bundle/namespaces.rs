//! What the specification requires of namespaces and of what is set in them: paths, clocks, network devices.

use std::collections::BTreeMap;

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::{Problem, pointer_token};

/// Nanoseconds of a second.
const SECOND: u32 = 1_000_000_000;

/// The furthest that the kernel takes an offset (KTIME_SEC_MAX), in seconds.
const FURTHEST: u64 = 9_223_372_036;

/// The clocks of time_namespaces(7).
const CLOCKS: [&str; 2] = ["monotonic", "boottime"];

/// The longest name of a network device, in bytes (IFNAMSIZ without its NUL).
const DEVICE_NAME_LIMIT: usize = 15;

/// Lists what is wrong.
pub(super) fn check(linux: &Linux) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let path = namespace.path().as_deref();
        if path.is_some_and(|path| !path.as_os_str().is_empty() && !path.is_absolute()) {
            let pointer = format!("/linux/namespaces/{index}/path");
            problems.push(Problem::new(pointer, "must be an absolute path"));
        }
    }
    time_offsets(linux, &mut problems);
    net_devices(linux, &mut problems);
    problems
}

/// Whether a new namespace of `kind` is listed, or one to join; `None`: neither.
fn listed(linux: &Linux, kind: LinuxNamespaceType) -> Option<bool> {
    let mut listed = linux.namespaces().iter().flatten();
    let found = listed.find(|namespace| namespace.typ() == kind)?;
    let path = found.path().as_ref();
    Some(path.is_none_or(|path| path.as_os_str().is_empty()))
}

fn time_offsets(linux: &Linux, problems: &mut Vec<Problem>) {
    let offsets: BTreeMap<_, _> = linux.time_offsets().iter().flatten().collect();
    let message = match listed(linux, LinuxNamespaceType::Time) {
        _ if offsets.is_empty() => return,
        Some(true) => None,
        Some(false) => Some(
            "a time namespace that is joined keeps its offsets: they are set before anybody is in there",
        ),
        None => Some("needs a new namespace of type \"time\" in /linux/namespaces"),
    };
    problems.extend(message.map(|message| Problem::new("/linux/timeOffsets", message)));
    for (clock, offset) in offsets {
        let pointer = format!("/linux/timeOffsets/{}", pointer_token(clock));
        if !CLOCKS.contains(&clock.as_str()) {
            let message = "no such clock: a time namespace has \"monotonic\" and \"boottime\"";
            problems.push(Problem::new(&pointer, message));
        }
        if offset.secs().unwrap_or(0).unsigned_abs() > FURTHEST {
            let message = format!("is further than the kernel's {FURTHEST} seconds");
            problems.push(Problem::new(format!("{pointer}/secs"), message));
        }
        if offset.nanosecs().unwrap_or(0) >= SECOND {
            let message = "is a second or more: whole seconds belong into \"secs\"";
            problems.push(Problem::new(format!("{pointer}/nanosecs"), message));
        }
    }
}

fn net_devices(linux: &Linux, problems: &mut Vec<Problem>) {
    let devices: BTreeMap<_, _> = linux.net_devices().iter().flatten().collect();
    if devices.is_empty() {
        return;
    }
    if listed(linux, LinuxNamespaceType::Network).is_none() {
        let message = "needs a namespace of type \"network\" in /linux/namespaces";
        problems.push(Problem::new("/linux/netDevices", message));
    }
    let mut targets = BTreeMap::new();
    for (name, device) in devices {
        let pointer = format!("/linux/netDevices/{}", pointer_token(name));
        if let Some(message) = unfit(name) {
            problems.push(Problem::new(&pointer, message));
        }
        let given = device.name().as_ref().filter(|target| !target.is_empty());
        let target = given.unwrap_or(name);
        let at = match given {
            Some(_) => format!("{pointer}/name"),
            None => pointer.clone(),
        };
        let rest = target.replacen("%d", "0", 1);
        if let Some(message) = given.and_then(|_| unfit(&rest)) {
            problems.push(Problem::new(&at, message));
        }
        if *target == "lo" {
            let message = "every network namespace has a device \"lo\" already";
            problems.push(Problem::new(&at, message));
        } else if let Some(other) = targets
            .insert(target, name)
            .filter(|_| !target.contains("%d"))
        {
            let message = format!("{other:?} gets the same name in the container: {target:?}");
            problems.push(Problem::new(&at, message));
        }
    }
}

/// Why `name` cannot be that of a network device (dev_valid_name of the kernel).
fn unfit(name: &str) -> Option<&'static str> {
    let odd = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace();
    match name {
        "" => Some("the name of a network device must not be empty"),
        "." | ".." => Some("is not the name of a network device"),
        name if name.len() > DEVICE_NAME_LIMIT => {
            Some("is longer than the 15 bytes of a network device's name")
        }
        name if name.contains(odd) => Some(
            "is not the name of a network device: it may have no \"/\", \":\", \"%\" or space, but for one \"%d\" in the new name",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(linux: serde_json::Value) -> Vec<String> {
        let linux: Linux = serde_json::from_value(linux).unwrap();
        check(&linux).iter().map(Problem::to_string).collect()
    }

    #[test]
    fn clocks_are_set_in_a_new_time_namespace_only() {
        use serde_json::json;
        let offsets = json!({"monotonic": {"secs": 1, "nanosecs": 999_999_999}});
        let with = |namespaces| problems(json!({"namespaces": namespaces, "timeOffsets": offsets}));
        assert!(with(json!([{"type": "time"}])).is_empty());
        assert!(with(json!([{"type": "time", "path": ""}])).is_empty());
        assert_eq!(with(json!([])).len(), 1);
        assert!(with(json!([{"type": "time", "path": "/p"}]))[0].contains("is joined"));
    }

    #[test]
    fn names_of_devices() {
        for name in ["eth0", "a", "abcdefghijklmno", "v.1"] {
            assert_eq!(unfit(name), None, "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "abcdefghijklmnop",
            "a/b",
            "a b",
            "a:0",
            "a%d",
        ] {
            assert!(unfit(name).is_some(), "{name}");
        }
    }

    #[test]
    fn new_names_of_devices() {
        use serde_json::json;
        let with =
            |devices| problems(json!({"namespaces": [{"type": "network"}], "netDevices": devices}));
        assert!(with(json!({"a": {}, "b": {"name": "eth%d"}, "c": {"name": "eth%d"}})).is_empty());
        assert!(with(json!({"a": {"name": "b"}, "b": {}}))[0].contains("\"a\" gets the same name"));
        assert!(
            with(json!({"a": {"name": "lo"}}))[0].starts_with("/linux/netDevices/a/name: every")
        );
        assert!(with(json!({"lo": {}}))[0].starts_with("/linux/netDevices/lo: every"));
        assert_eq!(
            with(json!({"a": {"name": "x%s"}, "b": {"name": "%d%d"}})).len(),
            2
        );
    }
}
