//! What `docker save`, `podman save` and `skopeo copy … docker-archive:` write: a tar file with manifest.json.
//!
//! It names the config and the layers of each image. Before Docker 25 the layers are `ID/layer.tar`, some of them links to
//! another's; skopeo and podman write `DIFF_ID.tar`; since Docker 25 all are blobs of an image layout that is there as well.
//! Layers need no digests of their own: the config has those of their content, and its own is the image's id.

use std::collections::BTreeSet;

use super::archive::Archive;
use super::blob::LayerBlob;
use super::documents::{self, Document, Saved};
use super::platform::Platform;
use super::reference::Selector;
use super::{SourceImage, choose};
use crate::error::{Error, Result};
use crate::image::{Digest, Limits};

/// The image that `selector` names.
pub(super) fn image(
    archive: &Archive,
    selector: Option<&Selector>,
    platform: &Platform,
    limits: &Limits,
) -> Result<SourceImage> {
    let source = archive.name();
    let list = archive.open("manifest.json")?.ok_or_else(|| {
        Error::new(format!(
            "{source} is no archive of `docker save`: it has no manifest.json"
        ))
        .hint(
            "one with an index.json is oci-archive:FILE, the tar of a root filesystem rootfs:FILE",
        )
    })?;
    let images = documents::saved(&list.read(limits.json)?, "manifest.json")?;
    let (image, config) = find(archive, images, selector, limits)?;
    let what = format!("the config {}", image.config);
    let (for_platform, diff_ids) = Document::object(&config, &what)?.config()?;
    choose::check_platform(platform, &for_platform, &what)?;
    let names = image.layers.unwrap_or_default();
    choose::check_count(&what, diff_ids.len(), names.len())?;
    let mut layers = Vec::new();
    for (name, diff_id) in names.iter().zip(diff_ids) {
        let part = archive.open_linked(name)?.ok_or_else(|| {
            Error::new(format!("the layer {name:?} is missing in {source}"))
                .hint("the image was saved in part: save it again")
        })?;
        layers.push(LayerBlob::new(part, blob_name(name), Some(diff_id))?);
    }
    let tag = image.repo_tags.unwrap_or_default().into_iter().next();
    Ok(SourceImage {
        manifest: None,
        config,
        layers,
        suggested_name: match selector {
            Some(Selector::Tag(tag)) => Some(tag.clone()),
            _ => tag,
        },
    })
}

/// The one of `images` that is meant, and its config.
fn find(
    archive: &Archive,
    images: Vec<Saved>,
    selector: Option<&Selector>,
    limits: &Limits,
) -> Result<(Saved, Vec<u8>)> {
    let source = archive.name();
    let tags = |image: &Saved| image.repo_tags.clone().unwrap_or_default();
    let names: BTreeSet<String> = images.iter().flat_map(tags).collect();
    let is_tagged = |image: &Saved, tag: &str| tags(image).iter().any(|own| full(own) == full(tag));
    let mut found = Vec::new();
    for image in images {
        match selector {
            Some(Selector::Tag(tag)) if !is_tagged(&image, tag) => {}
            Some(Selector::Digest(id)) => {
                let config = config(archive, &image, limits)?;
                if Digest::of(&config) == *id {
                    return Ok((image, config));
                }
            }
            _ => found.push(image),
        }
    }
    let several = found.len() > 1;
    match (found.into_iter().next(), selector) {
        (Some(image), _) if !several => {
            let config = config(archive, &image, limits)?;
            Ok((image, config))
        }
        (Some(_), _) => Err(Error::new(format!("{source} holds several images"))
            .hint(format!(
                "name one of them after the path: {}",
                choose::listed(&names)
            ))
            .hint("one without a name is had by its id, @sha256:…")),
        (None, Some(Selector::Tag(tag))) => Err(choose::no_such_name(source, tag, &names)),
        (None, Some(Selector::Digest(id))) => Err(Error::new(format!(
            "{source} has no image with the id {id}"
        ))),
        (None, None) => Err(Error::new(format!("{source} holds no image"))),
    }
}

/// The config of `image`, which is what its name says if that is a digest.
fn config(archive: &Archive, image: &Saved, limits: &Limits) -> Result<Vec<u8>> {
    let name = &image.config;
    let what = format!("the config {name}");
    let part = archive.open_linked(name)?;
    let part =
        part.ok_or_else(|| Error::new(format!("{what} is missing in {}", archive.name())))?;
    let text = part.read(limits.json)?;
    if let Some(digest) = blob_name(name) {
        choose::check_digest(&text, &digest, &what)?;
    }
    Ok(text)
}

/// The digest that a member is named by: `blobs/sha256/HEX`, `HEX.json` or `sha256:HEX`.
fn blob_name(name: &str) -> Option<Digest> {
    if let Some(blob) = name.strip_prefix("blobs/") {
        return Digest::parse(&blob.replacen('/', ":", 1)).ok();
    }
    match name.strip_suffix(".json") {
        Some(digits) => Digest::parse(&format!("sha256:{digits}")).ok(),
        None => Digest::parse(name).ok(),
    }
}

/// A name in full, as podman writes it and docker does not: with registry, path and tag.
fn full(name: &str) -> String {
    let (host, _) = name.split_once('/').unwrap_or(("", name));
    let is_host = host.contains(['.', ':']) || host == "localhost";
    let prefix = match host {
        "" => "docker.io/library/",
        _ if is_host => "",
        _ => "docker.io/",
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = if last.contains([':', '@']) {
        ""
    } else {
        ":latest"
    };
    format!("{prefix}{name}{tag}")
}
