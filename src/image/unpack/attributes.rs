//! Owner, mode, extended attributes and times, in this order: each takes away from the next.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Unpacker;
use super::entry::Place;
use super::journal::Record;
use super::names::{cut, names_of, os};
use super::parents::Way;
use super::trouble::{Tried, Trouble};
use super::xattrs::{self, ACL_ACCESS, ACL_DEFAULT, CAPABILITY, Judged};
use crate::image::merged::{open_at, stat_of};
use crate::image::tar::{Entry, Time};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// Set-user-id, set-group-id and sticky bits: not asked of open(2) and mkdir(2), which may leave them out.
const SPECIAL: u32 = 0o7000;

/// Metadata is never changed through a link (CVE-2026-33056).
fn at_itself() -> AtFlags {
    if is_on(Defence::LayerLinks) {
        AtFlags::SYMLINK_NOFOLLOW
    } else {
        AtFlags::empty()
    }
}

pub(super) fn own_at(directory: &OwnedFd, name: &[u8], uid: u32, gid: u32) -> sys::Result<()> {
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(directory, os(name), owner.0, owner.1, at_itself())
        .map_err(|e| sys::Error::new("fchownat", format!("{:?}, {uid}, {gid}", os(name)), e))
}

/// Changes the mode of what is known to be no link.
pub(super) fn change_mode_at(directory: &OwnedFd, name: &[u8], mode: u32) -> sys::Result<()> {
    rustix::fs::chmodat(
        directory,
        os(name),
        Mode::from_raw_mode(mode),
        AtFlags::empty(),
    )
    .map_err(|e| sys::Error::new("fchmodat", format!("{:?}, {mode:o}", os(name)), e))
}

pub(super) fn set_times_at(directory: &OwnedFd, name: &[u8], time: Time) -> sys::Result<()> {
    rustix::fs::utimensat(directory, os(name), &timestamps(time), at_itself())
        .map_err(|e| sys::Error::new("utimensat", format!("{:?}", os(name)), e))
}

