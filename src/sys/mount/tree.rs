//! Attributes of all mounts of a tree, one by one. Each is opened by its path, and known by its id: a path may lead elsewhere
//! by the time it is used, an id does not.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};

use super::flags::{Flags, changed, path_of};
use super::table::{self, Entry};
use super::{Error, Result, legacy};
use crate::sys::path::read_regular;

const TABLE: &str = "/proc/self/mountinfo";

/// The most that is read of the mount table, in bytes.
const LIMIT: usize = 4 << 20;

fn read_table() -> Result<Vec<Entry>> {
    let text = read_regular(Path::new(TABLE), LIMIT)?;
    let unknown = || Error::new("read", format!("{TABLE:?} /* unknown format */"), libc::EIO);
    table::parse(&text).ok_or_else(unknown)
}

/// The id, as in the mount table, of the mount that `fd`, which may be O_PATH, is open in. `None`: the kernel does not tell,
/// before Linux 5.8.
fn mount_id(fd: BorrowedFd<'_>) -> Option<u64> {
    let known = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok();
    let told = known.filter(|known| known.stx_mask & StatxFlags::MNT_ID.bits() != 0);
    if let Some(told) = told {
        return Some(told.stx_mnt_id);
    }
    let path = path_of(fd).replace("/fd/", "/fdinfo/");
    let text = String::from_utf8(read_regular(Path::new(&path), LIMIT).ok()?).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}

/// Where `fd` is in this process's mount namespace, as far as it is there.
fn place_of(fd: BorrowedFd<'_>) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let path = path_of(fd);
    let target = rustix::fs::readlinkat(CWD, &*path, Vec::new())
        .map_err(|e| Error::new("readlink", format!("{path:?}"), e))?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(
        target.into_bytes(),
    )))
}

/// The mount that `tree` is the root of.
fn find<'t>(entries: &'t [Entry], tree: BorrowedFd<'_>) -> Result<&'t Entry> {
    let found = match mount_id(tree) {
        Some(id) => entries.iter().find(|entry| entry.id == id),
        // Nobody but this process mounts anything in the tmpfs: there, a path is as good.
        None => {
            let place = place_of(tree)?;
            let ours = legacy::staging_place().is_some_and(|staging| place.starts_with(staging));
            entries.iter().rfind(|entry| ours && entry.point == place)
        }
    };
    let unknown = || {
        let args = format!(
            "{TABLE:?} /* the mount of fd {} is not in it */",
            path_of(tree)
        );
        Error::new("read", args, libc::ENOSYS)
    };
    found.ok_or_else(unknown)
}

/// Whether the filesystem that `tree` is the root of a mount of is `lazytime`.
pub(super) fn is_lazytime(tree: BorrowedFd<'_>) -> Result<bool> {
    let entries = read_table()?;
    find(&entries, tree).map(|entry| entry.lazytime)
}

/// Whether `place` is the root of a mount.
pub(super) fn is_mount(place: BorrowedFd<'_>) -> Result<bool> {
    let stat = rustix::fs::statx(place, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    match stat {
        Ok(stat)
            if stat
                .stx_attributes_mask
                .contains(StatxAttributes::MOUNT_ROOT) =>
        {
            Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        // Before Linux 5.8.
        Ok(_) | Err(rustix::io::Errno::NOSYS) => {
            let path = place_of(place)?;
            Ok(read_table()?.iter().any(|entry| entry.point == path))
        }
        Err(e) => Err(Error::new("statx", "fd, \"\", AT_EMPTY_PATH", e)),
    }
}

/// Changes the attributes of all mounts beneath the one that `tree` is the root of, or of none.
pub(super) fn change(tree: BorrowedFd<'_>, set: u64, clear: u64) -> Result<()> {
    /// How often the table may have changed under our hands.
    const TRIES: u32 = 16;
    let mut done = Vec::new();
    let mut tries = 0;
    loop {
        match change_once(tree, set, clear, &mut done) {
            Err(error) if error.is(libc::ESTALE) && tries < TRIES => tries += 1,
            Err(error) => return Err(undo(&done, error)),
            Ok(()) => return Ok(()),
        }
    }
}

fn change_once(
    tree: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    done: &mut Vec<(OwnedFd, Flags)>,
) -> Result<()> {
    let entries = read_table()?;
    let top = find(&entries, tree)?;
    for entry in table::beneath(&entries, top.id) {
        let wanted = changed(entry.flags, set, clear);
        if wanted == entry.flags {
            continue;
        }
        let mount = open(entry)?;
        legacy::change_mount(mount.as_fd(), wanted)?;
        done.push((mount, entry.flags));
    }
    Ok(())
}

/// ESTALE: something else is there.
fn open(entry: &Entry) -> Result<OwnedFd> {
    let point = &entry.point;
    let error = |errno: i32| Error::new("openat", format!("{point:?}, O_PATH"), errno);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(CWD, point, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            return Err(error(libc::ESTALE));
        }
        opened => opened.map_err(|e| error(e.raw_os_error()))?,
    };
    match mount_id(fd.as_fd()) {
        Some(id) if id == entry.id => Ok(fd),
        Some(_) => Err(error(libc::ESTALE)),
        None => Err(error(libc::ENOSYS)),
    }
}

/// Gives the mounts back what they had, the last one first. What that cannot be done for is another error than `error`.
fn undo(done: &[(OwnedFd, Flags)], error: Error) -> Error {
    for (mount, flags) in done.iter().rev() {
        if let Err(failed) = legacy::change_mount(mount.as_fd(), *flags) {
            return Error::new("mount", failed.args, libc::EIO);
        }
    }
    error
}
