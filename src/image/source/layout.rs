//! An OCI image layout, in a directory or in an archive (image-spec image-layout.md).

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use super::archive::Archive;
use super::blob::{self, LayerBlob};
use super::documents::{self, DOCKER_LIST, Descriptor, Document, OCI_INDEX};
use super::part::Part;
use super::platform::Platform;
use super::reference::Selector;
use super::{SourceImage, choose};
use crate::error::{Error, Result};
use crate::image::{Digest, Limits};
use crate::sys::defence::{Defence, is_on};

/// How deep indexes may be nested, how many there may be, and how many images in all of them.
const NESTING: usize = 4;
const INDEXES: usize = 64;
const IMAGES: usize = 10_000;
/// How many layers the kernel's overlay stacks (OVL_MAX_STACK).
const LAYERS: usize = 500;
/// What the file `oci-layout` may have.
const MARKER: usize = 4096;

/// Where a layout's files are.
#[derive(Debug)]
pub(super) enum Files {
    /// In the directory of this name.
    Directory(OwnedFd, String),
    /// In an archive.
    Archive(Archive),
}

impl Files {
    /// The regular file of this name, `None` if there is none.
    pub(super) fn open(&self, name: &str) -> Result<Option<Part>> {
        let (directory, path) = match self {
            Self::Archive(archive) => return archive.open(name),
            Self::Directory(directory, path) => (directory, path),
        };
        let failed = |error: Error| error.within(format!("in {path}"));
        match Part::open_beneath(directory, name) {
            Ok(fd) => Part::whole(fd, name.to_owned()).map(Some).map_err(failed),
            Err(error) if error.is(libc::ENOENT) => Ok(None),
            Err(error) if error.is(libc::ELOOP) => {
                let links = Error::new(format!("{name} is, or is beneath, a symbolic link"));
                Err(failed(links.because(error)).hint(
                    "it could lead anywhere: `skopeo copy oci:DIR oci-archive:FILE` makes an archive without links",
                ))
            }
            Err(error) => Err(failed(
                Error::new(format!("cannot open {name}")).because(error),
            )),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Directory(_, path) => path,
            Self::Archive(archive) => archive.name(),
        }
    }
}

/// A layout whose version is known.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    files: &'a Files,
    limits: Limits,
}

/// One manifest, and the name of the index's entry that leads to it.
#[derive(Debug)]
struct Leaf {
    descriptor: Descriptor,
    name: Option<String>,
}

