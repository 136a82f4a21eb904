//! Whether CRIU could do its work under a container's system call filter: it makes processes of the container call what tells of
//! them, and the filter decides on these calls as on all others. To suspend it takes CAP_SYS_ADMIN in the initial user namespace.

use super::bpf::{Call, run};
use crate::checkpoint::CHECKPOINTABLE;
use crate::checkpoint::inspect::Has;
use crate::error::{Error, Result};
use crate::sys;
use crate::sys::seccomp::Instruction;

/// When a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// In each dump.
    Always,
    /// If a process has a terminal open.
    Terminals,
    /// If a process has a timer (timer_create(2)).
    Timers,
}

use When::{Always, Terminals, Timers};

const SHARED: u64 = 1; // MAP_SHARED
const RX: u64 = 5; // PROT_READ|PROT_EXEC
const RW: u64 = 3; // PROT_READ|PROT_WRITE
const R: u64 = 1; // PROT_READ
const HERE: u64 = 0xffff_ff9c; // AT_FDCWD
const NONE: u64 = u64::MAX;

/// The calls that CRIU 4.2 makes in a process of the container, with the arguments that a filter may look at. Each was seen: a dump
/// fails where one of them is refused, or tells something wrong, or the process is killed where the filter kills for it. One that
/// the architecture does not have is not made.
const CALLS: [(&std::ffi::CStr, When, &[&[u64]]); 38] = [
    (c"brk", Always, &[&[0]]),
    (c"capget", Always, &[&[]]),
    (c"close", Always, &[&[]]),
    (c"connect", Always, &[&[]]),
    // F_GETFD, F_GETFL, F_GETOWN_EX
    (c"fcntl", Always, &[&[0, 1], &[0, 3], &[0, 16]]),
    (c"futex", Always, &[&[0, 1, 1]]), // FUTEX_WAKE
    (c"getgroups", Always, &[&[0]]),
    (c"getitimer", Always, &[&[0], &[1], &[2]]),
    (c"getpgid", Always, &[&[0]]),
    (c"getpid", Always, &[&[]]),
    (c"getresgid", Always, &[&[]]),
    (c"getresuid", Always, &[&[]]),
    (c"getsid", Always, &[&[0]]),
    (c"gettid", Always, &[&[]]),
    // TIOCGSID, TIOCGPGRP, TIOCGEXCL, TIOCGPKT, TIOCGPTLCK
    (
        c"ioctl",
        Terminals,
        &[
            &[0, 0x5429],
            &[0, 0x540f],
            &[0, 0x8004_5440],
            &[0, 0x8004_5438],
            &[0, 0x8004_5439],
        ],
    ),
    (c"membarrier", Always, &[&[512]]), // MEMBARRIER_CMD_GET_REGISTRATIONS
    (c"memfd_create", Always, &[&[]]),
    (c"mmap", Always, &[&[0, 4096, RX, SHARED]]),
    (c"mprotect", Always, &[&[0, 4096, R], &[0, 4096, RW]]),
    (c"munmap", Always, &[&[0, 4096]]),
    (c"open", Always, &[&[]]),
    (c"openat", Always, &[&[HERE]]),
    // PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_GET_NAME, PR_CAPBSET_READ, PR_GET_SECUREBITS, PR_GET_CHILD_SUBREAPER,
    // PR_GET_TID_ADDRESS, PR_GET_THP_DISABLE
    (
        c"prctl",
        Always,
        &[&[2], &[3], &[16], &[23], &[27], &[37], &[40], &[42]],
    ),
    (c"read", Always, &[&[]]),
    (c"readlinkat", Always, &[&[HERE]]),
    (c"recvfrom", Always, &[&[]]),
    (c"recvmsg", Always, &[&[]]),
    (c"rt_sigaction", Always, &[&[1]]),
    (c"rt_sigreturn", Always, &[&[]]),
    (c"sendmsg", Always, &[&[]]),
    (c"sendto", Always, &[&[]]),
    (c"setfsgid", Always, &[&[NONE]]),
    (c"setfsuid", Always, &[&[NONE]]),
    (c"sigaltstack", Always, &[&[]]),
    (c"socket", Always, &[&[1, 5, 0]]), // AF_UNIX, SOCK_SEQPACKET
    (c"timer_getoverrun", Timers, &[&[]]),
    (c"timer_gettime", Timers, &[&[]]),
    (c"umask", Always, &[&[0]]),
];

/// The call that podman's profile has not, with SPLICE_F_GIFT|SPLICE_F_NONBLOCK.
const VMSPLICE: (&std::ffi::CStr, &[u64]) = (c"vmsplice", &[0, 0, 1, 0xa]);

/// Whether the filters of a container let CRIU do its work in a container that `has` these.
///
/// # Errors
/// Which calls they forbid; a program that the kernel would not have taken.
pub fn check(filters: &[Vec<Instruction>], has: Has) -> Result<()> {
    if filters.is_empty() {
        return Ok(());
    }
    let made = |when| match when {
        Always => true,
        Terminals => has.terminals,
        Timers => has.timers,
    };
    let mut forbidden = Vec::new();
    for (name, _, all) in CALLS.iter().filter(|(_, when, _)| made(*when)) {
        if is_forbidden(filters, name, all)? {
            forbidden.push(name.to_string_lossy().into_owned());
        }
    }
    let (name, arguments) = VMSPLICE;
    let vmsplice = is_forbidden(filters, name, &[arguments])?;
    match (vmsplice, forbidden.is_empty()) {
        (false, true) => Ok(()),
        (vmsplice, _) => Err(refused(vmsplice, &forbidden.join(", "))),
    }
}

fn refused(vmsplice: bool, others: &str) -> Error {
    let annotation = format!("make the container anew with the annotation {CHECKPOINTABLE}=true");
    let (calls, hint) = match (vmsplice, others) {
        (true, "") => (
            "vmsplice".to_owned(),
            format!("{annotation}, or with a seccomp profile that allows vmsplice"),
        ),
        (true, others) => (
            format!("vmsplice, {others}"),
            format!("{annotation} and a seccomp profile that allows {others}"),
        ),
        (false, others) => (
            others.to_owned(),
            format!("make the container anew with a seccomp profile that allows {others}"),
        ),
    };
    Error::new("the container cannot be checkpointed under its system call filter")
        .because(format!(
            "it forbids what CRIU must call inside the container ({calls}), and only root of this machine could suspend it"
        ))
        .hint(hint)
}

/// Whether the call with any of these lists of arguments is not simply done.
fn is_forbidden(
    filters: &[Vec<Instruction>],
    name: &std::ffi::CStr,
    arguments: &[&[u64]],
) -> Result<bool> {
    let native = sys::seccomp::native();
    let Some(number) = sys::seccomp::number_on(native, name) else {
        return Ok(false);
    };
    for arguments in arguments {
        let call = Call::new(native, number, arguments);
        for filter in filters {
            let answer = run(filter, &call).ok_or_else(|| {
                Error::new("the container cannot be checkpointed")
                    .because("the system call filter that was saved of it is none that the kernel would have taken")
                    .hint("make the container anew")
            })?;
            if !lets_through(answer, name) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a call with this answer is made; of several filters the strictest counts, so that all must.
fn lets_through(answer: u32, name: &std::ffi::CStr) -> bool {
    match answer & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG => true,
        // `--fake-root` feigns these, and they tell the id that is feigned.
        libc::SECCOMP_RET_ERRNO => {
            answer & libc::SECCOMP_RET_DATA == 0 && [c"setfsuid", c"setfsgid"].contains(&name)
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
