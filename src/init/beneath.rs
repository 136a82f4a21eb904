//! The container's root as the only way to name anything in it.
//!
//! The tree belongs to whoever made the image, and may change while we look: a path string that is resolved twice can
//! mean two things (CVE-2021-30465, CVE-2025-31133). So every path is resolved once, by the kernel, with the root's fd
//! as its root (openat2(2), RESOLVE_IN_ROOT), to an fd that is then used. Magic links are refused everywhere.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::defence::{self, Defence, is_on};

/// Whether symbolic links on the way are followed (beneath the root) or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// Followed, as if the root were `/`.
    InRoot,
    /// Refused with ELOOP.
    Refused,
}

/// The root mount's fd.
#[derive(Debug)]
pub(super) struct RootDir {
    fd: OwnedFd,
}

impl RootDir {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Resolves `path` to an O_PATH fd.
    pub(super) fn open(&self, path: &Path, links: Links) -> sys::Result<OwnedFd> {
        self.resolve(path, OFlags::PATH, links)
    }

    /// Opens `path` for reading, without ever blocking on it.
    pub(super) fn open_to_read(&self, path: &Path) -> sys::Result<OwnedFd> {
        let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        if !is_on(Defence::BoundedReads) {
            flags.remove(OFlags::NONBLOCK);
        }
        self.resolve(path, flags, Links::InRoot)
    }

