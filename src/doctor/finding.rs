//! What is said of a cause that was found.

use serde::{Deserialize, Serialize};

/// A cause that was found on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The stable code, `LDG-…`.
    pub code: String,
    /// What it is about.
    pub area: Area,
    /// What it means for the mode.
    pub weight: Weight,
    /// One sentence: the cause, with what was read.
    pub what: String,
    /// What the caller goes without, one sentence.
    pub costs: String,
    /// One line to copy: a command, an option, or what to ask for.
    pub remedy: String,
    /// Who can do it.
    pub who: Who,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// User namespaces as such.
    UserNamespace,
    /// newuidmap(1), newgidmap(1) and the subordinate ids.
    Ids,
    /// Mounts, /proc and /sys.
    Mounts,
    /// Devices.
    Devices,
    /// Where state and images are kept.
    Storage,
    /// The session, its runtime directory and its systemd.
    Session,
    /// Control groups.
    Cgroups,
    /// Limits of the caller and of the kernel.
    Limits,
    /// Networks.
    Network,
    /// The kernel's age, and filters that feign an older one.
    Kernel,
}

/// What a finding means for the mode that the host gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// No container can be made.
    Blocks,
    /// Containers can be made in a reduced mode alone.
    Reduces,
    /// Something that a config may ask for is not to be had; the mode stays.
    Costs,
}

/// Who can do what a remedy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The caller herself.
    You,
    /// Root of this machine.
    Administrator,
    /// Whoever starts the container, the job or the session that the caller is in.
    Surroundings,
}

impl Who {
    /// What goes before a remedy that is not the caller's to apply.
    pub fn may(self) -> &'static str {
        match self {
            Self::You => "",
            Self::Administrator => "ask the administrator: ",
            Self::Surroundings => "ask for, or do, outside of this container or session: ",
        }
    }
}

/// What this host gives to this caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Containers with all of the caller's subordinate ids.
    Full,
    /// Containers, with something that is missing in each of them: most often one id alone.
    Reduced,
    /// None.
    None,
}

impl Mode {
    /// The mode of a host with `findings`.
    pub fn of(findings: &[Finding]) -> Self {
        match findings.iter().map(|finding| finding.weight).min() {
            Some(Weight::Blocks) => Self::None,
            Some(Weight::Reduces) => Self::Reduced,
            Some(Weight::Costs) | None => Self::Full,
        }
    }

    /// The exit status of `lodger doctor`.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Full => 0,
            Self::Reduced => 1,
            Self::None => 2,
        }
    }
}
