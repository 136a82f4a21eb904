//! `tmpcopyup`: a new tmpfs begins with a copy of the directory that it covers.
//!
//! The directory is the image's, and may be anything: links that lead out of it, a tree deeper than any path is long,
//! files that are larger than the tmpfs, or changed while they are read. No link is followed, no other mount entered,
//! and no name looked up but in a directory that is open. Two directories are open at a time, however deep the tree is.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::plan::{Mount, MountSource, Note};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// The permission bits of a mode.
const PERMISSIONS: u32 = 0o7777;

/// How much is read at once, in bytes; also the longest extended attribute there is (xattr(7)).
const BUFFER: usize = 64 << 10;

/// Copies what is in the directory `place` into `tree`, the root of the new tmpfs. Adds to `notes` what was left out.
pub(super) fn copy(
    mount: &Mount,
    place: &OwnedFd,
    tree: &OwnedFd,
    notes: &mut Vec<Note>,
) -> Result<()> {
    let mut copier = Copier {
        buffer: vec![0; BUFFER],
        left_out: Vec::new(),
        path: Vec::new(),
        destination: &mount.destination,
    };
    copier.copy_tree(mount, place, tree).map_err(|cause| {
        let what = format!("cannot copy up {}", shown(&mount.destination, &copier.path));
        explain(Error::new(what).because(&cause), &cause)
    })?;
    for (left, count, first) in &copier.left_out {
        notes.push(Note::new(
            format!("{}/options", mount.property),
            format!(
                "tmpcopyup: {}, {count} in all, the first is {first}",
                left.reason(),
            ),
            left.remedy(),
        ));
    }
    Ok(())
}

fn explain(error: Error, cause: &sys::Error) -> Error {
    match cause.errno {
        nix::libc::ENOSPC | nix::libc::EDQUOT | nix::libc::EFBIG => error.hint(
            "the tmpfs has no room for what the image has there: give it a larger size= (or nr_inodes=), or take out \
             tmpcopyup (podman: notmpcopyup)",
        ),
        nix::libc::EACCES | nix::libc::EPERM => error.hint(
            "the container's root may not read it: its owner is not mapped in the container; take out tmpcopyup \
             (podman: notmpcopyup)",
        ),
        nix::libc::ESTALE => error.hint("somebody is changing the root filesystem: try again when it is left alone"),
        _ => error,
    }
}

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Special,
    Mount,
    Owner,
    Attribute,
}

impl Left {
    fn reason(self) -> &'static str {
        match self {
            Self::Special => "sockets and devices are not copied",
            Self::Mount => {
                "what other mounts have is not copied: an empty file or directory takes its place"
            }
            Self::Owner => {
                "owners that the container has no ids for are not kept: root takes their place"
            }
            Self::Attribute => {
                "extended attributes that a tmpfs cannot have, or nobody but the host's root can give, are not kept"
            }
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Special => "none is needed, as a rule: a socket means nothing without its server",
            Self::Mount => "give that mount a place in the list after this one",
            Self::Owner => "map more ids (/linux/uidMappings, /linux/gidMappings)",
            Self::Attribute => "take out tmpcopyup if they matter",
        }
    }
}

/// A directory that is being copied.
struct Level {
    /// Its device and inode, to know it again.
    identity: (u64, u64),
    /// When it was last read and changed.
    times: Timestamps,
    /// The directories in it that are still to be copied.
    waiting: Vec<OsString>,
}

struct Copier<'a> {
    buffer: Vec<u8>,
    /// What, how often, and the first of them.
    left_out: Vec<(Left, usize, String)>,
    /// Where the tree is, in the container.
    destination: &'a Path,
    /// The names that lead to what is being copied.
    path: Vec<OsString>,
}

