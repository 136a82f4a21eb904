//! Masked and read-only paths. Each is resolved once, to an fd, and covered there; a missing one is passed over.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::beneath::{Links, RootDir, is_directory};
use super::rootfs::Sources;
use crate::error::{Doing, Error, Result};
use crate::plan::Plan;
use crate::sys;
use crate::sys::defence::{self, Defence, is_on};
use crate::sys::mount as kernel;

const MASK_ATTRIBUTES: u64 = kernel::MOUNT_ATTR_RDONLY
    | kernel::MOUNT_ATTR_NOSUID
    | kernel::MOUNT_ATTR_NODEV
    | kernel::MOUNT_ATTR_NOEXEC;

/// Covers files with the verified /dev/null, directories with one empty read-only tmpfs that they share.
pub(super) fn mask_all(plan: &Plan, sources: &Sources, root: &RootDir) -> Result<()> {
    let mut empty: Option<OwnedFd> = None;
    for path in &plan.masked_paths {
        let what = || format!("cannot mask {path:?}");
        let Some(place) = find(root, path).doing(what)? else {
            continue;
        };
        if !is_directory(&place).doing(what)? {
            let of_the_image = null_of_the_image(root);
            let null = of_the_image
                .as_ref()
                .or_else(|| sources.null())
                .ok_or_else(|| Error::new(what()).because("/dev/null was not opened"));
            if null.is_err() && !is_on(Defence::VerifyNodes) {
                continue;
            }
            let null = null?;
            let mask = kernel::clone_tree(null, false, path).doing(what)?;
            kernel::attach(&mask, &place, path).doing(what)?;
            continue;
        }
        // A tree can be copied only once it is attached: the first directory gets the tmpfs, the others a copy of it.
        let mask = match &empty {
            Some(attached) => kernel::clone_tree(attached, false, path).doing(what)?,
            None => empty_directory(plan.mount_label.as_deref()).doing(what)?,
        };
        kernel::attach(&mask, &place, path).doing(what)?;
        empty.get_or_insert(mask);
    }
    Ok(())
}

/// What is not done: the mask is made of what the root filesystem has for /dev/null (CVE-2025-31133).
fn null_of_the_image(root: &RootDir) -> Option<OwnedFd> {
    if is_on(Defence::HostNodes) {
        return None;
    }
    root.open(Path::new("/dev/null"), Links::InRoot).ok()
}

fn empty_directory(label: Option<&str>) -> sys::Result<OwnedFd> {
    let mut context = kernel::FsContext::open("tmpfs")?;
    if let Some(label) = label {
        context.set_string("context", label)?;
    }
    context.set_string("size", "4k")?;
    context.set_string("nr_inodes", "1")?;
    context.set_string("mode", "555")?;
    context.mount(MASK_ATTRIBUTES)
}

/// Covers each path with a read-only copy of itself.
pub(super) fn make_all_readonly(paths: &[PathBuf], root: &RootDir) -> Result<()> {
    for path in paths {
        let what = || format!("cannot make {path:?} read-only");
        let Some(place) = find(root, path).doing(what)? else {
            continue;
        };
        let tree = kernel::clone_tree(&place, true, path).doing(what)?;
        if !is_on(Defence::ResolveOnce) {
            make_readonly_by_path(&tree, &place, path, root).doing(what)?;
            continue;
        }
        kernel::set_attributes(&tree, true, kernel::MOUNT_ATTR_RDONLY, 0, 0).doing(what)?;
        kernel::attach(&tree, &place, path).doing(what)?;
    }
    Ok(())
}

/// What is not done: it becomes read-only in its place, by the path, which may lead elsewhere by now (GHSA-3q8j-pf29-vwv8).
fn make_readonly_by_path(
    tree: &OwnedFd,
    place: &OwnedFd,
    path: &Path,
    root: &RootDir,
) -> sys::Result<()> {
    kernel::attach(tree, place, path)?;
    defence::linger();
    let again = root.open(path, Links::InRoot)?;
    kernel::set_attributes(&again, true, kernel::MOUNT_ATTR_RDONLY, 0, 0)
}

fn find(root: &RootDir, path: &Path) -> sys::Result<Option<OwnedFd>> {
    if !is_on(Defence::CoverPaths) {
        return Ok(None);
    }
    match root.open(path, Links::InRoot) {
        Err(error) if error.is(nix::libc::ENOENT) || error.is(nix::libc::ENOTDIR) => Ok(None),
        found => found.map(Some),
    }
}
