//! Trees of files: measured, and listed to be compared later.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, RawMode, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::directory_flags;
use crate::image::{Digest, Hasher, remove};
use crate::sys::{Error, Result};

/// A time of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanoseconds: u64,
}

/// A tree of files as it was found. What files contain is not looked at: that would be to read all of them again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The sum of the sha256 of each entry: path, type, mode, owner, links, size, device, time of modification, target, and extended
    /// attributes. A sum needs no order, and so no memory for the names.
    pub sum: [u64; 4],
    /// How many entries, the root directory not counted.
    pub entries: u64,
    /// The bytes of all regular files, each counted once.
    pub bytes: u64,
    /// The earliest time of change (st_ctime) of an entry.
    pub earliest: Moment,
    /// The latest time of change. One that is later now was changed since, whatever its time of modification says.
    pub latest: Moment,
}

impl Listing {
    /// The digest of the sum: it stands for what is listed, and for the contents where those were looked at.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::sha256();
        for lane in self.sum {
            hasher.update(&lane.to_be_bytes());
        }
        hasher.finish()
    }
}

/// The names in a directory, without `.` and `..`; those that are no UTF-8 are none of the store's.
pub(super) fn names(directory: impl AsFd) -> Result<Vec<String>> {
    let error = |e| Error::new("getdents64", "fd", e);
    let mut names = Vec::new();
    for item in Dir::read_from(directory).map_err(error)? {
        let item = item.map_err(error)?;
        let name = item.file_name();
        if let (false, Ok(name)) = (is_dots(name), name.to_str()) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// A directory on the way down.
struct Level {
    fd: OwnedFd,
    items: Dir,
    name: CString,
}

impl Level {
    fn open(parent: &OwnedFd, name: &CStr) -> Result<Self> {
        let fd = rustix::fs::openat(parent, name, directory_flags(), Mode::empty())
            .map_err(|e| Error::new("openat", format!("{name:?}, O_DIRECTORY|O_NOFOLLOW"), e))?;
        let items =
            Dir::read_from(&fd).map_err(|e| Error::new("openat", format!("{name:?}"), e))?;
        Ok(Self {
            fd,
            items,
            name: name.to_owned(),
        })
    }

    fn next(&mut self) -> Result<Option<(CString, FileType)>> {
        loop {
            let Some(item) = self.items.read() else {
                return Ok(None);
            };
            let item = item.map_err(|e| Error::new("getdents64", format!("{:?}", self.name), e))?;
            if !is_dots(item.file_name()) {
                return Ok(Some((item.file_name().to_owned(), item.file_type())));
            }
        }
    }
}

/// Removes all that is in a directory, and leaves it itself.
pub(super) fn clear(directory: &OwnedFd) -> Result<()> {
    for name in names(directory)? {
        remove::tree(directory, OsStr::new(&name))?;
    }
    Ok(())
}

/// How many bytes of the disk the file or the tree `name` has, as far as this process may look.
pub(super) fn usage(parent: &OwnedFd, name: &str) -> u64 {
    let blocks = |parent: &OwnedFd, name: &CStr| {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        stat.map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    };
    let Ok(name) = CString::new(name) else {
        return 0;
    };
    let mut bytes = blocks(parent, &name);
    let mut levels: Vec<Level> = Level::open(parent, &name).into_iter().collect();
    while let Some(level) = levels.last_mut() {
        let Ok(Some((name, kind))) = level.next() else {
            levels.pop();
            continue;
        };
        bytes += blocks(&level.fd, &name);
        if kind == FileType::Directory {
            let below = Level::open(&level.fd, &name);
            levels.extend(below);
        }
    }
    bytes
}

/// Lists the tree beneath `root`. `contents`: the digest of what each file contains is part of the sum.
pub fn list(root: &OwnedFd, contents: bool) -> Result<Listing> {
    let never = |seconds| Moment {
        seconds,
        nanoseconds: 0,
    };
    let mut lister = Lister {
        listing: Listing {
            sum: [0; 4],
            entries: 0,
            bytes: 0,
            earliest: never(i64::MAX),
            latest: never(i64::MIN),
        },
        contents,
        buffer: vec![0; 64 << 10],
    };
    let mut path = Vec::new();
    lister.add(root, c".", b".")?;
    lister.listing.entries = 0;
    let mut levels = vec![Level::open(root, c".")?];
    while let Some(level) = levels.last_mut() {
        let Some((name, _)) = level.next()? else {
            let done = levels.pop().map_or(0, |level| level.name.to_bytes().len());
            path.truncate(path.len().saturating_sub(done + 1));
            continue;
        };
        let length = path.len();
        path.extend_from_slice(name.to_bytes());
        if lister.add(&level.fd, &name, &path)? == FileType::Directory {
            let below = Level::open(&level.fd, &name)?;
            path.push(b'/');
            levels.push(below);
        } else {
            path.truncate(length);
        }
    }
    Ok(lister.listing)
}

struct Lister {
    listing: Listing,
    contents: bool,
    buffer: Vec<u8>,
}

impl Lister {
    fn add(&mut self, parent: &OwnedFd, name: &CStr, path: &[u8]) -> Result<FileType> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Error::new("fstatat", format!("{name:?}"), e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut hasher = Hasher::sha256();
        field(&mut hasher, path);
        numbers(&mut hasher, &stat, kind);
        if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(parent, name, Vec::new())
                .map_err(|e| Error::new("readlinkat", format!("{name:?}"), e))?;
            field(&mut hasher, target.to_bytes());
        }
        self.attributes(&mut hasher, parent, name)?;
        if kind == FileType::RegularFile {
            // Each of n links counts for an n-th.
            let share = i128::from(stat.st_size) / i128::from(stat.st_nlink).max(1);
            self.listing.bytes += u64::try_from(share).unwrap_or(0);
            if self.contents {
                field(&mut hasher, self.content(parent, name)?.hex().as_bytes());
            }
        }
        self.count(&stat, &hasher.finish());
        Ok(kind)
    }

    fn count(&mut self, stat: &Stat, digest: &Digest) {
        let listing = &mut self.listing;
        listing.entries += 1;
        for (lane, digits) in listing
            .sum
            .iter_mut()
            .zip(digest.hex().as_bytes().chunks(16))
        {
            let digits = str::from_utf8(digits).unwrap_or_default();
            let number = u64::from_str_radix(digits, 16).unwrap_or_default();
            *lane = lane.wrapping_add(number);
        }
        let changed = Moment {
            seconds: stat.st_ctime,
            nanoseconds: stat.st_ctime_nsec,
        };
        listing.earliest = listing.earliest.min(changed);
        listing.latest = listing.latest.max(changed);
    }

    /// Extended attributes by name, through /proc, where no file need be opened for it (a FIFO, a device, a link cannot be). Labels of
    /// the host's security module are not the layer's.
    fn attributes(&mut self, hasher: &mut Hasher, parent: &OwnedFd, name: &CStr) -> Result<()> {
        let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        let count = match rustix::fs::llistxattr(path.as_slice(), &mut self.buffer[..]) {
            Ok(count) => count,
            Err(Errno::NOTSUP) => 0,
            Err(e) => return Err(Error::new("llistxattr", format!("{name:?}"), e)),
        };
        if count == 0 {
            return Ok(());
        }
        let list = self.buffer[..count].to_vec();
        let mut attributes: Vec<&[u8]> = list
            .split(|byte| *byte == 0)
            .filter(|attribute| {
                !attribute.is_empty()
                    && (!attribute.starts_with(b"security.")
                        || *attribute == b"security.capability")
            })
            .collect();
        attributes.sort_unstable();
        for attribute in attributes {
            let length = rustix::fs::lgetxattr(path.as_slice(), attribute, &mut self.buffer[..])
                .map_err(|e| Error::new("lgetxattr", format!("{name:?}"), e))?;
            field(hasher, attribute);
            field(hasher, &self.buffer[..length]);
        }
        Ok(())
    }

    fn content(&mut self, parent: &OwnedFd, name: &CStr) -> Result<Digest> {
        use rustix::fs::OFlags;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::empty())
            .map_err(|e| Error::new("openat", format!("{name:?}, O_RDONLY|O_NOFOLLOW"), e))?;
        let mut hasher = Hasher::sha256();
        loop {
            match rustix::io::read(&file, &mut self.buffer[..]) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(count) => hasher.update(&self.buffer[..count]),
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::new("read", format!("{name:?}"), e)),
            }
        }
    }
}

/// The numbers of an entry. Sizes and links of directories are the filesystem's own affair.
fn numbers(hasher: &mut Hasher, stat: &Stat, kind: FileType) {
    let mode: RawMode = stat.st_mode;
    let directory = kind == FileType::Directory;
    let size = if kind == FileType::RegularFile {
        stat.st_size
    } else {
        0
    };
    let links = if directory { 1 } else { stat.st_nlink };
    for number in [
        i128::from(mode),
        i128::from(stat.st_uid),
        i128::from(stat.st_gid),
        i128::from(size),
        i128::from(links),
        i128::from(stat.st_rdev),
        i128::from(stat.st_mtime),
        i128::from(stat.st_mtime_nsec),
    ] {
        hasher.update(&number.to_le_bytes());
    }
}

/// Adds bytes after their number, so that no two lists of fields look alike.
fn field(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
