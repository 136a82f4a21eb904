//! From the plan of a system call filter to a program for the kernel, and the agent that answers for it.
//!
//! The rules are compiled by libseccomp ([`compile`](self)), whose program is kept by content in the state directory
//! (`cache`). Where the program begins stands a part of our own (`prologue`):
//!
//! - vmsplice(2) as CRIU calls it passes, where the container is to be one that it can dump (`checkpointable`).
//! - Calls that are newer than the libseccomp in use have their rules there (`newer`).
//! - A call with a number above all that the profile names, and of Linux 5.1 or later, fails with ENOSYS where the
//!   default action would be an error or a signal. The C library asks the kernel for new calls and falls back to old
//!   ones on ENOSYS alone; whoever wrote the profile cannot have meant a call that did not exist. Calls that are older
//!   than the common numbering of Linux 5.1 get the default action, named or not.
//!
//! A name that nobody knows: where its rule is less strict than the default action it is passed over, with a line in the
//! debug log. The call is refused then, as by a kernel that does not have it. Where the rule is as strict or stricter, it
//! cannot be enforced, and the config is refused.
//!
//! Of several rules for one call the first without conditions counts, as libseccomp has it and so every runtime: whatever
//! the others say, podman's own profile relies on it. The debug log tells of rules that are overruled.
//!
//! The filter is loaded by init as the very last thing before execve(2), `start` and its hooks included: no call of ours
//! is subject to it. Without no_new_privs that takes CAP_SYS_ADMIN, which init keeps among its permitted capabilities,
//! and nowhere else, until then; execve(2) computes the program's own sets without regard to it (capabilities(7)).
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use crate::bundle::Problem;
use crate::plan::{Seccomp, SeccompAction, SeccompFlag};
use crate::sys::seccomp::Instruction;

mod agent;
mod arch;
mod bpf;
mod cache;
mod checkpointable;
mod compile;
mod fake_root;
mod newer;
mod prologue;

pub use agent::Agent;
pub use compile::compile;
pub use fake_root::with_fake_root;

/// The largest program the kernel takes, in instructions (BPF_MAXINSNS).
pub const LONGEST: usize = 4096;

/// A filter that is ready to be loaded.
#[derive(Debug, Clone)]
pub struct Filter {
    /// A program that is loaded before it, so that this one's answer counts where both have one; empty: none.
    pub before: Vec<Instruction>,
    /// The program; empty: there is none but that before it.
    pub program: Vec<Instruction>,
    /// Flags of seccomp(2).
    pub flags: u64,
    /// Whether it makes a listener, for an agent.
    pub notifies: bool,
}

impl Filter {
    /// The programs, in the order in which they are loaded.
    pub fn programs(&self) -> impl Iterator<Item = &[Instruction]> {
        let all = [self.before.as_slice(), self.program.as_slice()];
        all.into_iter().filter(|program| !program.is_empty())
    }

    /// The flags with which they are loaded.
    pub fn all_flags(&self) -> impl Iterator<Item = u64> {
        let before = (!self.before.is_empty()).then_some(0);
        let own = (!self.program.is_empty()).then_some(self.flags);
        before.into_iter().chain(own)
    }
}

/// Makes the filter that `plan` describes. `store`: the directory beneath which compiled programs are kept, if they are.
///
/// # Errors
/// What cannot be had, with JSON pointers: flags this kernel does not know, calls that nobody knows, a program that is too
/// long, or one that could not even run a program.
pub fn prepare(plan: &Seccomp, store: Option<&OwnedFd>) -> Result<Filter, Vec<Problem>> {
    let notifies = plan.listener.is_some();
    let flags = flags(plan, notifies)?;
    let program = match store {
        Some(store) => cache::find_or_make(store, plan, || compile(plan))?,
        None => compile(plan)?,
    };
    Ok(Filter {
        before: Vec::new(),
        program,
        flags,
        notifies,
    })
}

