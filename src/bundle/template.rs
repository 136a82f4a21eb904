//! The configuration that `lodger spec` writes.

use serde_json::{Value, json};

/// A complete config.json: a shell in a root filesystem beside it.
///
/// It asks for what `runc spec` asks for, without the resource limits that need a cgroup of one's own,
/// and without ambient capabilities.
pub fn template() -> &'static str {
    include_str!("template.json")
}

/// As [`template`], for any runtime that is called without root: a user namespace with the caller's own `uid` and `gid`
/// alone, no mount option with another id, and the host's network and /sys, which such a namespace may not make new.
pub fn rootless_template(uid: u32, gid: u32) -> serde_json::Result<String> {
    let mut config: Value = serde_json::from_str(template())?;
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| {
            let destination = mount["destination"].as_str();
            destination.is_none_or(|path| !path.starts_with("/sys"))
        });
        for mount in mounts.iter_mut() {
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|option| option.as_str().is_none_or(|o| !o.starts_with("gid=")));
            }
        }
        mounts.push(json!({
            "destination": "/sys",
            "type": "none",
            "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
        }));
    }
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    let only = |id| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    config["linux"]["uidMappings"] = only(uid);
    config["linux"]["gidMappings"] = only(gid);
    serde_json::to_string_pretty(&config).map(|text| text + "\n")
}

/// `text`, a template, with `hard` for the open files where it asks for more.
pub fn with_open_files(text: &str, hard: u64) -> String {
    /// What it asks for (RLIMIT_NOFILE of getrlimit(2)).
    const ASKED: u64 = 1024;
    ["hard", "soft"]
        .into_iter()
        .filter(|_| hard < ASKED)
        .fold(text.to_owned(), |text, limit| {
            text.replace(
                &format!("\"{limit}\": {ASKED}"),
                &format!("\"{limit}\": {hard}"),
            )
        })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::bundle::Bundle;

    #[test]
    fn template_is_a_valid_bundle_without_warnings() {
        let bundle = Bundle::parse(PathBuf::from("/b"), template().into()).unwrap();
        assert_eq!(bundle.warnings, []);
        assert!(template().ends_with("}\n"));
    }

    #[test]
    fn open_files_are_what_the_caller_may_have() {
        let limit = |text: &str| {
            let config: Value = serde_json::from_str(text).unwrap();
            config["process"]["rlimits"].clone()
        };
        let of = |n: u64| json!([{"type": "RLIMIT_NOFILE", "hard": n, "soft": n}]);
        let rootless = rootless_template(1, 1).unwrap();
        for text in [template(), &rootless] {
            assert_eq!(limit(&with_open_files(text, 64)), of(64));
            assert_eq!(with_open_files(text, 1024), text);
            assert_eq!(with_open_files(text, u64::MAX), text);
            assert_eq!(limit(text), of(1024));
        }
    }

    #[test]
    fn the_rootless_template_is_a_valid_bundle_too() {
        let text = rootless_template(1000, 100).unwrap();
        let bundle = Bundle::parse(PathBuf::from("/b"), text.clone().into()).unwrap();
        assert_eq!(bundle.warnings, []);
        assert!(
            !text.contains("gid=") && !text.contains("network"),
            "{text}"
        );
        assert!(text.contains("\"hostID\": 1000") && text.contains("\"hostID\": 100,"));
    }
}
