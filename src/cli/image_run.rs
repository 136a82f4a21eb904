//! `run --image` and `create --image`: an image instead of a bundle.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use super::create::Common;
use super::image_options::{ImageRun, Upper};
use super::spec::Config;
use super::{Global, image, remnants};
use crate::error::{Doing, Error, Result};
use crate::host::{HostFacts, IdWish};
use crate::image::config::{Asked, AskedMount, Converted, ImageConfig, convert};
use crate::image::containers::{ContainerNote, Writable};
use crate::image::merged::Merged;
use crate::image::store::{ImageRecord, ImageStore};
use crate::image::{base, flatten, obstacle, remove};
use crate::plan::{self, Note, Plan, RootLayers, RootUpper};
use crate::state::{ImageUse, Store};
use crate::sys;

/// Marks a copy of the image that is complete; in it is what there is to say of it.
const COPIED: &str = "copied";
/// The most that is read of it, in bytes.
const NOTES_LIMIT: usize = 64 << 10;

/// What a container gets from its image.
#[derive(Debug)]
pub(super) struct FromImage {
    /// Its root filesystem, if that is an overlay.
    layers: Option<RootLayers>,
    notes: Vec<Note>,
    used: ImageUse,
    writable: Writable,
    /// The store that has it.
    store: OwnedFd,
    /// Its config.json.
    text: Vec<u8>,
}

/// An image, and the store that has it.
struct Image {
    store: ImageStore,
    record: ImageRecord,
    layers: Merged,
}

/// Makes what the container gets from its image; `None`: it is made from a bundle. `passing`: it is gone when this process ends,
/// and nobody gets to see its bundle.
pub(super) fn prepare(
    global: &Global,
    common: &Common,
    facts: &HostFacts,
    passing: bool,
) -> Result<Option<FromImage>> {
    let Some(name) = common.image.image() else {
        return Ok(None);
    };
    let id = common.id();
    let what = || format!("cannot make container {id:?} from image {name:?}");
    let state = Store::open_or_make(global.root.as_deref())?;
    let (own, note) = image::own_store(global)?;
    // No gc comes between what is found here and the note that tells it of this container.
    let lock = own.lock_shared()?;
    let Described {
        image,
        asked,
        converted,
        notes,
    } = describe(
        global,
        &common.image,
        (id, common.args(), common.tty),
        facts,
    )
    .map_err(|e| e.within(what()))?;
    let notes = note.into_iter().chain(notes).collect();
    let upper = common.image.upper();
    let note = ContainerNote {
        id: id.to_owned(),
        state: std::path::absolute(state.path()).map_err(|e| Error::new(what()).because(e))?,
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
        store: own.into_directory(),
        text: Vec::new(),
    };
    match this.lay_out(
        &image,
        (&asked, upper),
        &converted,
        (&state, facts.id_wish, passing),
    ) {
        Ok(()) => Ok(Some(this)),
        Err(error) => Err(this.discard(global, error.within(what()))),
    }
}

/// Why a root filesystem is a copy.
enum CopyReason {
    Asked,
    Kernel(String),
    Store(String),
}

impl CopyReason {
    fn note(&self) -> Note {
        let (why, code) = match self {
            Self::Asked => ("--copy asks for one".to_owned(), None),
            Self::Kernel(why) => (unsaid(why), Some("LDG-OVERLAY-KERNEL")),
            Self::Store(why) => (unsaid(why), Some("LDG-OVERLAY-STORE")),
        };
        let note = Note::new(
            "/root",
            format!("the root filesystem is a copy of the image: {why}"),
            "--read-only and --tmpfs-upper need no copy, nor does --store DIR on a local filesystem such as ext4 or XFS",
        );
        match code {
            Some(code) => note.code(code),
            None => note,
        }
    }
}

fn unsaid(why: &str) -> String {
    format!("no overlay can be had: {why}")
}

/// An image, and what becomes of it for a container.
struct Described {
    image: Image,
    asked: Asked,
    converted: Converted,
    notes: Vec<Note>,
}

