//! Control groups: lodger makes none yet, so that a container stays in the cgroup of whoever starts it. What is asked of a
//! cgroup and limits something was refused by `bundle`; the rest is told here.

use oci_spec::runtime::Linux;
use serde::{Deserialize, Serialize};

use super::Note;
use crate::bundle::USUAL_SHARES;

/// Notes on what `linux` asks of a cgroup that is not made.
pub(super) fn notes(linux: Option<&Linux>, notes: &mut Vec<Note>) {
    let Some(linux) = linux else { return };
    if let Some(path) = linux
        .cgroups_path()
        .as_ref()
        .filter(|p| !p.as_os_str().is_empty())
    {
        notes.push(stays(format!("{path:?} is not made")));
    }
    let Some(resources) = linux.resources() else {
        return;
    };
    let mut unlimited = |property: &str, reason: &str| {
        notes.push(Note::new(
            format!("/linux/resources/{property}"),
            reason,
            "none is needed",
        ));
    };
    if resources
        .pids()
        .as_ref()
        .is_some_and(|pids| pids.limit() == 0)
    {
        unlimited(
            "pids/limit",
            "0 is taken for no limit, as it was before version 1.3 of the specification",
        );
    }
    let memory = resources.memory().as_ref();
    let zero = |value: Option<i64>| value == Some(0);
    for (name, value) in [
        ("limit", memory.and_then(|m| m.limit())),
        ("reservation", memory.and_then(|m| m.reservation())),
        ("swap", memory.and_then(|m| m.swap())),
        ("kernel", memory.and_then(|m| m.kernel())),
        ("kernelTCP", memory.and_then(|m| m.kernel_tcp())),
    ] {
        if zero(value) {
            unlimited(
                &format!("memory/{name}"),
                "0 is taken for no limit, as by other runtimes",
            );
        }
    }
    let shares = resources.cpu().as_ref().and_then(|cpu| cpu.shares());
    if shares == Some(USUAL_SHARES) {
        unlimited(
            "cpu/shares",
            "the container shares the processors with its caller's cgroup, whose part this is unasked",
        );
    }
}

/// The note on a cgroup that is asked for and not made; `what` begins the sentence.
pub(crate) fn stays(what: impl AsRef<str>) -> Note {
    Note::new(
        "/linux/cgroupsPath",
        format!(
            "{}: the container stays in its caller's cgroup, as lodger makes none yet",
            what.as_ref()
        ),
        "to limit what it may use, start it in a cgroup that has the limits: `systemd-run --user --scope -p MemoryMax=1G …`",
    )
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
    /// Whether the container cannot do without it: the config sets a limit, or the caller has named a manager.
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
