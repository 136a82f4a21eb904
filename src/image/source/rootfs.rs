//! A root filesystem without an image around it: its layer, and a config that is made up for it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};

use super::SourceImage;
use super::blob::LayerBlob;
use super::documents::{OCI_CONFIG, OCI_MANIFEST, OCI_TAR};
use super::part::Part;
use super::platform::Platform;
use crate::error::{Doing, Result};
use crate::image::Digest;
use crate::sys;

/// What was given.
#[derive(Debug)]
pub(super) enum Rootfs {
    Tar(Part),
    Directory(Arc<OwnedFd>),
}

/// Opens the tar file or the directory `path`.
pub(super) fn open(path: &Path) -> Result<Rootfs> {
    match open_directory(path) {
        Ok(fd) => Ok(Rootfs::Directory(Arc::new(fd))),
        Err(error) if error.is(libc::ENOTDIR) => Part::open(path).map(Rootfs::Tar),
        Err(error) => Err(error).doing(|| format!("cannot open {path:?}")),
    }
}

/// Opens the directory that a person named: links are hers.
pub(super) fn open_directory(path: &Path) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{path:?}, O_DIRECTORY"), e))
}

/// Its image, for `platform`.
pub(super) fn image(rootfs: &Rootfs, path: &Path, platform: &Platform) -> Result<SourceImage> {
    let layer = match rootfs {
        Rootfs::Tar(part) => LayerBlob::new(part.clone(), None, None)?,
        Rootfs::Directory(fd) => LayerBlob::of_directory(fd.clone()),
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let stem = name.map(|name| name.split_once(".tar").map_or(name, |(stem, _)| stem));
    Ok(SourceImage {
        manifest: None,
        config: made_config(platform, &[]),
        layers: vec![layer],
        suggested_name: stem.filter(|stem| !stem.is_empty()).map(str::to_owned),
    })
}

/// The config of a root filesystem without one: a shell, and nothing else. `diff_ids` are the layers', lowest first.
pub fn made_config(platform: &Platform, diff_ids: &[Digest]) -> Vec<u8> {
    let mut config = serde_json::json!({
        "os": platform.os,
        "architecture": platform.architecture,
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["/bin/sh"],
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    if let Some(variant) = &platform.variant {
        config["variant"] = variant.as_str().into();
    }
    config.to_string().into_bytes()
}

/// The manifest of an image whose source has none: of `config`, and of the layers as they are uncompressed, each a diff id
/// and the bytes of the tar, lowest first.
pub fn made_manifest(config: &[u8], layers: &[(Digest, u64)]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size)| serde_json::json!({ "mediaType": OCI_TAR, "digest": digest, "size": size }))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": Digest::of(config), "size": config.len() },
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}
