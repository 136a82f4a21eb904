//! The JSON documents of an image, read strictly (image-spec manifest.md, image-index.md, config.md).
//!
//! They come from whoever made the image, and another reader may have looked at them before: what two readers could
//! take for two things is refused (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::platform::Platform;
use crate::bundle::json;
use crate::error::{Error, Result};
use crate::image::Digest;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub(super) const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// How many commas a document may have. Each member or item but the first has one before it, and a value in memory takes
/// up to half a kilobyte.
const COMMAS: usize = 50_000;

/// The members that decide what a document is. Go's readers take them in upper case as well.
const MEMBERS: [&str; 9] = [
    "schemaVersion",
    "mediaType",
    "manifests",
    "config",
    "layers",
    "fsLayers",
    "rootfs",
    "os",
    "architecture",
];

/// What points to a blob (image-spec descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    #[serde(deserialize_with = "size")]
    pub(super) size: u64,
    pub(super) urls: Option<Vec<String>>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
    pub(super) platform: Option<Platform>,
}

impl Descriptor {
    /// The names that tools give it: skopeo, umoci and buildah the first, docker a tag there and the whole name in the second.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let annotations = self.annotations.as_ref();
        [
            "org.opencontainers.image.ref.name",
            "io.containerd.image.name",
        ]
        .into_iter()
        .filter_map(move |key| annotations?.get(key))
        .map(String::as_str)
    }
}

/// A size in bytes: Go reads a signed number, and has taken a negative one for "endless".
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u64, D::Error> {
    let size = i64::deserialize(deserializer)?;
    u64::try_from(size).map_err(|_| D::Error::custom(format!("the size {size} is negative")))
}

/// An index, or Docker's manifest list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
}

/// A manifest, OCI's or Docker's of schema 2.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    config: Descriptor,
    layers: Option<Vec<Descriptor>>,
}

/// What finding the layers needs of an image's config.
#[derive(Debug, Deserialize)]
struct Config {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    rootfs: RootFs,
}

/// The layers' digests, uncompressed.
#[derive(Debug, Deserialize)]
struct RootFs {
    r#type: String,
    diff_ids: Option<Vec<Digest>>,
}

/// One image of `docker save`'s manifest.json.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Option<Vec<String>>,
}

/// A document that is not yet taken for anything.
#[derive(Debug)]
pub(super) struct Document<'a> {
    text: &'a [u8],
    what: String,
    members: BTreeMap<String, IgnoredAny>,
    media_type: Option<String>,
}

/// The member that every document of OCI may have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: Option<String>,
}

impl<'a> Document<'a> {
    /// Looks at an object; `what` is for messages.
    pub(super) fn object(text: &'a [u8], what: &str) -> Result<Self> {
        check(text, what)?;
        let members: BTreeMap<String, IgnoredAny> = typed(text, what)?;
        for key in members.keys() {
            let like = |member: &&&str| member.eq_ignore_ascii_case(key) && **member != key;
            if let Some(member) = MEMBERS.iter().find(like) {
                return Err(Error::new(format!(
                    "{what} has a member {key:?}, which some would take for {member:?}"
                )));
            }
        }
        let media_type = typed::<Typed>(text, what)?.media_type;
        Ok(Self {
            text,
            what: what.to_owned(),
            members,
            media_type,
        })
    }

