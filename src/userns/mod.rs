//! Entering the outer user namespace ("O"): the one of a running container if there is one, else a new one.
//!
//! O holds exactly the caller's own ids, each mapped to itself. In it this process has every capability over what the
//! caller owns, and numbers still mean what they mean on the host. Nothing here is about one container.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::host::{IdRange, Joinable, parse_id_map};
use crate::plan::idmap::map_text;
use crate::plan::{IdMapping, Outer, one_level};
use crate::state::{OuterRecord, Store};
use crate::sys;

mod cold;
mod freed;
mod helpers;
mod refused;
mod warm;

pub use cold::begin_new;
pub use freed::once_freed;
pub use refused::explain as explain_refusal;

const MAP_LIMIT: usize = 64 << 10;

/// An entry that has begun: the helpers, if any, are at work.
#[derive(Debug)]
pub enum Entering {
    /// Nothing to wait for.
    Done(Option<OuterRecord>),
    /// newuidmap and newgidmap are at work.
    Mapping(helpers::Mapping),
}

/// Begins to enter `outer`. Until [`Entering::finish`] has returned, this process may have no ids.
///
/// `store` is where running containers are looked for, whose O is taken instead of a new one (a warm start). `joined` are
/// the namespaces that the container joins: its O is the one they are in, and none is needed where it joins a user namespace.
pub fn begin(outer: &Outer, store: &Store, joined: &Joinable) -> Result<Entering> {
    if joined.has_user() {
        return Ok(Entering::Done(None));
    }
    if let Some(around) = joined.outer() {
        return enter_around(outer, around);
    }
    if let Outer::Helpers { uids, gids, .. } = outer
        && let Some(record) = warm::enter(store, uids, gids)?
    {
        return Ok(Entering::Done(Some(record)));
    }
    begin_new(outer)
}

impl Entering {
    /// Waits until this process is in O with all of its ids. Returns what to remember of an O that can be shared.
    pub fn finish(self) -> Result<Option<OuterRecord>> {
        match self {
            Self::Done(record) => Ok(record),
            Self::Mapping(mapping) => mapping.finish().map(Some),
        }
    }
}

/// Enters the user namespace `around` the namespaces that are to be joined, which must be as `outer` would be.
fn enter_around(outer: &Outer, around: BorrowedFd<'_>) -> Result<Entering> {
    let own = |id| {
        vec![IdRange {
            start: id,
            count: 1,
        }]
    };
    let (uids, gids) = match outer {
        // Whoever has one from the start has power over all within.
        Outer::Current => return Ok(Entering::Done(None)),
        Outer::OneLevel { .. } => {
            return Err(limit_reached(Error::new(
                "cannot make the container's user namespace beside the namespaces to join",
            )));
        }
        Outer::SingleId { uid, gid } => (own(*uid), own(*gid)),
        Outer::Helpers { uids, gids, .. } => (uids.clone(), gids.clone()),
    };
    sys::ns::join_user(around)
        .doing(|| "cannot go into the user namespace of the namespaces to join".to_owned())?;
    sys::cred::set_dumpable(true).doing(|| "cannot become dumpable".to_owned())?;
    if !has_identity_maps(&uids, &gids)? {
        return Err(Error::new("cannot make the container's user namespace beside the namespaces to join")
            .because("the user namespace that they are in has other ids than yours")
            .hint("join the user namespace that they belong to as well: {\"type\": \"user\", \"path\": \"/proc/PID/ns/user\"}"));
    }
    match outer {
        Outer::Helpers { .. } => {
            record_own(&uids, &gids).map(|record| Entering::Done(Some(record)))
        }
        _ => Ok(Entering::Done(None)),
    }
}

fn enter_single_id(uid: u32, gid: u32) -> Result<()> {
    once_freed(|| sys::ns::unshare(sys::ns::flag::USER)).map_err(explain_refusal)?;
    sys::cred::set_dumpable(true).doing(|| "cannot become dumpable".to_owned())?;
    let own = |id| {
        [IdMapping {
            container_id: id,
            host_id: id,
            size: 1,
        }]
    };
    write_maps(sys::process::own_pid(), &own(uid), &own(gid), false)
}

/// Maps the ids of the container whose init is process `pid`, which was just made in a user namespace made from `outer`.
pub fn map_container(
    outer: &Outer,
    pid: i32,
    (uid_map, gid_map): (&[IdMapping], &[IdMapping]),
    setgroups: bool,
) -> Result<()> {
    match outer {
        Outer::OneLevel {
            helpers: Some([newuidmap, newgidmap]),
        } => helpers::map(pid, [(newuidmap, uid_map), (newgidmap, gid_map)]),
        _ => write_maps(pid, uid_map, gid_map, setgroups),
    }
}

