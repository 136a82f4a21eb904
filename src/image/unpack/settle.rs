//! What of a layer needs the layers below.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use super::names::{cut, names_of, os, within};
use super::parents::{Here, Way, stat_at};
use super::trouble::Tried;
use super::{How, Unpacker, Unsettled, attributes, copy_up};
use crate::error::Result;
use crate::image::Merged;
use crate::image::merged::{Found, open_at};
use crate::image::tar::Time;
use crate::sys;

/// Completes the layer in `destination` from those below it:
/// directories without entry get the metadata of the same directory below, and give way where a link to another one is below;
/// opaque directories that could not be marked get a whiteout for everything below; hard links to files below are made.
///
/// # Errors
/// The layer has the same name in two places that are one, a hard link leads to nothing, or what the kernel answers.
pub fn settle(
    destination: &OwnedFd,
    unsettled: Unsettled,
    below: &Merged,
    how: &How,
) -> Result<()> {
    if how.bottom {
        return Ok(());
    }
    let full = below.below(destination.as_fd())?;
    let settled = Settling::begin(destination, unsettled, full, how).and_then(Settling::run);
    settled.map_err(|trouble| {
        let what = || "cannot complete a layer from those below it".into();
        trouble.within(what, destination)
    })
}

/// A layer while it is settled.
pub(super) struct Settling<'a> {
    pub(super) unpacker: Unpacker<'a>,
    /// This layer upon those below.
    pub(super) full: Merged,
    /// Directories without entry that are complete.
    pub(super) complete: BTreeSet<Vec<u8>>,
    /// Directories that hide those below, but are not marked.
    pub(super) opaque: BTreeSet<Vec<u8>>,
    /// The directory that was looked up last.
    pub(super) last: Option<Found>,
}

impl<'a> Settling<'a> {
    fn begin(
        destination: &OwnedFd,
        mut unsettled: Unsettled,
        full: Merged,
        how: &'a How,
    ) -> Tried<Self> {
        let mut unpacker = Unpacker::begin(destination, how)?;
        let opaque = std::mem::take(&mut unsettled.opaque).into_iter().collect();
        unpacker.unsettled = unsettled;
        unpacker.settling = true;
        Ok(Self {
            unpacker,
            full,
            complete: BTreeSet::new(),
            opaque,
            last: None,
        })
    }

    fn run(mut self) -> Tried<()> {
        self.settle_implied()?;
        self.hide_below()?;
        self.make_links()?;
        // Those that the files of links needed.
        self.last = None;
        self.settle_implied()
    }

    /// Those above first.
    fn settle_implied(&mut self) -> Tried<()> {
        while let Some(path) = self.unpacker.unsettled.implied.pop_first() {
            self.settle_directory(path)?;
        }
        Ok(())
    }

    fn settle_directory(&mut self, path: Vec<u8>) -> Tried<()> {
        let (parent, name) = cut(&path);
        let Some(here) = self.unpacker.enter(&names_of(parent), Way::Find)? else {
            return Ok(());
        };
        if !is_directory_at(&here.fd, if name.is_empty() { b"." } else { name })? {
            return Ok(());
        }
        let below = match self.is_hidden(parent) {
            true => None,
            false => self.below(parent, name)?,
        };
        let from = match below {
            Some(found) if found.is_directory() => Some(found),
            Some(found) if found.kind() == FileType::Symlink => {
                if self.give_way(&path, &found)? {
                    return Ok(());
                }
                None
            }
            _ => None,
        };
        self.complete_directory(&here, name, from.as_ref())?;
        self.complete.insert(path);
        Ok(())
    }

    /// What the layers below have by that name.
    fn below(&mut self, parent: &[u8], name: &[u8]) -> Tried<Option<Found>> {
        if name.is_empty() {
            let root = self.full.root_below_top();
            return Ok(root?);
        }
        self.find_directory(parent)?;
        match &self.last {
            None => Ok(None),
            Some(directory) => Ok(self.full.find_below_top(directory, os(name))?),
        }
    }

    /// Makes the directory `path` the last one. They come in order: most often it is the same as before, or in it.
    fn find_directory(&mut self, path: &[u8]) -> Tried<()> {
        let path = Path::new(os(path));
        let is = |found: &Found, path: Option<&Path>| Some(&*found.path) == path;
        self.last = match self.last.take() {
            Some(last) if is(&last, Some(path)) => Some(last),
            Some(last) if is(&last, path.parent()) => {
                let name = path.file_name().unwrap_or_default();
                self.full.find_child(&last, name)?
            }
            _ => self.full.find(path)?,
        };
        Ok(())
    }

    /// Whether one of the directories above hides what is below, without being marked.
    fn is_hidden(&self, parent: &[u8]) -> bool {
        let mut above = parent;
        loop {
            if self.opaque.contains(above) {
                return true;
            }
            if above.is_empty() {
                return false;
            }
            above = cut(above).0;
        }
    }

    fn complete_directory(&self, here: &Here, name: &[u8], from: Option<&Found>) -> Tried<()> {
        let name = if name.is_empty() { b"." } else { name };
        let Some(from) = from else {
            return Ok(attributes::set_times_at(&here.fd, name, Time::default())?);
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let to = open_at(&*here.fd, os(name), flags)?;
        Ok(copy_up::metadata(&from.open()?, &to)?)
    }

    /// Puts whiteouts where a directory hides what is below, but cannot be marked.
    fn hide_below(&mut self) -> Tried<()> {
        self.last = None;
        let mut todo: Vec<Vec<u8>> = self.opaque.iter().cloned().collect();
        while let Some(path) = todo.pop() {
            let Some(directory) = self.full.find(Path::new(os(&path)))? else {
                continue;
            };
            if directory.layer != 0 || !directory.is_directory() {
                continue;
            }
            let Some(here) = self.unpacker.enter(&names_of(&path), Way::Find)? else {
                continue;
            };
            self.hide_children(&directory, &here, &path, &mut todo)?;
        }
        Ok(())
    }

    fn hide_children(
        &mut self,
        directory: &Found,
        here: &Here,
        path: &[u8],
        todo: &mut Vec<Vec<u8>>,
    ) -> Tried<()> {
        use std::os::unix::ffi::OsStrExt;
        for name in self.full.names(directory)? {
            let Some(child) = self.full.find_child(directory, &name)? else {
                continue;
            };
            let bytes = name.as_bytes();
            match (child.layer, child.is_directory()) {
                (0, false) => {}
                (0, true) if self.unpacker.fresh.user_xattrs => {
                    super::whiteouts::mark_opaque(&here.fd, bytes)?;
                }
                (0, true) => todo.push(within(path, bytes)),
                _ => attributes::keeping_times(&here.fd, || {
                    super::whiteouts::make_whiteout(&here.fd, bytes).map_err(|e| {
                        sys::Error::new("mknodat", format!("{name:?}, S_IFCHR, 0:0"), e)
                    })
                })?,
            }
        }
        Ok(())
    }
}

/// Whether `name` is there, and a directory.
pub(super) fn is_directory_at(directory: &OwnedFd, name: &[u8]) -> sys::Result<bool> {
    match stat_at(directory, name) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        Err(error) if error.is(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
