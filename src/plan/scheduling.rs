//! Scheduling, I/O priority, CPUs and memory nodes of a process.
//!
//! What the kernel grants only to CAP_SYS_NICE in the initial user namespace no process of a container can have: it is
//! refused here. What depends on the resource limits is compared with those that the process will have.

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType, Process as Asked, Scheduler as AskedScheduler,
};
use serde::{Deserialize, Serialize};

use super::NumberSet;
use crate::bundle::Problem;
use crate::host::HostFacts;

/// A scheduling policy with its parameters, as sched_setattr(2) takes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// The `SCHED_…` name.
    pub name: String,
    /// The policy's number (linux/sched.h).
    pub policy: u32,
    /// The nice value.
    pub nice: i32,
    /// The static priority of a real-time policy.
    pub priority: u32,
    /// `SCHED_FLAG_…` bits.
    pub flags: u64,
}

/// An I/O priority (ioprio_set(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoPriority {
    /// The `IOPRIO_CLASS_…` name.
    pub name: String,
    /// The class's number (linux/ioprio.h).
    pub class: u32,
    /// The level, 0 (highest) to 7.
    pub level: u32,
}

/// The CPUs of a process that joins a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuAffinity {
    /// The runtime's, from before the process joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<NumberSet>,
    /// The process's, once it is in the container.
    #[serde(default, rename = "final", skip_serializing_if = "Option::is_none")]
    pub last: Option<NumberSet>,
}

/// A NUMA memory policy (set_mempolicy(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// The `MPOL_…` name.
    pub name: String,
    /// The mode's number, with its flags (linux/mempolicy.h).
    pub mode: u32,
    /// The nodes, if the mode takes some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NumberSet>,
    /// Whether every node must be there and allowed: not with flags that give the numbers another meaning, and not with a
    /// mode that takes the first one alone.
    pub exact: bool,
}

/// What no user may have, whatever her limits.
const ROOT_ONLY: &str =
    "needs CAP_SYS_NICE in the initial user namespace, which no container of an ordinary user has";

/// `process.scheduler`.
pub(super) fn scheduler(
    process: &Asked,
    facts: &HostFacts,
    problems: &mut Vec<Problem>,
) -> Option<Scheduler> {
    let asked = process.scheduler().as_ref()?;
    let flags = asked.flags().as_deref().unwrap_or_default();
    let keeps = flags.iter().any(|flag| {
        use LinuxSchedulerFlag as Flag;
        matches!(flag, Flag::SchedFlagKeepPolicy | Flag::SchedFlagKeepParams)
    });
    // With these the kernel goes by what the process has already.
    if !keeps {
        problems.extend(denied(asked, process, facts));
    }
    let priority = asked.priority().unwrap_or(0);
    Some(Scheduler {
        name: asked.policy().to_string(),
        policy: policy_number(*asked.policy()),
        nice: asked.nice().unwrap_or(0),
        priority: u32::try_from(priority).unwrap_or(0),
        flags: flags.iter().fold(0, |bits, flag| bits | flag_bit(*flag)),
    })
}

/// Why the kernel would not grant it (sched(7), "Privileges and resource limits").
fn denied(asked: &AskedScheduler, process: &Asked, facts: &HostFacts) -> Option<Problem> {
    use LinuxSchedulerPolicy as Policy;
    let at = |member: &str, message: String| {
        Some(Problem::new(
            format!("/process/scheduler/{member}"),
            message,
        ))
    };
    let policy = *asked.policy();
    match policy {
        Policy::SchedIso => at(
            "policy",
            "SCHED_ISO is reserved and was never part of Linux: take SCHED_OTHER or SCHED_BATCH"
                .to_owned(),
        ),
        Policy::SchedDeadline => at(
            "policy",
            format!(
                "SCHED_DEADLINE {ROOT_ONLY}: take SCHED_FIFO or SCHED_RR, or run it as a service of root's"
            ),
        ),
        Policy::SchedFifo | Policy::SchedRr => {
            let priority = u64::try_from(asked.priority().unwrap_or(0)).unwrap_or(0);
            let own = facts.details.own_priority;
            let lacking = lacking("RLIMIT_RTPRIO", priority, process, facts)?;
            let message = format!("{policy} with priority {priority} {lacking}");
            (priority > own).then(|| at("priority", message))?
        }
        Policy::SchedOther | Policy::SchedBatch => {
            let nice = asked.nice().unwrap_or(0);
            let own = facts.details.own_nice;
            // getrlimit(2): the ceiling of the nice value is 20 - RLIMIT_NICE.
            let needed = u64::try_from(20 - nice).unwrap_or(0);
            let lacking = lacking("RLIMIT_NICE", needed, process, facts)?;
            let message = format!("going from nice {own} to {nice} {lacking}");
            (nice < own).then(|| at("nice", message))?
        }
        Policy::SchedIdle => None,
    }
}

