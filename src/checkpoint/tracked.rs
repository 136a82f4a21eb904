//! Which dump of a container it is since which the kernel keeps track of what its processes write. A dump that leaves out what has not
//! changed since an earlier one would be of memory that never was, were there another one between the two.
#![forbid(unsafe_code)]

use std::path::Path;

use super::image;
use crate::error::Result;
use crate::state::Entry;

/// The file in the container's state: the digest of that dump's lodger.json, or nothing.
const FILE: &str = "tracked";

/// A digest is shorter.
const LONGEST: usize = 256;

/// The digest of that dump's lodger.json, if there is one.
///
/// # Errors
/// It cannot be read.
pub fn since(entry: &Entry) -> Result<Option<String>> {
    let kept = entry.kept(FILE, LONGEST)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&kept).into_owned();
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// To be called before the kernel is asked to begin anew: whatever becomes of the dump, it is not since an earlier one any more.
///
/// # Errors
/// It cannot be written.
pub fn forget(entry: &Entry) -> Result<()> {
    match since(entry)? {
        None => Ok(()),
        Some(_) => entry.keep(FILE, b""),
    }
}

/// To be called when the dump in the directory `images` is whole, and the container goes on.
///
/// # Errors
/// It cannot be written: then no dump can be since this one.
pub fn begin(entry: &Entry, images: &Path) -> Result<()> {
    image::identity(images)
        .and_then(|digest| entry.keep(FILE, digest.as_bytes()))
        .map_err(|error| {
            error.within("the images are whole, but no dump can leave out what they have")
        })
}
