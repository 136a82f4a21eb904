//! Trees copied: the layers of an image into one directory, where there can be no overlay; and a root filesystem that is a directory
//! already, which becomes a layer.
//!
//! Both are one walk over a merged tree ([`Merged`]), which follows no link; what is made is made anew (O_EXCL), in directories that
//! are opened beneath the destination. Nobody else may be at work in either tree. The process must have power over all the ids
//! concerned: it is in the outer user namespace.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};

use super::merged::{Found, Merged, duplicate};
use super::{Names, Owners};
use crate::error::{Doing, Error, Result};
use crate::sys;

mod attributes;
mod content;
#[cfg(test)]
mod tests;

use attributes::Taken;

/// How many fds the directories on the way may have together.
const OPEN: usize = 400;

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// How many files, directories and whatever else.
    pub files: u64,
    /// The bytes of the regular files, holes included.
    pub bytes: u64,
    /// Whether all files that have content share it with the original (ioctl_ficlone(2)), so that no room was needed.
    pub reflinked: bool,
    /// Devices, which became empty files.
    pub devices: Names,
    /// Sockets, which were left out: nobody would answer.
    pub sockets: Names,
    /// Files whose owner is not the original's.
    pub squashed: u64,
    /// Files with extended attributes that could not be kept.
    pub without_xattrs: Names,
}

/// Copies what `layers`, topmost first, are together into the empty directory `destination`: owners, modes, times, extended
/// attributes but for overlayfs's own, hard links.
///
/// # Errors
/// What the kernel answers, with the file's name. What was copied until then stays there.
pub fn layers(layers: &[OwnedFd], destination: &OwnedFd) -> Result<Copied> {
    let merged = stack(layers)?;
    Copier::new(&merged, destination, None).copy()
}

/// As [`layers`], where all becomes the caller's, `uid` and `gid`: for layers in another user's store, whose ids she does not have.
///
/// # Errors
/// As those of [`layers`].
pub fn layers_squashed(
    layers: &[OwnedFd],
    destination: &OwnedFd,
    uid: u32,
    gid: u32,
) -> Result<Copied> {
    let owners = Owners::Squashed { uid, gid };
    let merged = stack(layers)?;
    Copier::new(&merged, destination, Some(&owners)).copy()
}

fn stack(layers: &[OwnedFd]) -> Result<Merged> {
    let fds: sys::Result<Vec<OwnedFd>> = layers.iter().map(|fd| duplicate(fd.as_fd())).collect();
    Ok(Merged::new(
        fds.doing(|| "cannot stack the layers".to_owned())?,
    ))
}

/// Copies the directory `source` into the empty directory `destination`, to be a layer. What belongs to one of the ids that `owners`
/// gives to containers still does; if all is to be the caller's, it is hers, and counted.
///
/// # Errors
/// A file belongs to another id; what the kernel answers, with the file's name. What was copied until then stays there.
pub fn copy_tree(source: &OwnedFd, destination: &OwnedFd, owners: &Owners) -> Result<Copied> {
    let fd = duplicate(source.as_fd()).doing(|| "cannot open the directory".to_owned())?;
    let merged = Merged::new(vec![fd]);
    Copier::new(&merged, destination, Some(owners)).copy()
}

struct Copier<'a> {
    merged: &'a Merged,
    destination: &'a OwnedFd,
    /// Whose the files become, unless that is whose they are.
    owners: Option<&'a Owners>,
    copied: Copied,
    content: content::Copier,
    /// The directory whose files are being copied.
    directory: Rc<Path>,
    /// Where a file is that has more names: by device and inode.
    links: HashMap<(u64, u64), First>,
}

/// The first name of a file that has more.
struct First {
    /// There may be very many files in a directory with a very long path.
    directory: Rc<Path>,
    name: Box<OsStr>,
    /// How many names are to come.
    more: u64,
}

/// A directory whose content is being copied.
struct Frame {
    path: PathBuf,
    /// Itself; closed where very many are open, and looked up again.
    directory: Option<Found>,
    stat: Stat,
    xattrs: Vec<(OsString, Vec<u8>)>,
    /// The directories in it that are to come.
    todo: std::vec::IntoIter<OsString>,
}

impl<'a> Copier<'a> {
    fn new(merged: &'a Merged, destination: &'a OwnedFd, owners: Option<&'a Owners>) -> Self {
        Self {
            merged,
            destination,
            owners,
            copied: Copied::default(),
            content: content::Copier::default(),
            directory: Path::new("").into(),
            links: HashMap::new(),
        }
    }

