//! Layers seen as one tree, as the kernel's overlay shows it (Documentation/filesystems/overlayfs.rst, `userxattr`).
//!
//! Every name is opened itself, without following (O_PATH|O_NOFOLLOW), and symbolic links are followed here, with the
//! merged tree as their root: nothing in a layer leads out of it. The layers must not change meanwhile.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Doing, Result};
use crate::sys;

/// The extended attribute of a directory that hides those below (`userxattr`).
pub const OPAQUE: &str = "user.overlay.opaque";

/// Symbolic links on one path, as the kernel has it (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Names on one path, those in links included, and those on the way to what `..` means. A path has 4096 bytes at most, and so has
/// each link.
const MOST_STEPS: usize = 4096;

/// What the names of one directory may need together, in bytes.
const MOST_NAMES: usize = 16 << 20;

/// A stack of layers.
#[derive(Debug)]
pub struct Merged {
    layers: Vec<OwnedFd>,
}

/// A file of the merged tree.
#[derive(Debug)]
pub struct Found {
    /// The layer that it is of, 0 for the topmost; of a merged directory, the topmost of its layers.
    pub layer: usize,
    /// Its path without links, relative to the root; empty for the root.
    pub path: PathBuf,
    /// What it is, of that layer.
    pub stat: Stat,
    fd: OwnedFd,
    /// Of a directory: what it consists of, topmost first, beginning with a second fd of `fd`.
    parts: Vec<Part>,
    /// The directory of `layer` that it is in; the root is in itself.
    parent: OwnedFd,
}

/// The directory of one layer.
#[derive(Debug)]
struct Part {
    layer: usize,
    fd: OwnedFd,
}

impl Found {
    /// An O_PATH fd of the file itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What kind of file it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Opens the file, which may be a directory, for reading; never through a link, and without waiting.
    pub fn open(&self) -> sys::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let name = self.path.file_name().unwrap_or(OsStr::new("."));
        open_at(&self.parent, name, flags)
    }

    /// The target of the symbolic link.
    pub fn target(&self) -> sys::Result<OsString> {
        let target = rustix::fs::readlinkat(&self.fd, "", Vec::new())
            .map_err(|e| sys::Error::new("readlinkat", format!("{:?}", self.path), e))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// The layers that the directory consists of, topmost first; of other files the one that has it.
    pub fn layers(&self) -> Vec<usize> {
        match &*self.parts {
            [] => vec![self.layer],
            parts => parts.iter().map(|part| part.layer).collect(),
        }
    }
}

impl super::config::ImageFiles for Merged {
    fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>> {
        Self::read(self, path, limit)
    }
}

impl Merged {
    /// The tree of `layers`, topmost first, each an fd of its root directory.
    pub fn new(layers: Vec<OwnedFd>) -> Self {
        Self { layers }
    }

    /// How many layers there are.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The same tree with `top` upon it.
    ///
    /// # Errors
    /// No more fds.
    pub fn below(&self, top: impl AsFd) -> Result<Self> {
        let fds = std::iter::once(top.as_fd()).chain(self.layers.iter().map(AsFd::as_fd));
        let layers: sys::Result<_> = fds.map(duplicate).collect();
        Ok(Self::new(layers.doing(|| "cannot stack layers".into())?))
    }

