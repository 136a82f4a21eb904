//! The filter that CRIU runs under: which of its calls come to the supervisor.

use std::os::fd::OwnedFd;

use crate::error::{Doing, Error, Result};
use crate::sys::seccomp::{self, Instruction};

/// PTRACE_SETOPTIONS (linux/ptrace.h).
pub(super) const SET_OPTIONS: u64 = 0x4200;
/// PTRACE_SECCOMP_GET_FILTER.
pub(super) const GET_FILTER: u64 = 0x420c;
/// PTRACE_SECCOMP_GET_METADATA.
pub(super) const GET_METADATA: u64 = 0x420d;
/// PTRACE_O_SUSPEND_SECCOMP.
pub(super) const SUSPEND: u32 = 1 << 21;
/// PTRACE_O_TRACESYSGOOD.
pub(super) const MARK_CALLS: u32 = 1;

// linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ, BPF_JMP|BPF_JSET and BPF_RET.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` has the call's number and its architecture.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Where it has the lower half of an argument.
const fn argument(index: u32) -> u32 {
    16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 }
}

/// Loads the filter into this process, which is to become CRIU, for good; all that it runs is under it, too. Returns the listener.
///
/// It must have CAP_SYS_ADMIN in its user namespace, and one thread.
pub fn install() -> Result<OwnedFd> {
    let what = || "cannot load the filter that CRIU is to run under".to_owned();
    let program = program(seccomp::native());
    // With it a signal cannot undo a call that the supervisor is answering (Linux 5.19).
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let patient = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let flags = match seccomp::knows_flag(patient) {
        true => listener | patient,
        false => listener,
    };
    seccomp::load(&program, flags)
        .doing(what)?
        .ok_or_else(|| Error::new(what()).because("the kernel returned no listener"))
}

/// The program. A filter sees numbers only, no paths: every openat(2) comes to the supervisor. It is no barrier but a help: what
/// it does not know it lets through, and CRIU has no more rights than without it.
fn program(architecture: u32) -> Vec<Instruction> {
    let call = |number: libc::c_long| u32::try_from(number).unwrap_or(u32::MAX);
    let request = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let plain = |code, k| Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let branch = |code, k, jt, jf| Instruction { code, jt, jf, k };
    vec![
        plain(LOAD, ARCHITECTURE),
        branch(IF_EQUAL, architecture, 0, 12),
        plain(LOAD, NUMBER),
        branch(IF_EQUAL, call(libc::SYS_openat), 11, 0),
        branch(IF_EQUAL, call(libc::SYS_newfstatat), 0, 2),
        // Not of an fd: most of them are, and none that matters (AT_EMPTY_PATH).
        plain(LOAD, argument(3)),
        branch(IF_EQUAL, 0, 8, 7),
        branch(IF_EQUAL, call(libc::SYS_ptrace), 0, 6),
        plain(LOAD, argument(0)),
        branch(IF_EQUAL, request(GET_FILTER), 5, 0),
        branch(IF_EQUAL, request(GET_METADATA), 4, 0),
        branch(IF_EQUAL, request(SET_OPTIONS), 0, 2),
        plain(LOAD, argument(3)),
        branch(IF_ANY_BIT, SUSPEND, 1, 0),
        plain(RETURN, libc::SECCOMP_RET_ALLOW),
        plain(RETURN, libc::SECCOMP_RET_USER_NOTIF),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCH: u32 = 0xc000_003e;

    /// What the program makes of a call, by a machine that knows the four instructions.
    fn run(arch: u32, number: i64, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(i32::try_from(number).unwrap().to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        data.extend(arguments.iter().flat_map(|a| a.to_ne_bytes()));
        let program = program(ARCH);
        let (mut at, mut value) = (0, 0);
        loop {
            let one = program[at];
            let jump = |holds| usize::from(if holds { one.jt } else { one.jf });
            at += 1 + match one.code {
                LOAD => {
                    let from = usize::try_from(one.k).unwrap();
                    value = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                    0
                }
                IF_EQUAL => jump(value == one.k),
                IF_ANY_BIT => jump(value & one.k != 0),
                RETURN => return one.k,
                other => panic!("{other:#x}"),
            };
        }
    }

    #[test]
    fn only_what_the_supervisor_knows_comes_to_it() {
        let notified = libc::SECCOMP_RET_USER_NOTIF;
        let allowed = libc::SECCOMP_RET_ALLOW;
        let trace = |request: u64, data: u64| (libc::SYS_ptrace, [request, 7, 0, data, 0, 0]);
        for ((number, arguments), expected) in [
            ((libc::SYS_openat, [0; 6]), notified),
            (trace(GET_FILTER, 0), notified),
            (trace(GET_METADATA, 0), notified),
            (trace(SET_OPTIONS, u64::from(SUSPEND)), notified),
            (
                trace(SET_OPTIONS, u64::from(SUSPEND | MARK_CALLS)),
                notified,
            ),
            (trace(SET_OPTIONS, u64::from(MARK_CALLS)), allowed),
            // PTRACE_SEIZE.
            (trace(0x4206, u64::from(SUSPEND)), allowed),
            ((libc::SYS_read, [GET_FILTER; 6]), allowed),
            ((libc::SYS_newfstatat, [0; 6]), notified),
            ((libc::SYS_newfstatat, [0, 0, 0, 0x1000, 0, 0]), allowed),
            ((libc::SYS_execve, [0; 6]), allowed),
        ] {
            assert_eq!(
                run(ARCH, number, arguments),
                expected,
                "{number} {arguments:?}"
            );
            // Numbers of another architecture mean other calls.
            assert_eq!(run(ARCH ^ 1, number, arguments), allowed);
        }
    }
}