    fn copy(mut self) -> Result<Copied> {
        // Each has an fd a layer.
        let open = (OPEN / (self.merged.depth() + 3)).max(2);
        let mut frames: Vec<Frame> = Vec::new();
        if let Some(root) = self.merged.root()? {
            frames.push(self.enter(root)?);
        }
        while let Some(frame) = frames.last_mut() {
            if let Some(name) = frame.todo.next() {
                let went_away = || {
                    let path = frame.path.join(&name);
                    Error::new(cannot_copy(&path)).because("it went away meanwhile")
                };
                let directory = match frame.directory.take() {
                    Some(directory) => directory,
                    None => self
                        .merged
                        .lookup(&frame.path, false)?
                        .ok_or_else(went_away)?,
                };
                let child = self
                    .merged
                    .child(&directory, &name)?
                    .ok_or_else(went_away)?;
                frame.directory = Some(directory);
                let next = self.enter(child)?;
                frames.push(next);
                if let Some(upper) = frames.len().checked_sub(open + 1) {
                    frames[upper].directory = None;
                }
            } else if let Some(frame) = frames.pop() {
                self.leave(&frame).doing(|| cannot_copy(&frame.path))?;
            }
        }
        self.copied.reflinked = self.content.all_shared();
        Ok(self.copied)
    }

    /// Copies all of a directory but the directories in it, which are made.
    fn enter(&mut self, directory: Found) -> Result<Frame> {
        let path = directory.path.clone();
        let to = self.open(&path).doing(|| cannot_copy(&path))?;
        let from = self.open_original(&directory)?;
        self.directory = path.as_path().into();
        let mut todo = Vec::new();
        for name in self.merged.list(&directory)? {
            // A whiteout, which hides nothing else.
            let Some(found) = self.merged.child(&directory, &name)? else {
                continue;
            };
            if found.is_directory() {
                rustix::fs::mkdirat(&to, &name, Mode::RWXU)
                    .map_err(|e| sys::Error::new("mkdirat", format!("{name:?}, 0700"), e))
                    .doing(|| cannot_copy(&found.path))?;
                todo.push(name);
            } else {
                self.copy_file(&found, &to, &name)?;
            }
        }
        self.check_owner(&directory)?;
        let xattrs = attributes::read(&from, self.taken()).doing(|| cannot_copy(&path))?;
        if xattrs.incomplete {
            self.copied.without_xattrs.add(bytes(&path));
        }
        Ok(Frame {
            path,
            stat: directory.stat,
            xattrs: xattrs.list,
            todo: todo.into_iter(),
            directory: Some(directory),
        })
    }

    /// Gives a directory what it must not have before its content: a mode that forbids writing, default ACLs, times.
    fn leave(&mut self, frame: &Frame) -> sys::Result<()> {
        let to = self.open(&frame.path)?;
        self.give(&to, &frame.path, &frame.stat, &frame.xattrs)?;
        self.copied.files += 1;
        Ok(())
    }

    fn copy_file(&mut self, found: &Found, to: &OwnedFd, name: &OsStr) -> Result<()> {
        self.check_owner(found)?;
        let cannot = || cannot_copy(&found.path);
        match found.kind() {
            FileType::Socket => {
                self.copied.sockets.add(bytes(&found.path));
                return Ok(());
            }
            _ if self.link(found, to, name).doing(cannot)? => {}
            FileType::RegularFile => {
                let from = self.open_original(found)?;
                self.copy_regular(found, &from, to, name).doing(cannot)?;
            }
            FileType::Symlink => {
                let target = found.target().doing(cannot)?;
                rustix::fs::symlinkat(&target, to, name)
                    .map_err(|e| sys::Error::new("symlinkat", format!("{target:?}, {name:?}"), e))
                    .and_then(|()| self.give_itself(to, name, &found.stat))
                    .doing(cannot)?;
            }
            FileType::Fifo => {
                sys::path::make_fifo(to, name, found.stat.st_mode & 0o7777)
                    .and_then(|_| self.give_itself(to, name, &found.stat))
                    .doing(cannot)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                self.copied.devices.add(bytes(&found.path));
                create(to, name)
                    .and_then(|file| self.give(&file, &found.path, &found.stat, &[]))
                    .doing(cannot)?;
            }
            kind => {
                return Err(Error::new(cannot()).because(format!("it is a {kind:?}")));
            }
        }
        self.copied.files += 1;
        Ok(())
    }

    fn copy_regular(
        &mut self,
        found: &Found,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &OsStr,
    ) -> sys::Result<()> {
        let file = create(to, name)?;
        let size = u64::try_from(found.stat.st_size).unwrap_or_default();
        let sparse = found.stat.st_blocks * 512 < found.stat.st_size;
        self.content.copy(from, &file, size, sparse)?;
        self.copied.bytes += size;
        let xattrs = attributes::read(from, self.taken())?;
        if xattrs.incomplete {
            self.copied.without_xattrs.add(bytes(&found.path));
        }
        self.give(&file, &found.path, &found.stat, &xattrs.list)
    }