/// What was met on the way through the indexes.
#[derive(Debug, Default)]
struct Walk {
    leaves: Vec<Leaf>,
    seen: BTreeSet<Digest>,
    indexes: usize,
    passed_over: BTreeSet<String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl<'a> Layout<'a> {
    /// Checks the file `oci-layout`.
    pub(super) fn open(files: &'a Files, limits: Limits) -> Result<Self> {
        let name = files.name();
        let marker = files.open("oci-layout")?.ok_or_else(|| {
            Error::new(format!("{name} is no OCI image layout: it has no file \"oci-layout\""))
                .hint("a directory or archive of `docker save` is docker-archive:FILE, one with a root filesystem is rootfs:…")
        })?;
        let text = marker.read(MARKER)?;
        documents::check(&text, "oci-layout")?;
        let version = documents::typed::<Marker>(&text, "oci-layout")?.image_layout_version;
        if version != "1.0.0" {
            return Err(Error::new(format!(
                "{name} is an image layout of version {version:?}, and only 1.0.0 is known"
            )));
        }
        Ok(Self { files, limits })
    }

    /// The image that `selector` names, for `platform`.
    pub(super) fn image(
        &self,
        selector: Option<&Selector>,
        platform: &Platform,
    ) -> Result<SourceImage> {
        let leaf = self.find(selector, platform)?;
        let what = format!("the manifest {}", leaf.descriptor.digest);
        let manifest = self.document(&leaf.descriptor, &what)?;
        let document = Document::object(&manifest, &what)?;
        // Asked for its refusals alone: an index among the leaves was taken for one by its type.
        document.is_index(&leaf.descriptor.media_type)?;
        let (config, layers) = document.manifest()?;
        if layers.len() > LAYERS {
            let count = layers.len();
            return Err(Error::new(format!(
                "{what} has {count} layers, and the kernel stacks {LAYERS}"
            ))
            .hint("`buildah` and `docker build --squash` make fewer of them"));
        }
        layers.iter().try_for_each(blob::judge)?;
        let what = format!("the config {}", config.digest);
        let config = self.document(&config, &what)?;
        let (for_platform, diff_ids) = Document::object(&config, &what)?.config()?;
        choose::check_platform(platform, &for_platform, &what)?;
        choose::check_count(&what, diff_ids.len(), layers.len())?;
        let layers = layers.iter().zip(diff_ids);
        let layers: Result<_> = layers.map(|(layer, id)| self.layer(layer, id)).collect();
        Ok(SourceImage {
            layers: layers?,
            config,
            manifest: Some(manifest),
            suggested_name: match selector {
                Some(Selector::Tag(tag)) => Some(tag.clone()),
                _ => leaf.name,
            },
        })
    }

    fn layer(&self, layer: &Descriptor, diff_id: Digest) -> Result<LayerBlob> {
        let what = format!("the layer {}", layer.digest);
        let part = self.blob(layer, &what)?;
        LayerBlob::new(part, Some(layer.digest.clone()), Some(diff_id))
    }

    /// The manifest that is meant.
    fn find(&self, selector: Option<&Selector>, platform: &Platform) -> Result<Leaf> {
        let index = self.files.open("index.json")?;
        let index =
            index.ok_or_else(|| Error::new(format!("{} has no index.json", self.files.name())))?;
        let text = index.read(self.limits.json)?;
        let document = Document::object(&text, "index.json")?;
        document.is_index(document.media_type().unwrap_or(OCI_INDEX))?;
        let all = document.index()?;
        let names: BTreeSet<String> = all
            .iter()
            .flat_map(Descriptor::names)
            .map(str::to_owned)
            .collect();
        let chosen: Vec<Descriptor> = match selector {
            Some(Selector::Tag(tag)) => all
                .into_iter()
                .filter(|d| d.names().any(|name| name == tag))
                .collect(),
            Some(Selector::Digest(digest)) if all.iter().any(|d| d.digest == *digest) => {
                all.into_iter().filter(|d| d.digest == *digest).collect()
            }
            _ => all,
        };
        let source = self.files.name();
        if let (Some(Selector::Tag(tag)), true) = (selector, chosen.is_empty()) {
            return Err(choose::no_such_name(source, tag, &names));
        }
        let is_entry = |digest: &Digest| chosen.iter().any(|d| d.digest == *digest);
        let deeper = match selector {
            Some(Selector::Digest(digest)) if !is_entry(digest) => Some(digest),
            _ => None,
        };
        let mut walk = Walk::default();
        self.walk(chosen, 0, None, &mut walk)?;
        if let Some(digest) = deeper {
            walk.leaves.retain(|leaf| leaf.descriptor.digest == *digest);
            if walk.leaves.is_empty() {
                return Err(Error::new(format!(
                    "{source} has no image with the digest {digest}"
                )));
            }
        }
        let Walk {
            leaves,
            passed_over,
            ..
        } = walk;
        if leaves.is_empty() {
            let error = Error::new(format!("{source} holds no image"));
            let types: Vec<String> = passed_over.into_iter().collect();
            return Err(match types[..] {
                [] => error.because("its index names none"),
                _ => error.because(format!(
                    "what it names is of other types: {}",
                    types.join(", ")
                )),
            });
        }
        let offers: Vec<choose::Offer<'_>> = leaves.iter().map(Leaf::offer).collect();
        let at = choose::among(source, &offers, platform)?;
        leaves
            .into_iter()
            .nth(at)
            .ok_or_else(|| Error::new(format!("{source} holds no image")))
    }

    /// Collects the manifests that `descriptors` lead to, each once.
    fn walk(
        &self,
        descriptors: Vec<Descriptor>,
        depth: usize,
        name: Option<&str>,
        walk: &mut Walk,
    ) -> Result<()> {
        let source = self.files.name();
        for descriptor in descriptors {
            let own = descriptor.names().next().map(str::to_owned);
            let name = own.as_deref().or(name);
            match descriptor.media_type.as_str() {
                OCI_INDEX | DOCKER_LIST => {}
                documents::OCI_MANIFEST | documents::DOCKER_MANIFEST => {
                    if walk.leaves.len() == IMAGES {
                        return Err(Error::new(format!(
                            "{source} names more than {IMAGES} images"
                        )));
                    }
                    if walk.seen.insert(descriptor.digest.clone()) {
                        let name = name.map(str::to_owned);
                        walk.leaves.push(Leaf { descriptor, name });
                    }
                    continue;
                }
                // As the specification wants it: an index may have more than images.
                other => {
                    walk.passed_over.insert(other.to_owned());
                    continue;
                }
            }
            // Once is enough, and an index that leads to itself is met again.
            if !walk.seen.insert(descriptor.digest.clone()) {
                continue;
            }
            walk.indexes += 1;
            if depth == NESTING || walk.indexes > INDEXES {
                return Err(Error::new(format!(
                    "{source} has more than {INDEXES} indexes, or more than {NESTING} within each other"
                )));
            }
            let what = format!("the index {}", descriptor.digest);
            let text = self.document(&descriptor, &what)?;
            let document = Document::object(&text, &what)?;
            document.is_index(&descriptor.media_type)?;
            let inner = document.index()?;
            drop(text);
            self.walk(inner, depth + 1, name, walk)?;
        }
        Ok(())
    }

    /// The blob of `descriptor`, of the size that it says.
    fn blob(&self, descriptor: &Descriptor, what: &str) -> Result<Part> {
        let digest = &descriptor.digest;
        let name = format!("blobs/{}/{}", digest.algorithm(), digest.hex());
        let Some(mut part) = self.files.open(&name)? else {
            let error = Error::new(format!("{what} is missing in {}", self.files.name()));
            return Err(match &descriptor.urls {
                Some(urls) if !urls.is_empty() => error
                    .because("it is a foreign layer: there is only an address of it")
                    .hint(blob::FOREIGN),
                _ => error
                    .because(format!("there is no {name}"))
                    .hint("the image was copied in part: copy it again"),
            });
        };
        if part.length != descriptor.size && is_on(Defence::BlobDigests) {
            let (there, said) = (part.length, descriptor.size);
            return Err(Error::new(format!(
                "{what} has {there} bytes, and its descriptor says {said}"
            ))
            .hint("the file is damaged, or was changed: get it again"));
        }
        what.clone_into(&mut part.name);
        Ok(part)
    }

    /// The text of the document that `descriptor` points to.
    fn document(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>> {
        let limit = self.limits.json;
        // Before anything is read, or even opened.
        if descriptor.size > limit as u64 {
            let size = descriptor.size;
            return Err(Error::new(format!(
                "{what} has {size} bytes, and a document may have {limit}"
            )));
        }
        let text = self.blob(descriptor, what)?.read(limit)?;
        choose::check_digest(&text, &descriptor.digest, what)?;
        Ok(text)
    }
}

impl Leaf {
    fn offer(&self) -> choose::Offer<'_> {
        choose::Offer {
            name: self.name.as_deref(),
            digest: &self.descriptor.digest,
            platform: self.descriptor.platform.as_ref(),
        }
    }
}
