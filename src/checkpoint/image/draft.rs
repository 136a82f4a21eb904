//! The directory that a checkpoint is written into: whole at every instant, whoever is killed when.
//!
//! CRIU writes into DIR/.new. [`Draft::commit`] makes DIR the new checkpoint, each step one system call:
//!
//! 1. .new/lodger.json is written, with the names of all images;
//! 2. the lodger.json of an earlier checkpoint, and then its images, move to .new/earlier;
//! 3. the images move from .new to DIR;
//! 4. .new/lodger.json moves to DIR.
//!
//! As long as .new has a lodger.json the commit is not done, and is undone in the opposite order by whoever comes next
//! ([`undo`]): then DIR is the earlier checkpoint again, and the container, which waits for the commit, goes on.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{File, MANIFEST, MAX_MANIFEST, Manifest, PARENT, is_image_name};
use crate::error::{Doing, Error, Result};
use crate::{image, state, sys};

/// Where CRIU writes, in DIR.
const NEW: &str = ".new";

/// Where an earlier checkpoint waits, in [`NEW`].
const EARLIER: &str = "earlier";

/// What the manifest is called until it is whole.
const UNFINISHED: &str = "lodger.json.draft";

/// The file that is locked where a directory cannot be.
const LOCK: &str = ".lock";

/// CRIU's log.
pub const LOG: &str = "dump.log";

/// A directory that is becoming a checkpoint. Locked (flock(2)) for as long as it is kept, also by children that have inherited it;
/// only where the filesystem has no locks at all are two checkpoints into one directory not kept apart.
///
/// Nothing happens when it is dropped, as a child may drop it, too: what is neither committed nor abandoned is removed by the next
/// checkpoint into the directory.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    directory: OwnedFd,
    new: OwnedFd,
    /// Whether the directory was not there before.
    is_made: bool,
    /// Whether the last step of the commit was begun.
    is_committed: bool,
    _lock: Option<OwnedFd>,
}

