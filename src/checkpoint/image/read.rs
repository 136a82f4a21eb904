//! Opening a checkpoint for a restore.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::Deserialize;

use super::digest;
use super::draft::{self, images, is_there, lock, open_own};
use super::{MANIFEST, MAX_MANIFEST, Manifest, VERSION, is_image_name, parent};
use crate::error::{Doing, Error, Result, shell_word};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// A checkpoint. No other is made in the directory for as long as this is kept, also by a child that has inherited it.
#[derive(Debug)]
pub struct Opened {
    /// The directory.
    pub directory: OwnedFd,
    /// Its path, as it was given.
    pub path: PathBuf,
    /// Its lodger.json. That the images are those it tells of is for [`super::verify`] to say.
    pub manifest: Manifest,
    /// The digest of that.
    pub digest: String,
    /// How many dumps there are in it, each since another, with itself.
    pub depth: usize,
    _lock: Option<OwnedFd>,
}

/// What every format has.
#[derive(Deserialize)]
struct Head {
    version: u64,
}

/// Opens the checkpoint in `path`, to restore from it. A checkpoint that was killed while it took the place of an earlier one is
/// undone first.
///
/// # Errors
/// The directory is not the caller's alone; it holds no checkpoint of lodger's, or one of another format or machine, or a damaged
/// one, or only what was saved before a checkpoint.
pub fn read(path: &Path) -> Result<Opened> {
    let what = || format!("cannot restore from {path:?}");
    let opened = open(path, &what)?;
    match opened.manifest.pre_dump {
        false => Ok(opened),
        true => Err(Error::new(what())
            .because("it has memory alone, saved by --pre-dump while the container ran")
            .hint("restore from the checkpoint that was made after it, with --parent-path")),
    }
}

/// As [`read`], for whatever is to be done with it; `what` begins each error.
pub(super) fn open(path: &Path, what: &dyn Fn() -> String) -> Result<Opened> {
    // Without a slash at its end, which would have a link followed.
    let plain = path.components().as_path();
    let (directory, mode) = open_own(plain).map_err(|e| e.within(what()))?;
    if mode & 0o077 != 0 && is_on(Defence::Checkpoint) {
        let word = shell_word(&path.to_string_lossy());
        return Err(Error::new(what())
            .because(format!(
                "others may look into it, or write to it (mode {mode:04o})"
            ))
            .hint(format!(
                "if nobody has changed anything in it: chmod 700 {word}"
            )));
    }
    let locked = |operation| lock(&directory, operation).map_err(|e| e.within(what()));
    // Several restores may be at work at a time.
    let mut held = locked(FlockOperation::NonBlockingLockShared)?;
    if draft::is_unfinished(&directory) {
        drop(held);
        held = locked(FlockOperation::NonBlockingLockExclusive)?;
        draft::undo(&directory).map_err(|e| e.within(what()))?;
        drop(held);
        held = locked(FlockOperation::NonBlockingLockShared)?;
    }
    if !is_there(&directory, MANIFEST) {
        return Err(none(&what(), &directory));
    }
    let (file, _) = digest::open_own(&directory, MANIFEST).map_err(|e| e.within(what()))?;
    let content = sys::path::read_limited(file, Path::new(MANIFEST), MAX_MANIFEST)
        .doing(|| format!("{}: cannot read its {MANIFEST}", what()))?;
    let manifest = parse(&content, &machine()).map_err(|e| e.within(what()))?;
    let depth = parent::depth(&directory, &manifest).map_err(|e| e.within(what()))?;
    Ok(Opened {
        directory,
        path: plain.to_owned(),
        manifest,
        digest: super::sum::of(&content),
        depth,
        _lock: held,
    })
}

/// The digest of the lodger.json in the directory `path`: which dump it is.
///
/// # Errors
/// It cannot be read.
pub fn identity(path: &Path) -> Result<String> {
    sys::path::read_regular(&path.join(MANIFEST), MAX_MANIFEST)
        .map(|content| super::sum::of(&content))
        .doing(|| format!("cannot read the {MANIFEST} in {path:?}"))
}

/// The machine, as uname(2) has it.
pub fn machine() -> String {
    let names = rustix::system::uname();
    names.machine().to_string_lossy().into_owned()
}

fn none(what: &str, directory: &OwnedFd) -> Error {
    let error = Error::new(format!("{what}: it is no checkpoint of lodger's"));
    let has_images = images(directory).is_ok_and(|names| !names.is_empty());
    match has_images {
        true => error
            .because(format!("there are images, but no {MANIFEST}"))
            .hint("another runtime made it, or it is not complete: restore it with what made it, or make another one with lodger checkpoint"),
        false => error
            .because(format!("there is no {MANIFEST}"))
            .hint("name the directory that lodger checkpoint has written with --image-path"),
    }
}

/// Reads lodger.json for a restore on `machine`.
pub(super) fn parse(content: &[u8], machine: &str) -> Result<Manifest> {
    let damaged = |why: String| {
        Error::new(format!("its {MANIFEST} is damaged"))
            .because(why)
            .hint("the checkpoint cannot be used: restore a copy of it, or an earlier one")
    };
    let head: Head = serde_json::from_slice(content).map_err(|e| damaged(e.to_string()))?;
    if head.version != u64::from(VERSION) {
        let (which, remedy) = match head.version > u64::from(VERSION) {
            true => ("newer", "a newer lodger"),
            false => ("older", "the lodger that made it"),
        };
        let version = head.version;
        return Err(Error::new(format!(
            "it has format {version}, which is {which} than the one of this lodger, {VERSION}"
        ))
        .hint(format!(
            "restore it with {remedy} (\"runtime\" in {MANIFEST})"
        )));
    }
    let manifest: Manifest = serde_json::from_slice(content).map_err(|e| damaged(e.to_string()))?;
    if manifest.machine != machine {
        return Err(Error::new(format!(
            "it was made on a machine of type {:?}, and this is {machine:?}",
            manifest.machine
        ))
        .hint(format!(
            "restore it on a machine of type {:?}",
            manifest.machine
        )));
    }
    if let Some(name) = manifest.files.keys().find(|name| !is_image_name(name)) {
        return Err(damaged(format!("{name:?} is no name of an image")));
    }
    let digests = manifest.files.values().map(|file| &file.digest);
    let mut digests = digests.chain(&manifest.parent);
    if let Some(odd) = digests.find(|digest| !super::sum::is_sum(digest)) {
        return Err(damaged(format!("{odd:?} is no digest")));
    }
    if let Some(fault) = manifest.attributes.fault() {
        return Err(damaged(fault));
    }
    if manifest.files.is_empty() {
        return Err(damaged("it has no images".to_owned()));
    }
    Ok(manifest)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
