//! File descriptors: what is inherited, and what is not.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::defence::{Defence, is_on};
use super::refused::{self, Call};
use super::{Error, Result, fd_list};

/// The first number that was free when the program began; 0 before [`inherit`].
static FIRST_FREE: AtomicU32 = AtomicU32::new(0);

/// Takes note of what the caller has left open, and marks all of it but the standard streams close-on-exec
/// (close_range(2), CLOSE_RANGE_CLOEXEC, Linux 5.11; where that is refused, one by one). To be called once, before anything is opened.
pub fn inherit() -> Result<()> {
    // SAFETY: F_DUPFD gives a new number, which is nobody's and is closed again below.
    let free = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 0) };
    if free < 0 {
        let errno = std::io::Error::last_os_error();
        return Err(Error::new("fcntl", "0, F_DUPFD_CLOEXEC, 0", errno));
    }
    FIRST_FREE.store(free.unsigned_abs(), Ordering::Relaxed);
    drop(owned(free));
    if !is_on(Defence::CloseFiles) {
        return Ok(());
    }
    close_range(FIRST, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// The first fd that is no standard stream.
pub const FIRST: u32 = 3;

/// How many fds the caller has left open in a row from 3 on.
pub fn inherited() -> u32 {
    FIRST_FREE.load(Ordering::Relaxed).saturating_sub(FIRST)
}

/// What the file with this number is (fstat(2)), whoever has opened it; `None`: there is none.
pub fn stat_of(number: u32) -> Option<libc::stat> {
    let mut stat = std::mem::MaybeUninit::uninit();
    // SAFETY: the kernel fills what has the room for it, or answers EBADF for a number that is not open.
    let answer = unsafe { libc::fstat(i32::try_from(number).ok()?, stat.as_mut_ptr()) };
    // SAFETY: it was filled where the answer is 0.
    (answer == 0).then(|| unsafe { stat.assume_init() })
}

/// Lets the fds 3 to 3 + `count` - 1 pass execve(2).
pub fn keep_across_exec(count: u32) -> Result<()> {
    for number in FIRST..FIRST + count {
        // SAFETY: F_SETFD changes a flag of a number, whoever owns it; EBADF when it is not open.
        let answer = unsafe { libc::fcntl(number.cast_signed(), libc::F_SETFD, 0) };
        if answer < 0 {
            let errno = std::io::Error::last_os_error();
            return Err(Error::new("fcntl", format!("{number}, F_SETFD, 0"), errno));
        }
    }
    Ok(())
}

/// Lets one file pass execve(2), under the number that it has.
pub fn keep_one_across_exec(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
        .map_err(|e| Error::new("fcntl", format!("{}, F_SETFD, 0", fd.as_raw_fd()), e))
}

/// Whether there is something to read on `fd`, or its other end is gone, within `limit`; a signal that comes ends the wait.
pub fn is_readable(fd: impl AsFd, limit: std::time::Duration) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let limit = Timespec::try_from(limit).ok();
    match rustix::event::poll(&mut fds, limit.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(Error::new("poll", "fd, POLLIN", e)),
    }
}

/// Another fd of the file that has this number, whoever opened it.
pub fn duplicate(number: i32) -> Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes plain integers; EBADF when the number is not open.
    let answer = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, FIRST.cast_signed()) };
    if answer >= 0 {
        return Ok(owned(answer));
    }
    let errno = std::io::Error::last_os_error();
    Err(Error::new(
        "fcntl",
        format!("{number}, F_DUPFD_CLOEXEC"),
        errno,
    ))
}

/// Closes every fd from `first` on, except those in `keep` (CVE-2024-21626: no fd of the host is left to a container).
///
/// Fds owned elsewhere in this process are gone afterwards: only the child calls this, right before it goes on alone.
pub fn close_others(first: u32, keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut kept: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok())
        .filter(|fd| *fd >= first)
        .collect();
    kept.sort_unstable();
    let mut next = first;
    for fd in kept {
        if fd > next {
            close_range(next, fd - 1, 0)?;
        }
        next = fd + 1;
    }
    close_range(next, u32::MAX, 0)
}

/// Opens /dev/null in place of standard streams that are closed: the next file opened would get their numbers, and
/// messages would be written into it.
pub fn fill_stdio() -> Result<()> {
    for number in 0..3 {
        // SAFETY: F_GETFD takes no argument, and answers EBADF for a number that is not open.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0 {
            continue;
        }
        // SAFETY: the path is a NUL-terminated literal. The lowest free number is the one that was found closed.
        let opened = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if opened != number {
            let errno = std::io::Error::last_os_error();
            return Err(Error::new("open", "\"/dev/null\", O_RDWR", errno));
        }
    }
    Ok(())
}

fn close_range(first: u32, last: u32, flags: u32) -> Result<()> {
    if !refused::is_known(Call::CloseRange) {
        // SAFETY: close_range takes plain integers; that the fds in the range are nobody's is the contract of the callers.
        let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
        if answer == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        let errno = error.raw_os_error().unwrap_or(0);
        // Linux 5.9 and 5.10 have the call, and not its flag.
        let is_flag_unknown = flags != 0 && errno == libc::EINVAL;
        if !is_flag_unknown && !refused::is_refused(Call::CloseRange, errno) {
            let args = format!("{first}, {last}, {flags:#x}");
            return Err(Error::new("close_range", args, error));
        }
    }
    fd_list::treat(first..=last, flags != 0)
}

/// The number after `name` of what the kernel says of `fd` (proc_pid_fdinfo(5)).
pub(super) fn information(fd: BorrowedFd<'_>, name: &str) -> Option<i64> {
    const SMALL: usize = 4096;
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = super::path::read_regular(Path::new(&path), SMALL).ok()?;
    let text = String::from_utf8_lossy(&text);
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

/// Takes ownership of an fd number that a system call just returned.
pub(super) fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel just returned this number to our caller in this room, who passes it on and nothing else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes `fd` be number `target` (0, 1 or 2), without close-on-exec.
pub fn install_stdio(fd: BorrowedFd<'_>, target: RawFd) -> Result<()> {
    // SAFETY: dup2 onto 0, 1 or 2 replaces a standard stream, which nothing in this program owns as OwnedFd.
    let answer = unsafe { libc::dup2(fd.as_raw_fd(), target) };
    if answer >= 0 {
        return Ok(());
    }
    let args = format!("{}, {target}", fd.as_raw_fd());
    Err(Error::new("dup2", args, std::io::Error::last_os_error()))
}
