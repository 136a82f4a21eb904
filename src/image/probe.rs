//! What the filesystem of a store can do, found by trying: names of filesystems say little, and servers differ.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::remove;
use crate::error::{Doing, Result};
use crate::sys;

/// What overlayfs needs of a filesystem, and what makes copies cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// The kind of filesystem, as far as it is known.
    pub filesystem: String,
    /// Whether files have extended attributes user.* (without them a layer has no opaque directories).
    pub user_xattrs: bool,
    /// Whether there can be whiteouts, character devices 0:0 (without them a layer cannot hide files).
    pub whiteouts: bool,
    /// Whether it can hold the upper directory of an overlay (overlayfs.rst, "Upper and Lower").
    pub upper: bool,
    /// Whether copies share their blocks (ioctl_ficlone(2)).
    pub reflinks: bool,
    /// Why not, for each of the first three that is not.
    pub why: Vec<String>,
}

/// Filesystems that people have stores on, by their number (statfs(2)).
const FILESYSTEMS: [(u64, &str); 16] = [
    (0xef53, "ext4"),
    (0x5846_5342, "XFS"),
    (0x9123_683e, "Btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x2fc1_2fc1, "ZFS"),
    (0x6969, "NFS"),
    (0x6573_5546, "FUSE"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x00c3_6400, "Ceph"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0xf15f, "eCryptfs"),
];

/// Tries what can be done in `directory`, in a new directory of its own that is removed again.
///
/// # Errors
/// The directory cannot be written to.
pub fn probe(directory: impl AsFd) -> Result<Abilities> {
    let directory = directory.as_fd();
    let what = || "cannot try what the filesystem can do".to_owned();
    let name = format!(".try-{}", sys::process::own_pid());
    let name = OsStr::new(&name);
    // One that was killed here had the same number.
    remove::tree(directory, name).doing(what)?;
    rustix::fs::mkdirat(directory, name, Mode::RWXU)
        .map_err(|e| sys::Error::new("mkdirat", format!("{name:?}, 0700"), e))
        .doing(what)?;
    let tried = open(directory, name, OFlags::RDONLY | OFlags::DIRECTORY)
        .and_then(|place| try_all(&place))
        .doing(what);
    remove::tree(directory, name).doing(what)?;
    tried
}

fn try_all(place: &OwnedFd) -> sys::Result<Abilities> {
    let filesystem = rustix::fs::fstatfs(place)
        .map_err(|e| sys::Error::new("fstatfs", "fd", e))?
        .f_type;
    let mut can = Abilities {
        filesystem: name_of(filesystem),
        ..Abilities::default()
    };
    let make = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let one = open(place.as_fd(), OsStr::new("one"), make)?;

    let mut missing = Vec::new();
    can.user_xattrs = may(
        rustix::fs::fsetxattr(&one, "user.overlay.try", b"y", XattrFlags::empty()),
        "extended attributes user.*",
        &mut missing,
    );
    can.whiteouts = may(
        rustix::fs::mknodat(place, "two", FileType::CharacterDevice, Mode::empty(), 0),
        "character devices 0:0",
        &mut missing,
    );
    let mut missing_of_upper = Vec::new();
    let renamed = rustix::fs::renameat_with(place, "one", place, "three", RenameFlags::WHITEOUT);
    let exchanges = may(
        renamed,
        "renaming with RENAME_WHITEOUT",
        &mut missing_of_upper,
    );
    let types = has_types(place)?;
    if !types {
        missing_of_upper.push("the types of files in directories".to_owned());
    }
    can.upper = can.user_xattrs && can.whiteouts && exchanges && types;
    can.reflinks = shares(place, &one, make)?;
    let why = |missing: &String| format!("{} has no {missing}", can.filesystem);
    can.why = missing.iter().chain(&missing_of_upper).map(why).collect();
    Ok(can)
}

/// Whether it was done; if not, what is missing is noted with the kernel's answer.
fn may(answer: rustix::io::Result<()>, what: &str, missing: &mut Vec<String>) -> bool {
    if let Err(error) = answer {
        missing.push(format!("{what} ({error})"));
        return false;
    }
    true
}

/// Whether a directory tells the types of its files (d_type of getdents64(2)), which overlayfs wants.
fn has_types(place: &OwnedFd) -> sys::Result<bool> {
    let error = |e| sys::Error::new("getdents64", "fd", e);
    for entry in Dir::read_from(place).map_err(error)? {
        if entry.map_err(error)?.file_type() == FileType::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a file can share a block of another.
fn shares(place: &OwnedFd, one: &OwnedFd, make: OFlags) -> sys::Result<bool> {
    match rustix::io::pwrite(one, &[b'x'; 4096], 0) {
        Ok(_) => {}
        Err(Errno::NOSPC | Errno::DQUOT) => return Ok(false),
        Err(e) => return Err(sys::Error::new("pwrite64", "fd, 4096 bytes", e)),
    }
    let other = open(place.as_fd(), OsStr::new("four"), make)?;
    Ok(rustix::fs::ioctl_ficlone(&other, one).is_ok())
}

fn open(directory: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> sys::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| sys::Error::new("openat", format!("{name:?}, {flags:?}"), e))
}

/// What people call the filesystem with this number (statfs(2)).
#[allow(
    clippy::cast_sign_loss,
    clippy::useless_conversion,
    reason = "a number of 32 bits, of another type on other machines"
)]
pub fn name_of(number: rustix::fs::FsWord) -> String {
    let number = i64::from(number) as u64 & 0xffff_ffff;
    let known = FILESYSTEMS.iter().find(|(known, _)| *known == number);
    known.map_or_else(
        || format!("the filesystem ({number:#x})"),
        |(_, name)| (*name).to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &OwnedFd) -> usize {
        Dir::read_from(directory).unwrap().count()
    }

    #[test]
    fn abilities_are_what_the_filesystem_shows() {
        let directory = tempfile::tempdir().unwrap();
        let fd: OwnedFd = std::fs::File::open(directory.path()).unwrap().into();
        let before = names(&fd);
        let can = probe(&fd).unwrap();
        assert_eq!(names(&fd), before, "something was left");
        assert_eq!(can.why.is_empty(), can.upper, "{can:?}");
        // As the tests of layers find it too.
        let xattr = rustix::fs::fsetxattr(&fd, "user.a", b"b", XattrFlags::empty());
        assert_eq!(can.user_xattrs, xattr.is_ok(), "{can:?}");
        assert_eq!(probe(&fd).unwrap(), can);
    }

    #[test]
    fn what_is_missing_is_told() {
        // Nothing can be made in procfs.
        let fd: OwnedFd = std::fs::File::open("/proc/self").unwrap().into();
        let error = probe(&fd).unwrap_err();
        assert!(error.message().contains("mkdirat"), "{error}");
        let mut missing = Vec::new();
        assert!(!may(Err(Errno::OPNOTSUPP), "thing", &mut missing));
        assert!(missing[0].starts_with("thing ("), "{missing:?}");
        assert_eq!(name_of(0x6969), "NFS");
        assert!(name_of(0x7777).contains("0x7777"));
    }
}
