//! The same by mount(2), for kernels and filters without the mount API by file descriptor.
//!
//! What would be attached nowhere is mounted in a tmpfs of this process's own, in its private mount namespace, where nobody
//! else comes: it has its attributes before it is moved to its place, and neither the container's paths nor the bundle's are
//! looked up again. mount(2) takes paths: those of /proc/self/fd lead to what an fd is open on, and nowhere else. After the
//! change of root, whose /proc may be anybody's, there is only ".".

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};

use super::flags::{self, Flags, Parameter, described, path_of};
use super::{Error, Result, attach, tree};

/// Where the tmpfs may be: directories that are root's, and that nothing looks into. The first is kept by the kernel only
/// because programs could see it once.
const PLACES: [&str; 3] = ["/proc/tty/ldisc", "/proc/fs", "/mnt"];

/// The tmpfs, and its place. A child in a mount namespace of its own must not use it.
static STAGING: OnceLock<(OwnedFd, &str)> = OnceLock::new();

/// The name of what is mounted in it next.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether the root was changed.
static PIVOTED: AtomicBool = AtomicBool::new(false);

/// Says that the root is changed: /proc is the container's from here on.
pub(super) fn root_is_changed() {
    PIVOTED.store(true, Ordering::Relaxed);
}

/// Where the tmpfs is that detached mounts are kept in, if there is one.
pub(super) fn staging_place() -> Option<&'static Path> {
    STAGING.get().map(|(_, place)| Path::new(*place))
}

/// Takes the tmpfs away, and what is mounted in it.
pub(super) fn clear_staging() -> Result<()> {
    let Some((_, place)) = STAGING.get() else {
        return Ok(());
    };
    rustix::mount::unmount(*place, rustix::mount::UnmountFlags::DETACH)
        .map_err(|e| Error::new("umount2", format!("{place:?}, MNT_DETACH"), e))
}

fn staging() -> Result<&'static OwnedFd> {
    if let Some((fd, _)) = STAGING.get() {
        return Ok(fd);
    }
    let made = make_staging()?;
    Ok(&STAGING.get_or_init(|| made).0)
}

fn make_staging() -> Result<(OwnedFd, &'static str)> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let mut missing = None;
    for place in PLACES {
        match mount("tmpfs", place, Some("tmpfs"), flags, "mode=700,size=64k") {
            Err(error) if error.is(libc::ENOENT) || error.is(libc::ENOTDIR) => {
                missing = Some(error);
            }
            Err(error) => return Err(error),
            Ok(()) => return open_staging(place).map(|fd| (fd, place)),
        }
    }
    Err(missing.unwrap_or_else(|| Error::new("mount", "\"tmpfs\"", libc::ENOENT)))
}

fn open_staging(place: &str) -> Result<OwnedFd> {
    let error = |e| Error::new("openat", format!("{place:?}, O_PATH"), e);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, place, flags, Mode::empty()).map_err(error)?;
    let kind = rustix::fs::fstatfs(&fd).map_err(error)?.f_type;
    let stat = rustix::fs::fstat(&fd).map_err(error)?;
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    if kind != libc::TMPFS_MAGIC || stat.st_mode & 0o7777 != 0o700 || !own {
        let args = format!("{place:?} /* not the tmpfs that was mounted there */");
        return Err(Error::new("openat", args, libc::ESTALE));
    }
    // A recursive bind mount of what is above it leaves it out.
    mount("", &path_of(fd.as_fd()), None, libc::MS_UNBINDABLE, "")?;
    Ok(fd)
}

/// An empty file or directory of the tmpfs, to mount on.
fn spot(directory: bool) -> Result<(String, OwnedFd)> {
    let staging = staging()?;
    let name = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
    if directory {
        rustix::fs::mkdirat(staging, &*name, Mode::RWXU)
            .map_err(|e| Error::new("mkdirat", format!("staging, {name:?}, 0700"), e))?;
    } else {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(staging, &*name, flags, Mode::RUSR)
            .map_err(|e| Error::new("openat", format!("staging, {name:?}, O_CREAT|O_EXCL"), e))?;
    }
    open_staged(&name).map(|fd| (name, fd))
}

