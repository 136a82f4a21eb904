//! `run --image` and `create --image`: an image instead of a bundle.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use super::create::Common;
use super::image_options::Upper;
use super::spec::Config;
use super::{Global, remnants};
use crate::error::{Doing, Error, Result};
use crate::host::HostFacts;
use crate::image::config::{Asked, AskedMount, Converted, ImageConfig, convert};
use crate::image::containers::{ContainerNote, Writable};
use crate::image::merged::Merged;
use crate::image::store::{ImageRecord, ImageStore};
use crate::image::{base, flatten};
use crate::plan::{self, Note, Outer, Plan, RootLayers, RootUpper};
use crate::state::{ImageUse, Store};
use crate::sys;

/// What a container gets from its image.
#[derive(Debug)]
pub(super) struct FromImage {
    /// Its root filesystem, if that is an overlay.
    layers: Option<RootLayers>,
    notes: Vec<Note>,
    used: ImageUse,
    writable: Writable,
    /// Its config.json.
    text: Vec<u8>,
}

/// An image, and the store that has it.
struct Image {
    store: ImageStore,
    record: ImageRecord,
    layers: Merged,
}

/// Makes what the container gets from its image; `None`: it is made from a bundle.
pub(super) fn prepare(
    global: &Global,
    common: &Common,
    facts: &HostFacts,
) -> Result<Option<FromImage>> {
    let Some(name) = common.image.image() else {
        return Ok(None);
    };
    let id = common.id();
    let what = || format!("cannot make container {id:?} from image {name:?}");
    let state = Store::open_or_make(global.root.as_deref())?;
    let place = global
        .store()
        .map_or_else(ImageStore::default_path, |path| Ok(path.to_owned()))?;
    let own = ImageStore::open_or_make(&place)?;
    // No gc comes between what is found here and the note that tells it of this container.
    let lock = own.lock_shared()?;
    let image = find(global, &own, name).map_err(|e| e.within(what()))?;
    let setgroups = !matches!(plan::idmap::outer(facts), Outer::SingleId { .. });
    let mut asked = common
        .image
        .asked(id, common.args(), common.tty, setgroups)?;
    let upper = common.image.upper();
    let mut notes = Vec::new();
    if image.is_foreign()? && !upper.copy {
        notes.extend((!asked.read_only).then(|| foreign_note(&image.store)));
        asked.read_only = true;
    }
    if asked.read_only {
        add_scratch(&mut asked, &image.layers)?;
    }
    let config = ImageConfig::parse(&image.store.config(&image.record)?);
    let config = config.map_err(|e| e.within(what()))?;
    let converted = convert(&config, &asked, &image.layers).map_err(|e| e.within(what()))?;
    let note = ContainerNote {
        id: id.to_owned(),
        state: state.path().to_owned(),
        image: name.to_owned(),
        manifest: image.record.manifest.to_string(),
        layers: image
            .record
            .layers
            .iter()
            .map(|id| id.name().to_owned())
            .collect(),
    };
    let writable = Writable::make(own.directory(), own.path(), &note, upper.keep_changes)?;
    drop(lock);
    let used = ImageUse {
        name: note.image,
        manifest: note.manifest,
        directory: writable.path().to_owned(),
        keep: upper.keep_changes,
    };
    let mut this = FromImage {
        layers: None,
        notes,
        used,
        writable,
        text: Vec::new(),
    };
    match this.lay_out(&image, (&asked, upper), converted, &state) {
        Ok(()) => Ok(Some(this)),
        Err(error) => Err(this.discard(global, error.within(what()))),
    }
}

impl FromImage {
    /// The config of the container.
    pub(super) fn config(&self) -> Config {
        Config::new(self.used.directory.clone(), self.text.clone())
    }

    /// What is remembered of the image.
    pub(super) fn used(&self) -> &ImageUse {
        &self.used
    }

    /// Adds the root filesystem, and what there is to say about it, to the plan.
    pub(super) fn complete(&self, plan: &mut Plan) {
        plan.root.layers.clone_from(&self.layers);
        plan.notes.extend_from_slice(&self.notes);
    }

    /// Removes what was made for a container that could not be; a second failure is part of the one error.
    pub(super) fn discard(self, global: &Global, error: Error) -> Error {
        if self.writable.is_reused() {
            return error;
        }
        let state = Store::open_or_make(global.root.as_deref());
        match state.and_then(|state| remnants::remove_writable(&state, self.writable.path())) {
            Ok(()) => error,
            Err(left) => error.hint(left.message()),
        }
    }

