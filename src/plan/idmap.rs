//! The id maps: which ids are the caller's, and how the container's are laid over them.
//!
//! The kernel takes a line only if one line of the parent namespace holds all of it, and a map only if it has at most
//! 340 lines and is shorter than a page (user_namespaces(7)). So lines are split here, and counted here.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::single_id::{self, SingleIdCause};
use super::{IdMapping, Note, Outer, UserNamespace, one_level};
use crate::bundle::Problem;
use crate::host::{HostFacts, IdRange, IdWish, MapLine};

/// UID_GID_MAP_MAX_EXTENTS of the kernel.
const MAX_LINES: usize = 340;

/// A map must be shorter than the smallest page.
const MAX_BYTES: usize = 4095;

/// Ids stop short of `(uid_t) -1`.
const END: u64 = u32::MAX as u64;

/// What the config says about the user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ConfigMaps {
    /// Whether `linux.namespaces` has a new user namespace.
    pub(super) requested: bool,
    /// `linux.uidMappings`, in its order.
    pub(super) uids: Vec<IdMapping>,
    /// `linux.gidMappings`, in its order.
    pub(super) gids: Vec<IdMapping>,
}

/// The outer namespace and its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OuterIds {
    /// How it is had.
    pub(super) outer: Outer,
    /// Its uids, the caller's own first; one element is one line of its map.
    pub(super) uids: Vec<IdRange>,
    /// Its gids, likewise.
    pub(super) gids: Vec<IdRange>,
    /// What the reader should know about it.
    pub(super) notes: Vec<Note>,
}

/// The outer user namespace of this caller. It is the same for every config, so that it can be made before one is read.
pub fn outer(facts: &HostFacts) -> Outer {
    outer_ids(facts).outer
}

/// As [`outer`], for work on files: there is no container beside which the namespace would be one too many.
pub fn workplace(facts: &HostFacts) -> Outer {
    match outer(facts) {
        Outer::OneLevel { .. } => outer(&HostFacts {
            few_user_namespaces: None,
            ..facts.clone()
        }),
        other => other,
    }
}

/// Whether setgroups(2) is allowed in a container whose config asks for no maps.
pub fn allows_setgroups(facts: &HostFacts) -> bool {
    !matches!(
        outer(facts),
        Outer::SingleId { .. } | Outer::OneLevel { helpers: None }
    )
}

/// The uid map and the gid map of a container whose config asks for none: what an image's owners go through.
pub fn usual_maps(facts: &HostFacts) -> (Vec<IdMapping>, Vec<IdMapping>) {
    let OuterIds { uids, gids, .. } = outer_ids(facts);
    if !is_current(facts) || facts.id_wish == IdWish::Single {
        return (default_map(&uids), default_map(&gids));
    }
    // It stays in the caller's user namespace.
    let same = |ids: Vec<IdRange>| {
        ids.into_iter()
            .map(|range| IdMapping {
                container_id: range.start,
                host_id: range.start,
                size: range.count,
            })
            .collect()
    };
    (same(uids), same(gids))
}

/// The outer namespace that this caller can have, and the ids in it.
pub(super) fn outer_ids(facts: &HostFacts) -> OuterIds {
    if is_current(facts) {
        return current(facts);
    }
    let cause = single_id::cause(facts);
    let mut notes = single_id::skipped(facts, cause.as_ref());
    if facts.uid == 0 && !facts.in_user_namespace {
        notes.push(Note::new(
            "/linux/namespaces",
            "the container gets a user namespace although root calls: its root has no capability over this machine",
            "call lodger as an ordinary user",
        ));
    }
    let one_level = one_level::is_needed(facts);
    if one_level {
        notes.push(one_level::note());
    }
    let helpers = facts.newuidmap.clone().zip(facts.newgidmap.clone());
    let Some((newuidmap, newgidmap)) = helpers.filter(|_| cause.is_none()) else {
        notes.extend(cause.map(|cause| cause.note()));
        let (uid, gid) = (facts.uid, facts.gid);
        return OuterIds {
            outer: match one_level {
                true => Outer::OneLevel { helpers: None },
                false => Outer::SingleId { uid, gid },
            },
            uids: one(uid),
            gids: one(gid),
            notes,
        };
    };
    let uids = with_own(facts.uid, &facts.subuid, "/linux/uidMappings", &mut notes);
    let gids = with_own(facts.gid, &facts.subgid, "/linux/gidMappings", &mut notes);
    OuterIds {
        outer: match one_level {
            true => Outer::OneLevel {
                helpers: Some([newuidmap, newgidmap]),
            },
            false => Outer::Helpers {
                newuidmap,
                newgidmap,
                uids: uids.clone(),
                gids: gids.clone(),
            },
        },
        uids,
        gids,
        notes,
    }
}

/// The present user namespace as the outer one.
fn current(facts: &HostFacts) -> OuterIds {
    let (uids, gids, notes) = match facts.id_wish {
        IdWish::Single => (
            one(facts.uid),
            one(facts.gid),
            single_id::cause(facts)
                .iter()
                .map(SingleIdCause::note)
                .collect(),
        ),
        IdWish::Any | IdWish::Subordinate => (
            own_first(facts.uid, &facts.uid_map),
            own_first(facts.gid, &facts.gid_map),
            Vec::new(),
        ),
    };
    OuterIds {
        outer: Outer::Current,
        uids,
        gids,
        notes,
    }
}

