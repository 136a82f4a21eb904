//! Self-protection: a container whose root owns this program's file could overwrite it (CVE-2019-5736).
//!
//! The way leads through /proc/PID/exe of a process of ours that a container's program made by running
//! `/proc/self/exe`. A file that no id of the container may write needs no defence; any other is run from a sealed
//! copy in memory.

use crate::error::{Doing, Error, Result};
use crate::host::HostFacts;
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// Goes on from a sealed copy of this program if an id of the container might write its file. The copy finds the first
/// `preserved` of the caller's open files as this process found them.
pub(super) fn against_overwriting(facts: &HostFacts, preserved: u32) -> Result<()> {
    let what = "cannot protect this program against being overwritten from the container";
    let owner = sys::exe::owner().doing(|| what.to_owned())?;
    if !is_exposed(owner, facts) || sys::exe::is_sealed() || !is_on(Defence::SealedCopy) {
        return Ok(());
    }
    sys::fd::keep_across_exec(preserved).doing(|| what.to_owned())?;
    tracing::debug!("the program's file could be written by the container: running a sealed copy");
    Err(Error::new(what)
        .because(sys::exe::run_sealed())
        .hint("install lodger where only root may write, for example in /usr/local/bin"))
}

/// Whether the file could be written with an id that the container may have: as its owner, or as anybody. (An ACL
/// shows in the group bits.)
fn is_exposed(owner: sys::exe::Owner, facts: &HostFacts) -> bool {
    let subordinate = facts.subuid.iter().any(|range| range.has(owner.uid));
    let inherited = facts.in_user_namespace
        && facts.sys_admin
        && facts.uid_map.iter().any(|line| line.has(owner.uid));
    owner.mode & 0o022 != 0 || owner.uid == facts.uid || subordinate || inherited
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::{IdRange, MapLine};

    fn caller() -> HostFacts {
        HostFacts {
            uid: 1000,
            gid: 1000,
            user_name: None,
            in_user_namespace: false,
            sys_admin: false,
            uid_map: Vec::new(),
            gid_map: Vec::new(),
            setgroups_allowed: true,
            subuid: vec![IdRange {
                start: 100_000,
                count: 65_536,
            }],
            subgid: Vec::new(),
            subid_notes: Vec::new(),
            newuidmap: None,
            newgidmap: None,
            helper_obstacle: None,
            id_wish: crate::host::IdWish::Any,
            few_user_namespaces: None,
            bounding_set: 0,
            last_capability: 40,
            limits: BTreeMap::new(),
            details: crate::host::Details::default(),
            namespaces: Vec::new(),
            network: None,
            cgroup: None,
            session: None,
        }
    }

    #[test]
    fn a_file_is_exposed_to_its_owner_and_to_everybody_it_lets_write() {
        let table = [
            (0, 0o755, false),
            (0, 0o775, true),
            (0, 0o757, true),
            (1000, 0o755, true),
            (1000, 0o555, true),
            (100_000, 0o755, true),
            (165_535, 0o755, true),
            (165_536, 0o755, false),
            (99_999, 0o755, false),
        ];
        for (uid, mode, exposed) in table {
            let owner = sys::exe::Owner { uid, mode };
            assert_eq!(is_exposed(owner, &caller()), exposed, "{owner:?}");
        }
    }

    #[test]
    fn in_an_inherited_namespace_every_mapped_owner_counts() {
        let mut facts = caller();
        facts.in_user_namespace = true;
        facts.sys_admin = true;
        facts.uid_map = vec![MapLine {
            inside: 0,
            outside: 1000,
            count: 1,
        }];
        let root = sys::exe::Owner {
            uid: 0,
            mode: 0o755,
        };
        assert!(is_exposed(root, &facts));
    }
}
