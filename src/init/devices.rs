//! Device nodes, bound from the host's verified ones, FIFOs, and the links of /dev.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat};

use super::beneath::{Links, RootDir, make_file, split};
use super::rootfs::Sources;
use crate::error::{Doing, Error, Result};
use crate::plan::{Asked, Device, Fifo, Link, Note, Plan};
use crate::spawn::line::{InitEnd, Report};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// The permission bits of a mode.
const PERMISSIONS: u32 = 0o7777;

/// The most that is read of a file of sysfs, in bytes.
const UEVENT_LIMIT: usize = 4096;

/// Opens the host's node of `device`, and makes sure it is the device it should be.
pub(super) fn open(device: &Device) -> Result<OwnedFd> {
    let error = match open_node(&device.path, device) {
        Err(error) if device.asked.is_some() => error,
        opened => return opened,
    };
    let Some(asked) = &device.asked else {
        return Err(error);
    };
    if let Some(path) = path_of_numbers(device) {
        return open_node(&path, device).map_err(|e| e.within(&asked.property));
    }
    let described = device.described();
    Err(error.within(&asked.property).hint(format!(
        "a user namespace can only be given devices that the host has: no other node in its /dev is {described} either"
    )))
}

/// The host's /dev/null, verified.
pub(super) fn open_null() -> Result<OwnedFd> {
    let null = Device {
        path: PathBuf::from("/dev/null"),
        block: false,
        major: 1,
        minor: 3,
        asked: None,
    };
    open_node(&null.path, &null)
}

fn open_node(path: &Path, device: &Device) -> Result<OwnedFd> {
    let what = || format!("cannot use the host's {}", path.display());
    let fd = sys::mount::open_path(path).doing(what)?;
    let stat = stat(&fd).doing(what)?;
    if is_device(&stat, device) || !is_on(Defence::VerifyNodes) {
        return Ok(fd);
    }
    Err(Error::new(what()).because(format!(
        "it is {}, not {}",
        describe(&stat),
        device.described()
    )))
}

/// The path of the host's node with the numbers of `device`, as the kernel names it (sysfs-dev(5), uevent).
fn path_of_numbers(device: &Device) -> Option<PathBuf> {
    let kind = if device.block { "block" } else { "char" };
    let path = format!("/sys/dev/{kind}/{}:{}/uevent", device.major, device.minor);
    let text = sys::path::read_regular(Path::new(&path), UEVENT_LIMIT).ok()?;
    let text = String::from_utf8(text).ok()?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    let path = Path::new("/dev").join(name);
    let plain = |part| matches!(part, Component::Normal(_) | Component::RootDir);
    (path.starts_with("/dev") && path.components().all(plain)).then_some(path)
}

fn stat(fd: impl AsFd) -> sys::Result<Stat> {
    rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH).map_err(|e| sys::Error::new("fstat", "fd", e))
}

fn is_device(stat: &Stat, device: &Device) -> bool {
    let kind = if device.block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    FileType::from_raw_mode(stat.st_mode) == kind
        && rustix::fs::major(stat.st_rdev) == device.major
        && rustix::fs::minor(stat.st_rdev) == device.minor
}

/// `CharacterDevice 1:3`, `RegularFile`, …
fn describe(stat: &Stat) -> String {
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::CharacterDevice | FileType::BlockDevice => format!(
            "{kind:?} {}:{}",
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev)
        ),
        _ => format!("{kind:?}"),
    }
}

/// Binds every device of the plan. A symbolic link on the way is refused (CVE-2026-41579).
pub(super) fn bind_all(
    plan: &Plan,
    sources: &Sources,
    root: &RootDir,
    line: &InitEnd,
) -> Result<()> {
    let mut last: Option<(PathBuf, OwnedFd)> = None;
    for (device, node) in plan.devices.iter().zip(sources.devices()) {
        let what = || match &device.asked {
            None => format!("cannot bind the device {:?}", device.path),
            Some(asked) => format!(
                "cannot bind the device {:?} ({})",
                device.path, asked.property
            ),
        };
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
        if let Some(asked) = &device.asked {
            require_free(&place, device).map_err(|e| e.within(what()))?;
            if let Some(note) = differences(node, device, asked).doing(what)? {
                line.send(&Report::Note(note)).doing(what)?;
            }
        }
        let tree = sys::mount::clone_tree(node, false, &device.path).doing(what)?;
        sys::mount::attach(&tree, &place, &device.path).doing(what)?;
    }
    Ok(())
}