    /// Makes `name` another name of a file that was copied already; false if it was not.
    fn link(&mut self, found: &Found, to: &OwnedFd, name: &OsStr) -> sys::Result<bool> {
        let stat = &found.stat;
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let key = (stat.st_dev, stat.st_ino);
        let Some(first) = self.links.get_mut(&key) else {
            #[allow(
                clippy::useless_conversion,
                reason = "the type is another on other machines"
            )]
            let more = u64::from(stat.st_nlink) - 1;
            let first = First {
                directory: Rc::clone(&self.directory),
                name: name.into(),
                more,
            };
            self.links.insert(key, first);
            return Ok(false);
        };
        first.more -= 1;
        let (directory, first_name) = (Rc::clone(&first.directory), first.name.clone());
        if first.more == 0 {
            self.links.remove(&key);
        }
        let there = self.open(&directory)?;
        rustix::fs::linkat(&there, &*first_name, to, name, AtFlags::empty()).map_err(|e| {
            let first = directory.join(&*first_name);
            sys::Error::new("linkat", format!("{first:?}, {name:?}"), e)
        })?;
        Ok(true)
    }

    fn taken(&self) -> Taken {
        match self.owners {
            None => Taken::All,
            Some(_) => Taken::Harmless,
        }
    }

    /// Refuses a file that would be nobody's in a container.
    fn check_owner(&self, found: &Found) -> Result<()> {
        let Some(Owners::Mapped { uid_map, gid_map }) = self.owners else {
            return Ok(());
        };
        let (uid, gid) = (found.stat.st_uid, found.stat.st_gid);
        let within = |map: &[crate::plan::IdMapping], id: u32| {
            map.iter()
                .any(|line| id >= line.host_id && id - line.host_id < line.size)
        };
        if within(uid_map, uid) && within(gid_map, gid) {
            return Ok(());
        }
        Err(Error::new(cannot_copy(&found.path))
            .because(format!(
                "it belongs to {uid}:{gid}, which is neither you nor one of your subordinate ids"
            ))
            .hint("--squash-owners makes everything yours; or make the directory in a user namespace of yours, as mmdebstrap does"))
    }

    /// Gives the new file its owner, and then all that changing the owner would take away.
    fn give(
        &mut self,
        file: &OwnedFd,
        path: &Path,
        stat: &Stat,
        xattrs: &[(OsString, Vec<u8>)],
    ) -> sys::Result<()> {
        if let Some((uid, gid)) = self.owner(stat) {
            sys::path::change_owner(file, uid, gid)?;
        }
        let mode = stat.st_mode & 0o7777;
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
            .map_err(|e| sys::Error::new("fchmod", format!("fd, {mode:o}"), e))?;
        if !attributes::write(file, xattrs)? {
            self.copied.without_xattrs.add(bytes(path));
        }
        rustix::fs::futimens(file, &attributes::times(stat))
            .map_err(|e| sys::Error::new("futimens", "fd", e))
    }

    /// As [`Self::give`], for what has no mode or got it when it was made, and cannot be opened.
    fn give_itself(&mut self, to: &OwnedFd, name: &OsStr, stat: &Stat) -> sys::Result<()> {
        if let Some((uid, gid)) = self.owner(stat) {
            sys::path::change_owner(sys::path::open_itself(to, name)?, uid, gid)?;
        }
        rustix::fs::utimensat(
            to,
            name,
            &attributes::times(stat),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|e| sys::Error::new("utimensat", format!("{name:?}"), e))
    }

    /// The owner that must be given, if any.
    fn owner(&mut self, stat: &Stat) -> Option<(u32, u32)> {
        let owner = (stat.st_uid, stat.st_gid);
        match self.owners {
            Some(Owners::Squashed { uid, gid }) => {
                self.copied.squashed += u64::from(owner != (*uid, *gid));
                None
            }
            _ => Some(owner),
        }
    }

    /// Opens what is to be copied.
    fn open_original(&self, found: &Found) -> Result<OwnedFd> {
        found.open().map_err(|cause| {
            let denied = self.owners.is_some() && cause.is(libc::EACCES);
            let error = Error::new(cannot_copy(&found.path)).because(cause);
            if denied {
                error.hint("only its owner may read it: let it be readable, or import the image from an archive")
            } else {
                error
            }
        })
    }

    /// Opens a directory of the copy.
    fn open(&self, path: &Path) -> sys::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        sys::path::open_beneath(self.destination, path, flags, resolve)
    }
}

/// Makes an empty file.
fn create(directory: &OwnedFd, name: &OsStr) -> sys::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| sys::Error::new("openat", format!("{name:?}, O_CREAT|O_EXCL"), e))
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn cannot_copy(path: &Path) -> String {
    format!("cannot copy \"/{}\"", path.display())
}
