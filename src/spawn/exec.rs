//! Another process in a running container.
//!
//! The caller owns the outer user namespace and so has every capability over the container's: one setns(2) by pidfd
//! joins everything, from the initial namespace, without entering the outer one first.

use std::os::fd::AsFd;

use super::line::{self, Phase};
use super::{PidFile, Problem, end, wait_for};
use crate::error::{Doing, Error, Result};
use crate::plan::Process;
use crate::state::Record;
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::process::{Child, Cloned};

/// Starts `process` in the container that `record` describes. Afterwards this process is in the container's
/// namespaces itself, but for the pid namespace, which only its children are in.
pub fn exec(record: &Record, process: &Process, pid_file: Option<&PidFile>) -> Result<Child> {
    let pidfd = record
        .process
        .open(&record.boot_id)?
        .ok_or_else(|| Error::new("cannot exec in a stopped container"))?;
    if let Some(score) = process.oom_score_adj {
        crate::init::write_oom_score(score)?;
    }
    // From here on the container's processes must not look into this one (CVE-2016-9962).
    sys::cred::set_dumpable(!is_on(Defence::NotDumpable))
        .doing(|| "cannot become undumpable".to_owned())?;
    sys::ns::join_process(pidfd.as_fd(), record.namespaces)
        .doing(|| "cannot join the container's namespaces".to_owned())
        .map_err(|e| {
            e.hint(
                "the container must belong to you; after `su` or `sudo` it may be another user's",
            )
        })?;
    if !is_on(Defence::NotDumpable) {
        // The change of namespace has cleared it by itself.
        sys::cred::set_dumpable(true).doing(|| "cannot become dumpable".to_owned())?;
    }
    let (runtime, line) = line::pair().doing(|| "cannot make a line to the process".to_owned())?;
    let child = match sys::process::clone(0).doing(|| "cannot make a process".to_owned())? {
        Cloned::Parent(child) => {
            drop(line);
            child
        }
        Cloned::Child => {
            drop(runtime);
            crate::init::join(process, line)
        }
    };
    let started = wait_for(Phase::Starting, &runtime, &mut Vec::new());
    let written = started.and_then(|()| match pid_file {
        Some(pid_file) => pid_file.write(child.pid).map_err(Problem::from),
        None => Ok(()),
    });
    match written {
        Ok(()) => Ok(child),
        Err(problem) => Err(problem.explain(end(&child).map(|exit| exit.to_string()))),
    }
}
