//! The attributes of mounts (mount_setattr(2)), and those that the host has locked.

use std::os::fd::OwnedFd;

use crate::error::{Doing, Result};
use crate::plan::{Atime, Attribute, Attributes, Mount, Note};
use crate::sys;
use crate::sys::mount as kernel;

/// Changes the attributes of a mount that is not new: its own, then those of the whole tree. What the kernel does not
/// let us change is told.
pub(super) fn change_both(tree: &OwnedFd, mount: &Mount) -> Result<Vec<Note>> {
    let mut refused = change(tree, &mount.attributes, false)?;
    refused.extend(change(tree, &mount.recursive_attributes, true)?);
    Ok(refused.iter().map(|name| locked(mount, name)).collect())
}

/// The bits that a new mount of these attributes begins with.
pub(super) fn bits(attributes: &Attributes) -> u64 {
    set_bits(&attributes.set) | atime_bits(attributes.atime)
}

/// Changes the attributes of a bind mount; returns the names of those that the host has locked.
///
/// In a less privileged mount namespace a mount keeps the restrictions it came with (mount_namespaces(7)): they can be
/// added to, not taken away.
fn change(tree: &OwnedFd, wanted: &Attributes, recursive: bool) -> Result<Vec<&'static str>> {
    let what = || "cannot change the mount's attributes".to_owned();
    let mut set = set_bits(&wanted.set);
    let mut clear = set_bits(&wanted.clear);
    let mut atime = wanted.atime;
    if !recursive {
        let present = present_bits(tree).doing(what)?;
        set &= !present.attributes;
        clear &= present.attributes;
        atime = atime.filter(|wanted| *wanted != present.atime);
    }
    let atime_clear = atime.map_or(0, |_| kernel::MOUNT_ATTR__ATIME);
    let all_set = set | atime_bits(atime);
    if all_set | clear | atime_clear == 0 {
        return Ok(Vec::new());
    }
    match kernel::set_attributes(tree, recursive, all_set, clear | atime_clear, 0) {
        Err(error) if error.is(nix::libc::EPERM) => {}
        changed => return changed.doing(what).map(|()| Vec::new()),
    }
    kernel::set_attributes(tree, recursive, set, 0, 0).doing(what)?;
    let mut refused = Vec::new();
    let clears = TABLE
        .iter()
        .filter(|(_, bit, _)| clear & bit != 0)
        .map(|(_, bit, name)| (0, *bit, *name));
    let times = atime.map(|_| (atime_bits(atime), atime_clear, "the access time option"));
    for (set, clear, name) in clears.chain(times) {
        match kernel::set_attributes(tree, recursive, set, clear, 0) {
            Err(error) if error.is(nix::libc::EPERM) => refused.push(name),
            changed => changed.doing(what)?,
        }
    }
    Ok(refused)
}

/// Attribute, its bit, and the option that clears it.
const TABLE: [(Attribute, u64, &str); 6] = [
    (Attribute::Ro, kernel::MOUNT_ATTR_RDONLY, "rw"),
    (Attribute::Nosuid, kernel::MOUNT_ATTR_NOSUID, "suid"),
    (Attribute::Nodev, kernel::MOUNT_ATTR_NODEV, "dev"),
    (Attribute::Noexec, kernel::MOUNT_ATTR_NOEXEC, "exec"),
    (
        Attribute::Nodiratime,
        kernel::MOUNT_ATTR_NODIRATIME,
        "diratime",
    ),
    (
        Attribute::Nosymfollow,
        kernel::MOUNT_ATTR_NOSYMFOLLOW,
        "symfollow",
    ),
];

fn set_bits(attributes: &[Attribute]) -> u64 {
    TABLE
        .iter()
        .filter(|(attribute, _, _)| attributes.contains(attribute))
        .fold(0, |bits, (_, bit, _)| bits | bit)
}

fn atime_bits(atime: Option<Atime>) -> u64 {
    match atime {
        None | Some(Atime::Relatime) => kernel::MOUNT_ATTR_RELATIME,
        Some(Atime::Noatime) => kernel::MOUNT_ATTR_NOATIME,
        Some(Atime::Strictatime) => kernel::MOUNT_ATTR_STRICTATIME,
    }
}

struct Present {
    attributes: u64,
    atime: Atime,
}

/// The attributes a mount has, as statvfs(3) shows them.
fn present_bits(tree: &OwnedFd) -> sys::Result<Present> {
    use rustix::fs::StatVfsMountFlags as Flags;
    /// ST_NOSYMFOLLOW of linux/statfs.h, which rustix has no name for.
    const NOSYMFOLLOW: Flags = Flags::from_bits_retain(0x2000);
    let shown = rustix::fs::fstatvfs(tree)
        .map_err(|e| sys::Error::new("fstatvfs", "mount", e))?
        .f_flag;
    let flags = [
        (Flags::RDONLY, kernel::MOUNT_ATTR_RDONLY),
        (Flags::NOSUID, kernel::MOUNT_ATTR_NOSUID),
        (Flags::NODEV, kernel::MOUNT_ATTR_NODEV),
        (Flags::NOEXEC, kernel::MOUNT_ATTR_NOEXEC),
        (Flags::NODIRATIME, kernel::MOUNT_ATTR_NODIRATIME),
        (NOSYMFOLLOW, kernel::MOUNT_ATTR_NOSYMFOLLOW),
    ];
    let attributes = flags
        .iter()
        .filter(|(flag, _)| shown.contains(*flag))
        .fold(0, |bits, (_, bit)| bits | bit);
    let atime = if shown.contains(Flags::NOATIME) {
        Atime::Noatime
    } else if shown.contains(Flags::RELATIME) {
        Atime::Relatime
    } else {
        Atime::Strictatime
    };
    Ok(Present { attributes, atime })
}

fn locked(mount: &Mount, option: &str) -> Note {
    Note {
        property: format!("{}/options", mount.property),
        reason: format!(
            "{option} was not applied to {:?}: the host's mount has a restriction that a user namespace must keep",
            mount.destination
        ),
        remedy: "use a source on a mount without that restriction, or drop the option".to_owned(),
        code: None,
    }
}
