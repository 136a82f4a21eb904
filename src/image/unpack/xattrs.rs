//! Which extended attributes of a layer are taken, and what they become in the caller's namespace. Pure.

use std::borrow::Cow;

use crate::image::Owners;
use crate::sys::defence::{Defence, is_on};

pub(super) const CAPABILITY: &str = "security.capability";
pub(super) const ACL_ACCESS: &str = "system.posix_acl_access";
pub(super) const ACL_DEFAULT: &str = "system.posix_acl_default";
/// Where the owner is kept that a file should have had (rootlesscontainers.proto).
pub(super) const ROOTLESS: &str = "user.rootlesscontainers";

/// What becomes of an attribute.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged<'v> {
    /// It is set, to this.
    Taken(Cow<'v, [u8]>),
    /// It is not set, but counted.
    Dropped,
    /// It names an id that the map does not have.
    Unmapped(u32),
}

/// Judges the attribute `name`. What steers overlayfs, a security module or another program is dropped.
pub(super) fn judge<'v>(name: &[u8], value: &'v [u8], owners: &Owners) -> Judged<'v> {
    let taken = Judged::Taken(Cow::Borrowed(value));
    if !is_on(Defence::LayerXattrs) {
        return taken;
    }
    match std::str::from_utf8(name) {
        Ok(CAPABILITY) => capability(value, owners),
        Ok(ACL_ACCESS | ACL_DEFAULT) => acl(value, owners),
        Ok(ROOTLESS) => Judged::Dropped,
        Ok(name) if name.starts_with("user.overlay.") => Judged::Dropped,
        Ok(name) if name.starts_with("user.") => taken,
        // Not every name is UTF-8.
        Err(_) if name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") => taken,
        _ => Judged::Dropped,
    }
}

/// File capabilities (vfs_cap_data of linux/capability.h): they hold for the container's root, so they become version 3
/// with its id on the host. The kernel would take version 2 only for uid 0 of the namespace, which need not have one.
fn capability<'v>(value: &[u8], owners: &Owners) -> Judged<'v> {
    const VERSION: u32 = 0xff00_0000;
    const VERSION_2: u32 = 0x0200_0000;
    const VERSION_3: u32 = 0x0300_0000;
    const LENGTH_2: usize = 20;
    let word = |at: usize| {
        let bytes = value.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let Some(magic) = word(0) else {
        return Judged::Dropped;
    };
    let root = match (magic & VERSION, value.len(), word(LENGTH_2)) {
        (VERSION_2, LENGTH_2, None) => 0,
        (VERSION_3, 24, Some(root)) => root,
        _ => return Judged::Dropped,
    };
    let Some((root, _)) = owners.on_disk(root, 0) else {
        return Judged::Dropped;
    };
    let mut made = (magic & !VERSION | VERSION_3).to_le_bytes().to_vec();
    made.extend_from_slice(&value[4..LENGTH_2]);
    made.extend_from_slice(&root.to_le_bytes());
    Judged::Taken(Cow::Owned(made))
}

/// An ACL (linux/posix_acl_xattr.h), with the ids that the named users and groups have on the disk.
fn acl<'v>(value: &[u8], owners: &Owners) -> Judged<'v> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    const HEADER: usize = 4;
    const ENTRY: usize = 8;
    let Some((header, entries)) = value.split_at_checked(HEADER) else {
        return Judged::Dropped;
    };
    if header != 2_u32.to_le_bytes() || entries.len() % ENTRY != 0 {
        return Judged::Dropped;
    }
    let mut made = header.to_vec();
    for entry in entries.chunks_exact(ENTRY) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let mapped = match tag {
            USER | GROUP if matches!(owners, Owners::Squashed { .. }) => return Judged::Dropped,
            USER => owners.on_disk(id, 0).map(|(uid, _)| uid),
            GROUP => owners.on_disk(0, id).map(|(_, gid)| gid),
            _ => Some(id),
        };
        let Some(mapped) = mapped else {
            return Judged::Unmapped(id);
        };
        made.extend_from_slice(&entry[..4]);
        made.extend_from_slice(&mapped.to_le_bytes());
    }
    Judged::Taken(Cow::Owned(made))
}

/// `message Resource { uint32 uid = 1; uint32 gid = 2; }`, without the fields that are 0.
pub(super) fn rootless_owner(uid: u32, gid: u32) -> Vec<u8> {
    let mut message = Vec::new();
    for (tag, mut id) in [(0x08_u8, uid), (0x10, gid)] {
        if id == 0 {
            continue;
        }
        message.push(tag);
        loop {
            let low = id.to_le_bytes()[0] & 0x7f;
            id >>= 7;
            message.push(if id == 0 { low } else { low | 0x80 });
            if id == 0 {
                break;
            }
        }
    }
    message
}

#[cfg(test)]
#[path = "xattrs_tests.rs"]
mod tests;