impl Draft {
    /// Makes `path`, with the directories above it, or takes one that is the caller's. The directory is hers alone afterwards (mode
    /// 0700). What a killed checkpoint has left there is removed, an earlier checkpoint is not.
    ///
    /// # Errors
    /// It is somebody else's, or no directory; another checkpoint is being made there; there are images that are no checkpoint of
    /// lodger's.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("cannot make a checkpoint in {path:?}");
        // Without a slash at its end, which would have a link followed.
        let path = path.components().as_path();
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            state::make_parents(parent).map_err(|e| e.within(what()))?;
        }
        let is_made = match rustix::fs::mkdirat(CWD, path, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => {
                return Err(sys::Error::new("mkdir", format!("{path:?}, 0700"), e)).doing(what);
            }
        };
        let opened = Self::open_at(path, is_made);
        if opened.is_err() && is_made {
            let _it_is_empty = rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR);
        }
        opened
    }

    fn open_at(path: &Path, is_made: bool) -> Result<Self> {
        let what = || format!("cannot make a checkpoint in {path:?}");
        let (directory, mode) = open_own(path).map_err(|e| e.within(what()))?;
        let lock = lock(&directory, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| e.within(what()))?;
        if mode != 0o700 {
            rustix::fs::fchmod(&directory, Mode::RWXU)
                .map_err(|e| sys::Error::new("fchmod", format!("{path:?}, 0700"), e))
                .doing(what)?;
        }
        undo(&directory).map_err(|e| e.within(what()))?;
        refuse_others(&directory).map_err(|e| e.within(what()))?;
        rustix::fs::mkdirat(&directory, NEW, Mode::RWXU)
            .map_err(|e| sys::Error::new("mkdirat", format!("{NEW:?}, 0700"), e))
            .doing(what)?;
        let new = sys::path::open_directory(&directory, NEW).doing(what)?;
        Ok(Self {
            path: path.to_owned(),
            directory,
            new,
            is_made,
            is_committed: false,
            _lock: lock,
        })
    }

    /// The directory that CRIU writes into.
    pub fn new_files(&self) -> BorrowedFd<'_> {
        self.new.as_fd()
    }

    /// Its path.
    pub fn new_path(&self) -> PathBuf {
        self.path.join(NEW)
    }

    /// Makes it the checkpoint: to be called when CRIU has written all images, and the container's processes still stand still.
    /// `files` is what [`super::Follower::finish`] returned.
    ///
    /// With `to_disk` all of it has reached the disk afterwards. Without, as with CRIU itself, a power failure within the next half
    /// minute may lose it; its digests tell, then.
    ///
    /// # Errors
    /// After any, [`Draft::abandon`] brings the earlier checkpoint back.
    pub fn commit(
        &mut self,
        mut manifest: Manifest,
        files: BTreeMap<String, File>,
        to_disk: bool,
    ) -> Result<()> {
        let path = self.path.clone();
        let what = || format!("cannot complete the checkpoint in {path:?}");
        manifest.files = files;
        let content = serde_json::to_vec_pretty(&manifest)
            .map_err(|e| Error::new(what()).because(format!("{MANIFEST}: {e}")))?;
        if content.len() > MAX_MANIFEST {
            return Err(Error::new(what()).because(format!("{MANIFEST} would be too large")));
        }
        self.require_all(&manifest).map_err(|e| e.within(what()))?;
        let sync = if to_disk {
            sync_file
        } else {
            |_: &OwnedFd, _: &str| Ok(())
        };
        let mut names = manifest.files.keys();
        names
            .try_for_each(|name| sync(&self.new, name))
            .doing(what)?;
        if to_disk && manifest.parent.is_some() {
            // What it is made of may have been left to the kernel.
            rustix::fs::syncfs(&self.new)
                .map_err(|e| sys::Error::new("syncfs", "images", e))
                .doing(what)?;
        }
        let earlier = self.earlier().map_err(|e| e.within(what()))?;
        let new: Vec<&str> = manifest.entries().collect();
        self.write_manifest(&content).doing(what)?;
        sync(&self.new, MANIFEST)
            .and_then(|()| sync(&self.new, "."))
            .and_then(|()| self.replace(earlier.as_ref(), &new))
            .and_then(|()| sync(&self.directory, "."))
            .and_then(|()| sync(&self.new, "."))
            .doing(what)
    }

    /// Ends what [`Draft::commit`] has done, when CRIU has ended: what it wrote meanwhile, logs and statistics, is in the directory
    /// afterwards, and nothing else but the checkpoint.
    pub fn finish(self) -> Result<()> {
        let what = || format!("cannot tidy up the checkpoint in {:?}", self.path);
        for name in sys::path::names(&self.new).doing(what)? {
            if name.ends_with(".img") {
                return Err(Error::new(what())
                    .because(format!("CRIU has written {name:?} after it said that all was written"))
                    .hint("the checkpoint may lack something: make another one, if the container still runs"));
            }
            if is_regular(&self.new, &name) {
                move_over(&self.new, &self.directory, &name).doing(what)?;
            }
        }
        image::remove::tree(&self.directory, OsStr::new(NEW)).doing(what)
    }

    /// Leaves nothing of it but CRIU's log, if there is one in the directory that it wrote into; an earlier checkpoint is as it was.
    /// Also after a commit: but only if the container is known to live, as else there were neither.
    pub fn abandon(self) -> Result<()> {
        let what = || {
            format!(
                "cannot tidy up {:?} after the checkpoint that failed",
                self.path
            )
        };
        if is_regular(&self.new, LOG) {
            move_over(&self.new, &self.directory, LOG).doing(what)?;
        }
        if self.is_committed && !is_there(&self.new, MANIFEST) {
            move_to(&self.directory, &self.new, MANIFEST).doing(what)?;
        }
        undo(&self.directory).map_err(|e| e.within(what()))?;
        if self.is_made {
            let _there_may_be_a_log = rustix::fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR);
        }
        Ok(())
    }

    /// What was hashed is what is there.
    fn require_all(&self, manifest: &Manifest) -> Result<()> {
        let there = images(&self.new)?;
        let odd = there.iter().find(|n| !manifest.files.contains_key(*n));
        let missing = manifest.files.keys().find(|n| !there.contains(*n));
        let has_parent = is_there(&self.new, PARENT);
        let parent = (has_parent != manifest.parent.is_some()).then(|| PARENT.to_owned());
        match odd.or(missing).or(parent.as_ref()) {
            None => Ok(()),
            Some(name) => Err(Error::new(format!("{name:?} has come or gone meanwhile"))
                .hint("let nobody else write into the directory")),
        }
    }

    /// The checkpoint that is in the directory.
    fn earlier(&self) -> Result<Option<Manifest>> {
        manifest_in(&self.directory)
    }

    fn write_manifest(&self, content: &[u8]) -> sys::Result<()> {
        write_new(&self.new, UNFINISHED, content)?;
        rustix::fs::renameat(&self.new, UNFINISHED, &self.new, MANIFEST)
            .map_err(|e| sys::Error::new("renameat", format!("{UNFINISHED:?}, {MANIFEST:?}"), e))?;
        moment()
    }

    fn replace(&mut self, earlier: Option<&Manifest>, new: &[&str]) -> sys::Result<()> {
        if let Some(earlier) = earlier {
            rustix::fs::mkdirat(&self.new, EARLIER, Mode::RWXU)
                .map_err(|e| sys::Error::new("mkdirat", format!("{EARLIER:?}, 0700"), e))?;
            moment()?;
            let place = sys::path::open_directory(&self.new, EARLIER)?;
            move_to(&self.directory, &place, MANIFEST)?;
            for name in earlier.entries() {
                move_if_there(&self.directory, &place, name)?;
            }
        }
        for name in new {
            move_to(&self.new, &self.directory, name)?;
        }
        self.is_committed = true;
        move_to(&self.new, &self.directory, MANIFEST)
    }
}

