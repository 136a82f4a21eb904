//! Signals of this process: blocked and taken in turn, never handled asynchronously.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Error, Result};

/// Blocks every signal that can be blocked, to be taken from [`Signals`].
pub fn block_all() -> Result<()> {
    set_mask(&SigSet::all())
}

/// Unblocks every signal.
pub fn unblock_all() -> Result<()> {
    set_mask(&SigSet::empty())
}

/// Unblocks every signal but those by which a terminal stops its jobs.
pub fn unblock_all_but_stops() -> Result<()> {
    use nix::sys::signal::Signal::{SIGTSTP, SIGTTIN, SIGTTOU};
    set_mask(&[SIGTSTP, SIGTTIN, SIGTTOU].into_iter().collect())
}

fn set_mask(set: &SigSet) -> Result<()> {
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(set), None)
        .map_err(|e| Error::new("rt_sigprocmask", "SIG_SETMASK", e))
}

/// The blocked signals, to be waited for together with other fds (signalfd(2)).
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Every signal that is blocked.
    pub fn all() -> Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        SignalFd::with_flags(&SigSet::all(), flags)
            .map(Self)
            .map_err(|e| Error::new("signalfd4", "~[], SFD_NONBLOCK", e))
    }

    /// Those by which a process is asked to end: a hang-up, the terminal's keys, and kill(1).
    pub fn ending() -> Result<Self> {
        use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let set: SigSet = [SIGHUP, SIGINT, SIGQUIT, SIGTERM].into_iter().collect();
        SignalFd::with_flags(&set, flags)
            .map(Self)
            .map_err(|e| Error::new("signalfd4", "[HUP INT QUIT TERM], SFD_NONBLOCK", e))
    }

    /// As [`Signals::ending`], and blocks them: they wait to be taken.
    pub fn block_ending() -> Result<Self> {
        use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
        let set: SigSet = [SIGHUP, SIGINT, SIGQUIT, SIGTERM].into_iter().collect();
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)
            .map_err(|e| Error::new("rt_sigprocmask", "SIG_BLOCK", e))?;
        Self::ending()
    }

    /// The number of the next signal, real-time signals included, if one has arrived.
    pub fn next(&self) -> Result<Option<i32>> {
        let arrived = match self.0.read_signal() {
            // Asked again when poll(2) says so.
            Err(nix::errno::Errno::EINTR) => None,
            read => read.map_err(|e| Error::new("read", "signalfd", e))?,
        };
        Ok(arrived.and_then(|signal| i32::try_from(signal.ssi_signo).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Signals that ask this process to end wait to be taken as long as this is kept; then all is as it was before.
#[derive(Debug)]
pub struct Held(SigSet);

impl Held {
    /// Blocks them, but for those that the caller has this process ignore (nohup(1)): blocked, they would not be.
    pub fn ending() -> Result<(Self, Signals)> {
        use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
        let all = [SIGHUP, SIGINT, SIGQUIT, SIGTERM].into_iter();
        let set: SigSet = all.filter(|signal| !is_ignored(*signal)).collect();
        let mut before = SigSet::empty();
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))
            .map_err(|e| Error::new("rt_sigprocmask", "SIG_BLOCK", e))?;
        let held = Self(before);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let taken = SignalFd::with_flags(&set, flags)
            .map_err(|e| Error::new("signalfd4", "[HUP INT QUIT TERM], SFD_NONBLOCK", e))?;
        Ok((held, Signals(taken)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let freed = set_mask(&self.0);
        tracing::trace!("signals are as before: {freed:?}");
    }
}

fn is_ignored(signal: nix::sys::signal::Signal) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no action is given; the kernel fills in the one that there is, in memory that outlives the call.
    let asked = unsafe { libc::sigaction(signal as i32, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: all zero is a valid action, and so is what the kernel has put there.
    asked == 0 && unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Stops this process, as the terminal's stop key does, until somebody lets it go on. SIGSTOP cannot be blocked.
pub fn stop_here() -> Result<()> {
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)
        .map_err(|e| Error::new("tgkill", "self, SIGSTOP", e))
}

/// A reader that went away (SIGPIPE) and a file at its size limit (SIGXFSZ) are errors of write(2), not the end of this
/// process in the middle of its work.
pub fn ignore_failed_writes() -> Result<()> {
    use nix::sys::signal::Signal::{SIGPIPE, SIGXFSZ};
    ignore(&[SIGPIPE, SIGXFSZ])
}

/// For a program that must not end in the middle of its work: a file at its size limit (SIGXFSZ) is an error of write(2), and who
/// asks it to end (a service manager asks every process) is to ask somebody else. A program keeps this across execve(2).
pub fn ignore_file_limit_and_ending() -> Result<()> {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
    ignore(&[SIGXFSZ, SIGHUP, SIGINT, SIGQUIT, SIGTERM])
}

fn ignore(signals: &[nix::sys::signal::Signal]) -> Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in signals.iter().copied() {
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
