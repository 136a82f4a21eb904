//! A door to what reads lodger.json and rewrites CRIU's images, for tests/fuzz.

use super::translate::{self, Ids, Problem};
use super::{Manifest, read};
use crate::error::{Error, Result};

/// Reads a lodger.json, for a restore on `machine`.
pub fn manifest(content: &[u8], machine: &str) -> Result<Manifest> {
    read::parse(content, machine)
}

/// An image of mounts, with the container's ids.
pub fn mounts(content: &[u8], ids: Ids<'_>) -> Result<Vec<u8>> {
    translate::mounts(content, ids).map_err(told)
}

/// The image of a process that gets no signal when its parent ends.
pub fn core(content: &[u8]) -> Result<Vec<u8>> {
    translate::core(content).map_err(told)
}

fn told(problem: Problem) -> Error {
    match problem {
        Problem::Broken(why) => Error::new(why),
        Problem::Id(why) => Error::new(why),
    }
}
