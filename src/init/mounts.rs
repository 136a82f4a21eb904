//! The mounts of the plan: each is made detached, given its attributes, and only then attached to its destination,
//! so that it is never there without them (GHSA-3q8j-pf29-vwv8).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::beneath::{Links, RootDir, is_directory};
use super::rootfs::{Sources, set_propagation};
use super::{attributes, copy_up, filesystem, idmap};
use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::plan::{Attribute, Attributes, Mount, MountIdMap, MountSource, Note, Plan};
use crate::spawn::line::{InitEnd, Report};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::mount as kernel;

/// A new filesystem that becomes read-only once everything beneath it is in place.
#[derive(Debug)]
pub(super) struct LateReadonly<'a> {
    mount: OwnedFd,
    planned: &'a Mount,
}

impl LateReadonly<'_> {
    pub(super) fn make_readonly(&self) -> Result<()> {
        kernel::set_attributes(&self.mount, false, kernel::MOUNT_ATTR_RDONLY, 0, 0)
            .doing(|| format!("cannot make {} read-only", self.planned.property))
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
        let mut notes = Vec::new();
        let made = make(mount, sources.of(index), root, &mut notes);
        let tree = made.map_err(|e| e.within(what()).step(Step::Mount))?;
        for note in notes {
            line.send(&Report::Note(note)).doing(what)?;
        }
        for propagation in &mount.propagation {
            let set = set_propagation(&tree, *propagation).doing(what);
            set.map_err(|e| e.step(Step::Mount))?;
        }
        if takes_back_readonly(mount) {
            late.retain(|l: &LateReadonly<'_>| l.planned.destination != mount.destination);
        }
        if is_late(mount) {
            late.push(LateReadonly {
                mount: tree,
                planned: mount,
            });
        }
    }
    Ok(late)
}

/// What is made writable at first: mount points, devices and links are still to be made in it.
fn is_late(mount: &Mount) -> bool {
    let asks = |attributes: &Attributes| attributes.set.contains(&Attribute::Ro);
    !matches!(mount.source, MountSource::Bind { .. })
        && (asks(&mount.attributes) || asks(&mount.recursive_attributes))
}

/// Whether it makes a mount writable that was to become read-only.
fn takes_back_readonly(mount: &Mount) -> bool {
    let clears = |attributes: &Attributes| attributes.clear.contains(&Attribute::Ro);
    matches!(mount.source, MountSource::Present { .. })
        && (clears(&mount.attributes) || clears(&mount.recursive_attributes))
}

/// Makes the mount, and puts it in its place. Adds to `notes` what the kernel would not do.
fn make(
    mount: &Mount,
    sources: &[OwnedFd],
    root: &RootDir,
    notes: &mut Vec<Note>,
) -> Result<OwnedFd> {
    if let MountSource::Present { flags, options } = &mount.source {
        return change_present(mount, (flags, options), root, notes);
    }
    let tree = detached(mount, sources, notes)?;
    let place = destination(mount, &tree, root)?;
    if mount.copy_up {
        copy_up::copy(mount, &place, &tree, notes)?;
    }
    if let Some(map) = &mount.id_map {
        map_ids(&tree, map)?;
    }
    let attached = kernel::attach(&tree, &place, &mount.destination);
    attached.doing(|| "cannot put it in its place".to_owned())?;
    Ok(tree)
}

/// The detached mount of a `bind` as it is to be, for one who puts it in its place.
pub(super) fn outside(
    mount: &Mount,
    sources: &[OwnedFd],
    notes: &mut Vec<Note>,
) -> Result<OwnedFd> {
    let tree = detached(mount, sources, notes)?;
    if let Some(map) = &mount.id_map {
        map_ids(&tree, map)?;
    }
    Ok(tree)
}

