//! The container's control group, as data.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// What the caller asks of the cgroup (`--cgroup-manager`, `--cgroup-policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupOptions {
    /// Who is to make it.
    pub manager: CgroupManager,
    /// What becomes of limits that nobody can keep; `None`: strict where there are some.
    pub policy: Option<CgroupPolicy>,
}

/// Who makes a container's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum CgroupManager {
    /// Your systemd, where you have a session; else the runtime, where your own cgroup is yours to divide; else nobody
    #[default]
    Auto,
    /// Your systemd (`systemd --user`): a scope
    Systemd,
    /// The runtime itself, beneath your own cgroup
    Cgroupfs,
    /// Nobody: the container stays in the cgroup of its caller
    Disabled,
}

/// What becomes of limits that nobody can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CgroupPolicy {
    /// An error, before anything is made; so is a cgroup that cannot be made
    Strict,
    /// A note for each
    BestEffort,
}

/// The container's control group: where it is, and what is set in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Who makes it.
    pub place: CgroupPlace,
    /// What is written to it, in this order, by whoever makes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
    /// What the scope is given besides, for a systemd that knows it: the settings it must not lose when it reloads, and
    /// what `org.systemd.property.` annotations ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<UnitProperty>,
    /// Uid and gid, as the outer user namespace has them, who may divide the cgroup further (config-linux.md, "Cgroup
    /// ownership"); `None`: the caller alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
    /// Whether the container can make cgroups in it: they may have all controllers that it has itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub divisible: bool,
    /// Whether the container cannot do without it: the config sets a limit, or the policy is strict; never where it is best-effort.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// Where a container's cgroup is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "manager")]
pub enum CgroupPlace {
    /// In a scope of the caller's systemd (systemd.scope(5)).
    Systemd {
        /// The slice; `None`: the default one of the runtime.
        slice: Option<String>,
        /// The scope's name without its suffix; `None`: lodger-ID.
        name: Option<String>,
    },
    /// Beneath the caller's own cgroup.
    Cgroupfs {
        /// Path beneath it, without `/` at its begin; `None`: lodger-ID.
        path: Option<String>,
    },
}

/// One value to write to a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// JSON pointer to the property of config.json that asks for it.
    pub property: String,
    /// The controller that has to be enabled, as cgroup.controllers names it; empty: none (cgroup.…).
    pub controller: String,
    /// The files that can hold it, the best first, with the text that each wants: the first that is there is written.
    pub writes: Vec<FileWrite>,
}

/// A file of a cgroup, and a text for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWrite {
    /// Its name, without `/`.
    pub file: String,
    /// What is written, without a newline.
    pub value: String,
}

/// One property of a transient unit (org.freedesktop.systemd1(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitProperty {
    /// JSON pointer to the property of config.json that asks for it.
    pub property: String,
    /// Its name on the bus.
    pub name: String,
    /// Its value.
    pub value: PropertyValue,
    /// The first version of systemd that has it.
    pub since: u32,
}

/// The value of a unit's property, by its type on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PropertyValue {
    /// `b`
    Bool(bool),
    /// `t`
    U64(u64),
    /// `i`
    I32(i32),
    /// `s`
    Text(String),
    /// `ay`
    Bytes(Vec<u8>),
    /// `as`
    Texts(Vec<String>),
    /// `a(st)`: a device's path and a number
    DeviceNumbers(Vec<(String, u64)>),
}
