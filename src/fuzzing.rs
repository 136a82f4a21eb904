//! Doors to what is private, for tests/fuzz. Only a build with `--cfg fuzzing` has them.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::state::{Record, Status};

/// The status of a container that has a record; see `state::status`.
pub fn status(alive: bool, gate: bool, frozen: bool) -> Status {
    crate::state::status(alive, gate, || frozen)
}

/// What `state` and the table of `list` print of a container.
///
/// # Errors
/// What they would say.
pub fn shown(id: &str, status: Status, record: Option<Record>) -> Result<[String; 2]> {
    crate::cli::texts(id, status, record)
}