impl Copier<'_> {
    fn copy_tree(&mut self, mount: &Mount, place: &OwnedFd, tree: &OwnedFd) -> sys::Result<()> {
        let mut from = open_directory(place, OsStr::new("."))?;
        let mut to = open_directory(tree, OsStr::new("."))?;
        let stat = stat_of(&from)?;
        self.give_root(mount, &from, &to, &stat)?;
        let mut levels = vec![self.enter(&from, &to, &stat)?];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.waiting.pop() {
                self.path.push(name.clone());
                if let Some((inner_from, inner_to)) = self.make_directory(&from, &to, &name)? {
                    (from, to) = (inner_from, inner_to);
                    let stat = stat_of(&from)?;
                    levels.push(self.enter(&from, &to, &stat)?);
                } else {
                    self.path.pop();
                }
                continue;
            }
            set_times(&to, &level.times)?;
            levels.pop();
            self.path.pop();
            if let Some(above) = levels.last() {
                from = go_up(&from, above.identity)?;
                to = open_directory(&to, OsStr::new(".."))?;
            }
        }
        Ok(())
    }

    /// The root of the tmpfs is as the directory it covers, but for what the options say.
    fn give_root(
        &mut self,
        mount: &Mount,
        from: &OwnedFd,
        to: &OwnedFd,
        stat: &Stat,
    ) -> sys::Result<()> {
        let given = |name: &str| match &mount.source {
            MountSource::Filesystem { options, .. } => options.iter().any(|(key, _)| key == name),
            _ => false,
        };
        if !given("uid") && !given("gid") {
            self.give_owner(to, stat)?;
        }
        if !given("mode") {
            set_mode(to, stat)?;
        }
        self.give_attributes(from, to)
    }

    /// Copies the files in a directory, and notes the directories in it.
    fn enter(&mut self, from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> sys::Result<Level> {
        let error = |e| sys::Error::new("getdents64", "fd", e);
        let mut waiting = Vec::new();
        for entry in rustix::fs::Dir::read_from(from).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            self.path.push(name.to_owned());
            if self.copy_file(from, to, name)? {
                waiting.push(name.to_owned());
            }
            self.path.pop();
        }
        Ok(Level {
            identity: (stat.st_dev, stat.st_ino),
            times: times(stat),
            waiting,
        })
    }

    /// Copies what is no directory; whether it is one.
    fn copy_file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> sys::Result<bool> {
        let mut flags = AtFlags::SYMLINK_NOFOLLOW;
        if !is_on(Defence::RefuseLinks) {
            flags = AtFlags::empty();
        }
        let stat = rustix::fs::statat(from, name, flags)
            .map_err(|e| sys::Error::new("fstatat", format!("{name:?}"), e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Ok(true),
            FileType::RegularFile => self.copy_regular(from, to, name)?,
            FileType::Symlink => self.copy_link(from, to, name, &stat)?,
            FileType::Fifo => {
                sys::path::make_fifo(to, name, stat.st_mode & PERMISSIONS)?;
                self.finish_by_name(to, name, &stat)?;
            }
            _ => self.leave_out(Left::Special),
        }
        Ok(false)
    }

    fn copy_link(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &OsStr,
        stat: &Stat,
    ) -> sys::Result<()> {
        let target = rustix::fs::readlinkat(from, name, Vec::new())
            .map_err(|e| sys::Error::new("readlinkat", format!("{name:?}"), e))?;
        rustix::fs::symlinkat(&target, to, name)
            .map_err(|e| sys::Error::new("symlinkat", format!("{target:?}, {name:?}"), e))?;
        self.finish_by_name(to, name, stat)
    }

    fn copy_regular(&mut self, from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> sys::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let source = match open_beside(from, name, flags) {
            Err(error) if error.is(nix::libc::EXDEV) => None,
            opened => Some(opened?),
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| sys::Error::new("openat", format!("{name:?}, O_CREAT|O_EXCL"), e))?;
        let Some(source) = source else {
            self.leave_out(Left::Mount);
            return Ok(());
        };
        let stat = stat_of(&source)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(sys::Error::new(
                "openat",
                format!("{name:?} /* was a file */"),
                Errno::STALE,
            ));
        }
        self.copy_content(&source, &target, u64::try_from(stat.st_size).unwrap_or(0))?;
        self.finish(&source, &target, &stat)?;
        set_times(&target, &times(&stat))
    }

    /// Copies `size` bytes, holes as holes.
    fn copy_content(&mut self, source: &OwnedFd, target: &OwnedFd, size: u64) -> sys::Result<()> {
        rustix::fs::ftruncate(target, size)
            .map_err(|e| sys::Error::new("ftruncate", format!("fd, {size}"), e))?;
        let mut at = 0;
        while at < size {
            let Some((begin, end)) = next_data(source, at, size)? else {
                break;
            };
            at = begin;
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
                let count = rustix::io::pread(source, &mut self.buffer[..most], at)
                    .map_err(|e| sys::Error::new("pread64", format!("fd, {most}, {at}"), e))?;
                // It has become shorter.
                if count == 0 {
                    return Ok(());
                }
                let written = write_all_at(target, &self.buffer[..count], at);
                written
                    .map_err(|e| sys::Error::new("pwrite64", format!("fd, {count}, {at}"), e))?;
                at += count as u64;
            }
        }
        Ok(())
    }

    /// Makes the directory; its source and it, unless another mount is there.
    fn make_directory(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &OsStr,
    ) -> sys::Result<Option<(OwnedFd, OwnedFd)>> {
        rustix::fs::mkdirat(to, name, Mode::RWXU)
            .map_err(|e| sys::Error::new("mkdirat", format!("{name:?}, 0700"), e))?;
        let target = open_directory(to, name)?;
        let source = match open_beside(from, name, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if error.is(nix::libc::EXDEV) => {
                self.leave_out(Left::Mount);
                let mode = Mode::from_raw_mode(0o755);
                rustix::fs::fchmod(&target, mode)
                    .map_err(|e| sys::Error::new("fchmod", "fd, 0755", e))?;
                return Ok(None);
            }
            opened => opened?,
        };
        let stat = stat_of(&source)?;
        self.finish(&source, &target, &stat)?;
        Ok(Some((source, target)))
    }

    /// Owner, mode and extended attributes, in this order: each of them takes away from the next.
    fn finish(&mut self, source: &OwnedFd, target: &OwnedFd, stat: &Stat) -> sys::Result<()> {
        self.give_owner(target, stat)?;
        set_mode(target, stat)?;
        self.give_attributes(source, target)
    }

    fn give_owner(&mut self, target: &OwnedFd, stat: &Stat) -> sys::Result<()> {
        match sys::path::change_owner(target, stat.st_uid, stat.st_gid) {
            Err(error) if error.is(nix::libc::EINVAL) => {
                self.leave_out(Left::Owner);
                Ok(())
            }
            changed => changed,
        }
    }

    /// Owner and times of what cannot be opened: nobody but this process sees the tmpfs yet.
    fn finish_by_name(&mut self, to: &OwnedFd, name: &OsStr, stat: &Stat) -> sys::Result<()> {
        let itself = sys::path::open_itself(to, name)?;
        self.give_owner(&itself, stat)?;
        rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| sys::Error::new("utimensat", format!("{name:?}"), e))
    }

    fn give_attributes(&mut self, source: &OwnedFd, target: &OwnedFd) -> sys::Result<()> {
        let mut names = vec![0; BUFFER];
        let length = match rustix::fs::flistxattr(source, &mut names[..]) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => 0,
            Err(e) => return Err(sys::Error::new("flistxattr", "fd", e)),
        };
        for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
            // Labels are given by the kernel's own rules.
            if name.starts_with(b"security.") && name != b"security.capability" {
                continue;
            }
            let name = OsStr::from_bytes(name);
            let length = match rustix::fs::fgetxattr(source, name, &mut self.buffer[..]) {
                Ok(length) => length,
                Err(Errno::NODATA) => continue,
                Err(e) => return Err(sys::Error::new("fgetxattr", format!("fd, {name:?}"), e)),
            };
            let flags = rustix::fs::XattrFlags::empty();
            match rustix::fs::fsetxattr(target, name, &self.buffer[..length], flags) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL) => {
                    self.leave_out(Left::Attribute)
                }
                Err(e) => return Err(sys::Error::new("fsetxattr", format!("fd, {name:?}"), e)),
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, what: Left) {
        if let Some(found) = self.left_out.iter_mut().find(|(left, _, _)| *left == what) {
            found.1 += 1;
            return;
        }
        let first = shown(self.destination, &self.path);
        self.left_out.push((what, 1, first));
    }
}

