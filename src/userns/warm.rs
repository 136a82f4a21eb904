//! The warm start: while any container of the caller runs, its O is there to be taken, and no helper need run.
//!
//! A namespace is taken only if it is the one that was recorded, its owner is the caller, and its maps are exactly the
//! caller's present ids. Anything else is passed over: a stale or foreign namespace is never used.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::{has_identity_maps, wrong_maps};
use crate::error::{Doing, Result};
use crate::host::IdRange;
use crate::state::{OuterRecord, Record, Store};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// Takes O from a running container in `store`, if one has the O that `uids` and `gids` describe.
pub(super) fn enter(
    store: &Store,
    uids: &[IdRange],
    gids: &[IdRange],
) -> Result<Option<OuterRecord>> {
    for id in store.ids()? {
        // A damaged or half-made neighbour is not this container's problem.
        let Ok(Some(record)) = store.find(&id).and_then(|entry| entry.record()) else {
            continue;
        };
        let Some((outer, namespace)) = usable(&record, uids, gids) else {
            continue;
        };
        tracing::debug!("warm start: the outer user namespace of container {id:?}");
        sys::ns::join_user(namespace.as_fd())
            .doing(|| format!("cannot join the outer user namespace of container {id:?}"))?;
        // Changed credentials make a process undumpable, and its children's /proc files unusable.
        sys::cred::set_dumpable(true).doing(|| "cannot become dumpable".to_owned())?;
        if !has_identity_maps(uids, gids)? {
            return Err(wrong_maps());
        }
        return Ok(Some(outer));
    }
    Ok(None)
}

/// The record and an fd of the container's O, if it is alive, ours and the expected one.
fn usable(record: &Record, uids: &[IdRange], gids: &[IdRange]) -> Option<(OuterRecord, OwnedFd)> {
    let outer = record.user_namespace.as_ref()?.outer.as_ref()?;
    if outer.uids != uids || outer.gids != gids {
        return None;
    }
    let path = format!("/proc/{}/ns/user", record.process.pid);
    let inner = sys::path::open_magic(Path::new(&path)).ok()?;
    // Alive after the opening, it had its pid at the opening too.
    if !record.process.is_alive(&record.boot_id) {
        return None;
    }
    let namespace = sys::ns::parent(inner.as_fd()).ok()?;
    let identity = sys::ns::identity(namespace.as_fd()).ok()?;
    let owner = sys::ns::owner(namespace.as_fd()).ok()?;
    let expected = identity == (outer.device, outer.inode) && owner == sys::cred::uid();
    (expected || !is_on(Defence::OuterIdentity)).then(|| (outer.clone(), namespace))
}
