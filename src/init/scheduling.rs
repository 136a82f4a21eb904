//! Scheduling, memory policy and execution domain of the program, all of them kept across execve(2).

use nix::libc::{EINVAL, ENOSYS, EOPNOTSUPP, EPERM};

use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::plan::{IoPriority, MemoryPolicy, NumberSet, ProcessAttributes, Scheduler};
use crate::sys;
use crate::sys::sched::Scheduling;

/// Gives this process the attributes that hold from now on. The resource limits must be the program's already.
pub(super) fn apply(wanted: &ProcessAttributes) -> Result<()> {
    if let Some(domain) = wanted.personality {
        sys::sched::set_personality(domain)
            .doing(|| "cannot set /linux/personality".to_owned())
            .map_err(|e| e.hint("LINUX32 needs a kernel that runs 32-bit programs"))?;
    }
    if let Some(policy) = &wanted.memory_policy {
        set_memory_policy(policy)?;
    }
    if let Some(priority) = &wanted.io_priority {
        set_io_priority(priority)?;
    }
    match &wanted.scheduler {
        Some(scheduler) => set_scheduler(scheduler),
        None => Ok(()),
    }
}

/// Gives CRIU, which becomes this process, what the processes that it makes have from it, and what nobody can give to them later.
pub(super) fn apply_inherited(personality: u32, wanted: &ProcessAttributes) -> Result<()> {
    if personality != 0 {
        sys::sched::set_personality(personality)
            .doing(|| format!("cannot give back the personality {personality:#x}"))
            .map_err(|e| e.hint("PER_LINUX32 needs a kernel that runs 32-bit programs"))?;
    }
    wanted
        .memory_policy
        .as_ref()
        .map_or(Ok(()), set_memory_policy)
}

fn set_scheduler(wanted: &Scheduler) -> Result<()> {
    let Err(cause) = sys::sched::set_scheduling(Scheduling {
        policy: wanted.policy,
        flags: wanted.flags,
        nice: wanted.nice,
        priority: wanted.priority,
    }) else {
        return Ok(());
    };
    let remedy = match cause.errno {
        EPERM => Some(
            "ask for less, or for higher limits RLIMIT_RTPRIO and RLIMIT_NICE; a real-time policy also needs real-time \
             time in the cgroup (cpu.rt_runtime_us, where the kernel has CONFIG_RT_GROUP_SCHED)",
        ),
        EOPNOTSUPP => Some(
            "SCHED_FLAG_UTIL_CLAMP_MIN and SCHED_FLAG_UTIL_CLAMP_MAX need a kernel with CONFIG_UCLAMP_TASK",
        ),
        EINVAL => Some("this kernel does not know the policy, or one of the flags"),
        _ => None,
    };
    let what = format!("cannot run with {} (/process/scheduler)", wanted.name);
    Err(explained(what, cause, remedy))
}

fn set_io_priority(wanted: &IoPriority) -> Result<()> {
    sys::sched::set_io_priority(wanted.class, wanted.level).doing(|| {
        format!(
            "cannot set the I/O priority {} {} (/process/ioPriority)",
            wanted.name, wanted.level
        )
    })
}

fn set_memory_policy(wanted: &MemoryPolicy) -> Result<()> {
    let what = || format!("cannot set {} (/linux/memoryPolicy)", wanted.name);
    let nodes = wanted.nodes.iter().flat_map(NumberSet::numbers);
    if let Err(cause) = sys::sched::set_memory_policy(wanted.mode, nodes) {
        let remedy = match cause.errno {
            ENOSYS => Some("this kernel has no NUMA (CONFIG_NUMA): take it out"),
            EINVAL => Some(
                "none of the nodes is there and allowed (/sys/devices/system/node/has_memory, and Mems_allowed_list of \
                 /proc/self/status), or the kernel is too old for the mode",
            ),
            EPERM => Some("a filter around this session forbids set_mempolicy(2)"),
            _ => None,
        };
        return Err(explained(what(), cause, remedy));
    }
    let Some(nodes) = wanted.nodes.as_ref().filter(|_| wanted.exact) else {
        return Ok(());
    };
    // The kernel passes over the others without a word.
    let has = sys::sched::memory_nodes().doing(what)?;
    match nodes.without(has) {
        None => Ok(()),
        Some(lacking) => Err(Error::new(what())
            .because(format!("memory nodes {lacking} are not there, or not allowed"))
            .hint("/sys/devices/system/node/has_memory and Mems_allowed_list of /proc/self/status list those that are")),
    }
}

/// Lets this process run on `cpus` alone. `property` is what asks for it.
pub(crate) fn restrict_cpus(cpus: &NumberSet, property: &str) -> Result<()> {
    let what = || format!("cannot run on the CPUs {cpus} ({property})");
    let hint = |e: Error| {
        e.hint("/sys/devices/system/cpu/online and Cpus_allowed_list of /proc/self/status list those that can be had")
    };
    sys::sched::set_cpus(cpus.numbers())
        .doing(what)
        .map_err(hint)?;
    // The kernel passes over those that are not there without a word.
    let allowed = sys::sched::cpus().doing(what)?;
    match cpus.without(allowed) {
        None => Ok(()),
        Some(lacking) => Err(hint(
            Error::new(what()).because(format!("CPUs {lacking} are not there, or not allowed")),
        )),
    }
}

fn explained(what: String, cause: sys::Error, remedy: Option<&str>) -> Error {
    let error = Error::new(what).because_of(&cause).step(Step::Limit);
    match remedy {
        Some(remedy) => error.hint(remedy),
        None => error,
    }
}
