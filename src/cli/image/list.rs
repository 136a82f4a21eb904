//! `image list`.

use serde::Serialize;

use super::{print, stores};
use crate::cli::size::human;
use crate::cli::table::aligned;
use crate::cli::{Global, show::pretty};
use crate::error::{Result, printable};
use crate::image::store::ImageRecord;
use crate::log::Log;
use crate::plan::Note;

/// List images
///
/// Those of your own store come first, then those of the stores that are only read (--store-ro), by name. An image whose record is
/// damaged is a note.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger image list
  lodger image list -q | xargs lodger image remove
  lodger image list -f json")]
pub(super) struct Args {
    /// How to print them
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: ListFormat,
    /// Print the names alone, one a line
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ListFormat {
    /// One line an image
    Table,
    /// An array of objects
    Json,
}

/// An image, and where it is.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    #[serde(flatten)]
    pub(super) image: ImageRecord,
    /// The store's path.
    pub(super) store: String,
    /// Whether the store is only read.
    pub(super) readonly: bool,
}

/// Does what `image list` asks.
pub(super) fn list(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    let mut listed = Vec::new();
    let mut notes = Vec::new();
    for store in stores(global)? {
        let path = store.path().display().to_string();
        let (images, damaged) = store.images()?;
        listed.extend(images.into_iter().map(|image| Listed {
            image,
            store: path.clone(),
            readonly: store.is_readonly(),
        }));
        notes.extend(damaged.into_iter().map(|error| {
            Note::new(
                &path,
                format!("not listed: {}", error.message()),
                error.hints().unwrap_or_default(),
            )
        }));
    }
    log.notes(&notes);
    let text = match (args.quiet, args.format) {
        (true, _) => listed.iter().fold(String::new(), |text, listed| {
            text + &listed.image.name + "\n"
        }),
        (false, ListFormat::Table) => table(&listed),
        (false, ListFormat::Json) => pretty(&listed)? + "\n",
    };
    print(&text)?;
    Ok(0)
}

fn table(listed: &[Listed]) -> String {
    let header = ["NAME", "DIGEST", "LAYERS", "SIZE", "IMPORTED", "STORE"].map(str::to_owned);
    let rows = listed.iter().map(|listed| {
        let image = &listed.image;
        [
            image.name.clone(),
            image.manifest.short().to_owned(),
            image.layers.len().to_string(),
            human(image.size),
            printable(&image.imported).replace('\n', "\\n"),
            printable(&listed.store).replace('\n', "\\n"),
        ]
    });
    let lines: Vec<[String; 6]> = std::iter::once(header).chain(rows).collect();
    aligned(&lines)
}
