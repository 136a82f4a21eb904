//! `image gc`.

use serde::Serialize;

use super::{Format, enter, own_store_if_there, print};
use crate::cli::size::human;
use crate::cli::{Global, show::pretty};
use crate::error::Result;
use crate::image::store::gc::{self as garbage, Garbage};

/// Remove what no image and no container needs
///
/// Layers, manifests and configs that no image names and no container stands on; what a killed import or a killed run left; changes of
/// containers that are gone, but not those that are kept (`run --keep-changes`). It waits for imports that are under way. Whoever reads
/// the store with --store-ro is not known here.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger image gc --dry-run
  lodger image gc")]
pub(super) struct Args {
    /// Only tell what would go
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Debug, Default, Serialize)]
struct Told {
    layers: Vec<String>,
    blobs: Vec<String>,
    leftovers: Vec<String>,
    changes: Vec<String>,
    bytes: u64,
    removed: bool,
}

/// Does what `image gc` asks.
pub(super) fn gc(global: &Global, args: &Args) -> Result<u8> {
    let told = match own_store_if_there(global)? {
        None => Told::default(),
        Some(store) => {
            let _lock = store.lock_exclusive()?;
            let found = garbage::find(&store)?;
            if found.has_trees() {
                enter(global, &global.facts()?)?;
            }
            let bytes = garbage::usage(&store, &found)?;
            if !args.dry_run {
                garbage::remove(&store, &found)?;
            }
            told(&found, bytes, !args.dry_run)
        }
    };
    print(&match args.format {
        Format::Json => pretty(&told)? + "\n",
        Format::Text => text(&told, args.dry_run),
    })?;
    Ok(0)
}

fn told(found: &Garbage, bytes: u64, removed: bool) -> Told {
    Told {
        layers: found.layers.iter().map(ToString::to_string).collect(),
        blobs: found.blobs.iter().map(ToString::to_string).collect(),
        leftovers: found.leftovers.clone(),
        changes: found.changes.clone(),
        bytes,
        removed,
    }
}

fn text(told: &Told, dry_run: bool) -> String {
    let mut text = String::new();
    for (kind, names) in [
        ("layer", &told.layers),
        ("blob", &told.blobs),
        ("leftover", &told.leftovers),
        ("changes of a container", &told.changes),
    ] {
        for name in names {
            text.push_str(&format!("{kind} {name}\n"));
        }
    }
    let verb = if dry_run { "would be free" } else { "are free" };
    let bytes = human(told.bytes);
    text.push_str(&match text.is_empty() {
        true => "there is nothing to remove\n".to_owned(),
        false => format!("{bytes} {verb}\n"),
    });
    text
}
