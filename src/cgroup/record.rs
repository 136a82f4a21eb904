//! What is remembered of a container's cgroup.

use serde::{Deserialize, Serialize};

use super::fs::Dir;
use crate::error::Result;

/// The cgroup of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRecord {
    /// Its scope in the caller's systemd, with its suffix; `None`: the runtime made the cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The uppermost cgroup that is the container's alone, as /proc/PID/cgroup has it (cgroups(7)): the scope, or what was made.
    pub top: String,
    /// The number of `top`, which no other cgroup of this boot ever has; `None` before it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The cgroup that its processes are put in and that its limits are written to: `top` or beneath it.
    pub path: String,
    /// The limits that hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enforced: Vec<Enforced>,
}

impl CgroupRecord {
    /// A scope that is about to be started: only systemd will know where its cgroup is.
    pub(super) fn of_scope(unit: &str) -> Self {
        Self {
            scope: Some(unit.to_owned()),
            top: String::new(),
            id: None,
            path: String::new(),
            enforced: Vec::new(),
        }
    }

    /// Its uppermost cgroup; `None` when that is gone, even if another has its name by now.
    pub fn open(&self) -> Result<Option<Dir>> {
        // The root is no container's, whatever a record says (`CgroupRecord::of_scope`).
        if self.top.trim_matches('/').is_empty() {
            return Ok(None);
        }
        let Some(top) = Dir::open(&self.top)? else {
            return Ok(None);
        };
        let is_it = match self.id {
            Some(id) => top.id()? == id,
            None => true,
        };
        Ok(is_it.then_some(top))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_the_hierarchy_is_never_a_containers() {
        for top in ["", "/", "//"] {
            let mut record = CgroupRecord::of_scope("x.scope");
            record.top = top.to_owned();
            assert!(record.open().unwrap().is_none(), "{top:?}");
        }
    }
}
