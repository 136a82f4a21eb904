//! The system call filter: what config-linux.md ("Seccomp") asks for, in plain terms. Numbers of calls are looked up
//! where it is compiled (`crate::seccomp`): they are this machine's.

use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, Spec,
};
use serde::{Deserialize, Serialize};

use super::{Note, annotations};
use crate::bundle::Problem;

/// EPERM, which config-linux.md wants where no errno is given.
const DEFAULT_ERRNO: u16 = 1;

/// A system call filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// What happens to a call that no rule is for.
    pub default_action: SeccompAction,
    /// Architectures beside this machine's own, by their names in config-linux.md. Those that it cannot run are no
    /// matter: nothing can make their calls.
    pub architectures: Vec<String>,
    /// Flags of seccomp(2).
    pub flags: Vec<SeccompFlag>,
    /// The rules, in order.
    pub rules: Vec<SeccompRule>,
    /// Who answers the calls with [`SeccompAction::Notify`]; `None` where no rule has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<SeccompListener>,
    /// Whether vmsplice(2) is allowed as CRIU calls it in the processes that it dumps, whatever the rules say of that call.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub checkpointable: bool,
}

/// What happens to a call (seccomp(2), SECCOMP_RET_…).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompAction {
    /// The process is killed.
    KillProcess,
    /// The thread is killed.
    KillThread,
    /// The thread gets SIGSYS.
    Trap,
    /// It fails with this errno.
    Errno(u16),
    /// The listener decides.
    Notify,
    /// A tracer, if there is one, is told this number.
    Trace(u16),
    /// It is done, and logged.
    Log,
    /// It is done.
    Allow,
}

/// A flag of seccomp(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompFlag {
    /// SECCOMP_FILTER_FLAG_LOG.
    Log,
    /// SECCOMP_FILTER_FLAG_SPEC_ALLOW.
    SpecAllow,
    /// SECCOMP_FILTER_FLAG_TSYNC.
    Tsync,
    /// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
    WaitKillableRecv,
}

/// What happens to some calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompRule {
    /// Index in `/linux/seccomp/syscalls`.
    pub index: usize,
    /// The calls.
    pub names: Vec<String>,
    /// What happens to them.
    pub action: SeccompAction,
    /// For which arguments. All of them must hold, unless two are about one argument: then one is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<SeccompCondition>,
}

/// A condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompCondition {
    /// Which, from 0 to 5.
    pub argument: u8,
    /// How it is compared.
    pub operator: SeccompOperator,
    /// With what; for [`SeccompOperator::MaskedEq`] the mask.
    pub value: u64,
    /// For [`SeccompOperator::MaskedEq`]: what is left after the mask.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub masked: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompOperator {
    /// It is another.
    Ne,
    /// It is less.
    Lt,
    /// It is less or the same.
    Le,
    /// It is the same.
    Eq,
    /// It is more or the same.
    Ge,
    /// It is more.
    Gt,
    /// What the mask leaves of it is the same.
    MaskedEq,
}

/// A seccomp agent (config-linux.md, `listenerPath`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompListener {
    /// The socket on which it waits, in the caller's view.
    pub path: PathBuf,
    /// What it is told beside the state.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
}

/// Plans `linux.seccomp`, which was checked by `bundle::seccomp`, and the annotation that adds to it. What is done otherwise than
/// it reads is a note; an annotation that says neither yes nor no is a problem, with or without a filter.
pub fn seccomp(spec: &Spec, notes: &mut Vec<Note>, problems: &mut Vec<Problem>) -> Option<Seccomp> {
    let checkpointable = annotations::checkpointable(spec, problems);
    let asked = spec.linux().as_ref()?.seccomp().as_ref()?;
    let rules = rules(asked);
    note_alternatives(&rules, notes);
    let default_action = action(asked.default_action(), asked.default_errno_ret());
    let notifies = rules
        .iter()
        .any(|rule| rule.action == SeccompAction::Notify);
    Some(Seccomp {
        default_action,
        architectures: asked.architectures().iter().flatten().map(name).collect(),
        flags: asked.flags().iter().flatten().copied().map(flag).collect(),
        listener: notifies.then(|| listener(asked)).flatten(),
        rules,
        checkpointable,
    })
}

