//! New filesystems, by the mount API (fsopen(2)), and why the kernel refuses one.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::attributes;
use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::host::{Revealing, listed, parse_mountinfo, too_revealing};
use crate::plan::{Attributes, Layers, Mount, Note, UNMASK, joined_layers, no_sys_note, sys_note};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::mount as kernel;

/// The most that is read of the mount table, in bytes.
const MOUNT_TABLE_LIMIT: usize = 4 << 20;

/// What a new filesystem is given.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) source: &'a str,
    pub(super) flags: &'a [String],
    pub(super) options: &'a [(String, Option<String>)],
    /// Attributes of the mount, and of the tree, which is no more than the mount.
    pub(super) attributes: [&'a Attributes; 2],
}

/// A new filesystem of type `fstype`, mounted nowhere.
pub(super) fn new(fstype: &str, given: &Given<'_>) -> Result<OwnedFd> {
    let tree = kernel::FsContext::open(fstype).and_then(|context| finish(context, fstype, given));
    explained(tree, fstype)
}

fn explained(tree: sys::Result<OwnedFd>, fstype: &str) -> Result<OwnedFd> {
    let refused = tree.as_ref().is_err_and(|e| e.is(nix::libc::EPERM));
    let step = match fstype {
        "proc" => Step::MountProc,
        "sysfs" => Step::MountSys,
        "overlay" => Step::MountOverlay,
        _ => Step::Mount,
    };
    let tree = tree.doing(|| format!("cannot make a new {fstype}"));
    tree.map_err(|e| match refused {
        true => explain_refusal(e, fstype),
        false => e,
    })
    .map_err(|e| e.step(step))
}

fn finish(
    mut context: kernel::FsContext<'_>,
    fstype: &str,
    given: &Given<'_>,
) -> sys::Result<OwnedFd> {
    if !given.source.is_empty() {
        context.set_string("source", given.source)?;
    }
    set(&mut context, given.flags, given.options)?;
    let bits = given
        .attributes
        .iter()
        .fold(0, |all, attributes| all | attributes::bits(attributes));
    // Where the host's is read-only, the kernel makes no other; in these two nothing is to be made beforehand.
    let late = match fstype {
        "proc" | "sysfs" => 0,
        _ => kernel::MOUNT_ATTR_RDONLY,
    };
    context.mount(bits & !late)
}

fn set(
    context: &mut kernel::FsContext<'_>,
    flags: &[String],
    options: &[(String, Option<String>)],
) -> sys::Result<()> {
    for flag in flags {
        context.set_flag(flag)?;
    }
    for (key, value) in options {
        match value {
            Some(value) => context.set_string(key, value)?,
            None => context.set_flag(key)?,
        }
    }
    Ok(())
}

/// Changes the filesystem that `place` is the root of a mount of.
pub(super) fn reconfigure(
    place: &OwnedFd,
    flags: &[String],
    options: &[(String, Option<String>)],
) -> Result<()> {
    let changed = kernel::FsContext::of(place).and_then(|mut context| {
        set(&mut context, flags, options)?;
        context.reconfigure()
    });
    changed.doing(|| "cannot change the filesystem".to_owned()).map_err(|e| {
        e.hint("only a filesystem that the container has mounted itself can be changed, and not each of its options")
    })
}

/// A new overlay of `layers`, whose directories are open as `directories`: lower, data, upper, work.
pub(super) fn overlay(
    layers: &Layers,
    directories: &[OwnedFd],
    given: &Given<'_>,
) -> Result<OwnedFd> {
    if !is_on(Defence::ResolveOnce) {
        return explained(by_path(layers, given), "overlay");
    }
    let open = kernel::FsContext::open("overlay");
    let tree = open.and_then(|context| of_directories(context, layers, directories, given));
    let tree = match tree {
        // fsconfig(2) takes only paths, of at most 255 bytes; mount(2) takes names of fds.
        Err(error) if takes_no_fds(error.errno) => {
            let context = kernel::FsContext::open_for_mount("overlay");
            let tree = of_directories(context, layers, directories, given);
            // Where both find the same fault, the first can say more of it.
            tree.map_err(|second| match second.errno == error.errno {
                true => error,
                false => second,
            })
        }
        tree => tree,
    };
    explained(tree, "overlay")
}

/// Whether the kernel may have no layers by fd: an overlay takes them since Linux 6.13 (EINVAL, EBADF), and no fds at all before 6.5
/// (EOPNOTSUPP).
fn takes_no_fds(errno: i32) -> bool {
    matches!(
        errno,
        nix::libc::EINVAL | nix::libc::EBADF | nix::libc::EOPNOTSUPP
    )
}

fn of_directories<'a>(
    mut context: kernel::FsContext<'a>,
    layers: &Layers,
    directories: &'a [OwnedFd],
    given: &Given<'_>,
) -> sys::Result<OwnedFd> {
    let lower = layers.lower.iter().map(|_| "lowerdir+");
    let data = layers.data.iter().map(|_| "datadir+");
    let keys = lower.chain(data).chain(["upperdir", "workdir"]);
    for (key, directory) in keys.zip(directories) {
        context.set_fd(key, directory.as_fd())?;
    }
    finish(context, "overlay", given)
}