/// What is mounted on the spot `name`, or the spot itself.
fn open_staged(name: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(staging()?, name, flags, Mode::empty())
        .map_err(|e| Error::new("openat", format!("staging, {name:?}, O_PATH"), e))
}

fn is_directory(fd: BorrowedFd<'_>) -> Result<bool> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)
        .map_err(|e| Error::new("fstat", "fd", e))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// open_tree(2) without a copy. Unlike open(2) with O_PATH alone, it makes an automounter mount what it has for `path`.
pub(super) fn open_path(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(CWD, path, flags | OFlags::DIRECTORY, Mode::empty()) {
        Err(rustix::io::Errno::NOTDIR) => rustix::fs::openat(CWD, path, flags, Mode::empty()),
        opened => opened,
    };
    opened.map_err(|e| Error::new("openat", format!("AT_FDCWD, {path:?}, O_PATH"), e))
}

/// open_tree(2) with OPEN_TREE_CLONE.
pub(super) fn clone_tree(place: BorrowedFd<'_>, recursive: bool, what: &Path) -> Result<OwnedFd> {
    let (name, spot) = spot(is_directory(place)?)?;
    let recursive = if recursive { libc::MS_REC } else { 0 };
    let flags = libc::MS_BIND | recursive;
    let target = path_of(spot.as_fd());
    mount(&path_of(place), &target, None, flags, "").map_err(|e| named(e, what))?;
    open_staged(&name)
}

/// move_mount(2).
pub(super) fn move_to(tree: BorrowedFd<'_>, place: BorrowedFd<'_>, what: &Path) -> Result<()> {
    mount(&path_of(tree), &path_of(place), None, libc::MS_MOVE, "").map_err(|e| named(e, what))
}

/// As [`super::move_root`] does it, in the directory that is to be the root.
pub(super) fn move_root() -> Result<()> {
    mount(".", "/", None, libc::MS_MOVE, "")
}

/// fsmount(2), of a filesystem that was told `parameters`.
pub(super) fn new_mount(
    fstype: &str,
    parameters: &[Parameter<'_>],
    attributes: u64,
) -> Result<OwnedFd> {
    let data = flags::data(fstype, parameters, false)?;
    let (name, spot) = spot(true)?;
    let flags = data.flags | flags::of_attributes(attributes);
    let source = data.source.unwrap_or_default();
    let target = path_of(spot.as_fd());
    let make = |flags| mount(&source, &target, Some(fstype), flags, &data.text);
    // Told to mount(2), MS_RDONLY is the filesystem's, which others may have mounted too. But where the host's mount is
    // read-only, the kernel makes no other.
    match make(flags & !libc::MS_RDONLY) {
        Err(error) if error.is(libc::EPERM) && flags & libc::MS_RDONLY != 0 => make(flags)?,
        made => made?,
    }
    let tree = open_staged(&name)?;
    if flags & libc::MS_RDONLY != 0 {
        change_mount(tree.as_fd(), flags & !data.flags)?;
    }
    Ok(tree)
}

/// fspick(2) and `FSCONFIG_CMD_RECONFIGURE`: what is not named stays as it is.
pub(super) fn reconfigure(place: BorrowedFd<'_>, parameters: &[Parameter<'_>]) -> Result<()> {
    /// ST_SYNCHRONOUS and ST_MANDLOCK of linux/statfs.h, which are as those of mount(2).
    const OF_SUPERBLOCK: u64 = libc::MS_SYNCHRONOUS | libc::MS_MANDLOCK;
    let data = flags::data("the one that is mounted", parameters, true)?;
    let shown = shown_flags(place)?;
    let mut flags = flags::of_statfs(shown) | (shown & OF_SUPERBLOCK) | data.flags;
    if tree::is_lazytime(place)? {
        flags |= libc::MS_LAZYTIME;
    }
    let target = path_of(place);
    mount("", &target, None, libc::MS_REMOUNT | flags, &data.text)
}

fn shown_flags(mount: BorrowedFd<'_>) -> Result<u64> {
    let shown = rustix::fs::fstatvfs(mount).map_err(|e| Error::new("fstatvfs", "mount", e))?;
    Ok(shown.f_flag.bits())
}

/// mount_setattr(2), of attributes.
pub(super) fn set_attributes(
    tree: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
) -> Result<()> {
    let present = flags::of_statfs(shown_flags(tree)?);
    let wanted = flags::changed(present, set, clear);
    // Of a mount that is nowhere, open_tree(2) or fsmount(2) has made it: mount(2) has to see it somewhere.
    match change_mount(tree, wanted) {
        Err(error) if error.is(libc::EINVAL) && !PIVOTED.load(Ordering::Relaxed) => {
            let (_, spot) = spot(is_directory(tree)?)?;
            attach(tree, &spot, Path::new("staging")).map_err(|_| error)?;
            change_mount(tree, wanted)?;
        }
        changed => changed?,
    }
    if !recursive {
        return Ok(());
    }
    // All or nothing, as mount_setattr(2).
    tree::change(tree, set, clear).map_err(|error| match change_mount(tree, present) {
        Ok(()) => error,
        Err(failed) => Error::new("mount", failed.args, libc::EIO),
    })
}

/// Gives the mount that `tree` is the root of these flags, and no others.
pub(super) fn change_mount(tree: BorrowedFd<'_>, flags: Flags) -> Result<()> {
    let flags = libc::MS_REMOUNT | libc::MS_BIND | flags;
    mount("", &target(tree)?, None, flags, "")
}

/// mount_setattr(2), of propagation.
pub(super) fn set_propagation(tree: BorrowedFd<'_>, recursive: bool, kind: u64) -> Result<()> {
    let recursive = if recursive { libc::MS_REC } else { 0 };
    mount("", &target(tree)?, None, kind | recursive, "")
}

/// A path of the mount `tree`. Once the root is changed, there is no other mount to be changed but the root.
fn target(tree: BorrowedFd<'_>) -> Result<String> {
    if !PIVOTED.load(Ordering::Relaxed) {
        return Ok(path_of(tree));
    }
    rustix::process::fchdir(tree).map_err(|e| Error::new("fchdir", "root", e))?;
    Ok(".".to_owned())
}

/// The error of a call that has only numbers for paths, with the name of what it is about.
fn named(mut error: Error, what: &Path) -> Error {
    error.args.push_str(&format!(" /* {what:?} */"));
    error
}

/// mount(2); what is empty is NULL.
fn mount(source: &str, target: &str, fstype: Option<&str>, flags: Flags, data: &str) -> Result<()> {
    let args = || {
        let shown = |text: &str| match text {
            "" => "NULL".to_owned(),
            text => format!("{text:?}"),
        };
        let fstype = shown(fstype.unwrap_or_default());
        let (source, flags, data) = (shown(source), described(flags), shown(data));
        format!("{source}, {target:?}, {fstype}, {flags}, {data}")
    };
    let text = |text: &str| {
        let text = CString::new(text).map_err(|_| Error::new("mount", args(), libc::EINVAL));
        text.map(|text| (!text.is_empty()).then_some(text))
    };
    let [source, target, fstype, data] = [
        text(source)?,
        text(target)?,
        text(fstype.unwrap_or_default())?,
        text(data)?,
    ];
    let pointer =
        |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: each pointer is NULL or that of a NUL-terminated string that outlives the call.
    let answer = unsafe {
        libc::mount(
            pointer(&source),
            pointer(&target),
            pointer(&fstype),
            flags,
            pointer(&data).cast(),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(Error::new("mount", args(), std::io::Error::last_os_error())),
    }
}