/// The error of a container's user namespace that was refused. With `outer` there is room for one, so the limit is read.
pub fn explain_container(outer: Option<&Outer>, cause: sys::Error) -> Error {
    match outer {
        Some(Outer::OneLevel { .. }) if cause.is(nix::libc::ENOSPC) => limit_reached(
            Error::new("user namespace refused")
                .because_of(&cause)
                .step(Step::UserNamespace),
        ),
        _ => explain_refusal(cause),
    }
}

fn limit_reached(error: Error) -> Error {
    error
        .code(one_level::CODE)
        .hint("user.max_user_namespaces is 1, and another container or program of yours has that one: end it first (`lodger list`)")
        .hint(one_level::REMEDY)
}

/// Writes the id maps of the user namespace that process `pid` was just made in (user_namespaces(7)).
///
/// `setgroups` false denies setgroups(2) first, without which an unprivileged gid map is refused (CVE-2014-8989).
pub fn write_maps(
    pid: i32,
    uid_map: &[IdMapping],
    gid_map: &[IdMapping],
    setgroups: bool,
) -> Result<()> {
    if !setgroups {
        write_proc(pid, "setgroups", "deny")?;
    }
    write_proc(pid, "uid_map", &map_text(uid_map))?;
    write_proc(pid, "gid_map", &map_text(gid_map))
}

fn write_proc(pid: i32, name: &str, content: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{name}");
    sys::path::write_existing(Path::new(&path), content.as_bytes())
        .doing(|| format!("cannot write {path} ({:?})", content.trim_end()))
        .map_err(|error| {
            error.step(Step::IdMap).hint("the kernel accepts only ids of this user namespace, once, with CAP_SETUID and CAP_SETGID")
        })
}

/// This process's own maps, checked against what they must be.
fn has_identity_maps(uids: &[IdRange], gids: &[IdRange]) -> Result<bool> {
    Ok(
        is_identity(&read_own_map("uid_map")?, uids)
            && is_identity(&read_own_map("gid_map")?, gids),
    )
}

fn read_own_map(name: &str) -> Result<String> {
    let path = format!("/proc/self/{name}");
    let text = sys::path::read_regular(Path::new(&path), MAP_LIMIT)
        .doing(|| format!("cannot read {path}"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether the kernel's map `text` maps exactly `ranges`, each to itself, in any order.
fn is_identity(text: &str, ranges: &[IdRange]) -> bool {
    let mut expected: Vec<[u32; 3]> = ranges
        .iter()
        .map(|range| [range.start, range.start, range.count])
        .collect();
    let mut found: Vec<[u32; 3]> = parse_id_map(text)
        .iter()
        .map(|line| [line.inside, line.outside, line.count])
        .collect();
    expected.sort_unstable();
    found.sort_unstable();
    // A line that could not be read is one too many.
    found == expected && text.lines().count() == ranges.len()
}

/// What to remember of the user namespace this process is in now.
fn record_own(uids: &[IdRange], gids: &[IdRange]) -> Result<OuterRecord> {
    let path = Path::new("/proc/self/ns/user");
    let what = || "cannot identify the outer user namespace".to_owned();
    let fd = sys::path::open_magic(path).doing(what)?;
    let (device, inode) = sys::ns::identity(fd.as_fd()).doing(what)?;
    Ok(OuterRecord {
        device,
        inode,
        uids: uids.to_vec(),
        gids: gids.to_vec(),
    })
}

/// The error of an O whose maps are not what was asked for.
fn wrong_maps() -> Error {
    Error::new("the outer user namespace does not have the expected id maps")
        .hint("the subordinate id ranges changed while containers run: stop the containers, then try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL_TEXT: &str =
        "      1000       1000          1\n    100000     100000      65536\n";

    fn ranges(list: &[(u32, u32)]) -> Vec<IdRange> {
        list.iter()
            .map(|(start, count)| IdRange {
                start: *start,
                count: *count,
            })
            .collect()
    }

    #[test]
    fn the_expected_identity_map_is_accepted_in_any_order() {
        assert!(is_identity(
            KERNEL_TEXT,
            &ranges(&[(1000, 1), (100_000, 65_536)])
        ));
        assert!(is_identity(
            KERNEL_TEXT,
            &ranges(&[(100_000, 65_536), (1000, 1)])
        ));
    }

    #[test]
    fn a_foreign_map_is_refused() {
        let own = ranges(&[(1000, 1), (100_000, 65_536)]);
        for foreign in [
            "",
            "         0          0 4294967295\n",
            "      1000       1000          1\n",
            "         0       1000          1\n    100000     100000      65536\n",
            "      1000       1000          1\n    100000     100000      65537\n",
            "      1000       1000          1\n    100000     100000      65536\nx\n",
        ] {
            assert!(!is_identity(foreign, &own), "{foreign:?}");
        }
    }
}
