//! What a container leaves behind: its place in the hierarchy of control groups, its writable layer.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroup::{self, CgroupRecord, Dir, Removal};
use crate::doctor::Step;
use crate::error::{Doing, Error, Origin, Result};
use crate::host::{HostFacts, IdWish, Joinable};
use crate::image::containers;
use crate::plan::{self, IdMapping};
use crate::state::{Entry, Record, Store, is_this_boot};
use crate::sys;
use crate::sys::process::{Cloned, Exit};
use crate::userns;

/// The most that is read of an error.
const MAX_TEXT: u64 = 64 << 10;

/// Removes the cgroup of a container whose processes have ended, its scope, and what it has changed of its image.
pub(super) fn remove(store: &Store, record: &Record) -> Result<()> {
    remove_cgroup_of(store, record)?;
    match &record.image {
        // A checkpoint needs it.
        Some(image) if containers::is_pinned(&image.directory) => Ok(()),
        Some(image) if !image.keep => remove_writable(store, wish(record), &image.directory),
        _ => Ok(()),
    }
}

/// Removes what is left of a container whose first process has ended; whether it is gone by this.
pub(super) fn clean_up(
    store: &Store,
    entry: &Entry,
    may_leave_others: bool,
    keep: bool,
) -> Result<bool> {
    // Somebody else's `delete` may have been faster.
    if (keep && !may_leave_others) || !entry.lock_if_there()? {
        return Ok(false);
    }
    if may_leave_others {
        super::delete::end_others(entry)?;
    }
    if keep {
        return Ok(false);
    }
    if let Some(record) = entry.record()? {
        remove(store, &record)?;
    }
    store.remove(entry)?;
    Ok(true)
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
    if is_this_boot(&record.boot_id)? != Some(true) {
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
            let with_parent = || sys::cred::die_with_parent(true).doing(&what);
            let done = with_parent()
                .and_then(|()| userns::begin(&outer, store, &Joinable::default())?.finish())
                // Whoever gains capabilities loses it.
                .and_then(|_| with_parent())
                .and_then(|()| work());
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
            let told: Told =
                serde_json::from_str(&said).map_err(|error| Error::new(what()).because(error))?;
            Err(told.error(what()))
        }
    }
}

/// An error on its way from the child.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    why: String,
    hint: Option<String>,
    code: Option<String>,
    step: Option<Step>,
    origin: Option<Origin>,
}

impl From<&Error> for Told {
    fn from(error: &Error) -> Self {
        Self {
            why: error.message(),
            hint: error.hints(),
            code: error.cause_code().map(str::to_owned),
            step: error.failed_step(),
            origin: error.origin().cloned(),
        }
    }
}

impl Told {
    fn error(self, what: String) -> Error {
        let error = Error::new(what).because(self.why).began_with(self.origin);
        let error = self.step.into_iter().fold(error, Error::step);
        let error = self.code.into_iter().fold(error, Error::code);
        self.hint.into_iter().fold(error, Error::hint)
    }
}

/// Tells the parent how it went. Returns the exit status.
fn tell(line: OwnedFd, done: Result<()>) -> i32 {
    let Err(error) = done else {
        return 0;
    };
    let text = serde_json::to_vec(&Told::from(&error)).unwrap_or_default();
    let _nobody_to_tell = File::from(line).write_all(&text);
    1
}
