//! What the specification requires of scheduling, memory policy and execution domain, whatever the host.

use oci_spec::runtime::{
    LinuxMemoryPolicy, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType, Process, Scheduler, Spec,
};
use serde_json::Value;

use super::Problem;
use super::raw::visit;
use super::validate::Problems;
use crate::plan::{MEMORY_POLICY_MODES, NumberSet};

/// The nice values there are (sched(7)).
const NICE: std::ops::RangeInclusive<i32> = -20..=19;

/// The priorities of a real-time policy (sched(7)).
const REAL_TIME_PRIORITY: std::ops::RangeInclusive<i32> = 1..=99;

/// The levels of an I/O priority class (ioprio_set(2)).
const IO_PRIORITY: std::ops::RangeInclusive<i64> = 0..=7;

/// Lists of CPUs and of memory nodes.
const LISTS: [&str; 3] = [
    "/process/execCPUAffinity/initial",
    "/process/execCPUAffinity/final",
    "/linux/memoryPolicy/nodes",
];

/// Objects whose other members mean nothing without this one: where it is wrong, it alone is told of.
const DECISIVE: [(&str, &str, &str, &[&str]); 2] = [
    (
        "/process/scheduler",
        "policy",
        "scheduling policy",
        &[
            "SCHED_OTHER",
            "SCHED_FIFO",
            "SCHED_RR",
            "SCHED_BATCH",
            "SCHED_ISO",
            "SCHED_IDLE",
            "SCHED_DEADLINE",
        ],
    ),
    (
        "/linux/memoryPolicy",
        "mode",
        "memory policy",
        &MEMORY_POLICY_MODES,
    ),
];

/// The flags of config.md, and how oci-spec has them where it has them otherwise.
pub(super) const SCHEDULER_FLAGS: [&str; 7] = [
    "SCHED_FLAG_RESET_ON_FORK",
    "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_DL_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY",
    "SCHED_FLAG_KEEP_PARAMS",
    "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
];
const RENAMED_FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Checks the names that decide about an object, and takes out the object where it is wrong.
pub(super) fn check_decisive(config: &mut Value, problems: &mut Vec<Problem>) {
    for (pattern, member, what, choices) in DECISIVE {
        visit(config, pattern, &mut |pointer, value| {
            let Value::Object(members) = value else {
                return;
            };
            let message = match members.get(member) {
                None | Some(Value::Null) => "is required".to_owned(),
                Some(Value::String(text)) if !choices.contains(&text.as_str()) => {
                    format!("there is no {what} {text:?}")
                }
                Some(_) => return,
            };
            problems.push(Problem::new(format!("{pointer}/{member}"), message));
            *value = Value::Null;
        });
    }
}

/// Checks the lists, and takes out those that are wrong or empty, which ask for nothing.
pub(super) fn check_lists(config: &mut Value, problems: &mut Vec<Problem>) {
    for pattern in LISTS {
        visit(config, pattern, &mut |pointer, value| {
            let Some(text) = value.as_str() else { return };
            if let Err(why) = NumberSet::parse(text) {
                if !text.is_empty() {
                    problems.push(Problem::new(pointer, format!("{text:?}: {why}")));
                }
                *value = Value::Null;
            }
        });
    }
}

/// Puts the names of oci-spec in the place of those of the specification.
pub(super) fn rename_flags(config: &mut Value) {
    visit(config, "/process/scheduler/flags/*", &mut |_, value| {
        let renamed = RENAMED_FLAGS.iter().find(|(name, _)| value == name);
        if let Some((_, name)) = renamed {
            *value = (*name).into();
        }
    });
}

/// Lists what is wrong with the attributes of `spec`.
pub(super) fn check(spec: &Spec, problems: &mut Problems) {
    if let Some(process) = spec.process() {
        process_attributes(process, problems);
    }
    let Some(linux) = spec.linux() else { return };
    if let Some(policy) = linux.memory_policy() {
        memory_policy(policy, problems);
    }
    let flags = linux.personality().as_ref().and_then(|p| p.flags().clone());
    for (index, flag) in flags.iter().flatten().enumerate() {
        problems.add(
            format!("/linux/personality/flags/{index}"),
            format!("{flag:?}: the specification has no flags of a personality"),
        );
    }
}

