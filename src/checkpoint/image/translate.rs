//! What has to be another in CRIU's images than CRIU found it.
//!
//! The kernel shows the `uid=` and `gid=` of a mount as ids of the initial user namespace, whoever looks (`&init_user_ns` in
//! shmem_show_options(), devpts_show_options() and proc_show_options()); a mount that is made in the container's user namespace has
//! to be given its own ids.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::wire::{self, Broken, Value};
use crate::error::{Doing, Error, Result};
use crate::host::MapLine;
use crate::plan::IdMapping;
use crate::sys;

/// MNTS_MAGIC of CRIU's magic.h.
const MOUNTS: u32 = 0x5556_3928;

/// CORE_MAGIC.
const CORE: u32 = 0x5505_3847;

/// The largest image that is rewritten: the mounts of a namespace (fs.mount-max is 100000) are in one.
const MAX_IMAGE: usize = 64 << 20;

/// What a new image is called until it is whole; no image of CRIU's has such a name.
const DRAFT: &str = ".draft";

/// A container's id maps, with the ids of the *initial* user namespace as those of the host.
#[derive(Debug, Clone, Copy)]
pub struct Ids<'a> {
    /// The uid map.
    pub uids: &'a [IdMapping],
    /// The gid map.
    pub gids: &'a [IdMapping],
}

/// A container's map in ids of the initial user namespace, where `own` is the map of the user namespace that has the ids of `map`
/// as its own (/proc/self/uid_map of the caller of lodger). It is right if that is the initial one or a child of it: the maps of
/// those above a grandchild cannot be read.
///
/// # Errors
/// An id of the container has none there.
pub fn to_initial(map: &[IdMapping], own: &[MapLine]) -> Result<Vec<IdMapping>> {
    let mut outcome = Vec::new();
    for line in map {
        let (mut container, mut host) = (u64::from(line.container_id), u64::from(line.host_id));
        let end = host + u64::from(line.size);
        while host < end {
            let above = own.iter().find(|l| {
                let first = u64::from(l.inside);
                (first..first + u64::from(l.count)).contains(&host)
            });
            let above = above.ok_or_else(|| {
                Error::new(format!(
                    "cannot tell which ids the container's files have: id {host} of the container's map has none outside"
                ))
            })?;
            let skipped = host - u64::from(above.inside);
            let count = (u64::from(above.count) - skipped).min(end - host);
            outcome.push(IdMapping {
                container_id: narrow(container),
                host_id: narrow(u64::from(above.outside) + skipped),
                size: narrow(count),
            });
            container += count;
            host += count;
        }
    }
    Ok(outcome)
}

/// Maps are of 32 bits: more cannot be where they come from.
fn narrow(id: u64) -> u32 {
    u32::try_from(id).unwrap_or(u32::MAX)
}

/// Gives the mounts in the images in `directory` the container's ids. To be done once.
///
/// # Errors
/// An image is broken, or has an id that the container has not.
pub fn translate(directory: impl AsFd, ids: Ids<'_>) -> Result<()> {
    let directory = directory.as_fd();
    let what = || "cannot translate the owners of mounts in the images".to_owned();
    for name in sys::path::names(directory).doing(what)? {
        if name.starts_with("mountpoints-") && name.ends_with(".img") {
            rewrite(directory, &name, |content| mounts(content, ids))
                .map_err(|e| e.within(what()))?;
        }
    }
    Ok(())
}

/// Takes the signal away that the container's first process is to get when its parent ends (PR_SET_PDEATHSIG, prctl(2)): a container
/// that was run in the foreground has SIGKILL there, and after a restore another parent, which may end before it does.
///
/// # Errors
/// The image of the process is broken.
pub fn clear_death_signal(directory: impl AsFd) -> Result<()> {
    /// Named by its pid in its namespace.
    const FIRST: &str = "core-1.img";
    rewrite(directory.as_fd(), FIRST, core)
        .map_err(|e| e.within("cannot change what the first process gets when its parent ends"))
}

/// Why an image cannot be rewritten.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Broken(&'static str),
    Id(String),
}

impl From<Broken> for Problem {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken.0)
    }
}

/// The image of a process without that signal.
pub(super) fn core(content: &[u8]) -> std::result::Result<Vec<u8>, Problem> {
    let entries = wire::entries(content, CORE)?;
    let entries = entries.into_iter().map(without_death_signal);
    let entries = entries.collect::<wire::Result<Vec<_>>>()?;
    Ok(wire::image(CORE, &entries)?)
}

/// `core_entry` of CRIU's core.proto.
fn without_death_signal(core: &[u8]) -> wire::Result<Vec<u8>> {
    const THREAD_CORE: u32 = 5;
    const PDEATH_SIG: u32 = 8;
    wire::rewrite(core, |field| match (field.number, field.value) {
        (THREAD_CORE, Value::Bytes(thread)) => {
            let thread = wire::rewrite(thread, |field| {
                Ok::<_, Broken>((field.number == PDEATH_SIG).then(Vec::new))
            })?;
            Ok(Some(wire::bytes_field(THREAD_CORE, &thread)))
        }
        _ => Ok(None),
    })
}

