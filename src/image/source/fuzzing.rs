//! A door to the documents, for tests/fuzz.

use super::blob;
use super::documents::{self, Descriptor, Document, OCI_INDEX, OCI_MANIFEST};
use crate::error::{Error, Result};
use crate::image::Digest;

/// What a text is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutRole {
    /// index.json, or an index within one.
    Index,
    /// A manifest.
    Manifest,
    /// A config.
    Config,
    /// manifest.json of `docker save`.
    Saved,
}

/// Reads `text`; the blobs that it points to, each with its path and its size.
pub fn document(role: LayoutRole, text: &[u8]) -> Result<Vec<(String, u64)>> {
    let path = |digest: &Digest| format!("blobs/{}/{}", digest.algorithm(), digest.hex());
    let blobs = |list: Vec<Descriptor>| list.iter().map(|d| (path(&d.digest), d.size)).collect();
    if role == LayoutRole::Saved {
        return documents::saved(text, "it").map(|_| Vec::new());
    }
    let document = Document::object(text, "it")?;
    match role {
        LayoutRole::Config => {
            let (_, ids) = document.config()?;
            Ok(ids.iter().map(|id| (path(id), 0)).collect())
        }
        LayoutRole::Index => {
            if !document.is_index(document.media_type().unwrap_or(OCI_INDEX))? {
                return Err(Error::new("it is no index"));
            }
            document.index().map(blobs)
        }
        _ => {
            if document.is_index(document.media_type().unwrap_or(OCI_MANIFEST))? {
                return Err(Error::new("it is no manifest"));
            }
            let (config, mut layers) = document.manifest()?;
            layers.iter().try_for_each(blob::judge)?;
            layers.push(config);
            Ok(blobs(layers))
        }
    }
}
