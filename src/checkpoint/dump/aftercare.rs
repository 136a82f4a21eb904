//! After a dump that failed, or was ended: the container goes on as before.
//!
//! CRIU lets it go when it fails, and the kernel when CRIU is ended: what it held by ptrace(2) goes on. What is left to see to is a
//! process that was stopped on the way, and the control group, which CRIU may have thawed or frozen.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::inspect::processes::children_of;
use super::Subject;
use crate::error::{Error, Result};
use crate::state::Record;
use crate::sys;

/// How the container was before.
#[derive(Debug)]
pub(super) struct Before<'a> {
    record: &'a Record,
    paused: bool,
    /// The processes that were stopped by a signal.
    stopped: BTreeSet<i32>,
}

impl<'a> Before<'a> {
    pub(super) fn of(subject: &'a Subject<'_>) -> Self {
        let record = subject.record;
        let stopped = stopped(record);
        Self {
            record,
            paused: subject.paused,
            stopped,
        }
    }

    /// Sees to it that the container goes on as before.
    pub(super) fn restore(&self) -> Result<()> {
        for pid in stopped(self.record).difference(&self.stopped) {
            // Looked at again, once held.
            let continued = sys::process::open_pidfd(*pid)
                .map(|pidfd| (state(*pid) == Some('T')).then_some(pidfd))
                .and_then(|held| match held {
                    Some(pidfd) => sys::process::send_signal(&pidfd, nix::libc::SIGCONT),
                    None => Ok(()),
                });
            tracing::debug!(pid, "letting it go on: {continued:?}");
        }
        self.freeze_as_before()
    }

    /// As [`Before::restore`]; `error` says in the end how the container is.
    pub(super) fn settle(&self, error: Error) -> Error {
        let error = error.after(self.restore());
        let is_alive = self.record.process.is_alive(&self.record.boot_id);
        match (is_alive, self.paused) {
            (true, false) => error.hint("The container is still running."),
            (true, true) => error.hint("The container is still there, and paused."),
            (false, _) => error.hint("The container has ended."),
        }
    }

    fn freeze_as_before(&self) -> Result<()> {
        let Some(cgroup) = &self.record.cgroup else {
            return Ok(());
        };
        let Some(top) = cgroup.open()? else {
            return Ok(());
        };
        match (self.paused, top.is_frozen()?) {
            (true, false) => top.freeze(),
            (false, true) => top.thaw(),
            _ => Ok(()),
        }
    }
}

/// The most processes of a container that are looked at.
const MOST: usize = 1 << 16;

/// The processes of the container that a signal has stopped: its first one, and what descends from that.
fn stopped(record: &Record) -> BTreeSet<i32> {
    let mut all = BTreeSet::from([record.process.pid]);
    let mut next = vec![record.process.pid];
    while let Some(pid) = next.pop() {
        for child in children_of(pid) {
            if all.len() < MOST && all.insert(child) {
                next.push(child);
            }
        }
    }
    all.retain(|pid| state(*pid) == Some('T'));
    all
}

/// The letter of the process's state (proc_pid_stat(5)).
fn state(pid: i32) -> Option<char> {
    let path = format!("/proc/{pid}/stat");
    let text = sys::path::read_regular(Path::new(&path), 4096).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (_, rest) = text.rsplit_once(')')?;
    rest.trim_start().chars().next()
}
