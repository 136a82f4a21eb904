//! Whiteouts (layer.md), as overlayfs has them.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::journal::Record;
use super::names::{os, within};
use super::parents::{Way, stat_at};
use super::trouble::Tried;
use super::{OPAQUE, Unpacker};
use crate::image::merged::open_at;
use crate::image::tar::Time;
use crate::sys;

/// Makes the character device 0:0, for which no privilege is needed (mknod(2)).
pub(super) fn make_whiteout(directory: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let kind = FileType::CharacterDevice;
    rustix::fs::mknodat(directory, os(name), kind, Mode::empty(), 0)
}

/// Marks the directory `name` opaque.
pub(super) fn mark_opaque(directory: &OwnedFd, name: &[u8]) -> sys::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let fd = open_at(directory, os(name), flags)?;
    rustix::fs::fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty())
        .map_err(|e| sys::Error::new("fsetxattr", format!("{:?}, {OPAQUE}", os(name)), e))
}

impl Unpacker<'_> {
    /// Removes `name` in `parents` from the layers below, unless this layer brings it.
    pub(super) fn removes(&mut self, parents: &[&[u8]], name: &[u8]) -> Tried<()> {
        if self.how.bottom {
            return Ok(());
        }
        let Some(here) = self.enter(parents, self.way_to_whiteout())? else {
            return Ok(());
        };
        match make_whiteout(&here.fd, name) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(e) => {
                let args = format!("{:?}, S_IFCHR, 0:0", os(name));
                return Err(sys::Error::new("mknodat", args, e).into());
            }
        }
        let stat = stat_at(&here.fd, name)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        let path = within(&self.parents.path(), name);
        self.make_opaque(&here.fd, name, &path)?;
        if self.unsettled.implied.remove(&path) {
            let (time, acl) = (Time::default(), Vec::new());
            self.journal.add(&Record { path, time, acl })?;
        }
        Ok(())
    }

    /// All that the directory has in the layers below is removed.
    pub(super) fn hides_all(&mut self, names: &[&[u8]]) -> Tried<()> {
        if self.how.bottom {
            return Ok(());
        }
        let way = self.way_to_whiteout();
        let Some((name, parents)) = names.split_last() else {
            return self.leave_opaque(&[]);
        };
        if self.enter(names, way)?.is_none() {
            return Ok(());
        }
        let path = self.parents.path();
        let Some(above) = self.enter(parents, way)? else {
            return Ok(());
        };
        self.make_opaque(&above.fd, name, &path)
    }

    /// Links are not followed to where something disappears.
    fn way_to_whiteout(&self) -> Way {
        use crate::sys::defence::{Defence, is_on};
        if is_on(Defence::LayerLinks) {
            Way::MakeWithoutLinks
        } else {
            Way::Make
        }
    }

    /// The directory `name`, which has this path, hides those below.
    pub(super) fn make_opaque(&mut self, above: &OwnedFd, name: &[u8], path: &[u8]) -> Tried<()> {
        if self.how.bottom {
            return Ok(());
        }
        if self.fresh.user_xattrs {
            return Ok(mark_opaque(above, name)?);
        }
        self.leave_opaque(path)
    }

    /// What cannot be marked: the root, which the kernel does not look at, and directories without extended attributes.
    fn leave_opaque(&mut self, path: &[u8]) -> Tried<()> {
        self.unsettled.account(&[path])?;
        self.unsettled.opaque.push(path.to_vec());
        Ok(())
    }
}
