//! Layers: who unpacks one, and what is remembered of it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use serde::{Deserialize, Serialize};

use super::tree::{self, Listing};
use super::{ImageStore, LAYER_RECORD, LAYERS, MAX_RECORD, ROOT, TMP, directory_flags, flock};
use crate::error::{Doing, Error, Result};
use crate::image::unpack::Report;
use crate::image::{Digest, Owners};
use crate::sys;

/// The name of a layer's directory: the digits of its chain id, and what tells apart whose its files are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId {
    name: String,
}

impl LayerId {
    /// The layer with this chain id. All that a caller unpacks belongs to the same ids: then it is the digits alone, and
    /// `-squashed` after them where all is the caller's.
    pub fn new(chain: &Digest, owners: &Owners) -> Self {
        let suffix = match owners {
            Owners::Mapped { .. } => "",
            Owners::Squashed { .. } => "-squashed",
        };
        Self {
            name: format!("{}{suffix}", chain.hex()),
        }
    }

    /// As [`LayerId::new`], where a layer of that name has other owners: the caller's subordinate ids were others then.
    fn beside(chain: &Digest, owners: &Owners) -> Self {
        let text = serde_json::to_vec(owners).unwrap_or_default();
        Self {
            name: format!("{}-{}", chain.hex(), Digest::of(&text).short()),
        }
    }

    /// Reads a directory's name; `None` where it is no layer's.
    pub fn parse(name: &str) -> Option<Self> {
        let (digits, suffix) = name.split_once('-').unwrap_or((name, "squashed"));
        let hexadecimal = |text: &str| {
            text.bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let whole = matches!(digits.len(), 64 | 128) && hexadecimal(digits);
        let known = suffix == "squashed" || (suffix.len() == 12 && hexadecimal(suffix));
        (whole && known).then(|| Self {
            name: name.to_owned(),
        })
    }

    /// The directory's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> Self {
        id.name
    }
}

impl TryFrom<String> for LayerId {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        Self::parse(&name).ok_or_else(|| format!("{name:?} is no layer"))
    }
}

/// What is remembered of a layer: `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The digest of its uncompressed tar; of a directory, that of a listing with the digests of all contents.
    pub diff_id: Digest,
    /// Its chain id (image-spec config.md).
    pub chain: Digest,
    /// The bytes of its uncompressed tar; of a directory, those of its files.
    pub tar_size: u64,
    /// Whose its files are.
    pub owners: Owners,
    /// The boot in which it was unpacked.
    pub boot_id: String,
    /// The tree as it was when it was complete.
    pub listing: Listing,
    /// What was found in it, and adapted.
    pub report: Report,
}

/// Who unpacks a layer.
#[derive(Debug)]
pub enum Claim {
    /// Nobody: it is there.
    There(LayerId, Box<LayerRecord>),
    /// This process.
    Ours(Work),
}

/// A layer that is being unpacked, beneath `tmp/`. The directory is locked until it is dropped.
#[derive(Debug)]
pub struct Work {
    fd: OwnedFd,
    name: String,
    root: OwnedFd,
}

impl Work {
    /// Where the layer's tree is to be.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }
}

impl ImageStore {
    /// Waits until nobody else unpacks the layer with this chain id. It is there then, or is to be unpacked by the caller, into an
    /// empty directory: what a killed process left is removed.
    ///
    /// Whoever waits looks at `stop` now and then.
    ///
    /// # Errors
    /// The directory cannot be made, the layer's record is damaged, or it is to stop.
    pub fn claim(&self, chain: &Digest, owners: &Owners, stop: &AtomicBool) -> Result<Claim> {
        let usual = LayerId::new(chain, owners);
        loop {
            let taken = match self.layer(&usual)? {
                Some(record) if record.owners == *owners => {
                    return Ok(Claim::There(usual, Box::new(record)));
                }
                other => other.is_some(),
            };
            let id = if taken {
                LayerId::beside(chain, owners)
            } else {
                usual.clone()
            };
            if let (true, Some(record)) = (taken, self.layer(&id)?) {
                return Ok(Claim::There(id, Box::new(record)));
            }
            if let Some(work) = self.take(id.name(), stop)? {
                return Ok(Claim::Ours(work));
            }
        }
    }

