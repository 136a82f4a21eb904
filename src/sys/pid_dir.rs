//! What stands in for a pidfd where the kernel, or a filter, has none: the directory of the process in /proc.
//!
//! Open, it belongs to that process for ever: once that has ended and was reaped, nothing is found in it any more, even
//! when another has got the number (proc_pid(5)). pidfd_send_signal(2) takes it as it takes a pidfd, setns(2) and poll(2)
//! do not.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};

use super::{Error, Result, path};

/// Whether this process, or the one it comes from, has opened one.
static ANY: AtomicBool = AtomicBool::new(false);

/// Between two looks whether a process has ended: the shortest time, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// It names groups, processors and memory nodes.
const STATUS_FILE: usize = 1 << 20;

/// Opens the directory of process `pid`. As pidfd_open(2): ESRCH when there is none, EINVAL when it is only a thread.
pub(super) fn open(pid: i32) -> Result<OwnedFd> {
    let error = |errno| Error::new("pidfd_open", format!("{pid} /* by /proc/{pid} */"), errno);
    if !has_own_numbers() {
        return Err(error(libc::ENOSYS));
    }
    ANY.store(true, Ordering::Relaxed);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) if is_procfs(rustix::fs::statfs("/proc")) => {
            return Err(error(libc::ESRCH));
        }
        opened => opened.map_err(|e| error(e.raw_os_error()))?,
    };
    if !is(&directory) {
        return Err(error(libc::ENOSYS));
    }
    // Threads are not listed, but found.
    let status = read(directory.as_fd(), "status", STATUS_FILE)?.ok_or(error(libc::ESRCH))?;
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    match group.and_then(|group| group.trim().parse::<i32>().ok()) {
        Some(group) if group == pid => Ok(directory),
        _ => Err(error(libc::EINVAL)),
    }
}

/// Whether /proc numbers processes as system calls of this process do: that of another pid namespace, as one that is bound
/// from around a container, has other processes by the same numbers.
pub(super) fn has_own_numbers() -> bool {
    numbers_as(super::process::own_pid())
}

fn numbers_as(own_pid: i32) -> bool {
    let own = rustix::fs::readlinkat(CWD, "/proc/self", Vec::new());
    own.is_ok_and(|own| own.to_bytes() == own_pid.to_string().as_bytes())
}

fn is_procfs(found: rustix::io::Result<rustix::fs::StatFs>) -> bool {
    found.is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// Whether `fd` is one of these.
pub(super) fn is(fd: impl AsFd) -> bool {
    ANY.load(Ordering::Relaxed) && is_procfs(rustix::fs::fstatfs(fd))
}

/// What can be seen of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Its pid in the pid namespace of /proc.
    pub(super) pid: i32,
    /// Whether it has ended, and waits to be reaped.
    pub(super) has_ended: bool,
}

/// Looks at the process; `None` once it was reaped.
pub(super) fn look(directory: BorrowedFd<'_>) -> Result<Option<Look>> {
    const SMALL: usize = 4096;
    let Some(line) = read(directory, "stat", SMALL)? else {
        return Ok(None);
    };
    let format = || Error::new("read", "\"stat\" /* unknown format */", libc::EINVAL);
    parse(&line).map(Some).ok_or_else(format)
}

/// The name, field 2, may hold spaces and parentheses. The first thread may have ended before others (field 20).
fn parse(line: &str) -> Option<Look> {
    let (before, after) = line.rsplit_once(')')?;
    let pid = before.split_once(' ')?.0.parse().ok()?;
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?;
    let threads: u32 = fields.nth(16)?.parse().ok()?;
    let has_ended = ["Z", "X", "x"].contains(&state) && threads <= 1;
    Some(Look { pid, has_ended })
}

/// `None`: the process is gone.
fn read(directory: BorrowedFd<'_>, name: &str, limit: usize) -> Result<Option<String>> {
    match path::read_regular_at(directory, Path::new(name), limit) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.is(libc::ENOENT) || error.is(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for the process to end, or to be reaped; at most until `end`. Whether it was.
pub(super) fn wait(directory: BorrowedFd<'_>, reaped: bool, end: Option<Instant>) -> Result<bool> {
    let mut pause = PAUSE.0;
    loop {
        match look(directory)? {
            None => return Ok(true),
            Some(look) if look.has_ended && !reaped => return Ok(true),
            Some(_) => {}
        }
        let left = end.map_or(Duration::MAX, |end| {
            end.saturating_duration_since(Instant::now())
        });
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(pause.min(left));
        pause = longer(pause);
    }
}

/// The pause after `pause`; zero before the first.
pub(super) fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(PAUSE.0, PAUSE.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;

    #[test]
    fn ended_are_zombies_without_threads() {
        let line = |state: &str, threads: u32| {
            format!(
                "42 (a) R 1 2) {state} 1 4242 4242 0 -1 4194304 93 0 0 0 0 0 0 0 20 0 {threads} 0 987654 26"
            )
        };
        let look = |has_ended| Some(Look { pid: 42, has_ended });
        assert_eq!(parse(&line("S", 1)), look(false));
        assert_eq!(parse(&line("Z", 1)), look(true));
        assert_eq!(parse(&line("Z", 2)), look(false));
        assert_eq!(parse("42 (a) S 1 2 3"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn numbers_of_another_pid_namespace_are_not_ours() {
        assert!(has_own_numbers());
        assert!(!numbers_as(process::own_pid() + 1));
    }

    #[test]
    fn a_process_is_found_and_a_thread_or_nobody_is_not() {
        let own = open(process::own_pid()).unwrap();
        assert!(is(&own));
        let seen = Look {
            pid: process::own_pid(),
            has_ended: false,
        };
        assert_eq!(look(own.as_fd()).unwrap(), Some(seen));
        assert!(!wait(own.as_fd(), false, Some(Instant::now())).unwrap());
        let thread = std::thread::scope(|scope| {
            let id = || rustix::thread::gettid().as_raw_nonzero().get();
            scope.spawn(move || open(id())).join().unwrap()
        });
        assert!(thread.unwrap_err().is(libc::EINVAL));
        assert!(open(i32::MAX).unwrap_err().is(libc::ESRCH));
    }
}
