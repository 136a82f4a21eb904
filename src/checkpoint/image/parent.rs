//! What an earlier dump has saved of the memory, and a later one leaves out (criu(8), `--prev-images-dir`): a directory in that of the
//! later one, with hard links to the earlier one's files. So a checkpoint is whole by itself, whatever becomes of those before it.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::digest::{self, damaged, open_own};
use super::draft::is_there;
use super::read::{self, Opened};
use super::{MANIFEST, MAX_MANIFEST, Manifest, sum};
use crate::error::{Doing, Error, Result};
use crate::sys;

/// The name of the directory, at which CRIU looks for it.
pub const PARENT: &str = "parent";

/// How many there may be, each in the one that follows it: CRIU, and who verifies them, opens each within the next.
const DEEPEST: usize = 32;

/// The images of an earlier dump, whole and verified.
#[derive(Debug)]
pub struct Parent(Opened);

impl Parent {
    /// Opens those in `path`.
    ///
    /// # Errors
    /// As for a restore ([`super::read`]); there are too many before it.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("cannot save what has changed since {path:?}");
        let opened = read::open(path, &what)?;
        digest::verify(&opened.directory, &opened.manifest).map_err(|e| e.within(what()))?;
        if opened.depth >= DEEPEST {
            return Err(Error::new(what())
                .because(format!(
                    "{DEEPEST} dumps are in there already, each since another"
                ))
                .hint("make a dump without --parent-path, which begins anew"));
        }
        Ok(Self(opened))
    }

    /// The digest of its lodger.json: which dump it is.
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// Links its files into the directory `new`, as [`PARENT`]; on another filesystem they are copied.
    ///
    /// # Errors
    /// It cannot be done; what was made is for whoever has made `new` to remove.
    pub fn link_into(&self, new: BorrowedFd<'_>) -> Result<()> {
        link(&self.0.directory, &self.0.manifest, new)
            .map_err(|e| e.within(format!("cannot take over the images in {:?}", self.0.path)))
    }
}

/// How many dumps there are in `directory`, with that of `manifest` itself.
///
/// # Errors
/// More than there may be; one is damaged.
pub(super) fn depth(directory: &OwnedFd, manifest: &Manifest) -> Result<usize> {
    let (mut depth, mut next) = (1, inside(directory, manifest)?);
    while let Some((directory, manifest)) = next {
        depth += 1;
        if depth > DEEPEST {
            return Err(damaged("it is since more dumps than there may be"));
        }
        next = inside(&directory, &manifest)?;
    }
    Ok(depth)
}

/// Verifies what there is in `directory` that `manifest` is since, by `each`.
pub(super) fn verify(
    directory: &OwnedFd,
    manifest: &Manifest,
    each: fn(BorrowedFd<'_>, &Manifest) -> Result<()>,
) -> Result<()> {
    match inside(directory, manifest)? {
        None => Ok(()),
        Some((directory, manifest)) => {
            each(directory.as_fd(), &manifest).map_err(|e| e.within(format!("in {PARENT:?}")))
        }
    }
}

/// The directory in `directory` that `manifest` is since, and its lodger.json, which has the digest that it had.
fn inside(directory: &OwnedFd, manifest: &Manifest) -> Result<Option<(OwnedFd, Manifest)>> {
    let Some(expected) = &manifest.parent else {
        return Ok(None);
    };
    if !is_there(directory, PARENT) {
        return Err(damaged(&format!("{PARENT:?} is missing")));
    }
    let what = || format!("cannot open {PARENT:?}");
    let inner = sys::path::open_directory(directory, PARENT).doing(what)?;
    let (file, _) = open_own(&inner, MANIFEST).map_err(|e| e.within(what()))?;
    let content = sys::path::read_limited(file, Path::new(MANIFEST), MAX_MANIFEST).doing(what)?;
    if sum::of(&content) != *expected {
        return Err(damaged(&format!(
            "{PARENT:?} has another {MANIFEST} than was written"
        )));
    }
    let manifest = serde_json::from_slice(&content).map_err(|e| damaged(&e.to_string()))?;
    Ok(Some((inner, manifest)))
}

fn link(from: &OwnedFd, manifest: &Manifest, to: BorrowedFd<'_>) -> Result<()> {
    let names = manifest.files.keys().map(String::as_str);
    let to = link_files(from, names.chain([MANIFEST]), to)
        .doing(|| format!("cannot link files into {PARENT:?}"))?;
    match inside(from, manifest)? {
        None => Ok(()),
        Some((from, manifest)) => link(&from, &manifest, to.as_fd()),
    }
}

/// Links files into a new directory [`PARENT`] in `to`; that directory.
fn link_files<'a>(
    from: &OwnedFd,
    mut names: impl Iterator<Item = &'a str>,
    to: BorrowedFd<'_>,
) -> sys::Result<OwnedFd> {
    rustix::fs::mkdirat(to, PARENT, Mode::RWXU)
        .map_err(|e| sys::Error::new("mkdirat", format!("{PARENT:?}, 0700"), e))?;
    let to = sys::path::open_directory(to, PARENT)?;
    names.try_for_each(|name| link_file(from, &to, name))?;
    Ok(to)
}

fn link_file(from: &OwnedFd, to: &OwnedFd, name: &str) -> sys::Result<()> {
    match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
        // Another filesystem, one without links, or too many of them.
        Err(Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => copy(from, to, name),
        linked => linked.map_err(|e| sys::Error::new("linkat", format!("{name:?}"), e)),
    }
}

fn copy(from: &OwnedFd, to: &OwnedFd, name: &str) -> sys::Result<()> {
    let error = |call: &'static str| move |e: Errno| sys::Error::new(call, format!("{name:?}"), e);
    let open = |directory: &OwnedFd, flags: OFlags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::openat(directory, name, flags, mode).map_err(error("openat"))
    };
    let source = open(from, OFlags::RDONLY)?;
    sys::path::require_regular(&source, Path::new(name))?;
    let target = open(to, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    let [mut source, mut target] = [source, target].map(std::fs::File::from);
    let copied = std::io::copy(&mut source, &mut target).map(drop);
    let errno = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    copied.map_err(|e| error("copy_file_range")(errno(e)))
}

#[cfg(test)]
#[path = "parent_tests.rs"]
mod tests;
