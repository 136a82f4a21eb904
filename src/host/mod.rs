//! What this machine and this caller allow: read once, then plain data.
//!
//! [`HostFacts`] holds readings, never decisions: those are `plan`'s. It is serialisable, so that a host is a fixture
//! file in a test. The readers (`probe`) and the parsers (`parse_*(&str)`) are kept apart.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod account;
mod cgroup;
mod details;
mod joined;
mod mountinfo;
mod net;
mod obstacle;
mod probe;
mod programs;
mod session;
mod subid;
mod text;

pub use account::home;
pub use cgroup::{
    CALLERS, CGROUP_MOUNT, CgroupKind, CgroupReading, ManagerCgroup, parse_own_cgroup,
};
pub use details::{Details, Resctrl};
pub use joined::{Found, Joinable, NamespaceReading, may_join};
pub use mountinfo::{MountLine, Revealing, listed, parse_mountinfo, too_revealing};
pub use net::{NetReading, present as net_devices};
pub use probe::own_uid_map;
pub use programs::{ask as ask_program, run};
pub use session::{
    BusSocket, LogoutReading, SessionPlaces, SessionReading, host_uid, parse_bus_address,
    parse_kill_user_processes,
};
pub use subid::{parse_getsubids, parse_subid, skipped_code};
pub use text::{parse_id_map, parse_nsswitch, parse_passwd_name};

/// A run of consecutive ids, `start..start + count`, in the numbering of the caller's own user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id.
    pub start: u32,
    /// How many ids; never 0, and `start + count` never exceeds 2^32 - 1.
    pub count: u32,
}

impl IdRange {
    /// Whether `id` is in the range.
    pub fn has(&self, id: u32) -> bool {
        id.checked_sub(self.start).is_some_and(|n| n < self.count)
    }
}

/// One line of `/proc/self/uid_map` or `gid_map` (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapLine {
    /// The first id in this user namespace.
    pub inside: u32,
    /// The first id in the parent user namespace.
    pub outside: u32,
    /// How many ids.
    pub count: u32,
}

impl MapLine {
    /// Whether `id` of this user namespace is in the line.
    pub fn has(&self, id: u32) -> bool {
        id.checked_sub(self.inside).is_some_and(|n| n < self.count)
    }
}

/// Soft and hard limit of one resource, as getrlimit(2) gives them; `u64::MAX` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The limit in force.
    pub soft: u64,
    /// The ceiling of the soft limit.
    pub hard: u64,
}

/// What takes the privilege from newuidmap(1) or newgidmap(1). All of them make it print the same words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum HelperObstacle {
    /// It has neither the set-user-id bit with root as its owner nor file capabilities (capabilities(7)).
    Unprivileged {
        /// Which of the two.
        helper: PathBuf,
    },
    /// It lies on a mount with `nosuid` (mount(8)).
    NosuidMount {
        /// Which of the two.
        helper: PathBuf,
        /// The mount point.
        mount: PathBuf,
    },
    /// The caller has no_new_privs (PR_SET_NO_NEW_PRIVS(2const)): no program gains anything.
    NoNewPrivileges,
    /// The caller's bounding set lacks what they need (capabilities(7)).
    BoundingSet {
        /// The first of the two that lacks something.
        helper: PathBuf,
        /// `CAP_…`, those that are missing to either.
        missing: Vec<String>,
    },
}

/// Which ids the caller wants her containers to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdWish {
    /// All that can be had.
    #[default]
    Any,
    /// Her own alone (`--single-id`).
    Single,
    /// Subordinate ones; without them nothing is made (`--require-subids`).
    Subordinate,
}

impl IdWish {
    /// Whether nothing is asked for.
    pub fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

/// Everything `plan` needs to know about the caller and the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Effective uid, in the caller's own user namespace.
    pub uid: u32,
    /// Effective gid, in the caller's own user namespace.
    pub gid: u32,
    /// The account's name, if there is one.
    pub user_name: Option<String>,
    /// Whether the caller is in a user namespace other than the initial one.
    pub in_user_namespace: bool,
    /// Whether CAP_SYS_ADMIN is effective in the caller's user namespace.
    pub sys_admin: bool,
    /// `/proc/self/uid_map`.
    pub uid_map: Vec<MapLine>,
    /// `/proc/self/gid_map`.
    pub gid_map: Vec<MapLine>,
    /// Whether `/proc/self/setgroups` says `allow`.
    pub setgroups_allowed: bool,
    /// Subordinate uids, non-overlapping, in the order of the source.
    pub subuid: Vec<IdRange>,
    /// Subordinate gids, non-overlapping, in the order of the source.
    pub subgid: Vec<IdRange>,
    /// What was skipped while the ranges were read, and why.
    pub subid_notes: Vec<String>,
    /// newuidmap(1), if it is in one of the safe directories.
    pub newuidmap: Option<PathBuf>,
    /// newgidmap(1), if it is in one of the safe directories.
    pub newgidmap: Option<PathBuf>,
    /// What takes the privilege from those two, though they are there; `None`: nothing that can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper_obstacle: Option<HelperObstacle>,
    /// Which ids the caller asks for.
    #[serde(default, skip_serializing_if = "IdWish::is_any")]
    pub id_wish: IdWish,
    /// How many user namespaces the caller may have in her present one (`user.max_user_namespaces`, namespaces(7)), where
    /// that is fewer than a container with an outer user namespace needs, which is two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_user_namespaces: Option<u32>,
    /// The capability bounding set of the caller, one bit a capability (capabilities(7)). In the initial user namespace
    /// it says nothing about a container, whose new user namespace begins with all of them: there it is not read.
    pub bounding_set: u64,
    /// The highest capability number this kernel knows.
    pub last_capability: u8,
    /// The caller's resource limits by their `RLIMIT_…` name.
    pub limits: BTreeMap<String, Limit>,
    /// What was read for one config ([`HostFacts::learn`]).
    #[serde(default, skip_serializing_if = "Details::is_empty")]
    pub details: Details,
    /// What is at the paths that `linux.namespaces` names. It is read only where the config names one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceReading>,
    /// The network namespace that the caller is in. It is read only where the config has network devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetReading>,
    /// Control groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupReading>,
    /// Where the caller's systemd is. It is read only where a cgroup is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionReading>,
}
