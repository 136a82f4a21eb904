//! Size and digest of each image: computed while CRIU writes, compared while it restores.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::draft::{images, is_there};
use super::sum::Sum;
use super::{File, Manifest, PARENT, is_image_name, parent};
use crate::error::{Doing, Error, Result};
use crate::sys;
use crate::sys::buffer::Buffer;
use crate::sys::defence::{Defence, is_on};

/// How much is read at a time: small enough for the processor's cache.
const PIECE: usize = 256 << 10;

/// How long the follower waits when there is nothing new.
const PAUSE: Duration = Duration::from_millis(4);

/// The most images: a process has a few.
const MOST: usize = 1 << 20;

/// A thread that computes the digests of large images while CRIU writes them.
///
/// A process with a second thread cannot clone another ([`sys::process::clone`]): to be begun after the last clone, and finished or
/// stopped before the next.
#[derive(Debug)]
pub struct Follower {
    directory: OwnedFd,
    stop: Sender<()>,
    thread: JoinHandle<Vec<Followed>>,
}

impl Follower {
    /// Begins to follow the images that come into `directory`.
    pub fn begin(directory: impl AsFd) -> Result<Self> {
        let what = || "cannot follow the images that CRIU writes".to_owned();
        let again = || {
            rustix::io::fcntl_dupfd_cloexec(&directory, 3)
                .map_err(|e| sys::Error::new("fcntl", "directory, F_DUPFD_CLOEXEC", e))
                .doing(what)
        };
        let (own, directory) = (again()?, again()?);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("digests".to_owned())
            .spawn(move || {
                let mut followed = Vec::new();
                let mut buffer = Buffer::new(PIECE);
                loop {
                    let is_new = follow(&own, &mut followed, &mut buffer);
                    let pause = if is_new { Duration::ZERO } else { PAUSE };
                    if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                        return followed;
                    }
                }
            })
            .map_err(|e| sys::Error::new("clone", "CLONE_THREAD", e))
            .doing(what)?;
        Ok(Self {
            directory,
            stop,
            thread,
        })
    }

    /// Size and digest of each image, when CRIU has written them all.
    ///
    /// # Errors
    /// Something there is no image file of the caller's.
    pub fn finish(self) -> Result<BTreeMap<String, File>> {
        let (directory, followed) = self.end();
        let mut followed = followed.into_iter().map(|f| (f.name.clone(), f)).collect();
        let names = images(&directory)?;
        if names.len() > MOST {
            return Err(Error::new("CRIU has written too many images"));
        }
        let mut buffer = Buffer::new(PIECE);
        names
            .into_iter()
            .map(|name| {
                let file = complete(&directory, &name, &mut followed, &mut buffer)?;
                Ok((name, file))
            })
            .collect()
    }

    /// Ends it.
    pub fn stop(self) {
        self.end();
    }

    fn end(self) -> (OwnedFd, Vec<Followed>) {
        drop(self.stop);
        // Without what it has computed everything is computed anew.
        (self.directory, self.thread.join().unwrap_or_default())
    }
}

/// An image that grows at its end.
#[derive(Debug)]
struct Followed {
    name: String,
    file: OwnedFd,
    /// Up to where it has been read.
    length: u64,
    sum: Sum,
}

/// Whether CRIU, or the tar that it runs, writes it from its begin to its end. All others it may rewrite, and they are small.
fn is_appended(name: &str) -> bool {
    (name.starts_with("pages-") || name.starts_with("tmpfs-")) && is_image_name(name)
}

/// Computes what has come to each, up to a limit. Whether there was something new; what cannot be read is left for the end, where it is told.
fn follow(directory: &OwnedFd, followed: &mut Vec<Followed>, buffer: &mut [u8]) -> bool {
    let names = sys::path::names(directory).unwrap_or_default();
    for name in names.into_iter().filter(|name| is_appended(name)) {
        let is_known = followed.iter().any(|f| f.name == name);
        if !is_known && followed.len() < MOST_FOLLOWED {
            followed.extend(open_image(directory, &name).ok().map(|(file, _)| Followed {
                name,
                file,
                length: 0,
                sum: Sum::new(),
            }));
        }
    }
    let mut is_new = false;
    for file in followed {
        for _ in 0..AT_ONCE {
            if !file.advance(buffer).is_ok_and(|count| count > 0) {
                break;
            }
            is_new = true;
        }
    }
    is_new
}

