//! Mounts with an id map of their own (config.md, "Mounts": `uidMappings`, `gidMappings`, `idmap`, `ridmap`).
//!
//! The kernel maps the ids of a mount only for whoever is root over its filesystem, that is in the user namespace that
//! mounted it: for us that is what the container mounts itself, and nothing of the host's.

use oci_spec::runtime::LinuxIdMapping;
use serde::{Deserialize, Serialize};

use super::IdMapping;
use super::idmap::{fits, overlaps, sound};
use super::mounts::Context;
use crate::bundle::Problem;

/// How the ids of a filesystem look on a mount of it (mount_setattr(2), MOUNT_ATTR_IDMAP).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountIdMap {
    /// Whether the mounts beneath get it too (`ridmap`).
    pub recursive: bool,
    /// `container_id` is a uid on the filesystem, `host_id` the uid it is seen as; both are those of the container.
    pub uids: Vec<IdMapping>,
    /// The same for gids.
    pub gids: Vec<IdMapping>,
}

/// Why the ids of what comes from the host cannot be mapped.
const NOT_OURS: &str = "the source's filesystem was mounted outside of the container: only who is root there may map its \
    ids; map the container's own ids to the owners of the files (/linux/uidMappings), or take this out";

/// The id map of `spec`, the mount at `property`, whose options ask for it at the place that `asked` names.
pub(super) fn id_map(
    property: &str,
    spec: &oci_spec::runtime::Mount,
    asked: Option<(usize, bool)>,
    bind: bool,
    context: Context<'_>,
) -> Result<Option<MountIdMap>, Vec<Problem>> {
    let given = |lines: &Option<Vec<LinuxIdMapping>>| -> Vec<IdMapping> {
        let lines = lines.iter().flatten();
        lines
            .map(|line| IdMapping {
                container_id: line.container_id(),
                host_id: line.host_id(),
                size: line.size(),
            })
            .collect()
    };
    let (uids, gids) = (given(spec.uid_mappings()), given(spec.gid_mappings()));
    if asked.is_none() && uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    let problem = |message: &str| {
        let option = asked.map(|(index, _)| format!("{property}/options/{index}"));
        let pointer = option.unwrap_or_else(|| format!("{property}/uidMappings"));
        Err(vec![Problem::new(pointer, message)])
    };
    let own = context.ids.maps;
    if uids.is_empty() && !context.user_namespace {
        return problem(
            "needs uidMappings and gidMappings, or a namespace of type \"user\" in /linux/namespaces",
        );
    }
    if bind && own.is_some() {
        return problem(NOT_OURS);
    }
    let facts = context.ids.facts;
    let lines = |map: &[crate::host::MapLine]| -> Vec<IdMapping> {
        map.iter()
            .map(|line| identity(line.inside, line.count))
            .collect()
    };
    let (own_uids, own_gids) = match own {
        Some((uids, gids)) => (uids.to_vec(), gids.to_vec()),
        None => (lines(&facts.uid_map), lines(&facts.gid_map)),
    };
    let uids = seen_as(&format!("{property}/uidMappings"), &uids, &own_uids);
    let gids = seen_as(&format!("{property}/gidMappings"), &gids, &own_gids);
    match (uids, gids) {
        (Ok(uids), Ok(gids)) => Ok(Some(MountIdMap {
            recursive: asked.is_some_and(|(_, recursive)| recursive),
            uids,
            gids,
        })),
        (uids, gids) => Err([uids.err(), gids.err()]
            .into_iter()
            .flatten()
            .flatten()
            .collect()),
    }
}

fn identity(id: u32, size: u32) -> IdMapping {
    IdMapping {
        container_id: id,
        host_id: id,
        size,
    }
}

/// The map with ids of the container on both sides. Without a map of the mount's own it is the container's, and what
/// the container mounts itself has its ids already.
fn seen_as(
    pointer: &str,
    asked: &[IdMapping],
    own: &[IdMapping],
) -> Result<Vec<IdMapping>, Vec<Problem>> {
    if asked.is_empty() {
        let map = own.iter().map(|l| identity(l.container_id, l.size));
        return fits(pointer, map.collect()).map_err(|p| vec![p]);
    }
    let mut problems = overlaps(pointer, asked);
    let mut map = Vec::new();
    for (index, line) in asked.iter().enumerate() {
        let unmapped = |id| format!("hostID {id} is not mapped in the container's user namespace");
        match sound(line).and_then(|()| to_container(line, own).map_err(unmapped)) {
            Ok(pieces) => map.extend(pieces),
            Err(message) => {
                problems.push(Problem::new(format!("{pointer}/{index}"), message));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    fits(pointer, map).map_err(|p| vec![p])
}

/// `line` with the container's ids in place of the host's; `Err` is the first that it does not have.
fn to_container(line: &IdMapping, own: &[IdMapping]) -> Result<Vec<IdMapping>, u32> {
    let mut rest = *line;
    let mut pieces = Vec::new();
    while rest.size > 0 {
        let found = own.iter().find_map(|line| {
            let offset = rest.host_id.checked_sub(line.host_id)?;
            let left = line.size.checked_sub(offset).filter(|left| *left > 0)?;
            Some((line.container_id.checked_add(offset)?, left))
        });
        let (id, left) = found.ok_or(rest.host_id)?;
        let size = rest.size.min(left);
        pieces.push(IdMapping {
            host_id: id,
            size,
            ..rest
        });
        rest.size -= size;
        // Checked by `sound`: neither goes beyond the last id.
        rest.host_id = rest.host_id.saturating_add(size);
        rest.container_id = rest.container_id.saturating_add(size);
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(container_id: u32, host_id: u32, size: u32) -> IdMapping {
        IdMapping {
            container_id,
            host_id,
            size,
        }
    }

    #[test]
    fn host_ids_become_the_containers_and_lines_are_split() {
        let own = [line(0, 1000, 1), line(1, 100_000, 10), line(50, 100_010, 5)];
        let map = |asked| to_container(&asked, &own);
        assert_eq!(map(line(7, 1000, 1)), Ok(vec![line(7, 0, 1)]));
        assert_eq!(
            map(line(0, 100_008, 4)),
            Ok(vec![line(0, 9, 2), line(2, 50, 2)])
        );
        assert_eq!(map(line(0, 100_014, 2)), Err(100_015));
        assert_eq!(map(line(0, 0, 1)), Err(0));
    }

    #[test]
    fn the_containers_own_map_is_the_identity() {
        let own = [line(0, 1000, 1), line(1, 100_000, 10)];
        assert_eq!(
            seen_as("/uidMappings", &[], &own),
            Ok(vec![line(0, 0, 1), line(1, 1, 10)])
        );
    }
}
