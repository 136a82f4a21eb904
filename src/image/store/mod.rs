//! The store of images: layers unpacked once, by chain id; manifests and configs by digest; images by name.
//!
//! `$XDG_DATA_HOME/lodger`, else `~/.local/share/lodger` ([`Place`]); another one with `--store DIR`. Beneath it:
//! `images/NAME.json` (what a name means), `layers/CHAIN/` (`root/` and `layer.json`), `blobs/ALGORITHM/HEX`,
//! `containers/` and `kept/` (see [`super::containers`]), `tmp/` (work in progress) and `lock`. All is 0700 and 0600, the caller's alone, and reached by fd. A store of
//! somebody else can be read (`--store-ro DIR`): nothing in it is changed, not even a lock file.
//!
//! Whoever adds to the store, or looks for what must stay, holds the lock shared; who removes layers and blobs ([`gc`]) holds it
//! alone. Everything is written beneath `tmp/` and renamed into its place when it is complete, so that what a killed import
//! leaves is in `tmp/`, or is a complete layer that no image names: both go with the next `gc`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags};

use super::Digest;
use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::state::{self, Purpose};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

pub mod gc;
mod layer;
mod place;
mod record;
mod tree;
pub mod verify;

pub use layer::{Claim, LayerId, LayerRecord, Work};
pub use place::{Place, Unusable};
pub use record::{ImageRecord, check_name};
pub use tree::{Listing, Moment, list};

/// What messages call the store.
pub(crate) const STORE: Purpose = Purpose {
    name: "image store",
    option: "--store",
    step: Step::Store,
};

const LOCK: &str = "lock";
const IMAGES: &str = "images";
const LAYERS: &str = "layers";
const BLOBS: &str = "blobs";
const TMP: &str = "tmp";
const LAYER_RECORD: &str = "layer.json";
const ROOT: &str = "root";

/// What a record of the store may have, in bytes.
const MAX_RECORD: usize = 4 << 20;

/// A store of images.
#[derive(Debug)]
pub struct ImageStore {
    fd: OwnedFd,
    path: PathBuf,
    readonly: bool,
}

/// The store's lock, until it is dropped.
#[derive(Debug)]
pub struct StoreLock {
    _file: Option<OwnedFd>,
}

impl ImageStore {
    /// Opens the store at `path`, and makes it where it is missing.
    ///
    /// # Errors
    /// It cannot be made, or is not the caller's alone.
    pub fn open_or_make(path: &Path) -> Result<Self> {
        Self::open_or_make_at(path, false)
    }

    /// As [`ImageStore::open_or_make`]; `shared`: in a directory where everybody may make one, so that nothing about it may be
    /// out of the ordinary.
    ///
    /// # Errors
    /// As there.
    pub fn open_or_make_at(path: &Path, shared: bool) -> Result<Self> {
        let path = absolute(path)?;
        if let Some(parent) = path.parent() {
            state::make_parents(parent)?;
        }
        let fd = state::open_or_make_own(&path, shared, STORE)?;
        let store = Self {
            fd,
            path,
            readonly: false,
        };
        for name in [IMAGES, LAYERS, BLOBS, TMP] {
            store.make_directory(&store.fd, name)?;
            store.subdirectory(name)?;
        }
        Ok(store)
    }

