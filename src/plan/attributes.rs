//! What the kernel is told of a process besides its ids, capabilities and limits: scheduling, memory policy, execution
//! domain, security labels. What this caller cannot have of it is known from the host's facts, and refused.

use oci_spec::runtime::{LinuxPersonalityDomain, Spec};
use serde::{Deserialize, Serialize};

use super::labels;
use super::scheduling::{self, CpuAffinity, IoPriority, MemoryPolicy, Scheduler};
use crate::bundle::Problem;
use crate::host::HostFacts;

/// PER_LINUX32 (personality(2)).
const PER_LINUX32: u32 = 8;

/// The attributes of a process that few configs ask for; each is left as the caller has it where it is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessAttributes {
    /// The scheduling policy (config.md, "scheduler").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// The I/O priority (config.md, "ioPriority").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// The CPUs of a process that joins; never those of the container's own (config.md, "execCPUAffinity").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_affinity: Option<CpuAffinity>,
    /// The NUMA memory policy (config-linux.md, "memoryPolicy").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<MemoryPolicy>,
    /// The execution domain, as personality(2) takes it (config-linux.md, "personality").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personality: Option<u32>,
    /// The AppArmor profile that the program is to run with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// The SELinux context that the program is to run with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux_label: Option<String>,
}

impl ProcessAttributes {
    /// Whether all are left as they are.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the program is to run with a label of a security module.
    pub fn has_label(&self) -> bool {
        self.apparmor_profile.is_some() || self.selinux_label.is_some()
    }
}

/// Which process it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The container's own.
    Init,
    /// One that joins it (`exec`).
    Joining,
}

/// Plans the attributes of `spec.process`, which is in the container that the rest of `spec` describes.
pub fn attributes(
    spec: &Spec,
    role: Role,
    facts: &HostFacts,
    problems: &mut Vec<Problem>,
) -> ProcessAttributes {
    let linux = spec.linux().as_ref();
    let Some(process) = spec.process() else {
        return ProcessAttributes::default();
    };
    let domain = linux.and_then(|l| l.personality().as_ref());
    ProcessAttributes {
        scheduler: scheduling::scheduler(process, facts, problems),
        io_priority: scheduling::io_priority(process, problems),
        cpu_affinity: scheduling::cpu_affinity(process).filter(|_| role == Role::Joining),
        memory_policy: linux.and_then(scheduling::memory_policy),
        personality: domain.map(|asked| match asked.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
        }),
        apparmor_profile: labels::apparmor_profile(process, facts, problems),
        selinux_label: labels::selinux_label(process, facts, problems),
    }
}
