//! Control groups as this caller finds them: which hierarchy there is, and where she may divide it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use super::MapLine;
use super::session::host_uid;
use crate::sys;

/// Where the hierarchy is mounted, on every system that has one (systemd(1), config-linux.md, "Control groups").
pub const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// The cgroup that the callers of lodger are moved to where theirs is divided: no container's cgroup is called `lodger.…`.
pub const CALLERS: &str = "lodger.callers";

/// The most that is read of a file with names of controllers, or of /proc/self/cgroup.
const MAX_FILE: usize = 64 << 10;

/// What is mounted at [`CGROUP_MOUNT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupKind {
    /// Version 2 alone.
    Unified,
    /// Version 1, and version 2 beside it without most controllers.
    Hybrid,
    /// Version 1 alone.
    V1,
    /// Nothing that is a hierarchy.
    Absent,
}

/// The control groups of this machine and this caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupReading {
    /// Which hierarchy there is. All else is read of a unified one only.
    pub kind: CgroupKind,
    /// Whether it is mounted read-only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// The caller's own cgroup, as /proc/self/cgroup has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<String>,
    /// The cgroup that new ones are made in without systemd: her own, or the one above it if she was moved to [`CALLERS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Why she cannot make any there; `None`: she can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
    /// The controllers that `base` has (cgroup.controllers), if she can make cgroups there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    /// Those that the cgroups in `base` have (cgroup.subtree_control), likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enabled: Vec<String>,
    /// The cgroup that her systemd was given, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<ManagerCgroup>,
}

/// The cgroup that the system's systemd gave to a user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerCgroup {
    /// Its path: …/user@UID.service.
    pub path: String,
    /// Its cgroup.controllers: what was delegated to it.
    pub controllers: Vec<String>,
}

impl CgroupReading {
    /// As [`CgroupReading::read`], for this process.
    pub fn of_caller() -> Self {
        Self::read(sys::cred::uid(), &super::own_uid_map())
    }

    /// Reads what there is for the caller, who is `uid` in a user namespace with the map `uid_map`.
    pub fn read(uid: u32, uid_map: &[MapLine]) -> Self {
        let mut reading = Self {
            kind: CgroupKind::Absent,
            read_only: false,
            own: None,
            base: None,
            obstacle: None,
            controllers: Vec::new(),
            enabled: Vec::new(),
            manager: None,
        };
        let Some(root) = open_root(&mut reading) else {
            return reading;
        };
        let text = sys::path::read_regular(Path::new("/proc/self/cgroup"), MAX_FILE);
        let text = text.unwrap_or_default();
        let own = parse_own_cgroup(&String::from_utf8_lossy(&text)).map(str::to_owned);
        let base = own.as_deref().map(base_of).map(str::to_owned);
        match look(&root, base.as_deref(), reading.read_only) {
            Ok(dir) => {
                reading.controllers = names(&dir, "cgroup.controllers").unwrap_or_default();
                reading.enabled = names(&dir, "cgroup.subtree_control").unwrap_or_default();
            }
            Err(why) => reading.obstacle = Some(why),
        }
        let paths = manager_paths(
            own.as_deref().unwrap_or("/"),
            host_uid(uid, uid_map).unwrap_or(uid),
        );
        reading.manager = paths.into_iter().find_map(|path| {
            let dir = open(&root, &path).ok()?;
            let controllers = names(&dir, "cgroup.controllers")?;
            Some(ManagerCgroup { path, controllers })
        });
        reading.own = own;
        reading.base = base;
        reading
    }
}

