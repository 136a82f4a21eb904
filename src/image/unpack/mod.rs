//! Unpacking a layer (image-spec layer.md) into a directory that overlayfs takes as a lower one.
//!
//! The archive is hostile. Everything is done beneath the destination's fd; a parent is opened name by name without
//! following, and a symbolic link among them is followed here, with the destination as its root. What an entry brings is
//! made anew (O_EXCL) after what had its name was taken away, so nothing is written, or changed, through a link.
//!
//! What needs the layers below, which may be unpacked at the same time by another thread, is left to [`settle`].
#![forbid(unsafe_code)]

mod attributes;
mod content;
mod copy_up;
mod entry;
mod journal;
mod links;
mod moves;
mod names;
mod parents;
mod remove;
mod report;
mod settle;
mod trouble;
mod whiteouts;
mod xattrs;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use super::merged::{OPAQUE, duplicate};
use super::tar::Reader;
use super::{Limits, Owners};
use crate::error::Result;
use journal::Journal;
use parents::Parents;
use trouble::{Tried, Trouble};

pub use report::Report;
pub use settle::settle;

/// How a layer is unpacked.
#[derive(Debug, Clone)]
pub struct How {
    /// Whose the files become.
    pub owners: Owners,
    /// How much is taken.
    pub limits: Limits,
    /// No layer is below: whiteouts mean nothing, and there is nothing to settle.
    pub bottom: bool,
}

/// A layer that is unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// What a person may want to know of it.
    pub report: Report,
    /// What needs the layers below.
    pub unsettled: Unsettled,
}

/// What of a layer needs the layers below. It is held in memory, 8 MiB at most.
#[derive(Debug, Default)]
pub struct Unsettled {
    /// Directories that entries are in, but that have no entry themselves.
    implied: std::collections::BTreeSet<Vec<u8>>,
    /// Hard links to files that the layer does not have: name and target.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Opaque directories that could not be marked so.
    opaque: Vec<Vec<u8>>,
    bytes: usize,
}

impl Unsettled {
    /// Counts `paths`, and refuses what is too much.
    fn account(&mut self, paths: &[&[u8]]) -> Tried<()> {
        /// 8 MiB.
        const MOST: usize = 8 << 20;
        /// What a path needs besides its bytes.
        const EACH: usize = 64;
        self.bytes += paths.iter().map(|path| path.len() + EACH).sum::<usize>();
        if self.bytes > MOST {
            return Err(Trouble::refused(
                "the layer leaves too much to the layers below: its directories without entry and links to files below need more than 8 MiB of memory",
                "rebuild the image with an entry for every directory",
            ));
        }
        Ok(())
    }
}

/// Unpacks the tar archive `stream`, to its end, into `destination`, which is empty and the caller's alone.
///
/// The caller has set the umask to 0, before there were threads: where it is not 0, every file costs one more system call.
/// Any number of layers may be unpacked at the same time.
///
/// # Errors
/// What is wrong with the archive or too much of it, with the entry's name; a full filesystem, with what it has run out of.
pub fn layer(stream: impl Read, destination: &OwnedFd, how: &How) -> Result<Unpacked> {
    let mut unpacker = Unpacker::new(destination, how)?;
    let mut reader = Reader::new(stream, how.limits);
    while let Some(entry) = reader.next()? {
        unpacker.entry(&entry, &mut reader.data())?;
    }
    reader.finish()?;
    unpacker.finish()
}

/// A layer while it is unpacked.
struct Unpacker<'a> {
    how: &'a How,
    parents: Parents,
    journal: Journal,
    report: Report,
    unsettled: Unsettled,
    buffer: Vec<u8>,
    /// What a new file gets here.
    fresh: Fresh,
    /// Names that were looked at on the way to parents.
    steps: u64,
    /// A directory was taken away: what the journal says of it may be of another file now.
    replaced: bool,
    /// The times of directories are there already: they are kept.
    settling: bool,
}

/// What a new file gets.
#[derive(Debug, Clone, Copy)]
struct Fresh {
    uid: u32,
    gid: u32,
    /// Not the mode that was asked for: there is a umask.
    masked: bool,
    /// Extended attributes `user.*` are possible.
    user_xattrs: bool,
}

impl<'a> Unpacker<'a> {
    fn new(destination: &OwnedFd, how: &'a How) -> Result<Self> {
        let begin = || {
            attributes::remove_acls(destination)?;
            let mut unpacker = Self::begin(destination, how)?;
            unpacker.imply_root()?;
            Ok(unpacker)
        };
        begin().map_err(|trouble: Trouble| {
            trouble.within(|| "cannot begin to unpack a layer".into(), destination)
        })
    }

    fn begin(destination: &OwnedFd, how: &'a How) -> Tried<Self> {
        /// Few system calls for a large file, and little memory for many layers at once.
        const BUFFER: usize = 128 << 10;
        let (journal, masked, user_xattrs) = Journal::begin(destination)?;
        let mut parents = Parents::new(duplicate(destination.as_fd())?);
        parents.look_at_root()?;
        Ok(Self {
            how,
            parents,
            journal,
            report: Report::default(),
            unsettled: Unsettled::default(),
            buffer: vec![0; BUFFER],
            fresh: Fresh {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                masked,
                user_xattrs,
            },
            steps: 0,
            replaced: false,
            settling: false,
        })
    }

    fn finish(mut self) -> Result<Unpacked> {
        let done = self.apply_journal();
        done.map_err(|trouble| {
            let what = || "cannot set the times of a layer's directories".into();
            trouble.within(what, self.parents.root())
        })?;
        Ok(Unpacked {
            report: self.report,
            unsettled: self.unsettled,
        })
    }
}

#[cfg(test)]
mod tests;
