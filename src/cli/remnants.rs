//! What a container leaves in the hierarchy of control groups.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use crate::cgroup::{self, CgroupRecord, Dir, Removal};
use crate::error::{Doing, Error, Result};
use crate::host::{HostFacts, Joinable};
use crate::plan;
use crate::state::{Entry, Record, Store, boot_id};
use crate::sys;
use crate::sys::process::{Cloned, Exit};
use crate::userns;

/// The most that is read of an error.
const MAX_TEXT: u64 = 64 << 10;

/// Removes the cgroup of a container whose processes have ended, and its scope.
pub(super) fn remove(store: &Store, record: &Record) -> Result<()> {
    let Some(cgroup) = &record.cgroup else {
        return Ok(());
    };
    // No cgroup outlives the machine's boot, and another one may have its name.
    if record.boot_id != boot_id()? {
        return Ok(());
    }
    remove_cgroup(store, cgroup)
}

/// As [`remove`], for a container that has no record: whoever made it was killed.
pub(super) fn remove_noted(store: &Store, entry: &Entry) -> Result<()> {
    match entry.noted_cgroup() {
        Some(CgroupRecord {
            scope: Some(scope), ..
        }) => cgroup::remove_abandoned(&scope, entry.id()),
        Some(cgroup) => remove_cgroup(store, &cgroup),
        None => Ok(()),
    }
}

fn remove_cgroup(store: &Store, cgroup: &CgroupRecord) -> Result<()> {
    tracing::debug!(cgroup = cgroup.top, scope = ?cgroup.scope, "removing the cgroup");
    cgroup::remove(cgroup, |top| clear_inside(store, top))
}

/// Clears `top` in a process that has all of the caller's ids: it is in the outer user namespace, which this one does not enter.
fn clear_inside(store: &Store, top: &Dir) -> Result<Removal> {
    let what = || {
        format!(
            "cannot remove what the container made beneath the cgroup {}",
            top.path()
        )
    };
    let outer = plan::idmap::outer(&HostFacts::probe());
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))
        .doing(what)?;
    let child = match sys::process::clone(0).doing(what)? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            let cleared = sys::cred::die_with_parent(true)
                .doing(what)
                .and_then(|()| userns::begin(&outer, store, &Joinable::default())?.finish())
                .and_then(|_| top.clear());
            sys::process::exit_now(tell(theirs, cleared))
        }
    };
    drop(theirs);
    let mut said = String::new();
    let read = File::from(ours).take(MAX_TEXT).read_to_string(&mut said);
    match sys::process::wait(&child).doing(what)? {
        Exit::Code(0) => Ok(Removal::Gone),
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
fn tell(line: OwnedFd, cleared: Result<Removal>) -> i32 {
    let (why, hint) = match cleared {
        Ok(Removal::Gone) => return 0,
        Ok(Removal::Denied(cause)) => (
            cause.to_string(),
            "cgroups in it belong to ids that are not yours any more: have them back in /etc/subuid and /etc/subgid, or ask root to remove it".to_owned(),
        ),
        Err(error) => (error.message(), error.hints().unwrap_or_default()),
    };
    let text = format!("{why}\0{hint}");
    let _nobody_to_tell = rustix::io::write(line, text.as_bytes());
    1
}
