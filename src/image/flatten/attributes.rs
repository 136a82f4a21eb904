//! What a file has besides content and owner.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::sys;

/// XATTR_LIST_MAX and XATTR_SIZE_MAX of linux/limits.h.
const MOST: usize = 64 << 10;

/// Which extended attributes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// All that an unpacked layer has.
    All,
    /// What steers neither the kernel nor another program, as when a layer is unpacked.
    Harmless,
}

/// The extended attributes of a file.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    pub(super) list: Vec<(OsString, Vec<u8>)>,
    /// Whether it has others.
    pub(super) incomplete: bool,
}

/// What becomes of the attribute `name`: taken, left out and told, left out.
fn judge(name: &[u8], taken: Taken) -> Option<bool> {
    // What overlayfs means holds for one layer, and labels are given by the kernel's own rules.
    let is_own = name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.");
    let is_label = name.starts_with(b"security.") && name != b"security.capability";
    if name.is_empty() || is_own || is_label {
        return None;
    }
    let is_harmless = name.starts_with(b"user.")
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_");
    Some(is_harmless || taken == Taken::All)
}

pub(super) fn read(from: &OwnedFd, taken: Taken) -> sys::Result<Xattrs> {
    let mut xattrs = Xattrs::default();
    // Most have none, or few.
    let mut names = vec![0; 256];
    let mut listed = rustix::fs::flistxattr(from, &mut names[..]);
    if listed == Err(Errno::RANGE) {
        names.resize(MOST, 0);
        listed = rustix::fs::flistxattr(from, &mut names[..]);
    }
    let length = match listed {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(xattrs),
        Ok(length) => length,
        Err(e) => return Err(sys::Error::new("flistxattr", "fd", e)),
    };
    let mut value = vec![0; MOST];
    for name in names[..length].split(|byte| *byte == 0) {
        match judge(name, taken) {
            Some(true) => {}
            told => {
                xattrs.incomplete |= told.is_some();
                continue;
            }
        }
        let name = OsStr::from_bytes(name);
        match rustix::fs::fgetxattr(from, name, &mut value[..]) {
            Ok(length) => xattrs
                .list
                .push((name.to_owned(), value[..length].to_vec())),
            Err(Errno::NODATA) => {}
            // Capabilities that hold in another user namespace alone (capabilities(7)).
            Err(Errno::OVERFLOW) => xattrs.incomplete = true,
            Err(e) => return Err(sys::Error::new("fgetxattr", format!("fd, {name:?}"), e)),
        }
    }
    Ok(xattrs)
}

/// Sets `xattrs`; false if the filesystem or the kernel would not take them all.
pub(super) fn write(to: &OwnedFd, xattrs: &[(OsString, Vec<u8>)]) -> sys::Result<bool> {
    let mut all = true;
    for (name, value) in xattrs {
        match rustix::fs::fsetxattr(to, name.as_os_str(), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::PERM) => all = false,
            // It is of ids that are none in this user namespace.
            Err(Errno::INVAL) if is_of_ids(name) => all = false,
            Err(e) => return Err(sys::Error::new("fsetxattr", format!("fd, {name:?}"), e)),
        }
    }
    Ok(all)
}

fn is_of_ids(name: &OsStr) -> bool {
    name == "security.capability" || name.as_bytes().starts_with(b"system.posix_acl_")
}

pub(super) fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
