//! One import, from source to store.
//!
//! In this order: what is to be read is opened and the store too, by the caller as she is; the outer user namespace is entered, so
//! that owners can be given; the process is confined ([`super::confine`]); and only then is anything of the image looked at. Layers
//! are unpacked side by side, each beneath `tmp/`, and get their places in the order of the chain, once those below are there. The
//! image gets its name last.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use super::source::{self, Platform, Source, SourceImage};
use super::store::{self, ImageRecord, ImageStore, LayerRecord};
use super::{Digest, Limits, Owners, confine};
use crate::error::{Doing, Error, Result};
use crate::plan::Note;
use crate::{state, sys};

mod layer;
mod notes;

pub use notes::of_reports;

/// What is to be imported, and how.
#[derive(Debug)]
pub struct Request {
    /// The source, open.
    pub source: Source,
    /// What the source was called.
    pub described: String,
    /// The image's name; `None`: the one that it has in the source.
    pub name: Option<String>,
    /// Of which platform.
    pub platform: Platform,
    /// How much is taken.
    pub limits: Limits,
    /// Whose the files become.
    pub owners: Owners,
    /// Whether every adaptation is an error (`--strict`).
    pub strict: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Imported {
    /// The image.
    pub image: ImageRecord,
    /// The image that had its name before.
    pub replaced: Option<ImageRecord>,
    /// How many of its layers were there already.
    pub reused: usize,
}

/// Who is told how far it is. All is told by the thread that called [`import`].
pub trait Progress {
    /// There are so many layers; of each the bytes that are to be read, and a count of those that were.
    fn begin(&mut self, layers: &[(Option<u64>, Arc<AtomicU64>)]);
    /// A moment has passed.
    fn tick(&mut self);
    /// The layer with this number, from 0, is complete; `reused`: it was there.
    fn done(&mut self, number: usize, record: &LayerRecord, reused: bool);
}

/// Imports what `request` says into `store`, whose lock the caller holds, shared.
///
/// The process must be in the outer user namespace, have one thread, and a umask of 0. It is confined from here on.
///
/// # Errors
/// What is wrong with the image, or stopped the unpacking. Layers that were complete stay, for the next import or for `gc`.
pub fn import(
    store: &ImageStore,
    request: &Request,
    progress: &mut dyn Progress,
) -> Result<Imported> {
    // What the confined process cannot ask.
    let host = layer::Host {
        boot_id: state::boot_id()?,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut notes = Vec::new();
    let readable: Vec<BorrowedFd<'_>> = request.source.directory().into_iter().collect();
    notes.extend(confine::confine(store.directory().as_fd(), &readable)?);
    let image = request.source.image(&request.platform)?;
    let name = name(request, &image)?;
    sys::process::limit_file_size(request.limits.file)
        .doing(|| "cannot limit the size of files".to_owned())?;
    let unpacked = layer::unpack_all(store, request, &image, &host, progress)?;
    let (config, manifest) = documents(request, &image, &unpacked)?;
    let config_digest = Digest::of(&config);
    let manifest_digest = Digest::of(&manifest);
    store.keep_blob(&config_digest, &config)?;
    store.keep_blob(&manifest_digest, &manifest)?;
    notes.extend(of_reports(
        unpacked.iter().map(|layer| &layer.record.report),
    ));
    let record = ImageRecord {
        name,
        manifest: manifest_digest,
        config: config_digest,
        layers: unpacked.iter().map(|layer| layer.id.clone()).collect(),
        owners: request.owners.clone(),
        source: request.described.clone(),
        imported: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        size: unpacked
            .iter()
            .map(|layer| layer.record.listing.bytes)
            .sum(),
        notes,
    };
    if request.strict {
        Note::refuse(&record.notes)?;
    }
    let replaced = store.name_image(&record)?;
    Ok(Imported {
        image: record,
        replaced,
        reused: unpacked.iter().filter(|layer| layer.reused).count(),
    })
}

/// The image's name: the one that was given, or else that of the source, if it can be one.
fn name(request: &Request, image: &SourceImage) -> Result<String> {
    if let Some(name) = &request.name {
        store::check_name(name)?;
        return Ok(name.clone());
    }
    let hint = format!(
        "give it a name: lodger image import {} NAME",
        request.described
    );
    match &image.suggested_name {
        Some(name) => {
            store::check_name(name).map_err(|e| e.hint(hint))?;
            Ok(name.clone())
        }
        None => Err(Error::new("the image has no name in its source").hint(hint)),
    }
}

/// The image's config and manifest; what its source has none of is made for the layers that were found.
fn documents(
    request: &Request,
    image: &SourceImage,
    layers: &[layer::Done],
) -> Result<(Vec<u8>, Vec<u8>)> {
    let known = image.layers.iter().all(|blob| blob.diff_id.is_some());
    let config = if known {
        image.config.clone()
    } else {
        let diff_ids: Vec<Digest> = layers.iter().map(|l| l.record.diff_id.clone()).collect();
        source::made_config(&request.platform, &diff_ids)
    };
    let manifest = image.manifest.clone().unwrap_or_else(|| {
        let layers: Vec<(Digest, u64)> = layers
            .iter()
            .map(|layer| (layer.record.diff_id.clone(), layer.record.tar_size))
            .collect();
        source::made_manifest(&config, &layers)
    });
    Ok((config, manifest))
}
