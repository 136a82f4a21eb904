//! The plan: what will be done for one container, decided before anything is touched.
//!
//! `Plan::compute` turns a `Bundle` and `HostFacts` into plain data. It does no I/O and is deterministic, so the
//! same JSON is documentation (`lodger plan`), golden test and bug report. What is adapted for want of privilege is in
//! [`Plan::notes`]; what cannot be done is a list of problems, never an omission.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::IdRange;

/// Everything that will be done for one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The user namespaces to make or to use.
    pub user_namespace: UserNamespace,
    /// The other namespaces to make new, in the order of [`Namespace`].
    pub namespaces: Vec<Namespace>,
    /// The namespaces to join, besides the user namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<JoinedNamespace>,
    /// Offsets of the clocks in the new time namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub time_offsets: Vec<ClockOffset>,
    /// Network devices to move into the container's network namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub net_devices: Vec<NetDevice>,
    /// The root filesystem.
    pub root: Root,
    /// Mounts, in the order they are made.
    pub mounts: Vec<Mount>,
    /// The SELinux context of the filesystems that are made unasked (`linux.mountLabel`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_label: Option<String>,
    /// Device nodes to bind from the host.
    pub devices: Vec<Device>,
    /// FIFOs to make.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fifos: Vec<Fifo>,
    /// Symbolic links to make in /dev, after the mounts.
    pub links: Vec<Link>,
    /// Paths to hide; each is absolute in the container. Missing ones are passed over (config-linux.md).
    pub masked_paths: Vec<PathBuf>,
    /// Paths to make read-only; each is absolute in the container. Missing ones are passed over.
    pub readonly_paths: Vec<PathBuf>,
    /// Kernel parameters to write.
    pub sysctl: Vec<Sysctl>,
    /// Host name to set in the new UTS namespace.
    pub hostname: Option<String>,
    /// NIS domain name to set in the new UTS namespace.
    pub domainname: Option<String>,
    /// The container's process.
    pub process: Process,
    /// The container's control group, if one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Cgroup>,
    /// The system call filter of the container's processes, if they get one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// What becomes of calls that change owners and ids.
    #[serde(default, skip_serializing_if = "FakeRoot::is_none")]
    pub fake_root: FakeRoot,
    /// Programs of the caller's to run on the way.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// The config's annotations, for `state`.
    pub annotations: BTreeMap<String, String>,
    /// What is adapted, and why: shown once at `create`.
    pub notes: Vec<Note>,
}

/// How the container gets its user namespace ("C" in the documentation).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum UserNamespace {
    /// The caller is in a user namespace already and holds CAP_SYS_ADMIN there, and the config asks for none.
    Inherit,
    /// A new one, made from the outer one.
    New {
        /// The namespace in which C is made.
        outer: Outer,
        /// C's uid map. `host_id` is an id of the caller's own user namespace; no line crosses two of the outer's extents.
        uid_map: Vec<IdMapping>,
        /// C's gid map, likewise.
        gid_map: Vec<IdMapping>,
        /// Whether setgroups(2) stays allowed. `deny` must be written where it does not.
        setgroups: bool,
    },
    /// The one that the config names by path, with the ids it has.
    Joined {
        /// Which of `linux.namespaces` names it.
        index: usize,
        /// Its uid map. `host_id` is an id of the caller's own user namespace.
        uid_map: Vec<IdMapping>,
        /// Its gid map, likewise.
        gid_map: Vec<IdMapping>,
        /// Whether setgroups(2) is allowed in it.
        setgroups: bool,
    },
}

/// A namespace, other than a user namespace, that is joined (setns(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedNamespace {
    /// What it is of.
    pub kind: Namespace,
    /// Which of `linux.namespaces` names it.
    pub index: usize,
    /// The path that names it.
    pub path: PathBuf,
    /// Whether it belongs to the container's user namespace, or to one made in there: else the container has no
    /// capability over it.
    pub owned: bool,
}

/// How far a clock of the container is ahead of the host's (time_namespaces(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    /// `monotonic` or `boottime`.
    pub clock: String,
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nanosecs: u32,
}

/// A network device of the host that becomes the container's (config-linux.md, "Network Devices").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetDevice {
    /// Its name on the host.
    pub name: String,
    /// Its name in the container; a `%d` in it becomes the first number that is free.
    pub target: String,
}