/// The root of the unified hierarchy; whatever else there is is written to `reading`.
fn open_root(reading: &mut CgroupReading) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, CGROUP_MOUNT, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstatfs(&root).ok()?;
    if stat.f_type == CGROUP2_SUPER_MAGIC {
        reading.kind = CgroupKind::Unified;
        // ST_RDONLY (statfs(2)).
        reading.read_only = stat.f_flags & 1 != 0;
        return Some(root);
    }
    let type_of = |name| rustix::fs::statfs(format!("{CGROUP_MOUNT}/{name}")).map(|s| s.f_type);
    reading.kind = match stat.f_type {
        TMPFS_MAGIC if type_of("unified").is_ok_and(|t| t == CGROUP2_SUPER_MAGIC) => {
            CgroupKind::Hybrid
        }
        TMPFS_MAGIC => CgroupKind::V1,
        _ => CgroupKind::Absent,
    };
    None
}

/// The filesystem types of statfs(2), as it has them here.
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// The cgroup `base`, if the caller can make cgroups in it and put processes there; else why not.
fn look(
    root: &OwnedFd,
    base: Option<&str>,
    read_only: bool,
) -> std::result::Result<OwnedFd, String> {
    let base = base.ok_or("/proc/self/cgroup names no cgroup of version 2")?;
    if is_outside(base) {
        return Err(format!(
            "the caller's cgroup {base} is outside of her cgroup namespace"
        ));
    }
    if read_only {
        return Err(format!("{CGROUP_MOUNT} is mounted read-only"));
    }
    let dir = open(root, base).map_err(|error| {
        format!("the caller's cgroup {base} is not to be found in {CGROUP_MOUNT}: {error}")
    })?;
    for name in [".", "cgroup.procs", "cgroup.subtree_control"] {
        let mode = if name == "." {
            Access::WRITE_OK | Access::EXEC_OK
        } else {
            Access::WRITE_OK
        };
        if let Err(errno) = rustix::fs::accessat(&dir, name, mode, AtFlags::empty()) {
            let path = format!("{CGROUP_MOUNT}{}/{name}", base.trim_end_matches('/'));
            let path = path.trim_end_matches("/.");
            let error = sys::Error::new("faccessat", format!("{path:?}, W_OK"), errno);
            return Err(format!(
                "the caller's cgroup {base} is not hers to divide: {error}"
            ));
        }
    }
    // The root has no such file. A domain with threads below it may be one again, once its processes are moved.
    let kind = names(&dir, "cgroup.type").unwrap_or_default();
    match kind.first().zip(kind.last()) {
        Some((first, last)) if first == "threaded" || last == "invalid" => Err(format!(
            "the caller's cgroup {base} is for threads (cgroup.type), and those in it can have no processes"
        )),
        _ => Ok(dir),
    }
}

fn open(root: &OwnedFd, path: &str) -> sys::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let relative = path.trim_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    sys::path::open_beneath(root, Path::new(relative), flags, resolve)
}