pub(super) fn mounts(content: &[u8], ids: Ids<'_>) -> std::result::Result<Vec<u8>, Problem> {
    let entries = wire::entries(content, MOUNTS)?;
    let entries = entries.into_iter().map(|entry| mount(entry, ids));
    let entries = entries.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(wire::image(MOUNTS, &entries)?)
}

/// `mnt_entry` of CRIU's mnt.proto.
fn mount(entry: &[u8], ids: Ids<'_>) -> std::result::Result<Vec<u8>, Problem> {
    const OPTIONS: u32 = 9;
    let found = Mount::of(entry)?;
    if !found.is_made_anew() {
        return Ok(entry.to_vec());
    }
    wire::rewrite(entry, |field| match (field.number, field.value) {
        (OPTIONS, Value::Bytes(options)) => {
            let options = std::str::from_utf8(options)
                .map_err(|_| Problem::Broken("the options of a mount are no text"))?;
            let options = found.translated(options, ids)?;
            Ok(Some(wire::bytes_field(OPTIONS, options.as_bytes())))
        }
        _ => Ok(None),
    })
}

/// What matters of a mount.
#[derive(Debug, Default)]
struct Mount<'a> {
    fstype: u64,
    mountpoint: &'a [u8],
    is_external: bool,
}

impl<'a> Mount<'a> {
    fn of(entry: &'a [u8]) -> wire::Result<Self> {
        let mut mount = Self::default();
        for field in wire::fields(entry)? {
            match (field.number, field.value) {
                (1, Value::Varint(fstype)) => mount.fstype = fstype,
                (7, Value::Bytes(mountpoint)) => mount.mountpoint = mountpoint,
                // `ext_mount`, and `ext_key`.
                (13, Value::Varint(external)) => mount.is_external |= external != 0,
                (18, Value::Bytes(_)) => mount.is_external = true,
                _ => {}
            }
        }
        Ok(mount)
    }

    /// Whether CRIU mounts it with its options, and the kernel has shown them with ids in them. The root, and what is external, it
    /// is given.
    fn is_made_anew(&self) -> bool {
        const PROC: u64 = 1;
        const TMPFS: u64 = 5;
        const DEVPTS: u64 = 6;
        let has_ids = matches!(self.fstype, PROC | TMPFS | DEVPTS);
        has_ids && !self.is_external && self.mountpoint != b"/"
    }

    fn translated(&self, options: &str, ids: Ids<'_>) -> std::result::Result<String, Problem> {
        let mut new = Vec::new();
        for option in options.split(',') {
            let (map, id) = match option.split_once('=') {
                Some(("uid", id)) => (ids.uids, id),
                Some(("gid", id)) => (ids.gids, id),
                _ => {
                    new.push(option.to_owned());
                    continue;
                }
            };
            let inside = id.parse().ok().and_then(|id| inside(map, id));
            let inside = inside.ok_or_else(|| {
                let mountpoint = String::from_utf8_lossy(self.mountpoint);
                Problem::Id(format!(
                    "the mount at {mountpoint:?} has {option:?}, an id that the container does not have"
                ))
            })?;
            new.push(format!(
                "{}={inside}",
                option.split('=').next().unwrap_or_default()
            ));
        }
        Ok(new.join(","))
    }
}

/// The container's id of one of the host's.
fn inside(map: &[IdMapping], host: u32) -> Option<u32> {
    map.iter().find_map(|line| {
        let offset = host.checked_sub(line.host_id)?;
        (offset < line.size)
            .then(|| line.container_id.checked_add(offset))
            .flatten()
    })
}

/// Gives the image `name` what `change` makes of its content.
pub(super) fn rewrite(
    directory: impl AsFd,
    name: &str,
    change: impl FnOnce(&[u8]) -> std::result::Result<Vec<u8>, Problem>,
) -> Result<()> {
    let directory = directory.as_fd();
    let path = Path::new(name);
    let old = sys::path::read_regular_beneath(directory, path, MAX_IMAGE)
        .doing(|| format!("cannot read {name:?}"))?;
    let new = change(&old).map_err(|problem| match problem {
        Problem::Broken(why) => Error::new(format!("{name:?} is broken"))
            .because(why)
            .hint("this version of CRIU may write images that are not known here: use one from 4.0 to 4.2"),
        Problem::Id(why) => Error::new(why),
    })?;
    if new == old {
        return Ok(());
    }
    replace(directory, name, &new).doing(|| format!("cannot write {name:?}"))
}

fn replace(directory: impl AsFd, name: &str, content: &[u8]) -> sys::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // One that a killed predecessor has left.
    let _there_may_be_none = rustix::fs::unlinkat(&directory, DRAFT, AtFlags::empty());
    let fd = rustix::fs::openat(&directory, DRAFT, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| sys::Error::new("openat", format!("{DRAFT:?}, O_CREAT|O_EXCL"), e))?;
    let named = sys::path::write_all(fd, content, Path::new(DRAFT)).and_then(|()| {
        rustix::fs::renameat(&directory, DRAFT, &directory, name)
            .map_err(|e| sys::Error::new("renameat", format!("{DRAFT:?}, {name:?}"), e))
    });
    if named.is_err() {
        let _first_error_counts = rustix::fs::unlinkat(&directory, DRAFT, AtFlags::empty());
    }
    named
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
