//! Files that others keep in a container's directory. They go with it.

use std::path::Path;

use super::{Entry, because_full};
use crate::error::{Doing, Error, Result};
use crate::sys;

impl Entry {
    /// Writes a file, in place of what has its name: neither beside its place first nor to the disk, as nobody reads it before the
    /// record is published.
    pub fn keep(&self, name: &str, content: &[u8]) -> Result<()> {
        self.write(name, content).map_err(|cause| {
            let what = format!("cannot keep how container {:?} is made", self.id);
            because_full(&self.fd, Error::new(what), cause)
        })
    }

    /// Reads one, up to `limit` bytes; `None`: there is none.
    pub fn kept(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        match sys::path::read_regular_at(&self.fd, Path::new(name), limit) {
            Err(error) if error.is(libc::ENOENT) => Ok(None),
            read => read
                .map(Some)
                .doing(|| format!("cannot read how container {:?} was made", self.id)),
        }
    }
}