/// What a container of an image would be; nothing is made. `words`: its id, arguments, and whether it gets a terminal.
fn describe(
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
        if self.layers.is_some() {
            // The container's own directory is the place, in its own mount namespace: no other is made for it.
            plan.root.path.clone_from(&self.used.directory);
            plan.root.layers.clone_from(&self.layers);
        }
        plan.notes.extend_from_slice(&self.notes);
    }

    /// Removes what was made for a container that could not be; a second failure is part of the one error.
    pub(super) fn discard(self, global: &Global, error: Error) -> Error {
        if self.writable.is_reused() {
            return error;
        }
        let state = Store::open_or_make(global.root.as_deref());
        match state.and_then(|state| {
            remnants::remove_writable(&state, global.id_wish(), self.writable.path())
        }) {
            Ok(()) => error,
            Err(left) => error.hint(left.message()),
        }
    }

    /// Makes the bundle, and the directories of the root filesystem.
    fn lay_out(
        &mut self,
        image: &Image,
        (asked, upper): (&Asked, &Upper),
        converted: &Converted,
        (state, wish, passing): (&Store, IdWish, bool),
    ) -> Result<()> {
        self.notes.extend_from_slice(&converted.notes);
        if let Some(why) = self.copy_reason(asked, upper)? {
            self.copy(image, &converted.directories, (state, wish), why)?;
        } else {
            let upper = self.upper(image, asked, upper)?;
            let mut lower = image.lower();
            lower.extend(self.base(image, converted, &upper)?);
            self.layers = Some(RootLayers { lower, upper });
        }
        self.text = serde_json::to_vec(&converted.config)
            .map_err(|e| Error::new("cannot write the config").because(e))?;
        if !passing {
            self.writable.write("config.json", &self.text)?;
        }
        Ok(())
    }

    /// Why the root filesystem has to be a copy; `None`: it can be an overlay.
    fn copy_reason(&self, asked: &Asked, options: &Upper) -> Result<Option<CopyReason>> {
        if options.copy {
            return Ok(Some(CopyReason::Asked));
        }
        if let Some(why) = obstacle::of_kernel() {
            return Ok(Some(CopyReason::Kernel(why)));
        }
        if asked.read_only || options.tmpfs_upper.is_some() {
            return Ok(None);
        }
        Ok(obstacle::of_upper(&self.store)?.map(CopyReason::Store))
    }

    /// Makes the root filesystem a copy of the image.
    fn copy(
        &mut self,
        image: &Image,
        directories: &[String],
        (state, wish): (&Store, IdWish),
        why: CopyReason,
    ) -> Result<()> {
        let what = || format!("cannot copy image {:?}", image.record.name);
        if self.writable.has("upper") {
            return Err(Error::new(what())
                .because("the changes that are kept under this id belong to an overlay")
                .hint("leave out --copy, or take another id"));
        }
        if self.writable.has(COPIED) {
            return Ok(());
        }
        let layers = image.store.open_layers(&image.record)?;
        // Nobody can give away what she has to ids that are another user's.
        let squashed = image::is_foreign(&image.store)?;
        let work = || {
            // Half a copy may lie there.
            remove::tree(self.writable.directory(), OsStr::new("rootfs")).doing(what)?;
            self.writable.make_directory("rootfs")?;
            let rootfs = self.open("rootfs")?;
            let copied = if squashed {
                flatten::layers_squashed(&layers, &rootfs, sys::cred::uid(), sys::cred::gid())?
            } else {
                flatten::layers(&layers, &rootfs)?
            };
            base::fill(&rootfs, &image.layers, &base::volumes(directories))?;
            let notes = serde_json::to_vec(&image::notes_of_copy(&copied))
                .map_err(|e| Error::new(what()).because(e))?;
            self.writable.write(COPIED, &notes)
        };
        remnants::in_outer(state, wish, what, work)?;
        let notes = Path::new(COPIED);
        let notes = sys::path::read_regular_at(self.writable.directory(), notes, NOTES_LIMIT);
        let notes: Vec<Note> = serde_json::from_slice(&notes.doing(what)?)
            .map_err(|e| Error::new(what()).because(e))?;
        self.notes.extend(notes);
        self.notes.push(why.note());
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
        if self.writable.has(COPIED) {
            return Err(
                Error::new("the changes that are kept under this id belong to a copy")
                    .hint("give --copy, or take another id"),
            );
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
        sys::path::open_directory(self.writable.directory(), name)
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

    /// The layer below all, with what the image lacks; none where it lacks nothing. Without an upper directory an overlay wants it
    /// all the same.
    fn base(
        &self,
        image: &Image,
        converted: &Converted,
        upper: &RootUpper,
    ) -> Result<Option<PathBuf>> {
        let readonly = *upper == RootUpper::None;
        let mut points = base::volumes(&converted.directories);
        if readonly {
            points.extend(base::mount_points(&converted.config));
        }
        if points.is_empty() {
            return Ok(None);
        }
        let path = self.writable.make_directory("base")?;
        let any = base::fill(&self.open("base")?, &image.layers, &points)?;
        Ok((any || readonly).then_some(path))
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
fn find(global: &Global, name: &str) -> Result<Image> {
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
