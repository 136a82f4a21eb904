//! Where a bundle is made: beside its place, so that what is at its place is complete.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, Error, Result};
use crate::image::remove;
use crate::sys;
use crate::sys::path::open_directory;

/// What a bundle consists of.
pub(super) const ROOTFS: &str = "rootfs";
pub(super) const CONFIG: &str = "config.json";

/// The place of a bundle, where nothing is, or an empty directory.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// The directory that it is in, and its name there.
    parent: OwnedFd,
    name: OsString,
    /// The mode of the directory that is there.
    mode: Option<Mode>,
}

/// A bundle in the making.
#[derive(Debug)]
pub(super) struct Making {
    place: Place,
    /// What it is called in the parent until it is complete.
    hidden: OsString,
    directory: OwnedFd,
}

impl Place {
    /// Looks at `path`.
    pub(super) fn find(path: &Path) -> Result<Self> {
        let what = || cannot_make(path);
        let name = path
            .file_name()
            .ok_or_else(|| Error::new(what()).because("its last part is no name"))?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty())
            .map_err(|e| sys::Error::new("openat", format!("{parent:?}, O_DIRECTORY"), e))
            .doing(what)?;
        let mode = match open_directory(&parent, name) {
            Err(error) if error.is(libc::ENOENT) => None,
            opened => {
                let there = opened.doing(what)?;
                if !sys::path::names(&there).doing(what)?.is_empty() {
                    return Err(Error::new(format!("{path:?} is not empty"))
                        .hint("name a directory that is not there yet"));
                }
                let stat = stat(&there).doing(what)?;
                Some(Mode::from_raw_mode(stat.st_mode & 0o7777))
            }
        };
        Ok(Self {
            path: path.to_owned(),
            parent,
            name: name.to_owned(),
            mode,
        })
    }

    /// Makes the directory of the bundle beside its place. What one that was killed has left there is removed, for which this
    /// process must have power over its ids.
    pub(super) fn begin(self) -> Result<Making> {
        let what = || cannot_make(&self.path);
        let mut hidden = OsString::from(".");
        hidden.push(&self.name);
        hidden.push(".part");
        loop {
            match rustix::fs::mkdirat(&self.parent, &hidden, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => {
                    return Err(sys::Error::new("mkdirat", format!("{hidden:?}, 0700"), e))
                        .doing(what);
                }
            }
            let directory = open_directory(&self.parent, &hidden).doing(what)?;
            let of = stat(&directory).doing(what)?;
            if of.st_uid != sys::cred::uid() {
                return Err(
                    Error::new(what()).because(format!("{hidden:?} beside it is another user's"))
                );
            }
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::new(what()).because("another bundle is being made there"));
                }
                Err(e) => {
                    return Err(sys::Error::new("flock", "directory, LOCK_EX|LOCK_NB", e))
                        .doing(what);
                }
            }
            // Whoever had the lock before has given it its name, or removed it.
            match rustix::fs::statat(&self.parent, &hidden, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if (named.st_dev, named.st_ino) == (of.st_dev, of.st_ino) => {}
                _ => continue,
            }
            for part in [ROOTFS, CONFIG] {
                remove::tree(&directory, OsStr::new(part)).doing(what)?;
            }
            return Ok(Making {
                place: self,
                hidden,
                directory,
            });
        }
    }
}

impl Making {
    /// The directory.
    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// The place that it is for.
    pub(super) fn path(&self) -> &Path {
        &self.place.path
    }

    /// Gives the bundle its name.
    pub(super) fn finish(&self) -> Result<()> {
        let place = &self.place;
        let what = || cannot_make(&place.path);
        if let Some(mode) = place.mode {
            rustix::fs::fchmod(&self.directory, mode)
                .map_err(|e| sys::Error::new("fchmod", format!("{mode:?}"), e))
                .doing(what)?;
        }
        // Of directories it replaces empty ones alone (rename(2)).
        rustix::fs::renameat(&place.parent, &self.hidden, &place.parent, &place.name)
            .map_err(|e| sys::Error::new("renameat", format!("{:?}", place.name), e))
            .map_err(|cause| {
                Error::new(what())
                    .because(cause)
                    .hint("name a directory that is not there yet")
            })
    }

    /// Removes what was made; a second failure is part of the one error.
    pub(super) fn discard(self, error: Error) -> Error {
        match remove::tree(&self.place.parent, &self.hidden) {
            Ok(()) => error,
            Err(left) => error.hint(format!(
                "remove {:?}, of which something is left: {left}",
                self.place.path.with_file_name(&self.hidden)
            )),
        }
    }
}

fn cannot_make(path: &Path) -> String {
    format!("cannot make the directory {path:?}")
}

fn stat(directory: &OwnedFd) -> sys::Result<rustix::fs::Stat> {
    rustix::fs::fstat(directory).map_err(|e| sys::Error::new("fstat", "directory", e))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "directories to work on are made")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(path: &Path) -> Vec<OsString> {
        let entries = path.read_dir().unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn it_has_its_name_when_it_is_complete() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("b");
        for there in [false, true] {
            let making = Place::find(&path).unwrap().begin().unwrap();
            rustix::fs::mkdirat(making.directory(), ROOTFS, Mode::RWXU).unwrap();
            assert_eq!(path.exists(), there);
            making.finish().unwrap();
            assert_eq!(names(scratch.path()), ["b"]);
            assert_eq!(names(&path), [ROOTFS]);
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, if there { 0o750 } else { 0o700 });
            fs::remove_dir(path.join(ROOTFS)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        }
    }

    #[test]
    fn only_an_empty_directory_is_taken_and_a_failure_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("b");
        let making = Place::find(&path).unwrap().begin().unwrap();
        rustix::fs::mkdirat(making.directory(), ROOTFS, Mode::RWXU).unwrap();
        let error = Error::new("no");
        assert_eq!(making.discard(error.clone()), error);
        assert_eq!(names(scratch.path()), [""; 0]);

        // Somebody puts something there meanwhile.
        let making = Place::find(&path).unwrap().begin().unwrap();
        fs::create_dir_all(path.join("other")).unwrap();
        assert!(making.finish().is_err());
        making.discard(error);
        assert_eq!(names(&path), ["other"]);
        let error = Place::find(&path).map(drop).unwrap_err();
        assert!(error.message().contains("is not empty"), "{error}");
        for path in ["/", "..", "/nonexistent/a"] {
            assert!(Place::find(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(names(scratch.path()), ["b"]);
    }

    #[test]
    fn what_was_left_is_taken_over_unless_somebody_is_at_work() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("b");
        fs::create_dir_all(scratch.path().join(".b.part/rootfs/deep")).unwrap();
        let making = Place::find(&path).unwrap().begin().unwrap();
        assert_eq!(names(&scratch.path().join(".b.part")), [""; 0]);
        let error = Place::find(&path).unwrap().begin().map(drop).unwrap_err();
        assert!(error.message().contains("is being made there"), "{error}");
        making.finish().unwrap();
        std::os::unix::fs::symlink("/etc", scratch.path().join(".c.part")).unwrap();
        let place = Place::find(&scratch.path().join("c")).unwrap();
        assert!(place.begin().is_err());
    }
}
