//! What takes the privilege from newuidmap(1) and newgidmap(1), read before they are run: afterwards all causes have the
//! same words ("write to uid_map failed: Operation not permitted").

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use super::{HelperObstacle, parse_mountinfo};
use crate::sys;

/// S_ISUID.
const SETUID: u32 = 0o4000;
/// CAP_SETGID, CAP_SETUID and CAP_SYS_ADMIN (capabilities(7)).
const CAP_SETGID: u8 = 6;
const CAP_SETUID: u8 = 7;
const CAP_SYS_ADMIN: u8 = 21;

/// The most that is read of a list of mounts, in bytes.
const MOUNTS_LIMIT: usize = 4 << 20;

/// A helper that was found, and the capability that it is there for.
struct Helper<'a> {
    path: &'a Path,
    metadata: &'a Metadata,
    capability: (u8, &'static str),
}

/// What takes the privilege from either of `newuidmap` and `newgidmap`; `uid` is the caller's.
pub(super) fn read(
    uid: u32,
    newuidmap: (&Path, &Metadata),
    newgidmap: (&Path, &Metadata),
) -> Option<HelperObstacle> {
    // Root needs nothing of the file: what it may is in its bounding set.
    if uid != 0 && sys::cred::has_no_new_privs() {
        return Some(HelperObstacle::NoNewPrivileges);
    }
    let helpers = [
        (newuidmap, (CAP_SETUID, "CAP_SETUID")),
        (newgidmap, (CAP_SETGID, "CAP_SETGID")),
    ]
    .map(|((path, metadata), capability)| Helper {
        path,
        metadata,
        capability,
    });
    if uid != 0 {
        let of_file = helpers.iter().find_map(Helper::obstacle);
        if of_file.is_some() {
            return of_file;
        }
    }
    let mut missing: Vec<String> = Vec::new();
    let mut first = None;
    for helper in &helpers {
        for (number, name) in helper.needs(uid == 0) {
            let known = missing.iter().any(|known| known == name);
            if !known && sys::cred::in_bounding_set(number) == Some(false) {
                first = first.or(Some(helper.path));
                missing.push(name.to_owned());
            }
        }
    }
    first.map(|path| HelperObstacle::BoundingSet {
        helper: path.to_owned(),
        missing,
    })
}

impl Helper<'_> {
    /// What the file goes without.
    fn obstacle(&self) -> Option<HelperObstacle> {
        let helper = || self.path.to_owned();
        if !self.becomes_root() && !self.has_capability() {
            return Some(HelperObstacle::Unprivileged { helper: helper() });
        }
        nosuid_mount(self.path).map(|mount| HelperObstacle::NosuidMount {
            helper: helper(),
            mount,
        })
    }

    fn becomes_root(&self) -> bool {
        self.metadata.mode() & SETUID != 0 && self.metadata.uid() == 0
    }

    /// The capabilities that it has to get. One that stays the caller's owns the new namespace, and has CAP_SYS_ADMIN
    /// there by that.
    fn needs(&self, is_root: bool) -> impl Iterator<Item = (u8, &'static str)> {
        let admin = (self.becomes_root() && !is_root).then_some((CAP_SYS_ADMIN, "CAP_SYS_ADMIN"));
        [Some(self.capability), admin].into_iter().flatten()
    }

    /// Whether its file capabilities have its own, as the kernel would give it here: those of another user namespace's
    /// root are not to be read.
    fn has_capability(&self) -> bool {
        let mut value = [0u8; 24];
        let Ok(size) = rustix::fs::getxattr(self.path, "security.capability", &mut value) else {
            return false;
        };
        permits(&value[..size.min(value.len())], self.capability.0)
    }
}

/// Whether `value` of `security.capability` (struct vfs_cap_data of linux/capability.h) has capability `number`, which is
/// one of the first 32, in its permitted set.
fn permits(value: &[u8], number: u8) -> bool {
    let permitted = value.get(4..).and_then(|rest| rest.first_chunk::<4>());
    permitted.is_some_and(|bytes| u32::from_le_bytes(*bytes) & 1 << number != 0)
}

/// The mount that `path` is on, if it has `nosuid`.
fn nosuid_mount(path: &Path) -> Option<PathBuf> {
    let stat = rustix::fs::statvfs(path).ok()?;
    if !stat.f_flag.contains(StatVfsMountFlags::NOSUID) {
        return None;
    }
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let text = sys::path::read_regular(Path::new("/proc/self/mountinfo"), MOUNTS_LIMIT);
    Some(mount_of(&text.unwrap_or_default(), &real))
}

/// The mount point of `path` in `mountinfo`: the longest, as one that is covered by it cannot be on the way.
fn mount_of(mountinfo: &[u8], path: &Path) -> PathBuf {
    let points = parse_mountinfo(mountinfo)
        .into_iter()
        .map(|line| line.mount_point);
    let on_the_way = points.filter(|point| path.starts_with(point));
    let longest = on_the_way.max_by_key(|point| point.components().count());
    longest.unwrap_or_else(|| PathBuf::from("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_capabilities() {
        // Revision 2, effective; CAP_SETUID permitted.
        let setuid = [
            1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert!(permits(&setuid, CAP_SETUID));
        assert!(!permits(&setuid, CAP_SETGID));
        for short in [&setuid[..7], &[]] {
            assert!(!permits(short, CAP_SETUID));
        }
    }

    #[test]
    fn the_mount_of_a_path_is_the_nearest() {
        let line = |point: &str| format!("1 2 8:1 / {point} rw,nosuid - ext4 /dev/x rw\n");
        let text = ["/", "/usr", "/usr/bin", "/us", "/usr/bin/newuidmapx"].map(line);
        let of = |path: &str| mount_of(text.concat().as_bytes(), Path::new(path));
        assert_eq!(of("/usr/bin/newuidmap"), Path::new("/usr/bin"));
        assert_eq!(of("/usr/local/bin/x"), Path::new("/usr"));
        assert_eq!(mount_of(b"", Path::new("/x")), Path::new("/"));
    }

    #[test]
    fn a_program_without_privilege_is_an_obstacle() {
        // What is read of this process comes first; the rest is of the file.
        if sys::cred::has_no_new_privs() {
            return;
        }
        let path = std::fs::canonicalize("/proc/self/exe").unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let obstacle = read(1000, (&path, &metadata), (&path, &metadata));
        assert_eq!(
            obstacle,
            Some(HelperObstacle::Unprivileged { helper: path })
        );
    }
}
