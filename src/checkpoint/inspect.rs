//! What is found out about a container before it is checkpointed: its processes, its mounts, its files.
//!
//! The calling process must be in the outer user namespace, or in another one above the container's, with all capabilities there:
//! what is looked into belongs to several ids. The container may run meanwhile, so that what is found may be over by the time that
//! CRIU looks.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::checkpoint::image::{ExternalFile, ExternalMount, MountLine};
use crate::checkpoint::saved::Saved;
use crate::error::{Doing, Result};
use crate::plan::Rlimit;
use crate::sys;

pub mod files;
pub mod limits;
pub mod maps;
pub mod mounts;
pub mod processes;

pub use files::Obstacle;
pub use processes::{Process, Task};

/// In how many directories of the root watched files are looked for.
const MOST_PLACES: usize = 1024;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Inspection {
    /// All processes, the first one first.
    pub processes: Vec<Process>,
    /// The mounts from outside that are there.
    pub externals: Vec<ExternalMount>,
    /// All mounts that the first process sees.
    pub mounts: Vec<MountLine>,
    /// The caller's files that somebody still has.
    pub streams: Vec<ExternalFile>,
    /// The inodes of those among them that are sockets: CRIU is to be told each (`--external unix[INODE]`).
    pub sockets: Vec<u64>,
    /// Whether the first process has a terminal of the container's on a standard stream.
    pub terminal: bool,
    /// What the processes have that CRIU makes calls of its own for.
    pub has: Has,
    /// The inodes of the files in memory (memfd_create(2)) that are open.
    pub memory: BTreeSet<u64>,
    /// What the kernel calls the open regular files that are in no directory.
    pub gone: BTreeSet<Vec<u8>>,
    /// Whether any process watches files (inotify(7)).
    pub watches: bool,
    /// The first open file that stands against a checkpoint.
    pub obstacle: Option<Obstacle>,
    /// The highest limits of each resource that a process has.
    pub limits: Vec<Rlimit>,
    /// How many system call filters the first process is under.
    pub filters: u32,
}

/// Looks into the container whose first process has the pid `first`, and whose making is `saved`.
///
/// # Errors
/// Something cannot be read, or there are mounts with which the container cannot be checkpointed.
pub fn inspect(first: i32, saved: &Saved) -> Result<Inspection> {
    let root = open_root(first)?;
    let mounts = mounts::Mounts::of(&first.to_string())?;
    let outside = mounts::Mounts::of("self")?;
    let externals = mounts::externals(&root, &mounts, &outside, &saved.externals)?;
    let processes = processes::find(first)?;
    let files = files::look(&processes, &mounts, &saved.streams)?;
    let task = processes.first().and_then(|first| first.tasks.first());
    let filters = task.and_then(|task| task.filters).unwrap_or(0);
    let has = Has {
        terminals: files.terminals,
        timers: have_timers(&processes),
    };
    Ok(Inspection {
        limits: highest_limits(&processes)?,
        externals,
        mounts: mounts.lines(),
        streams: files.streams,
        sockets: files.sockets,
        terminal: files.terminal,
        has,
        memory: files.memory,
        gone: files.gone,
        watches: files.watches,
        obstacle: files.obstacle,
        filters,
        processes,
    })
}

/// What some process of a container has, as far as it matters for the calls that CRIU makes in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Has {
    /// Terminals that are open.
    pub terminals: bool,
    /// Timers (timer_create(2)).
    pub timers: bool,
}

impl Inspection {
    /// Where CRIU has to look for files that are watched: all directories in the root, but where the kernel shows itself.
    pub fn watched_places(&self) -> Vec<String> {
        const KERNELS: [&str; 4] = ["proc", "sysfs", "cgroup2", "cgroup"];
        let first = self.processes.first().filter(|_| self.watches);
        let root = first.and_then(|first| open_root(first.pid).ok());
        let names = root.and_then(|root| sys::path::names(root).ok());
        let of_kernel = |path: &String| {
            let mut mounts = self.mounts.iter();
            mounts.any(|mount| {
                mount.mountpoint == Path::new(path) && KERNELS.contains(&mount.fstype.as_str())
            })
        };
        let names = names.unwrap_or_default().into_iter().take(MOST_PLACES);
        let paths = names.map(|name| format!("/{name}"));
        paths.filter(|path| !of_kernel(path)).collect()
    }
}

/// The root directory of the container.
pub(super) fn open_root(first: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{first}/root");
    sys::path::open_magic(Path::new(&path))
        .doing(|| "cannot open the root of the container".to_owned())
}

fn highest_limits(processes: &[Process]) -> Result<Vec<Rlimit>> {
    let mut highest = Vec::new();
    for process in processes.iter().filter(|process| !process.has_ended()) {
        let path = format!("/proc/{}/limits", process.pid);
        let text = match sys::path::read_regular(Path::new(&path), limits::FILE_LIMIT) {
            Err(error) if error.is(libc::ENOENT) || error.is(libc::ESRCH) => continue,
            read => read
                .doing(|| format!("cannot read the resource limits of process {}", process.pid))?,
        };
        limits::raise(
            &mut highest,
            &limits::parse(&String::from_utf8_lossy(&text)),
        );
    }
    Ok(highest)
}

/// Whether a process has timers, as /proc/PID/timers lists them.
fn have_timers(processes: &[Process]) -> bool {
    let has = |process: &Process| {
        let path = format!("/proc/{}/timers", process.pid);
        // One that has more than are read has some.
        let text = sys::path::read_regular(Path::new(&path), 4096);
        text.map_or_else(|error| error.is(libc::EFBIG), |text| !text.is_empty())
    };
    processes.iter().any(has)
}
