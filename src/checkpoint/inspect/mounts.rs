//! The mounts of a container, and which of them came from outside.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags, ResolveFlags, StatxFlags};

use crate::checkpoint::image::{ExternalMount, MountLine};
use crate::checkpoint::saved::{External, ExternalKind};
use crate::error::{Doing, Error, Result};
use crate::host;
use crate::sys;

/// Far more than the mounts that there can be (mount-max of proc_sys_fs(5), 100000), in bytes.
const MOUNTINFO_FILE: usize = 64 << 20;

/// Filesystems that CRIU mounts anew, or knows how to treat (criu/filesystems.c), but for those whose options are paths (aufs,
/// overlay): it would take the container's for paths of the host's.
const KNOWN: [&str; 19] = [
    "autofs",
    "binfmt_misc",
    "btrfs",
    "cgroup",
    "cgroup2",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "mqueue",
    "proc",
    "pstore",
    "ramfs",
    "securityfs",
    "simfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "rpc_pipefs",
];

/// Filesystems whose instances belong to a namespace and not to whoever has mounted them: to see one of them outside, too, says
/// nothing.
const SHARED: [&str; 5] = ["cgroup", "cgroup2", "mqueue", "proc", "sysfs"];

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What of it is checked.
    pub line: host::MountLine,
    /// The filesystem's device: `MAJOR:MINOR`.
    pub device: String,
    /// The attributes of the mount: `rw,nosuid,…`.
    pub attributes: String,
}

/// The mounts that a process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts(pub Vec<Mount>);

impl Mounts {
    /// Those of process `pid` (`self`: of this one).
    pub fn of(pid: &str) -> Result<Self> {
        let path = format!("/proc/{pid}/mountinfo");
        let text = sys::path::read_regular(Path::new(&path), MOUNTINFO_FILE);
        let text = text.doing(|| format!("cannot read the mounts of process {pid}"))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &[u8]) -> Self {
        let lines = text.split(|byte| *byte == b'\n');
        Self(lines.filter_map(parse_line).collect())
    }

    /// The mount with this id.
    pub fn by_id(&self, id: u64) -> Option<&Mount> {
        self.0.iter().find(|mount| u64::from(mount.line.id) == id)
    }

    /// Their ids.
    pub fn ids(&self) -> BTreeSet<u64> {
        self.0
            .iter()
            .map(|mount| u64::from(mount.line.id))
            .collect()
    }

    /// As they are kept in the manifest.
    pub fn lines(&self) -> Vec<MountLine> {
        let line = |mount: &Mount| {
            let mut attributes: Vec<String> =
                mount.attributes.split(',').map(str::to_owned).collect();
            attributes.sort_unstable();
            MountLine {
                mountpoint: mount.line.mount_point.clone(),
                device: mount.device.clone(),
                root: mount.line.root.clone(),
                fstype: mount.line.fstype.clone(),
                attributes,
            }
        };
        self.0.iter().map(line).collect()
    }
}

fn parse_line(text: &[u8]) -> Option<Mount> {
    let line = host::parse_mountinfo(text).pop()?;
    let mut words = text.split(|byte| *byte == b' ');
    let mut word = |n| {
        words
            .nth(n)
            .map(|word| String::from_utf8_lossy(word).into_owned())
    };
    Some(Mount {
        line,
        device: word(2)?,
        attributes: word(2)?,
    })
}

/// What of a container's mounts is to be told to CRIU.
#[derive(Debug)]
pub struct Externals<'a> {
    mounts: &'a Mounts,
    /// Those that this process sees.
    outside: &'a Mounts,
    found: Vec<ExternalMount>,
    /// The ids of those that were found.
    ids: BTreeSet<u32>,
}

/// Finds the mounts of `saved` in the container whose root directory is `root` and whose mounts are `mounts`; `outside` are those
/// that this process sees.
///
/// # Errors
/// Something is mounted over one of them, or there is a mount that CRIU cannot make anew.
pub fn externals(
    root: &OwnedFd,
    mounts: &Mounts,
    outside: &Mounts,
    saved: &[External],
) -> Result<Vec<ExternalMount>> {
    // Looked at as text first: a path that leads through a filesystem that somebody in the container serves may never end.
    refuse_served(mounts, outside)?;
    let mut all = Externals {
        mounts,
        outside,
        found: Vec::new(),
        ids: BTreeSet::new(),
    };
    let mut recursive = Vec::new();
    for external in saved {
        let Some(mount) = find(root, mounts, external)? else {
            continue;
        };
        if all.ids.insert(mount.line.id) {
            all.add(mount, &external.destination, Path::new(""));
        }
        if external.kind == ExternalKind::RecursiveBind {
            recursive.push((mount, &*external.destination));
        }
    }
    // The one that is nearest above counts: the deepest first.
    recursive
        .sort_by_key(|(mount, _)| std::cmp::Reverse(mount.line.mount_point.components().count()));
    for (mount, destination) in recursive {
        all.add_beneath(mount, destination);
    }
    if let Some(mount) = mounts.0.iter().rfind(|mount| is_root(mount)) {
        all.add_beneath(mount, Path::new("/"));
    }
    all.refuse_covered()?;
    all.refuse_unknown()?;
    Ok(all.found)
}

fn is_root(mount: &Mount) -> bool {
    mount.line.mount_point == Path::new("/")
}