/// Each is an open file.
const MOST_FOLLOWED: usize = 64;

/// How many pieces of an image are read before the next has its turn.
const AT_ONCE: usize = 64;

impl Followed {
    fn advance(&mut self, buffer: &mut [u8]) -> sys::Result<usize> {
        let count = read_at(&self.file, buffer, self.length, &self.name)?;
        self.sum.update(buffer.get(..count).unwrap_or_default());
        self.length += count as u64;
        Ok(count)
    }
}

fn read_at(file: &OwnedFd, buffer: &mut [u8], offset: u64, name: &str) -> sys::Result<usize> {
    loop {
        match rustix::io::pread(file, &mut *buffer, offset) {
            Err(rustix::io::Errno::INTR) => {}
            read => return read.map_err(|e| sys::Error::new("pread", format!("{name:?}"), e)),
        }
    }
}

/// The digest of `name`, from where it was followed to.
fn complete(
    directory: &OwnedFd,
    name: &str,
    followed: &mut BTreeMap<String, Followed>,
    buffer: &mut [u8],
) -> Result<File> {
    let (file, stat) = open_image(directory, name)?;
    let what = || format!("cannot compute the digest of {name:?}");
    let size = size(&stat);
    // One that has another's place, or is shorter than it was, was not appended to.
    let is_same = |f: &Followed| {
        f.length <= size
            && rustix::fs::fstat(&f.file)
                .is_ok_and(|s| (s.st_dev, s.st_ino) == (stat.st_dev, stat.st_ino))
    };
    let begun = followed.remove(name).filter(is_same);
    let mut rest = begun.unwrap_or_else(|| Followed {
        name: name.to_owned(),
        file,
        length: 0,
        sum: Sum::new(),
    });
    while rest.advance(buffer).doing(what)? > 0 {
        if rest.length > size {
            return Err(Error::new(what()).because("it still grows"));
        }
    }
    Ok(File {
        size: rest.length,
        digest: rest.sum.finish(),
    })
}

/// Up to which size an image is verified before CRIU sees it, in bytes: all but memory and files.
const SMALL: u64 = 1 << 20;

/// Verifies that the images in `directory` are those of `manifest`, and no others, with the sizes that they had, and the content of the
/// small ones: to be done before CRIU reads them. Of the large ones [`verify_large`] sees to the content.
///
/// # Errors
/// One is missing, or there is one more; one is no file of the caller's alone, or another one than was written.
pub fn verify_small(directory: BorrowedFd<'_>, manifest: &Manifest) -> Result<()> {
    if !is_on(Defence::Checkpoint) {
        return Ok(());
    }
    let directory = again(directory)?;
    let mut there = images(&directory)?;
    // Where CRIU looks for memory that these leave out.
    if manifest.parent.is_none() && is_there(&directory, PARENT) {
        there.insert(PARENT.to_owned());
    }
    if let Some(name) = there.iter().find(|n| !manifest.files.contains_key(*n)) {
        return Err(damaged(&format!("{name:?} is no part of it")));
    }
    let mut buffer = Buffer::new(PIECE);
    for (name, expected) in &manifest.files {
        if !there.contains(name) {
            return Err(damaged(&format!("{name:?} is missing")));
        }
        let (file, stat) = open_image(&directory, name)?;
        if size(&stat) != expected.size {
            let (has, had) = (size(&stat), expected.size);
            return Err(damaged(&format!("{name:?} has {has} bytes, and had {had}")));
        }
        if expected.size <= SMALL {
            verify_content(&file, (name, expected), &mut buffer)?;
        }
    }
    parent::verify(&directory, manifest, verify_small)
}