/// Whether a commit was begun that is not done.
pub(super) fn is_unfinished(directory: &OwnedFd) -> bool {
    sys::path::open_directory(directory, NEW).is_ok_and(|new| is_there(new, MANIFEST))
}

/// Undoes what is left of a commit that is not done, and removes what is left of one that is. The directory must be locked.
///
/// # Errors
/// It cannot be told what is the earlier checkpoint's.
pub(super) fn undo(directory: &OwnedFd) -> Result<()> {
    let what = || "cannot remove what an earlier checkpoint has left".to_owned();
    let new = match sys::path::open_directory(directory, NEW) {
        Err(error) if error.is(libc::ENOENT) => return Ok(()),
        // A link, or a file.
        Err(error) if error.is(libc::ELOOP) || error.is(libc::ENOTDIR) => {
            return image::remove::tree(directory, OsStr::new(NEW)).doing(what);
        }
        opened => opened.doing(what)?,
    };
    // What is in somebody else's, made while the directory was open to others, tells nothing.
    let (owner, mode) = owner_and_mode(&new).doing(what)?;
    let is_own = owner == sys::cred::uid() && mode & 0o077 == 0;
    if is_own && let Some(unfinished) = manifest_in(&new)? {
        move_back(directory, &new, &unfinished).map_err(|e| e.within(what()))?;
        // From here on there is no commit to undo.
        rustix::fs::unlinkat(&new, MANIFEST, AtFlags::empty())
            .map_err(|e| sys::Error::new("unlinkat", format!("{MANIFEST:?}"), e))
            .doing(what)?;
        moment().doing(what)?;
    }
    image::remove::tree(directory, OsStr::new(NEW)).doing(what)
}

fn move_back(directory: &OwnedFd, new: &OwnedFd, unfinished: &Manifest) -> Result<()> {
    let what = || "cannot bring the earlier checkpoint back".to_owned();
    for name in unfinished.entries() {
        // One that is still here, or again, has not moved: the other is the earlier checkpoint's.
        if !is_there(new, name) {
            move_if_there(directory, new, name).doing(what)?;
        }
    }
    let place = match sys::path::open_directory(new, EARLIER) {
        Err(error) if error.is(libc::ENOENT) => return Ok(()),
        opened => opened.doing(what)?,
    };
    for name in images(&place)? {
        move_to(&place, directory, &name).doing(what)?;
    }
    move_if_there(&place, directory, PARENT).doing(what)?;
    move_if_there(&place, directory, MANIFEST).doing(what)
}

/// Opens the caller's directory at `path`; also its mode.
pub(super) fn open_own(path: &Path) -> Result<(OwnedFd, u32)> {
    let error = |e| sys::Error::new("openat", format!("{path:?}, O_DIRECTORY|O_NOFOLLOW"), e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let what = || format!("cannot use the directory {path:?}");
    let directory = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(Error::new(what())
                .because("it is a symbolic link, or no directory")
                .hint("name the directory itself with --image-path"));
        }
        opened => opened.map_err(error).doing(what)?,
    };
    let (owner, mode) = owner_and_mode(&directory).doing(what)?;
    let uid = sys::cred::uid();
    if owner != uid {
        return Err(Error::new(what())
            .because(format!("it belongs to uid {owner}, not to {uid}"))
            .hint("name a directory of yours with --image-path, or one that is not there yet"));
    }
    Ok((directory, mode))
}

fn owner_and_mode(fd: &OwnedFd) -> sys::Result<(u32, u32)> {
    let stat = rustix::fs::fstat(fd).map_err(|e| sys::Error::new("fstat", "directory", e))?;
    Ok((stat.st_uid, stat.st_mode & 0o7777))
}

/// Locks it, or says that somebody else has. Where the filesystem has no locks for directories (NFS), a file in it is locked, which
/// is returned; where it has none for files, nothing is.
pub(super) fn lock(directory: &OwnedFd, operation: FlockOperation) -> Result<Option<OwnedFd>> {
    match rustix::fs::flock(directory, operation) {
        Err(e) if is_without_locks(e) => lock_file(directory, operation),
        locked => explain(locked, operation).map(|()| None),
    }
}