/// The path of what the `names` lead to, quoted; of many names the last ones.
fn shown(destination: &Path, names: &[OsString]) -> String {
    const MOST: usize = 8;
    let skipped = names.len().saturating_sub(MOST);
    let begin = if skipped > 0 { "…" } else { "" };
    let tail: std::path::PathBuf = names[skipped..].iter().collect();
    format!("{:?}", destination.join(begin).join(tail))
}

/// Opens `name` of the directory `from`, without following a link or entering another mount (EXDEV).
fn open_beside(from: &OwnedFd, name: &OsStr, flags: OFlags) -> sys::Result<OwnedFd> {
    let resolve = if is_on(Defence::RefuseLinks) {
        ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH
    } else {
        ResolveFlags::empty()
    };
    sys::path::open_beneath(from, Path::new(name), flags, resolve)
}

/// Opens a directory that is `name` of `dir`, where no link can be.
fn open_directory(dir: impl AsFd, name: &OsStr) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{name:?}, O_DIRECTORY"), e))
}

/// The directory above `from`, which must be the one it was when it was left (ESTALE).
fn go_up(from: &OwnedFd, identity: (u64, u64)) -> sys::Result<OwnedFd> {
    let above = open_directory(from, OsStr::new(".."))?;
    let stat = stat_of(&above)?;
    if (stat.st_dev, stat.st_ino) == identity {
        return Ok(above);
    }
    let args = "\"..\" /* the directory was moved */";
    Err(sys::Error::new("openat", args, Errno::STALE))
}

