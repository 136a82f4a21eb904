//! Namespaces: make, join, ask (namespaces(7), ioctl_nsfs(2)).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

use super::{Error, Result, fd};

/// The bits of clone(2), unshare(2) and setns(2).
pub mod flag {
    /// CLONE_NEWUSER.
    pub const USER: u32 = 0x1000_0000;
    /// CLONE_NEWNS.
    pub const MOUNT: u32 = 0x0002_0000;
    /// CLONE_NEWPID.
    pub const PID: u32 = 0x2000_0000;
    /// CLONE_NEWIPC.
    pub const IPC: u32 = 0x0800_0000;
    /// CLONE_NEWUTS.
    pub const UTS: u32 = 0x0400_0000;
    /// CLONE_NEWNET.
    pub const NETWORK: u32 = 0x4000_0000;
    /// CLONE_NEWCGROUP.
    pub const CGROUP: u32 = 0x0200_0000;
    /// CLONE_NEWTIME.
    pub const TIME: u32 = 0x0000_0080;
}

/// What fstatfs(2) says of every namespace file (linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

// linux/nsfs.h: _IO(0xb7, n)
const NS_GET_USERNS: libc::Ioctl = 0xb701;
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
const NS_GET_PARENT: libc::Ioctl = 0xb702;
const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;
// _IOR(0xb7, 13, __u64)
const NS_GET_ID: libc::Ioctl = 0x8008_b70d;

/// Leaves the present namespaces of the kinds in `flags` for new ones (unshare(2)).
pub fn unshare(flags: u32) -> Result<()> {
    // SAFETY: no flag that is passed here (CLONE_NEW…) shares or unshares memory or the fd table of other threads.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::from_bits_retain(flags)) }
        .map_err(|e| Error::new("unshare", describe(flags), e))
}

/// Joins the user namespace that `namespace` is an fd of.
pub fn join_user(namespace: BorrowedFd<'_>) -> Result<()> {
    rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))
        .map_err(|e| Error::new("setns", "fd, CLONE_NEWUSER", e))
}

/// Joins the namespaces of the kinds in `flags` of the process `pidfd`, all or none (setns(2)).
///
/// Before Linux 5.8, and with what stands in for a pidfd, they are joined one after the other: after an error this process may
/// be in some of them.
pub fn join_process(pidfd: BorrowedFd<'_>, flags: u32) -> Result<()> {
    if !super::pidfd::is_stand_in(pidfd) {
        let kinds = ThreadNameSpaceType::from_bits_retain(flags);
        match rustix::thread::move_into_thread_name_spaces(pidfd, kinds) {
            Ok(()) => return Ok(()),
            // Not known to be what a pidfd may be used for.
            Err(rustix::io::Errno::INVAL) if super::pidfd::number(pidfd).is_ok() => {}
            Err(e) => {
                let args = format!("pidfd, {}", describe(flags));
                return Err(Error::new("setns", args, e));
            }
        }
    }
    super::ns_each::join(pidfd, flags)
}

/// Joins the namespace that `namespace` is an fd of, which must be of the kind `flag` (setns(2)). The caller's children
/// are in a pid namespace that was joined, the caller is not.
pub fn join(namespace: impl AsFd, flag: u32) -> Result<()> {
    // SAFETY: setns takes plain integers; this program is single-threaded where it changes namespaces.
    let answer = unsafe { libc::setns(namespace.as_fd().as_raw_fd(), flag.cast_signed()) };
    if answer == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error();
    Err(Error::new(
        "setns",
        format!("fd, {}", describe(flag)),
        errno,
    ))
}

/// Opens the namespace file at `path`; `None` when something else is there, which is not touched: opening a FIFO or a
/// device may wait, or do something.
pub fn open(path: &Path) -> Result<Option<OwnedFd>> {
    let place = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::new("openat", format!("{path:?}, O_PATH"), e))?;
    let kind = rustix::fs::fstatfs(&place)
        .map_err(|e| Error::new("fstatfs", format!("{path:?}"), e))?
        .f_type;
    if u64::try_from(kind).unwrap_or(0) != NSFS_MAGIC {
        return Ok(None);
    }
    let again = format!("/proc/self/fd/{}", place.as_raw_fd());
    super::path::open_magic(Path::new(&again)).map(Some)
}

/// The kind of `namespace`, as a bit of [`flag`] (NS_GET_NSTYPE).
pub fn kind(namespace: impl AsFd) -> Result<u32> {
    // SAFETY: NS_GET_NSTYPE takes no argument and returns a number.
    let answer = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    if answer >= 0 {
        return Ok(answer.cast_unsigned());
    }
    let errno = std::io::Error::last_os_error();
    Err(Error::new("ioctl", "fd, NS_GET_NSTYPE", errno))
}

/// The parent of the user namespace `namespace` (NS_GET_PARENT). EPERM when it is not ours to see.
pub fn parent(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    related(namespace, NS_GET_PARENT, "NS_GET_PARENT")
}

/// The user namespace that owns `namespace` (NS_GET_USERNS). EPERM when it is neither the present one nor within it.
pub fn owning(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    related(namespace, NS_GET_USERNS, "NS_GET_USERNS")
}

fn related(namespace: BorrowedFd<'_>, request: libc::Ioctl, name: &str) -> Result<OwnedFd> {
    // SAFETY: these requests take no argument and return a new fd.
    let answer = unsafe { libc::ioctl(namespace.as_raw_fd(), request) };
    if answer >= 0 {
        return Ok(fd::owned(answer));
    }
    let errno = std::io::Error::last_os_error();
    Err(Error::new("ioctl", format!("fd, {name}"), errno))
}

/// The uid, as this process sees it, of the creator of the user namespace `namespace` (NS_GET_OWNER_UID).
pub fn owner(namespace: BorrowedFd<'_>) -> Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: NS_GET_OWNER_UID writes one uid_t to the address, which is valid for it.
    let answer = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) };
    if answer == 0 {
        return Ok(uid);
    }
    let errno = std::io::Error::last_os_error();
    Err(Error::new("ioctl", "fd, NS_GET_OWNER_UID", errno))
}

/// Device and inode of a namespace: what tells it from all others of this boot.
pub fn identity(namespace: impl AsFd) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(namespace).map_err(|e| Error::new("fstat", "namespace fd", e))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The number that no other namespace of this boot ever has (NS_GET_ID); `None` before Linux 6.18. Inodes are used again.
pub fn unique_id(namespace: impl AsFd) -> Option<u64> {
    let mut id = 0u64;
    // SAFETY: NS_GET_ID writes one u64 to the address, which is valid for it.
    let answer = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_ID, &raw mut id) };
    (answer == 0).then_some(id)
}

/// `CLONE_NEWUSER|CLONE_NEWNS|…`.
pub fn describe(flags: u32) -> String {
    const NAMES: [(u32, &str); 8] = [
        (flag::USER, "CLONE_NEWUSER"),
        (flag::MOUNT, "CLONE_NEWNS"),
        (flag::PID, "CLONE_NEWPID"),
        (flag::IPC, "CLONE_NEWIPC"),
        (flag::UTS, "CLONE_NEWUTS"),
        (flag::NETWORK, "CLONE_NEWNET"),
        (flag::CGROUP, "CLONE_NEWCGROUP"),
        (flag::TIME, "CLONE_NEWTIME"),
    ];
    let names: Vec<&str> = NAMES
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    names.join("|")
}
