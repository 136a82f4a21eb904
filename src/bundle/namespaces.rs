//! What the specification requires of namespaces and of what is set in them: paths and clocks.

use std::collections::BTreeMap;

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::{Problem, pointer_token};

/// Nanoseconds of a second.
const SECOND: u32 = 1_000_000_000;

/// The furthest that the kernel takes an offset (KTIME_SEC_MAX), in seconds.
const FURTHEST: u64 = 9_223_372_036;

/// The clocks of time_namespaces(7).
const CLOCKS: [&str; 2] = ["monotonic", "boottime"];

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
}
