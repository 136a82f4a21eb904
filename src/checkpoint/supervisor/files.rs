//! The files that a process of the container has mapped, opened for CRIU.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::maps::{Identity, Mapping};
use super::task::{self, Container, Task};
use crate::sys::defence::{Defence, is_on};
use crate::sys::remote::Mapped;
use crate::sys::{self, process};

/// What was asked for is not given: CRIU knows this answer, it is the kernel's, and goes another way where it has one.
pub(super) const REFUSED: i32 = libc::EPERM;

/// Whether these flags of open(2) are those of reading: nothing else is done for CRIU, which does nothing else. O_PATH is among
/// them: such an fd cannot be passed on by the listener, and one that reads can do all that it could.
pub(super) fn is_to_read(flags: u64) -> bool {
    let flags = OFlags::from_bits_retain((flags & 0xffff_ffff) as u32);
    let others = OFlags::CREATE | OFlags::TRUNC | OFlags::DIRECTORY | OFlags::TMPFILE;
    flags.contains(OFlags::PATH) || !flags.intersects(others | OFlags::RWMODE)
}

/// Opens what `task` has mapped as `mapping`, to be read; else the error number.
///
/// The path that the kernel has of it is the container's to change: what is there now is opened only if it is the file.
pub(super) fn open(
    container: &Container,
    task: &Task,
    mapping: &Mapping,
) -> Result<OwnedFd, Refused> {
    if mapping.file == (0, 0, 0) {
        return Err(Refused::by(libc::ENOENT));
    }
    let path = task
        .mapped_path(mapping.range)
        .map_err(|e| Refused::by(e.errno))?;
    // Not from a filesystem: a socket, shared memory.
    if path.first() != Some(&b'/') {
        return Err(Refused::by(REFUSED));
    }
    // The path begins at the root of its mount namespace, which a process can leave (chroot(2)).
    for root in [task.root(), container.root()] {
        if let Ok(file) = root.and_then(|root| open_there(&root, &path))
            && is_same(&file, mapping.file)
        {
            return Ok(file);
        }
    }
    Err(Refused {
        errno: REFUSED,
        path: Some(path),
    })
}

/// Why a file is not given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The answer.
    pub(super) errno: i32,
    /// Where it should have been found, as the kernel says.
    pub(super) path: Option<Vec<u8>>,
}

impl Refused {
    pub(super) fn by(errno: i32) -> Self {
        Self { errno, path: None }
    }
}

/// Memory that the kernel shows as a file, and CRIU dumps as memory.
pub(super) fn is_nameless(path: &[u8]) -> bool {
    path.ends_with(b" (deleted)")
        && [&b"/dev/zero "[..], b"/memfd:", b"/SYSV"]
            .iter()
            .any(|name| path.starts_with(name))
}

/// Opens the regular file `path` beneath `root`. Nothing else is opened: that of a FIFO waits, that of a device does things.
fn open_there(root: &OwnedFd, path: &[u8]) -> sys::Result<OwnedFd> {
    let path = task::as_path(path);
    let itself = OFlags::PATH | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = sys::path::open_beneath(root, path, itself, resolve)?;
    reopen(&found, path)
}

/// Opens what was found, if it is a regular file; `path` is for the message.
pub(super) fn reopen(found: &OwnedFd, path: &Path) -> sys::Result<OwnedFd> {
    sys::path::require_regular(found, path)?;
    // O_NONBLOCK: who holds a lease on it is not waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::openat(CWD, &link, flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{path:?}"), e))?;
    rustix::fs::fcntl_setfl(&file, OFlags::empty())
        .map_err(|e| sys::Error::new("fcntl", format!("{path:?}, F_SETFL, 0"), e))?;
    Ok(file)
}

/// Whether the mapping is of this file. The kernel is asked what it says of a mapping of it: on every filesystem that is the same
/// for the same file, whatever stat(2) says.
fn is_same(file: &OwnedFd, wanted: Identity) -> bool {
    !is_on(Defence::MappedInode) || identity(file) == Some(wanted)
}

/// Device and inode of a file, as /proc/PID/maps has them.
pub(super) fn identity(file: &OwnedFd) -> Option<Identity> {
    let mapped = Mapped::new(file).ok()?;
    let maps = task::maps_of(process::own_pid())?;
    maps.at(mapped.address()).map(|one| one.file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_given_for_reading_and_for_nothing_else() {
        for (flags, expected) in [
            (libc::O_RDONLY, true),
            (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE, true),
            (libc::O_PATH, true),
            (libc::O_PATH | libc::O_CLOEXEC, true),
            (libc::O_RDWR, false),
            (libc::O_WRONLY, false),
            (libc::O_ACCMODE, false),
            (libc::O_RDWR | libc::O_TRUNC, false),
            (libc::O_RDONLY | libc::O_TRUNC, false),
            (libc::O_RDONLY | libc::O_CREAT, false),
            (libc::O_RDWR | libc::O_TMPFILE, false),
            (libc::O_DIRECTORY, false),
        ] {
            let given = is_to_read(u64::from(flags.cast_unsigned()));
            assert_eq!(given, expected, "{flags:#o}");
        }
    }

    #[test]
    fn memory_is_told_from_files_that_are_gone() {
        for path in [
            "/dev/zero (deleted)",
            "/memfd:a (deleted)",
            "/SYSV00000000 (deleted)",
        ] {
            assert!(is_nameless(path.as_bytes()), "{path}");
        }
        for path in [
            "/tmp/x (deleted)",
            "/dev/zero",
            "/memfd:a",
            "/x/memfd:a (deleted)",
        ] {
            assert!(!is_nameless(path.as_bytes()), "{path}");
        }
    }
}