fn process_attributes(process: &Process, problems: &mut Problems) {
    if let Some(asked) = process.scheduler() {
        scheduler(asked, problems);
    }
    let level = process
        .io_priority()
        .as_ref()
        .map_or(0, |asked| asked.priority());
    problems.add_if(
        !IO_PRIORITY.contains(&level),
        "/process/ioPriority/priority",
        "is not within 0 (highest) and 7 (lowest)",
    );
}

fn scheduler(asked: &Scheduler, problems: &mut Problems) {
    use LinuxSchedulerPolicy as Policy;
    let policy = *asked.policy();
    let at = |member: &str| format!("/process/scheduler/{member}");
    let nice = asked.nice().unwrap_or(0);
    if !NICE.contains(&nice) {
        problems.add(at("nice"), "is not within -20 (most favourable) and 19");
    } else if nice != 0 && !matches!(policy, Policy::SchedOther | Policy::SchedBatch) {
        let message = format!("means nothing with {policy}: only with SCHED_OTHER and SCHED_BATCH");
        problems.add(at("nice"), message);
    }
    let priority = asked.priority().unwrap_or(0);
    if matches!(policy, Policy::SchedFifo | Policy::SchedRr) {
        let wrong = !REAL_TIME_PRIORITY.contains(&priority);
        problems.add_if(
            wrong,
            &at("priority"),
            "must be within 1 and 99 (highest) for a real-time policy",
        );
    } else if priority != 0 {
        let message = format!("means nothing with {policy}: only with SCHED_FIFO and SCHED_RR");
        problems.add(at("priority"), message);
    }
    if policy == Policy::SchedDeadline {
        return;
    }
    let times = [
        ("runtime", asked.runtime()),
        ("deadline", asked.deadline()),
        ("period", asked.period()),
    ];
    for (name, time) in times {
        if time.unwrap_or(0) != 0 {
            let message = format!("means nothing with {policy}: only with SCHED_DEADLINE");
            problems.add(at(name), message);
        }
    }
    for (index, flag) in asked.flags().iter().flatten().enumerate() {
        use LinuxSchedulerFlag as Flag;
        if matches!(flag, Flag::SchedFlagReclaim | Flag::SchedFlagDLOverrun) {
            let message = format!("means nothing with {policy}: only with SCHED_DEADLINE");
            problems.add(at(&format!("flags/{index}")), message);
        }
    }
}

/// The combinations that set_mempolicy(2) refuses.
fn memory_policy(asked: &LinuxMemoryPolicy, problems: &mut Problems) {
    use MemoryPolicyFlagType as Flag;
    use MemoryPolicyModeType as Mode;
    let mode = asked.mode();
    let nodes = asked.nodes().is_some();
    let without = matches!(mode, Mode::MpolDefault | Mode::MpolLocal);
    if nodes && without {
        let message = format!("must be empty with {mode}");
        problems.add("/linux/memoryPolicy/nodes", message);
    }
    if !nodes && !without && mode != Mode::MpolPreferred {
        let message = format!("is required with {mode}");
        problems.add("/linux/memoryPolicy/nodes", message);
    }
    let flags = asked.flags().as_deref().unwrap_or_default();
    for (index, flag) in flags.iter().enumerate() {
        let wrong = match flag {
            Flag::MpolFNumaBalancing => (!matches!(mode, Mode::MpolBind | Mode::MpolPreferredMany))
                .then(|| "is only for MPOL_BIND and MPOL_PREFERRED_MANY".to_owned()),
            _ if !nodes => Some(format!("{flag} means nothing without nodes")),
            Flag::MpolFStaticNodes if flags.contains(&Flag::MpolFRelativeNodes) => {
                Some("excludes MPOL_F_RELATIVE_NODES".to_owned())
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            problems.add(format!("/linux/memoryPolicy/flags/{index}"), wrong);
        }
    }
}
