//! The ids of the user namespace that the container is in: one of its own, or its caller's.
//!
//! An engine that is root of a user namespace, as containerd under RootlessKit is, calls a runtime in there with configs that have
//! no user namespace. The container's ids are the caller's then, and CRIU runs as the caller.

use std::os::fd::BorrowedFd;
use std::path::Path;

use super::super::image::to_initial;
use super::super::preflight::fit::shared_map;
use crate::error::{Doing, Error, Result};
use crate::host::MapLine;
use crate::plan::IdMapping;
use crate::state::Record;
use crate::sys;

/// Whether `theirs`, the user namespace of a container that has none of its own, is the one that this process is in, as root.
///
/// # Errors
/// It is another one: from there its images would not be the caller's. Or this process is not its root.
pub(super) fn same_namespace(theirs: BorrowedFd<'_>) -> Result<()> {
    let what = || "cannot see which user namespace the container is in".to_owned();
    let own = sys::path::open_magic(Path::new("/proc/self/ns/user")).doing(what)?;
    if sys::ns::identity(own).doing(what)? != sys::ns::identity(theirs).doing(what)? {
        return Err(Error::new("the container cannot be checkpointed")
            .because("it has no user namespace of its own, and that which it is in is not yours")
            .hint("call lodger where the container was made, as root of that user namespace"));
    }
    if (sys::cred::uid(), sys::cred::gid()) != (0, 0) {
        return Err(Error::new("the container cannot be checkpointed")
            .because("it is in your user namespace, where CRIU has to run as uid 0 and gid 0, and you are neither")
            .hint("call lodger as root of this user namespace"));
    }
    Ok(())
}

/// Its maps in ids of the initial user namespace. `own`: the uid and gid maps of the caller's user namespace.
///
/// # Errors
/// An id of the container has none there.
pub(super) fn initial(record: &Record, own: &[Vec<MapLine>; 2]) -> Result<[Vec<IdMapping>; 2]> {
    let [uids, gids] = own;
    match &record.user_namespace {
        Some(its) => Ok([
            to_initial(&its.uid_map, uids)?,
            to_initial(&its.gid_map, gids)?,
        ]),
        None => Ok(recorded(record, own)),
    }
}

/// Its maps, as a restore is to compare them with those of the new container. `own` as for [`initial`].
pub(super) fn recorded(record: &Record, own: &[Vec<MapLine>; 2]) -> [Vec<IdMapping>; 2] {
    match &record.user_namespace {
        Some(its) => [its.uid_map.clone(), its.gid_map.clone()],
        None => own.each_ref().map(|map| shared_map(map)),
    }
}
