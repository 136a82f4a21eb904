//! Whether a call is there at all: an old kernel has not got it (ENOSYS), and a filter says so of a new one, or EPERM.
//!
//! EPERM may as well be the kernel's answer to what was asked. So the call is tried with arguments that mean nothing, to
//! which the kernel never answers either: only after a first failure, and once per process.

use std::sync::atomic::{AtomicU32, Ordering};

/// A call that can be done without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// clone3(2), Linux 5.3.
    Clone3,
    /// close_range(2), Linux 5.9.
    CloseRange,
    /// execveat(2), Linux 3.19.
    Execveat,
    /// faccessat2(2), Linux 5.8.
    Faccessat2,
    /// openat2(2), Linux 5.6.
    Openat2,
    /// pidfd_open(2), Linux 5.3.
    PidfdOpen,
    /// pidfd_send_signal(2), Linux 5.1.
    PidfdSendSignal,
}

/// The calls that are known to be refused, then those that are known to be there: one bit each.
static REFUSED: AtomicU32 = AtomicU32::new(0);
static THERE: AtomicU32 = AtomicU32::new(0);

/// Whether a call that failed with `errno` was refused as such, whatever it was asked for.
pub(super) fn is_refused(call: Call, errno: i32) -> bool {
    if errno != libc::ENOSYS && errno != libc::EPERM {
        return false;
    }
    let bit = 1 << call as u32;
    if THERE.load(Ordering::Relaxed) & bit == 0 && !is_known(call) {
        let answer = nonsense(call);
        let refused = answer == libc::ENOSYS || answer == libc::EPERM;
        let known = if refused { &REFUSED } else { &THERE };
        known.fetch_or(bit, Ordering::Relaxed);
        if refused {
            tracing::debug!(?call, errno = answer, "done without");
        }
    }
    is_known(call)
}

/// Whether the call is known to be refused: it need not be tried again.
pub(super) fn is_known(call: Call) -> bool {
    REFUSED.load(Ordering::Relaxed) & (1 << call as u32) != 0
}

/// What the call answers to arguments that the kernel refuses before anything else.
fn nonsense(call: Call) -> i32 {
    let none = std::ptr::null::<libc::c_void>();
    let (number, arguments): (libc::c_long, [libc::c_long; 3]) = match call {
        // A structure of no size: EINVAL.
        Call::Clone3 => (libc::SYS_clone3, [0, 0, 0]),
        // From 1 to 0: EINVAL.
        Call::CloseRange => (libc::SYS_close_range, [1, 0, 0]),
        // No fd: EBADF, or EFAULT for no path.
        Call::Execveat => (libc::SYS_execveat, [-1, 0, 0]),
        // A mode that there is not: EINVAL.
        Call::Faccessat2 => (libc::SYS_faccessat2, [-1, 0, -1]),
        // The fourth, a structure of no size: EINVAL.
        Call::Openat2 => (libc::SYS_openat2, [-1, 0, 0]),
        // Flags that there are not: EINVAL.
        Call::PidfdOpen => (libc::SYS_pidfd_open, [1, libc::c_long::from(i32::MAX), 0]),
        // No fd: EBADF.
        Call::PidfdSendSignal => (libc::SYS_pidfd_send_signal, [-1, 0, 0]),
    };
    let [first, second, third] = arguments;
    // SAFETY: every address among the arguments is NULL, which the kernel does not follow; none of the calls does anything
    // with these, as said at each.
    let answer = unsafe { libc::syscall(number, first, second, third, none, 0) };
    if answer >= 0 {
        return 0;
    }
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Call; 7] = [
        Call::Clone3,
        Call::CloseRange,
        Call::Execveat,
        Call::Faccessat2,
        Call::Openat2,
        Call::PidfdOpen,
        Call::PidfdSendSignal,
    ];

    #[test]
    fn nonsense_is_told_from_a_filter() {
        for call in ALL {
            let answer = nonsense(call);
            assert!(
                [libc::EINVAL, libc::EBADF, libc::EFAULT, libc::ENOSYS].contains(&answer),
                "{call:?}: {answer}"
            );
        }
    }

    #[test]
    fn an_error_of_the_kernel_is_no_refusal() {
        for call in ALL {
            assert!(!is_refused(call, libc::ENOENT), "{call:?}");
            // This kernel has them all, if whoever runs the tests lets them through.
            let answers = nonsense(call) != libc::ENOSYS;
            assert_eq!(!is_refused(call, libc::EPERM), answers, "{call:?}");
        }
    }
}