/// The mount that `external` is now; `None`: there is none any more.
fn find<'m>(root: &OwnedFd, mounts: &'m Mounts, external: &External) -> Result<Option<&'m Mount>> {
    let place = &external.destination;
    let what = || format!("cannot find the mount {place:?} of the container");
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let opened = match sys::path::open_beneath(root, place, OFlags::PATH, resolve) {
        // A path that is masked need not exist; a mount may have been taken away with what it was on.
        Err(error) if error.is(libc::ENOENT) || error.is(libc::ENOTDIR) => return Ok(None),
        opened => opened.doing(what)?,
    };
    if external.kind == ExternalKind::Mask && !is_null(&opened) {
        return Ok(None);
    }
    if !sys::mount::is_mount(&opened).doing(what)? {
        tracing::debug!("nothing is mounted at {place:?} any more");
        return Ok(None);
    }
    let id = mount_id(&opened).doing(what)?;
    let mount = mounts.by_id(id).ok_or_else(|| {
        Error::new(what()).because("the container's mounts have changed meanwhile: try again")
    });
    mount.map(Some)
}

/// Whether it is a device node with the numbers of /dev/null.
fn is_null(file: &OwnedFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3)
    })
}

/// The id, as in mountinfo, of the mount that `fd` is on (STATX_MNT_ID, Linux 5.8).
fn mount_id(fd: impl AsFd) -> sys::Result<u64> {
    let args = "fd, \"\", AT_EMPTY_PATH, STATX_MNT_ID";
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    match rustix::fs::statx(fd, "", flags, StatxFlags::MNT_ID) {
        Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok(found.stx_mnt_id),
        Ok(_) => Err(sys::Error::new("statx", args, libc::EOPNOTSUPP)),
        Err(e) => Err(sys::Error::new("statx", args, e)),
    }
}

fn cannot(mount: &Mount) -> Error {
    Error::new(format!(
        "the container cannot be checkpointed with the {} mount at {:?}",
        mount.line.fstype, mount.line.mount_point
    ))
}

/// Refuses filesystems that a process of the container may serve.
fn refuse_served(mounts: &Mounts, outside: &Mounts) -> Result<()> {
    let is_served = |mount: &&Mount| {
        let kind = &mount.line.fstype;
        let seen = || outside.0.iter().any(|other| other.device == mount.device);
        (kind == "fuse" || kind.starts_with("fuse.") || kind == "fuseblk") && !seen()
    };
    match mounts.0.iter().find(is_served) {
        None => Ok(()),
        Some(mount) => Err(cannot(mount)
            .because("it was mounted in the container, and CRIU does not dump what serves it")
            .hint("unmount it first, or mount it outside and bind it into the container")),
    }
}

impl<'a> Externals<'a> {
    fn add(&mut self, mount: &'a Mount, key: &Path, beneath: &Path) {
        self.found.push(ExternalMount {
            key: key.to_string_lossy().into_owned(),
            beneath: beneath.to_owned(),
            mountpoint: mount.line.mount_point.clone(),
        });
        self.ids.insert(mount.line.id);
    }

    /// Adds the mounts beneath `top`, which came with the recursive bind mount `key`: those that are there outside, too. What the
    /// container has mounted itself is a filesystem of its own; what it has bound is a part of another mount.
    fn add_beneath(&mut self, top: &'a Mount, key: &Path) {
        let sources: BTreeSet<(&str, &Path)> = self.outside.0.iter().map(source).collect();
        let taken: BTreeSet<(&str, &Path)> = self
            .mounts
            .0
            .iter()
            .filter(|mount| is_root(mount) || self.ids.contains(&mount.line.id))
            .map(source)
            .collect();
        let place = &top.line.mount_point;
        for mount in &self.mounts.0 {
            let is_ours = SHARED.contains(&&*mount.line.fstype) || is_root(mount);
            let from_outside = sources.contains(&source(mount)) && !taken.contains(&source(mount));
            if is_ours || self.ids.contains(&mount.line.id) || !from_outside {
                continue;
            }
            match mount.line.mount_point.strip_prefix(place) {
                Ok(beneath) if !beneath.as_os_str().is_empty() => {
                    let beneath = beneath.to_owned();
                    self.add(mount, key, &beneath);
                }
                _ => {}
            }
        }
    }

    /// Refuses a mount over an external one, or beneath it at the same place: CRIU knows them by their places.
    fn refuse_covered(&self) -> Result<()> {
        let places: BTreeSet<&Path> = self.found.iter().map(|found| &*found.mountpoint).collect();
        let mut seen = BTreeSet::new();
        for mount in &self.mounts.0 {
            let place = &*mount.line.mount_point;
            if places.contains(place) && !seen.insert(place) {
                return Err(cannot(mount)
                    .because("it is over another one at the same place, which came from outside: CRIU knows them by \
                              their places and cannot tell them apart")
                    .hint("unmount it in the container, or take one of the two out of the config"));
            }
        }
        Ok(())
    }

    /// Refuses what CRIU cannot make anew, and nobody gives it: one that is alone on its filesystem.
    fn refuse_unknown(&self) -> Result<()> {
        let given: BTreeSet<&str> = self
            .mounts
            .0
            .iter()
            .filter(|mount| is_root(mount) || self.ids.contains(&mount.line.id))
            .map(|mount| &*mount.device)
            .collect();
        let is_unknown = |mount: &&Mount| {
            !KNOWN.contains(&&*mount.line.fstype) && !given.contains(&*mount.device)
        };
        match self.mounts.0.iter().find(is_unknown) {
            None => Ok(()),
            Some(mount) => Err(cannot(mount)
                .because("it was mounted after the container was made, and CRIU cannot mount that filesystem anew")
                .hint("unmount it first, or have the config bind it into the container")),
        }
    }
}

/// What a mount shows: the filesystem, and which directory of it.
fn source(mount: &Mount) -> (&str, &Path) {
    (&mount.device, &mount.line.root)
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