/// The outer user namespace ("O"): an identity map of exactly the caller's own ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outer {
    /// The caller's present user namespace is O: maps are written directly from it.
    Current,
    /// Made with unshare(2) and mapped by newuidmap(1) and newgidmap(1): own id first, then the ranges.
    Helpers {
        /// Absolute path of newuidmap.
        newuidmap: PathBuf,
        /// Absolute path of newgidmap.
        newgidmap: PathBuf,
        /// The uids of O.
        uids: Vec<IdRange>,
        /// The gids of O.
        gids: Vec<IdRange>,
    },
    /// There is none: the caller may have one user namespace, and C is that. Its maps are written from the caller's.
    OneLevel {
        /// Absolute paths of newuidmap and newgidmap; `None`: C has only the caller's own ids, setgroups(2) denied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        helpers: Option<[PathBuf; 2]>,
    },
    /// Made with unshare(2) and mapped by itself: only the caller's own ids, setgroups(2) denied.
    SingleId {
        /// The caller's uid.
        uid: u32,
        /// The caller's gid.
        gid: u32,
    },
}

/// One line of an id map (config-linux.md, "User namespace mappings").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// The first id in the container.
    pub container_id: u32,
    /// The first id in the caller's user namespace.
    pub host_id: u32,
    /// How many ids.
    pub size: u32,
}

/// Namespaces that are made new, besides the user namespace (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// mount_namespaces(7); always made.
    Mount,
    /// pid_namespaces(7).
    Pid,
    /// ipc_namespaces(7).
    Ipc,
    /// uts_namespaces(7).
    Uts,
    /// network_namespaces(7).
    Network,
    /// time_namespaces(7).
    Time,
    /// cgroup_namespaces(7).
    Cgroup,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// JSON pointer to the mount in config.json, for messages.
    pub property: String,
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// What is mounted.
    pub source: MountSource,
    /// Attributes of the mount itself.
    pub attributes: Attributes,
    /// Attributes of the mount and all beneath it (the `r…` options).
    pub recursive_attributes: Attributes,
    /// Propagation changes, in order.
    pub propagation: Vec<Propagation>,
    /// Whether a symbolic link on the way to the destination is refused (/proc, /sys and /dev: CVE-2025-54867).
    pub no_symlinks: bool,
    /// Whether the destination may lie inside procfs (lxcfs-style files only: CVE-2019-16884).
    pub inside_proc: bool,
    /// The map of the ids on it, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_map: Option<MountIdMap>,
    /// Whether it begins with a copy of what it covers (`tmpcopyup`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub copy_up: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum MountSource {
    /// A bind mount. Whether it is a file or a directory is seen by the executor, from the opened source.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// Whether the mounts beneath come along (`rbind`).
        recursive: bool,
    },
    /// A new filesystem instance, configured with fsconfig(2).
    Filesystem {
        /// The filesystem type.
        fstype: String,
        /// The source string, for filesystems that show one.
        source: String,
        /// Superblock flags by their fsconfig(2) names (`ro`, `sync`, `dirsync`, `lazytime`, …).
        flags: Vec<String>,
        /// Superblock options; `None` is a flag without a value.
        options: Vec<(String, Option<String>)>,
    },
    /// A new overlay filesystem.
    Overlay {
        /// What it is made of.
        layers: Layers,
        /// The source string.
        source: String,
        /// Superblock flags, as of any filesystem.
        flags: Vec<String>,
        /// The other superblock options.
        options: Vec<(String, Option<String>)>,
    },
    /// What is mounted at the destination already, and gets other attributes (`remount`).
    Present {
        /// Superblock flags to set.
        flags: Vec<String>,
        /// Superblock options to change.
        options: Vec<(String, Option<String>)>,
    },
}

/// Mount attributes to set and to clear (mount_setattr(2)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Attributes to set.
    pub set: Vec<Attribute>,
    /// Attributes to clear; none is also in `set`.
    pub clear: Vec<Attribute>,
    /// The access time policy, if one is asked for.
    pub atime: Option<Atime>,
}

/// A mount attribute that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// MOUNT_ATTR_RDONLY.
    Ro,
    /// MOUNT_ATTR_NOSUID.
    Nosuid,
    /// MOUNT_ATTR_NODEV.
    Nodev,
    /// MOUNT_ATTR_NOEXEC.
    Noexec,
    /// MOUNT_ATTR_NODIRATIME.
    Nodiratime,
    /// MOUNT_ATTR_NOSYMFOLLOW.
    Nosymfollow,
}

