//! `image`: what is done to images; each verb has a file of its own.

use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::host::{HostFacts, Joinable};
use crate::image::Owners;
use crate::image::flatten::Copied;
use crate::image::store::{ImageRecord, ImageStore, Place};
use crate::log::Log;
use crate::plan::{self, Note};
use crate::state::Store;
use crate::{sys, userns};

use super::{Global, print};

mod bundle;
mod gc;
mod import;
mod list;
mod progress;
mod remove;
mod show;
mod verify;

/// Import, list, show and remove images
///
/// An image is imported from files: no registry is asked, and no daemon runs. Its layers are unpacked once, and shared by all images
/// and containers that have them. `run --image NAME` runs one.
///
/// A store is its owner's alone. One that others are to read (--store-ro) is opened by its owner: `cd DIR && chmod 755 . images layers
/// layers/* blobs blobs/* && chmod 644 images/* layers/*/layer.json blobs/*/*`. Programs in it that are setuid become so for everybody:
/// let it be on a filesystem that is mounted nosuid.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_subcommand = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    after_long_help = "\
`lodger help image VERB` tells about one verb.

Examples:
  lodger image import oci-archive:debian.tar debian
  lodger run --image debian t1 cat /etc/os-release
  lodger image remove debian && lodger image gc"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Import(import::Args),
    List(list::Args),
    Show(show::Args),
    Remove(remove::Args),
    Gc(gc::Args),
    Verify(verify::Args),
    Bundle(bundle::Args),
}

/// How something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Does what `image` asks.
pub(crate) fn image(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    match &args.verb {
        Verb::Import(args) => import::import(global, args, log),
        Verb::List(args) => list::list(global, args, log),
        Verb::Show(args) => show::show(global, args),
        Verb::Remove(args) => remove::remove(global, args),
        Verb::Gc(args) => gc::gc(global, args),
        Verb::Verify(args) => verify::verify(global, args, log),
        Verb::Bundle(args) => bundle::bundle(global, args, log),
    }
}

/// The caller's own store, made where it is missing, and what there is to say of where it is.
pub(super) fn own_store(global: &Global) -> Result<(ImageStore, Option<Note>)> {
    let opened = Place::find(global.store()).and_then(|place| {
        let note = place.note();
        global.allow(note.as_slice())?;
        let store = ImageStore::open_or_make_at(&place.path, note.is_some())?;
        Ok((store, note))
    });
    opened.map_err(|error| error.step(Step::Store))
}

/// The caller's own store, if it is there.
fn own_store_if_there(global: &Global) -> Result<Option<ImageStore>> {
    match Place::find(global.store()) {
        Ok(place) => ImageStore::open(&place.path),
        // Whoever has no home may have images of the site all the same.
        Err(_) if !global.readonly_stores().is_empty() => Ok(None),
        Err(error) => Err(error),
    }
}

/// All stores in which images are looked for: the caller's own, if it is there, then those that are only read.
fn stores(global: &Global) -> Result<Vec<ImageStore>> {
    let mut stores: Vec<ImageStore> = own_store_if_there(global)?.into_iter().collect();
    for path in global.readonly_stores() {
        stores.push(ImageStore::open_readonly(path)?);
    }
    // Images that were imported when the home could be written to are there still.
    let usual = Place::find(global.store()).ok();
    if let Some((first, _)) = usual.and_then(|place| place.passed)
        && let Ok(store) = ImageStore::open_readonly(&first)
    {
        stores.push(store);
    }
    Ok(stores)
}

/// The image `name`, and the first store that has it.
pub(super) fn find(global: &Global, name: &str) -> Result<(ImageStore, ImageRecord)> {
    for store in stores(global)? {
        if let Some(image) = store.image(name)? {
            return Ok((store, image));
        }
    }
    Err(missing(name))
}

fn missing(name: &str) -> Error {
    Error::new(format!("image {name:?} does not exist"))
        .hint("`lodger image list` lists those that do; `lodger image import SOURCE NAME` adds one")
}

/// Whether the store is another user's, whose ids the caller does not have.
pub(super) fn is_foreign(store: &ImageStore) -> Result<bool> {
    let stat = rustix::fs::fstat(store.directory())
        .map_err(|e| sys::Error::new("fstat", "image store", e))
        .doing(|| format!("cannot examine the image store {:?}", store.path()))?;
    Ok(stat.st_uid != sys::cred::uid())
}

/// Refuses an image whose files belong to ids that the caller's containers do not have: she had them once, or has but her own.
pub(super) fn require_owners(image: &ImageRecord, facts: &HostFacts) -> Result<()> {
    let now = Owners::of_caller(facts, false);
    let is_squashed = matches!(&image.owners, Owners::Squashed { uid, .. } if *uid == facts.uid);
    if is_squashed || image.owners == now {
        return Ok(());
    }
    let again = |options: &str| format!("`lodger image import {options}SOURCE {}`", image.name);
    let Some(cause) = plan::idmap::single_id_cause(facts) else {
        return Err(
            Error::new("its files belong to other subordinate ids than you have now")
                .hint(format!("import it again: {}", again(""))),
        );
    };
    let error = Error::new("its files belong to subordinate ids, of which the container has none")
        .because(cause.why)
        .hint(format!(
            "import it again, with all files your own: {}; with subordinate ids it runs as well",
            again("--squash-owners ")
        ))
        .hint(cause.remedy);
    Err(match cause.code {
        Some(code) => error.code(code),
        None => error,
    })
}

/// What there is to say of a copy of an image's files.
pub(super) fn notes_of_copy(copied: &Copied) -> Vec<Note> {
    let lost = &copied.without_xattrs;
    let lost = (!lost.is_empty()).then(|| {
        let first = lost.first.first().map_or("", String::as_str);
        Note::new(
            "/root",
            format!("extended attributes could not be kept, first of \"/{first}\""),
            "make the copy on a filesystem that has them, of an image that you have imported yourself",
        )
    });
    let squashed = (copied.squashed > 0).then(|| {
        Note::new(
            "/root",
            format!("{} files are yours that were others'", copied.squashed),
            "import the image yourself, with subordinate ids, to have their owners",
        )
    });
    lost.into_iter().chain(squashed).collect()
}

/// Enters the outer user namespace, in which files of subordinate ids are the caller's.
fn enter(global: &Global, facts: &HostFacts) -> Result<()> {
    let state = Store::open_or_make(global.root.as_deref())?;
    let outer = plan::idmap::workplace(facts);
    userns::begin(&outer, &state, &Joinable::default())?.finish()?;
    Ok(())
}