/// What is said where the process will not have `needed` of the limit `name`; `None` where it will, or it is not known.
fn lacking(name: &str, needed: u64, process: &Asked, facts: &HostFacts) -> Option<String> {
    let own = facts.limits.get(name)?;
    let rlimits = process.rlimits().as_deref().unwrap_or_default();
    let asked = rlimits.iter().find(|limit| limit.typ().to_string() == name);
    let had = asked.map_or(own.soft, |limit| limit.soft());
    if needed <= had {
        return None;
    }
    let remedy = if needed <= own.hard {
        format!(
            "ask for it in /process/rlimits, your hard limit is {}",
            own.hard
        )
    } else {
        format!(
            "ask for less, or the administrator to raise your hard limit, {}, in limits.conf(5)",
            own.hard
        )
    };
    Some(format!(
        "needs {name} {needed}, which will be {had}: {remedy}"
    ))
}

/// `process.ioPriority`.
pub(super) fn io_priority(process: &Asked, problems: &mut Vec<Problem>) -> Option<IoPriority> {
    let asked = process.io_priority().as_ref()?;
    let class = match asked.class() {
        IOPriorityClass::IoprioClassRt => {
            let message = format!(
                "IOPRIO_CLASS_RT {ROOT_ONLY}: IOPRIO_CLASS_BE with priority 0 is the most there is"
            );
            problems.push(Problem::new("/process/ioPriority/class", message));
            1
        }
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    Some(IoPriority {
        name: asked.class().to_string(),
        class,
        level: u32::try_from(asked.priority()).unwrap_or(0),
    })
}

/// `process.execCPUAffinity`; `None` where it asks for nothing.
pub(super) fn cpu_affinity(process: &Asked) -> Option<CpuAffinity> {
    let asked = process.exec_cpu_affinity().as_ref()?;
    // What is no list was refused by the bundle.
    let list = |text: &Option<String>| NumberSet::parse(text.as_deref()?).ok();
    let affinity = CpuAffinity {
        initial: list(asked.initial()),
        last: list(asked.cpu_affinity_final()),
    };
    (affinity != CpuAffinity::default()).then_some(affinity)
}

/// `linux.memoryPolicy`.
pub(super) fn memory_policy(linux: &Linux) -> Option<MemoryPolicy> {
    use MemoryPolicyFlagType as Flag;
    let asked = linux.memory_policy().as_ref()?;
    let flags = asked.flags().as_deref().unwrap_or_default();
    let nodes = asked.nodes().as_deref();
    let other_numbers = [Flag::MpolFRelativeNodes, Flag::MpolFStaticNodes];
    Some(MemoryPolicy {
        name: asked.mode().to_string(),
        mode: flags.iter().fold(mode_number(asked.mode()), |bits, flag| {
            bits | mode_flag(*flag)
        }),
        nodes: nodes.and_then(|text| NumberSet::parse(text).ok()),
        exact: asked.mode() != MemoryPolicyModeType::MpolPreferred
            && !flags.iter().any(|flag| other_numbers.contains(flag)),
    })
}

fn policy_number(policy: LinuxSchedulerPolicy) -> u32 {
    use LinuxSchedulerPolicy as Policy;
    match policy {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    }
}

/// linux/sched.h.
fn flag_bit(flag: LinuxSchedulerFlag) -> u64 {
    use LinuxSchedulerFlag as Flag;
    match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    }
}

/// The modes of config-linux.md, in the order of their numbers (linux/mempolicy.h).
pub const MEMORY_POLICY_MODES: [&str; 7] = [
    "MPOL_DEFAULT",
    "MPOL_PREFERRED",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

/// The flags of config-linux.md.
pub const MEMORY_POLICY_FLAGS: [&str; 3] = [
    "MPOL_F_STATIC_NODES",
    "MPOL_F_RELATIVE_NODES",
    "MPOL_F_NUMA_BALANCING",
];

fn mode_number(mode: MemoryPolicyModeType) -> u32 {
    use MemoryPolicyModeType as Mode;
    match mode {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    }
}

/// linux/mempolicy.h.
fn mode_flag(flag: MemoryPolicyFlagType) -> u32 {
    match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_has_its_number_and_its_name() {
        for (number, name) in (0..).zip(MEMORY_POLICY_MODES) {
            let mode: MemoryPolicyModeType = name.parse().unwrap();
            assert_eq!(mode_number(mode), number, "{name}");
        }
        for name in MEMORY_POLICY_FLAGS {
            name.parse::<MemoryPolicyFlagType>().unwrap();
        }
    }
}