/// What is not done: the directories are looked up once more, with the rights of the container's root.
fn by_path(layers: &Layers, given: &Given<'_>) -> sys::Result<OwnedFd> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let mut context = kernel::FsContext::open("overlay")?;
    context.set_string("lowerdir", &joined_layers(layers))?;
    if let Some((upper, work)) = &layers.upper {
        context.set_string("upperdir", &text(upper))?;
        context.set_string("workdir", &text(work))?;
    }
    finish(context, "overlay", given)
}

/// The host's sysfs, read-only, where the kernel refuses (`refused`) a new one because the host's is masked; nothing is seen in it
/// that the caller does not see. An empty directory where the host has none. Any other refusal stays one.
pub(super) fn sys_instead(
    mount: &Mount,
    given: &Given<'_>,
    refused: Error,
    notes: &mut Vec<Note>,
) -> Result<OwnedFd> {
    let by_the_kernel = refused
        .origin()
        .is_some_and(|o| o.errno == nix::libc::EPERM);
    let places = match seen("sysfs") {
        Revealing::Covered(places) if by_the_kernel => places,
        Revealing::NoneVisible if by_the_kernel => return empty_sys(mount, given, notes),
        _ => return Err(refused),
    };
    let what = || "cannot bind the host's /sys instead".to_owned();
    let path = Path::new("/sys");
    let place = kernel::open_path(path).doing(what)?;
    let tree = kernel::clone_tree(&place, true, path).doing(what)?;
    let asked = given
        .attributes
        .iter()
        .fold(0, |all, attributes| all | attributes::bits(attributes));
    // The access time option of the host's may be locked.
    let set = (asked & !kernel::MOUNT_ATTR__ATIME) | kernel::MOUNT_ATTR_RDONLY;
    kernel::set_attributes(&tree, true, set, 0, 0).doing(what)?;
    let why = format!(
        "the kernel makes no new one where the host's is covered by mounts on {}",
        listed(&places)
    );
    let code = Revealing::Covered(places).code("sysfs").unwrap_or_default();
    notes.push(sys_note(&mount.property, &why, UNMASK).code(code));
    Ok(tree)
}

/// What stands for a sysfs on a host that has none.
fn empty_sys(mount: &Mount, given: &Given<'_>, notes: &mut Vec<Note>) -> Result<OwnedFd> {
    let option = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    let empty = Given {
        source: "none",
        flags: &[],
        options: &[option("mode", "755"), option("size", "64k")],
        attributes: given.attributes,
    };
    let tree = new("tmpfs", &empty)?;
    notes.push(no_sys_note(&mount.property));
    Ok(tree)
}

/// What is seen of a filesystem of which there are mounts already.
fn seen(fstype: &str) -> Revealing {
    let table = sys::path::read_regular(Path::new("/proc/self/mountinfo"), MOUNT_TABLE_LIMIT);
    let mut mounts = table.map_or_else(|_| Vec::new(), |text| parse_mountinfo(&text));
    // What this process has mounted itself, the kernel does not mind.
    mounts.retain(|mount| kernel::staging_place() != Some(&mount.mount_point));
    too_revealing(&mounts, fstype)
}

/// The kernel makes a new procfs or sysfs for a user namespace only where one can be seen that shows as much.
fn explain_refusal(error: Error, fstype: &str) -> Error {
    let (place, step) = match fstype {
        "proc" => ("/proc", Step::MountProc),
        "sysfs" => ("/sys", Step::MountSys),
        "overlay" => return error.hint("a user namespace may mount it since Linux 5.11"),
        "binfmt_misc" => return error.hint("a user namespace may mount it since Linux 6.7"),
        _ => return error,
    };
    let revealing = seen(fstype);
    let code = revealing.code(fstype);
    let instead = match revealing {
        Revealing::Covered(_) | Revealing::Readonly => {
            format!("; or give --proc=auto, which binds this host's {place}, with a note")
        }
        Revealing::NoneVisible | Revealing::Nothing => String::new(),
    };
    let (seen, remedy) = match revealing {
        Revealing::Nothing => (
            format!("one on {place} is, but the host may have locked its access time option"),
            "give the mount the same one (relatime, noatime, strictatime)".to_owned(),
        ),
        Revealing::NoneVisible => (
            format!("on {place} of this host there is no {fstype}, nor elsewhere"),
            format!("have one mounted on {place}"),
        ),
        Revealing::Covered(places) => (
            format!("this host's is covered by mounts on {}", listed(&places)),
            "have the container around this one started without masks (docker: --security-opt \
             systempaths=unconfined; podman: --security-opt unmask=ALL), or the mounts taken away"
                .to_owned(),
        ),
        Revealing::Readonly => (
            "this host's is read-only".to_owned(),
            format!("add \"ro\" to the options of the mount, or have {place} mounted writable"),
        ),
    };
    let error = error.step(step).hint(format!(
        "the kernel makes a new {fstype} only where a whole one can be seen: {seen}; {remedy}{instead}"
    ));
    match code {
        Some(code) => error.code(code),
        None => error,
    }
}