fn lock_file(directory: &OwnedFd, operation: FlockOperation) -> Result<Option<OwnedFd>> {
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, LOCK, flags, Mode::RUSR | Mode::WUSR) {
        // Nobody makes a checkpoint there.
        Err(Errno::ROFS) => return Ok(None),
        opened => opened
            .map_err(|e| sys::Error::new("openat", format!("{LOCK:?}, O_CREAT"), e))
            .doing(|| "cannot lock the directory".to_owned())?,
    };
    match rustix::fs::flock(&file, operation) {
        Err(e) if is_without_locks(e) => Ok(None),
        locked => explain(locked, operation).map(|()| Some(file)),
    }
}

fn is_without_locks(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::BADF | Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL
    )
}

fn explain(locked: rustix::io::Result<()>, operation: FlockOperation) -> Result<()> {
    match locked {
        Err(Errno::AGAIN) => Err(Error::new("another lodger is at work in the directory")
            .hint("wait until it has ended, or name another directory with --image-path")),
        locked => locked
            .map_err(|e| sys::Error::new("flock", format!("directory, {operation:?}"), e))
            .doing(|| "cannot lock the directory".to_owned()),
    }
}

/// Images that no manifest tells of are somebody else's work.
fn refuse_others(directory: &OwnedFd) -> Result<()> {
    let known = manifest_in(directory)?;
    let is_known = |name: &str| {
        let mut entries = known.iter().flat_map(Manifest::entries);
        entries.any(|entry| entry == name)
    };
    let mut there = images(directory)?;
    there.extend(is_there(directory, PARENT).then(|| PARENT.to_owned()));
    match there.iter().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(Error::new(format!(
            "the directory has images that lodger has not made ({name:?})"
        ))
        .hint("remove them if nobody needs them, or name another directory with --image-path")),
    }
}

/// The manifest there, if there is one.
fn manifest_in(directory: &OwnedFd) -> Result<Option<Manifest>> {
    let what = || format!("the directory has a {MANIFEST} that cannot be read");
    let remedy = "if its checkpoint is not needed, remove the directory; else name another one with --image-path";
    let content =
        match sys::path::read_regular_beneath(directory, Path::new(MANIFEST), MAX_MANIFEST) {
            Err(error) if error.is(libc::ENOENT) => return Ok(None),
            read => read.doing(what).map_err(|e| e.hint(remedy))?,
        };
    let manifest: Manifest =
        serde_json::from_slice(&content).map_err(|e| Error::new(what()).because(e).hint(remedy))?;
    match manifest.files.keys().find(|name| !is_image_name(name)) {
        None => Ok(Some(manifest)),
        Some(name) => Err(Error::new(what())
            .because(format!("{name:?} is no name of an image"))
            .hint(remedy)),
    }
}

/// The names of the images in a directory.
pub(super) fn images(directory: impl AsFd) -> Result<BTreeSet<String>> {
    let names = sys::path::names(directory).doing(|| "cannot list the images".to_owned())?;
    Ok(names.into_iter().filter(|n| n.ends_with(".img")).collect())
}

pub(super) fn is_there(directory: impl AsFd, name: &str) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn is_regular(directory: impl AsFd, name: &str) -> bool {
    sys::path::open_itself(directory, OsStr::new(name))
        .is_ok_and(|file| sys::path::require_regular(file, Path::new(name)).is_ok())
}

fn move_over(from: impl AsFd, to: impl AsFd, name: &str) -> sys::Result<()> {
    rustix::fs::renameat(from, name, to, name)
        .map_err(|e| sys::Error::new("renameat", format!("{name:?}"), e))?;
    moment()
}

/// Nothing is replaced.
fn move_to(from: impl AsFd, to: impl AsFd, name: &str) -> sys::Result<()> {
    if is_there(&to, name) {
        return Err(sys::Error::new(
            "renameat",
            format!("{name:?}"),
            libc::EEXIST,
        ));
    }
    move_over(from, to, name)
}

fn move_if_there(from: impl AsFd, to: impl AsFd, name: &str) -> sys::Result<()> {
    match is_there(&from, name) {
        true => move_to(from, to, name),
        false => Ok(()),
    }
}

fn write_new(directory: &OwnedFd, name: &str, content: &[u8]) -> sys::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| sys::Error::new("openat", format!("{name:?}, O_CREAT|O_EXCL"), e))?;
    moment()?;
    sys::path::write_all(fd, content, Path::new(name))?;
    moment()
}

fn sync_file(directory: &OwnedFd, name: &str) -> sys::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{name:?}"), e))?;
    rustix::fs::fsync(&file).map_err(|e| sys::Error::new("fsync", format!("{name:?}"), e))
}

/// A moment at which it may be killed.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "tests let it end here")]
const fn moment() -> sys::Result<()> {
    Ok(())
}

#[cfg(test)]
use tests::moment;

#[cfg(test)]
#[path = "draft_tests.rs"]
mod tests;
