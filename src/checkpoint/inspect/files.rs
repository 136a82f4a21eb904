//! The open files of a container's processes: which are the caller's, which CRIU cannot dump.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};

use super::maps;
use super::mounts::Mounts;
use super::processes::{self, Process};
use crate::checkpoint::image::ExternalFile;
use crate::checkpoint::saved::Stream;
use crate::error::{Doing, Result};
use crate::sys;

/// Kinds of files without a name (anon_inode of the kernel) that CRIU does not know.
const UNKNOWN: [&str; 9] = [
    "[io_uring]",
    "[userfaultfd]",
    "[perf_event]",
    "[fscontext]",
    "[landlock-ruleset]",
    "seccomp notify",
    "kvm-vm",
    "bpf-prog",
    "bpf_link",
];

/// Character devices that CRIU does not know, by major and minor number.
const UNKNOWN_DEVICES: [((u32, u32), &str); 2] = [
    ((10, 229), "the connection to a FUSE filesystem"),
    ((10, 232), "a virtual machine"),
];

/// An open file that stands against a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Whose it is: `process 7 ("sleep")`.
    pub process: String,
    /// Its number there.
    pub number: i32,
    /// What it is: the link of /proc/PID/fd, or in words.
    pub what: String,
    /// Whether it is from outside the container; else it is of a kind that CRIU does not know.
    pub from_outside: bool,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The caller's files that somebody still has.
    pub streams: Vec<ExternalFile>,
    /// The inodes of those among them that are sockets: CRIU is to be told each (`--external unix[INODE]`).
    pub sockets: Vec<u64>,
    /// Whether the first process has a terminal of the container's on a standard stream.
    pub terminal: bool,
    /// Whether any process has any terminal open.
    pub terminals: bool,
    /// The inodes of the files in memory (memfd_create(2)) that are open.
    pub memory: BTreeSet<u64>,
    /// What the kernel calls the open regular files that are in no directory.
    pub gone: BTreeSet<Vec<u8>>,
    /// Whether any process watches files (inotify(7), fanotify(7)).
    pub watches: bool,
    /// The first file that stands against a checkpoint.
    pub obstacle: Option<Obstacle>,
}

/// Looks through all files of `processes`. `mounts`: those of the first one; `saved`: what the caller has passed on.
///
/// # Errors
/// They cannot be listed.
pub fn look(processes: &[Process], mounts: &Mounts, saved: &[Stream]) -> Result<Files> {
    let mut look = Look {
        // Of several numbers of one file, the lowest.
        known: saved
            .iter()
            .rev()
            .map(|stream| (identity(stream), stream))
            .collect(),
        own: mounts.ids(),
        others: BTreeMap::new(),
        memory: maps::memory_device()?,
        keys: BTreeSet::new(),
        files: Files::default(),
    };
    for process in processes.iter().filter(|process| !process.has_ended()) {
        look.process(process)?;
    }
    if let Some(first) = processes.first() {
        look.files.terminal = has_terminal(first, mounts);
    }
    Ok(look.files)
}

/// Device, inode and type, as in st_mode.
type Identity = (u64, u64, u32);

fn identity(stream: &Stream) -> Identity {
    (stream.device, stream.inode, stream.mode & libc::S_IFMT)
}

struct Look<'a> {
    /// What the caller has passed on.
    known: BTreeMap<Identity, &'a Stream>,
    /// The ids of the mounts of the first process.
    own: BTreeSet<u64>,
    /// Those of other mount namespaces in the container, by device and inode of the namespace.
    others: BTreeMap<(u64, u64), BTreeSet<u64>>,
    /// The device of files in memory without a name.
    memory: u64,
    keys: BTreeSet<String>,
    files: Files,
}

