//! `image show`.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::list::Listed;
use super::{Format, find, print};
use crate::cli::size::human;
use crate::cli::{Global, show::pretty};
use crate::error::{Error, Result, printable};
use crate::image::Owners;
use crate::image::store::{ImageRecord, ImageStore, LayerRecord};

/// Tell about an image
///
/// Where it came from, what it runs, its layers, and what was adapted when they were unpacked. As JSON also its whole config.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger image show debian
  lodger image show -f json debian | jq .config.config.Env")]
pub(super) struct Args {
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// The image's name
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    listed: Listed,
    /// The layers' records, the bottom first.
    records: Vec<LayerRecord>,
    config: Value,
}

/// Does what `image show` asks.
pub(super) fn show(global: &Global, args: &Args) -> Result<u8> {
    let (store, image) = find(global, &args.name)?;
    let config = store.config(&image)?;
    let config: Value = serde_json::from_slice(&config).map_err(|error| {
        Error::new(format!("cannot read the config of image {:?}", args.name)).because(error)
    })?;
    let shown = Shown {
        records: records(&store, &image)?,
        config,
        listed: Listed {
            store: store.path().display().to_string(),
            readonly: store.is_readonly(),
            image,
        },
    };
    print(&match args.format {
        Format::Json => pretty(&shown)? + "\n",
        Format::Text => printable(&text(&shown)),
    })?;
    Ok(0)
}

fn records(store: &ImageStore, image: &ImageRecord) -> Result<Vec<LayerRecord>> {
    let record = |id| {
        store.layer(id)?.ok_or_else(|| {
            Error::new(format!("layer {id} is not there")).hint("import the image again")
        })
    };
    image.layers.iter().map(record).collect()
}

fn text(shown: &Shown) -> String {
    let mut lines = Lines::default();
    let image = &shown.listed.image;
    lines.add("Name", &image.name);
    lines.add("Digest", &image.manifest.to_string());
    lines.add("Config", &image.config.to_string());
    lines.add("Source", &image.source);
    lines.add("Imported", &image.imported);
    lines.add("Store", &shown.listed.store);
    lines.add("Size", &human(image.size));
    lines.add(
        "Owners",
        match image.owners {
            Owners::Mapped { .. } => "as in the image, through subordinate ids",
            Owners::Squashed { .. } => "all files are yours",
        },
    );
    let config = &shown.config["config"];
    lines.add("Platform", &platform(&shown.config));
    for (title, key) in [("Created", "created"), ("Author", "author")] {
        lines.value(title, &shown.config[key]);
    }
    for (title, key) in [
        ("Entry point", "Entrypoint"),
        ("Arguments", "Cmd"),
        ("Environment", "Env"),
        ("Directory", "WorkingDir"),
        ("User", "User"),
        ("Stop signal", "StopSignal"),
        ("Ports", "ExposedPorts"),
        ("Volumes", "Volumes"),
        ("Labels", "Labels"),
    ] {
        lines.value(title, &config[key]);
    }
    for record in &shown.records {
        let listing = &record.listing;
        let size = human(listing.bytes);
        lines.add(
            "Layer",
            &format!("{} ({} files, {size})", record.diff_id, listing.entries),
        );
    }
    for note in &image.notes {
        lines.add("Note", &note.reason);
    }
    lines.text
}

fn platform(config: &Value) -> String {
    let words = ["os", "architecture", "variant"];
    let words: Vec<&str> = words
        .iter()
        .filter_map(|key| config[*key].as_str())
        .collect();
    words.join("/")
}

/// Lines of a title and a value.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, title: &str, value: &str) {
        if !value.is_empty() {
            let value = value.replace('\n', "\\n");
            let _infallible = writeln!(self.text, "{:<12} {value}", format!("{title}:"));
        }
    }

    /// A line for each of several values.
    fn value(&mut self, title: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::String(text) => self.add(title, text),
            // What is run is one line, as it is written in JSON.
            Value::Array(_) if title != "Environment" => self.add(title, &value.to_string()),
            Value::Array(values) => {
                for value in values {
                    self.value(title, value);
                }
            }
            Value::Object(values) => {
                for (key, value) in values {
                    match value.as_str() {
                        Some(value) => self.add(title, &format!("{key}={value}")),
                        None => self.add(title, key),
                    }
                }
            }
            other => self.add(title, &other.to_string()),
        }
    }
}
