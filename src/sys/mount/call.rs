//! Which calls of the mount API by file descriptor are there: an older kernel has none of them, or all but one, and a filter
//! may refuse them and let mount(2) through.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Error, Result};

/// A call of the mount API by file descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    OpenTree,
    MoveMount,
    FsOpen,
    FsConfig,
    FsMount,
    FsPick,
    SetAttributes,
}

/// The calls that were found missing, and those that were found there, by their bits.
static MISSING: AtomicU32 = AtomicU32::new(0);
static THERE: AtomicU32 = AtomicU32::new(0);

impl Call {
    /// Those that configure a filesystem: one without the others is of no use.
    const CONTEXT: [Self; 4] = [Self::FsOpen, Self::FsConfig, Self::FsMount, Self::FsPick];

    fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Makes the call with `make`; `None` when it is missing. Only a refusal costs a closer look, and that once.
    pub(super) fn attempt<T>(self, make: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
        if self.is_known_missing() {
            return None;
        }
        match make() {
            Err(error) if self.is_why(&error) => None,
            made => Some(made),
        }
    }

    /// Whether the call was found missing before.
    pub(super) fn is_known_missing(self) -> bool {
        MISSING.load(Ordering::Relaxed) & self.bit() != 0
    }

    /// Whether `error`, of this call, means that the call is missing, and not that the kernel refuses what it asks for.
    pub(super) fn is_why(self, error: &Error) -> bool {
        let missing = match error.errno {
            libc::ENOSYS => true,
            // A filter answers the same whatever is asked.
            libc::EPERM | libc::EACCES => {
                THERE.load(Ordering::Relaxed) & self.bit() == 0 && is_refusal(self.probe())
            }
            _ => return false,
        };
        let found = if missing { &MISSING } else { &THERE };
        found.fetch_or(self.bit(), Ordering::Relaxed);
        missing
    }

    /// The error number of the call with arguments that no kernel can do anything with; 0 when there is none.
    fn probe(self) -> i32 {
        const NO_FD: isize = -1;
        let empty = c"".as_ptr().addr().cast_signed();
        let empty_path = libc::AT_EMPTY_PATH as isize;
        let copy = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC).cast_signed() as isize;
        let both = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
        let both = both.cast_signed() as isize;
        let size = size_of::<libc::mount_attr>().cast_signed();
        let (number, [a, b, c, d, e]) = match self {
            Self::OpenTree => (libc::SYS_open_tree, [NO_FD, empty, copy | empty_path, 0, 0]),
            Self::MoveMount => (libc::SYS_move_mount, [NO_FD, empty, NO_FD, empty, both]),
            Self::FsOpen => (libc::SYS_fsopen, [0; 5]),
            Self::FsConfig => (libc::SYS_fsconfig, [NO_FD, 0, 0, 0, 0]),
            Self::FsMount => (libc::SYS_fsmount, [NO_FD, 0, 0, 0, 0]),
            Self::FsPick => (libc::SYS_fspick, [NO_FD, 0, 0, 0, 0]),
            Self::SetAttributes => (libc::SYS_mount_setattr, [NO_FD, empty, empty_path, 0, size]),
        };
        // SAFETY: there is no fd -1, and the addresses are NULL or that of a literal, which is only read.
        let answer = unsafe { libc::syscall(number, a, b, c, d, e) };
        match answer {
            0.. => 0,
            _ => {
                let errno = std::io::Error::last_os_error();
                errno.raw_os_error().unwrap_or(libc::EIO)
            }
        }
    }
}

fn is_refusal(errno: i32) -> bool {
    [libc::ENOSYS, libc::EPERM, libc::EACCES].contains(&errno)
}

/// Whether one of the calls that configure a filesystem was found missing.
pub(super) fn context_is_known_missing() -> bool {
    Call::CONTEXT.iter().any(|call| call.is_known_missing())
}
