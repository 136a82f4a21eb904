//! What the filesystem of the store takes: tried on a file without a name, of which nothing can be left.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::Report;
use crate::doctor::readings::Trial;
use crate::doctor::step::Step;
use crate::error::Doing;
use crate::sys;

/// Tries an extended attribute in `place`; returns the file, for more. Where no file can be made, nothing is tried.
pub(super) fn try_attributes(place: Option<&Path>, report: &mut Report) -> Option<OwnedFd> {
    let file = nameless(place?)?;
    let set = rustix::fs::fsetxattr(&file, "user.overlay.try", b"y", XattrFlags::empty())
        .map_err(|e| sys::Error::new("fsetxattr", "fd, \"user.overlay.try\"", e))
        .doing(|| "cannot set an extended attribute".to_owned());
    report.trial(Trial::Xattr, Step::Store, set);
    Some(file)
}

/// Tries to give `file` to a second id.
pub(super) fn try_owner(file: &OwnedFd, uid: u32, gid: u32, report: &mut Report) {
    let given = sys::path::change_owner(file, uid, gid)
        .doing(|| format!("cannot give a file to {uid}:{gid}"));
    report.trial(Trial::ChownStore, Step::Store, given);
}

fn nameless(place: &Path) -> Option<OwnedFd> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, place, flags | OFlags::TMPFILE, mode) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        made => return made.ok(),
    }
    // As on NFS. Its name is gone at once.
    let name = format!(".lodger-doctor-{}", sys::process::own_pid());
    let path = place.join(OsStr::new(&name));
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let made = rustix::fs::openat(CWD, &path, flags, mode).ok()?;
    rustix::fs::unlinkat(CWD, &path, AtFlags::empty()).ok()?;
    Some(made)
}
