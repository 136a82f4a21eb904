//! The content of one file, copied as cheaply as the filesystems can.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::sys;

/// What one call copies, so that it can be interrupted.
const PIECE: u64 = 64 << 20;
/// The buffer of those that copy through the process.
const BUFFER: usize = 256 << 10;

/// Remembers what the filesystems have refused.
#[derive(Debug, Default)]
pub(super) struct Copier {
    shared: u64,
    copied: u64,
    no_clone: bool,
    no_range: bool,
    buffer: Vec<u8>,
}

impl Copier {
    /// Whether all that had content shares it now.
    pub(super) fn all_shared(&self) -> bool {
        self.shared > 0 && self.copied == 0
    }

    /// Copies all `size` bytes of `from` to the empty file `to`. Holes stay holes.
    pub(super) fn copy(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        size: u64,
        sparse: bool,
    ) -> sys::Result<()> {
        if size == 0 {
            return Ok(());
        }
        if !self.no_clone {
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => {
                    self.shared += 1;
                    return Ok(());
                }
                Err(Errno::NOSPC | Errno::DQUOT | Errno::IO) => {}
                Err(_) => self.no_clone = true,
            }
        }
        self.copied += 1;
        if !sparse {
            return self.range(from, to, 0, size);
        }
        rustix::fs::ftruncate(to, size)
            .map_err(|e| sys::Error::new("ftruncate", format!("fd, {size}"), e))?;
        let mut at = 0;
        while at < size {
            let begin = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Ok(begin) => begin,
                Err(Errno::NXIO) => break,
                Err(e) => return Err(sys::Error::new("lseek", format!("fd, {at}, SEEK_DATA"), e)),
            };
            let end = rustix::fs::seek(from, SeekFrom::Hole(begin))
                .map_err(|e| sys::Error::new("lseek", format!("fd, {begin}, SEEK_HOLE"), e))?;
            self.range(from, to, begin, end)?;
            at = end;
        }
        Ok(())
    }

    fn range(&mut self, from: &OwnedFd, to: &OwnedFd, begin: u64, end: u64) -> sys::Result<()> {
        let mut at = begin;
        while at < end && !self.no_range {
            let most = usize::try_from((end - at).min(PIECE)).unwrap_or(BUFFER);
            let (mut source, mut target) = (at, at);
            match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), most)
            {
                // Of some files of the kernel's own nothing is copied this way.
                Ok(0) => break,
                Ok(count) => at += count as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    self.no_range = true;
                }
                Err(e) => {
                    let args = format!("fd, {at}, fd, {at}, {most}");
                    return Err(sys::Error::new("copy_file_range", args, e));
                }
            }
        }
        self.through(from, to, at, end)
    }

    fn through(&mut self, from: &OwnedFd, to: &OwnedFd, begin: u64, end: u64) -> sys::Result<()> {
        let mut at = begin;
        while at < end {
            self.buffer.resize(BUFFER, 0);
            let most = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let count = match rustix::io::pread(from, &mut self.buffer[..most], at) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(sys::Error::new("pread64", format!("fd, {most}, {at}"), e)),
            };
            let mut rest = &self.buffer[..count];
            while !rest.is_empty() {
                match rustix::io::pwrite(to, rest, at) {
                    Ok(written) => {
                        rest = &rest[written..];
                        at += written as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(e) => {
                        return Err(sys::Error::new("pwrite64", format!("fd, {count}, {at}"), e));
                    }
                }
            }
        }
        Ok(())
    }
}