fn one(start: u32) -> Vec<IdRange> {
    vec![IdRange { start, count: 1 }]
}

/// Why a container of this caller has one id only; `None`: it has more.
pub fn single_id_cause(facts: &HostFacts) -> Option<SingleIdCause> {
    if is_current(facts) && facts.id_wish != IdWish::Single {
        return single_id::of_present(facts);
    }
    single_id::cause(facts)
}

/// The user namespace of the container: what the config asks, else the default map (0 is the caller, then her ranges).
///
/// # Errors
/// Every mapping that the kernel would refuse, with its pointer.
pub(super) fn user_namespace(
    config: ConfigMaps,
    facts: &HostFacts,
) -> Result<(UserNamespace, Vec<Note>), Vec<Problem>> {
    let asked = config.requested || !config.uids.is_empty() || !config.gids.is_empty();
    if is_current(facts) && !asked && facts.id_wish != IdWish::Single {
        return Ok((UserNamespace::Inherit, Vec::new()));
    }
    let OuterIds {
        outer,
        uids,
        gids,
        notes,
    } = outer_ids(facts);
    let why = single_id_cause(facts).map(|cause| cause.note());
    let why = why.map(|note| format!("{}; {}", note.reason, note.remedy));
    let uid_map = container_map("/linux/uidMappings", config.uids, &uids, why.as_deref());
    let gid_map = container_map("/linux/gidMappings", config.gids, &gids, why.as_deref());
    let (uid_map, gid_map) = match (uid_map, gid_map) {
        (Ok(uid_map), Ok(gid_map)) => (uid_map, gid_map),
        (uids, gids) => {
            let problems = [uids.err(), gids.err()];
            return Err(problems.into_iter().flatten().flatten().collect());
        }
    };
    let setgroups = match outer {
        Outer::SingleId { .. } | Outer::OneLevel { helpers: None } => false,
        Outer::Current => facts.setgroups_allowed && facts.id_wish != IdWish::Single,
        Outer::Helpers { .. } | Outer::OneLevel { helpers: Some(_) } => true,
    };
    let namespace = UserNamespace::New {
        outer,
        uid_map,
        gid_map,
        setgroups,
    };
    Ok((namespace, notes))
}

/// The text to write to `uid_map` or `gid_map`: `container host size` a line.
pub fn map_text(map: &[IdMapping]) -> String {
    let mut text = String::new();
    for line in map {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", line.container_id, line.host_id, line.size);
    }
    text
}

/// Whether `container_id` has an id of the caller's behind it.
pub fn maps_id(map: &[IdMapping], container_id: u32) -> bool {
    to_host(map, container_id).is_some()
}

/// The id behind `container_id`, in the caller's user namespace.
pub fn to_host(map: &[IdMapping], container_id: u32) -> Option<u32> {
    map.iter().find_map(|line| {
        let offset = container_id.checked_sub(line.container_id)?;
        (offset < line.size).then(|| line.host_id.checked_add(offset))?
    })
}

fn is_current(facts: &HostFacts) -> bool {
    facts.in_user_namespace && facts.sys_admin
}

/// The own id and then the ranges, as many as fit in one map.
fn with_own(own: u32, ranges: &[IdRange], property: &str, notes: &mut Vec<Note>) -> Vec<IdRange> {
    let mut ids = vec![IdRange {
        start: own,
        count: 1,
    }];
    ids.extend(ranges);
    let whole = ids.len();
    // The container's map has as many lines, and may be the longer text.
    while ids.len() > MAX_LINES
        || identity_bytes(&ids).max(map_text(&default_map(&ids)).len()) > MAX_BYTES
    {
        ids.pop();
    }
    if ids.len() < whole {
        let dropped = whole - ids.len();
        let reason = format!(
            "the last {dropped} subordinate ranges are not used: a map has at most {MAX_LINES} lines and {MAX_BYTES} bytes"
        );
        notes.push(Note::new(
            property,
            reason,
            "ask the administrator for fewer and longer ranges",
        ));
    }
    ids
}

fn identity_bytes(ids: &[IdRange]) -> usize {
    let line = |r: &IdRange| format!("{} {} {}\n", r.start, r.start, r.count).len();
    ids.iter().map(line).sum()
}

/// The ids of the present namespace, the own one first and cut out of its line.
fn own_first(own: u32, map: &[MapLine]) -> Vec<IdRange> {
    let mut ids = Vec::new();
    for line in map {
        let (start, count) = (line.inside, line.count);
        match own.checked_sub(start).filter(|before| *before < count) {
            None => ids.push(IdRange { start, count }),
            Some(before) => {
                ids.insert(
                    0,
                    IdRange {
                        start: own,
                        count: 1,
                    },
                );
                let after = count - before - 1;
                ids.push(IdRange {
                    start,
                    count: before,
                });
                ids.push(IdRange {
                    start: own.saturating_add(1),
                    count: after,
                });
            }
        }
    }
    ids.retain(|range| range.count > 0);
    ids
}

