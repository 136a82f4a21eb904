//! The mount API by file descriptor (fsopen(2), open_tree(2), mount_setattr(2), move_mount(2)) and pivot_root(2).
//!
//! A call of it that this kernel does not have (Linux 5.2, mount_setattr(2) 5.12), or that a filter refuses, is made by
//! mount(2) instead ([`legacy`]), with the same meaning; each call by itself.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::{Error, Result};
use call::{Call, context_is_known_missing};

mod call;
mod context;
mod flags;
mod legacy;
mod table;
mod tree;

pub use context::FsContext;

pub use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
};
pub use libc::{MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};

/// Opens `path` as the place of a mount, without copying it: an O_PATH fd.
pub fn open_path(path: &Path) -> Result<OwnedFd> {
    let opened = Call::OpenTree.attempt(|| {
        rustix::mount::open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(|e| Error::new("open_tree", format!("AT_FDCWD, {path:?}, 0"), e))
    });
    opened.unwrap_or_else(|| legacy::open_path(path))
}

/// A detached copy of the mount at `place` (and of all beneath it, if `recursive`). `what` is for the message.
pub fn clone_tree(place: impl AsFd, recursive: bool, what: &Path) -> Result<OwnedFd> {
    let place = place.as_fd();
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let copied = Call::OpenTree.attempt(|| {
        rustix::mount::open_tree(place, "", flags).map_err(|e| {
            let recursive = if recursive { "|AT_RECURSIVE" } else { "" };
            let args = format!("{what:?}, OPEN_TREE_CLONE{recursive}");
            Error::new("open_tree", args, e)
        })
    });
    copied.unwrap_or_else(|| legacy::clone_tree(place, recursive, what))
}

/// Changes the attributes of the mount that `mount` is the root of (and of all beneath it, if `recursive`).
///
/// `set` and `clear` are `MOUNT_ATTR_…` bits, `propagation` one of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`,
/// `MS_UNBINDABLE` or 0. EPERM: an attribute is locked by a more privileged mount namespace (mount_namespaces(7)).
pub fn set_attributes(
    mount: impl AsFd,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> Result<()> {
    let mount = mount.as_fd();
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation,
        userns_fd: 0,
    };
    let made = Call::SetAttributes.attempt(|| {
        mount_setattr(mount, recursive, &attr).map_err(|e| {
            let recursive = if recursive { "AT_RECURSIVE, " } else { "" };
            let args =
                format!("{recursive}set={set:#x}, clear={clear:#x}, propagation={propagation:#x}");
            Error::new("mount_setattr", args, e)
        })
    });
    made.unwrap_or_else(|| {
        if set | clear != 0 {
            legacy::set_attributes(mount, recursive, set, clear)?;
        }
        match propagation {
            0 => Ok(()),
            kind => legacy::set_propagation(mount, recursive, kind),
        }
    })
}

/// Lets the ids of the mount that `mount` is the root of (and of all beneath it, if `recursive`) be seen through the map
/// of `user_namespace` (`MOUNT_ATTR_IDMAP`, Linux 5.12).
///
/// The mount must be attached nowhere. EPERM: the filesystem was mounted in a user namespace that this process is not
/// root in. EINVAL: filesystems of its type have no id maps.
pub fn set_id_map(mount: impl AsFd, recursive: bool, user_namespace: impl AsFd) -> Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(user_namespace.as_fd().as_raw_fd().unsigned_abs()),
    };
    let made = Call::SetAttributes.attempt(|| {
        mount_setattr(mount, recursive, &attr).map_err(|e| {
            let recursive = if recursive { "AT_RECURSIVE, " } else { "" };
            let args = format!("{recursive}MOUNT_ATTR_IDMAP, fd");
            Error::new("mount_setattr", args, e)
        })
    });
    made.unwrap_or_else(|| {
        Err(Error::new(
            "mount_setattr",
            "MOUNT_ATTR_IDMAP",
            libc::ENOSYS,
        ))
    })
}

/// Whether [`set_id_map`] can do anything, as far as is known by now: mount(2) has nothing like it, and no mount that is
/// attached somewhere, as those that it makes are, can have an id map.
pub fn may_map_ids() -> bool {
    let needed = [Call::OpenTree, Call::MoveMount, Call::SetAttributes];
    !context_is_known_missing() && !needed.iter().any(|call| call.is_known_missing())
}

fn mount_setattr(
    mount: impl AsFd,
    recursive: bool,
    attr: &libc::mount_attr,
) -> std::io::Result<()> {
    let recursive_flag = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, `attr` outlives the call and its true size is passed.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive_flag,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Whether `place` is the root of a mount (statx(2), STATX_ATTR_MOUNT_ROOT).
pub fn is_mount(place: impl AsFd) -> Result<bool> {
    tree::is_mount(place.as_fd())
}

/// Attaches the detached mount `mount` on `place`. `what` is for the message.
pub fn attach(mount: impl AsFd, place: impl AsFd, what: &Path) -> Result<()> {
    let (mount, place) = (mount.as_fd(), place.as_fd());
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let moved = Call::MoveMount.attempt(|| {
        rustix::mount::move_mount(mount, "", place, "", flags)
            .map_err(|e| Error::new("move_mount", format!("{what:?}"), e))
    });
    moved.unwrap_or_else(|| legacy::move_to(mount, place, what))
}

/// Where this process keeps its detached mounts, if it has none by fd: a tmpfs that hides nothing.
pub fn staging_place() -> Option<&'static Path> {
    legacy::staging_place()
}

/// Makes every mount of this mount namespace a slave: nothing we mount reaches the host.
pub fn make_all_slave() -> Result<()> {
    let flags = MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM;
    rustix::mount::mount_change("/", flags)
        .map_err(|e| Error::new("mount", "NULL, \"/\", NULL, MS_REC|MS_SLAVE, NULL", e))
}

/// Makes the mount at `root` the root of the mount namespace and drops the old root (pivot_root(2), "." ".").
pub fn pivot_root(root: impl AsFd) -> Result<()> {
    rustix::process::fchdir(root).map_err(|e| Error::new("fchdir", "root", e))?;
    rustix::process::pivot_root(".", ".")
        .map_err(|e| Error::new("pivot_root", "\".\", \".\"", e))?;
    // The old root now lies on top of the new one, at ".".
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .map_err(|e| Error::new("umount2", "\".\", MNT_DETACH", e))?;
    legacy::root_is_changed();
    rustix::process::chdir("/").map_err(|e| Error::new("chdir", "\"/\"", e))
}

/// Moves the mount at `root` over the root of the mount namespace and makes it this process's root (MS_MOVE, chroot(2)).
/// The old root stays beneath it.
pub fn move_root(root: impl AsFd) -> Result<()> {
    rustix::process::fchdir(&root).map_err(|e| Error::new("fchdir", "root", e))?;
    legacy::clear_staging()?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let moved = Call::MoveMount.attempt(|| {
        rustix::mount::move_mount(&root, "", CWD, "/", flags)
            .map_err(|e| Error::new("move_mount", "root, \"/\"", e))
    });
    moved.unwrap_or_else(legacy::move_root)?;
    legacy::root_is_changed();
    rustix::process::chroot(".").map_err(|e| Error::new("chroot", "\".\"", e))?;
    rustix::process::chdir("/").map_err(|e| Error::new("chdir", "\"/\"", e))
}
