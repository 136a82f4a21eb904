//! The mounts of the plan: each is made detached, given its attributes, and only then attached to its destination,
//! so that it is never there without them (GHSA-3q8j-pf29-vwv8).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::beneath::{Links, RootDir, is_directory};
use super::rootfs::{Sources, set_propagation};
use crate::error::{Doing, Error, Result};
use crate::host::{Revealing, parse_mountinfo, too_revealing};
use crate::plan::{Atime, Attribute, Attributes, Mount, MountSource, Note, Plan};
use crate::spawn::line::{InitEnd, Report};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::mount as kernel;

/// The most that is read of the mount table, in bytes.
const MOUNT_TABLE_LIMIT: usize = 4 << 20;

/// A new filesystem that becomes read-only once everything beneath it is in place.
#[derive(Debug)]
pub(super) struct LateReadonly<'a> {
    mount: OwnedFd,
    property: &'a str,
}

impl LateReadonly<'_> {
    pub(super) fn make_readonly(&self) -> Result<()> {
        kernel::set_attributes(&self.mount, false, kernel::MOUNT_ATTR_RDONLY, 0, 0)
            .doing(|| format!("cannot make {} read-only", self.property))
    }
}

/// Makes all mounts, in order.
pub(super) fn make_all<'a>(
    plan: &'a Plan,
    sources: &Sources,
    root: &RootDir,
    line: &InitEnd,
) -> Result<Vec<LateReadonly<'a>>> {
    let mut late = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let what = || format!("cannot mount {:?} ({})", mount.destination, mount.property);
        let (tree, notes) = detached(mount, sources.bind(index)).map_err(|e| e.within(what()))?;
        for note in notes {
            line.send(&Report::Note(note)).doing(what)?;
        }
        let place = destination(mount, &tree, root).map_err(|e| e.within(what()))?;
        kernel::attach(&tree, &place, &mount.destination).doing(what)?;
        for propagation in &mount.propagation {
            set_propagation(&tree, *propagation).doing(what)?;
        }
        if is_late(mount) {
            late.push(LateReadonly {
                mount: tree,
                property: &mount.property,
            });
        }
    }
    Ok(late)
}

/// A new, empty filesystem must stay writable until mount points, devices and links are made in it.
fn is_late(mount: &Mount) -> bool {
    let asks = |attributes: &Attributes| attributes.set.contains(&Attribute::Ro);
    matches!(mount.source, MountSource::Filesystem { .. })
        && (asks(&mount.attributes) || asks(&mount.recursive_attributes))
}

/// The detached mount with its attributes, and what the kernel would not do.
fn detached(mount: &Mount, source: Option<&OwnedFd>) -> Result<(OwnedFd, Vec<Note>)> {
    match (&mount.source, source) {
        (MountSource::Bind { source, recursive }, Some(place)) => {
            let tree = kernel::clone_tree(place, *recursive, source)
                .doing(|| "cannot copy the source".to_owned())
                .map_err(|e| explain_clone(e, *recursive))?;
            let mut refused = change(&tree, &mount.attributes, false)?;
            refused.extend(change(&tree, &mount.recursive_attributes, true)?);
            Ok((
                tree,
                refused.iter().map(|name| locked(mount, name)).collect(),
            ))
        }
        (
            MountSource::Filesystem {
                fstype,
                source,
                flags,
                options,
            },
            _,
        ) => {
            let attributes = [&mount.attributes, &mount.recursive_attributes];
            let tree = new_filesystem(fstype, source, flags, options, attributes);
            let refused = tree.as_ref().is_err_and(|e| e.is(nix::libc::EPERM));
            let tree = tree.doing(|| format!("cannot make a new {fstype}"));
            let tree = tree.map_err(|e| match refused {
                true => explain_refusal(e, fstype),
                false => e,
            })?;
            Ok((tree, Vec::new()))
        }
        (MountSource::Bind { .. }, None) => Err(Error::new("its source was not opened")),
    }
}