/// Verifies the content of the large images. It takes as long as reading them: to be done in a thread while CRIU restores, and waited
/// for before the processes are let go.
///
/// # Errors
/// One is another than was written.
pub fn verify_large(directory: BorrowedFd<'_>, manifest: &Manifest) -> Result<()> {
    if !is_on(Defence::Checkpoint) {
        return Ok(());
    }
    let directory = again(directory)?;
    let mut buffer = Buffer::new(PIECE);
    let large = manifest.files.iter().filter(|(_, file)| file.size > SMALL);
    for (name, expected) in large {
        let (file, _) = open_image(&directory, name)?;
        verify_content(&file, (name, expected), &mut buffer)?;
    }
    parent::verify(&directory, manifest, verify_large)
}

/// Both.
pub(super) fn verify(directory: impl AsFd, manifest: &Manifest) -> Result<()> {
    verify_small(directory.as_fd(), manifest)?;
    verify_large(directory.as_fd(), manifest)
}

fn again(directory: impl AsFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(&directory, 3)
        .map_err(|e| sys::Error::new("fcntl", "directory, F_DUPFD_CLOEXEC", e))
        .doing(|| "cannot verify the images".to_owned())
}

fn verify_content(
    file: &OwnedFd,
    (name, expected): (&str, &File),
    buffer: &mut [u8],
) -> Result<()> {
    let digest =
        digest(file, name, expected.size, buffer).doing(|| format!("cannot verify {name:?}"))?;
    if digest == expected.digest {
        return Ok(());
    }
    Err(damaged(&format!(
        "{name:?} has another content than was written"
    )))
}

fn digest(file: &OwnedFd, name: &str, size: u64, buffer: &mut [u8]) -> sys::Result<String> {
    let mut sum = Sum::new();
    let mut length = 0;
    // Not further than it was when it was looked at: it must have an end.
    while length < size {
        match read_at(file, buffer, length, name)? {
            0 => break,
            count => {
                sum.update(buffer.get(..count).unwrap_or_default());
                length += count as u64;
            }
        }
    }
    Ok(sum.finish())
}

pub(super) fn damaged(why: &str) -> Error {
    Error::new("the checkpoint is damaged, or was changed after it was made")
        .because(why)
        .hint("restore a copy of it, or an earlier one")
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Opens an image for reading: a regular file of the caller's, which nobody else may write to.
fn open_image(directory: &OwnedFd, name: &str) -> Result<(OwnedFd, Stat)> {
    let what = || format!("cannot use the image {name:?}");
    if !is_image_name(name) {
        return Err(Error::new(what()).because("it is no name of an image"));
    }
    open_own(directory, name).map_err(|e| e.within(what()))
}

/// Opens a regular file of the caller's for reading, which nobody else may write to.
pub(super) fn open_own(directory: &OwnedFd, name: &str) -> Result<(OwnedFd, Stat)> {
    let what = || format!("cannot read {name:?}");
    let error = |e| sys::Error::new("openat", format!("{name:?}, O_NOFOLLOW"), e);
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
            return Err(Error::new(what()).because("it is no regular file"));
        }
        opened => opened.map_err(error).doing(what)?,
    };
    let stat = rustix::fs::fstat(&file).map_err(error).doing(what)?;
    let (uid, mode) = (sys::cred::uid(), stat.st_mode & 0o7777);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(what()).because("it is no regular file"));
    }
    if stat.st_uid != uid {
        return Err(
            Error::new(what()).because(format!("it belongs to uid {}, not to {uid}", stat.st_uid))
        );
    }
    if mode & 0o022 != 0 {
        return Err(Error::new(what())
            .because(format!("others may write to it (mode {mode:04o})"))
            .hint("if nobody has: chmod go-w on it"));
    }
    Ok((file, stat))
}

#[cfg(test)]
#[path = "digest_tests.rs"]
mod tests;
