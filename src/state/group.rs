//! The processes of a container that has a cgroup: all that are in it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use super::{Member, Record, is_this_boot};
use crate::cgroup::Dir;
use crate::error::{Doing, Error, Result};
use crate::sys;

/// Whether the container's cgroup is frozen. One that cannot be looked at is not, as far as can be told.
pub(super) fn is_frozen(record: &Record) -> bool {
    let Some(cgroup) = &record.cgroup else {
        return false;
    };
    let frozen = cgroup
        .open()
        .and_then(|top| top.map_or(Ok(false), |top| top.is_frozen()));
    frozen.unwrap_or_else(|error| {
        tracing::debug!(
            "cannot tell whether the container is paused: {}",
            error.message()
        );
        false
    })
}

/// How long the first process may take to be gone once its cgroup has nobody, in milliseconds.
const PATIENCE: i32 = 10_000;

/// The cgroup of a container, with its first process.
#[derive(Debug)]
pub(super) struct Group {
    top: Dir,
    first: Option<OwnedFd>,
}

impl Group {
    /// That of the container of `record`; `None` when it has none, or has it no more.
    pub(super) fn of(record: &Record) -> Result<Option<Self>> {
        let Some(cgroup) = &record.cgroup else {
            return Ok(None);
        };
        // The numbers of cgroups begin anew with each boot.
        if is_this_boot(&record.boot_id)? != Some(true) {
            return Ok(None);
        }
        let Some(top) = cgroup.open()? else {
            return Ok(None);
        };
        let first = record.process.open(&record.boot_id)?;
        Ok(Some(Self { top, first }))
    }

    /// The processes there are now.
    pub(super) fn find(&self) -> Result<Vec<Member>> {
        let pids = self.top.processes(true)?;
        let mut members = Vec::new();
        // One outside of this pid namespace is 0, and has no number here.
        for pid in pids
            .into_iter()
            .filter_map(|pid| i32::try_from(pid).ok())
            .filter(|pid| *pid > 0)
        {
            match sys::process::open_pidfd(pid) {
                Ok(pidfd) => members.push(Member { pid, pidfd }),
                Err(error) if error.is(libc::ESRCH) || error.is(libc::EINVAL) => {}
                Err(error) => {
                    return Err(error).doing(|| format!("cannot open process {pid}"));
                }
            }
        }
        // Whoever is still there had its pid when it was opened.
        let still: BTreeSet<u32> = self.top.processes(true)?.into_iter().collect();
        members.retain(|member| still.contains(&member.pid.unsigned_abs()));
        Ok(members)
    }

    /// Kills all, and waits until none is left. Returns how many there were.
    pub(super) fn kill(&self) -> Result<usize> {
        let count = self.top.processes(true)?.len();
        self.top.kill()?;
        // One that has left the cgroup is still on its way out.
        if let Some(first) = &self.first {
            let what = || "cannot wait for the container's first process".to_owned();
            if !sys::process::wait_ended(first, PATIENCE).doing(what)? {
                return Err(Error::new("cannot end the container's first process")
                    .because("it is not in the container's cgroup any more")
                    .hint("`lodger kill ID KILL` ends it"));
            }
        }
        Ok(count)
    }
}
