//! The caller's own cgroup, which is divided: whoever is in it moves to a leaf first, because a cgroup that shares out what it
//! has cannot have processes itself (cgroups(7), "no internal processes").

use std::time::{Duration, Instant};

use super::fs::Dir;
use crate::doctor::Step;
use crate::error::{Error, Result};
use crate::host::CALLERS;
use crate::sys;

/// How long processes may go on to come into the cgroup, by fork(2) of one that was not moved yet.
const PATIENCE: Duration = Duration::from_secs(10);

impl Dir {
    /// Moves all processes of this cgroup, which is the caller's own, to the cgroup [`CALLERS`] in it. Does nothing where there
    /// are none. Several may do so at once.
    pub fn evacuate(&self) -> Result<()> {
        // The root may have both, and has no such file.
        if !self.has("cgroup.type") {
            return Ok(());
        }
        let begin = Instant::now();
        let mut leaf = None;
        loop {
            let pids = self.processes(false)?;
            if pids.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                return Err(self.immovable(&format!("new processes keep coming into it: {pids:?}")));
            }
            if leaf.is_none() {
                tracing::debug!(
                    cgroup = self.path(),
                    ?pids,
                    "moving the processes of the caller's cgroup to {CALLERS}"
                );
                leaf = Some(self.make_beneath(CALLERS, &[])?.0);
            }
            for pid in pids {
                if let Some(leaf) = &leaf {
                    self.evacuate_one(leaf, pid)?;
                }
            }
        }
    }

    fn evacuate_one(&self, leaf: &Self, pid: u32) -> Result<()> {
        if pid == 0 {
            return Err(self.immovable("some are outside of this pid namespace")
                .hint("start lodger in a cgroup of its own, as a service with Delegate=yes has, or a container with its own cgroup namespace"));
        }
        match leaf.write("cgroup.procs", &pid.to_string()) {
            Ok(()) => Ok(()),
            // It has ended.
            Err(cause) if cause.is(libc::ESRCH) => Ok(()),
            Err(cause) => Err(self.cannot_move(pid, cause)),
        }
    }

    fn cannot_move(&self, pid: u32, cause: sys::Error) -> Error {
        let hint = match cause.errno {
            libc::EACCES | libc::EPERM => {
                "the cgroup was not delegated to you: with systemd, `--cgroup-manager systemd` needs no such thing"
            }
            libc::EINVAL => "it is a thread of the kernel, which stays where it is",
            libc::EBUSY => {
                "it has a real-time policy, for which the cgroup there has no time (CONFIG_RT_GROUP_SCHED)"
            }
            _ => "start lodger in a cgroup of its own",
        };
        self.immovable(&format!("process {pid} stays"))
            .because_of(&cause)
            .step(Step::Cgroup)
            .hint(hint)
    }

    fn immovable(&self, why: &str) -> Error {
        Error::new(format!(
            "cannot divide the cgroup {}: its own processes must be moved out of the way first",
            self.path()
        ))
        .because(why)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fs::pretended;
    use super::*;

    #[test]
    fn nothing_is_moved_without_need() {
        // The root of the hierarchy.
        let (_place, root) = pretended(&[("cgroup.procs", "1\n")]);
        root.evacuate().unwrap();
        assert!(root.child(CALLERS).unwrap().is_none());

        let (_place, empty) = pretended(&[("cgroup.type", "domain\n"), ("cgroup.procs", "")]);
        empty.evacuate().unwrap();
        assert!(empty.child(CALLERS).unwrap().is_none());
    }

    #[test]
    fn a_process_of_elsewhere_is_an_error() {
        let (_place, dir) = pretended(&[("cgroup.type", "domain\n"), ("cgroup.procs", "0\n")]);
        let error = dir.evacuate().unwrap_err();
        assert!(
            error.message().contains("outside of this pid namespace"),
            "{error}"
        );
        let (_place, dir) = pretended(&[("cgroup.type", "domain\n"), ("cgroup.procs", "7\n")]);
        let error = dir.evacuate().unwrap_err();
        assert!(
            error.message().contains(
                "process 7 stays: openat(\"/sys/fs/cgroup/pretended/lodger.callers/cgroup.procs\""
            ),
            "{error}"
        );
    }
}
