//! Doors to what is private, for tests/fuzz. Only a build with `--cfg fuzzing` has them.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::state::{Record, Status};

/// A container's status; see `state::status`.
pub fn status(recorded: bool, alive: bool, gate: bool, locked: bool) -> Status {
    crate::state::status(recorded, alive, gate, locked)
}

/// What `state` and the table of `list` print of a container.
///
/// # Errors
/// What they would say.
pub fn shown(id: &str, status: Status, record: Option<Record>) -> Result<[String; 2]> {
    crate::cli::texts(id, status, record)
}
