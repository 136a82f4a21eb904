//! What openat2(2) does, step by step: for a kernel without it, or a filter that refuses it.
//!
//! Each name is opened by itself (O_PATH, O_NOFOLLOW) in the directory that was opened before, a link is read from its own
//! fd, and `..` goes back to the directory that was passed on the way. So whatever is renamed or swapped meanwhile, each
//! step is from a directory that was reached from the root, and no step leads above it.
//!
//! It differs from the kernel's where that is the safe side: a link in a procfs that is not directly in its root counts as a
//! magic one (an ordinary one is told from those by nothing that can be asked), and O_CREAT and O_TMPFILE are refused.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::{Errno, Result};

/// MAXSYMLINKS of the kernel's namei.h.
const MAX_LINKS: u32 = 40;

/// PATH_MAX of linux/limits.h, with the NUL.
const MAX_PATH: usize = 4096;

/// ST_NOSYMFOLLOW of linux/statfs.h: links of this mount are not followed.
const NO_LINKS_FOLLOWED: u64 = 0x2000;

/// PROC_ROOT_INO of the kernel's proc_fs.h.
const PROC_ROOT: u64 = 1;

/// Opens `path` from `root` with `flags` as `resolve` says. EAGAIN when what was looked at is another one at the opening.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let scoped = ResolveFlags::BENEATH | ResolveFlags::IN_ROOT;
    let known =
        scoped | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if resolve.contains(scoped)
        || !known.contains(resolve)
        || flags.intersects(OFlags::CREATE | OFlags::TMPFILE.difference(OFlags::DIRECTORY))
    {
        return Err(Errno::INVAL);
    }
    if resolve.is_empty() {
        return rustix::fs::openat(root, path, flags, Mode::empty());
    }
    let mut parts = path.components();
    let leads_down = parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let no_links = resolve.contains(ResolveFlags::NO_SYMLINKS);
    if !(resolve.intersects(scoped) || leads_down && no_links) {
        // Only from a root, or where nothing leads out of it, is it known what the rest means.
        return Err(Errno::INVAL);
    }
    let text = path.as_os_str().as_bytes();
    if text.is_empty() {
        return Err(Errno::NOENT);
    }
    if text.len() >= MAX_PATH {
        return Err(Errno::NAMETOOLONG);
    }
    let mut walk = Walk {
        passed: Passed::new(root, text, resolve),
        rest: Vec::new(),
        links: 0,
        flags,
        resolve,
        mount: match resolve.contains(ResolveFlags::NO_XDEV) {
            true => Some(mount_id(root)?),
            false => None,
        },
    };
    walk.push(text)?;
    walk.run()
}

/// The directories on the way from the root to where the walk is, its last.
struct Passed<'a> {
    root: BorrowedFd<'a>,
    beneath: Vec<OwnedFd>,
    /// Whether nothing leads back: only the last is kept then, as a deep path may have more than can be open.
    is_one_way: bool,
}

impl<'a> Passed<'a> {
    fn new(root: BorrowedFd<'a>, path: &[u8], resolve: ResolveFlags) -> Self {
        let goes_back = path.split(|byte| *byte == b'/').any(|name| name == b"..");
        Self {
            root,
            beneath: Vec::new(),
            is_one_way: resolve.contains(ResolveFlags::NO_SYMLINKS) && !goes_back,
        }
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.beneath.last().map_or(self.root, AsFd::as_fd)
    }

    fn enter(&mut self, directory: OwnedFd) {
        if self.is_one_way {
            self.beneath.clear();
        }
        self.beneath.push(directory);
    }
}

struct Walk<'a> {
    passed: Passed<'a>,
    /// The names that are left, the next one last. An empty one asks for a directory, as a slash at the end does.
    rest: Vec<OsString>,
    links: u32,
    flags: OFlags,
    resolve: ResolveFlags,
    /// The mount that may not be left.
    mount: Option<u64>,
}

