//! The processes of the container, told from all others.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use super::maps::{Maps, Range};
use crate::error::{Doing, Error, Result};
use crate::sys;

/// A path that the kernel writes has at most one page.
const PATH_BUFFER: usize = 4096;

/// /proc/PID/status names groups, processors and memory nodes.
const STATUS_LIMIT: usize = 1 << 20;

/// What is common to all processes of the container.
#[derive(Debug)]
pub(super) struct Container {
    pid_namespace: (u64, u64),
    user_namespace: (u64, u64),
    /// Its first process.
    first: OwnedFd,
    number: i32,
}

impl Container {
    /// That of process `first`.
    pub(super) fn of(first: i32) -> Result<Self> {
        let what = || format!("cannot look at process {first}");
        let directory = open_directory(first).doing(what)?;
        Ok(Self {
            pid_namespace: namespace(&directory, "ns/pid").doing(what)?,
            user_namespace: namespace(&directory, "ns/user").doing(what)?,
            first: directory,
            number: first,
        })
    }

    /// The task `id` of it, which `tracer` traces.
    ///
    /// The supervisor has more rights than CRIU, over all that the user has, and CRIU may be in the hands of a container that it
    /// was to dump. Whom CRIU traces it could have do whatever the supervisor does for it: so the kernel has decided already that
    /// it may. That the task is in the container's namespaces makes it sure.
    pub(super) fn task(&self, id: i32, tracer: i32) -> Option<Task> {
        let directory = open_directory(id).ok()?;
        let status = sys::path::read_regular_at(&directory, Path::new("status"), STATUS_LIMIT);
        let status = Status::parse(&String::from_utf8_lossy(&status.ok()?))?;
        let own = status.tracer == tracer
            && tracer > 0
            && namespace(&directory, "ns/pid").ok()? == self.pid_namespace
            && namespace(&directory, "ns/user").ok()? == self.user_namespace;
        own.then_some(Task { directory, status })
    }

    /// The number of the first process.
    pub(super) fn number(&self) -> i32 {
        self.number
    }

    /// The ipc namespace of the first process.
    pub(super) fn ipc_namespace(&self) -> sys::Result<OwnedFd> {
        sys::path::open_magic_at(&self.first, Path::new("ns/ipc"))
    }

    /// What is `/` to the first process.
    pub(super) fn root(&self) -> sys::Result<OwnedFd> {
        root(&self.first)
    }
}

/// A thread of the container, traced by CRIU. What is found in its directory is its own, whoever gets its number later.
#[derive(Debug)]
pub(super) struct Task {
    /// What the kernel says of it.
    pub(super) status: Status,
    directory: OwnedFd,
}

impl Task {
    /// Its mappings.
    pub(super) fn maps(&self) -> Option<Maps> {
        Maps::read(self.read("maps").ok()?)
    }

    /// Opens a file of its directory to be read, or a directory in there.
    pub(super) fn read(&self, name: &str) -> sys::Result<OwnedFd> {
        sys::path::open_magic_at(&self.directory, Path::new(name))
    }

    /// What a magic link of its directory leads to: it is not opened (O_PATH).
    pub(super) fn find(&self, link: &str) -> sys::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, link, flags, Mode::empty())
            .map_err(|e| sys::Error::new("openat", format!("{link:?}, O_PATH"), e))
    }

    /// What the kernel says of where a magic link of its directory leads.
    pub(super) fn link(&self, link: &str) -> Option<Vec<u8>> {
        read_link(&self.directory, link).ok()
    }

    /// The path of what it has mapped there, in its mount namespace.
    pub(super) fn mapped_path(&self, range: Range) -> sys::Result<Vec<u8>> {
        let name = format!("map_files/{:x}-{:x}", range.0, range.1);
        read_link(&self.directory, &name)
    }

    /// What is `/` to it.
    pub(super) fn root(&self) -> sys::Result<OwnedFd> {
        root(&self.directory)
    }
}

/// Of /proc/PID/status (proc_pid_status(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    /// Who traces it; 0: nobody.
    pub(super) tracer: i32,
    /// Its number in the innermost pid namespace.
    pub(super) number: i32,
    /// How many system call filters it is under.
    pub(super) filters: usize,
}

