//! Removing what had the name of an entry.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::image::remove::tree;
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
            tree(directory, name)?;
            Ok(Removed::Directory)
        }
        Err(e) => Err(sys::Error::new("unlinkat", format!("{name:?}"), e)),
    }
}
