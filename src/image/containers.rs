//! What containers change of their images: one directory each, in the caller's own store.
//!
//! `containers/ID-NUMBER` goes when the container is deleted, `kept/ID` stays for the next container of that id. In it are
//! `container.json` (which container, of which layers: what `gc` goes by), `config.json` as in a bundle, `upper` and `work`, and
//! `base` with what an image lacks; or `rootfs`, a copy. The overlay is mounted upon the directory itself, for the container alone.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::merged::stat_of;
use crate::error::{Doing, Error, Result};
use crate::state::Store;
use crate::sys;
use crate::sys::path::open_directory;

/// Of containers whose changes go with them.
pub const PASSING: &str = "containers";
/// Of containers whose changes are kept.
pub const KEPT: &str = "kept";
/// The file that tells of the container.
pub const NOTE: &str = "container.json";
/// The file by which a directory stays when its container goes: a checkpoint needs it.
pub const CHECKPOINTED: &str = "checkpointed";
/// The most that is read of it, in bytes.
const NOTE_LIMIT: usize = 1 << 20;

/// What `container.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerNote {
    /// The container's id.
    pub id: String,
    /// The state directory that it is in.
    pub state: PathBuf,
    /// The name of its image when it was made.
    pub image: String,
    /// The digest of the image's manifest.
    pub manifest: String,
    /// The directories of its layers, by name in `layers/`, the bottom first.
    pub layers: Vec<String>,
}

/// The directory of one container, which this process holds by its lock.
#[derive(Debug)]
pub struct Writable {
    fd: OwnedFd,
    path: PathBuf,
    reused: bool,
}

impl Writable {
    /// Makes the directory of the container that `note` tells of, in the store that is open as `store` and lies at `path`. The
    /// caller holds the store's lock, so that no `gc` takes the directory for a leftover.
    ///
    /// # Errors
    /// The kernel's; with `keep`, that another container has the changes, or that they are of another image.
    pub fn make(store: &OwnedFd, path: &Path, note: &ContainerNote, keep: bool) -> Result<Self> {
        let what = || format!("cannot make the writable layer of container {:?}", note.id);
        let kind = if keep { KEPT } else { PASSING };
        make_directory(store, kind).doing(what)?;
        let parent = open_directory(store, kind).doing(what)?;
        let (name, reused) = name_of(&parent, &note.id, keep).doing(what)?;
        let this = Self {
            fd: open_directory(&parent, &name).doing(what)?,
            path: path.join(kind).join(&name),
            reused,
        };
        if !lock(&this.fd).doing(what)? {
            return Err(Error::new(what()).because(
                "another container is being made with the changes that are kept under this id",
            ));
        }
        if reused {
            this.check(note).map_err(|e| e.within(what()))?;
        }
        let text = serde_json::to_vec(note).map_err(|e| Error::new(what()).because(e))?;
        this.write(NOTE, &text)?;
        Ok(this)
    }

    /// Opens the directory at `path` of a container that has ended, for one that goes on with it under the id `id` in the state
    /// directory `state`; with what tells of it. `None`: it is no container's.
    ///
    /// # Errors
    /// The kernel's; that another container has it.
    pub fn reopen(
        path: &Path,
        (id, state): (&str, &Path),
    ) -> Result<Option<(Self, ContainerNote)>> {
        let what =
            || format!("cannot go on with what the container has changed of its image, {path:?}");
        let fd = open_directory(CWD, path).doing(what)?;
        let Some(note) = read_note(&fd, path)? else {
            return Ok(None);
        };
        let this = Self {
            fd,
            path: path.to_owned(),
            reused: true,
        };
        if !lock(&this.fd).doing(what)? || note.is_alive(&this.fd)? {
            return Err(Error::new(what())
                .because(format!(
                    "container {:?} in {:?} has it",
                    note.id, note.state
                ))
                .hint("delete it first"));
        }
        let note = ContainerNote {
            id: id.to_owned(),
            state: state.to_owned(),
            ..note
        };
        let text = serde_json::to_vec(&note).map_err(|e| Error::new(what()).because(e))?;
        this.write(NOTE, &text)?;
        Ok(Some((this, note)))
    }

    /// Whether the changes that are kept here may become those of the container that `note` tells of.
    fn check(&self, note: &ContainerNote) -> Result<()> {
        let Some(before) = read_note(&self.fd, &self.path)? else {
            return Ok(());
        };
        if before.is_alive(&self.fd)? {
            return Err(
                Error::new("a container has the changes that are kept under this id")
                    .because(format!("container {:?} in {:?}", before.id, before.state))
                    .hint("delete it first, or take another id"),
            );
        }
        if before.layers == note.layers {
            return Ok(());
        }
        Err(
            Error::new("the changes that are kept under this id are of another image")
                .because(format!("{:?}, {}", before.image, before.manifest))
                .hint(format!(
                    "take another id, or remove them: `lodger image remove --changes {}`",
                    note.id
                )),
        )
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory.
    pub fn directory(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether there are changes of an earlier container in it.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Makes the directory `name` in it, if it is not there; returns its path.
    pub fn make_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        make_directory(&self.fd, name).doing(|| format!("cannot make {path:?}"))?;
        Ok(path)
    }

    /// Whether `name` is in it.
    pub fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Writes the file `name` in it, or leaves what it was: of kept changes nobody would know which layers they are of.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let what = || format!("cannot write {:?}", self.path.join(name));
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let draft = format!("{name}.new");
        let fd = rustix::fs::openat(&self.fd, &draft, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| sys::Error::new("openat", format!("{draft:?}, O_CREAT"), e))
            .doing(what)?;
        sys::path::write_all(fd, content, Path::new(&draft)).doing(what)?;
        rustix::fs::renameat(&self.fd, &draft, &self.fd, name)
            .map_err(|e| sys::Error::new("renameat", format!("{draft:?}, {name:?}"), e))
            .doing(what)
    }
}

