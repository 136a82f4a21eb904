//! Why an entry could not be unpacked.

use std::os::fd::{AsFd, AsRawFd};

use crate::doctor::Step;
use crate::error::Error;
use crate::sys;

/// What stopped a step.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The kernel.
    Kernel(sys::Error),
    /// The archive is not to be unpacked: why, and what can be done.
    Refused(String, Option<String>),
    /// Reading the archive failed.
    Stream(std::io::Error),
}

/// The result of a step.
pub(super) type Tried<T> = Result<T, Trouble>;

impl From<sys::Error> for Trouble {
    fn from(error: sys::Error) -> Self {
        Self::Kernel(error)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Stream(error)
    }
}

impl Trouble {
    /// A refusal with something to do about it.
    pub(super) fn refused(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused(why.into(), Some(hint.into()))
    }

    /// A refusal that only the image's maker can do something about.
    pub(super) fn malformed(why: impl Into<String>) -> Self {
        Self::Refused(why.into(), None)
    }

    /// The error that a person sees: `what` could not be done on the filesystem of `destination`.
    pub(super) fn within(self, what: impl FnOnce() -> String, destination: impl AsFd) -> Error {
        let error = Error::new(what());
        match self {
            Self::Refused(why, hint) => {
                let error = error.because(why);
                match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            }
            Self::Stream(cause) => error.because(cause),
            Self::Kernel(cause) => explain(error, &cause, destination),
        }
    }
}

/// Says what a full filesystem has run out of.
fn explain(error: Error, cause: &sys::Error, destination: impl AsFd) -> Error {
    let full = cause.is(libc::ENOSPC);
    let error = error.because_of(cause).step(Step::Store);
    if !full && !cause.is(libc::EDQUOT) {
        return error;
    }
    let link = format!("/proc/self/fd/{}", destination.as_fd().as_raw_fd());
    let place = rustix::fs::readlink(link, Vec::new())
        .map_or_else(|_| "of the store".to_owned(), |path| format!("of {path:?}"));
    let Ok(figures) = rustix::fs::fstatvfs(&destination) else {
        return error;
    };
    let (bytes, inodes) = (
        figures.f_bavail.saturating_mul(figures.f_frsize),
        figures.f_favail,
    );
    let writes = matches!(cause.call, "write" | "pwrite" | "ftruncate");
    if cause.call == "fsetxattr" && full && bytes > 1 << 20 {
        return error
            .because("the filesystem has no room for that many, or so large, extended attributes of one file");
    }
    let (code, what) = match (full, writes) {
        // Filesystems that make inodes as needed have none to count.
        (true, _) if figures.f_files > 0 && inodes == 0 => {
            ("LDG-HOME-INODES", "has no inodes left")
        }
        (true, _) => ("LDG-HOME-BYTES", "has no space left"),
        (false, true) => ("LDG-HOME-BYTES", "is over the caller's quota of bytes"),
        (false, false) => (
            "LDG-HOME-INODES",
            "is over the caller's quota, most likely of inodes",
        ),
    };
    error
        .code(code)
        .because(format!(
            "the filesystem {place} {what} ({bytes} bytes and {inodes} inodes are free)"
        ))
        .hint(
            "`lodger image gc` removes what no image needs; `--store DIR` takes another filesystem",
        )
}