    /// A directory for a layer whose chain id is not known before it is unpacked.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn begin_unknown(&self) -> Result<Work> {
        let mut number = 0;
        loop {
            let name = format!("layer-{}-{number}", sys::process::own_pid());
            if let Some(work) = self.take_if_new(&name)? {
                return Ok(work);
            }
            number += 1;
        }
    }

    /// What is remembered of a layer; `None` where it is not there.
    ///
    /// # Errors
    /// The record is damaged.
    pub fn layer(&self, id: &LayerId) -> Result<Option<LayerRecord>> {
        let what = || format!("cannot read the record of layer {id}");
        let path = format!("{LAYERS}/{id}/{LAYER_RECORD}");
        let text =
            match sys::path::read_regular_beneath(self.directory(), Path::new(&path), MAX_RECORD) {
                Err(e) if e.is(libc::ENOENT) => return Ok(None),
                read => read.doing(what)?,
            };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::new(what()).because(error).hint(format!(
                "it is damaged: remove the images that have it, then run `lodger image gc`; it is in {:?}",
                self.layer_root(id)
            ))
        })
    }

    fn take_if_new(&self, name: &str) -> Result<Option<Work>> {
        let tmp = self.subdirectory(TMP)?;
        match rustix::fs::mkdirat(&tmp, name, Mode::RWXU) {
            Ok(()) => self.take(name, &AtomicBool::new(false)),
            Err(rustix::io::Errno::EXIST) => Ok(None),
            Err(e) => Err(self.cannot_make(name, e)),
        }
    }

    fn cannot_make(&self, name: &str, errno: rustix::io::Errno) -> Error {
        let cause = sys::Error::new("mkdirat", format!("{name:?}, 0700"), errno);
        self.because_full("cannot make a directory for a layer".to_owned(), cause)
    }

    /// Locks `tmp/NAME`, which is made where it is missing, and empties it; `None` where its place or its owner changed while it
    /// was waited for.
    fn take(&self, name: &str, stop: &AtomicBool) -> Result<Option<Work>> {
        let what = || "cannot make a directory for a layer".to_owned();
        let tmp = self.subdirectory(TMP)?;
        match rustix::fs::mkdirat(&tmp, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(self.cannot_make(name, e)),
        }
        let fd = match rustix::fs::openat(&tmp, name, directory_flags(), Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(e) => return Err(sys::Error::new("openat", format!("{name:?}"), e)).doing(what),
        };
        wait_for_lock(&fd, stop)?;
        // It may have become a layer meanwhile, or be gone.
        let ours = rustix::fs::fstat(&fd)
            .map_err(|e| sys::Error::new("fstat", "fd", e))
            .doing(what)?;
        match rustix::fs::statat(&tmp, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == (ours.st_dev, ours.st_ino) => {}
            _ => return Ok(None),
        }
        tree::clear(&fd).doing(|| format!("cannot remove what is left in {name:?}"))?;
        let root = rustix::fs::mkdirat(&fd, ROOT, Mode::RWXU)
            .and_then(|()| rustix::fs::openat(&fd, ROOT, directory_flags(), Mode::empty()))
            .map_err(|e| self.cannot_make(ROOT, e))?;
        Ok(Some(Work {
            fd,
            name: name.to_owned(),
            root,
        }))
    }

    /// Gives a layer that is complete its place. Where another process was faster, its layer is the one that counts.
    ///
    /// Its record is written last: a directory without one is no layer. Nothing is synced here: after a power cut a layer may lack
    /// the content of files. An image gets its name only once all of its layers are on the disk (import.rs), and a layer that was
    /// unpacked in another boot is compared with its listing before another image takes it.
    ///
    /// # Errors
    /// The record cannot be written, or the directory not be renamed. What was unpacked is removed then.
    pub fn publish(&self, work: Work, record: &LayerRecord) -> Result<LayerId> {
        match self.place(&work, record) {
            Ok((id, true)) => Ok(id),
            Ok((id, false)) => self.abandon(work).map(|()| id),
            Err(error) => Err(error.after(self.abandon(work))),
        }
    }

    /// The layer's name, and whether it is this one that has it.
    fn place(&self, work: &Work, record: &LayerRecord) -> Result<(LayerId, bool)> {
        let what = || format!("cannot keep layer {}", record.chain);
        let text = serde_json::to_vec(record).map_err(|e| Error::new(what()).because(e))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(&work.fd, LAYER_RECORD, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| sys::Error::new("openat", format!("{LAYER_RECORD:?}, O_CREAT"), e))
            .and_then(|file| sys::path::write_all(file, &text, Path::new(LAYER_RECORD)))
            .map_err(|cause| self.because_full(what(), cause))?;
        let tmp = self.subdirectory(TMP)?;
        let layers = self.subdirectory(LAYERS)?;
        let usual = LayerId::new(&record.chain, &record.owners);
        for id in [usual, LayerId::beside(&record.chain, &record.owners)] {
            let noreplace = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&tmp, &work.name, &layers, id.name(), noreplace) {
                Ok(()) => return Ok((id, true)),
                Err(rustix::io::Errno::EXIST) => {}
                Err(e) => {
                    let args = format!("{:?}, {:?}, RENAME_NOREPLACE", work.name, id.name());
                    let cause = sys::Error::new("renameat2", args, e);
                    return Err(self.because_full(what(), cause));
                }
            }
            if self
                .layer(&id)?
                .is_some_and(|there| there.owners == record.owners)
            {
                return Ok((id, false));
            }
        }
        Err(Error::new(what()).because("another one has its name"))
    }

    /// Removes a layer that is not to be.
    ///
    /// # Errors
    /// Something of it cannot be removed.
    pub fn abandon(&self, work: Work) -> Result<()> {
        let what = || format!("cannot remove {:?} of the image store", work.name);
        tree::clear(&work.fd).doing(what)?;
        let tmp = self.subdirectory(TMP)?;
        rustix::fs::unlinkat(&tmp, &work.name, AtFlags::REMOVEDIR)
            .map_err(|e| sys::Error::new("unlinkat", format!("{:?}, AT_REMOVEDIR", work.name), e))
            .doing(what)
    }
}