impl Look<'_> {
    fn process(&mut self, process: &Process) -> Result<()> {
        let path = format!("/proc/{}/fd", process.pid);
        let what = || format!("cannot list the files of process {}", process.pid);
        let opened = sys::path::open_magic(Path::new(&path));
        let numbers = opened.and_then(|dir| Ok((processes::numbers(&dir)?, dir)));
        let (mut numbers, dir) = match numbers {
            Err(error) if error.is(libc::ENOENT) || error.is(libc::ESRCH) => return Ok(()),
            // Since it was seen: what ends belongs to root of the initial user namespace.
            Err(error) if error.is(libc::EACCES) && processes::is_ending(process.pid) => {
                return Ok(());
            }
            numbers => numbers.doing(what)?,
        };
        numbers.sort_unstable();
        for number in numbers {
            // One that was closed meanwhile.
            let Some(stat) = stat(&dir, number) else {
                continue;
            };
            let obstacle = self.file(process, &dir, number, &stat);
            self.files.obstacle = self.files.obstacle.take().or(obstacle);
        }
        self.program(process);
        Ok(())
    }

    fn file(
        &mut self,
        process: &Process,
        dir: &OwnedFd,
        number: i32,
        stat: &Statx,
    ) -> Option<Obstacle> {
        let (device, inode) = (device(stat), stat.stx_ino);
        let mode = u32::from(stat.stx_mode);
        let kind = FileType::from_raw_mode(mode);
        let obstacle = |what: String, from_outside| {
            Some(Obstacle {
                process: process.called(),
                number,
                what,
                from_outside,
            })
        };
        if kind == FileType::CharacterDevice {
            let numbers = (stat.stx_rdev_major, stat.stx_rdev_minor);
            self.files.terminals |= is_terminal(numbers.0);
            if let Some((_, what)) = UNKNOWN_DEVICES.iter().find(|(known, _)| *known == numbers) {
                return obstacle((*what).to_owned(), false);
            }
        }
        if kind == FileType::RegularFile
            && let Ok(link) = rustix::fs::readlinkat(dir, number.to_string(), Vec::new())
        {
            self.keep_gone(link.into_bytes());
        }
        let is_named = !matches!(kind, FileType::Socket | FileType::Unknown);
        if is_named && self.is_within(process, stat.stx_mnt_id) {
            return None;
        }
        if let Some(stream) = self.known.get(&(device, inode, mode & libc::S_IFMT)) {
            let key = key(stat, kind);
            if self.keys.insert(key.clone()) {
                if kind == FileType::Socket {
                    self.files.sockets.push(inode);
                }
                let number = stream.number;
                self.files.streams.push(ExternalFile { number, key });
            }
            return None;
        }
        if device == self.memory {
            self.files.memory.insert(inode);
            return None;
        }
        if kind == FileType::Socket {
            return None;
        }
        let link = link(dir, number)?;
        if kind == FileType::Unknown || !link.starts_with('/') {
            let name = link.strip_prefix("anon_inode:");
            self.files.watches |= matches!(name, Some("inotify" | "[fanotify]"));
            let is_unknown = name.is_some_and(|name| UNKNOWN.contains(&name));
            return is_unknown.then(|| obstacle(link, false)).flatten();
        }
        let is_nameless = link.ends_with(" (deleted)") && maps::is_nameless(link.as_bytes());
        (!is_nameless).then(|| obstacle(link, true)).flatten()
    }

    /// Its program's file is open, too.
    fn program(&mut self, process: &Process) {
        let path = format!("/proc/{}/exe", process.pid);
        let Ok(link) = rustix::fs::readlink(&path, Vec::new()) else {
            return;
        };
        if self.keep_gone(link.into_bytes())
            && let Ok(stat) = rustix::fs::stat(&path)
            && stat.st_dev == self.memory
        {
            self.files.memory.insert(stat.st_ino);
        }
    }

    /// Keeps a link of /proc/PID/fd, if it is of a file in no directory.
    fn keep_gone(&mut self, link: Vec<u8>) -> bool {
        let is_gone = maps::is_gone(&link);
        if is_gone {
            self.files.gone.insert(link);
        }
        is_gone
    }

    /// Whether the mount is one of the container's: of the first process, or of a mount namespace that this one is in.
    fn is_within(&mut self, process: &Process, id: u64) -> bool {
        if self.own.contains(&id) {
            return true;
        }
        let Ok(stat) = rustix::fs::stat(format!("/proc/{}/ns/mnt", process.pid)) else {
            return false;
        };
        let others = self.others.entry((stat.st_dev, stat.st_ino));
        let ids = others.or_insert_with(|| {
            let mounts = Mounts::of(&process.pid.to_string());
            mounts.map_or_else(|_| BTreeSet::new(), |mounts| mounts.ids())
        });
        ids.contains(&id)
    }
}

/// CRIU's key of a file: `pipe:[INODE]`, `socket:[INODE]`, `tty[RDEV:DEVICE]` or `file[MOUNT:INODE]`, the last two in hexadecimal.
fn key(stat: &Statx, kind: FileType) -> String {
    let inode = stat.stx_ino;
    let mount = stat.stx_mnt_id;
    match kind {
        FileType::Socket => format!("socket:[{inode}]"),
        FileType::Fifo if is_pipe(stat) => format!("pipe:[{inode}]"),
        FileType::CharacterDevice if is_terminal(stat.stx_rdev_major) => {
            let rdev = rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
            format!("tty[{rdev:x}:{:x}]", device(stat))
        }
        _ => format!("file[{mount:x}:{inode:x}]"),
    }
}

/// Whether it is a pipe and no FIFO: it is on a filesystem without a device, and nothing was ever linked to it.
fn is_pipe(stat: &Statx) -> bool {
    stat.stx_dev_major == 0 && stat.stx_nlink == 1 && stat.stx_blocks == 0
}

/// Whether a character device with this major number is a terminal: a console, a serial line, a pseudoterminal or its other end
/// (Linux's Documentation/admin-guide/devices.txt).
fn is_terminal(major: u32) -> bool {
    matches!(major, 4 | 5 | 136..=143 | 204 | 229)
}

fn has_terminal(first: &Process, mounts: &Mounts) -> bool {
    let Ok(dir) = sys::path::open_magic(Path::new(&format!("/proc/{}/fd", first.pid))) else {
        return false;
    };
    let is_own = |stat: &Statx| {
        let mount = mounts.by_id(stat.stx_mnt_id);
        (136..=143).contains(&stat.stx_rdev_major)
            && mount.is_some_and(|mount| mount.line.fstype == "devpts")
    };
    (0..3)
        .filter_map(|number| stat(&dir, number))
        .any(|stat| is_own(&stat))
}

fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// What is open as `number`, with the id of its mount. Whoever serves its filesystem is not asked, as that may never end.
fn stat(dir: &OwnedFd, number: i32) -> Option<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let flags = AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(dir, number.to_string(), flags, wanted).ok()
}

fn link(dir: &OwnedFd, number: i32) -> Option<String> {
    let link = rustix::fs::readlinkat(dir, number.to_string(), Vec::new()).ok()?;
    Some(link.to_string_lossy().into_owned())
}
