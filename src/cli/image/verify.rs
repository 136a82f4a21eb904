//! `image verify`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Format, enter, missing, print, stores};
use crate::cli::{Global, show::pretty};
use crate::error::{Error, Result};
use crate::image::store::verify::{self as compare, Finding};
use crate::image::store::{ImageRecord, ImageStore};
use crate::log::Log;
use crate::plan::Note;
use crate::sys;

/// Compare images with what was imported
///
/// Manifest and config are compared with their digests. The layers' own archives are not kept, so their files are compared with the
/// listing that was made when they were unpacked: names, types, modes, owners, sizes, links, times and extended attributes. What files
/// contain is not read; but no file can be written, by any program, without a new time of change, and that is compared too. A fault of
/// the disk that changes nothing but content is not seen. A store that was copied has new times of change: that is a note.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger image verify
  lodger image verify debian

Exit status:
  0  all is as it was imported
  1  something is not")]
pub(super) struct Args {
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// The images' names [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Told {
    image: String,
    part: String,
    finding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<String>,
}

/// Does what `image verify` asks.
pub(super) fn verify(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    let mut all = Vec::new();
    for store in stores(global)? {
        let (images, damaged) = store.images()?;
        if let (Some(error), true) = (damaged.into_iter().next(), args.names.is_empty()) {
            return Err(error);
        }
        all.push((store, images));
    }
    if let Some(name) = args.names.iter().find(|name| !is_there(&all, name)) {
        return Err(missing(name));
    }
    // Ids that are not the caller's have no numbers in the outer user namespace: stores of others come first.
    all.sort_by_key(|(store, _)| !store.is_readonly());
    // A layer may be deeper than a process may usually have files open.
    sys::process::raise_open_files()
        .map_err(|cause| Error::new("cannot prepare this process").because(cause))?;
    let mut told = Vec::new();
    let mut copied = false;
    for (store, images) in &all {
        if !store.is_readonly() {
            enter(global, &global.facts()?)?;
        }
        let _lock = store.lock_shared()?;
        let mut known = BTreeMap::new();
        for image in images {
            if args.names.is_empty() || args.names.contains(&image.name) {
                for (part, finding) in compare::image(store, image, &mut known) {
                    copied |= finding == Finding::Copied;
                    told.push(one(&image.name, part, finding));
                }
            }
        }
    }
    if copied {
        log.notes(&[Note::new(
            "layers",
            "every file has a later time of change than when it was imported: the store was copied, and files that were changed on the way cannot be told",
            "import the images again to be sure",
        )]);
    }
    report(&told, args.format)
}

fn is_there(all: &[(ImageStore, Vec<ImageRecord>)], name: &str) -> bool {
    all.iter()
        .any(|(_, images)| images.iter().any(|image| image.name == name))
}

fn one(image: &str, part: String, finding: Finding) -> Told {
    let (finding, difference) = match finding {
        Finding::Intact => ("intact", None),
        Finding::Copied => ("copied", None),
        Finding::Damaged(how) => ("damaged", Some(how)),
    };
    Told {
        image: image.to_owned(),
        part,
        finding,
        difference,
    }
}

/// Prints what was found; something damaged is a failure.
fn report(told: &[Told], format: Format) -> Result<u8> {
    let text = match format {
        Format::Json => pretty(&told)? + "\n",
        Format::Text => told.iter().fold(String::new(), |text, told| {
            let how = told.difference.iter();
            let how = how.fold(String::new(), |text, how| text + ": " + how);
            let line = format!("{} {} {}{how}\n", told.image, told.part, told.finding);
            text + &crate::error::printable(&line)
        }),
    };
    print(&text)?;
    let damaged = told.iter().filter(|told| told.difference.is_some()).count();
    match damaged {
        0 => Ok(0),
        _ => Err(Error::new(format!(
            "{damaged} of {} parts are not as they were imported",
            told.len()
        ))
        .hint("remove the images with `lodger image remove`, run `lodger image gc`, and import them again")),
    }
}
