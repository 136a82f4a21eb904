//! Hard links within a layer. Those to files of the layers below are made when it is settled.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::Unpacker;
use super::entry::Place;
use super::names::{self, join, os};
use super::parents::{Way, stat_at};
use super::trouble::{Tried, Trouble};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// Gives the file `from` of `directory` another name, without following.
pub(super) fn link(
    (directory, from): (&OwnedFd, &[u8]),
    (to_directory, to): (&OwnedFd, &[u8]),
) -> Result<(), Errno> {
    let flags = AtFlags::empty();
    rustix::fs::linkat(directory, os(from), to_directory, os(to), flags)
}

impl Unpacker<'_> {
    pub(super) fn hard_link(&mut self, place: &Place<'_>) -> Tried<()> {
        let names = names::split(&place.entry.link, &self.how.limits)?;
        let Some((target, parents)) = names.split_last() else {
            return Err(Trouble::malformed("it is a hard link to the root"));
        };
        let shown = || String::from_utf8_lossy(&place.entry.link).into_owned();
        let found = match self.enter(parents, Way::Find)? {
            None => None,
            Some(here) => match stat_at(&*here.fd, target) {
                Err(error) if error.is(libc::ENOENT) => None,
                stat => Some((here, stat?)),
            },
        };
        let Some((there, stat)) = found else {
            return self.leave_link(place, &names);
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            && is_on(Defence::LayerLinks)
        {
            return Err(Trouble::malformed(format!(
                "it is a hard link to {:?}, which is no regular file",
                shown()
            )));
        }
        // Already that file: to take it away would take away the target.
        if self.is_same(place, &stat)? {
            return Ok(());
        }
        self.make_anew(place, "linkat", || {
            link((&there.fd, target), (&place.here.fd, place.name))
        })
    }

    fn is_same(&self, place: &Place<'_>, target: &Stat) -> sys::Result<bool> {
        match stat_at(&*place.here.fd, place.name) {
            Ok(stat) => Ok((stat.st_dev, stat.st_ino) == (target.st_dev, target.st_ino)),
            Err(error) if error.is(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The target can only be in a layer below.
    fn leave_link(&mut self, place: &Place<'_>, target: &[&[u8]]) -> Tried<()> {
        let target = join(target);
        if self.how.bottom {
            return Err(Trouble::malformed(format!(
                "it is a hard link to {:?}, which is not there",
                String::from_utf8_lossy(&target)
            )));
        }
        self.replace(place)?;
        self.unsettled.account(&[&place.path, &target])?;
        self.unsettled.links.push((place.path.clone(), target));
        Ok(())
    }
}