impl Status {
    /// `None`: something is missing.
    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            tracer: value("TracerPid:")?.trim().parse().ok()?,
            number: value("NSpid:")?.split_whitespace().last()?.parse().ok()?,
            filters: value("Seccomp_filters:")?.trim().parse().ok()?,
        })
    }
}

fn open_directory(pid: i32) -> sys::Result<OwnedFd> {
    let path = format!("/proc/{pid}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, &path, flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{path:?}, O_PATH"), e))
}

fn root(directory: &OwnedFd) -> sys::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, "root", flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", "\"root\", O_PATH", e))
}

fn namespace(directory: &OwnedFd, name: &str) -> sys::Result<(u64, u64)> {
    sys::ns::identity(sys::path::open_magic_at(directory, Path::new(name))?)
}

/// Where the link `name` of `directory` leads.
fn read_link(directory: &OwnedFd, name: &str) -> sys::Result<Vec<u8>> {
    rustix::fs::readlinkat(directory, name, Vec::with_capacity(PATH_BUFFER))
        .map(std::ffi::CString::into_bytes)
        .map_err(|e| sys::Error::new("readlinkat", format!("{name:?}"), e))
}

/// The path of what thread `thread` has open as `number`, as far as it has one.
pub(super) fn open_path(thread: i32, number: i32) -> Option<Vec<u8>> {
    read_link(&open_directory(thread).ok()?, &format!("fd/{number}")).ok()
}

/// The mappings of thread `thread`, whosever it is.
pub(super) fn maps_of(thread: i32) -> Option<Maps> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, format!("/proc/{thread}/maps"), flags, Mode::empty());
    Maps::read(file.ok()?)
}

/// Bytes of a path, as a path.
pub(super) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Why `task` cannot be dumped when it is under other filters than were `loaded`.
pub(super) fn has_other_filters(task: &Task, loaded: usize) -> String {
    let (number, has) = (task.status.number, task.status.filters);
    match has.checked_sub(loaded) {
        Some(own) => format!(
            "process {number} installed {own} system call filters of its own, and they can be read with CAP_SYS_ADMIN on the host alone"
        ),
        None => format!(
            "process {number} is under {has} system call filters, and {loaded} were loaded for the container"
        ),
    }
}

/// Why `task` cannot be dumped when it has mapped a file that is not at `path`.
pub(super) fn has_lost_file(task: &Task, path: &[u8]) -> String {
    let (number, path) = (task.status.number, as_path(path));
    format!(
        "process {number} has mapped the file {path:?}, which is not there any more, and it can be opened with CAP_CHECKPOINT_RESTORE on the host alone"
    )
}

/// Why `task` cannot be dumped when it has mapped privately a file in memory that nobody has open.
pub(super) fn has_closed_memory(task: &Task, path: &[u8]) -> String {
    let (number, path) = (task.status.number, as_path(path));
    format!(
        "process {number} has mapped privately the file {path:?}, which nobody has open, and it can be opened with CAP_CHECKPOINT_RESTORE on the host alone"
    )
}

/// The error of a supervisor that cannot begin.
pub(super) fn cannot_begin(error: Error) -> Error {
    error.within("cannot supervise CRIU")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_status_the_three_lines_that_matter() {
        let text =
            "Name:\ta\nPid:\t9\nTracerPid:\t41\nNSpid:\t900\t7\nSeccomp:\t2\nSeccomp_filters:\t3\n";
        let status = Status::parse(text).unwrap();
        assert_eq!((status.tracer, status.number, status.filters), (41, 7, 3));
        for missing in ["TracerPid:", "NSpid:", "Seccomp_filters:"] {
            assert_eq!(Status::parse(&text.replace(missing, "X:")), None);
        }
    }

    #[test]
    fn who_is_traced_by_nobody_is_nobodys_task() {
        let own = sys::process::own_pid();
        let container = Container::of(own).unwrap();
        assert!(container.task(own, 0).is_none());
        assert!(container.task(own, own).is_none());
        assert!(Container::of(i32::MAX).is_err());
    }
}
