//! Which namespaces are made new, which are joined, and which are the caller's.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType};

use super::{IdMapping, JoinedNamespace, Namespace, Note, UserNamespace};
use crate::bundle::Problem;
use crate::host::{Found, HostFacts, MapLine};

/// The types of namespaces that a config may list (config-linux.md).
pub const NAMESPACES: [&str; 8] = [
    "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
];

/// The namespaces besides the user namespace. Those that are in no list are shared with the caller (config-linux.md).
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// Those to make, in order.
    pub(super) made: Vec<Namespace>,
    /// Those to join, in order.
    pub(super) joined: Vec<JoinedNamespace>,
}

impl Namespaces {
    /// The kinds over which the container has capabilities: those made, and those joined that belong to its own user
    /// namespace.
    pub(super) fn owned(&self) -> Vec<Namespace> {
        let joined = self.joined.iter().filter(|namespace| namespace.owned);
        let mut owned = self.made.clone();
        owned.extend(joined.map(|namespace| namespace.kind));
        owned.sort();
        owned
    }

    /// Whether the container is in the caller's namespace of this kind.
    pub(super) fn shares(&self, kind: Namespace) -> bool {
        !self.made.contains(&kind) && !self.joined.iter().any(|joined| joined.kind == kind)
    }
}

/// Decides on the namespaces besides the user namespace.
pub(super) fn namespaces(
    linux: Option<&Linux>,
    user: &UserNamespace,
    facts: &HostFacts,
    notes: &mut Vec<Note>,
    problems: &mut Vec<Problem>,
) -> Namespaces {
    let mut decided = Namespaces::default();
    let mut lists_mount = false;
    for (index, listed) in listed(linux) {
        let Some(kind) = namespace(listed.typ()) else {
            continue;
        };
        lists_mount |= kind == Namespace::Mount;
        let Some(path) = named(listed) else {
            decided.made.push(kind);
            continue;
        };
        match found(index, facts) {
            Ok(Found::Other { beneath_user }) => decided.joined.push(JoinedNamespace {
                kind,
                index,
                path: path.to_owned(),
                owned: match user {
                    UserNamespace::New { .. } => false,
                    UserNamespace::Inherit => true,
                    UserNamespace::Joined { .. } => *beneath_user,
                },
            }),
            Ok(Found::Present) => {}
            Ok(Found::User { .. } | Found::Unusable { .. }) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if !lists_mount {
        decided.made.push(Namespace::Mount);
        notes.push(Note::new(
            "/linux/namespaces",
            "a mount namespace is made although none is listed: the host's cannot be changed without root",
            "add {\"type\": \"mount\"}",
        ));
    }
    decided.made.sort();
    decided.joined.sort_by_key(|joined| joined.kind);
    decided
}

/// The user namespace to join, if the config names one by path. `asked` are the mappings of the config: uids, gids.
pub(super) fn joined_user(
    linux: Option<&Linux>,
    asked: [&[IdMapping]; 2],
    facts: &HostFacts,
    notes: &mut Vec<Note>,
) -> Option<Result<UserNamespace, Problem>> {
    let (index, _) =
        listed(linux).find(|(_, n)| n.typ() == LinuxNamespaceType::User && named(n).is_some())?;
    let found = match found(index, facts) {
        Ok(found) => found,
        Err(problem) => return Some(Err(problem)),
    };
    let Found::User {
        uid_map,
        gid_map,
        setgroups,
    } = found
    else {
        return Some(Err(unexamined(index)));
    };
    let (uid_map, gid_map) = (mappings(uid_map), mappings(gid_map));
    for ((name, asked), own) in ["uidMappings", "gidMappings"]
        .into_iter()
        .zip(asked)
        .zip([&uid_map, &gid_map])
    {
        if asked.is_empty() || asked == own {
            continue;
        }
        notes.push(Note::new(
            format!("/linux/{name}"),
            format!(
                "not written: the user namespace that is joined keeps its own, {}",
                super::idmap::map_text(own).trim_end().replace('\n', ", ")
            ),
            "leave them out where a user namespace is given by path",
        ));
    }
    Some(Ok(UserNamespace::Joined {
        index,
        uid_map,
        gid_map,
        setgroups: *setgroups,
    }))
}

/// Lists which namespaces cannot be joined.
pub(super) fn unusable(linux: Option<&Linux>, facts: &HostFacts) -> Vec<Problem> {
    listed(linux)
        .filter(|(_, n)| named(n).is_some())
        .filter_map(|(index, _)| found(index, facts).err())
        .collect()
}

/// Whether the configuration asks for a user namespace.
pub(super) fn asks_for_user_namespace(linux: Option<&Linux>) -> bool {
    listed(linux).any(|(_, n)| n.typ() == LinuxNamespaceType::User)
}

/// What is wrong with a name of the container that its UTS namespace cannot get: `/hostname` and `/domainname`.
pub(super) fn unnameable(decided: &Namespaces) -> Option<&'static str> {
    if decided.owned().contains(&Namespace::Uts) {
        return None;
    }
    Some(match decided.shares(Namespace::Uts) {
        true => "the container shares your own uts namespace, whose names stay as they are",
        false => {
            "the uts namespace that is joined belongs to another user namespace than the container's, which cannot change \
             its names: leave them out, or join that user namespace too"
        }
    })
}

fn listed(linux: Option<&Linux>) -> impl Iterator<Item = (usize, &LinuxNamespace)> {
    let listed = linux
        .into_iter()
        .flat_map(|l| l.namespaces().iter().flatten());
    listed.enumerate()
}

fn named(namespace: &LinuxNamespace) -> Option<&Path> {
    let path = namespace.path().as_deref()?;
    Some(path).filter(|path| !path.as_os_str().is_empty())
}

fn found(index: usize, facts: &HostFacts) -> Result<&Found, Problem> {
    let reading = facts.namespaces.iter().find(|r| r.index == index);
    match reading.map(|reading| &reading.found) {
        None => Err(unexamined(index)),
        Some(Found::Unusable { reason }) => Err(Problem::new(pointer(index), reason)),
        Some(found) => Ok(found),
    }
}

fn unexamined(index: usize) -> Problem {
    Problem::new(
        pointer(index),
        "cannot be examined: /proc must be mounted, and show this process",
    )
}

/// JSON pointer to the path of an element of `linux.namespaces`.
pub fn pointer(index: usize) -> String {
    format!("/linux/namespaces/{index}/path")
}

fn mappings(map: &[MapLine]) -> Vec<IdMapping> {
    let mapping = |line: &MapLine| IdMapping {
        container_id: line.inside,
        host_id: line.outside,
        size: line.count,
    };
    map.iter().map(mapping).collect()
}

fn namespace(kind: LinuxNamespaceType) -> Option<Namespace> {
    match kind {
        LinuxNamespaceType::Mount => Some(Namespace::Mount),
        LinuxNamespaceType::Cgroup => Some(Namespace::Cgroup),
        LinuxNamespaceType::Uts => Some(Namespace::Uts),
        LinuxNamespaceType::Ipc => Some(Namespace::Ipc),
        LinuxNamespaceType::User => None,
        LinuxNamespaceType::Pid => Some(Namespace::Pid),
        LinuxNamespaceType::Network => Some(Namespace::Network),
        LinuxNamespaceType::Time => Some(Namespace::Time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_is_named_is_made() {
        for name in NAMESPACES {
            let kind = LinuxNamespaceType::try_from(name).unwrap();
            let is_made = namespace(kind).is_some() || kind == LinuxNamespaceType::User;
            assert!(is_made, "{name}");
        }
    }
}
