//! A filesystem that has no more room.

use std::os::fd::OwnedFd;

use crate::error::Error;
use crate::sys;

/// The error, and of what the filesystem has no more, if that is the reason: bytes and inodes have one errno.
pub(super) fn because_full(dir: &OwnedFd, error: Error, cause: sys::Error) -> Error {
    let full = cause.is(libc::ENOSPC) || cause.is(libc::EDQUOT);
    let error = error.because(cause);
    let left = match rustix::fs::fstatvfs(dir) {
        Ok(left) if full => left,
        _ => return error,
    };
    let lacking = match (left.f_bavail, left.f_favail) {
        (_, 0) if left.f_files > 0 => "has no free inodes",
        (0, _) => "has no free space",
        _ => "has too little free space, or the caller's quota is used up",
    };
    error.hint(format!(
        "the filesystem of the state directory {lacking}: make room there, or choose another one with --root DIR"
    ))
}
