//! Removing what had the name of an entry.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::Errno;

use crate::image::merged::{duplicate, open_at};
use crate::sys;

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    /// There was nothing.
    Nothing,
    /// A file, a link or a whiteout.
    File,
    /// A directory, with all that was in it.
    Directory,
}

/// Removes `name` from `directory`, whatever it is, without following.
pub(super) fn remove(directory: &OwnedFd, name: &OsStr) -> sys::Result<Removed> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => Ok(Removed::File),
        Err(Errno::NOENT) => Ok(Removed::Nothing),
        Err(Errno::ISDIR | Errno::PERM) => {
            remove_tree(directory, name)?;
            Ok(Removed::Directory)
        }
        Err(e) => Err(unlink_error(name, e)),
    }
}

fn unlink_error(name: &OsStr, errno: Errno) -> sys::Error {
    sys::Error::new("unlinkat", format!("{name:?}"), errno)
}

/// Removes the directory `name`. Two fds and the names on the way suffice, however deep it is.
fn remove_tree(directory: &OwnedFd, name: &OsStr) -> sys::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut way: Vec<OsString> = vec![name.to_owned()];
    let mut here = open_at(directory, name, flags)?;
    loop {
        if let Some(next) = remove_files(&here)? {
            here = open_at(&here, &next, flags)?;
            way.push(next);
            continue;
        }
        let Some(emptied) = way.pop() else {
            return Ok(());
        };
        // Nobody else moves directories in here, so `..` is where this one was found.
        let upper = match way.is_empty() {
            true => duplicate(directory.as_fd())?,
            false => open_at(&here, OsStr::new(".."), flags)?,
        };
        rustix::fs::unlinkat(&upper, &emptied, AtFlags::REMOVEDIR)
            .map_err(|e| unlink_error(&emptied, e))?;
        if way.is_empty() {
            return Ok(());
        }
        here = upper;
    }
}

/// Removes files until there is a directory, whose name it returns.
fn remove_files(directory: &OwnedFd) -> sys::Result<Option<OsString>> {
    let error = |e| sys::Error::new("getdents64", "fd", e);
    for entry in Dir::read_from(directory).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            return Ok(Some(name.to_owned()));
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::PERM) => return Ok(Some(name.to_owned())),
            Err(e) => return Err(unlink_error(name, e)),
        }
    }
    Ok(None)
}
