//! The images of a checkpoint: CRIU's files, and beside them lodger.json, which tells what they are of and that they are whole.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::checkpoint::attributes::Attributes;
use crate::plan::{FakeRoot, IdMapping, Rlimit};

mod differences;
mod digest;
mod draft;
#[cfg(fuzzing)]
mod fuzzing;
mod parent;
mod read;
mod streams;
mod sum;
mod translate;
mod wire;

pub use differences::differences;
#[cfg(test)]
use digest::verify;
pub use digest::{Follower, verify_large, verify_small};
pub use draft::{Draft, LOG};
#[cfg(fuzzing)]
pub use fuzzing::{core, manifest, mounts};
pub use parent::{PARENT, Parent};
pub use read::{Opened, identity, machine, read};
pub use streams::free_streams;
pub use translate::{Ids, clear_death_signal, to_initial, translate};

/// The name of the file beside CRIU's images. It is written last: without it a directory is no checkpoint.
pub const MANIFEST: &str = "lodger.json";

/// The format of [`Manifest`] that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// The largest lodger.json in bytes.
const MAX_MANIFEST: usize = 64 << 20;

/// Whether `name` may be that of an image in a manifest: a plain name, which leads nowhere else.
fn is_image_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let stem = name.strip_suffix(".img").unwrap_or_default();
    !stem.is_empty() && !stem.starts_with('.') && name.len() <= 255 && stem.bytes().all(is_plain)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with one")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with one")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// lodger.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format: [`VERSION`].
    pub version: u32,
    /// What made it: `lodger 0.1.0`.
    pub runtime: String,
    /// The version of CRIU that made the images.
    pub criu: String,
    /// The machine (uname(2)): images are restored on the same one.
    pub machine: String,
    /// The id of the container.
    pub id: String,
    /// When the checkpoint was made, RFC 3339.
    pub created: String,
    /// Absolute path of its bundle.
    pub bundle: PathBuf,
    /// Whether the container was paused.
    pub paused: bool,
    /// The uid map of its user namespace.
    pub uid_map: Vec<IdMapping>,
    /// The gid map.
    pub gid_map: Vec<IdMapping>,
    /// Whether setgroups(2) was allowed in it.
    pub setgroups: bool,
    /// Which namespaces were its own: `CLONE_NEW…` bits.
    pub namespaces: u32,
    /// Which it had joined, and are to be joined again: `CLONE_NEW…` bits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub joined: u32,
    /// Whether its first process has a terminal of the container's on its standard streams.
    pub terminal: bool,
    /// The mounts that came from outside, and are to be given to CRIU again.
    pub externals: Vec<ExternalMount>,
    /// The caller's files that its processes had, and are to be given again.
    pub streams: Vec<ExternalFile>,
    /// The mounts of the container, to be compared after a restore.
    pub mounts: Vec<MountLine>,
    /// The highest hard limit of each resource that a process had.
    pub limits: Vec<Rlimit>,
    /// How many system call filters its first process was under.
    pub filters: u32,
    /// What becomes of calls of its processes that change owners and ids.
    #[serde(default, skip_serializing_if = "FakeRoot::is_none")]
    pub fake_root: FakeRoot,
    /// What CRIU does not save of its processes.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// Whether it has memory alone, saved while the container ran (criu(8), `pre-dump`): nothing that could be restored.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pre_dump: bool,
    /// The digest of the lodger.json in the directory [`PARENT`], whose images have the memory that has not changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The options that the dump was made with, and that the restore has to have too.
    pub options: Options,
    /// The config.json of the container.
    pub config: serde_json::Value,
    /// Size and digest of each image file, by name.
    pub files: BTreeMap<String, File>,
}

impl Manifest {
    /// What there is of it beside lodger.json: the images, and the directory of what went before.
    fn entries(&self) -> impl Iterator<Item = &str> {
        let parent = self.parent.as_ref().map(|_| PARENT);
        self.files.keys().map(String::as_str).chain(parent)
    }
}

/// An external mount, as CRIU was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalMount {
    /// The destination that the config has: the key.
    pub key: String,
    /// What follows it, where the mount is one beneath a recursive bind mount; else empty. It is part of the key.
    pub beneath: PathBuf,
    /// Where it was mounted, in the container.
    pub mountpoint: PathBuf,
}

impl ExternalMount {
    /// The name by which CRIU knows it.
    pub fn criu_key(&self) -> String {
        let beneath = self.beneath.to_string_lossy();
        match beneath.trim_start_matches('/') {
            "" => self.key.clone(),
            beneath => format!("{}/{beneath}", self.key.trim_end_matches('/')),
        }
    }
}

/// An external file, as CRIU was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalFile {
    /// Its number in the first process.
    pub number: u32,
    /// CRIU's key: `pipe:[INODE]`, `file[MOUNT:INODE]` or `tty[RDEV:DEV]`.
    pub key: String,
}

/// A mount of the container's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MountLine {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// Its filesystem's device, `MAJOR:MINOR`: which mounts are of the same one.
    pub device: String,
    /// What of its filesystem it shows.
    pub root: PathBuf,
    /// The filesystem's type.
    pub fstype: String,
    /// The attributes of the mount (`ro`, `nosuid`, …), sorted.
    pub attributes: Vec<String>,
}

/// How the dump was made.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// With established TCP connections.
    pub tcp_established: bool,
    /// With unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// With a terminal that is the caller's.
    pub shell_job: bool,
    /// With file locks.
    pub file_locks: bool,
}

/// An image file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its size in bytes.
    pub size: u64,
    /// `blake3:` and its digest in hexadecimal.
    pub digest: String,
}

#[cfg(test)]
pub use tests::manifest as sample;

#[cfg(test)]
mod tests {
    use super::*;

    /// One of a container that has nothing.
    pub fn manifest() -> Manifest {
        Manifest {
            version: VERSION,
            runtime: "lodger 0.1.0".to_owned(),
            criu: "4.2.1".to_owned(),
            machine: machine(),
            id: "c".to_owned(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            bundle: PathBuf::from("/bundle"),
            paused: false,
            uid_map: Vec::new(),
            gid_map: Vec::new(),
            setgroups: true,
            namespaces: 0,
            joined: 0,
            terminal: false,
            externals: Vec::new(),
            streams: Vec::new(),
            mounts: Vec::new(),
            limits: Vec::new(),
            filters: 0,
            fake_root: FakeRoot::None,
            attributes: Attributes::default(),
            pre_dump: false,
            parent: None,
            options: Options::default(),
            config: serde_json::Value::Null,
            files: BTreeMap::new(),
        }
    }

    #[test]
    fn names_of_images_are_plain() {
        for name in [
            "core-1.img",
            "tmpfs-dev-41.tar.gz.img",
            "pagemap-shmem-480689.img",
        ] {
            assert!(is_image_name(name), "{name}");
        }
        let long = format!("{}.img", "a".repeat(252));
        for name in [
            "",
            ".img",
            "..img",
            ".new/a.img",
            "a/b.img",
            "../a.img",
            "a.imgs",
            "a b.img",
            "a\0.img",
            &long,
        ] {
            assert!(!is_image_name(name), "{name:?}");
        }
    }
}