/// Waits until nobody else unpacks the layer, or all is to stop.
fn wait_for_lock(directory: &OwnedFd, stop: &AtomicBool) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    let what = || "cannot lock the directory of a layer".to_owned();
    loop {
        match flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(e) if e.is(libc::EWOULDBLOCK) => {}
            locked => return locked.doing(what),
        }
        if stop.load(Ordering::Relaxed) {
            return Err(Error::new(what()).because("another import unpacks it"));
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_directories_and_nothing_else_is() {
        let chain = Digest::of(b"x");
        let squashed = Owners::Squashed { uid: 1, gid: 2 };
        let mapped = Owners::Mapped {
            uid_map: Vec::new(),
            gid_map: Vec::new(),
        };
        let ids = [
            LayerId::new(&chain, &mapped),
            LayerId::new(&chain, &squashed),
            LayerId::beside(&chain, &mapped),
            LayerId::beside(&chain, &squashed),
        ];
        for (number, id) in ids.iter().enumerate() {
            assert_eq!(LayerId::parse(id.name()).as_ref(), Some(id));
            assert!(!ids[..number].contains(id));
            let json = serde_json::to_string(id).unwrap();
            assert_eq!(&serde_json::from_str::<LayerId>(&json).unwrap(), id);
        }
        let hex = chain.hex();
        for name in [
            "",
            "..",
            &hex[1..],
            &hex.to_uppercase(),
            &format!("{hex}-"),
            &format!("{hex}-../x"),
            &format!("{hex}/root"),
            &format!("{hex}-squashed-squashed"),
        ] {
            assert_eq!(LayerId::parse(name), None, "{name:?}");
        }
    }
}
