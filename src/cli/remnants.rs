//! What a container leaves behind: its place in the hierarchy of control groups, its writable layer.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::cgroup::{self, CgroupRecord, Dir, Removal};
use crate::error::{Doing, Error, Result};
use crate::host::{HostFacts, IdWish, Joinable};
use crate::image::containers;
use crate::plan::{self, IdMapping};
use crate::state::{Entry, Record, Store, boot_id};
use crate::sys;
use crate::sys::process::{Cloned, Exit};
use crate::userns;

/// The most that is read of an error.
const MAX_TEXT: u64 = 64 << 10;

/// Removes the cgroup of a container whose processes have ended, its scope, and what it has changed of its image.
pub(super) fn remove(store: &Store, record: &Record) -> Result<()> {
    remove_cgroup_of(store, record)?;
    match &record.image {
        Some(image) if !image.keep => remove_writable(store, wish(record), &image.directory),
        _ => Ok(()),
    }
}

/// The ids that the container had: no helper is needed where they are the caller's own alone.
fn wish(record: &Record) -> IdWish {
    let own = |map: &[IdMapping], id| matches!(map, [line] if line.size == 1 && line.host_id == id);
    match &record.user_namespace {
        Some(had) if own(&had.uid_map, sys::cred::uid()) && own(&had.gid_map, sys::cred::gid()) => {
            IdWish::Single
        }
        _ => IdWish::Any,
    }
}

/// Removes the writable layer of a container. Its files may be those of ids that only the outer user namespace has.
pub(super) fn remove_writable(store: &Store, wish: IdWish, directory: &Path) -> Result<()> {
    match containers::remove(directory) {
        Err(error) if error.is(nix::libc::EACCES) || error.is(nix::libc::EPERM) => {}
        removed => return removed.doing(|| cannot_remove(directory)),
    }
    in_outer(
        store,
        wish,
        || cannot_remove(directory),
        || containers::remove(directory).map_err(|e| Error::new(e.to_string())),
    )
}

fn cannot_remove(directory: &Path) -> String {
    format!("cannot remove what the container has changed of its image, {directory:?}")
}

fn remove_cgroup_of(store: &Store, record: &Record) -> Result<()> {
    let Some(cgroup) = &record.cgroup else {
        return Ok(());
    };
    // No cgroup outlives the machine's boot, and another one may have its name.
    if record.boot_id != boot_id()? {
        return Ok(());
    }
    remove_cgroup(store, wish(record), cgroup)
}

/// As [`remove`], for a container that has no record: whoever made it was killed.
pub(super) fn remove_noted(store: &Store, entry: &Entry) -> Result<()> {
    match entry.noted_cgroup() {
        Some(CgroupRecord {
            scope: Some(scope), ..
        }) => cgroup::remove_abandoned(&scope, entry.id()),
        Some(cgroup) => remove_cgroup(store, IdWish::Any, &cgroup),
        None => Ok(()),
    }
}

fn remove_cgroup(store: &Store, wish: IdWish, cgroup: &CgroupRecord) -> Result<()> {
    tracing::debug!(cgroup = cgroup.top, scope = ?cgroup.scope, "removing the cgroup");
    cgroup::remove(cgroup, |top| clear_inside(store, wish, top))
}

/// Clears `top` in a process that has all of the caller's ids.
fn clear_inside(store: &Store, wish: IdWish, top: &Dir) -> Result<Removal> {
    let what = || {
        format!(
            "cannot remove what the container made beneath the cgroup {}",
            top.path()
        )
    };
    in_outer(store, wish, what, || {
        match top.clear()? {
        Removal::Gone => Ok(()),
        Removal::Denied(cause) => Err(Error::new(cause.to_string())
            .hint("cgroups in it belong to ids that are not yours any more: have them back in /etc/subuid and /etc/subgid, or ask root to remove it")),
    }
    })?;
    Ok(Removal::Gone)
}

/// Does `work` in a process that has the caller's ids, all that she may have or as she wishes: it is in the outer user namespace, which this one does not enter.
pub(super) fn in_outer(
    store: &Store,
    wish: IdWish,
    what: impl Fn() -> String,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let outer = plan::idmap::workplace(&HostFacts {
        id_wish: wish,
        ..HostFacts::probe()
    });
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))
        .doing(&what)?;
    let child = match sys::process::clone(0).doing(&what)? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            let done = sys::cred::die_with_parent(true)
                .doing(&what)
                .and_then(|()| userns::begin(&outer, store, &Joinable::default())?.finish())
                .and_then(|_| work());
            sys::process::exit_now(tell(theirs, done))
        }
    };
    drop(theirs);
    let mut said = String::new();
    let read = File::from(ours).take(MAX_TEXT).read_to_string(&mut said);
    match sys::process::wait(&child).doing(&what)? {
        Exit::Code(0) => Ok(()),
        exit if read.is_err() || said.is_empty() => Err(Error::new(what()).because(exit)),
        _ => {
            let (why, hint) = said.split_once('\0').unwrap_or((&said, ""));
            let error = Error::new(what()).because(why);
            Err(if hint.is_empty() {
                error
            } else {
                error.hint(hint)
            })
        }
    }
}

/// Tells the parent how it went. Returns the exit status.
fn tell(line: OwnedFd, done: Result<()>) -> i32 {
    let Err(error) = done else {
        return 0;
    };
    let text = format!("{}\0{}", error.message(), error.hints().unwrap_or_default());
    let _nobody_to_tell = rustix::io::write(line, text.as_bytes());
    1
}
