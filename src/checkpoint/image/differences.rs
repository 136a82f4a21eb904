//! What a restore cannot apply anew of a bundle's config.json, as it is in the images.
#![forbid(unsafe_code)]

use serde_json::Value;

use crate::plan::Note;

/// The most pointers that a note tells.
const MOST: usize = 8;

/// What is in the images; of objects, each member is compared by itself.
const KEPT: [&str; 14] = [
    "/process",
    "/root/readonly",
    "/domainname",
    "/linux/seccomp",
    "/linux/maskedPaths",
    "/linux/readonlyPaths",
    "/linux/rootfsPropagation",
    "/linux/mountLabel",
    "/linux/devices",
    "/linux/personality",
    "/linux/timeOffsets",
    "/linux/memoryPolicy",
    "/linux/sysctl",
    "/mounts",
];

/// Compares the config.json of the checkpoint with the one of the bundle: one note with the pointers to what differs and is not
/// applied, or none. Resources, hooks, the paths of the root, of bind mounts and of namespaces that are joined, the hostname, annotations, id maps and kernel
/// parameters of the network are applied anew, and no difference.
pub fn differences(saved: &Value, now: &Value) -> Vec<Note> {
    let mut pointers = Vec::new();
    for pointer in KEPT {
        compare(
            pointer,
            saved.pointer(pointer),
            now.pointer(pointer),
            &mut pointers,
        );
    }
    let Some(first) = pointers.first() else {
        return Vec::new();
    };
    let more = pointers.len().saturating_sub(MOST);
    let mut list = pointers
        .iter()
        .take(MOST)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        list.push_str(&format!(" and {more} more"));
    }
    let reason = format!(
        "config.json is another than at the checkpoint in {list}: what the processes had then is part of the images, and stays"
    );
    let remedy = "restore with the bundle as it was at the checkpoint; to have what config.json says now, run a new container";
    vec![Note::new(first, reason, remedy)]
}

fn compare(pointer: &str, saved: Option<&Value>, now: Option<&Value>, found: &mut Vec<String>) {
    match (saved, now) {
        (Some(Value::Object(_)), _) | (_, Some(Value::Object(_))) => {
            let mut names: Vec<&String> = [saved, now]
                .into_iter()
                .filter_map(|value| value?.as_object())
                .flat_map(|object| object.keys())
                .collect();
            names.sort();
            names.dedup();
            for name in names.into_iter().filter(|name| is_kept(pointer, name)) {
                let member = |value: Option<&Value>| value.and_then(|v| v.get(name)).cloned();
                if !is_same(member(saved).as_ref(), member(now).as_ref()) {
                    found.push(format!("{pointer}/{}", token(name)));
                }
            }
        }
        _ if pointer == "/mounts" => compare_mounts(saved, now, found),
        _ if !is_same(saved, now) => found.push(pointer.to_owned()),
        _ => {}
    }
}

/// The parameters of the network namespace are set anew.
fn is_kept(pointer: &str, name: &str) -> bool {
    pointer != "/linux/sysctl" || !(name.starts_with("net.") || name.starts_with("net/"))
}

fn compare_mounts(saved: Option<&Value>, now: Option<&Value>, found: &mut Vec<String>) {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (saved, now) = (list(saved), list(now));
    for number in 0..saved.len().max(now.len()) {
        let mount = |list: &[Value]| list.get(number).map(without_bind_source);
        if mount(&saved) != mount(&now) {
            found.push(format!("/mounts/{number}"));
        }
    }
}

fn without_bind_source(mount: &Value) -> Value {
    let is_bind = |option: &Value| matches!(option.as_str(), Some("bind" | "rbind"));
    let options = mount.get("options").and_then(Value::as_array);
    let mut mount = mount.clone();
    if options.is_some_and(|options| options.iter().any(is_bind))
        || mount.get("type").is_some_and(|t| t == "bind")
    {
        let _source = mount.as_object_mut().map(|m| m.remove("source"));
    }
    mount
}

/// What is left out is as what says nothing.
fn is_same(saved: Option<&Value>, now: Option<&Value>) -> bool {
    let said = |value: Option<&Value>| {
        value.cloned().filter(|value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(members) => !members.is_empty(),
            _ => true,
        })
    };
    said(saved) == said(now)
}

/// A name in a JSON pointer (RFC 6901).
fn token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
#[path = "differences_tests.rs"]
mod tests;