/// The bits of seccomp(2). To synchronise the threads means nothing to a process with one, which a program always is
/// when it begins; where an agent gets the listener, one of ours hands it over, and must not be filtered.
fn flags(plan: &Seccomp, notifies: bool) -> Result<u64, Vec<Problem>> {
    let mut bits = if notifies { NEW_LISTENER } else { 0 };
    let mut problems = Vec::new();
    for (index, flag) in plan.flags.iter().enumerate() {
        let bit = bit(*flag);
        if !crate::sys::seccomp::knows_flag(bit) {
            let message = "this kernel does not know the flag (seccomp(2)): take it out, or use a newer kernel";
            problems.push(Problem::new(
                format!("/linux/seccomp/flags/{index}"),
                message,
            ));
        }
        bits |= match flag {
            SeccompFlag::Tsync if notifies => 0,
            // It is about waiting for an agent: without one the kernel refuses it.
            SeccompFlag::WaitKillableRecv if !notifies => 0,
            _ => bit,
        };
    }
    if notifies && !crate::sys::seccomp::knows_flag(NEW_LISTENER) {
        let message = "this kernel cannot notify an agent (SCMP_ACT_NOTIFY needs Linux 5.0)";
        problems.push(Problem::new("/linux/seccomp/listenerPath", message));
    }
    if problems.is_empty() {
        return Ok(bits);
    }
    Err(problems)
}

const NEW_LISTENER: u64 = nix::libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;

fn bit(flag: SeccompFlag) -> u64 {
    match flag {
        SeccompFlag::Log => nix::libc::SECCOMP_FILTER_FLAG_LOG,
        SeccompFlag::SpecAllow => nix::libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        SeccompFlag::Tsync => nix::libc::SECCOMP_FILTER_FLAG_TSYNC,
        SeccompFlag::WaitKillableRecv => nix::libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    }
}

/// The flags of config-linux.md that this kernel knows.
pub fn supported_flags() -> Vec<&'static str> {
    let all = [
        SeccompFlag::Log,
        SeccompFlag::SpecAllow,
        SeccompFlag::Tsync,
        SeccompFlag::WaitKillableRecv,
    ];
    let named = all.into_iter().zip(crate::bundle::seccomp::FLAGS);
    named
        .filter(|(flag, _)| crate::sys::seccomp::knows_flag(bit(*flag)))
        .map(|(_, name)| name)
        .collect()
}

/// The SECCOMP_RET_… value.
fn value(action: SeccompAction) -> u32 {
    use nix::libc::{
        SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD,
        SECCOMP_RET_LOG, SECCOMP_RET_TRACE, SECCOMP_RET_TRAP, SECCOMP_RET_USER_NOTIF,
    };
    match action {
        SeccompAction::KillProcess => SECCOMP_RET_KILL_PROCESS,
        SeccompAction::KillThread => SECCOMP_RET_KILL_THREAD,
        SeccompAction::Trap => SECCOMP_RET_TRAP,
        SeccompAction::Errno(errno) => SECCOMP_RET_ERRNO | u32::from(errno),
        SeccompAction::Notify => SECCOMP_RET_USER_NOTIF,
        SeccompAction::Trace(data) => SECCOMP_RET_TRACE | u32::from(data),
        SeccompAction::Log => SECCOMP_RET_LOG,
        SeccompAction::Allow => SECCOMP_RET_ALLOW,
    }
}

/// How much an action leaves to a call, in the kernel's order (seccomp(2)): less is stricter.
fn leniency(action: SeccompAction) -> u8 {
    match action {
        SeccompAction::KillProcess => 0,
        SeccompAction::KillThread => 1,
        SeccompAction::Trap => 2,
        SeccompAction::Errno(_) => 3,
        SeccompAction::Notify => 4,
        SeccompAction::Trace(_) => 5,
        SeccompAction::Log => 6,
        SeccompAction::Allow => 7,
    }
}

#[cfg(test)]
mod tests;
