//! Files of the layers below that a layer links to: they become files of this layer, as the kernel copies up.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;

use super::attributes::{self, keeping_times, times_of};
use super::links::link;
use super::names::{cut, names_of, os};
use super::parents::{Way, stat_at};
use super::remove::remove;
use super::settle::Settling;
use super::trouble::{Tried, Trouble};
use crate::image::merged::{Found, is_whiteout, stat_of};
use crate::sys;
use crate::sys::buffer::Buffer;

impl Settling<'_> {
    /// Makes the hard links whose target is below.
    pub(super) fn make_links(&mut self) -> Tried<()> {
        for (name, target) in std::mem::take(&mut self.unpacker.unsettled.links) {
            self.make_link(&name, &target)
                .map_err(|trouble| match trouble {
                    Trouble::Refused(why, hint) => {
                        let name = String::from_utf8_lossy(&name);
                        Trouble::Refused(format!("{name:?}: {why}"), hint)
                    }
                    other => other,
                })?;
        }
        Ok(())
    }

    fn make_link(&mut self, path: &[u8], target: &[u8]) -> Tried<()> {
        let (parent, name) = cut(path);
        // Where its directory is no more, a later entry took that name.
        let Some(here) = self.unpacker.enter(&names_of(parent), Way::Find)? else {
            return Ok(());
        };
        match stat_at(&*here.fd, name) {
            // It was removed below, and is brought anew.
            Ok(stat) if is_whiteout(&stat) => {}
            // A later entry has the name.
            Ok(_) => return Ok(()),
            Err(error) if error.is(libc::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let shown = || String::from_utf8_lossy(target).into_owned();
        let Some(found) = self.full.find(Path::new(os(target)))? else {
            return Err(Trouble::malformed(format!(
                "it is a hard link to {:?}, which neither the layer nor those below it have",
                shown()
            )));
        };
        if found.kind() != FileType::RegularFile {
            return Err(Trouble::malformed(format!(
                "it is a hard link to {:?}, which is no regular file",
                shown()
            )));
        }
        let own = found.path.as_os_str().as_bytes().to_vec();
        let (parent, target) = cut(&own);
        let Some(there) = self.unpacker.enter(&names_of(parent), Way::Make)? else {
            return Ok(());
        };
        if found.layer > 0 {
            keeping_times(&there.fd, || self.copy_up(&found, &there.fd, target))?;
        }
        keeping_times(&here.fd, || {
            remove(&here.fd, os(name))?;
            link((&there.fd, target), (&here.fd, name)).map_err(|e| {
                sys::Error::new("linkat", format!("{:?}, {:?}", os(target), os(name)), e)
            })
        })?;
        Ok(())
    }

    fn copy_up(&self, found: &Found, directory: &OwnedFd, name: &[u8]) -> sys::Result<()> {
        let from = found.open()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let to = rustix::fs::openat(directory, os(name), flags | OFlags::CLOEXEC, mode)
            .map_err(|e| sys::Error::new("openat", format!("{:?}, O_CREAT|O_EXCL", os(name)), e))?;
        // Shared blocks, where the filesystem has them (ioctl_ficlone(2)).
        if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
            let size = u64::try_from(found.stat.st_size).unwrap_or(0);
            content(&from, &to, size)?;
        }
        metadata(&from, &to)
    }
}

/// Copies `size` bytes, holes as holes.
fn content(from: &OwnedFd, to: &OwnedFd, size: u64) -> sys::Result<()> {
    const PIECE: usize = 128 << 10;
    rustix::fs::ftruncate(to, size)
        .map_err(|e| sys::Error::new("ftruncate", format!("fd, {size}"), e))?;
    let mut buffer = Buffer::new(PIECE);
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return Ok(()),
            Err(e) => return Err(sys::Error::new("lseek", format!("fd, {at}, SEEK_DATA"), e)),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(begin))
            .map_err(|e| sys::Error::new("lseek", format!("fd, {begin}, SEEK_HOLE"), e))?;
        at = begin;
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let count = rustix::io::pread(from, &mut buffer[..most], at)
                .map_err(|e| sys::Error::new("pread", format!("fd, {most} bytes"), e))?;
            if count == 0 {
                return Ok(());
            }
            super::content::write_at(to, &buffer[..count], at)
                .map_err(|e| sys::Error::new("pwrite", format!("fd, {count} bytes"), e))?;
            at += count as u64;
        }
    }
    Ok(())
}

/// Gives `to` the owner, mode, extended attributes and times of `from`, both open for reading or writing.
pub(super) fn metadata(from: &OwnedFd, to: &OwnedFd) -> sys::Result<()> {
    let stat = stat_of(from)?;
    let now = stat_of(to)?;
    if (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid) {
        sys::path::change_owner(to, stat.st_uid, stat.st_gid)?;
    }
    attributes::change_mode(to, stat.st_mode & 0o7777)?;
    xattrs(from, to)?;
    rustix::fs::futimens(to, &times_of(&stat)).map_err(|e| sys::Error::new("futimens", "fd", e))
}

fn xattrs(from: &OwnedFd, to: &OwnedFd) -> sys::Result<()> {
    /// XATTR_LIST_MAX and XATTR_SIZE_MAX of linux/limits.h.
    const MOST: usize = 64 << 10;
    let mut names = vec![0; MOST];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Ok(length) => length,
        Err(e) => return Err(sys::Error::new("flistxattr", "fd", e)),
    };
    let mut value = vec![0; MOST];
    for name in names[..length].split(|byte| *byte == 0) {
        // What overlayfs means holds for one layer, and labels are given by the kernel's own rules.
        let is_own = name.starts_with(b"user.overlay.");
        let is_label = name.starts_with(b"security.") && name != b"security.capability";
        if name.is_empty() || is_own || is_label {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let length = match rustix::fs::fgetxattr(from, name, &mut value[..]) {
            Ok(length) => length,
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(sys::Error::new("fgetxattr", format!("fd, {name:?}"), e)),
        };
        rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty())
            .map_err(|e| sys::Error::new("fsetxattr", format!("fd, {name:?}"), e))?;
    }
    Ok(())
}
