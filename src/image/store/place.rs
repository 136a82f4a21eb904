//! Where the store of images is when nobody says where.
//!
//! The first of these places that can be written to: `$XDG_DATA_HOME/lodger`, `$HOME/.local/share/lodger` (XDG Base Directory
//! Specification: a relative path counts as none), the same beneath the home of the caller's account, as a scheduler may give
//! another `$HOME`, and `/var/tmp/lodger-store-UID`. That one is not where anybody looks for images: it is told of.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::STORE;
use crate::error::{Error, Result};
use crate::plan::Note;
use crate::{host, sys};

/// What the store is called beneath a directory for data.
const NAME: &str = "lodger";

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its path, absolute.
    pub path: PathBuf,
    /// The first place that would have been taken, and why it was not; `None`: one of those is taken that are expected.
    pub passed: Option<(PathBuf, Unusable)>,
}

/// Why the store cannot be in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// There is no directory to make it in.
    Missing,
    /// The directory that it would be in belongs to somebody else.
    Foreign(u32),
    /// It cannot be looked at.
    Unreachable(sys::Error),
    /// Nothing can be made there.
    Readonly(sys::Error),
}

impl Place {
    /// The place that `named` says, or else the first of the usual ones.
    ///
    /// # Errors
    /// None can be written to.
    pub fn find(named: Option<&Path>) -> Result<Self> {
        if let Some(named) = named {
            return Ok(Self {
                path: named.to_owned(),
                passed: None,
            });
        }
        let absolute = |name| {
            let set = std::env::var_os(name).map(PathBuf::from);
            set.filter(|path| path.is_absolute())
        };
        let of_home = |home: PathBuf| home.join(".local/share").join(NAME);
        let data = absolute("XDG_DATA_HOME").map(|data| data.join(NAME));
        let home = absolute("HOME").map(of_home);
        let named = data.into_iter().chain(home);
        // Asked only where the others do not help.
        let account = std::iter::once_with(|| host::home().map(of_home)).flatten();
        first(named.chain(account))
    }

    /// What there is to say of where the store is.
    pub fn note(&self) -> Option<Note> {
        let (first, why) = self.passed.as_ref()?;
        let note = Note::new(
            "--store",
            format!(
                "images, and what containers write, are kept in {:?}, and that may be cleaned: {first:?} cannot be used: {}",
                self.path,
                why.describe()
            ),
            "name a directory with --store DIR, or with LODGER_STORE",
        );
        Some(note.code(why.code()))
    }
}

impl Unusable {
    /// The cause, a clause.
    pub fn describe(&self) -> String {
        match self {
            Self::Missing => "there is no such home".to_owned(),
            Self::Foreign(owner) => format!("it would be in a directory of uid {owner}"),
            Self::Unreachable(cause) | Self::Readonly(cause) => cause.to_string(),
        }
    }

    /// The code of the cause (see [`crate::doctor`]).
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "LDG-HOME-MISSING",
            Self::Foreign(_) | Self::Unreachable(_) => "LDG-HOME-FOREIGN",
            Self::Readonly(_) => "LDG-HOME-READONLY",
        }
    }
}

/// The first of `places` that can be used, or else one for everybody.
fn first(places: impl Iterator<Item = PathBuf>) -> Result<Place> {
    let mut passed: Option<(PathBuf, Unusable)> = None;
    for path in places {
        match unusable(&path) {
            None => return Ok(Place { path, passed: None }),
            Some(why) => {
                passed.get_or_insert((path, why));
            }
        }
    }
    let none = || (PathBuf::from("$HOME"), Unusable::Missing);
    let passed = passed.unwrap_or_else(none);
    let uid = host::host_uid(sys::cred::uid(), &host::own_uid_map());
    let uid = uid.unwrap_or_else(sys::cred::uid);
    let path = PathBuf::from(format!("/var/tmp/lodger-store-{uid}"));
    match unusable(&path) {
        None => Ok(Place {
            path,
            passed: Some(passed),
        }),
        Some(why) => Err(Error::new("cannot find a place for images")
            .because(format!("{:?}: {}", passed.0, passed.1.describe()))
            .because(format!("{path:?}: {}", why.describe()))
            .step(STORE.step)
            .code(passed.1.code())
            .hint("name a directory with --store DIR, or with LODGER_STORE")),
    }
}

/// Why the store cannot be at `path`: of the directories on the way to it the last that is there decides.
fn unusable(path: &Path) -> Option<Unusable> {
    for directory in path.ancestors() {
        let owner = match std::fs::metadata(directory) {
            Ok(found) => std::os::unix::fs::MetadataExt::uid(&found),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                let cause = sys::Error::new("stat", format!("{directory:?}"), error);
                return Some(Unusable::Unreachable(cause));
            }
        };
        let writable = rustix::fs::accessat(
            CWD,
            directory,
            Access::WRITE_OK | Access::EXEC_OK,
            AtFlags::empty(),
        );
        let shared = |owner: u32| owner == 0 || owner == sys::cred::uid();
        return match writable {
            // Root's may be shared by its group, as in some images.
            Ok(()) if shared(owner) => None,
            Ok(()) => Some(Unusable::Foreign(owner)),
            Err(_) if directory == Path::new("/") => Some(Unusable::Missing),
            Err(rustix::io::Errno::ACCESS) if owner != sys::cred::uid() => {
                Some(Unusable::Foreign(owner))
            }
            Err(e) => {
                let args = format!("{directory:?}, W_OK|X_OK");
                Some(Unusable::Readonly(sys::Error::new("faccessat", args, e)))
            }
        };
    }
    Some(Unusable::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_be_used_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home/.local/share/lodger");
        let missing = PathBuf::from("/nowhere/to/be/lodger");
        // No directory is on the way to it.
        let file = PathBuf::from("/dev/null/lodger");
        let taken = |places: &[&PathBuf]| first(places.iter().map(|p| (*p).clone())).unwrap();
        assert_eq!(taken(&[&home, &missing]).path, home);
        let second = taken(&[&file, &home]);
        assert_eq!((second.path, second.passed), (home, None));
        let last = taken(&[&file]);
        assert!(last.path.starts_with("/var/tmp"), "{last:?}");
        let note = last.note().unwrap();
        assert!(note.reason.contains("ENOTDIR"), "{note:?}");
        assert_eq!(note.code.as_deref(), Some("LDG-HOME-FOREIGN"));
        assert_eq!(taken(&[]).passed.unwrap().1, Unusable::Missing);
    }
}