fn explain_clone(error: Error, recursive: bool) -> Error {
    if recursive {
        return error;
    }
    error.hint("other mounts lie beneath the source, which the kernel does not let us uncover: use rbind instead of bind")
}

/// The kernel makes a new procfs or sysfs for a user namespace only where one can be seen that shows as much.
fn explain_refusal(error: Error, fstype: &str) -> Error {
    let place = match fstype {
        "proc" => "/proc",
        "sysfs" => "/sys",
        _ => return error,
    };
    let table = sys::path::read_regular(Path::new("/proc/self/mountinfo"), MOUNT_TABLE_LIMIT);
    let mounts = table.map_or_else(|_| Vec::new(), |text| parse_mountinfo(&text));
    let (seen, remedy) = match too_revealing(&mounts, fstype) {
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
    error.hint(format!(
        "the kernel makes a new {fstype} only where a whole one can be seen: {seen}; {remedy}"
    ))
}

/// A few of `places`, and how many more there are.
fn listed(places: &[PathBuf]) -> String {
    const SHOWN: usize = 6;
    let shown = places.iter().take(SHOWN).map(|place| format!("{place:?}"));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match places.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn new_filesystem(
    fstype: &str,
    source: &str,
    flags: &[String],
    options: &[(String, Option<String>)],
    attributes: [&Attributes; 2],
) -> sys::Result<OwnedFd> {
    let context = kernel::FsContext::open(fstype)?;
    if !source.is_empty() {
        context.set_string("source", source)?;
    }
    for flag in flags {
        context.set_flag(flag)?;
    }
    for (key, value) in options {
        match value {
            Some(value) => context.set_string(key, value)?,
            None => context.set_flag(key)?,
        }
    }
    let bits = attributes
        .iter()
        .map(|attributes| set_bits(&attributes.set) | atime_bits(attributes.atime))
        .fold(0, |all, bits| all | bits);
    // Where the host's is read-only, the kernel makes no other; in these two nothing is to be made beforehand.
    let late = match fstype {
        "proc" | "sysfs" => 0,
        _ => kernel::MOUNT_ATTR_RDONLY,
    };
    context.mount(bits & !late)
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
    }
}

/// The destination, made where it is missing, as an fd.
fn destination(mount: &Mount, tree: &OwnedFd, root: &RootDir) -> Result<OwnedFd> {
    let what = || "cannot prepare the destination".to_owned();
    let links = if mount.no_symlinks || mount.inside_proc {
        Links::Refused
    } else {
        Links::InRoot
    };
    let directory = is_directory(tree).doing(what)?;
    let place = root
        .open_or_make(&mount.destination, directory, links)
        .doing(what)
        .map_err(|e| explain_destination(e, links))?;
    if !mount.inside_proc && mount.destination != Path::new("/proc") {
        refuse_procfs(&place)?;
    }
    Ok(place)
}

fn explain_destination(error: Error, links: Links) -> Error {
    let hint = match links {
        Links::Refused => {
            "/proc, /sys and /dev must be real directories in the root filesystem, not symbolic links"
        }
        Links::InRoot => {
            "the directory can be made in the root filesystem beforehand, where the container's root may not"
        }
    };
    error.hint(hint)
}

/// A mount over a file of procfs could feign what the kernel says (CVE-2019-16884), also through a symbolic link.
pub(super) fn refuse_procfs(place: impl AsFd) -> Result<()> {
    let what = || "cannot examine the destination".to_owned();
    if !is_on(Defence::RefuseProcfs) {
        return Ok(());
    }
    let stat = rustix::fs::fstatfs(place)
        .map_err(|e| sys::Error::new("fstatfs", "destination", e))
        .doing(what)?;
    if stat.f_type == rustix::fs::PROC_SUPER_MAGIC {
        return Err(Error::new("the destination lies in procfs")
            .hint("nothing may be mounted there but the files that lxcfs provides"));
    }
    Ok(())
}
