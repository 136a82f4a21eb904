//! Whose a layer's files become.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::host::HostFacts;
use crate::plan::IdMapping;
use crate::plan::idmap::{to_host, usual_maps};

/// How the owners in a layer become owners on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Owners {
    /// Through the id map that the caller's containers have: `host_id` is an id of the outer user namespace.
    Mapped {
        /// The uid map.
        uid_map: Vec<IdMapping>,
        /// The gid map.
        gid_map: Vec<IdMapping>,
    },
    /// All are the caller's; the owner that was wanted is kept in the extended attribute `user.rootlesscontainers`.
    Squashed {
        /// The caller's uid.
        uid: u32,
        /// The caller's gid.
        gid: u32,
    },
}

impl Owners {
    /// Those of what this caller imports: through the map of her containers, or all hers, where she has no other ids or wants it so.
    pub fn of_caller(facts: &HostFacts, squash: bool) -> Self {
        let (uid_map, gid_map) = usual_maps(facts);
        let count = |map: &[IdMapping]| map.iter().map(|line| u64::from(line.size)).sum::<u64>();
        if squash || count(&uid_map) <= 1 || count(&gid_map) <= 1 {
            return Self::Squashed {
                uid: facts.uid,
                gid: facts.gid,
            };
        }
        Self::Mapped { uid_map, gid_map }
    }

    /// The owner on the disk of what belongs to `uid` and `gid` in the layer; `None` where the map has no such id.
    pub fn on_disk(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        match self {
            Self::Mapped { uid_map, gid_map } => {
                Some((to_host(uid_map, uid)?, to_host(gid_map, gid)?))
            }
            Self::Squashed { uid, gid } => Some((*uid, *gid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_through_the_map_or_all_to_the_caller() {
        let map = |own| {
            let line = |container_id, host_id, size| IdMapping {
                container_id,
                host_id,
                size,
            };
            vec![line(0, own, 1), line(1, 100_000, 65_536)]
        };
        let mapped = Owners::Mapped {
            uid_map: map(1000),
            gid_map: map(100),
        };
        assert_eq!(mapped.on_disk(0, 0), Some((1000, 100)));
        assert_eq!(mapped.on_disk(33, 65_536), Some((100_032, 165_535)));
        assert_eq!(mapped.on_disk(65_537, 0), None);
        assert_eq!(mapped.on_disk(0, u32::MAX), None);
        let squashed = Owners::Squashed { uid: 7, gid: 8 };
        assert_eq!(squashed.on_disk(33, 70_000), Some((7, 8)));
    }
}
