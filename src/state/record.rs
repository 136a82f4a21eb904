//! state.json.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ProcessIdentity;
use crate::cgroup::CgroupRecord;
use crate::host::IdRange;
use crate::plan::{FakeRoot, Hooks, IdMapping, Note, SeccompListener};
use crate::sys::ns::flag;

/// What is remembered of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// ociVersion of its config.
    pub oci_version: String,
    /// The container's init.
    pub process: ProcessIdentity,
    /// The boot in which it was created.
    pub boot_id: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root filesystem.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339 with nanoseconds.
    pub created: String,
    /// The account's name, or its uid where it has none.
    pub owner: String,
    /// The config's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Which namespaces are not its creator's: `CLONE_NEW…` bits (sys::ns::flag), the user namespace included.
    pub namespaces: u32,
    /// Those of them that were there before it, and that others may be in.
    #[serde(default, skip_serializing_if = "is_none")]
    pub joined: u32,
    /// The name of its session keyring, which `exec` joins; `None`: the caller's.
    pub keyring: Option<String>,
    /// Whether the host's root is still mounted beneath its own (`--no-pivot`).
    #[serde(default)]
    pub no_pivot: bool,
    /// Its user namespace, if it has one of its own.
    pub user_namespace: Option<UserNamespaceRecord>,
    /// The hooks that run after it was created.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Whether its program is told of a socket in the state directory (NOTIFY_SOCKET).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub notify: bool,
    /// Its control group, if one was made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupRecord>,
    /// The image it is of, if it was made from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageUse>,
    /// By which namespace its processes are known once its first one has ended; none where they end with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<NamespaceMark>,
    /// The seccomp agent that `start` is to reach, if its filter notifies one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<SeccompListener>,
    /// What becomes of calls of its processes that change owners and ids.
    #[serde(default, skip_serializing_if = "FakeRoot::is_none")]
    pub fake_root: FakeRoot,
    /// What was adapted when it was created.
    pub notes: Vec<Note>,
}

impl Record {
    /// Which namespaces are its own alone: `CLONE_NEW…` bits.
    pub fn own_namespaces(&self) -> u32 {
        self.namespaces & !self.joined
    }

    /// Whether its processes end with its first one: it is that of a pid namespace (pid_namespaces(7)).
    pub fn ends_with_first(&self) -> bool {
        self.own_namespaces() & flag::PID != 0
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_none(bits: &u32) -> bool {
    *bits == 0
}

/// The image of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUse {
    /// Its name when the container was made.
    pub name: String,
    /// The digest of its manifest.
    pub manifest: String,
    /// Absolute path of the directory that has what the container changes; its bundle, too.
    pub directory: PathBuf,
    /// Whether that stays when the container is deleted.
    pub keep: bool,
}

/// A namespace of a container (see [`super::Members`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceMark {
    /// Device of the namespace file (namespaces(7)).
    pub device: u64,
    /// Inode of the namespace file, which another one may have later.
    pub inode: u64,
    /// The number that no other namespace ever has (NS_GET_ID), since Linux 6.18.
    pub number: Option<u64>,
}

/// A container's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespaceRecord {
    /// Its uid map.
    pub uid_map: Vec<IdMapping>,
    /// Its gid map.
    pub gid_map: Vec<IdMapping>,
    /// Whether setgroups(2) is allowed in it.
    pub setgroups: bool,
    /// The outer user namespace, if lodger made that too and another container may share it.
    pub outer: Option<OuterRecord>,
}

/// An outer user namespace ("O") that lodger made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OuterRecord {
    /// Device of the namespace file (namespaces(7)).
    pub device: u64,
    /// Inode of the namespace file.
    pub inode: u64,
    /// The uids in it, each mapped to itself.
    pub uids: Vec<IdRange>,
    /// The gids in it, each mapped to itself.
    pub gids: Vec<IdRange>,
}

/// What a damaged record still tells: the container's init and the boot it was made in, where both are whole.
pub(super) fn salvage(text: &[u8]) -> Option<(ProcessIdentity, String)> {
    let text = String::from_utf8_lossy(text);
    Some((member(&text, "process")?, member(&text, "boot_id")?))
}

/// The value after the first `"name":`, if it is whole.
fn member<T: for<'a> Deserialize<'a>>(text: &str, name: &str) -> Option<T> {
    let (_, rest) = text.split_once(&format!("\"{name}\":"))?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter();
    values.next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_is_salvaged() {
        let process = ProcessIdentity {
            pid: 7,
            start_time: 42,
        };
        let whole =
            r#"{"oci_version":"1.0.2","process":{"pid":7,"start_time":42},"boot_id":"b","bu"#;
        assert_eq!(salvage(whole.as_bytes()), Some((process, "b".to_owned())));
        for length in 0..whole.len() - 6 {
            assert_eq!(salvage(&whole.as_bytes()[..length]), None, "{length}");
        }
        assert_eq!(salvage(b"\xff\"process\":{}"), None);
    }
}
