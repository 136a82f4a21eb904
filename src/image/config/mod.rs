//! An image's config (image-spec config.md) and what becomes of it: the config.json of a container (conversion.md).
//!
//! Whoever made the image wrote all of it, its passwd and group files included: nothing here reads the host, and what the
//! image says becomes nothing but what the specification names.
#![forbid(unsafe_code)]

mod asked;
mod capabilities;
mod convert;
mod environment;
mod labels;
mod mounts;
mod parse;
mod user;

pub use asked::{Asked, AskedMount, Network, Variable};
pub use convert::{Converted, convert};
pub use labels::STOP_SIGNAL;
pub(crate) use mounts::is_place;
pub use parse::{Execution, ImageConfig};

use std::path::Path;

use crate::error::Result;

/// The files of an image, looked at before there is a container.
pub trait ImageFiles {
    /// The content of the regular file at `path`, which is absolute; links are followed, and stay in the image. `None`: there
    /// is no such file.
    ///
    /// # Errors
    /// It is no regular file, or larger than `limit` bytes.
    fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>>;
}
