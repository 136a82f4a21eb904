//! `--no-pivot`: who may have a root that was only moved over the host's.

use crate::error::{Error, Result};
use crate::plan::{CapabilitySet, Note, Plan, Process};

/// Whether the program may get CAP_SYS_ADMIN, with which it could take a root away that was only moved over the host's.
pub(super) fn could_unmount_root(process: &Process) -> bool {
    let admin = CapabilitySet::number("CAP_SYS_ADMIN");
    admin.is_some_and(|number| process.capabilities.bounding.has(number))
}

/// The note on a root that was not pivoted, or why it cannot be done.
pub(super) fn without_pivot(plan: &Plan) -> Result<Note> {
    if could_unmount_root(&plan.process) {
        return Err(Error::new("cannot change the root without pivot_root(2)")
            .because("the container has CAP_SYS_ADMIN, and could take its root away and reach the host's")
            .hint("take CAP_SYS_ADMIN out of /process/capabilities, or do without --no-pivot"));
    }
    Ok(Note::new(
        "/root",
        "the host's root stays mounted beneath the container's, out of reach of its processes (--no-pivot)",
        "do without --no-pivot where pivot_root(2) works",
    ))
}