/// The time of the last access is not in an archive: umoci, too, takes that of the last change.
pub(super) fn timestamps(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Does something in a directory that leaves its times as they are.
pub(super) fn keeping_times<T>(
    directory: &OwnedFd,
    change: impl FnOnce() -> sys::Result<T>,
) -> sys::Result<T> {
    let stat = stat_of(directory)?;
    let changed = change()?;
    rustix::fs::utimensat(directory, ".", &times_of(&stat), AtFlags::empty())
        .map_err(|e| sys::Error::new("utimensat", "fd, \".\"", e))?;
    Ok(changed)
}

/// The times in `stat`.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    let time = |tv_sec, nanoseconds: u64| Timespec {
        tv_sec,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Removes the ACLs that the destination got from the directory it is in: what is made in it would get them too.
pub(super) fn remove_acls(destination: &OwnedFd) -> sys::Result<()> {
    for name in [ACL_DEFAULT, ACL_ACCESS] {
        match rustix::fs::fremovexattr(destination, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(sys::Error::new("fremovexattr", format!("fd, {name}"), e)),
        }
    }
    Ok(())
}

impl Unpacker<'_> {
    /// Whether a new file does not get this owner by itself.
    fn needs_owner(&self, place: &Place<'_>) -> bool {
        place.owner != (self.fresh.uid, self.fresh.gid) || place.here.inherits
    }

    fn needs_mode(&self, mode: u32) -> bool {
        mode & SPECIAL != 0 || self.fresh.masked
    }

    pub(super) fn finish_file(&mut self, place: &Place<'_>, fd: &OwnedFd) -> Tried<()> {
        let (uid, gid) = place.owner;
        if self.needs_owner(place) {
            sys::path::change_owner(fd, uid, gid)?;
        }
        if self.needs_mode(place.entry.mode) {
            change_mode(fd, place.entry.mode)?;
        }
        self.give_xattrs(place.entry, fd)?;
        rustix::fs::futimens(fd, &timestamps(place.entry.mtime))
            .map_err(|e| sys::Error::new("futimens", format!("{:?}", os(place.name)), e))?;
        Ok(())
    }

    /// Of what cannot be opened: links and FIFOs, which have no extended attributes that are taken.
    pub(super) fn finish_by_name(&mut self, place: &Place<'_>) -> Tried<()> {
        let (uid, gid) = place.owner;
        if self.needs_owner(place) {
            own_at(&place.here.fd, place.name, uid, gid)?;
        }
        let is_link = place.entry.kind == crate::image::tar::Kind::Symlink;
        if !is_link && self.needs_mode(place.entry.mode) {
            change_mode_at(&place.here.fd, place.name, place.entry.mode)?;
        }
        for (name, _) in &place.entry.xattrs {
            self.report.drop_xattr(name);
        }
        Ok(set_times_at(&place.here.fd, place.name, place.entry.mtime)?)
    }

    /// All but the times of a directory, and but its default ACL, which it returns.
    pub(super) fn give_directory(&mut self, place: &Place<'_>, existing: bool) -> Tried<Vec<u8>> {
        let (uid, gid) = place.owner;
        let owner = existing || self.needs_owner(place);
        // A directory in one with the set-group-id bit got that bit.
        let mode = existing || self.needs_mode(place.entry.mode) || place.here.inherits;
        let xattrs = !place.entry.xattrs.is_empty() || self.is_squashed(place.entry);
        if !owner && !mode && !xattrs {
            return Ok(Vec::new());
        }
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if is_on(Defence::LayerLinks) {
            flags |= OFlags::NOFOLLOW;
        }
        let fd = open_at(&*place.here.fd, os(place.name), flags)?;
        if owner {
            sys::path::change_owner(&fd, uid, gid)?;
        }
        if mode {
            change_mode(&fd, place.entry.mode)?;
        }
        self.give_xattrs(place.entry, &fd)
    }

    /// Gives the entry's extended attributes, as far as they are taken; returns the default ACL.
    fn give_xattrs(&mut self, entry: &Entry, fd: &OwnedFd) -> Tried<Vec<u8>> {
        let mut default = Vec::new();
        for (name, value) in &entry.xattrs {
            match xattrs::judge(name, value, &self.how.owners) {
                Judged::Dropped => self.report.drop_xattr(name),
                Judged::Unmapped(id) => {
                    return Err(Trouble::refused(
                        format!(
                            "its ACL names the id {id}, and the caller's subordinate ids do not reach so far"
                        ),
                        "ask for more subordinate ids in /etc/subuid and /etc/subgid, or import with `--squash-owners`",
                    ));
                }
                Judged::Taken(value) if name == ACL_DEFAULT.as_bytes() => {
                    default = value.into_owned()
                }
                Judged::Taken(value) => self.give_xattr(fd, name, &value)?,
            }
        }
        if self.is_squashed(entry) && self.fresh.user_xattrs {
            let wanted = xattrs::rootless_owner(entry.uid, entry.gid);
            self.give_xattr(fd, xattrs::ROOTLESS.as_bytes(), &wanted)?;
        }
        Ok(default)
    }

    fn give_xattr(&mut self, fd: &OwnedFd, name: &[u8], value: &[u8]) -> Tried<()> {
        let error = |e| {
            sys::Error::new(
                "fsetxattr",
                format!("fd, {:?}, {} bytes", os(name), value.len()),
                e,
            )
        };
        match rustix::fs::fsetxattr(fd, os(name), value, XattrFlags::empty()) {
            Ok(()) => Ok(()),
            Err(e @ Errno::PERM) if name == CAPABILITY.as_bytes() => Err(error(e).into()),
            // What this filesystem, or this kind of file, cannot have.
            Err(Errno::OPNOTSUPP | Errno::PERM) => {
                self.report.drop_xattr(name);
                Ok(())
            }
            Err(e) => Err(error(e).into()),
        }
    }

    /// Does what the journal says of a directory, if it is still one.
    pub(super) fn apply_record(&mut self, record: &Record) -> Tried<()> {
        let (parent, mut name) = cut(&record.path);
        if name.is_empty() {
            name = b".";
        }
        let Some(here) = self.enter(&names_of(parent), Way::Find)? else {
            return Ok(());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        if self.replaced || !record.acl.is_empty() {
            let fd = match open_at(&*here.fd, os(name), flags) {
                Err(error) if error.is(libc::ENOENT) || error.is(libc::ENOTDIR) => return Ok(()),
                opened => opened?,
            };
            if !record.acl.is_empty() {
                self.give_xattr(&fd, ACL_DEFAULT.as_bytes(), &record.acl)?;
            }
        }
        Ok(set_times_at(&here.fd, name, record.time)?)
    }
}

pub(super) fn change_mode(fd: impl AsFd, mode: u32) -> sys::Result<()> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
        .map_err(|e| sys::Error::new("fchmod", format!("fd, {mode:o}"), e))
}
