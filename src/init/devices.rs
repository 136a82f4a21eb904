//! Device nodes, bound from the host's verified ones, and the links of /dev.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;

use super::beneath::{Links, RootDir, make_file, split};
use super::rootfs::Sources;
use crate::error::{Doing, Result};
use crate::plan::{Link, Plan};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// Binds every device of the plan. A symbolic link on the way is refused (CVE-2026-41579).
pub(super) fn bind_all(plan: &Plan, sources: &Sources, root: &RootDir) -> Result<()> {
    let mut last: Option<(PathBuf, OwnedFd)> = None;
    for (device, node) in plan.devices.iter().zip(sources.devices()) {
        let what = || format!("cannot bind the device {:?}", device.path);
        if !is_on(Defence::HostNodes) && root.open(&device.path, Links::InRoot).is_ok() {
            continue;
        }
        let (directory, name) = split(&device.path);
        let parent = match last.take() {
            Some((path, fd)) if path == directory => fd,
            _ => root.make_dirs(&directory, Links::Refused).doing(what)?,
        };
        let place = match make_file(&parent, &name) {
            Err(_) if !is_on(Defence::RefuseLinks) => root.open(&device.path, Links::InRoot),
            made => made,
        };
        let place = place.doing(what)?;
        last = Some((directory, parent));
        let tree = sys::mount::clone_tree(node, false, &device.path).doing(what)?;
        sys::mount::attach(&tree, &place, &device.path).doing(what)?;
    }
    Ok(())
}

/// Makes the links, where what they point to is there (runtime-linux.md, "Dev symbolic links").
pub(super) fn link_all(plan: &Plan, root: &RootDir) -> Result<()> {
    for link in &plan.links {
        let what = || format!("cannot make the link {:?} -> {:?}", link.path, link.target);
        if !points_nowhere(link, root).doing(what)? {
            make_link(link, root).doing(what)?;
        }
    }
    Ok(())
}

/// The absolute targets lie in /proc/self, which is there only with a /proc mount.
fn points_nowhere(link: &Link, root: &RootDir) -> sys::Result<bool> {
    if !link.target.is_absolute() {
        return Ok(false);
    }
    let directory = if link.target.ends_with("fd") {
        link.target.as_path()
    } else {
        link.target.parent().unwrap_or(Path::new("/"))
    };
    match root.open(directory, Links::InRoot) {
        Ok(_) => Ok(false),
        Err(e) if [nix::libc::ENOENT, nix::libc::ENOTDIR, nix::libc::ELOOP].contains(&e.errno) => {
            Ok(true)
        }
        Err(e) => Err(e),
    }
}

fn make_link(link: &Link, root: &RootDir) -> sys::Result<()> {
    let (parent, name) = split(&link.path);
    let parent = root.make_dirs(&parent, Links::Refused)?;
    if is_same(&parent, &name, &link.target) {
        return Ok(());
    }
    if link.replace {
        match rustix::fs::unlinkat(&parent, &name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(sys::Error::new("unlinkat", format!("{name:?}"), e)),
        }
    }
    match rustix::fs::symlinkat(&link.target, &parent, &name) {
        Ok(()) => Ok(()),
        // What the root filesystem has in its place is the image's choice.
        Err(rustix::io::Errno::EXIST) if !link.replace => Ok(()),
        Err(e) => Err(sys::Error::new(
            "symlinkat",
            format!("{:?}, {name:?}", link.target),
            e,
        )),
    }
}

fn is_same(parent: &OwnedFd, name: &std::ffi::OsStr, target: &Path) -> bool {
    rustix::fs::readlinkat(parent, name, Vec::new())
        .is_ok_and(|found| found.to_bytes() == target.as_os_str().as_encoded_bytes())
}
