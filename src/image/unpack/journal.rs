//! What is done to directories when all that is in them is there: a file without a name, so that memory does not grow with
//! the archive.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};

use super::trouble::{Tried, Trouble};
use crate::image::merged::stat_of;
use crate::image::tar::Time;
use crate::sys;

/// Records of directories, oldest first.
#[derive(Debug)]
pub(super) struct Journal {
    file: BufWriter<File>,
}

/// What is left to do to one directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Its path without links.
    pub(super) path: Vec<u8>,
    /// Its time.
    pub(super) time: Time,
    /// Its default ACL, which what is made in it would inherit; empty for none.
    pub(super) acl: Vec<u8>,
}

impl Journal {
    /// An empty one on the filesystem of `destination`; and whether new files get other modes than
    /// asked for, and whether they can have `user.*` attributes.
    pub(super) fn begin(destination: &OwnedFd) -> Tried<(Self, bool, bool)> {
        let fd = nameless(destination)?;
        let masked = Mode::from_raw_mode(stat_of(&fd)?.st_mode) != Mode::from_raw_mode(0o777);
        let set = rustix::fs::fsetxattr(&fd, "user.lodger", b"y", XattrFlags::empty());
        let file = BufWriter::with_capacity(64 << 10, File::from(fd));
        Ok((Self { file }, masked, set.is_ok()))
    }

    pub(super) fn add(&mut self, record: &Record) -> Tried<()> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let parts: [&[u8]; 6] = [
            &length(&record.path),
            &length(&record.acl),
            &record.time.seconds.to_le_bytes(),
            &record.time.nanoseconds.to_le_bytes(),
            &record.path,
            &record.acl,
        ];
        for part in parts {
            self.file.write_all(part).map_err(written)?;
        }
        Ok(())
    }

    /// Reads the records from the first; none is added after that.
    pub(super) fn replay(&mut self) -> Tried<Replay> {
        self.file.flush().map_err(written)?;
        let mut file = self.file.get_ref().try_clone()?;
        file.rewind()?;
        Ok(Replay(BufReader::with_capacity(64 << 10, file)))
    }
}

fn written(error: std::io::Error) -> Trouble {
    sys::Error::new("write", "journal", error).into()
}

/// Reads a journal.
#[derive(Debug)]
pub(super) struct Replay(BufReader<File>);

impl Replay {
    pub(super) fn next(&mut self) -> Tried<Option<Record>> {
        let mut first = [0; 4];
        match self.0.read_exact(&mut first) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let mut length = [0; 4];
        let (mut seconds, mut nanoseconds) = ([0; 8], [0; 4]);
        self.0.read_exact(&mut length)?;
        self.0.read_exact(&mut seconds)?;
        self.0.read_exact(&mut nanoseconds)?;
        let mut bytes = |length: [u8; 4]| -> Tried<Vec<u8>> {
            let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
            self.0.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        Ok(Some(Record {
            path: bytes(first)?,
            acl: bytes(length)?,
            time: Time {
                seconds: i64::from_le_bytes(seconds),
                nanoseconds: u32::from_le_bytes(nanoseconds),
            },
        }))
    }
}

/// A file without a name, with mode 0777 as far as the umask lets it.
fn nameless(destination: &OwnedFd) -> sys::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(0o777);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(fd) = rustix::fs::openat(destination, ".", flags | OFlags::TMPFILE, mode) {
        return Ok(fd);
    }
    // Not every filesystem can (open(2), O_TMPFILE): then it has a name for a moment, which nothing in a layer can have.
    let name = ".wh.journal";
    let fd = rustix::fs::openat(
        destination,
        name,
        flags | OFlags::CREATE | OFlags::EXCL,
        mode,
    )
    .map_err(|e| sys::Error::new("openat", format!("{name:?}, O_CREAT|O_EXCL"), e))?;
    rustix::fs::unlinkat(destination.as_fd(), name, AtFlags::empty())
        .map_err(|e| sys::Error::new("unlinkat", format!("{name:?}"), e))?;
    Ok(fd)
}
