//! Where an image comes from: what a person names becomes manifest, config and layers.
//!
//! Nothing is pulled, and nothing is extracted: a blob is a part of a regular file, found by its digest or its name, and read
//! through an fd. All of it is whatever its maker wanted it to be. So a JSON document has a size before it is opened, has no
//! key twice and is one thing only; a blob must be a regular file with no symbolic link on the way, of the size and the digest
//! that were said; a layer's decompressor has a limit of memory, and its tar one of length.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::image::Limits;

mod archive;
mod blob;
mod choose;
mod decompress;
mod docker;
mod documents;
#[cfg(fuzzing)]
mod fuzzing;
mod layout;
mod part;
mod pipe;
mod platform;
mod reference;
mod rootfs;
#[cfg(test)]
mod tests;

pub use blob::LayerBlob;
pub use decompress::Compression;
#[cfg(fuzzing)]
pub use fuzzing::{LayoutRole, document};
pub use pipe::LayerStream;
pub use platform::Platform;
pub use reference::{Reference, Selector};
pub use rootfs::{made_config, made_manifest};

use archive::Archive;
use layout::{Files, Layout};
use part::Part;
use rootfs::Rootfs;

/// A source whose files are open.
#[derive(Debug)]
pub struct Source {
    opened: Opened,
    limits: Limits,
    scratch: Option<OwnedFd>,
}

#[derive(Debug)]
enum Opened {
    Layout(Files, Option<Selector>),
    LayoutArchive(Part, Option<Selector>),
    DockerArchive(Part, Option<Selector>),
    Rootfs(Rootfs, PathBuf),
}

/// An image that was found: its documents are checked, its layers are not read.
#[derive(Debug)]
pub struct SourceImage {
    /// The manifest, byte for byte. `None` of docker-archive and rootfs, which have none: [`made_manifest`] makes one once the
    /// layers are known.
    pub manifest: Option<Vec<u8>>,
    /// The config, byte for byte; of a root filesystem one that was made up, without diff ids ([`made_config`] with them).
    pub config: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<LayerBlob>,
    /// The name that it has in the source, or that of the file.
    pub suggested_name: Option<String>,
}

impl Source {
    /// Opens what `reference` names, and reads nothing of it yet. `scratch` is a directory for an archive that is compressed as
    /// a whole, which takes its uncompressed size there until the source is dropped.
    ///
    /// # Errors
    /// There is no such file or directory, it may not be read, or is neither.
    pub fn open(reference: &Reference, limits: &Limits, scratch: Option<&OwnedFd>) -> Result<Self> {
        let opened = match reference {
            Reference::Oci(path, selector) => {
                let files = Files::Directory(open_layout(path)?, format!("{path:?}"));
                Opened::Layout(files, selector.clone())
            }
            Reference::OciArchive(path, selector) => {
                Opened::LayoutArchive(open_archive(path)?, selector.clone())
            }
            Reference::DockerArchive(path, selector) => {
                Opened::DockerArchive(open_archive(path)?, selector.clone())
            }
            Reference::Rootfs(path) => Opened::Rootfs(rootfs::open(path)?, path.clone()),
        };
        let scratch = match scratch.map(OwnedFd::try_clone) {
            None => None,
            Some(Ok(fd)) => Some(fd),
            Some(Err(error)) => {
                return Err(Error::new("cannot keep a directory open").because(error));
            }
        };
        Ok(Self {
            opened,
            limits: *limits,
            scratch,
        })
    }

    /// The image that was named, for `platform`. Its documents are read and checked here, its layers' files opened.
    ///
    /// # Errors
    /// What is wrong with the source, or with what was asked for, with what there is.
    pub fn image(&self, platform: &Platform) -> Result<SourceImage> {
        let limits = &self.limits;
        let index = |part: &Part| Archive::index(part.clone(), self.scratch.as_ref(), limits);
        match &self.opened {
            Opened::Layout(files, selector) => {
                Layout::open(files, *limits)?.image(selector.as_ref(), platform)
            }
            Opened::LayoutArchive(part, selector) => {
                let files = Files::Archive(index(part)?);
                Layout::open(&files, *limits)?.image(selector.as_ref(), platform)
            }
            Opened::DockerArchive(part, selector) => {
                docker::image(&index(part)?, selector.as_ref(), platform, limits)
            }
            Opened::Rootfs(rootfs, path) => rootfs::image(rootfs, path, platform),
        }
    }
}

fn open_layout(path: &Path) -> Result<OwnedFd> {
    rootfs::open_directory(path).map_err(|error| {
        let is_file = error.is(libc::ENOTDIR);
        let error = Error::new(format!("cannot open the image layout {path:?}")).because(error);
        if is_file {
            return error.hint("a file is oci-archive:FILE, or docker-archive:FILE");
        }
        error
    })
}

fn open_archive(path: &Path) -> Result<Part> {
    Part::open(path).map_err(|error| {
        if rootfs::open_directory(path).is_ok() {
            return error.hint("a directory is oci:DIR, or rootfs:DIR");
        }
        error
    })
}

impl Source {
    /// The directory that is read from, if it is one: files in it are opened later.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        match &self.opened {
            Opened::Layout(Files::Directory(fd, _), _) => Some(fd.as_fd()),
            Opened::Rootfs(Rootfs::Directory(fd), _) => Some(fd.as_fd()),
            _ => None,
        }
    }
}