/// What is there already must be what is asked for (config-linux.md, "Devices"). An empty file is a mount point, such
/// as an earlier container of this root filesystem has left.
fn require_free(place: &OwnedFd, device: &Device) -> Result<()> {
    let what = || "cannot examine what is there".to_owned();
    let found = stat(place).doing(what)?;
    let empty =
        FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_size == 0;
    super::mounts::refuse_procfs(place)?;
    if empty || is_device(&found, device) {
        return Ok(());
    }
    let what = format!(
        "there is something else already: {}, not {}",
        describe(&found),
        device.described()
    );
    Err(Error::new(what)
        .hint("take it out of the root filesystem, or give the device another path"))
}

/// What the host's node does not have of what is asked for.
fn differences(node: &OwnedFd, device: &Device, asked: &Asked) -> sys::Result<Option<Note>> {
    let mode = stat(node)?.st_mode & PERMISSIONS;
    let path = &device.path;
    if !sys::path::may_open(node)? {
        let reason = format!(
            "{path:?} is there, but the container's root may not open it: on the host its mode is {mode:o}, and it belongs to others"
        );
        let remedy = format!(
            "ask the administrator for \"setfacl -m u:YOU:rw\" on the host's node: a group that you are in does not reach into the container ({})",
            device.described()
        );
        return Ok(Some(Note::new(&asked.property, reason, remedy)));
    }
    let other = |id: Option<u32>| id.is_some_and(|id| id != 0);
    if asked.mode.is_none_or(|wanted| wanted == mode) && !other(asked.uid) && !other(asked.gid) {
        return Ok(None);
    }
    let reason = format!(
        "{path:?} keeps the owner, the group and the mode ({mode:o}) that it has on the host: it is the host's node, and not the container's to change"
    );
    let remedy = "take out fileMode, uid and gid, or have them changed on the host";
    Ok(Some(Note::new(&asked.property, reason, remedy)))
}

/// Makes the FIFOs of the plan. One that is there already serves, if it is as it is asked for.
pub(super) fn make_fifos(plan: &Plan, root: &RootDir) -> Result<()> {
    for fifo in &plan.fifos {
        let what = || format!("cannot make the FIFO {:?} ({})", fifo.path, fifo.property);
        let (directory, name) = split(&fifo.path);
        let parent = root.make_dirs(&directory, Links::Refused).doing(what)?;
        let made = sys::path::make_fifo(&parent, &name, fifo.mode).doing(what)?;
        let fd = sys::path::open_itself(&parent, &name).doing(what)?;
        finish_fifo(&fd, fifo, made).map_err(|e| e.within(what()))?;
    }
    Ok(())
}

fn finish_fifo(fd: &OwnedFd, fifo: &Fifo, made: bool) -> Result<()> {
    let what = || "cannot give it to its owner".to_owned();
    let found = stat(fd).doing(what)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    if kind == FileType::Fifo && made {
        return sys::path::change_owner(fd, fifo.uid, fifo.gid).doing(what);
    }
    let mode = found.st_mode & PERMISSIONS;
    let same = (mode, found.st_uid, found.st_gid) == (fifo.mode, fifo.uid, fifo.gid);
    if kind == FileType::Fifo && same {
        return Ok(());
    }
    let found = format!("{kind:?} {mode:o} {}:{}", found.st_uid, found.st_gid);
    let wanted = format!("{:o} {}:{}", fifo.mode, fifo.uid, fifo.gid);
    let what = format!("there is something else already: {found}, not Fifo {wanted}");
    Err(Error::new(what).hint("take it out of the root filesystem, or give the FIFO another path"))
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

fn is_same(parent: &OwnedFd, name: &OsStr, target: &Path) -> bool {
    rustix::fs::readlinkat(parent, name, Vec::new())
        .is_ok_and(|found| found.to_bytes() == target.as_os_str().as_encoded_bytes())
}
