//! The directories that are used: home, the store of images, the state of containers.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::image::probe::name_of;
use crate::image::store;
use crate::{state, sys};

/// Filesystems of the network: files of other ids, attributes and locks are the server's to allow.
const NETWORK: [&str; 9] = [
    "NFS", "Lustre", "GPFS", "BeeGFS", "Ceph", "CIFS", "SMB", "9p", "AFS",
];

/// A directory that is there or is to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// The directory itself, or the nearest above it that is there: all else is said of this one.
    pub nearest: PathBuf,
    /// Whose that is.
    pub owner: u32,
    /// Its mode.
    pub mode: u32,
    /// The error number with which the kernel refuses to have something made in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refuses: Option<i32>,
    /// Its kind of filesystem.
    pub filesystem: String,
    /// Whether that is one of the network's.
    pub is_remote: bool,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Whether it is mounted noexec.
    pub noexec: bool,
    /// The bytes that are left to the caller; `None`: the filesystem does not count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// The inodes that are left; `None`: the filesystem does not count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_inodes: Option<u64>,
}

/// The usual place of the store, where it cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// The code of the cause.
    pub code: String,
    /// The place, and why it cannot be used.
    pub why: String,
}

/// All three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Places {
    /// `$HOME`; `None`: it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<Place>,
    /// The store of images; `None`: nothing says where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Place>,
    /// Why the store is not in its usual place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<Passed>,
    /// The state of containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Place>,
    /// Why the state cannot be kept in its usual place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_state: Option<String>,
    /// Whether it is kept where it may be emptied when the caller logs out, as nothing better was found.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub passing_state: bool,
}

/// Whose turn it is while all are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// `$HOME`.
    Home,
    /// The store of images.
    Store,
    /// The state of containers.
    State,
    /// All were read.
    Done,
}

impl Places {
    /// Looks at all three; `store` and `root` are those that were named.
    pub(super) fn read(store: Option<&Path>, root: Option<&Path>) -> Self {
        Self::read_in_turns(store, root, |_| ())
    }

    /// As [`Self::read`]; `tell` is told what comes next.
    pub(in crate::doctor) fn read_in_turns(
        store: Option<&Path>,
        root: Option<&Path>,
        tell: impl Fn(Turn),
    ) -> Self {
        tell(Turn::Home);
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let home = home.filter(|path| path.is_absolute());
        let home = home.map(|path| Place::read(&path));
        tell(Turn::Store);
        let (store, passed) = match store::Place::find(store) {
            Ok(place) => (Some(place.path.clone()), Passed::of(&place)),
            Err(error) => (None, Passed::of_all(&error)),
        };
        let store = store.map(|path| Place::read(&path));
        tell(Turn::State);
        let state = state::place::of(root);
        let passing_state = root.is_none()
            && state
                .as_ref()
                .is_ok_and(|place| state::place::is_passing(place));
        let opened = match &state {
            Ok(_) => state::Store::open(root).err(),
            Err(none) => Some(none.clone()),
        };
        let state = state.ok().map(|path| Place::read(&path));
        let cannot_make = state.as_ref().and_then(|place| {
            place.refuses.map(|errno| {
                sys::Error::new("mkdir", format!("{:?}, 0700", place.path), errno).to_string()
            })
        });
        Self {
            home,
            store,
            passed,
            passing_state,
            no_state: opened.map(|error| error.message()).or(cannot_make),
            state,
        }
    }
}

impl Passed {
    fn of(place: &store::Place) -> Option<Self> {
        let (first, why) = place.passed.as_ref()?;
        Some(Self {
            code: why.code().to_owned(),
            why: format!("{first:?}: {}", why.describe()),
        })
    }

    /// Where there is no other place either.
    fn of_all(error: &Error) -> Option<Self> {
        Some(Self {
            code: error.cause_code()?.to_owned(),
            why: error.cause()?,
        })
    }
}

impl Place {
    /// Looks at `path`, or what is nearest to it.
    pub fn read(path: &Path) -> Self {
        let there = |path: &&Path| std::fs::metadata(path).is_ok_and(|found| found.is_dir());
        let nearest = path.ancestors().find(there).unwrap_or(Path::new("/"));
        let metadata = std::fs::metadata(nearest).ok();
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        let refuses = rustix::fs::accessat(CWD, nearest, wanted, AtFlags::EACCESS);
        let filesystem = rustix::fs::statfs(nearest).map(|found| name_of(found.f_type));
        let filesystem = filesystem.unwrap_or_default();
        let mut place = Self {
            path: path.to_owned(),
            nearest: nearest.to_owned(),
            owner: metadata.as_ref().map_or(0, MetadataExt::uid),
            mode: metadata.as_ref().map_or(0, |found| found.mode() & 0o7777),
            refuses: refuses.err().map(rustix::io::Errno::raw_os_error),
            is_remote: NETWORK.contains(&filesystem.as_str()),
            filesystem,
            ..Self::default()
        };
        if let Ok(found) = rustix::fs::statvfs(nearest) {
            place.read_only = found.f_flag.contains(StatVfsMountFlags::RDONLY);
            place.noexec = found.f_flag.contains(StatVfsMountFlags::NOEXEC);
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            place.free_bytes = (found.f_blocks > 0).then_some(free);
            place.free_inodes = (found.f_files > 0).then_some(found.f_favail);
        }
        place
    }

    /// Whether the directory itself is there.
    pub fn is_there(&self) -> bool {
        self.path == self.nearest
    }
}

/// The first directory on the way to `path`, from `/` on, that keeps ids out that are neither its owner nor in its group, with its
/// mode; `None`: all can come there.
pub fn reach(path: &Path) -> Option<(PathBuf, u32)> {
    let whole = path.canonicalize();
    let path = whole.as_deref().unwrap_or(path);
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    above.into_iter().find_map(|directory| {
        let found = std::fs::metadata(directory).ok()?;
        let mode = found.mode() & 0o7777;
        (found.is_dir() && mode & 0o001 == 0).then(|| (directory.to_owned(), mode))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a tree to look at is made")]
    fn the_first_directory_that_keeps_others_out() {
        // Others get there, whatever TMPDIR is.
        let place = tempfile::tempdir_in("/var/tmp").unwrap();
        let inner = place.path().join("open/closed/deep");
        std::fs::create_dir_all(&inner).unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(place.path(), 0o711);
        set(&place.path().join("open"), 0o755);
        set(&place.path().join("open/closed"), 0o750);
        let (found, mode) = reach(&inner.join("not there")).unwrap();
        assert_eq!((found, mode), (place.path().join("open/closed"), 0o750));
        assert_eq!(reach(Path::new("/")), None);
    }

    #[test]
    fn a_place_that_is_not_there_is_told_by_what_is_nearest() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::read(&directory.path().join("a/b"));
        assert_eq!(place.nearest, directory.path());
        assert!(!place.is_there() && place.refuses.is_none(), "{place:?}");
        assert_eq!(Place::read(directory.path()).owner, sys::cred::uid());
        assert_eq!(
            Place::read(Path::new("/proc/none")).nearest,
            Path::new("/proc")
        );
    }
}
