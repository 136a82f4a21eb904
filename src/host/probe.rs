//! The readings: as few as can be, for every `run` waits for them.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getegid, geteuid, getrlimit};

use super::obstacle;
use super::programs::{answer, find, find_file, start};
use super::subid::{parse_getsubids, parse_subid};
use super::text::{parse_id_map, parse_nsswitch, parse_passwd_name};
use super::{CgroupReading, Details, HostFacts, IdRange, IdWish, Limit, MapLine};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::path::read_regular;

/// The most that is read of one file, in bytes.
const MAX_FILE: usize = 1 << 20;

/// The link of the initial user namespace: its inode number is fixed (PROC_USER_INIT_INO, 0xEFFFFFFD).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// CAP_SYS_ADMIN (capabilities(7)).
const SYS_ADMIN: u64 = 1 << 21;

const LIMITS: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

impl HostFacts {
    /// Reads the facts of this process and machine. What cannot be read is left at its default.
    pub fn probe() -> Self {
        let uid = geteuid().as_raw();
        let gid = getegid().as_raw();
        let in_user_namespace = in_user_namespace();
        let last_capability = sys::cred::last_capability();
        let maps = Maps::read(in_user_namespace);
        let nsswitch = read("/etc/nsswitch.conf").unwrap_or_default();
        let user_name = user_name(uid, &nsswitch);
        let cgroup = Some(CgroupReading::read(uid, &maps.uid));
        let mut notes = Vec::new();
        let [subuid, subgid] = ranges(&nsswitch, user_name.as_deref(), [uid, gid], &mut notes);
        let newuidmap = helper("newuidmap", in_user_namespace, &mut notes);
        let newgidmap = helper("newgidmap", in_user_namespace, &mut notes);
        let with_ids = !subuid.is_empty() && !subgid.is_empty();
        // An attacker's own program has no privilege, and runs all the same where its place is no matter.
        let looked_at = with_ids && is_on(Defence::HelperPaths);
        let helper_obstacle = match (&newuidmap, &newgidmap) {
            (Some((uids, of_uids)), Some((gids, of_gids))) if looked_at => {
                obstacle::read(uid, (uids, of_uids), (gids, of_gids))
            }
            _ => None,
        };
        Self {
            uid,
            gid,
            in_user_namespace,
            sys_admin: sys::cred::effective_set() & SYS_ADMIN != 0,
            uid_map: maps.uid,
            gid_map: maps.gid,
            setgroups_allowed: maps.setgroups_allowed,
            subuid,
            subgid,
            newuidmap: newuidmap.map(|(path, _)| path),
            newgidmap: newgidmap.map(|(path, _)| path),
            helper_obstacle,
            id_wish: IdWish::Any,
            few_user_namespaces: few_user_namespaces(),
            subid_notes: notes,
            bounding_set: bounding_set(in_user_namespace, last_capability),
            last_capability,
            limits: limits(),
            details: Details::default(),
            user_name,
            namespaces: Vec::new(),
            network: None,
            cgroup,
            session: None,
        }
    }
}

/// Whether this process is in another user namespace than the initial one.
pub(super) fn in_user_namespace() -> bool {
    let namespace = std::fs::read_link("/proc/self/ns/user");
    namespace.is_ok_and(|n| n != Path::new(INITIAL_USER_NAMESPACE))
}

/// `/proc/self/uid_map`.
pub fn own_uid_map() -> Vec<MapLine> {
    parse_id_map(&read("/proc/self/uid_map").unwrap_or_default())
}

/// The id maps of this process's user namespace.
struct Maps {
    uid: Vec<MapLine>,
    gid: Vec<MapLine>,
    setgroups_allowed: bool,
}

impl Maps {
    fn read(in_user_namespace: bool) -> Self {
        if !in_user_namespace {
            // The initial user namespace has no other maps (user_namespaces(7)).
            let all = vec![MapLine {
                inside: 0,
                outside: 0,
                count: u32::MAX,
            }];
            return Self {
                uid: all.clone(),
                gid: all,
                setgroups_allowed: true,
            };
        }
        Self {
            uid: own_uid_map(),
            gid: parse_id_map(&read("/proc/self/gid_map").unwrap_or_default()),
            setgroups_allowed: read("/proc/self/setgroups").is_none_or(|t| t.trim() != "deny"),
        }
    }
}

/// `user.max_user_namespaces`, if it is too small for an outer user namespace and the container's.
fn few_user_namespaces() -> Option<u32> {
    const ENOUGH: u32 = 2;
    let text = read("/proc/sys/user/max_user_namespaces")?;
    text.trim().parse().ok().filter(|limit| *limit < ENOUGH)
}

