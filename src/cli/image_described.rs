//! The image of `--image`: its record and layers, and the config that it becomes.

use std::path::{Path, PathBuf};

use super::image_options::ImageRun;
use super::spec::Config;
use super::{Global, image};
use crate::error::{Error, Result};
use crate::host::HostFacts;
use crate::image::config::{Asked, AskedMount, Converted, ImageConfig, convert};
use crate::image::merged::Merged;
use crate::image::store::{ImageRecord, ImageStore};
use crate::plan::{self, Note};

/// An image, and the store that has it.
pub(super) struct Image {
    pub(super) store: ImageStore,
    pub(super) record: ImageRecord,
    pub(super) layers: Merged,
}

impl Image {
    /// The paths of the layers, topmost first.
    pub(super) fn lower(&self) -> Vec<PathBuf> {
        let topmost_first = self.record.layers.iter().rev();
        topmost_first
            .map(|layer| self.store.layer_root(layer))
            .collect()
    }

    pub(super) fn root_mode(&self) -> Result<u32> {
        let root = self.layers.root()?;
        Ok(root.map_or(0o755, |root| root.stat.st_mode & 0o7777))
    }
}

/// An image, and what becomes of it for a container.
pub(super) struct Described {
    pub(super) image: Image,
    pub(super) asked: Asked,
    pub(super) converted: Converted,
    pub(super) notes: Vec<Note>,
}

/// What a container of an image would be; nothing is made. `words`: its id, arguments, and whether it gets a terminal.
pub(super) fn describe(
    global: &Global,
    options: &ImageRun,
    words: (&str, &[String], bool),
    facts: &HostFacts,
) -> Result<Described> {
    let image = find(global, options.image().unwrap_or_default())?;
    let setgroups = plan::idmap::allows_setgroups(facts);
    let (id, args, tty) = words;
    let mut asked = options.asked(id, args, tty, setgroups)?;
    let mut notes = Vec::new();
    if !image::is_foreign(&image.store)? {
        image::require_owners(&image.record, facts)?;
    } else if !options.upper().copy {
        notes.extend((!asked.read_only).then(|| foreign_note(&image.store)));
        asked.read_only = true;
    }
    if asked.read_only {
        add_scratch(&mut asked, &image.layers)?;
    }
    let config = ImageConfig::parse(&image.store.config(&image.record)?)?;
    let converted = convert(&config, &asked, &image.layers)?;
    Ok(Described {
        image,
        asked,
        converted,
        notes,
    })
}

/// The config of a container that is not made, its files, and what there is to say of them.
pub(super) fn look(
    global: &Global,
    options: &ImageRun,
    words: (&str, &[String], bool),
    facts: &HostFacts,
) -> Result<(Config, Merged, Vec<Note>)> {
    let described = describe(global, options, words, facts)?;
    let text = serde_json::to_vec(&described.converted.config)
        .map_err(|e| Error::new("cannot write the config").because(e))?;
    let notes = [described.notes, described.converted.notes].concat();
    let config = Config::new(PathBuf::from("/"), text);
    Ok((config, described.image.layers, notes))
}

/// A place for what programs write in passing, where the root filesystem is read-only, as podman gives one.
fn add_scratch(asked: &mut Asked, image: &Merged) -> Result<()> {
    for (place, mode) in [
        ("/run", "mode=755"),
        ("/tmp", "mode=1777"),
        ("/var/tmp", "mode=1777"),
    ] {
        let taken = asked.mounts.iter().any(|mount| mount.destination == place);
        let found = image.lookup(Path::new(place), true)?;
        if !taken && found.is_some_and(|found| found.is_directory()) {
            asked.mounts.push(AskedMount {
                source: None,
                destination: place.to_owned(),
                options: ["nosuid", "nodev", mode, "tmpcopyup"]
                    .map(str::to_owned)
                    .into(),
            });
        }
    }
    Ok(())
}

/// The image `name`, of the caller's own store or one that she may read.
pub(super) fn find(global: &Global, name: &str) -> Result<Image> {
    let (store, record) = image::find(global, name)?;
    let layers = Merged::new(store.open_layers(&record)?);
    Ok(Image {
        store,
        record,
        layers,
    })
}

fn foreign_note(store: &ImageStore) -> Note {
    Note::new(
        "/root/readonly",
        format!(
            "the root filesystem is read-only: the image store {:?} is another user's, and of her files nothing can be changed",
            store.path()
        ),
        "write to /tmp, or to what -v brings; --copy makes a copy of your own; --read-only, and this is not said",
    )
}
