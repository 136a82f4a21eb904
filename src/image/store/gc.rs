//! What nobody needs is removed: layers and blobs that no image and no container names, and what was never completed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, RenameFlags};

use super::tree;
use super::{BLOBS, ImageStore, LAYERS, LayerId, TMP};
use crate::error::{Doing, Error, Result};
use crate::image::{Digest, containers, remove};
use crate::sys;

/// What can go.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Layers that no image and no container has.
    pub layers: Vec<LayerId>,
    /// Manifests and configs that no image has.
    pub blobs: Vec<Digest>,
    /// The names beneath `tmp/`: what killed commands left.
    pub leftovers: Vec<String>,
    /// What containers wrote that are no more, by path in the store.
    pub changes: Vec<String>,
}

impl Garbage {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether trees of files are among it, which may belong to subordinate ids.
    pub fn has_trees(&self) -> bool {
        !(self.layers.is_empty() && self.leftovers.is_empty() && self.changes.is_empty())
    }
}

/// Finds what can go. The caller holds the lock alone: nobody is making anything.
///
/// # Errors
/// A record of an image or of a container cannot be read: it may need anything.
pub fn find(store: &ImageStore) -> Result<Garbage> {
    let (images, damaged) = store.images()?;
    if let Some(error) = damaged.into_iter().next() {
        return Err(error.within("cannot tell what is needed"));
    }
    let mut garbage = Garbage::default();
    let mut layers = BTreeSet::new();
    let mut blobs = BTreeSet::new();
    for found in containers::all(store.directory(), store.path())? {
        if found.is_used || found.stays {
            let needed = found.note.map_or_else(Vec::new, |note| note.layers);
            layers.extend(needed.iter().filter_map(|name| LayerId::parse(name)));
        } else {
            garbage
                .changes
                .push(format!("{}/{}", found.kind, found.name));
        }
    }
    for image in images {
        layers.extend(image.layers);
        blobs.extend([image.manifest, image.config]);
    }
    for name in names(store, LAYERS)? {
        let id = LayerId::parse(&name).filter(|id| !layers.contains(id));
        garbage.layers.extend(id);
    }
    for algorithm in names(store, BLOBS)? {
        for digits in names(store, &format!("{BLOBS}/{algorithm}"))? {
            let digest = Digest::parse(&format!("{algorithm}:{digits}")).ok();
            garbage
                .blobs
                .extend(digest.filter(|digest| !blobs.contains(digest)));
        }
    }
    garbage.leftovers = names(store, TMP)?;
    Ok(garbage)
}

/// The names in a directory of the store; none where it is not there.
fn names(store: &ImageStore, directory: &str) -> Result<Vec<String>> {
    match store.subdirectory_if_there(directory)? {
        Some(fd) => store.names(&fd, directory),
        None => Ok(Vec::new()),
    }
}

/// How many bytes of the disk the garbage has, as far as this process can see.
///
/// # Errors
/// A directory of the store cannot be opened.
pub fn usage(store: &ImageStore, garbage: &Garbage) -> Result<u64> {
    let mut bytes = 0;
    let mut add = |directory: &str, names: &mut dyn Iterator<Item = &str>| -> Result<()> {
        if let Some(fd) = store.subdirectory_if_there(directory)? {
            for name in names {
                bytes += tree::usage(&fd, name);
            }
        }
        Ok(())
    };
    add(LAYERS, &mut garbage.layers.iter().map(LayerId::name))?;
    add(TMP, &mut garbage.leftovers.iter().map(String::as_str))?;
    add(".", &mut garbage.changes.iter().map(String::as_str))?;
    for digest in &garbage.blobs {
        let directory = format!("{BLOBS}/{}", digest.algorithm());
        add(&directory, &mut std::iter::once(digest.hex()))?;
    }
    Ok(bytes)
}

/// Removes the garbage. The caller still holds the lock with which it was found.
///
/// A layer is moved to `tmp/` first: what a killed `gc` leaves is no layer.
///
/// # Errors
/// Something cannot be removed.
pub fn remove(store: &ImageStore, garbage: &Garbage) -> Result<()> {
    store.require_writable()?;
    for digest in &garbage.blobs {
        let directory = store.subdirectory(&format!("{BLOBS}/{}", digest.algorithm()))?;
        rustix::fs::unlinkat(&directory, digest.hex(), AtFlags::empty())
            .map_err(|e| sys::Error::new("unlinkat", format!("{:?}", digest.hex()), e))
            .doing(|| format!("cannot remove the blob {digest}"))?;
    }
    if !garbage.has_trees() {
        return Ok(());
    }
    let tmp = store.subdirectory(TMP)?;
    let layers = store.subdirectory(LAYERS)?;
    for name in &garbage.leftovers {
        remove_tree(&tmp, name)?;
    }
    for path in &garbage.changes {
        remove_tree(store.directory(), path)?;
    }
    for layer in &garbage.layers {
        let name = layer.name();
        let noreplace = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&layers, name, &tmp, name, noreplace)
            .map_err(|e| sys::Error::new("renameat2", format!("{name:?}, RENAME_NOREPLACE"), e))
            .doing(|| format!("cannot remove layer {layer}"))?;
        remove_tree(&tmp, name)?;
    }
    Ok(())
}

/// Removes the file or the tree at `path`, which is the store's own.
pub(super) fn remove_tree(parent: &OwnedFd, path: &str) -> Result<()> {
    remove::tree(parent, OsStr::new(path)).map_err(|cause| {
        let denied = cause.is(libc::EACCES) || cause.is(libc::EPERM);
        let error = Error::new(format!("cannot remove {path:?} of the image store")).because(cause);
        if !denied {
            return error;
        }
        error.hint("files in it belong to ids that are not yours any more: have them back in /etc/subuid and /etc/subgid, or ask root to remove it")
    })
}