    /// Opens the store at `path` if it is there.
    ///
    /// # Errors
    /// It is not the caller's alone.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let path = absolute(path)?;
        let fd = state::open_own(&path, false, STORE)?;
        Ok(fd.map(|fd| Self {
            fd,
            path,
            readonly: false,
        }))
    }

    /// Opens a store that is somebody else's, perhaps: it is only read. Whoever owns it is trusted with what is in its images.
    ///
    /// # Errors
    /// It is not there, or others than its owner can write to it.
    pub fn open_readonly(path: &Path) -> Result<Self> {
        let path = absolute(path)?;
        let purpose = Purpose {
            option: "--store-ro",
            ..STORE
        };
        let fd = state::open_foreign(&path, purpose)?;
        Ok(Self {
            fd,
            path,
            readonly: true,
        })
    }

    /// Where the store is: an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store's directory.
    pub fn directory(&self) -> &OwnedFd {
        &self.fd
    }

    /// The store's directory alone.
    pub fn into_directory(self) -> OwnedFd {
        self.fd
    }

    /// Whether it is only read.
    pub fn is_readonly(&self) -> bool {
        self.readonly
    }

    /// Waits until nobody has the lock for herself alone, and shares it: no layer or blob is removed until it is dropped. Of a
    /// store that is only read there may be no lock to be had: none is needed to read, and whoever removes from it must know
    /// who uses it. Nor is it waited for there: its owner could keep it for ever.
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub fn lock_shared(&self) -> Result<StoreLock> {
        self.lock(match self.readonly {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::LockShared,
        })
    }

    /// Waits until nobody else has the lock, and takes it for this process alone.
    ///
    /// # Errors
    /// As [`ImageStore::lock_shared`], or the store is only read.
    pub fn lock_exclusive(&self) -> Result<StoreLock> {
        self.require_writable()?;
        self.lock(FlockOperation::LockExclusive)
    }

    fn lock(&self, operation: FlockOperation) -> Result<StoreLock> {
        let what = || format!("cannot lock the image store {:?}", self.path);
        let flags = if self.readonly {
            OFlags::RDONLY | OFlags::NONBLOCK
        } else {
            OFlags::RDWR | OFlags::CREATE
        } | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, LOCK, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(_) if self.readonly => return Ok(StoreLock { _file: None }),
            Err(e) => {
                let cause = sys::Error::new("openat", format!("{LOCK:?}, O_RDWR|O_CREAT"), e);
                return Err(self.because_full(what(), cause));
            }
        };
        match flock(&file, operation) {
            Err(_) if self.readonly => Ok(StoreLock { _file: None }),
            locked => locked.map(|()| StoreLock { _file: Some(file) }).doing(what),
        }
    }

    /// What `name` means; `None` where nothing has the name.
    ///
    /// # Errors
    /// It is no name of an image, or its record is damaged.
    pub fn image(&self, name: &str) -> Result<Option<ImageRecord>> {
        check_name(name)?;
        let Some(images) = self.subdirectory_if_there(IMAGES)? else {
            return Ok(None);
        };
        record::read(&images, &record::file_name(name))
    }

    /// All images, by name, and what is wrong with the records that cannot be read.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn images(&self) -> Result<(Vec<ImageRecord>, Vec<Error>)> {
        let Some(images) = self.subdirectory_if_there(IMAGES)? else {
            return Ok((Vec::new(), Vec::new()));
        };
        let mut found = Vec::new();
        let mut damaged = Vec::new();
        for file in self.names(&images, IMAGES)? {
            match record::read(&images, &file) {
                Ok(record) => found.extend(record),
                Err(error) => damaged.push(error),
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok((found, damaged))
    }

    /// Gives an image its name, once all that was written before is on the disk: what has a name after a power cut is whole. The name
    /// itself may be lost. Returns the image that had the name before.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn name_image(&self, image: &ImageRecord) -> Result<Option<ImageRecord>> {
        self.require_writable()?;
        check_name(&image.name)?;
        let what = || format!("cannot keep the name {:?}", image.name);
        let text = serde_json::to_vec(image).map_err(|e| Error::new(what()).because(e))?;
        let file = record::file_name(&image.name);
        // A damaged one is replaced as well.
        let before = self.image(&image.name).ok().flatten();
        self.write_whole(&self.subdirectory(IMAGES)?, &file, &text, true)
            .map_err(|cause| self.because_full(what(), cause))?;
        Ok(before)
    }

    /// Takes the name away from its image; `false` where nothing has the name. Layers and blobs stay until [`gc`].
    ///
    /// # Errors
    /// It is no name, or the file cannot be removed.
    pub fn forget(&self, name: &str) -> Result<bool> {
        self.require_writable()?;
        check_name(name)?;
        let Some(images) = self.subdirectory_if_there(IMAGES)? else {
            return Ok(false);
        };
        match rustix::fs::unlinkat(&images, record::file_name(name), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(e) => Err(sys::Error::new("unlinkat", format!("{name:?}"), e))
                .doing(|| format!("cannot remove image {name:?}")),
        }
    }

    /// The image's config, as it was imported.
    ///
    /// # Errors
    /// It is not there, or is not what its digest says.
    pub fn config(&self, image: &ImageRecord) -> Result<Vec<u8>> {
        self.blob(&image.config)
            .map_err(|e| e.within(format!("cannot read the config of image {:?}", image.name)))
    }

    /// The blob with this digest: a manifest, or a config.
    ///
    /// # Errors
    /// It is not there, or is not what its digest says.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let what = || format!("cannot read the blob {digest}");
        let hint = "import the image again";
        let path = PathBuf::from(format!("{BLOBS}/{}/{}", digest.algorithm(), digest.hex()));
        let content = sys::path::read_regular_beneath(&self.fd, &path, MAX_RECORD)
            .doing(what)
            .map_err(|e| e.hint(hint))?;
        let mut hasher = super::Hasher::like(digest);
        hasher.update(&content);
        if hasher.finish() != *digest && is_on(Defence::BlobDigests) {
            return Err(Error::new(what())
                .because("its content has another digest: it was changed")
                .hint(hint));
        }
        Ok(content)
    }

    /// Keeps a blob.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_blob(&self, digest: &Digest, content: &[u8]) -> Result<()> {
        self.require_writable()?;
        if self.blob(digest).is_ok() {
            return Ok(());
        }
        let blobs = self.subdirectory(BLOBS)?;
        self.make_directory(&blobs, digest.algorithm())?;
        let place = self.subdirectory(&format!("{BLOBS}/{}", digest.algorithm()))?;
        self.write_whole(&place, digest.hex(), content, false)
            .map_err(|cause| self.because_full(format!("cannot keep the blob {digest}"), cause))
    }

    /// Writes a file beneath `tmp/`, and gives it its place; `sync`: once all of the filesystem is on the disk.
    fn write_whole(
        &self,
        place: &OwnedFd,
        name: &str,
        content: &[u8],
        sync: bool,
    ) -> sys::Result<()> {
        let tmp = self
            .subdirectory(TMP)
            .map_err(|_| sys::Error::new("openat", format!("{TMP:?}"), libc::ENOENT))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut number = 0;
        let (draft, file) = loop {
            let draft = format!("file-{}-{number}", sys::process::own_pid());
            match rustix::fs::openat(&tmp, &draft, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => break (draft, file),
                // Another process's, of another pid namespace perhaps, or what a killed one left.
                Err(rustix::io::Errno::EXIST) => number += 1,
                Err(e) => return Err(sys::Error::new("openat", format!("{draft:?}, O_CREAT"), e)),
            }
        };
        let written = sys::path::write_all(file, content, Path::new(&draft))
            .and_then(|()| match sync {
                true => rustix::fs::syncfs(&tmp).map_err(|e| sys::Error::new("syncfs", "tmp", e)),
                false => Ok(()),
            })
            .and_then(|()| {
                rustix::fs::renameat(&tmp, &draft, place, name)
                    .map_err(|e| sys::Error::new("renameat", format!("{draft:?}, {name:?}"), e))
            });
        if written.is_err() {
            let _first_error_counts = rustix::fs::unlinkat(&tmp, &draft, AtFlags::empty());
        }
        written
    }

    /// The path of a layer's tree, which overlay takes as a lower.
    pub fn layer_root(&self, layer: &LayerId) -> PathBuf {
        self.path.join(LAYERS).join(layer.name()).join(ROOT)
    }

    /// Opens a layer's tree.
    ///
    /// # Errors
    /// It is not there.
    pub fn open_layer(&self, layer: &LayerId) -> Result<OwnedFd> {
        let path = format!("{LAYERS}/{}/{ROOT}", layer.name());
        // Of a store of somebody else, links would lead to what is the caller's.
        let resolve = match is_on(Defence::StateDirectory) {
            true => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            false => ResolveFlags::empty(),
        };
        sys::path::open_beneath(&self.fd, Path::new(&path), directory_flags(), resolve)
            .doing(|| format!("cannot open layer {layer}"))
            .map_err(|e| e.hint("import the image again"))
    }

    /// The trees of an image's layers, topmost first.
    ///
    /// # Errors
    /// One is not there.
    pub fn open_layers(&self, image: &ImageRecord) -> Result<Vec<OwnedFd>> {
        let topmost_first = image.layers.iter().rev();
        topmost_first.map(|layer| self.open_layer(layer)).collect()
    }

    fn require_writable(&self) -> Result<()> {
        if !self.readonly {
            return Ok(());
        }
        Err(
            Error::new(format!("cannot change the image store {:?}", self.path))
                .because("it is only read (--store-ro)")
                .hint("its owner changes it with --store DIR"),
        )
    }

    /// Makes a directory, or leaves it as it is.
    fn make_directory(&self, place: &OwnedFd, name: &str) -> Result<()> {
        match rustix::fs::mkdirat(place, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(e) => {
                let cause = sys::Error::new("mkdirat", format!("{name:?}, 0700"), e);
                let what = format!("cannot make {name:?} in the image store {:?}", self.path);
                Err(self.because_full(what, cause))
            }
        }
    }

    /// Opens a directory of the store, which must be as the store itself is: its owner's, and written by nobody else.
    fn subdirectory(&self, name: &str) -> Result<OwnedFd> {
        self.subdirectory_if_there(name)?.ok_or_else(|| {
            Error::new(format!("{:?} is no image store", self.path))
                .because(format!("it has no directory {name:?}"))
        })
    }

    fn subdirectory_if_there(&self, name: &str) -> Result<Option<OwnedFd>> {
        let path = self.path.join(name);
        let what = || format!("cannot use {path:?} of the image store");
        let fd = match rustix::fs::openat(&self.fd, name, directory_flags(), Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                return Err(Error::new(what()).because("it is a symbolic link or not a directory"));
            }
            Err(e) => return Err(sys::Error::new("openat", format!("{path:?}"), e)).doing(what),
        };
        let stat = |fd| rustix::fs::fstat(fd).map_err(|e| sys::Error::new("fstat", "fd", e));
        let top = stat(&self.fd).doing(what)?;
        let found = stat(&fd).doing(what)?;
        let mode = found.st_mode & 0o7777;
        let unlike = if found.st_uid != top.st_uid {
            format!(
                "it belongs to uid {}, the store to {}",
                found.st_uid, top.st_uid
            )
        } else if mode & 0o022 != 0 {
            format!("others may write to it (mode {mode:04o})")
        } else {
            return Ok(Some(fd));
        };
        if !is_on(Defence::StateDirectory) {
            return Ok(Some(fd));
        }
        Err(Error::new(what())
            .because(unlike)
            .hint("use another store with --store DIR, or see who made this one so"))
    }

    /// The names in a directory of the store, sorted.
    fn names(&self, directory: &OwnedFd, name: &str) -> Result<Vec<String>> {
        let mut names = tree::names(directory)
            .doing(|| format!("cannot list {name:?} of the image store {:?}", self.path))?;
        names.sort();
        Ok(names)
    }

    /// The error, with what the store's filesystem has no more of, if that is the reason.
    pub(crate) fn because_full(&self, what: String, cause: sys::Error) -> Error {
        state::because_full_of(STORE, &self.fd, Error::new(what), cause)
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn flock(file: &OwnedFd, operation: FlockOperation) -> sys::Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(rustix::io::Errno::INTR) => {}
            answer => {
                return answer
                    .map_err(|e| sys::Error::new("flock", format!("fd, {operation:?}"), e));
            }
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::new("the image store's path is empty").hint("give --store DIR"));
    }
    std::path::absolute(path)
        .map_err(|error| Error::new(format!("cannot tell where {path:?} is")).because(error))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
