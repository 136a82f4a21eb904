//! What a name in an archive means.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::trouble::{Tried, Trouble};
use crate::image::Limits;
use crate::sys::defence::{Defence, is_on};

/// The names in `path`, without the `/` and `.` that lead nowhere; none for the root.
///
/// # Errors
/// It is empty or has a NUL or `..` in it, or it is too long or too deep.
pub(super) fn split<'p>(path: &'p [u8], limits: &Limits) -> Tried<Vec<&'p [u8]>> {
    if path.is_empty() {
        return Err(Trouble::malformed("an entry has no name"));
    }
    if path.contains(&0) {
        return Err(Trouble::malformed("a name has a NUL byte in it"));
    }
    if path.len() > limits.name && is_on(Defence::LayerLimits) {
        return Err(Trouble::refused(
            format!("a name has more than {} bytes", limits.name),
            "Linux has no path that is longer",
        ));
    }
    let names = path.split(|&byte| byte == b'/');
    let names: Vec<_> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.contains(&&b".."[..]) && is_on(Defence::LayerNames) {
        return Err(Trouble::malformed("`..` in a name leads out of the layer"));
    }
    if names.len() > limits.depth && is_on(Defence::LayerLimits) {
        return Err(Trouble::refused(
            format!("a name is more than {} directories deep", limits.depth),
            "if it is to be trusted with that, raise the limit with --max-depth",
        ));
    }
    Ok(names)
}

/// What a name says beyond being one (layer.md, "Whiteouts").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning<'n> {
    /// Nothing.
    Itself,
    /// The name that is removed from the layers below.
    Removes(&'n [u8]),
    /// All that the directory has below is removed.
    Opaque,
    /// What aufs kept for itself.
    Passed,
}

/// What the entry with these names is.
///
/// # Errors
/// A malformed whiteout: `.wh.`, `.wh..`, `.wh...`, or one that has something in it.
pub(super) fn meaning<'n>(names: &[&'n [u8]]) -> Tried<Meaning<'n>> {
    const PREFIX: &[u8] = b".wh.";
    let Some((last, parents)) = names.split_last() else {
        return Ok(Meaning::Itself);
    };
    let is_passed = |name: &&[u8]| name.starts_with(b".wh..wh.");
    if *last != b".wh..wh..opq" && names.iter().any(is_passed) {
        return Ok(Meaning::Passed);
    }
    let check = is_on(Defence::Whiteouts);
    if check && parents.iter().any(|name| name.starts_with(PREFIX)) {
        return Err(Trouble::malformed("a whiteout has nothing in it"));
    }
    Ok(match last.strip_prefix(PREFIX) {
        None => Meaning::Itself,
        Some(b".wh..opq") => Meaning::Opaque,
        Some(b"" | b"." | b"..") if check => {
            return Err(Trouble::malformed(
                "a whiteout names what it removes: `.wh.` alone, and with `.` or `..`, is malformed",
            ));
        }
        // What is not done: taken for the directory's own (umoci's `.wh.`).
        Some(b"" | b"." | b"..") => Meaning::Opaque,
        Some(name) => Meaning::Removes(name),
    })
}

/// The names as a path.
pub(super) fn join(names: &[&[u8]]) -> Vec<u8> {
    names.join(&b'/')
}

/// The names in a path that [`join`] made.
pub(super) fn names_of(path: &[u8]) -> Vec<&[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
        .collect()
}

/// The path of `name` in the directory `parent`.
pub(super) fn within(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The directory and the last name of a path that [`join`] made.
pub(super) fn cut(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// For messages and system calls.
pub(super) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
