//! One entry becomes one file.

use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::journal::Record;
use super::names::{self, Meaning, os, within};
use super::parents::{Here, Way, stat_at};
use super::remove::{Removed, remove};
use super::trouble::{Tried, Trouble};
use super::{Unpacker, content};
use crate::error::Result;
use crate::image::Owners;
use crate::image::tar::{Entry, Kind};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// An entry, and where it goes.
pub(super) struct Place<'e> {
    pub(super) entry: &'e Entry,
    pub(super) here: Here,
    pub(super) name: &'e [u8],
    /// Its path without links.
    pub(super) path: Vec<u8>,
    /// Its owner on the disk.
    pub(super) owner: (u32, u32),
}

impl Unpacker<'_> {
    /// Unpacks one entry.
    pub(super) fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        self.report.entries += 1;
        self.report.bytes = self.report.bytes.saturating_add(entry.size);
        self.unpack(entry, content).map_err(|trouble| {
            let what = || format!("cannot unpack {:?}", String::from_utf8_lossy(&entry.path));
            trouble.within(what, self.parents.root())
        })
    }

    fn unpack(&mut self, entry: &Entry, content: &mut dyn Read) -> Tried<()> {
        let names = names::split(&entry.path, &self.how.limits)?;
        let Some((name, parents)) = names.split_last() else {
            return self.root(entry);
        };
        match names::meaning(&names)? {
            Meaning::Itself => {}
            Meaning::Passed => return Ok(()),
            Meaning::Opaque => return self.hides_all(parents),
            Meaning::Removes(removed) => return self.removes(parents, removed),
        }
        let owner = self.disk_owner(entry.uid, entry.gid)?;
        let Some(here) = self.enter(parents, Way::Make)? else {
            return Ok(());
        };
        let place = Place {
            path: within(&self.parents.path(), name),
            entry,
            here,
            name,
            owner,
        };
        if self.is_squashed(entry) && entry.kind != Kind::HardLink {
            self.report.squashed += 1;
        }
        match entry.kind {
            Kind::File => self.file(&place, content),
            Kind::Directory => self.directory(&place),
            Kind::Symlink => self.symlink(&place),
            Kind::HardLink => self.hard_link(&place),
            Kind::Fifo => self.fifo(&place),
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                self.report.devices.add(&entry.path);
                self.file(&place, &mut std::io::empty())
            }
        }
    }

    /// Whether the owner on the disk is not the one that the entry means.
    pub(super) fn is_squashed(&self, entry: &Entry) -> bool {
        matches!(self.how.owners, Owners::Squashed { .. }) && (entry.uid, entry.gid) != (0, 0)
    }

    pub(super) fn disk_owner(&self, uid: u32, gid: u32) -> Tried<(u32, u32)> {
        self.how.owners.on_disk(uid, gid).ok_or_else(|| {
            Trouble::refused(
                format!("it belongs to {uid}:{gid}, and the caller's subordinate ids do not reach so far"),
                "ask for more subordinate ids in /etc/subuid and /etc/subgid, or import with `--squash-owners`",
            )
        })
    }

    /// The root can only be a directory (CVE-2021-29136).
    fn root(&mut self, entry: &Entry) -> Tried<()> {
        if entry.kind != Kind::Directory {
            return Err(Trouble::malformed(
                "the root of a layer can only be a directory",
            ));
        }
        let owner = self.disk_owner(entry.uid, entry.gid)?;
        let Some(here) = self.enter(&[], Way::Find)? else {
            return Ok(());
        };
        if self.is_squashed(entry) {
            self.report.squashed += 1;
        }
        let place = Place {
            entry,
            here,
            name: b".",
            path: Vec::new(),
            owner,
        };
        self.finish_directory(&place, true)?;
        Ok(self.parents.look_at_root()?)
    }

    fn file(&mut self, place: &Place<'_>, content: &mut dyn Read) -> Tried<()> {
        let entry = place.entry;
        let to = self.create(place)?;
        // An entry that is a device, or not a regular file otherwise, has no content.
        match (&entry.extents, entry.kind) {
            (Some(extents), Kind::File) => {
                content::copy_sparse(content, &to, entry.size, extents, &mut self.buffer)?;
            }
            (None, Kind::File) => content::copy(content, &to, entry.size, &mut self.buffer)?,
            _ => {}
        }
        self.finish_file(place, &to)
    }

    /// Makes the file anew; what had its name is taken away first, so that no link is written through (CVE-2018-20990).
    fn create(&mut self, place: &Place<'_>) -> Tried<OwnedFd> {
        let mut flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        flags |= if is_on(Defence::LayerLinks) {
            OFlags::EXCL | OFlags::NOFOLLOW
        } else {
            OFlags::TRUNC
        };
        let mode = Mode::from_raw_mode(place.entry.mode & 0o777);
        let name = os(place.name);
        match rustix::fs::openat(&*place.here.fd, name, flags, mode) {
            Err(Errno::EXIST | Errno::ISDIR) => self.replace(place)?,
            made => return Ok(made.map_err(|e| create_error(place, e))?),
        };
        rustix::fs::openat(&*place.here.fd, name, flags, mode)
            .map_err(|e| create_error(place, e).into())
    }

    /// Takes away what has the entry's name, in this layer.
    pub(super) fn replace(&mut self, place: &Place<'_>) -> Tried<Removed> {
        let removed = remove(&place.here.fd, os(place.name))?;
        self.parents.forget();
        // What was noted of directories in it does no harm: it is done only to what is a directory then, and one that comes
        // after something else hides what is below anyway.
        self.replaced |= removed == Removed::Directory;
        Ok(removed)
    }

    fn directory(&mut self, place: &Place<'_>) -> Tried<()> {
        let mode = Mode::from_raw_mode(place.entry.mode & 0o777);
        let make = || rustix::fs::mkdirat(&*place.here.fd, os(place.name), mode);
        let existing = match make() {
            Ok(()) => false,
            Err(Errno::EXIST) => {
                let kept = self.is_directory(place)?;
                if !kept {
                    self.replace(place)?;
                    make().map_err(|e| mkdir_error(place, e))?;
                    // What is below the file, or was removed, is no part of it.
                    self.make_opaque(&place.here.fd, place.name, &place.path)?;
                }
                kept
            }
            Err(e) => return Err(mkdir_error(place, e).into()),
        };
        self.finish_directory(place, existing)
    }

    fn is_directory(&self, place: &Place<'_>) -> sys::Result<bool> {
        let stat = match is_on(Defence::LayerLinks) {
            true => stat_at(&*place.here.fd, place.name)?,
            false => rustix::fs::statat(&*place.here.fd, os(place.name), AtFlags::empty())
                .map_err(|e| sys::Error::new("fstatat", format!("{:?}", os(place.name)), e))?,
        };
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Metadata of a directory; what its later entries would change, or inherit, at the end.
    fn finish_directory(&mut self, place: &Place<'_>, existing: bool) -> Tried<()> {
        let acl = self.give_directory(place, existing)?;
        self.unsettled.implied.remove(&place.path);
        self.journal.add(&Record {
            path: place.path.clone(),
            time: place.entry.mtime,
            acl,
        })
    }

    fn symlink(&mut self, place: &Place<'_>) -> Tried<()> {
        let target = os(&place.entry.link);
        if target.is_empty() {
            return Err(Trouble::malformed("it is a symbolic link to nothing"));
        }
        self.make_anew(place, "symlinkat", || {
            rustix::fs::symlinkat(target, &*place.here.fd, os(place.name))
        })?;
        self.finish_by_name(place)
    }

    fn fifo(&mut self, place: &Place<'_>) -> Tried<()> {
        let mode = Mode::from_raw_mode(place.entry.mode & 0o777);
        self.make_anew(place, "mkfifoat", || {
            rustix::fs::mkfifoat(&*place.here.fd, os(place.name), mode)
        })?;
        self.finish_by_name(place)
    }

    /// Makes something with `make`, which fails with EEXIST where there is something.
    pub(super) fn make_anew(
        &mut self,
        place: &Place<'_>,
        call: &'static str,
        make: impl Fn() -> std::result::Result<(), Errno>,
    ) -> Tried<()> {
        let error = |e| sys::Error::new(call, format!("{:?}", os(place.name)), e);
        match make() {
            Err(Errno::EXIST) => {}
            made => return Ok(made.map_err(error)?),
        }
        self.replace(place)?;
        Ok(make().map_err(error)?)
    }

    /// What was left to the end.
    pub(super) fn apply_journal(&mut self) -> Tried<()> {
        let mut records = self.journal.replay()?;
        while let Some(record) = records.next()? {
            self.apply_record(&record)?;
        }
        Ok(())
    }
}

fn create_error(place: &Place<'_>, errno: Errno) -> sys::Error {
    let args = format!(
        "{:?}, O_CREAT|O_EXCL, {:o}",
        os(place.name),
        place.entry.mode
    );
    sys::Error::new("openat", args, errno)
}

fn mkdir_error(place: &Place<'_>, errno: Errno) -> sys::Error {
    let args = format!("{:?}, {:o}", os(place.name), place.entry.mode);
    sys::Error::new("mkdirat", args, errno)
}
