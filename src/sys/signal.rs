//! Signals of this process: blocked and taken in turn, never handled asynchronously.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow};

use super::{Error, Result};

/// Blocks every signal that can be blocked, to be taken with [`next`].
pub fn block_all() -> Result<()> {
    set_mask(&SigSet::all())
}

/// Unblocks every signal.
pub fn unblock_all() -> Result<()> {
    set_mask(&SigSet::empty())
}

fn set_mask(set: &SigSet) -> Result<()> {
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(set), None)
        .map_err(|e| Error::new("rt_sigprocmask", "SIG_SETMASK", e))
}

/// Waits for the next blocked signal and returns its number, real-time signals included.
pub fn next() -> Result<i32> {
    let all = SigSet::all();
    // SAFETY: the set is initialised and outlives the call; the siginfo pointer may be NULL.
    let signal = unsafe { libc::sigwaitinfo(all.as_ref(), std::ptr::null_mut()) };
    if signal > 0 {
        return Ok(signal);
    }
    let errno = std::io::Error::last_os_error();
    Err(Error::new("rt_sigtimedwait", "~[]", errno))
}

/// A reader that went away (SIGPIPE) and a file at its size limit (SIGXFSZ) are errors of write(2), not the end of this
/// process in the middle of its work.
pub fn ignore_failed_writes() -> Result<()> {
    use nix::sys::signal::Signal::{SIGPIPE, SIGXFSZ};
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [SIGPIPE, SIGXFSZ] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { nix::sys::signal::sigaction(signal, &ignore) }
            .map_err(|e| Error::new("rt_sigaction", format!("{signal}, SIG_IGN"), e))?;
    }
    Ok(())
}

/// Lets ended children wait to be asked for: a caller may have ignored SIGCHLD, and then the kernel reaps them unasked.
pub fn keep_ended_children() -> Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGCHLD, &default) }
        .map(|_| ())
        .map_err(|e| Error::new("rt_sigaction", "SIGCHLD, SIG_DFL", e))
}

/// Gives every signal its default action: what a program started by `execve` inherits as ignored stays ignored,
/// and this program ignores SIGPIPE and SIGXFSZ.
pub fn reset_actions() {
    /// What rt_sigaction(2) takes: handler, flags, restorer and mask. All zero is SIG_DFL.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the structure is as large as the kernel reads, with a mask of 8 bytes, and no old action is asked for.
        let _unchangeable = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
        // SIGKILL and SIGSTOP answer EINVAL: they cannot differ.
    }
}
