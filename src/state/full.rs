//! A filesystem that has no more room.

use std::os::fd::OwnedFd;

use super::directory::{Purpose, STATE};
use crate::error::Error;
use crate::sys;

/// The error, and of what the filesystem has no more, if that is the reason: bytes and inodes have one errno.
pub(super) fn because_full(dir: &OwnedFd, error: Error, cause: sys::Error) -> Error {
    because_full_of(STATE, dir, error, cause)
}

/// As [`because_full`], for a directory of this purpose.
pub(crate) fn because_full_of(
    purpose: Purpose,
    dir: &OwnedFd,
    error: Error,
    cause: sys::Error,
) -> Error {
    let full = cause.is(libc::ENOSPC) || cause.is(libc::EDQUOT);
    let error = error.because_of(&cause).step(purpose.step);
    let left = match rustix::fs::fstatvfs(dir) {
        Ok(left) if full => left,
        _ => return error,
    };
    let (code, lacking) = lacking(&left);
    let Purpose { name, option, .. } = purpose;
    error.code(code).hint(format!(
        "the filesystem of the {name} {lacking}: make room there, or choose another one with {option} DIR"
    ))
}

/// The code for a filesystem that is full, and of what it has no more.
pub(crate) fn lacking(left: &rustix::fs::StatVfs) -> (&'static str, &'static str) {
    match (left.f_bavail, left.f_favail) {
        (_, 0) if left.f_files > 0 => ("LDG-HOME-INODES", "has no free inodes"),
        (0, _) => ("LDG-HOME-BYTES", "has no free space"),
        _ => (
            "LDG-HOME-BYTES",
            "has too little free space, or the caller's quota is used up",
        ),
    }
}