/// Access time policy of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Atime {
    /// MOUNT_ATTR_RELATIME.
    Relatime,
    /// MOUNT_ATTR_NOATIME.
    Noatime,
    /// MOUNT_ATTR_STRICTATIME.
    Strictatime,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// A symbolic link to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Absolute path of the link in the container.
    pub path: PathBuf,
    /// What it says.
    pub target: PathBuf,
    /// Whether something else in its place is removed first.
    pub replace: bool,
}

/// A kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// The key as the config has it.
    pub key: String,
    /// The path beneath /proc/sys.
    pub path: PathBuf,
    /// The value.
    pub value: String,
}

/// The process to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; at least one.
    pub args: Vec<String>,
    /// The environment, `NAME=value`. HOME is added from the container's passwd file where it is missing.
    pub env: Vec<String>,
    /// The terminal that its standard streams are, if it gets one.
    pub terminal: Option<Terminal>,
    /// Absolute working directory.
    pub cwd: PathBuf,
    /// uid in the container.
    pub uid: u32,
    /// gid in the container.
    pub gid: u32,
    /// Supplementary groups in the container. `None`: the caller's stay, as setgroups(2) is denied or the config wants it.
    pub additional_gids: Option<Vec<u32>>,
    /// umask, if one is given.
    pub umask: Option<u32>,
    /// The capability sets.
    pub capabilities: Capabilities,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Whether no_new_privs is set (PR_SET_NO_NEW_PRIVS(2const)).
    pub no_new_privileges: bool,
    /// oom_score_adj to write, if one is given.
    pub oom_score_adj: Option<i32>,
    /// Scheduling, memory policy, execution domain and labels.
    #[serde(default, skip_serializing_if = "ProcessAttributes::is_empty")]
    pub attributes: ProcessAttributes,
}

/// A terminal of the process's own (config.md, "terminal").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Its size, if one is given; else it is that of the caller's terminal, where lodger stays in the foreground.
    pub size: Option<TerminalSize>,
}

/// A terminal's size in characters (config.md, "consoleSize").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// The five capability sets, one bit a capability (capabilities(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The bounding set.
    pub bounding: CapabilitySet,
    /// The effective set.
    pub effective: CapabilitySet,
    /// The permitted set.
    pub permitted: CapabilitySet,
    /// The inheritable set.
    pub inheritable: CapabilitySet,
    /// The ambient set.
    pub ambient: CapabilitySet,
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The `RLIMIT_…` name.
    pub name: String,
    /// The kernel's number of it (getrlimit(2)).
    pub resource: u32,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

mod annotations;
mod attributes;
mod capability;
mod cgroup;
mod cgroup_types;
mod cgroups_path;
mod choices;
mod compute;
mod devices;
mod fake_root;
mod filesystems;
mod hooks;
pub mod idmap;
mod labels;
mod masked;
mod mount_ids;
mod mounts;
mod namespaces;
mod net_devices;
mod note;
pub mod notify;
mod number_set;
pub mod one_level;
mod options;
mod overlay;
mod process;
mod resctrl;
pub mod resources;
mod root;
mod scheduling;
mod seccomp;
mod single_id;
mod sysctl;
mod time_offsets;
pub mod unit_annotations;

pub use annotations::{ACTING as ACTING_ANNOTATIONS, Acting, controls, keeps_groups};
pub use attributes::{ProcessAttributes, Role, attributes};
pub use capability::CapabilitySet;
pub use cgroup_types::{
    Cgroup, CgroupManager, CgroupOptions, CgroupPlace, CgroupPolicy, FileWrite, PropertyValue,
    Setting, UnitProperty,
};
pub use cgroups_path::unit_name;
pub use choices::{Choices, ProcMode};
pub use devices::{Asked, Device, Fifo};
pub use fake_root::FakeRoot;
pub use hooks::{Hook, Hooks};
pub(crate) use masked::{UNMASK, no_sys_note, sys_note};
pub use mount_ids::MountIdMap;
pub use namespaces::{NAMESPACES, pointer as namespace_pointer};
pub use note::Note;
pub use number_set::NumberSet;
pub use options::known as mount_options;
pub use overlay::{Layers, joined as joined_layers};
pub(crate) use process::RESOURCES;
pub use process::{Ids, process};
pub use root::{Propagation, PropagationKind, Root, RootLayers, RootUpper};
pub use scheduling::{
    CpuAffinity, IoPriority, MEMORY_POLICY_FLAGS, MEMORY_POLICY_MODES, MemoryPolicy, Scheduler,
};
pub use seccomp::{
    Seccomp, SeccompAction, SeccompCondition, SeccompFlag, SeccompListener, SeccompOperator,
    SeccompRule, seccomp,
};
pub use single_id::SingleIdCause;