/// The words of a file; `None` where it cannot be read.
fn names(dir: impl AsFd, file: &str) -> Option<Vec<String>> {
    let text = sys::path::read_regular_at(dir, Path::new(file), MAX_FILE).ok()?;
    Some(words(&String::from_utf8_lossy(&text)))
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// The cgroup of version 2 in the text of /proc/PID/cgroup: the line `0::PATH` (cgroups(7)).
pub fn parse_own_cgroup(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.starts_with('/').then_some(path)
}

/// Where the cgroups of containers are made for a caller in the cgroup `own`.
fn base_of(own: &str) -> &str {
    match own.rsplit_once('/') {
        Some(("", CALLERS)) => "/",
        Some((above, CALLERS)) => above,
        _ => own,
    }
}

/// Whether the path leads out of the cgroup namespace (cgroup_namespaces(7)).
fn is_outside(path: &str) -> bool {
    path.split('/').any(|name| name == "..")
}

/// Where the cgroup of the systemd of `uid` may be, seen from a process in `own`, the most likely place first. The tree of
/// the system's systemd need not begin at the root of the hierarchy.
fn manager_paths(own: &str, uid: u32) -> Vec<String> {
    let service = format!("user@{uid}.service");
    let slice = format!("user-{uid}.slice");
    let names: Vec<&str> = own.split('/').skip(1).collect();
    let upto = |count: usize| {
        names[..count]
            .iter()
            .fold(String::new(), |path, name| path + "/" + name)
    };
    let mut paths = Vec::new();
    if let Some(place) = names.iter().rposition(|name| *name == service) {
        paths.push(upto(place + 1));
        return paths;
    }
    if let Some(place) = names.iter().rposition(|name| *name == slice) {
        paths.push(format!("{}/{service}", upto(place + 1)));
    }
    // A session of somebody else, or a service of the system.
    let tops = ["user.slice", "system.slice"];
    if let Some(place) = names.iter().position(|name| tops.contains(name)) {
        paths.push(format!("{}/user.slice/{slice}/{service}", upto(place)));
    }
    paths.push(format!("/user.slice/{slice}/{service}"));
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_that_of_version_2() {
        let table = [
            ("0::/user.slice/a b\n", Some("/user.slice/a b")),
            ("1:cpu:/x\n0::/\n", Some("/")),
            ("12:pids:/0::/no\n0::/yes:0::/\n", Some("/yes:0::/")),
            ("1:name=systemd:/x\n", None),
            ("0::relative\n", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_own_cgroup(text), expected, "{text:?}");
        }
    }

    #[test]
    fn callers_that_were_moved_make_cgroups_where_they_were() {
        let table = [
            ("/job", "/job"),
            ("/job/lodger.callers", "/job"),
            ("/lodger.callers", "/"),
            ("/lodger.callers/x", "/lodger.callers/x"),
            ("/job/lodger-callers", "/job/lodger-callers"),
            ("/", "/"),
        ];
        for (own, base) in table {
            assert_eq!(base_of(own), base, "{own}");
        }
    }

    #[test]
    fn what_is_outside_of_the_namespace() {
        for path in ["/..", "/../..", "/../job"] {
            assert!(is_outside(path), "{path}");
        }
        for path in ["/", "/a", "/..a/b..", "/a/..b"] {
            assert!(!is_outside(path), "{path}");
        }
    }

    #[test]
    fn the_users_manager_is_found_from_any_place() {
        let usual = "/user.slice/user-7.slice/user@7.service";
        let wsl = "/wsl/distro-1/systemd";
        let table: [(&str, Vec<String>); 9] = [
            (
                "/user.slice/user-7.slice/session-3.scope",
                vec![usual.into()],
            ),
            (
                "/user.slice/user-7.slice/user@7.service/app.slice/x.scope",
                vec![usual.into()],
            ),
            (
                "/user.slice/user-7.slice/user@7.service",
                vec![usual.into()],
            ),
            (
                &format!("{wsl}/user.slice/user-7.slice/session-1.scope"),
                vec![format!("{wsl}{usual}"), usual.into()],
            ),
            // By su(1) from a colleague's session.
            (
                "/user.slice/user-8.slice/session-3.scope",
                vec![usual.into()],
            ),
            (
                "/user.slice/user-8.slice/user@8.service/app.slice/x.scope",
                vec![usual.into()],
            ),
            ("/system.slice/cron.service", vec![usual.into()]),
            (
                &format!("{wsl}/system.slice/cron.service"),
                vec![format!("{wsl}{usual}"), usual.into()],
            ),
            ("/", vec![usual.into()]),
        ];
        for (own, expected) in table {
            assert_eq!(manager_paths(own, 7), expected, "{own}");
        }
    }

    #[test]
    fn nothing_is_made_where_the_path_is_not_ones_own() {
        let root = OwnedFd::from(std::fs::File::open("/proc").unwrap());
        let why = |base, read_only| look(&root, base, read_only).unwrap_err();
        assert!(why(None, false).contains("no cgroup of version 2"));
        assert!(why(Some("/../job"), false).contains("outside of her cgroup namespace"));
        assert!(why(Some("/job"), true).contains("read-only"));
        assert!(why(Some("/nowhere"), false).contains("openat2"));
        // A directory of root's that has no such files.
        assert!(why(Some("/sys"), false).contains("not hers to divide"));
    }
}