impl ContainerNote {
    /// Whether the container is there, and has `directory`: whatever the store was called when it was made.
    fn is_alive(&self, directory: &OwnedFd) -> Result<bool> {
        let Some(state) = Store::open(Some(&self.state))? else {
            return Ok(false);
        };
        let Some(entry) = state.find_if_there(&self.id)? else {
            return Ok(false);
        };
        let image = entry.record()?.and_then(|record| record.image);
        let Some(image) = image else {
            return Ok(false);
        };
        let what = || format!("cannot examine {:?}", image.directory);
        let ours = stat_of(directory).doing(what)?;
        match rustix::fs::statat(CWD, &image.directory, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok((stat.st_dev, stat.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(sys::Error::new("fstatat", "AT_FDCWD, path", e)).doing(what),
        }
    }
}

/// One directory of a container, as `gc` and `list` see it.
#[derive(Debug)]
pub struct Found {
    /// `containers` or `kept`.
    pub kind: &'static str,
    /// Its name there.
    pub name: String,
    /// Which container it is of; `None`: nobody wrote it down.
    pub note: Option<ContainerNote>,
    /// Whether a container has it, or is being made with it.
    pub is_used: bool,
    /// Whether it stays when its container goes.
    pub stays: bool,
}

/// Lets the directory of a container stay when that goes, for a checkpoint; whether it would not have stayed before.
///
/// # Errors
/// The kernel's.
pub fn pin(directory: &Path) -> Result<bool> {
    let what = || format!("cannot mark {directory:?} as needed by a checkpoint");
    let fd = open_directory(CWD, directory).doing(what)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::openat(&fd, CHECKPOINTED, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(sys::Error::new(
            "openat",
            format!("{CHECKPOINTED:?}, O_CREAT|O_EXCL"),
            e,
        ))
        .doing(what),
    }
}

/// Takes back what [`pin`] did.
///
/// # Errors
/// The kernel's.
pub fn unpin(directory: &Path) -> Result<()> {
    let path = directory.join(CHECKPOINTED);
    match rustix::fs::unlinkat(CWD, &path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(sys::Error::new("unlinkat", format!("{path:?}"), e))
            .doing(|| format!("cannot let {directory:?} go with its container")),
    }
}

/// Whether the directory of a container stays when that goes ([`pin`]).
pub fn is_pinned(directory: &Path) -> bool {
    rustix::fs::statat(CWD, directory.join(CHECKPOINTED), AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// All of them in the store that is open as `store` and lies at `path`.
///
/// # Errors
/// The kernel's. What cannot be found out of one of them makes it a used one.
pub fn all(store: &OwnedFd, path: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for kind in [PASSING, KEPT] {
        let what = || format!("cannot look into {:?}", path.join(kind));
        let parent = match open_directory(store, kind) {
            Err(error) if error.is(nix::libc::ENOENT) => continue,
            opened => opened.doing(what)?,
        };
        let mut names = sys::path::names(&parent).doing(what)?;
        names.sort();
        for name in names {
            let path = path.join(kind).join(&name);
            let Ok(fd) = open_directory(&parent, &name) else {
                continue;
            };
            let note = read_note(&fd, &path);
            let unlocked = lock(&fd).doing(what)?;
            let alive = match &note {
                Ok(Some(note)) => note.is_alive(&fd).unwrap_or(true),
                Ok(None) => false,
                Err(_) => true,
            };
            found.push(Found {
                kind,
                name,
                note: note.ok().flatten(),
                is_used: alive || !unlocked,
                stays: kind == KEPT || is_pinned(&path),
            });
        }
    }
    Ok(found)
}

/// Removes the directory of a container that has ended. It is no error when it is not there.
///
/// # Errors
/// EACCES or EPERM where files in it belong to ids that this process has no power over.
pub fn remove(path: &Path) -> sys::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(|e| sys::Error::new("openat", format!("{parent:?}"), e))?,
    };
    super::remove::tree(&parent, name)
}

/// A name for the directory of container `id`, which is there now, and whether it was before.
fn name_of(parent: &OwnedFd, id: &str, keep: bool) -> sys::Result<(String, bool)> {
    if keep {
        let made = make_directory(parent, id)?;
        return Ok((id.to_owned(), !made));
    }
    let mut number = 0_u64;
    loop {
        let name = format!("{id}-{number}");
        if make_directory(parent, &name)? {
            return Ok((name, false));
        }
        number += 1;
    }
}

/// Takes the directory's lock, if nobody has it; whether it was taken.
fn lock(directory: &OwnedFd) -> sys::Result<bool> {
    match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(sys::Error::new("flock", "directory, LOCK_EX|LOCK_NB", e)),
    }
}

fn read_note(directory: &OwnedFd, path: &Path) -> Result<Option<ContainerNote>> {
    let what = || format!("cannot read {:?}", path.join(NOTE));
    let text = match sys::path::read_regular_at(directory, Path::new(NOTE), NOTE_LIMIT) {
        Err(error) if error.is(nix::libc::ENOENT) => return Ok(None),
        read => read.doing(what)?,
    };
    // Whoever wrote it was killed on the way.
    Ok(serde_json::from_slice(&text).ok())
}

/// Whether it was made.
fn make_directory(parent: impl AsFd, name: &str) -> sys::Result<bool> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(sys::Error::new("mkdirat", format!("{name:?}, 0700"), e)),
    }
}
