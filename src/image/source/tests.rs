//! Layouts and archives made for the purpose, sound and hostile ones.
#![allow(
    clippy::disallowed_methods,
    reason = "tests make their files by path, in directories of their own"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::documents::{
    DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, Document, OCI_CONFIG, OCI_EMPTY, OCI_INDEX,
    OCI_MANIFEST, OCI_TAR,
};
use super::*;
use crate::image::Digest;

mod archives;
mod layouts;
mod streams;

/// An image layout in a directory.
struct Made {
    directory: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let made = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(made.path("blobs/sha256")).unwrap();
        fs::write(made.path("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        made
    }

    /// With one image of one layer.
    fn usual() -> Self {
        let made = Self::new();
        let manifest = made.manifest(&json!({}));
        made.index(&[manifest]);
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn blob_path(&self, descriptor: &Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap();
        self.path(&format!("blobs/{}", digest.replace(':', "/")))
    }

    /// Adds a blob; its descriptor.
    fn blob(&self, media_type: &str, content: &[u8]) -> Value {
        let digest = Digest::of(content);
        let descriptor =
            json!({ "mediaType": media_type, "digest": digest, "size": content.len() });
        fs::write(self.blob_path(&descriptor), content).unwrap();
        descriptor
    }

    fn document(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// Adds an image of one layer, whose manifest has the members of `change` in place of its own; its descriptor.
    fn manifest(&self, change: &Value) -> Value {
        let layer = self.blob(&format!("{OCI_TAR}+gzip"), &gzip(&tar("a", b"content")));
        let config = self.document(OCI_CONFIG, &config(&[&tar("a", b"content")]));
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer],
        });
        merge(&mut manifest, change);
        let kind = manifest["mediaType"]
            .as_str()
            .unwrap_or(OCI_MANIFEST)
            .to_owned();
        self.document(&kind, &manifest)
    }

    /// As [`Self::manifest`], for another config.
    fn manifest_for(&self, platform: &Value) -> Value {
        let mut config = config(&[&tar("a", b"content")]);
        merge(&mut config, platform);
        self.manifest(&json!({ "config": self.document(OCI_CONFIG, &config) }))
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.path("index.json"), index.to_string()).unwrap();
    }

    fn image(&self, selector: &str) -> Result<SourceImage> {
        self.image_for(selector, "linux/amd64")
    }

    fn image_for(&self, selector: &str, platform: &str) -> Result<SourceImage> {
        let path = self.directory.path().display();
        open(&format!("oci:{path}{selector}"), platform, None)
    }
}

fn open(reference: &str, platform: &str, scratch: Option<&OwnedFd>) -> Result<SourceImage> {
    let reference = Reference::parse(reference)?;
    let platform = Platform::parse(platform)?;
    Source::open(&reference, &Limits::default(), scratch)?.image(&platform)
}

/// `value` with the members of `change`; null takes one away.
fn merge(value: &mut Value, change: &Value) {
    let members = value.as_object_mut().unwrap();
    for (key, value) in change.as_object().unwrap() {
        if value.is_null() {
            members.remove(key);
        } else {
            members.insert(key.clone(), value.clone());
        }
    }
}

/// The config of an image of these layers.
fn config(tars: &[&[u8]]) -> Value {
    let ids: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
    json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": ids },
    })
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    descriptor
}

/// A tar of one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    add(&mut builder, name, content);
    builder.into_inner().unwrap()
}

fn add(builder: &mut ::tar::Builder<impl Write>, name: &str, content: &[u8]) {
    let mut header = ::tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).unwrap();
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn xz(content: &[u8], preset: u32) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), preset);
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Reads a layer to its end and verifies it.
fn read(layer: &LayerBlob, limits: &Limits) -> Result<Vec<u8>> {
    let progress = Arc::new(AtomicU64::new(0));
    let mut stream = layer.open(progress.clone(), limits)?;
    let mut content = Vec::new();
    let ended = stream.read_to_end(&mut content);
    let diff_id = stream.verify()?;
    ended.unwrap();
    assert_eq!(diff_id, Digest::of(&content));
    assert_eq!(stream.tar_size(), Some(content.len() as u64));
    assert_eq!(Some(progress.load(Ordering::Relaxed)), layer.size);
    Ok(content)
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T>, part: &str) {
    let error = result.expect_err(part).to_string();
    assert!(error.contains(part), "expected {part:?}:\n{error}");
}
