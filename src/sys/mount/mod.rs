//! The mount API by file descriptor (fsopen(2), open_tree(2), mount_setattr(2), move_mount(2)) and pivot_root(2).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use super::{Error, Result};

pub use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
};
pub use libc::{MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};

/// Opens `path` as the place of a mount, without copying it: an O_PATH fd.
pub fn open_path(path: &Path) -> Result<OwnedFd> {
    rustix::mount::open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|e| Error::new("open_tree", format!("AT_FDCWD, {path:?}, 0"), e))
}

/// A detached copy of the mount at `place` (and of all beneath it, if `recursive`). `what` is for the message.
pub fn clone_tree(place: impl AsFd, recursive: bool, what: &Path) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(place, "", flags).map_err(|e| {
        let recursive = if recursive { "|AT_RECURSIVE" } else { "" };
        Error::new(
            "open_tree",
            format!("{what:?}, OPEN_TREE_CLONE{recursive}"),
            e,
        )
    })
}

/// A filesystem that is being configured (fsopen(2)).
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    fstype: String,
}

impl FsContext {
    /// Begins to configure a filesystem of type `fstype`.
    pub fn open(fstype: &str) -> Result<Self> {
        let fd = rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|e| Error::new("fsopen", format!("{fstype:?}"), e))?;
        let fstype = fstype.to_owned();
        Ok(Self { fd, fstype })
    }

    /// Sets a flag (`FSCONFIG_SET_FLAG`).
    pub fn set_flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(&self.fd, key)
            .map_err(|e| self.error(format!("FSCONFIG_SET_FLAG, {key:?}"), e))
    }

    /// Sets an option (`FSCONFIG_SET_STRING`).
    pub fn set_string(&self, key: &str, value: &str) -> Result<()> {
        rustix::mount::fsconfig_set_string(&self.fd, key, value)
            .map_err(|e| self.error(format!("FSCONFIG_SET_STRING, {key:?}, {value:?}"), e))
    }

    /// Sets an option to what `fd`, which may be O_PATH, is open on (`FSCONFIG_SET_FD`; O_PATH since Linux 6.14).
    pub fn set_fd(&self, key: &str, fd: impl AsFd) -> Result<()> {
        rustix::mount::fsconfig_set_fd(&self.fd, key, fd)
            .map_err(|e| self.error(format!("FSCONFIG_SET_FD, {key:?}, fd"), e))
    }

    /// Begins to change the filesystem of the mount that `place` is in (fspick(2)).
    pub fn of(place: impl AsFd) -> Result<Self> {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let fd = rustix::mount::fspick(place, "", flags)
            .map_err(|e| Error::new("fspick", "fd, \"\", FSPICK_EMPTY_PATH", e))?;
        let fstype = "the one that is mounted".to_owned();
        Ok(Self { fd, fstype })
    }

    /// Changes the filesystem (`FSCONFIG_CMD_RECONFIGURE`).
    pub fn reconfigure(self) -> Result<()> {
        rustix::mount::fsconfig_reconfigure(&self.fd)
            .map_err(|e| self.error("FSCONFIG_CMD_RECONFIGURE".to_owned(), e))
    }

    /// Creates the filesystem and a detached mount of it, with the `MOUNT_ATTR_…` bits of `attributes`.
    pub fn mount(self, attributes: u64) -> Result<OwnedFd> {
        rustix::mount::fsconfig_create(&self.fd)
            .map_err(|e| self.error("FSCONFIG_CMD_CREATE".to_owned(), e))?;
        let flags = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(u32::MAX));
        rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, flags)
            .map_err(|e| Error::new("fsmount", format!("{:?}, {attributes:#x}", self.fstype), e))
    }

    /// The kernel explains itself through the context's fd: its words go into the error.
    fn error(&self, args: String, errno: rustix::io::Errno) -> Error {
        let mut args = format!("{:?}, {args}", self.fstype);
        let mut message = [0u8; 512];
        while let Ok(count) = rustix::io::read(&self.fd, &mut message) {
            let text = String::from_utf8_lossy(&message[..count]);
            args.push_str(&format!(" /* {} */", text.trim().escape_debug()));
        }
        Error::new("fsconfig", args, errno)
    }
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
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation,
        userns_fd: 0,
    };
    mount_setattr(mount, recursive, &attr).map_err(|e| {
        let recursive = if recursive { "AT_RECURSIVE, " } else { "" };
        let args =
            format!("{recursive}set={set:#x}, clear={clear:#x}, propagation={propagation:#x}");
        Error::new("mount_setattr", args, e)
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
    mount_setattr(mount, recursive, &attr).map_err(|e| {
        let recursive = if recursive { "AT_RECURSIVE, " } else { "" };
        Error::new(
            "mount_setattr",
            format!("{recursive}MOUNT_ATTR_IDMAP, fd"),
            e,
        )
    })
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
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
    let found = rustix::fs::statx(place, "", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .map_err(|e| Error::new("statx", "fd, \"\", AT_EMPTY_PATH", e))?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Attaches the detached mount `mount` on `place`. `what` is for the message.
pub fn attach(mount: impl AsFd, place: impl AsFd, what: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags)
        .map_err(|e| Error::new("move_mount", format!("{what:?}"), e))
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
    rustix::process::chdir("/").map_err(|e| Error::new("chdir", "\"/\"", e))
}

/// Moves the mount at `root` over the root of the mount namespace and makes it this process's root (MS_MOVE, chroot(2)).
/// The old root stays beneath it.
pub fn move_root(root: impl AsFd) -> Result<()> {
    rustix::process::fchdir(&root).map_err(|e| Error::new("fchdir", "root", e))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&root, "", CWD, "/", flags)
        .map_err(|e| Error::new("move_mount", "root, \"/\"", e))?;
    rustix::process::chroot(".").map_err(|e| Error::new("chroot", "\".\"", e))?;
    rustix::process::chdir("/").map_err(|e| Error::new("chdir", "\"/\"", e))
}
