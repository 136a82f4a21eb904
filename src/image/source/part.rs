//! A part of a file that holds a blob: the whole file of a layout, or a member of an archive.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::error::{Doing, Error, Result};
use crate::sys;

/// Neither waits for the writer of a FIFO, nor takes a terminal over.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// `length` bytes of a regular file from `start` on.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) file: Arc<File>,
    pub(super) start: u64,
    pub(super) length: u64,
    /// For messages.
    pub(super) name: String,
}

impl Part {
    /// The file at `path`, wherever it is.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = format!("{path:?}");
        let fd = rustix::fs::openat(CWD, path, READ, Mode::empty())
            .map_err(|e| sys::Error::new("openat", format!("{path:?}, O_RDONLY"), e))
            .doing(|| format!("cannot open {name}"))?;
        Self::whole(fd, name)
    }

    /// The file `name` beneath `directory`, on whose way is no symbolic link.
    pub(super) fn open_beneath(directory: &OwnedFd, name: &str) -> sys::Result<OwnedFd> {
        let links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let resolve = ResolveFlags::IN_ROOT | links;
        sys::path::open_beneath(directory, Path::new(name), READ, resolve)
    }

    /// All of the file that `fd` is open on, which must be a regular one.
    pub(super) fn whole(fd: OwnedFd, name: String) -> Result<Self> {
        let length = sys::path::require_regular(fd.as_fd(), Path::new(&name))
            .map_err(|error| Error::new(format!("{name} is not a regular file")).because(error))?;
        Ok(Self {
            file: Arc::new(File::from(fd)),
            start: 0,
            length,
            name,
        })
    }

    /// All of it, if that is not more than `limit` bytes.
    pub(super) fn read(&self, limit: usize) -> Result<Vec<u8>> {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        if length > limit {
            return Err(Error::new(format!(
                "{} has {length} bytes, and a document may have {limit}",
                self.name
            )));
        }
        let mut content = Vec::with_capacity(length);
        self.reader()
            .read_to_end(&mut content)
            .map_err(|error| Error::new(format!("cannot read {}", self.name)).because(error))?;
        if content.len() == length {
            return Ok(content);
        }
        Err(Error::new(format!("{} ends before its end", self.name)))
    }

    /// Its first bytes, six at most.
    pub(super) fn magic(&self) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        self.reader()
            .take(6)
            .read_to_end(&mut content)
            .map_err(|error| Error::new(format!("cannot read {}", self.name)).because(error))?;
        Ok(content)
    }

    /// Reads it from its beginning; whoever else reads the file is not disturbed.
    pub(super) fn reader(&self) -> PartReader {
        self.from(0)
    }

    /// Reads it from its byte `offset` on.
    pub(super) fn from(&self, offset: u64) -> PartReader {
        let offset = offset.min(self.length);
        PartReader {
            file: self.file.clone(),
            at: self.start + offset,
            left: self.length - offset,
        }
    }
}

/// Reads a part, and not a byte more.
#[derive(Debug)]
pub(super) struct PartReader {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        loop {
            match self.file.read_at(&mut buffer[..wanted], self.at) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(count) => {
                    self.at += count as u64;
                    self.left -= count as u64;
                    return Ok(count);
                }
                failed => return failed,
            }
        }
    }
}
