//! Where the state lives, and whether that place is safe.
//!
//! [`super::place`] says where it is when nobody else does. A directory counts only if it is ours, no symbolic link, and
//! not writable by others: someone who can write there can make us signal any process. The usual places are ours alone (mode
//! 0700), beneath directories where nobody but root could have put others in their place. What the caller names with `--root` she may share for reading, and have beneath a colleague's directory.
//! So it is with the store of images (`image::store`), whose directory is checked here too.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::place;
use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::sys::defence::{Defence, is_on};
use crate::{host, sys};

/// What a directory is for, in messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purpose {
    /// What it is called.
    pub(crate) name: &'static str,
    /// The option that names another one.
    pub(crate) option: &'static str,
    /// What is being done where it fails.
    pub(crate) step: Step,
}

pub(super) const STATE: Purpose = Purpose {
    name: "state directory",
    option: "--root",
    step: Step::State,
};

/// Opens the store's directory, or says that there is none yet.
pub(super) fn open(root: Option<&Path>) -> Result<Option<(OwnedFd, PathBuf)>> {
    if let Some(root) = root {
        let opened = open_own(root, false, STATE)?;
        return Ok(opened.map(|fd| (fd, root.to_owned())));
    }
    // Whoever can write nowhere may still look.
    let usual = place::usual().ok();
    if let Some(path) = &usual
        && let Some(fd) = open_own(path, true, STATE)?
    {
        return Ok(Some((fd, path.clone())));
    }
    Ok(place::others(usual.as_deref()).next())
}

/// Opens the caller's directory at `path`, if there is one. `usual`: nobody named it, and so nothing about it may be out of the
/// ordinary.
pub(crate) fn open_own(path: &Path, usual: bool, purpose: Purpose) -> Result<Option<OwnedFd>> {
    match open_store(path, usual) {
        Err(Problem::Sys(error)) if error.is(libc::ENOENT) => Ok(None),
        opened => opened.map(Some).map_err(|e| e.explain(path, purpose)),
    }
}

/// Opens the directory at `path`, whoever's it is, if nobody but its owner and root can write to it, or replace it.
pub(crate) fn open_foreign(path: &Path, purpose: Purpose) -> Result<OwnedFd> {
    open_checked(path, Whose::Anybody)
        .and_then(|(fd, _)| check_parents(&fd, false).map(|()| fd))
        .map_err(|e| e.explain(path, purpose))
}

/// Opens the store's directory, and makes it where it is missing.
pub(super) fn open_or_make(root: Option<&Path>) -> Result<(OwnedFd, PathBuf)> {
    let path = root.map_or_else(place::usual, |root| Ok(root.to_owned()))?;
    if let (Some(_), Some(parent)) = (root, path.parent()) {
        make_parents(parent)?;
    }
    let fd = open_or_make_own(&path, root.is_none(), STATE)?;
    Ok((fd, path))
}

/// As [`open_own`]; makes the directory where it is missing, in one that is there.
pub(crate) fn open_or_make_own(path: &Path, usual: bool, purpose: Purpose) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => {
            return Err(sys::Error::new("mkdir", format!("{path:?}, 0700"), e))
                .doing(|| format!("cannot make the {} {path:?}", purpose.name))
                .map_err(|e| {
                    e.step(purpose.step)
                        .hint(format!("choose another one with {} DIR", purpose.option))
                });
        }
    }
    open_store(path, usual).map_err(|e| e.explain(path, purpose))
}

pub(super) fn open_store(path: &Path, usual: bool) -> std::result::Result<OwnedFd, Problem> {
    let (fd, mode) = open_checked(path, Whose::Ours)?;
    if !is_on(Defence::StateDirectory) {
        return Ok(fd);
    }
    if usual && mode & 0o077 != 0 {
        return Err(Problem::Shared { mode });
    }
    check_parents(&fd, usual)?;
    Ok(fd)
}

pub(crate) fn make_parents(parent: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|e| sys::Error::new("mkdir", format!("{parent:?}, 0700"), e))
        .doing(|| format!("cannot make the directory {parent:?}"))
}