    /// The root directory; `None` when there is no layer.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn root(&self) -> Result<Option<Found>> {
        self.start().doing(|| "cannot open the layers".into())
    }

    /// Resolves `path`, absolute or relative to the root; links on the way are followed, the last one where `follow` says so.
    /// `None` where nothing has that path, or what is on the way is no directory.
    ///
    /// # Errors
    /// More than 40 links, or links with too many names (ELOOP), and what the kernel answers otherwise.
    pub fn lookup(&self, path: &Path, follow: bool) -> Result<Option<Found>> {
        self.resolve(Path::new(""), path, follow)
    }

    /// As [`Self::lookup`], with relative paths beginning in `from`, which has no links in it.
    ///
    /// # Errors
    /// As those of [`Self::lookup`].
    pub fn resolve(&self, from: &Path, path: &Path, follow: bool) -> Result<Option<Found>> {
        self.walk(from, path, follow)
            .doing(|| format!("cannot look up {path:?} in the image"))
    }

    /// The content of the regular file `path`, links followed, if there is one.
    ///
    /// # Errors
    /// It is no regular file, has more than `limit` bytes, or cannot be read.
    pub fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>> {
        let Some(found) = self.lookup(path, true)? else {
            return Ok(None);
        };
        found
            .open()
            .and_then(|fd| sys::path::read_limited(fd, path, limit))
            .map(Some)
            .doing(|| format!("cannot read {path:?} of the image"))
    }

    /// The names in the directory `directory`, sorted, without `.` and `..`.
    ///
    /// # Errors
    /// The names need more than 16 MiB, and what the kernel answers.
    pub fn list(&self, directory: &Found) -> Result<Vec<OsString>> {
        self.names(directory)
            .doing(|| format!("cannot list {:?} of the image", directory.path))
    }

    /// As [`Self::list`]; ENOMEM when it is too much.
    pub(super) fn names(&self, directory: &Found) -> sys::Result<Vec<OsString>> {
        let mut names = BTreeMap::new();
        let mut bytes = 0;
        for part in &directory.parts {
            read_names(&part.fd, &mut names, &mut bytes)?;
        }
        let shown = names.into_iter().filter(|(_, hidden)| !hidden);
        Ok(shown.map(|(name, _)| name).collect())
    }

    /// The file `name` of `directory`, itself.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn child(&self, directory: &Found, name: &OsStr) -> Result<Option<Found>> {
        child(&directory.parts, &directory.path, name).doing(|| {
            format!(
                "cannot look up {name:?} in {:?} of the image",
                directory.path
            )
        })
    }

    /// As [`Self::lookup`] for a path whose last name is not followed.
    pub(super) fn find(&self, path: &Path) -> sys::Result<Option<Found>> {
        self.walk(Path::new(""), path, false)
    }

    /// As [`Self::resolve`], links followed.
    pub(super) fn find_from(&self, from: &Path, path: &Path) -> sys::Result<Option<Found>> {
        self.walk(from, path, true)
    }

    /// As [`Self::child`].
    pub(super) fn find_child(&self, directory: &Found, name: &OsStr) -> sys::Result<Option<Found>> {
        child(&directory.parts, &directory.path, name)
    }

    /// As [`Self::child`], without what the topmost layer has of it.
    pub(super) fn find_below_top(
        &self,
        directory: &Found,
        name: &OsStr,
    ) -> sys::Result<Option<Found>> {
        let parts = directory.parts.as_slice();
        let below = parts.iter().position(|part| part.layer > 0);
        let below = below.map_or(&[][..], |first| &parts[first..]);
        child(below, &directory.path, name)
    }

    /// The root, without what the topmost layer has of it.
    pub(super) fn root_below_top(&self) -> sys::Result<Option<Found>> {
        let mut parts = self.root_parts()?;
        parts.drain(..parts.len().min(1));
        root_of(parts)
    }

    fn root_parts(&self) -> sys::Result<Vec<Part>> {
        let part =
            |(layer, fd): (usize, &OwnedFd)| duplicate(fd.as_fd()).map(|fd| Part { layer, fd });
        self.layers.iter().enumerate().map(part).collect()
    }

    fn walk(&self, from: &Path, path: &Path, follow: bool) -> sys::Result<Option<Found>> {
        let Some(mut here) = self.start()? else {
            return Ok(None);
        };
        let mut todo: Vec<OsString> = Vec::new();
        push_names(&mut todo, path.as_os_str());
        if !path.has_root() {
            push_names(&mut todo, from.as_os_str());
        }
        let (mut links, mut steps) = (0, 0);
        while let Some(name) = todo.pop() {
            steps += 1;
            if !here.is_directory() {
                return Ok(None);
            }
            if name == ".." {
                // The way there begins at the root.
                steps += here.path.iter().count();
                if steps > MOST_STEPS {
                    return Err(sys::Error::new("openat", format!("{path:?}"), Errno::LOOP));
                }
                let Some(upper) = self.parent_of(&here.path)? else {
                    return Ok(None);
                };
                here = upper;
                continue;
            }
            let Some(found) = child(&here.parts, &here.path, &name)? else {
                return Ok(None);
            };
            if found.kind() != FileType::Symlink || (todo.is_empty() && !follow) {
                here = found;
                continue;
            }
            links += 1;
            if links > MOST_LINKS || steps > MOST_STEPS {
                return Err(sys::Error::new("openat", format!("{path:?}"), Errno::LOOP));
            }
            let target = found.target()?;
            if target.as_bytes().starts_with(b"/") {
                let Some(root) = self.start()? else {
                    return Ok(None);
                };
                here = root;
            }
            push_names(&mut todo, &target);
        }
        Ok(Some(here))
    }

    fn start(&self) -> sys::Result<Option<Found>> {
        root_of(self.root_parts()?)
    }

    /// The directory above `path`, which has no links in it; that of the root is the root.
    fn parent_of(&self, path: &Path) -> sys::Result<Option<Found>> {
        let Some(mut here) = self.start()? else {
            return Ok(None);
        };
        for name in path.parent().unwrap_or(Path::new("")) {
            match child(&here.parts, &here.path, name)? {
                Some(found) => here = found,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }
}

/// The root directory that consists of `parts`.
fn root_of(parts: Vec<Part>) -> sys::Result<Option<Found>> {
    let Some(first) = parts.first() else {
        return Ok(None);
    };
    let (fd, parent) = (duplicate(first.fd.as_fd())?, duplicate(first.fd.as_fd())?);
    Ok(Some(Found {
        layer: first.layer,
        path: PathBuf::new(),
        stat: stat_of(&fd)?,
        fd,
        parts,
        parent,
    }))
}

/// Puts the names of `path` on the stack, the first on top.
fn push_names(todo: &mut Vec<OsString>, path: &OsStr) {
    let names = path.as_bytes().rsplit(|&byte| byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    todo.extend(names.map(|name| OsStr::from_bytes(name).to_owned()));
}

/// What the directory that consists of `parts` has by the name `name`.
fn child(parts: &[Part], path: &Path, name: &OsStr) -> sys::Result<Option<Found>> {
    let mut found: Option<Found> = None;
    for (index, part) in parts.iter().enumerate() {
        let Some(fd) = open_itself(&part.fd, name)? else {
            continue;
        };
        let stat = stat_of(&fd)?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_whiteout(&stat) || (found.is_some() && !directory) {
            break;
        }
        let last = !directory || index + 1 == parts.len() || is_opaque(&part.fd, name)?;
        let here = match &mut found {
            Some(found) => found,
            None => found.insert(Found {
                layer: part.layer,
                path: path.join(name),
                stat,
                fd: duplicate(fd.as_fd())?,
                parts: Vec::new(),
                parent: duplicate(part.fd.as_fd())?,
            }),
        };
        if directory {
            let layer = part.layer;
            here.parts.push(Part { layer, fd });
        }
        if last {
            break;
        }
    }
    Ok(found)
}

/// Adds the names of a directory to `names`, with whether they are hidden, unless a layer further up has them.
fn read_names(
    directory: &OwnedFd,
    names: &mut BTreeMap<OsString, bool>,
    bytes: &mut usize,
) -> sys::Result<()> {
    /// What a name needs besides its bytes.
    const EACH: usize = 48;
    let error = |e| sys::Error::new("getdents64", "fd", e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let directory = open_at(directory, OsStr::new("."), flags)?;
    for entry in Dir::read_from(&directory).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." || names.contains_key(name) {
            continue;
        }
        *bytes += name.len() + EACH;
        if *bytes > MOST_NAMES {
            let args = "fd /* the names need more than 16 MiB */";
            return Err(sys::Error::new("getdents64", args, Errno::NOMEM));
        }
        let may_hide = matches!(
            entry.file_type(),
            FileType::CharacterDevice | FileType::Unknown
        );
        let hidden = may_hide
            && match open_itself(&directory, name)? {
                Some(fd) => is_whiteout(&stat_of(&fd)?),
                None => true,
            };
        names.insert(name.to_owned(), hidden);
    }
    Ok(())
}

/// Whether `stat` is that of a whiteout: character device 0:0.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether the directory `name` of `parent` hides those below.
pub(super) fn is_opaque(parent: &OwnedFd, name: &OsStr) -> sys::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let fd = open_at(parent, name, flags)?;
    let mut value = [0; 2];
    match rustix::fs::fgetxattr(&fd, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(e) => Err(sys::Error::new(
            "fgetxattr",
            format!("{name:?}, {OPAQUE}"),
            e,
        )),
    }
}

/// Opens the file itself, if there is one.
fn open_itself(directory: &OwnedFd, name: &OsStr) -> sys::Result<Option<OwnedFd>> {
    match open_at(directory, name, OFlags::PATH | OFlags::NOFOLLOW) {
        Err(error) if error.is(libc::ENOENT) || error.is(libc::ENAMETOOLONG) => Ok(None),
        opened => opened.map(Some),
    }
}

pub(super) fn open_at(directory: impl AsFd, name: &OsStr, flags: OFlags) -> sys::Result<OwnedFd> {
    rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{name:?}, {flags:?}"), e))
}

pub(super) fn stat_of(fd: impl AsFd) -> sys::Result<Stat> {
    rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH).map_err(|e| sys::Error::new("fstat", "fd", e))
}

pub(super) fn duplicate(fd: BorrowedFd<'_>) -> sys::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
        .map_err(|e| sys::Error::new("fcntl", "F_DUPFD_CLOEXEC", e))
}

#[cfg(test)]
#[path = "merged_tests.rs"]
mod tests;
