//! The directory with the socket that a program tells of itself on (NOTIFY_SOCKET): it is mounted into the container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{Entry, Store, unlink};
use crate::error::{Doing, Result};
use crate::plan::notify::SOCKET;
use crate::sys;

/// Its name in the container's state directory.
const DIRECTORY: &str = "notify";

impl Store {
    /// Makes the directory, which every id of the container may enter, and tells where it is.
    pub fn make_notify_directory(&self, entry: &Entry) -> Result<PathBuf> {
        let mode = Mode::from_raw_mode(0o755);
        let made = rustix::fs::mkdirat(&entry.fd, DIRECTORY, mode)
            // Whatever the umask.
            .and_then(|()| rustix::fs::chmodat(&entry.fd, DIRECTORY, mode, AtFlags::empty()));
        made.map_err(|e| sys::Error::new("mkdirat", format!("{DIRECTORY:?}, 0755"), e))
            .doing(|| "cannot make a directory for the program's NOTIFY_SOCKET".to_owned())?;
        Ok(self.path.join(&entry.id).join(DIRECTORY))
    }
}

impl Entry {
    /// Makes the socket, in place of one that nobody listens on any more.
    pub fn make_notify_socket(&self) -> Result<OwnedFd> {
        let what = || "cannot make the program's NOTIFY_SOCKET".to_owned();
        let directory = open(&self.fd, DIRECTORY).doing(what)?;
        sys::socket::listen_datagram(&directory, SOCKET).doing(what)
    }
}

fn open(dir: impl AsFd, name: &str) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{name:?}"), e))
}

/// Removes what is at `name`: a file, or a directory with files.
pub(super) fn remove(dir: &OwnedFd, name: &str) -> sys::Result<()> {
    match unlink(dir, name) {
        Err(error) if error.is(libc::EISDIR) => {
            let inner = open(dir, name)?;
            for file in sys::path::names(&inner)? {
                unlink(&inner, &file)?;
            }
            rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
                .map_err(|e| sys::Error::new("rmdir", format!("{name:?}"), e))
        }
        removed => removed,
    }
}
