//! One level: where the caller may have one user namespace only, the container's is made straight from her present one.
//!
//! What is done from within an outer namespace elsewhere has to be done here with the caller's own id alone.
#![forbid(unsafe_code)]

use super::{Note, Outer, Plan, UserNamespace};
use crate::bundle::Problem;
use crate::host::HostFacts;

/// The code of the cause (see [`crate::doctor`]).
pub const CODE: &str = "LDG-USERNS-LIMIT";

/// What lifts the limit.
pub const REMEDY: &str = "ask the administrator to run: sysctl -w user.max_user_namespaces=10000";

/// Whether there is room for the container's user namespace, and for none around it.
pub(super) fn is_needed(facts: &HostFacts) -> bool {
    facts.few_user_namespaces == Some(1)
}

/// The note that says so.
pub(super) fn note() -> Note {
    Note::new(
        "/linux/namespaces",
        "user.max_user_namespaces is 1: the container's user namespace is the only one, and no other container can run beside it",
        REMEDY,
    )
    .code(CODE)
}

impl Plan {
    /// Refuses what takes power in a user namespace around the container's, where there is none, and adapts the rest.
    pub(super) fn fit_one_level(&mut self, facts: &HostFacts) -> Result<(), Vec<Problem>> {
        let UserNamespace::New {
            outer: Outer::OneLevel { .. },
            ..
        } = &self.user_namespace
        else {
            return Ok(());
        };
        let mut problems = Vec::new();
        let mut refuse = |pointer: &str, what: &str| {
            let message = format!(
                "{what} takes a user namespace around the container's, and user.max_user_namespaces is 1; {REMEDY}"
            );
            problems.push(Problem::new(pointer, message));
        };
        for joined in &self.joined {
            refuse(
                &super::namespace_pointer(joined.index),
                "to join a namespace without its user namespace",
            );
        }
        if !self.time_offsets.is_empty() {
            refuse("/linux/timeOffsets", "to set the clocks");
        }
        if !self.net_devices.is_empty() {
            refuse("/linux/netDevices", "to move a network device");
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let own = Some((facts.uid, facts.gid));
        if let Some(cgroup) = self
            .cgroup
            .as_mut()
            .filter(|c| c.owner.is_some() && c.owner != own)
        {
            cgroup.owner = None;
            self.notes.push(
                Note::new(
                    "/process/user",
                    "the container's process cannot divide its cgroup: to give it away takes a user namespace around the container's",
                    REMEDY,
                )
                .code(CODE),
            );
        }
        Ok(())
    }
}
