//! Who asks, and what was taken from her process.

use serde::{Deserialize, Serialize};

use super::text;
use crate::host::{HostFacts, own_uid_map};
use crate::sys;

/// The caller and her process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Caller {
    /// Her uid.
    pub uid: u32,
    /// Her gid.
    pub gid: u32,
    /// Her account's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether she is in a user namespace other than the initial one.
    pub in_user_namespace: bool,
    /// Whether that one gives her uid an id.
    pub is_mapped: bool,
    /// NoNewPrivs of /proc/self/status; `None`: it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_new_privileges: Option<bool>,
    /// Whether there is a seccomp filter (Seccomp of /proc/self/status is 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<bool>,
    /// CapBnd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounding_set: Option<u64>,
    /// CapEff.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_set: Option<u64>,
    /// Whether /proc/self/mountinfo has no mount at `/`: the root directory is not the root of the mount namespace.
    pub root_is_hidden: bool,
}

impl Caller {
    /// Reads what it can. What `facts` know was read before this process changed, and counts.
    pub(super) fn read(facts: Option<&HostFacts>) -> Self {
        let status = text::read("/proc/self/status").unwrap_or_default();
        let hexadecimal =
            |key| text::status(&status, key).and_then(|word| u64::from_str_radix(word, 16).ok());
        let mounts = super::kernel::mounts();
        let root = |mount: &crate::host::MountLine| mount.mount_point == std::path::Path::new("/");
        let mut caller = Self {
            uid: sys::cred::uid(),
            gid: sys::cred::gid(),
            name: None,
            in_user_namespace: super::kernel::in_user_namespace(),
            is_mapped: true,
            no_new_privileges: text::status(&status, "NoNewPrivs").map(|word| word == "1"),
            filter: text::status(&status, "Seccomp").map(|word| word == "2"),
            bounding_set: hexadecimal("CapBnd"),
            effective_set: hexadecimal("CapEff"),
            root_is_hidden: !mounts.is_empty() && !mounts.iter().any(root),
        };
        let map = facts.map_or_else(own_uid_map, |facts| facts.uid_map.clone());
        if let Some(facts) = facts {
            caller.uid = facts.uid;
            caller.gid = facts.gid;
            caller.name.clone_from(&facts.user_name);
            caller.in_user_namespace = facts.in_user_namespace;
        }
        caller.is_mapped = !caller.in_user_namespace || map.iter().any(|line| line.has(caller.uid));
        caller
    }
}