/// The name of config-linux.md.
fn name(arch: &oci_spec::runtime::Arch) -> String {
    let value = serde_json::to_value(arch).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn listener(asked: &LinuxSeccomp) -> Option<SeccompListener> {
    Some(SeccompListener {
        path: asked.listener_path().clone()?,
        metadata: asked.listener_metadata().clone().unwrap_or_default(),
    })
}

fn rules(asked: &LinuxSeccomp) -> Vec<SeccompRule> {
    let calls = asked.syscalls().iter().flatten().enumerate();
    calls
        .map(|(index, call)| SeccompRule {
            index,
            names: call.names().clone(),
            action: action(call.action(), call.errno_ret()),
            conditions: call.args().iter().flatten().map(condition).collect(),
        })
        .collect()
}

fn action(asked: LinuxSeccompAction, errno: Option<u32>) -> SeccompAction {
    let data = errno.and_then(|errno| u16::try_from(errno).ok());
    let data = data.unwrap_or(DEFAULT_ERRNO);
    match asked {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            SeccompAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => SeccompAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => SeccompAction::Trap,
        LinuxSeccompAction::ScmpActErrno => SeccompAction::Errno(data),
        LinuxSeccompAction::ScmpActNotify => SeccompAction::Notify,
        LinuxSeccompAction::ScmpActTrace => SeccompAction::Trace(data),
        LinuxSeccompAction::ScmpActLog => SeccompAction::Log,
        LinuxSeccompAction::ScmpActAllow => SeccompAction::Allow,
    }
}

fn flag(asked: LinuxSeccompFilterFlag) -> SeccompFlag {
    match asked {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => SeccompFlag::Log,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => SeccompFlag::Tsync,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SeccompFlag::SpecAllow,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => SeccompFlag::WaitKillableRecv,
    }
}

fn condition(asked: &LinuxSeccompArg) -> SeccompCondition {
    let operator = match asked.op() {
        LinuxSeccompOperator::ScmpCmpNe => SeccompOperator::Ne,
        LinuxSeccompOperator::ScmpCmpLt => SeccompOperator::Lt,
        LinuxSeccompOperator::ScmpCmpLe => SeccompOperator::Le,
        LinuxSeccompOperator::ScmpCmpEq => SeccompOperator::Eq,
        LinuxSeccompOperator::ScmpCmpGe => SeccompOperator::Ge,
        LinuxSeccompOperator::ScmpCmpGt => SeccompOperator::Gt,
        LinuxSeccompOperator::ScmpCmpMaskedEq => SeccompOperator::MaskedEq,
    };
    let masked = match operator {
        // Bits that the mask leaves out are not compared.
        SeccompOperator::MaskedEq => asked.value_two().unwrap_or(0) & asked.value(),
        _ => 0,
    };
    SeccompCondition {
        argument: u8::try_from(asked.index()).unwrap_or(u8::MAX),
        operator,
        value: asked.value(),
        masked,
    }
}

impl SeccompRule {
    /// Whether one of the conditions is enough: two are about the same argument, which libseccomp has no rule for.
    pub fn is_any(&self) -> bool {
        let mut seen = 0u8;
        self.conditions.iter().any(|condition| {
            let bit = 1u8.checked_shl(condition.argument.into()).unwrap_or(0);
            let twice = seen & bit != 0;
            seen |= bit;
            twice
        })
    }

    /// The JSON pointer to it.
    pub fn pointer(&self) -> String {
        format!("/linux/seccomp/syscalls/{}", self.index)
    }
}

fn note_alternatives(rules: &[SeccompRule], notes: &mut Vec<Note>) {
    for rule in rules.iter().filter(|rule| rule.is_any()) {
        notes.push(Note::new(
            format!("{}/args", rule.pointer()),
            "two conditions are about the same argument: the rule holds where any one of its conditions does, as other runtimes have it",
            "give each condition a rule of its own; two that must both hold cannot be had, but SCMP_CMP_MASKED_EQ compares several bits",
        ));
    }
}
