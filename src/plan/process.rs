//! The container's process: ids, capabilities and limits, as far as this caller can grant them.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::annotations::KEEP_GROUPS;
use super::idmap::maps_id;
use super::{
    Capabilities, CapabilitySet, IdMapping, Note, Process, ProcessAttributes, Rlimit, Terminal,
    TerminalSize,
};
use crate::bundle::Problem;
use crate::host::{HostFacts, MapLine};

/// The user namespace that a process will be in.
#[derive(Debug, Clone, Copy)]
pub struct Ids<'a> {
    /// Its uid map and gid map. `None`: the namespace is the caller's own.
    pub maps: Option<(&'a [IdMapping], &'a [IdMapping])>,
    /// Whether setgroups(2) is allowed there.
    pub setgroups: bool,
    /// Whether the caller's supplementary groups stay, whatever the config says of groups.
    pub keep_groups: bool,
    /// The caller.
    pub facts: &'a HostFacts,
}

impl Ids<'_> {
    /// Whether `id` is a uid of the namespace.
    pub fn has_uid(&self, id: u32) -> bool {
        let map = self.maps.map(|(uids, _)| uids);
        has(map, &self.facts.uid_map, id)
    }

    /// Whether `id` is a gid of the namespace.
    pub fn has_gid(&self, id: u32) -> bool {
        let map = self.maps.map(|(_, gids)| gids);
        has(map, &self.facts.gid_map, id)
    }
}

fn has(map: Option<&[IdMapping]>, own: &[MapLine], id: u32) -> bool {
    match map {
        Some(map) => maps_id(map, id),
        None => own.iter().any(|line| line.has(id)),
    }
}

