//! What is remembered of a container's cgroup.

use serde::{Deserialize, Serialize};

/// The cgroup of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRecord {
    /// Its scope in the caller's systemd, with its suffix; `None`: the runtime made the cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The uppermost cgroup that is the container's alone, as /proc/PID/cgroup has it (cgroups(7)): the scope, or what was made.
    pub top: String,
    /// The cgroup that its processes are put in and that its limits are written to: `top` or beneath it.
    pub path: String,
    /// The limits that hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enforced: Vec<Enforced>,
}

/// A limit that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// JSON pointer to the property of config.json that asked for it.
    pub property: String,
    /// The file of the cgroup.
    pub file: String,
    /// What was written to it.
    pub value: String,
    /// Who keeps it.
    pub by: EnforcedBy,
}

/// Who keeps a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnforcedBy {
    /// A property of the scope and the cgroup's file.
    Systemd,
    /// The cgroup's file alone.
    Cgroupfs,
}
