//! Where the state lives when nobody says where.
//!
//! The first of these places that can be written to: `$XDG_RUNTIME_DIR/lodger`, `/run/user/UID/lodger`, `/tmp/lodger-UID`,
//! `/var/tmp/lodger-UID`, `/dev/shm/lodger-UID`. The last is last as logind empties it of a user's files when she logs out
//! (`RemoveIPC=`, logind.conf(5)). Whoever only looks finds what is there by the same order; where the place that would be taken
//! now has nothing, the other places are looked at too, as another session may have had another one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::directory::{STATE, Whose, check_parents, open_checked, open_store};
use crate::doctor::Step;
use crate::error::{Error, Result};
use crate::plan::Note;
use crate::{host, sys};

/// Directories in which everybody may make one.
const SHARED: [&str; 3] = ["/tmp", "/var/tmp", EMPTIED];
/// The one that is emptied when its user logs out.
const EMPTIED: &str = "/dev/shm";

/// The first of the usual places that this caller may use.
///
/// # Errors
/// None can be written to.
pub(super) fn usual() -> Result<PathBuf> {
    let mut passed = Vec::new();
    for place in places() {
        match unwritable(&place) {
            None => return Ok(place),
            Some(why) => passed.push(format!("{place:?}: {why}")),
        }
    }
    let what = "cannot find a place for the state of containers";
    let error = passed.into_iter().fold(Error::new(what), Error::because);
    Err(error
        .step(Step::State)
        .code("LDG-STATE-PLACE")
        .hint("name a directory that only you can write to with --root DIR"))
}

/// Where the state is, or would be: at `root`, if somebody says so.
///
/// # Errors
/// Nobody says so, and none of the usual places can be written to.
pub(crate) fn of(root: Option<&Path>) -> Result<PathBuf> {
    root.map_or_else(usual, |root| Ok(root.to_owned()))
}

/// The usual places, other than `first`, that are there and safe.
pub(super) fn others(first: Option<&Path>) -> impl Iterator<Item = (OwnedFd, PathBuf)> {
    let places = places().filter(move |p| Some(p.as_path()) != first);
    places.filter_map(|place| Some((open_store(&place, true).ok()?, place)))
}

/// Whether what is in `place` may be gone when its user logs out.
pub(crate) fn is_passing(place: &Path) -> bool {
    place.starts_with(EMPTIED)
}

/// What there is to say of a place that loses what is in it earlier than others.
pub(super) fn note(place: &Path) -> Option<Note> {
    is_passing(place).then(|| {
        Note::new(
            "--root",
            format!(
                "the state is kept in {place:?}, as the usual places cannot be written to; when you log out it may be emptied \
                 (RemoveIPC=, logind.conf(5)), and the container is lost from view"
            ),
            "name another directory with --root DIR",
        )
        .code("LDG-STATE-PLACE")
    })
}

/// All of them, in their order; nothing is asked for a place that is not come to.
fn places() -> impl Iterator<Item = PathBuf> {
    let safe = session().filter_map(|directory| beneath_if_safe(&directory));
    safe.chain(std::iter::once_with(shared).flatten())
}

/// The session's directories, which are the caller's alone if all is in order.
fn session() -> impl Iterator<Item = PathBuf> {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let named = named.filter(|path| path.is_absolute());
    let usual = std::iter::once_with(|| PathBuf::from(format!("/run/user/{}", host_uid())));
    named.into_iter().chain(usual)
}

fn shared() -> impl Iterator<Item = PathBuf> {
    let uid = host_uid();
    SHARED
        .iter()
        .map(move |directory| PathBuf::from(format!("{directory}/lodger-{uid}")))
}

fn beneath_if_safe(parent: &Path) -> Option<PathBuf> {
    let checked = open_checked(parent, Whose::Ours).and_then(|(fd, _)| check_parents(&fd, true));
    match checked {
        Ok(()) => Some(parent.join("lodger")),
        Err(problem) => {
            let why = problem.explain(parent, STATE);
            tracing::debug!("no state in {parent:?}: {}", why.message());
            None
        }
    }
}

/// Why nothing can be made in `place`, or the place itself not. What is wrong with one that is there is not asked: whoever
/// prepares one of these could prepare the next as well, and is to be seen.
fn unwritable(place: &Path) -> Option<sys::Error> {
    let access = |path: &Path| {
        rustix::fs::accessat(
            CWD,
            path,
            Access::WRITE_OK | Access::EXEC_OK,
            AtFlags::empty(),
        )
        .map_err(|e| sys::Error::new("faccessat", format!("{path:?}, W_OK|X_OK"), e))
    };
    match access(place) {
        Err(error) if error.is(libc::EROFS) => Some(error),
        Err(error) if error.is(libc::ENOENT) => access(place.parent()?).err(),
        _ => None,
    }
}

/// The caller's uid as the parent of her user namespace numbers it: 0 in a namespace of hers is still she.
fn host_uid() -> u32 {
    let uid = sys::cred::uid();
    host::host_uid(uid, &host::own_uid_map()).unwrap_or(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_passed_over_only_where_nothing_can_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for (place, writable) in [
            (path.to_owned(), true),
            (path.join("new"), true),
            (path.join("missing/new"), false),
        ] {
            let why = unwritable(&place);
            assert_eq!(why.is_none(), writable, "{place:?}: {why:?}");
        }
    }

    #[test]
    fn what_is_emptied_at_logout_is_said() {
        assert!(note(Path::new("/dev/shm/lodger-7")).is_some());
        assert_eq!(note(Path::new("/var/tmp/lodger-7")), None);
        assert_eq!(note(Path::new("/dev/shmlodger-7")), None);
    }
}