    /// Whether it is an index, as `media_type`, of what points to it, says, and its content does not deny.
    pub(super) fn is_index(&self, media_type: &str) -> Result<bool> {
        let what = &self.what;
        let has = |member| self.members.contains_key(member);
        let index = has("manifests");
        let manifest = has("config") || has("layers") || has("fsLayers");
        if index && manifest {
            let error = Error::new(format!("{what} is an index and a manifest at once"));
            return Err(error.because("each tool would see another image in it (CVE-2021-41190)"));
        }
        if has("fsLayers")
            || media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
        {
            return Err(
                Error::new(format!("{what} is a manifest of Docker's schema 1"))
                    .hint("pull and copy the image again with a current tool: skopeo converts it"),
            );
        }
        if let Some(own) = self.media_type.as_deref()
            && own != media_type
        {
            return Err(Error::new(format!(
                "{what} says that it is {own:?}, and what points to it says {media_type:?}"
            )));
        }
        let (is_index, denied) = match media_type {
            OCI_INDEX | DOCKER_LIST => (true, manifest),
            OCI_MANIFEST | DOCKER_MANIFEST => (false, index),
            other => {
                return Err(
                    Error::new(format!("{what} is of the unknown type {other:?}"))
                        .hint("known are manifests and indexes of OCI, and of Docker's schema 2"),
                );
            }
        };
        if denied {
            return Err(Error::new(format!(
                "{what} is not what its type {media_type:?} says"
            )));
        }
        Ok(is_index)
    }

    /// The media type that the document itself gives.
    pub(super) fn media_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    /// Its descriptors, as an index.
    pub(super) fn index(&self) -> Result<Vec<Descriptor>> {
        let index: Index = typed(self.text, &self.what)?;
        self.of_schema_2(index.schema_version)?;
        Ok(index.manifests.unwrap_or_default())
    }

    /// Its config and its layers, lowest first.
    pub(super) fn manifest(&self) -> Result<(Descriptor, Vec<Descriptor>)> {
        let manifest: Manifest = typed(self.text, &self.what)?;
        self.of_schema_2(manifest.schema_version)?;
        let config = manifest.config;
        match config.media_type.as_str() {
            OCI_CONFIG | DOCKER_CONFIG => Ok((config, manifest.layers.unwrap_or_default())),
            other => {
                let what = &self.what;
                let error = Error::new(format!(
                    "{what} is an artifact, not the image of a root filesystem"
                ));
                Err(error.because(match other {
                    OCI_EMPTY => format!("its config is empty ({other})"),
                    _ => format!("its config is of the type {other:?}"),
                }))
            }
        }
    }

    /// What a config says of platform and layers.
    pub(super) fn config(&self) -> Result<(Platform, Vec<Digest>)> {
        let config: Config = typed(self.text, &self.what)?;
        if config.rootfs.r#type != "layers" {
            return Err(Error::new(format!(
                "rootfs.type of {} is {:?}, and only \"layers\" is known",
                self.what, config.rootfs.r#type
            )));
        }
        let platform = Platform {
            os: config.os.unwrap_or_default(),
            architecture: config.architecture.unwrap_or_default(),
            variant: config.variant,
        };
        Ok((platform, config.rootfs.diff_ids.unwrap_or_default()))
    }

    fn of_schema_2(&self, version: u32) -> Result<()> {
        if version == 2 {
            return Ok(());
        }
        let what = &self.what;
        Err(Error::new(format!(
            "{what} has schemaVersion {version}, and only 2 is known"
        )))
    }
}

/// The images of `docker save`'s manifest.json.
pub(super) fn saved(text: &[u8], what: &str) -> Result<Vec<Saved>> {
    check(text, what)?;
    typed(text, what)
}

/// Refuses what would take much memory, and all that two readers could read differently.
pub(super) fn check(text: &[u8], what: &str) -> Result<()> {
    if text.iter().filter(|byte| **byte == b',').count() > COMMAS {
        return Err(Error::new(format!("{what} has more than {COMMAS} values")));
    }
    json::check(text).map_err(|error| {
        let message = error.to_string();
        // The parser's messages begin with the name of the document that it was made for.
        let rest = message.strip_prefix("config.json").unwrap_or(&message);
        Error::new(format!("{what}{rest}"))
    })
}

/// `text` as a `T`; what it has besides is passed over, as the specification wants it.
pub(super) fn typed<T: DeserializeOwned>(text: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|error| Error::new(format!("{what} is not valid")).because(error))
}
