//! What a pidfd tells of a process that need not be a child (pidfd_open(2), linux/pidfd.h).

use std::os::fd::{AsFd, AsRawFd};

use super::process::{Cloned, Exit};
use super::{Error, Result, process};

/// Waits for a process to be reaped, at most `milliseconds` (-1: without limit); whether it was. Only then is its exit
/// information there for others than its parent.
pub fn wait_reaped(pidfd: impl AsFd, milliseconds: i32) -> Result<bool> {
    // POLLHUP is always reported.
    poll(pidfd, 0, milliseconds)
}

/// Waits without limit for a process to end. It may not have been reaped yet.
pub fn wait_ended(pidfd: impl AsFd) -> Result<()> {
    poll(pidfd, libc::POLLIN, -1).map(|_| ())
}

/// Whether the process has ended by now.
pub fn has_ended(pidfd: impl AsFd) -> Result<bool> {
    poll(pidfd, libc::POLLIN, 0)
}

fn poll(pidfd: impl AsFd, events: i16, milliseconds: i32) -> Result<bool> {
    let mut poll = libc::pollfd {
        fd: pidfd.as_fd().as_raw_fd(),
        events,
        revents: 0,
    };
    loop {
        // SAFETY: one pollfd is passed, which outlives the call.
        let answer = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
        if answer >= 0 {
            return Ok(answer > 0);
        }
        let errno = std::io::Error::last_os_error();
        if errno.raw_os_error() != Some(libc::EINTR) {
            let args = format!("pidfd, {events:#x}, {milliseconds}");
            return Err(Error::new("poll", args, errno));
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