/// The detached mount with its attributes.
fn detached(mount: &Mount, sources: &[OwnedFd], notes: &mut Vec<Note>) -> Result<OwnedFd> {
    let wanted = [&mount.attributes, &mount.recursive_attributes];
    match &mount.source {
        MountSource::Filesystem {
            fstype,
            source,
            flags,
            options,
        } => {
            let given = filesystem::Given {
                source,
                flags,
                options,
                attributes: wanted,
            };
            match filesystem::new(fstype, &given) {
                Err(refused) if fstype == "sysfs" => {
                    filesystem::sys_instead(mount, &given, refused, notes)
                }
                made => made,
            }
        }
        MountSource::Overlay {
            layers,
            source,
            flags,
            options,
        } => {
            let given = filesystem::Given {
                source,
                flags,
                options,
                attributes: wanted,
            };
            filesystem::overlay(layers, sources, &given)
        }
        MountSource::Bind { source, recursive } => {
            let missing = || Error::new("its source was not opened");
            let place = sources.first().ok_or_else(missing)?;
            let tree = kernel::clone_tree(place, *recursive, source)
                .doing(|| "cannot copy the source".to_owned())
                .map_err(|e| explain_clone(e, *recursive))?;
            notes.extend(attributes::change_both(&tree, mount)?);
            Ok(tree)
        }
        MountSource::Present { .. } => Err(Error::new("it is not new")),
    }
}

/// `remount`: what is mounted at the destination gets other attributes. Read-only it becomes later, as a new mount does.
fn change_present(
    mount: &Mount,
    (flags, options): (&[String], &[(String, Option<String>)]),
    root: &RootDir,
    notes: &mut Vec<Note>,
) -> Result<OwnedFd> {
    let what = || "cannot remount it".to_owned();
    let opened = root.open(&mount.destination, links(mount));
    let place = opened.doing(what)?;
    if !kernel::is_mount(&place).doing(what)? {
        return Err(Error::new(what())
            .because("nothing is mounted there")
            .hint("\"remount\" changes a mount that comes before it in the list"));
    }
    if !(flags.is_empty() && options.is_empty()) {
        filesystem::reconfigure(&place, flags, options)?;
    }
    let mut without = mount.clone();
    for attributes in [&mut without.attributes, &mut without.recursive_attributes] {
        attributes
            .set
            .retain(|attribute| *attribute != Attribute::Ro);
    }
    notes.extend(attributes::change_both(&place, &without)?);
    Ok(place)
}

/// Gives the mount its id map. A mount can have one only before it is in its place (mount_setattr(2)).
fn map_ids(tree: &OwnedFd, map: &MountIdMap) -> Result<()> {
    let what = || "cannot map its ids".to_owned();
    if !kernel::may_map_ids() {
        return Err(without_id_maps(
            Error::new(what()).because("mount(2) has no id maps"),
        ));
    }
    let namespace = idmap::namespace(map).map_err(|e| e.within(what()))?;
    kernel::set_id_map(tree, map.recursive, &namespace).map_err(|cause| {
        let error = Error::new(what()).because_of(&cause);
        if !kernel::may_map_ids() {
            return without_id_maps(error);
        }
        error.hint(if cause.is(nix::libc::EPERM) {
            "its filesystem was mounted outside of the container: only who is root there may map its ids; map the \
             container's own ids to the owners of the files (/linux/uidMappings), or take this out"
        } else {
            "the kernel has no id maps for this kind of filesystem; tmpfs has them since Linux 6.3"
        })
    })
}

fn without_id_maps(error: Error) -> Error {
    error.code("LDG-KERNEL-MOUNT-API").hint(
        "this needs open_tree(2), fsopen(2) and mount_setattr(2): Linux 5.12, and that no filter around this session refuses \
         them; without them, take out uidMappings, gidMappings and idmap of the mount",
    )
}

fn explain_clone(error: Error, recursive: bool) -> Error {
    if recursive {
        return error;
    }
    error.hint("other mounts lie beneath the source, which the kernel does not let us uncover: use rbind instead of bind")
}

fn links(mount: &Mount) -> Links {
    if mount.no_symlinks || mount.inside_proc {
        Links::Refused
    } else {
        Links::InRoot
    }
}

/// The destination, made where it is missing, as an fd.
fn destination(mount: &Mount, tree: &OwnedFd, root: &RootDir) -> Result<OwnedFd> {
    let what = || "cannot prepare the destination".to_owned();
    let links = links(mount);
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
