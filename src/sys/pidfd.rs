//! What a pidfd tells of a process that need not be a child (pidfd_open(2), linux/pidfd.h).
//!
//! Where there are no pidfds, the directory of the process in /proc stands in for one in all that is here.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::process::{Cloned, Exit};
use super::{Error, Result, fd, pid_dir, process};

/// Waits for a process to be reaped, at most `milliseconds` (-1: without limit); whether it was. Only then is its exit
/// information there for others than its parent.
pub fn wait_reaped(pidfd: impl AsFd, milliseconds: i32) -> Result<bool> {
    // POLLHUP is always reported.
    poll(pidfd.as_fd(), 0, milliseconds)
}

/// Waits without limit for a process to end. It may not have been reaped yet.
pub fn wait_ended(pidfd: impl AsFd) -> Result<()> {
    poll(pidfd.as_fd(), libc::POLLIN, -1).map(|_| ())
}

/// Whether the process has ended by now.
pub fn has_ended(pidfd: impl AsFd) -> Result<bool> {
    poll(pidfd.as_fd(), libc::POLLIN, 0)
}

/// Whether this is no pidfd, but what stands in for one: nobody else can use it as such.
pub fn is_stand_in(pidfd: impl AsFd) -> bool {
    pid_dir::is(pidfd)
}

/// The number of the process in this one's pid namespace. ESRCH when it was reaped, or has none there; ENOSYS when /proc does
/// not tell, or is another pid namespace's.
pub(super) fn number(pidfd: BorrowedFd<'_>) -> Result<i32> {
    let error = |errno| Error::new("pidfd_send_signal", "pidfd /* by its number */", errno);
    // The signal would be another process's.
    if !pid_dir::has_own_numbers() {
        return Err(error(libc::ENOSYS));
    }
    let pid = match pid_dir::is(pidfd) {
        true => pid_dir::look(pidfd)?.map(|look| look.pid),
        false => {
            let told = fd::information(pidfd, "Pid:").ok_or_else(|| error(libc::ENOSYS))?;
            i32::try_from(told).ok()
        }
    };
    pid.filter(|pid| *pid > 0).ok_or_else(|| error(libc::ESRCH))
}

/// What [`poll_with`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// The process has ended; there may be something on the others as well.
    Ended,
    /// There is something on one of the others, or a signal has come.
    Other,
    /// Nothing within the time.
    Nothing,
}

/// Waits for the process to end, or for one of `others`, which are told what is on them; at most for `limit`.
pub fn poll_with<'fd>(
    pidfd: BorrowedFd<'fd>,
    others: &mut Vec<PollFd<'fd>>,
    limit: Option<Duration>,
) -> Result<Polled> {
    let stands_in = pid_dir::is(pidfd);
    // On what stands in there is always something to read.
    let asked = if stands_in {
        PollFlags::empty()
    } else {
        PollFlags::IN
    };
    let begin = Instant::now();
    let mut pause = Duration::ZERO;
    others.push(PollFd::from_borrowed_fd(pidfd, asked));
    let seen = loop {
        let left = limit.map(|limit| limit.saturating_sub(begin.elapsed()));
        let now = match stands_in {
            true => Some(left.map_or(pause, |left| left.min(pause))),
            false => left,
        };
        // A time that is too long for the kernel's numbers is none.
        let now = now.and_then(|now| Timespec::try_from(now).ok());
        let count = match rustix::event::poll(others, now.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => break Ok(Polled::Other),
            Err(e) => break Err(Error::new("poll", "pidfd, others", e)),
        };
        let has_ended = match (stands_in, others.last()) {
            (true, _) => has_ended(pidfd),
            (false, own) => Ok(own.is_some_and(|own| !own.revents().is_empty())),
        };
        match (has_ended, count) {
            (Err(error), _) => break Err(error),
            (Ok(true), _) => break Ok(Polled::Ended),
            (Ok(false), 0) if left.is_some_and(|left| left <= pause || !stands_in) => {
                break Ok(Polled::Nothing);
            }
            (Ok(false), 0) => pause = pid_dir::longer(pause),
            (Ok(false), _) => break Ok(Polled::Other),
        }
    };
    others.pop();
    seen
}

/// Waits for `events` of the process, at most `milliseconds` (-1: without limit); whether they came.
pub(super) fn poll(pidfd: BorrowedFd<'_>, events: i16, milliseconds: i32) -> Result<bool> {
    let limit = u64::try_from(milliseconds).ok().map(Duration::from_millis);
    let end = limit.map(|limit| Instant::now() + limit);
    if pid_dir::is(pidfd) {
        return pid_dir::wait(pidfd, events == 0, end);
    }
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events,
        revents: 0,
    };
    let mut left = milliseconds;
    loop {
        // SAFETY: one pollfd is passed, which outlives the call.
        let answer = unsafe { libc::poll(&raw mut poll, 1, left) };
        if answer >= 0 {
            return Ok(answer > 0);
        }
        let errno = std::io::Error::last_os_error();
        if errno.raw_os_error() != Some(libc::EINTR) {
            let args = format!("pidfd, {events:#x}, {milliseconds}");
            return Err(Error::new("poll", args, errno));
        }
        if let Some(end) = end {
            let time = end.saturating_duration_since(Instant::now()).as_millis();
            left = i32::try_from(time).unwrap_or(i32::MAX);
        }
    }
}

/// How a process that was reaped ended (PIDFD_GET_INFO with PIDFD_INFO_EXIT); `None` where the kernel does not keep it:
/// before Linux 6.15.
pub fn exit(pidfd: impl AsFd) -> Result<Option<Exit>> {
    // SAFETY: all-zero is a valid pidfd_info: numbers only.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the request writes one pidfd_info, whose size is part of its number, to the address, which is valid for it.
    let answer = unsafe {
        libc::ioctl(
            pidfd.as_fd().as_raw_fd(),
            libc::PIDFD_GET_INFO,
            &raw mut info,
        )
    };
    if answer == 0 {
        let known = info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
        return Ok(known.then(|| Exit::of_wait_status(info.exit_code)));
    }
    let errno = std::io::Error::last_os_error();
    match errno.raw_os_error() {
        // No such request; and 6.13 and 6.14, which know nothing of a process that is gone.
        Some(libc::ENOTTY | libc::EINVAL | libc::ESRCH) => Ok(None),
        _ => Err(Error::new("ioctl", "pidfd, PIDFD_GET_INFO", errno)),
    }
}

/// Whether this kernel keeps the exit information of a process that was reaped: tried with a child that ends at once.
pub fn keeps_exit() -> Result<bool> {
    let child = match process::clone(0)? {
        Cloned::Parent(child) => child,
        Cloned::Child => process::exit_now(0),
    };
    process::wait(&child)?;
    Ok(exit(&child.pidfd)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_an_exit() {
        assert_eq!(Exit::of_wait_status(0), Exit::Code(0));
        assert_eq!(Exit::of_wait_status(7 << 8), Exit::Code(7));
        assert_eq!(Exit::of_wait_status(9), Exit::Signal(9));
        // With a core dump.
        assert_eq!(Exit::of_wait_status(0x80 | 11), Exit::Signal(11));
    }
}