/// Container ids from 0 on, laid over `ids` in their order.
fn default_map(ids: &[IdRange]) -> Vec<IdMapping> {
    let mut next = 0u32;
    let mut map = Vec::new();
    for range in ids {
        map.push(IdMapping {
            container_id: next,
            host_id: range.start,
            size: range.count,
        });
        let Some(following) = next.checked_add(range.count) else {
            break;
        };
        next = following;
    }
    map
}

fn container_map(
    pointer: &str,
    asked: Vec<IdMapping>,
    owned: &[IdRange],
    why: Option<&str>,
) -> Result<Vec<IdMapping>, Vec<Problem>> {
    if asked.is_empty() {
        return fits(pointer, default_map(owned)).map_err(|p| vec![p]);
    }
    let mut problems = overlaps(pointer, &asked);
    let mut map = Vec::new();
    for (index, line) in asked.iter().enumerate() {
        match sound(line).and_then(|()| split(line, owned).map_err(|id| foreign(id, owned, why))) {
            Ok(pieces) => map.extend(pieces),
            Err(message) => problems.push(Problem {
                pointer: format!("{pointer}/{index}"),
                message,
                code: None,
            }),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    fits(pointer, map).map_err(|p| vec![p])
}

pub(super) fn sound(line: &IdMapping) -> Result<(), String> {
    let size = u64::from(line.size);
    if size == 0 {
        return Err("size is 0".to_owned());
    }
    for (name, start) in [("containerID", line.container_id), ("hostID", line.host_id)] {
        if u64::from(start) + size > END {
            return Err(format!(
                "{name} {start} and size {size} go beyond the last id, 4294967294"
            ));
        }
    }
    Ok(())
}

fn foreign(id: u32, owned: &[IdRange], why: Option<&str>) -> String {
    let shown: Vec<String> = owned.iter().take(8).map(show).collect();
    let more = if owned.len() > 8 { ", …" } else { "" };
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    format!(
        "hostID {id} is not the caller's; hers are {}{more}{why}",
        shown.join(", ")
    )
}

fn show(range: &IdRange) -> String {
    match range.count {
        1 => range.start.to_string(),
        count => format!(
            "{}-{}",
            range.start,
            u64::from(range.start) + u64::from(count) - 1
        ),
    }
}

/// Splits `line` where it crosses from one range of `owned` to the next; `Err` is the first id that none of them holds.
fn split(line: &IdMapping, owned: &[IdRange]) -> Result<Vec<IdMapping>, u32> {
    let mut rest = *line;
    let mut pieces = Vec::new();
    while rest.size > 0 {
        let left = |range: &IdRange| {
            let offset = rest.host_id.checked_sub(range.start)?;
            range.count.checked_sub(offset).filter(|left| *left > 0)
        };
        let left = owned.iter().find_map(left).ok_or(rest.host_id)?;
        let size = rest.size.min(left);
        pieces.push(IdMapping { size, ..rest });
        rest.size -= size;
        // Checked by `sound`: neither goes beyond the last id.
        rest.host_id = rest.host_id.saturating_add(size);
        rest.container_id = rest.container_id.saturating_add(size);
    }
    Ok(pieces)
}

/// The lines that overlap an earlier one, on either side.
pub(super) fn overlaps(pointer: &str, map: &[IdMapping]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, start) in [
        ("containerID", (|l| l.container_id) as fn(&IdMapping) -> u32),
        ("hostID", |l| l.host_id),
    ] {
        let span =
            |(index, l): (usize, &IdMapping)| (u64::from(start(l)), u64::from(l.size), index);
        let mut spans: Vec<_> = map.iter().enumerate().map(span).collect();
        spans.retain(|span| span.1 > 0);
        spans.sort_unstable();
        for pair in spans.windows(2) {
            if pair[0].0 + pair[0].1 > pair[1].0 {
                let (first, second) = (pair[0].2.min(pair[1].2), pair[0].2.max(pair[1].2));
                problems.push(Problem {
                    pointer: format!("{pointer}/{second}"),
                    message: format!("its {name} range overlaps that of {pointer}/{first}"),
                    code: None,
                });
            }
        }
    }
    problems
}

pub(super) fn fits(pointer: &str, map: Vec<IdMapping>) -> Result<Vec<IdMapping>, Problem> {
    let bytes = map_text(&map).len();
    let message = if map.is_empty() {
        "the caller has no id that could be mapped".to_owned()
    } else if map.len() > MAX_LINES {
        format!(
            "the map has {} lines after splitting; the kernel takes {MAX_LINES}",
            map.len()
        )
    } else if bytes > MAX_BYTES {
        format!("the map is {bytes} bytes long; the kernel takes {MAX_BYTES}")
    } else {
        return Ok(map);
    };
    Err(Problem {
        pointer: pointer.to_owned(),
        message,
        code: None,
    })
}

#[cfg(test)]
#[path = "idmap_tests.rs"]
mod tests;