impl Walk<'_> {
    /// Puts the names of `path`, which may be a link's, before those that are left.
    fn push(&mut self, path: &[u8]) -> Result<()> {
        if path.first() == Some(&b'/') {
            if self.resolve.contains(ResolveFlags::BENEATH) {
                return Err(Errno::XDEV);
            }
            self.passed.beneath.clear();
        }
        let names = path.split(|byte| *byte == b'/').filter(|n| !n.is_empty());
        let mut names: Vec<OsString> = names.map(|n| OsStr::from_bytes(n).to_owned()).collect();
        if path.last() == Some(&b'/') && !names.is_empty() && self.rest.is_empty() {
            names.push(OsString::new());
        }
        self.rest.extend(names.into_iter().rev());
        Ok(())
    }

    fn run(mut self) -> Result<OwnedFd> {
        while let Some(name) = self.rest.pop() {
            let is_last = self.rest.is_empty() || self.rest == [""];
            match name.as_bytes() {
                b"" => {}
                b"." => self.require_search()?,
                b".." => {
                    self.require_search()?;
                    let left = self.passed.beneath.pop();
                    if left.is_none() && self.resolve.contains(ResolveFlags::BENEATH) {
                        return Err(Errno::XDEV);
                    }
                }
                _ => {
                    if let Some(opened) = self.step(&name, is_last)? {
                        return Ok(opened);
                    }
                }
            }
        }
        // The way ends in a directory that has been passed, or in the root.
        rustix::fs::openat(self.passed.here(), ".", self.flags, Mode::empty())
    }

    /// Whether names may be looked up here, as the kernel asks for each.
    fn require_search(&self) -> Result<()> {
        rustix::fs::openat(self.passed.here(), ".", place(), Mode::empty()).map(|_| ())
    }

    /// Goes to `name`. Returns what is opened at the end of the way.
    fn step(&mut self, name: &OsStr, is_last: bool) -> Result<Option<OwnedFd>> {
        let found = rustix::fs::openat(self.passed.here(), name, place(), Mode::empty())?;
        if let Some(mount) = self.mount
            && mount_id(found.as_fd())? != mount
        {
            return Err(Errno::XDEV);
        }
        let as_directory = !self.rest.is_empty();
        match kind(&found)? {
            FileType::Symlink => {
                let is_followed = as_directory || !self.flags.contains(OFlags::NOFOLLOW);
                if !is_last || is_followed {
                    let target = self.follow(&found)?;
                    self.push(&target)?;
                    return Ok(None);
                }
            }
            FileType::Directory if !is_last => {
                self.passed.enter(found);
                return Ok(None);
            }
            // Whoever may search nothing in it may still have it opened.
            FileType::Directory => {}
            _ if !is_last || as_directory => return Err(Errno::NOTDIR),
            _ => {}
        }
        self.finish(name, found).map(Some)
    }

    /// Where the link leads to.
    fn follow(&mut self, link: &OwnedFd) -> Result<Vec<u8>> {
        self.links += 1;
        if self.links > MAX_LINKS || self.resolve.contains(ResolveFlags::NO_SYMLINKS) {
            return Err(Errno::LOOP);
        }
        let filesystem = rustix::fs::fstatfs(link)?;
        if u64::try_from(filesystem.f_flags).unwrap_or(0) & NO_LINKS_FOLLOWED != 0 {
            return Err(Errno::LOOP);
        }
        if filesystem.f_type == rustix::fs::PROC_SUPER_MAGIC && !is_proc_root(self.passed.here())? {
            return Err(match self.resolve.contains(ResolveFlags::NO_MAGICLINKS) {
                true => Errno::LOOP,
                // No such link is followed from a root.
                false => Errno::XDEV,
            });
        }
        let target = rustix::fs::readlinkat(link, "", Vec::new())?.into_bytes();
        match target.is_empty() {
            true => Err(Errno::NOENT),
            false => Ok(target),
        }
    }

    /// Opens `found`, which has `name` here, as the caller wants it.
    fn finish(&self, name: &OsStr, found: OwnedFd) -> Result<OwnedFd> {
        let flags = self.flags | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(self.passed.here(), name, flags, Mode::empty())?;
        // It may have become another one, even on another mount.
        match identity(&opened)? == identity(&found)?
            && match self.mount {
                Some(mount) => mount_id(opened.as_fd())? == mount,
                None => true,
            } {
            true => Ok(opened),
            false => Err(Errno::AGAIN),
        }
    }
}

/// How a name on the way is opened.
fn place() -> OFlags {
    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn kind(fd: &OwnedFd) -> Result<FileType> {
    rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode))
}

fn identity(fd: &OwnedFd) -> Result<(u64, u64)> {
    rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino))
}

fn is_proc_root(fd: BorrowedFd<'_>) -> Result<bool> {
    let filesystem = rustix::fs::fstatfs(fd)?.f_type;
    Ok(filesystem == rustix::fs::PROC_SUPER_MAGIC && rustix::fs::fstat(fd)?.st_ino == PROC_ROOT)
}

/// The mount that `fd` is on: STATX_MNT_ID, Linux 5.8; before that by proc_pid_fdinfo(5).
fn mount_id(fd: BorrowedFd<'_>) -> Result<u64> {
    match rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok(found.stx_mnt_id),
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) => {
            let number = super::fd::information(fd, "mnt_id:");
            let number = number.and_then(|number| u64::try_from(number).ok());
            number.ok_or(Errno::NOSYS)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
#[path = "path_walk_tests.rs"]
mod tests;
