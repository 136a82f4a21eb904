//! Where the state lives, and whether that place is safe.
//!
//! `$XDG_RUNTIME_DIR/lodger`, else `/run/user/UID/lodger`, else `/tmp/lodger-UID`. A directory counts only if it is
//! ours, no symbolic link, and not writable by others: someone who can write there can make us signal any process.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Doing, Error, Result};
use crate::host::parse_id_map;
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// Opens the store's directory, or says that there is none yet.
pub(super) fn open(root: Option<&Path>) -> Result<Option<(OwnedFd, PathBuf)>> {
    let path = root.map_or_else(usual_place, |root| Ok(root.to_owned()))?;
    match open_checked(&path) {
        Err(Problem::Sys(error)) if error.is(libc::ENOENT) => Ok(None),
        opened => Ok(Some((opened.map_err(|e| e.explain(&path))?, path))),
    }
}

/// Opens the store's directory, and makes it where it is missing.
pub(super) fn open_or_make(root: Option<&Path>) -> Result<(OwnedFd, PathBuf)> {
    let path = root.map_or_else(usual_place, |root| Ok(root.to_owned()))?;
    if let (Some(_), Some(parent)) = (root, path.parent()) {
        make_parents(parent)?;
    }
    match rustix::fs::mkdirat(CWD, &path, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => {
            return Err(sys::Error::new("mkdir", format!("{path:?}, 0700"), e))
                .doing(|| format!("cannot make the state directory {path:?}"))
                .map_err(|e| e.hint("choose another one with --root DIR"));
        }
    }
    let fd = open_checked(&path).map_err(|e| e.explain(&path))?;
    Ok((fd, path))
}

fn make_parents(parent: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|e| Error::new(format!("cannot make the directory {parent:?}")).because(e))
}

/// The first of the usual places that this caller may use.
fn usual_place() -> Result<PathBuf> {
    let session = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    if let Some(place) = session.and_then(|path| beneath_if_safe(&path)) {
        return Ok(place);
    }
    let uid = host_uid();
    let usual = beneath_if_safe(Path::new(&format!("/run/user/{uid}")));
    Ok(usual.unwrap_or_else(|| PathBuf::from(format!("/tmp/lodger-{uid}"))))
}

fn beneath_if_safe(parent: &Path) -> Option<PathBuf> {
    match open_checked(parent) {
        Ok(_) => Some(parent.join("lodger")),
        Err(problem) => {
            let why = problem.explain(parent);
            tracing::debug!("no state in {parent:?}: {}", why.message());
            None
        }
    }
}

/// The caller's uid as the parent of her user namespace numbers it: 0 in a namespace of hers is still she.
fn host_uid() -> u32 {
    const LIMIT: usize = 64 << 10;
    let uid = sys::cred::uid();
    let map = sys::path::read_regular(Path::new("/proc/self/uid_map"), LIMIT).unwrap_or_default();
    parse_id_map(&String::from_utf8_lossy(&map))
        .iter()
        .find(|line| line.has(uid))
        .map_or(uid, |line| line.outside + (uid - line.inside))
}

enum Problem {
    Sys(sys::Error),
    Owner { owner: u32, uid: u32 },
    Writable { mode: u32 },
}

impl Problem {
    fn explain(&self, path: &Path) -> Error {
        let error = Error::new(format!("cannot use {path:?} as the state directory"));
        let error = match self {
            Self::Sys(cause) if cause.is(libc::ELOOP) || cause.is(libc::ENOTDIR) => {
                error.because("it is a symbolic link or not a directory")
            }
            Self::Sys(cause) => error.because(cause),
            Self::Owner { owner, uid } => {
                error.because(format!("it belongs to uid {owner}, not to {uid}"))
            }
            Self::Writable { mode } => {
                error.because(format!("others may write to it (mode {mode:04o})"))
            }
        };
        error.hint("use --root DIR with a directory that only you can write to")
    }
}

fn open_checked(path: &Path) -> std::result::Result<OwnedFd, Problem> {
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !is_on(Defence::StateDirectory) {
        flags.remove(OFlags::NOFOLLOW);
    }
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| Problem::Sys(sys::Error::new("openat", format!("{path:?}"), e)))?;
    let stat = rustix::fs::fstat(&fd)
        .map_err(|e| Problem::Sys(sys::Error::new("fstat", format!("{path:?}"), e)))?;
    if is_on(Defence::StateDirectory) {
        check(stat.st_uid, stat.st_mode & 0o7777, sys::cred::uid())?;
    }
    Ok(fd)
}

fn check(owner: u32, mode: u32, uid: u32) -> std::result::Result<(), Problem> {
    if owner != uid {
        return Err(Problem::Owner { owner, uid });
    }
    if mode & 0o022 != 0 {
        return Err(Problem::Writable { mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_unshared_directory_is_taken() {
        assert!(check(1000, 0o700, 1000).is_ok());
        assert!(check(1000, 0o755, 1000).is_ok());
        assert!(matches!(check(0, 0o700, 1000), Err(Problem::Owner { .. })));
        assert!(matches!(
            check(1000, 0o1777, 1000),
            Err(Problem::Writable { .. })
        ));
        assert!(matches!(
            check(1000, 0o770, 1000),
            Err(Problem::Writable { .. })
        ));
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let error = open(Some(&link)).unwrap_err();
        assert!(error.message().contains("symbolic link"), "{error}");
    }

    #[test]
    fn a_missing_directory_is_no_store() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(Some(&dir.path().join("none"))).unwrap().is_none());
    }
}
