//! Doors to what is private, for tests/fuzz. Only a build with `--cfg fuzzing` has them.
#![forbid(unsafe_code)]

use crate::error::Result;
pub use crate::image::source::LayoutRole;
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

/// Reads `text` as a document of an image layout; the blobs that it points to, each with its path and its size.
///
/// # Errors
/// Why it is none.
pub fn layout_document(role: LayoutRole, text: &[u8]) -> Result<Vec<(String, u64)>> {
    crate::image::source::document(role, text)
}
