//! New filesystems, by the mount API (fsopen(2)), and why the kernel refuses one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::attributes;
use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::host::{Revealing, listed, parse_mountinfo, too_revealing};
use crate::plan::{Attributes, Layers, joined_layers};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::mount as kernel;

/// The most that is read of the mount table, in bytes.
const MOUNT_TABLE_LIMIT: usize = 4 << 20;

/// The longest value that fsconfig(2) takes, in bytes.
const VALUE_LIMIT: usize = 255;

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
    let tree = tree.doing(|| format!("cannot make a new {fstype}"));
    tree.map_err(|e| match refused {
        true => explain_refusal(e, fstype),
        false => e,
    })
}

fn finish(context: kernel::FsContext, fstype: &str, given: &Given<'_>) -> sys::Result<OwnedFd> {
    if !given.source.is_empty() {
        context.set_string("source", given.source)?;
    }
    set(&context, given.flags, given.options)?;
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
    context: &kernel::FsContext,
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
    let changed = kernel::FsContext::of(place).and_then(|context| {
        set(&context, flags, options)?;
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
    let by_fd = kernel::FsContext::open("overlay")
        .and_then(|context| add_by_fd(&context, layers, directories).map(|()| context));
    let old_kernel = |e: &sys::Error| e.is(nix::libc::EINVAL) || e.is(nix::libc::EBADF);
    let context = match by_fd {
        // Before Linux 6.13 it takes only paths, which are looked up with the rights of the container's root.
        Err(error) if old_kernel(&error) => add_by_path(layers)?,
        context => context.doing(|| "cannot make a new overlay".to_owned())?,
    };
    explained(finish(context, "overlay", given), "overlay")
}

fn add_by_fd(
    context: &kernel::FsContext,
    layers: &Layers,
    directories: &[OwnedFd],
) -> sys::Result<()> {
    if !is_on(Defence::ResolveOnce) {
        return Err(sys::Error::new("fsconfig", "by path", nix::libc::EINVAL));
    }
    let lower = layers.lower.iter().map(|_| "lowerdir+");
    let data = layers.data.iter().map(|_| "datadir+");
    let keys = lower.chain(data).chain(["upperdir", "workdir"]);
    for (key, directory) in keys.zip(directories) {
        context.set_fd(key, directory)?;
    }
    Ok(())
}

fn add_by_path(layers: &Layers) -> Result<kernel::FsContext> {
    let what = || "cannot make a new overlay".to_owned();
    let context = kernel::FsContext::open("overlay").doing(what)?;
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let mut values = vec![("lowerdir", joined_layers(layers))];
    if let Some((upper, work)) = &layers.upper {
        values.push(("upperdir", text(upper)));
        values.push(("workdir", text(work)));
    }
    for (key, value) in values {
        let set = context.set_string(key, &value).doing(what);
        set.map_err(|e| match value.len() > VALUE_LIMIT {
            true => e.hint("before Linux 6.13 the paths of an overlay have at most 255 bytes together: use shorter ones"),
            false => e.hint("before Linux 6.13 the container's root must be able to reach the directories itself"),
        })?;
    }
    Ok(context)
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
    let table = sys::path::read_regular(Path::new("/proc/self/mountinfo"), MOUNT_TABLE_LIMIT);
    let mounts = table.map_or_else(|_| Vec::new(), |text| parse_mountinfo(&text));
    let revealing = too_revealing(&mounts, fstype);
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
            format!("none is to be seen on this host, on {place} or elsewhere"),
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
