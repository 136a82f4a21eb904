//! A file that has no name until it is complete (open(2), O_TMPFILE), so that nothing is left of it when this process
//! is killed.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::sys;

/// The way to give such a file its name, opened while this process still sees its own /proc.
#[derive(Debug)]
pub(super) struct Linker(Option<OwnedFd>);

impl Linker {
    /// Without a /proc there is no way.
    pub(super) fn prepare() -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self(rustix::fs::openat(CWD, "/proc/self/fd", flags, Mode::empty()).ok())
    }

    /// Writes `content` to a new file `name` in `directory`, in place of what has that name. `false` where the
    /// filesystem has no nameless files, as NFS: nothing was done then.
    pub(super) fn write(
        &self,
        directory: &OwnedFd,
        name: &OsStr,
        content: &str,
    ) -> sys::Result<bool> {
        let Self(Some(own_fds)) = self else {
            return Ok(false);
        };
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(directory, ".", flags, Mode::from_raw_mode(0o644)) {
            Ok(fd) => fd,
            // Kernels and filesystems that do not know O_TMPFILE take it for O_DIRECTORY.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => return Ok(false),
            Err(e) => return Err(sys::Error::new("openat", "\".\", O_TMPFILE", e)),
        };
        sys::path::write_once(&fd, content.as_bytes(), Path::new(name))?;
        link(own_fds, &fd, directory, name).map(|()| true)
    }
}

fn link(own_fds: &OwnedFd, fd: &OwnedFd, directory: &OwnedFd, name: &OsStr) -> sys::Result<()> {
    /// Somebody else may take the name again, but not for ever.
    const TRIES: u32 = 16;
    let error = |call, e: Errno| Err(sys::Error::new(call, format!("{name:?}"), e));
    let number = fd.as_raw_fd().to_string();
    for _ in 0..TRIES {
        let follow = AtFlags::SYMLINK_FOLLOW;
        match rustix::fs::linkat(own_fds, &number, directory, name, follow) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(e) => return error("linkat", e),
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return error("unlinkat", e),
        }
    }
    error("linkat", Errno::EXIST)
}