/// Whether nobody but the caller and root could put something else in place of the directory or of one above it. Where
/// others share directories, the sticky bit keeps them from that. `owners`: it matters, too, whose they are.
pub(super) fn check_parents(fd: &OwnedFd, owners: bool) -> std::result::Result<(), Problem> {
    /// More directories than a path of 4096 bytes has.
    const DEEPEST: usize = 2048;
    let error = |e| Problem::Sys(sys::Error::new("fstatat", "\"..\"", e));
    let mut below = rustix::fs::fstat(fd).map_err(error)?;
    let mut path = String::from("..");
    for _ in 0..DEEPEST {
        let stat = match rustix::fs::statat(fd, &path, AtFlags::empty()) {
            Ok(stat) => stat,
            // Above a directory that this process is in, but could not enter: not hers to say.
            Err(rustix::io::Errno::ACCESS) => return Ok(()),
            Err(e) => return Err(error(e)),
        };
        if (stat.st_dev, stat.st_ino) == (below.st_dev, below.st_ino) {
            return Ok(());
        }
        let mode = stat.st_mode & 0o7777;
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            return Err(Problem::Parent { path, mode });
        }
        if owners && !is_trusted(stat.st_uid) {
            let owner = stat.st_uid;
            return Err(Problem::ParentOwner { path, owner });
        }
        path.push_str("/..");
        below = stat;
    }
    Ok(())
}

/// The caller or root; in a user namespace also the number that stands for everybody who has none there, as root then.
fn is_trusted(owner: u32) -> bool {
    /// /proc/sys/kernel/overflowuid, which nobody changes.
    const OVERFLOW: u32 = 65_534;
    let some_unmapped = || {
        !host::own_uid_map()
            .iter()
            .any(|line| line.count == u32::MAX)
    };
    owner == sys::cred::uid() || owner == 0 || (owner == OVERFLOW && some_unmapped())
}

pub(super) enum Problem {
    Sys(sys::Error),
    Owner { owner: u32, uid: u32 },
    Writable { mode: u32 },
    Shared { mode: u32 },
    Parent { path: String, mode: u32 },
    ParentOwner { path: String, owner: u32 },
}

impl Problem {
    pub(super) fn explain(&self, path: &Path, purpose: Purpose) -> Error {
        let Purpose { name, option, step } = purpose;
        let error = Error::new(format!("cannot use {path:?} as the {name}")).step(step);
        let error = match self {
            Self::Sys(cause) if cause.is(libc::ELOOP) || cause.is(libc::ENOTDIR) => {
                error.because("it is a symbolic link or not a directory")
            }
            Self::Sys(cause) => error.because_of(cause),
            Self::Owner { owner, uid } => {
                error.because(format!("it belongs to uid {owner}, not to {uid}"))
            }
            Self::Writable { mode } => {
                error.because(format!("others may write to it (mode {mode:04o})"))
            }
            Self::Shared { mode } => error
                .because(format!("others may look into it (mode {mode:04o})"))
                .hint(format!("if it is yours: chmod 700 {}", path.display())),
            Self::Parent { path: up, mode } => error.because(format!(
                "others may put another one in its place: {:?} has mode {mode:04o}, without the sticky bit",
                path.join(up)
            )),
            Self::ParentOwner { path: up, owner } => error.because(format!(
                "uid {owner}, whose {:?} is, may put another one in its place",
                path.join(up)
            )),
        };
        // Whose it is, and who may change it, is the cause.
        let error = match (self, step) {
            (Self::Sys(_), _) => error,
            (_, Step::State) => error.code("LDG-STATE-PLACE"),
            _ => error,
        };
        error.hint(format!(
            "use {option} DIR with a directory that only you can write to"
        ))
    }
}

/// Whose a directory may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    Anybody,
}

/// The directory and its mode.
pub(super) fn open_checked(
    path: &Path,
    whose: Whose,
) -> std::result::Result<(OwnedFd, u32), Problem> {
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !is_on(Defence::StateDirectory) {
        flags.remove(OFlags::NOFOLLOW);
    }
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| Problem::Sys(sys::Error::new("openat", format!("{path:?}"), e)))?;
    let stat = rustix::fs::fstat(&fd)
        .map_err(|e| Problem::Sys(sys::Error::new("fstat", format!("{path:?}"), e)))?;
    let mode = stat.st_mode & 0o7777;
    if is_on(Defence::StateDirectory) {
        let uid = match whose {
            Whose::Ours => sys::cred::uid(),
            Whose::Anybody => stat.st_uid,
        };
        check(stat.st_uid, mode, uid)?;
    }
    Ok((fd, mode))
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