/// The bounding set limits a container only where no new user namespace is made for it.
fn bounding_set(in_user_namespace: bool, last_capability: u8) -> u64 {
    if in_user_namespace {
        sys::cred::bounding_set(last_capability)
    } else {
        u64::MAX >> (63 - last_capability.min(63))
    }
}

fn read(path: &str) -> Option<String> {
    let bytes = read_regular(Path::new(path), MAX_FILE).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn limits() -> BTreeMap<String, Limit> {
    let limit = |(name, resource): (&str, Resource)| {
        let limit = getrlimit(resource);
        let soft = limit.current.unwrap_or(u64::MAX);
        let hard = limit.maximum.unwrap_or(u64::MAX);
        (name.to_owned(), Limit { soft, hard })
    };
    LIMITS.into_iter().map(limit).collect()
}

fn helper(
    name: &str,
    in_user_namespace: bool,
    notes: &mut Vec<String>,
) -> Option<(PathBuf, Metadata)> {
    find_file(name, in_user_namespace).unwrap_or_else(|why| {
        notes.push(why);
        None
    })
}

fn user_name(uid: u32, nsswitch: &str) -> Option<String> {
    let local = read("/etc/passwd").and_then(|text| parse_passwd_name(&text, uid));
    local.or_else(|| {
        // getent would read the same file again when there is no other source.
        if parse_nsswitch(nsswitch, "passwd")
            .iter()
            .all(|s| *s == "files")
        {
            return None;
        }
        let getent = find("getent", false).ok()??;
        let child = start(&getent, &["passwd", &uid.to_string()]).ok()?;
        parse_passwd_name(&answer(child)?, uid)
    })
}

/// The subordinate uids and gids; `own` is the caller's uid and gid.
fn ranges(
    nsswitch: &str,
    name: Option<&str>,
    own: [u32; 2],
    notes: &mut Vec<String>,
) -> [Vec<IdRange>; 2] {
    let elsewhere = parse_nsswitch(nsswitch, "subid")
        .iter()
        .any(|s| *s != "files");
    if let Some(name) = name.filter(|_| elsewhere) {
        match ask_getsubids(name, own, notes) {
            Some(ranges) => return ranges,
            None => notes.push(
                "getsubids gave no ranges: /etc/subuid and /etc/subgid are read instead".to_owned(),
            ),
        }
    }
    let mut file = |path: &str, own_id| {
        let text = match read_regular(Path::new(path), MAX_FILE) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                if !error.is(rustix::io::Errno::NOENT.raw_os_error()) {
                    notes.push(format!("{path} is not used: {error}"));
                }
                return Vec::new();
            }
        };
        let (ranges, skipped) = parse_subid(&text, name, own[0], own_id);
        notes.extend(skipped.iter().map(|note| format!("{path} {note}")));
        ranges
    };
    [file("/etc/subuid", own[0]), file("/etc/subgid", own[1])]
}

/// The answers of getsubids(1); `None` when it is not there, fails or knows no range of one kind.
fn ask_getsubids(name: &str, own: [u32; 2], notes: &mut Vec<String>) -> Option<[Vec<IdRange>; 2]> {
    // A name that reads as an option would be one.
    if name.starts_with('-') {
        return None;
    }
    let program = find("getsubids", false).ok()??;
    // Both are started before either is waited for.
    let children = [
        start(&program, &[name]).ok(),
        start(&program, &["-g", name]).ok(),
    ];
    let [uids, gids] = children.map(|child| child.and_then(answer));
    let (uids, more) = parse_getsubids(&uids?, own[0]);
    let (gids, even_more) = parse_getsubids(&gids?, own[1]);
    let skipped = more.iter().chain(&even_more);
    notes.extend(skipped.map(|note| format!("getsubids {note}")));
    (!uids.is_empty() && !gids.is_empty()).then_some([uids, gids])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_agrees_with_the_kernel() {
        let facts = HostFacts::probe();
        assert_eq!(facts.uid, geteuid().as_raw());
        assert_eq!(facts.limits.len(), 16);
        assert!(facts.last_capability >= 37);
        let covers =
            |line: &super::super::MapLine| facts.uid.wrapping_sub(line.inside) < line.count;
        assert!(facts.uid_map.iter().any(covers), "{:?}", facts.uid_map);
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<HostFacts>(&text).unwrap(), facts);
    }
}
