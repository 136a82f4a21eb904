//! `features`: what this version does, as the document of runtime-spec features.md.
//!
//! It is made from the tables that decide, so that it cannot promise more than they allow.

use serde_json::{Value, json};

use super::{SPEC_VERSION, print};
use crate::bundle::seccomp;
use crate::error::{Error, Result};
use crate::plan;

/// The oldest version of the specification whose configs are taken.
const OLDEST_SPEC: &str = "1.0.0";

/// The hooks of config.md.
const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// Print what this version supports as JSON
///
/// The document is that of the OCI runtime specification, features.md. Engines ask for it before they write a config.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Does what `features` asks.
pub(crate) fn features(_: &Args) -> Result<u8> {
    let text = serde_json::to_string_pretty(&document())
        .map_err(|error| Error::new("cannot print the features").because(error))?;
    print(&(text + "\n"))?;
    Ok(0)
}

fn document() -> Value {
    json!({
        "ociVersionMin": OLDEST_SPEC,
        "ociVersionMax": SPEC_VERSION,
        "hooks": HOOKS,
        "mountOptions": plan::mount_options(),
        "linux": linux(),
        "annotations": {
            "lodger.commit": super::COMMIT,
            "lodger.version": env!("CARGO_PKG_VERSION"),
        },
        "potentiallyUnsafeConfigAnnotations": plan::ACTING_ANNOTATIONS.map(|acting| acting.key),
    })
}

fn linux() -> Value {
    json!({
        "namespaces": plan::NAMESPACES,
        "capabilities": plan::CapabilitySet(u64::MAX).names().collect::<Vec<_>>(),
        "cgroup": {
            "v1": false,
            "v2": true,
            // That of the system is never spoken to.
            "systemd": false,
            "systemdUser": true,
            "rdma": true,
        },
        "seccomp": {
            "enabled": true,
            "actions": seccomp::ACTIONS,
            "operators": seccomp::OPERATORS,
            "archs": seccomp::ARCHITECTURES,
            "knownFlags": seccomp::FLAGS,
            "supportedFlags": crate::seccomp::supported_flags(),
        },
        "apparmor": { "enabled": true },
        "selinux": { "enabled": true },
        "intelRdt": { "enabled": false },
        "memoryPolicy": {
            "modes": plan::MEMORY_POLICY_MODES,
            "flags": plan::MEMORY_POLICY_FLAGS,
        },
        "mountExtensions": { "idmap": { "enabled": true } },
        "netDevices": { "enabled": true },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_are_those_that_work() {
        let options = plan::mount_options();
        for works in ["bind", "idmap", "rro", "nosymfollow", "rw", "tmpcopyup"] {
            assert!(options.contains(&works), "{works}");
        }
        for lost in ["iversion", "mand", "silent"] {
            assert!(!options.contains(&lost), "{lost}");
        }
        assert!(options.is_sorted());
    }
}