    /// Opens `path` for reading and writing, without ever blocking on it, or taking it for a controlling terminal.
    pub(super) fn open_terminal(&self, path: &Path) -> sys::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY;
        self.resolve(path, flags, Links::InRoot)
    }

    /// Resolves `path`, and makes it a directory (with those above it) or an empty file where it is missing.
    pub(super) fn open_or_make(
        &self,
        path: &Path,
        directory: bool,
        links: Links,
    ) -> sys::Result<OwnedFd> {
        match self.open(path, links) {
            Err(error) if error.is(nix::libc::ENOENT) => {}
            opened => return self.used_by_fd(opened, path),
        }
        if !is_on(Defence::ResolveOnce) {
            return self.make_by_path(path, directory);
        }
        if directory {
            let names = normal_names(path);
            return self.make_beneath(&names, names.len().saturating_sub(1), links);
        }
        let (parent, name) = split(path);
        let parent = self.make_dirs(&parent, links)?;
        make_file(&parent, &name)
    }

    /// What was opened; with the defence off, what the path leads to a moment later, links outside included.
    fn used_by_fd(&self, opened: sys::Result<OwnedFd>, path: &Path) -> sys::Result<OwnedFd> {
        if is_on(Defence::ResolveOnce) || opened.is_err() {
            return opened;
        }
        defence::linger();
        sys::path::open_beneath(
            &self.fd,
            &relative(path),
            OFlags::PATH,
            ResolveFlags::empty(),
        )
    }

    /// What is not done: a path that was looked at is made by its name, which may lead elsewhere by now (CVE-2024-45310).
    fn make_by_path(&self, path: &Path, directory: bool) -> sys::Result<OwnedFd> {
        let error = |e| sys::Error::new("mkdirat", format!("{path:?}"), e);
        let mut made = PathBuf::new();
        let names = normal_names(path);
        let parents = if directory {
            names.len()
        } else {
            names.len().saturating_sub(1)
        };
        for name in &names[..parents] {
            made.push(name);
            if self.open(&made, Links::InRoot).is_err() {
                defence::linger();
                rustix::fs::mkdirat(&self.fd, &made, Mode::from_raw_mode(0o755)).map_err(error)?;
            }
        }
        if !directory {
            defence::linger();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            return rustix::fs::openat(&self.fd, relative(path), flags, Mode::from_raw_mode(0o644))
                .map_err(error);
        }
        sys::path::open_beneath(
            &self.fd,
            &relative(path),
            OFlags::PATH,
            ResolveFlags::empty(),
        )
    }

    /// Makes `path` a directory where it is missing.
    pub(super) fn make_dir_if_missing(&self, path: &Path) -> Result<()> {
        match self.open_or_make(path, true, Links::InRoot) {
            // Only the process itself, with its own ids, can tell whether it may enter.
            Err(error) if error.is(nix::libc::EACCES) => Ok(()),
            made => made
                .map(drop)
                .doing(|| format!("cannot make {path:?} in the root filesystem")),
        }
    }

    /// Makes the directory `path` and those above it, as far as they are missing.
    pub(super) fn make_dirs(&self, path: &Path, links: Links) -> sys::Result<OwnedFd> {
        let names = normal_names(path);
        let made = self.make_beneath(&names, names.len(), links);
        self.used_by_fd(made, path)
    }

    /// As [`Self::make_dirs`], where no more than the first `most` names are known to be worth a look.
    fn make_beneath(&self, names: &[&OsStr], most: usize, links: Links) -> sys::Result<OwnedFd> {
        let (mut directory, existing) = self.deepest(names, most, links)?;
        for name in &names[existing..] {
            match rustix::fs::mkdirat(&directory, *name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(sys::Error::new("mkdirat", format!("{name:?}, 0755"), e)),
            }
            // What was just made is no link; a dangling link that was there is refused here.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            directory = rustix::fs::openat(&directory, *name, flags, Mode::empty())
                .map_err(|e| sys::Error::new("openat", format!("{name:?}, O_NOFOLLOW"), e))?;
        }
        Ok(directory)
    }

    /// The longest leading part of `names` that exists, `most` names at most, opened as a directory, and its length.
    fn deepest(
        &self,
        names: &[&OsStr],
        most: usize,
        links: Links,
    ) -> sys::Result<(OwnedFd, usize)> {
        let mut length = most;
        loop {
            let path: PathBuf = names[..length].iter().collect();
            match self.resolve(&path, OFlags::PATH | OFlags::DIRECTORY, links) {
                Err(error) if error.is(nix::libc::ENOENT) && length > 0 => length -= 1,
                resolved => return resolved.map(|fd| (fd, length)),
            }
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags, links: Links) -> sys::Result<OwnedFd> {
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if !is_on(Defence::ResolveInRoot) {
            resolve = ResolveFlags::empty();
        }
        if links == Links::Refused && is_on(Defence::RefuseLinks) {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        sys::path::open_beneath(&self.fd, &relative(path), flags, resolve)
    }
}

/// `path` as it is named from the root's fd.
fn relative(path: &Path) -> PathBuf {
    let names = normal_names(path);
    if names.is_empty() {
        return PathBuf::from(".");
    }
    names.iter().collect()
}

/// Makes an empty file, or opens what is there unless it is a symbolic link or a directory.
pub(super) fn make_file(parent: &OwnedFd, name: &OsStr) -> sys::Result<OwnedFd> {
    let error = |e| sys::Error::new("openat", format!("{name:?}, O_CREAT|O_EXCL"), e);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)) {
        Err(rustix::io::Errno::EXIST) => {}
        made => return made.map_err(error),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(error)?;
    match file_type(&fd)? {
        FileType::Symlink => Err(error(rustix::io::Errno::LOOP)),
        FileType::Directory => Err(error(rustix::io::Errno::ISDIR)),
        _ => Ok(fd),
    }
}

/// The type of the file that `fd` is open on.
pub(super) fn file_type(fd: impl AsFd) -> sys::Result<FileType> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)
        .map_err(|e| sys::Error::new("fstat", "fd", e))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// Whether `fd` is open on a directory.
pub(super) fn is_directory(fd: impl AsFd) -> sys::Result<bool> {
    Ok(file_type(fd)? == FileType::Directory)
}

/// The directory part and the last name of an absolute path.
pub(super) fn split(path: &Path) -> (PathBuf, std::ffi::OsString) {
    let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
    let name = path.file_name().unwrap_or(OsStr::new(".")).to_owned();
    (parent, name)
}

/// The names in `path`. The plan's paths have no `..`; the kernel would keep one beneath the root anyway.
fn normal_names(path: &Path) -> Vec<&OsStr> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            Component::ParentDir => Some(OsStr::new("..")),
            _ => None,
        })
        .collect()
}