/// Plans `spec`, the container's process or one that joins it (`exec`), for the user namespace `ids`: all but its
/// [`ProcessAttributes`], which depend on the rest of the config.
///
/// All problems are returned, not the first.
pub fn process(
    spec: &oci_spec::runtime::Process,
    ids: Ids<'_>,
) -> Result<(Process, Vec<Note>), Vec<Problem>> {
    let mut notes = Vec::new();
    let mut problems = Vec::new();
    let user = spec.user();
    check_ids(user, ids, &mut problems);
    let additional_gids = if ids.keep_groups {
        notes.extend(left_out_groups(user));
        None
    } else {
        additional_gids(user, ids, &mut problems)
    };
    let capabilities = capabilities(spec.capabilities().as_ref(), ids, &mut notes);
    let rlimits = rlimits(spec, ids.facts, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let process = Process {
        args: spec.args().clone().unwrap_or_default(),
        env: spec.env().clone().unwrap_or_default(),
        terminal: terminal(spec),
        cwd: spec.cwd().clone(),
        uid: user.uid(),
        gid: user.gid(),
        additional_gids,
        umask: user.umask(),
        capabilities,
        rlimits,
        no_new_privileges: spec.no_new_privileges().unwrap_or(false),
        oom_score_adj: spec.oom_score_adj(),
        attributes: ProcessAttributes::default(),
    };
    Ok((process, notes))
}

/// `consoleSize` without `terminal` is ignored, as config.md wants it. 0 means nothing to a terminal: it is not given.
fn terminal(spec: &oci_spec::runtime::Process) -> Option<Terminal> {
    let short = |number: u64| u16::try_from(number).ok().filter(|n| *n > 0);
    let size = spec.console_size().and_then(|asked| {
        let (rows, columns) = short(asked.height()).zip(short(asked.width()))?;
        Some(TerminalSize { rows, columns })
    });
    (spec.terminal() == Some(true)).then_some(Terminal { size })
}

fn check_ids(user: &oci_spec::runtime::User, ids: Ids<'_>, problems: &mut Vec<Problem>) {
    let mut unmapped = |pointer: String, kind: &str, id: u32| {
        let message = format!("{kind} {id} is not mapped in the container's user namespace");
        problems.push(Problem::new(pointer, message));
    };
    if !ids.has_uid(user.uid()) {
        unmapped("/process/user/uid".to_owned(), "uid", user.uid());
    }
    if !ids.has_gid(user.gid()) {
        unmapped("/process/user/gid".to_owned(), "gid", user.gid());
    }
    if !ids.setgroups || ids.keep_groups {
        return;
    }
    for (index, gid) in user.additional_gids().iter().flatten().enumerate() {
        if !ids.has_gid(*gid) {
            let pointer = format!("/process/user/additionalGids/{index}");
            unmapped(pointer, "gid", *gid);
        }
    }
}

/// The caller's groups and others as well cannot be had: setgroups(2) sets all, and those of the caller have no number in
/// the container.
fn left_out_groups(user: &oci_spec::runtime::User) -> Option<Note> {
    let asked = user.additional_gids().as_ref()?;
    (!asked.is_empty()).then(|| {
        Note::new(
            "/process/user/additionalGids",
            format!("left out: the caller's groups are kept instead ({KEEP_GROUPS})"),
            "take out one of the two",
        )
    })
}

fn additional_gids(
    user: &oci_spec::runtime::User,
    ids: Ids<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Vec<u32>> {
    let groups = user.additional_gids().clone().unwrap_or_default();
    if ids.setgroups {
        return Some(groups);
    }
    if !groups.is_empty() {
        problems.push(Problem::new(
            "/process/user/additionalGids",
            "supplementary groups cannot be set: setgroups(2) is denied in a user namespace without subordinate \
             gids; give the account a range in /etc/subgid and install newgidmap (package uidmap)",
        ));
    }
    None
}

fn capabilities(
    spec: Option<&LinuxCapabilities>,
    ids: Ids<'_>,
    notes: &mut Vec<Note>,
) -> Capabilities {
    let Some(spec) = spec else {
        return Capabilities::default();
    };
    let mut take = |name: &str, asked: &Option<HashSet<Capability>>, limit: u64, why: &str| {
        let asked = set(asked.as_ref());
        let granted = CapabilitySet(asked.0 & limit);
        leave_out(name, CapabilitySet(asked.0 & !limit), why, notes);
        granted
    };
    let (grantable, why) = grantable(ids);
    let bounding = take("bounding", spec.bounding(), grantable, why);
    let permitted = take("permitted", spec.permitted(), grantable, why);
    let effective = take(
        "effective",
        spec.effective(),
        permitted.0,
        "they are not in the permitted set (capset(2))",
    );
    let inheritable = take(
        "inheritable",
        spec.inheritable(),
        bounding.0,
        "they are not in the bounding set (capset(2))",
    );
    let ambient = take(
        "ambient",
        spec.ambient(),
        permitted.0 & inheritable.0,
        "they are not in both the permitted and the inheritable set (PR_CAP_AMBIENT(2const))",
    );
    Capabilities {
        bounding,
        effective,
        permitted,
        inheritable,
        ambient,
    }
}

/// The capabilities that can be had, and why not the others. The first process of a new user namespace has them all.
fn grantable(ids: Ids<'_>) -> (u64, &'static str) {
    let known = u64::MAX >> (63 - ids.facts.last_capability.min(63));
    if ids.maps.is_some() {
        (known, "this kernel does not know them")
    } else {
        let had = known & ids.facts.bounding_set;
        (had, "they are not in the caller's own bounding set")
    }
}

fn set(names: Option<&HashSet<Capability>>) -> CapabilitySet {
    let mut set = CapabilitySet::default();
    for name in names.into_iter().flatten() {
        if let Some(number) = CapabilitySet::number(&format!("CAP_{name}")) {
            set.add(number);
        }
    }
    set
}

fn leave_out(name: &str, lacking: CapabilitySet, why: &str, notes: &mut Vec<Note>) {
    if lacking == CapabilitySet::default() {
        return;
    }
    let names: Vec<&str> = lacking.names().collect();
    notes.push(Note::new(
        format!("/process/capabilities/{name}"),
        format!("{} left out: {why}", names.join(", ")),
        "take them out of this set, or add them to the sets they depend on",
    ));
}

/// The kernel's numbers of the resource limits, in their order (getrlimit(2), asm-generic/resource.h).
pub(crate) const RESOURCES: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

fn rlimits(
    spec: &oci_spec::runtime::Process,
    facts: &HostFacts,
    problems: &mut Vec<Problem>,
) -> Vec<Rlimit> {
    let mut planned = Vec::new();
    for (index, limit) in spec.rlimits().iter().flatten().enumerate() {
        let name = limit.typ().to_string();
        let Some(resource) = (0u32..).zip(RESOURCES).find(|(_, n)| *n == name) else {
            continue; // Not on Linux: bundle::raw has refused it.
        };
        let hard = limit.hard();
        if let Some(current) = facts.limits.get(&name).filter(|l| hard > l.hard) {
            let message = format!(
                "{name} cannot be raised to {hard}: the hard limit of this session is {}, and only root of the initial \
                 user namespace may raise it; ask for {} at most, or have it raised in limits.conf(5)",
                current.hard, current.hard
            );
            let pointer = format!("/process/rlimits/{index}");
            problems.push(Problem::new(pointer, message).code("LDG-RLIMIT"));
        }
        planned.push(Rlimit {
            resource: resource.0,
            soft: limit.soft(),
            hard,
            name,
        });
    }
    planned
}