    /// Makes the bundle, and the directories of the root filesystem.
    fn lay_out(
        &mut self,
        image: &Image,
        (asked, upper): (&Asked, &Upper),
        converted: Converted,
        state: &Store,
    ) -> Result<()> {
        self.writable.make_directory("rootfs")?;
        self.notes.extend(converted.notes);
        if upper.copy {
            self.copy(image, state, "--copy asks for one")?;
        } else {
            let upper = self.upper(image, asked, upper)?;
            let mut lower = image.lower();
            if upper == RootUpper::None {
                lower.push(self.base(image, &converted.config)?);
            }
            self.layers = Some(RootLayers { lower, upper });
        }
        self.text = serde_json::to_vec(&converted.config)
            .map_err(|e| Error::new("cannot write the config").because(e))?;
        self.writable.write("config.json", &self.text)
    }

    /// Makes the root filesystem a copy of the image.
    fn copy(&mut self, image: &Image, state: &Store, why: &str) -> Result<()> {
        let what = || format!("cannot copy image {:?}", image.record.name);
        let rootfs = self.open("rootfs")?;
        let layers = image.store.open_layers(&image.record)?;
        let work = || flatten::layers(&layers, &rootfs).map(drop);
        remnants::in_outer(state, what, work)?;
        self.notes.push(Note::new(
            "/root",
            format!("the root filesystem is a copy of the image: {why}"),
            "it is removed with the container; an overlay needs no copy",
        ));
        Ok(())
    }

    /// Where changes go.
    fn upper(&self, image: &Image, asked: &Asked, options: &Upper) -> Result<RootUpper> {
        let mode = image.root_mode()?;
        if let Some(size) = options.tmpfs_upper {
            let size = (size > 0).then(|| size.to_string());
            return Ok(RootUpper::Tmpfs { size, mode });
        }
        if asked.read_only {
            return Ok(RootUpper::None);
        }
        let upper = self.writable.make_directory("upper")?;
        if !self.writable.is_reused() {
            self.set_mode("upper", mode)?;
        }
        Ok(RootUpper::Directory {
            upper,
            work: self.writable.make_directory("work")?,
            passing: !options.keep_changes,
        })
    }

    fn open(&self, name: &str) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.writable.directory(), name, flags, Mode::empty())
            .map_err(|e| sys::Error::new("openat", format!("{name:?}"), e))
            .doing(|| format!("cannot open {:?}", self.writable.path().join(name)))
    }

    /// The root directory of an overlay looks as the upper one does.
    fn set_mode(&self, name: &str, mode: u32) -> Result<()> {
        let what = || {
            format!(
                "cannot change the mode of {:?}",
                self.writable.path().join(name)
            )
        };
        rustix::fs::fchmod(self.open(name)?, Mode::from_raw_mode(mode))
            .map_err(|e| sys::Error::new("fchmod", format!("{mode:o}"), e))
            .doing(what)
    }

    /// The layer below all, with the mount points that the image lacks.
    fn base(&self, image: &Image, config: &Value) -> Result<PathBuf> {
        let path = self.writable.make_directory("base")?;
        base::fill(
            &self.open("base")?,
            &image.layers,
            &base::mount_points(config),
        )?;
        Ok(path)
    }
}

impl Image {
    /// The paths of the layers, topmost first.
    fn lower(&self) -> Vec<PathBuf> {
        let topmost_first = self.record.layers.iter().rev();
        topmost_first
            .map(|layer| self.store.layer_root(layer))
            .collect()
    }

    fn root_mode(&self) -> Result<u32> {
        let root = self.layers.root()?;
        Ok(root.map_or(0o755, |root| root.stat.st_mode & 0o7777))
    }

    /// Whether its files are another user's, so that nobody in the container can change them.
    fn is_foreign(&self) -> Result<bool> {
        let stat = rustix::fs::fstat(self.store.directory())
            .map_err(|e| sys::Error::new("fstat", "image store", e))
            .doing(|| format!("cannot examine the image store {:?}", self.store.path()))?;
        Ok(stat.st_uid != sys::cred::uid())
    }
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
fn find(global: &Global, own: &ImageStore, name: &str) -> Result<Image> {
    let mut places = vec![format!("{:?}", own.path())];
    let own = ImageStore::open(own.path())?;
    let others = global.readonly_stores().iter();
    let others = others.map(|path| ImageStore::open_readonly(path));
    for store in own.into_iter().map(Ok).chain(others) {
        let store = store?;
        if let Some(record) = store.image(name)? {
            let layers = Merged::new(store.open_layers(&record)?);
            return Ok(Image {
                store,
                record,
                layers,
            });
        }
        places.push(format!("{:?}", store.path()));
    }
    places.dedup();
    Err(Error::new("there is no such image")
        .because(format!("looked in {}", places.join(", ")))
        .hint(format!(
            "`lodger image list` tells what there is; `lodger image import SOURCE {name}` makes one from a file"
        )))
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
