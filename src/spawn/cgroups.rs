//! The container's cgroup, as a part of making the container.

use super::Creation;
use crate::cgroup::{self, Dir, Made};
use crate::error::{Error, Result};
use crate::sys::process::Child;

impl Creation<'_> {
    /// The cgroup, where it can be made before there is a process. The state directory has its path before it is there, for
    /// whoever removes what a killed runtime has left.
    pub(super) fn cgroup_first(&self) -> Result<Option<Made>> {
        let Some((maker, plan)) = self.cgroups.zip(self.plan.cgroup.as_ref()) else {
            return Ok(None);
        };
        maker.make_first(plan, self.entry.id(), |record| {
            self.entry.note_cgroup(record)
        })
    }

    /// The cgroup, where it is made around init.
    pub(super) fn cgroup_around(&self, init: &Child) -> Result<Option<Made>> {
        let Some((maker, plan)) = self.cgroups.zip(self.plan.cgroup.as_ref()) else {
            return Ok(None);
        };
        maker.make_around(plan, self.entry.id(), init.pid, |record| {
            self.entry.note_cgroup(record)
        })
    }
}

/// Removes the cgroup of a container that could not be made; a second failure is part of the one error.
pub(super) fn without_cgroup(made: Option<Made>, error: Error) -> Error {
    error.after(made.map_or(Ok(()), |made| cgroup::remove(&made.record, Dir::clear)))
}