fn stat_of(fd: &OwnedFd) -> sys::Result<Stat> {
    rustix::fs::fstat(fd).map_err(|e| sys::Error::new("fstat", "fd", e))
}

fn set_mode(fd: &OwnedFd, stat: &Stat) -> sys::Result<()> {
    let mode = stat.st_mode & PERMISSIONS;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
        .map_err(|e| sys::Error::new("fchmod", format!("fd, {mode:o}"), e))
}

fn times(stat: &Stat) -> Timestamps {
    // The kernel's type of the nanoseconds is another one on some machines.
    #[allow(clippy::cast_possible_wrap, clippy::unnecessary_cast)]
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn set_times(fd: &OwnedFd, times: &Timestamps) -> sys::Result<()> {
    rustix::fs::futimens(fd, times).map_err(|e| sys::Error::new("futimens", "fd", e))
}

/// The next bytes of a file that are no hole; `None`: there is only a hole up to its end.
fn next_data(source: &OwnedFd, at: u64, size: u64) -> sys::Result<Option<(u64, u64)>> {
    let begin = match rustix::fs::seek(source, SeekFrom::Data(at)) {
        Ok(begin) => begin,
        Err(Errno::NXIO) => return Ok(None),
        // A filesystem that knows no holes.
        Err(Errno::INVAL) => return Ok(Some((at, size))),
        Err(e) => return Err(sys::Error::new("lseek", format!("fd, {at}, SEEK_DATA"), e)),
    };
    let end = rustix::fs::seek(source, SeekFrom::Hole(begin))
        .map_err(|e| sys::Error::new("lseek", format!("fd, {begin}, SEEK_HOLE"), e))?;
    Ok(Some((begin, end.min(size))))
}

fn write_all_at(target: &OwnedFd, mut bytes: &[u8], mut at: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let count = rustix::io::pwrite(target, bytes, at)?;
        bytes = &bytes[count..];
        at += count as u64;
    }
    Ok(())
}
