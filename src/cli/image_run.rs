//! `run --image` and `create --image`: an image instead of a bundle.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use super::create::Common;
use super::image_described::{Described, Image, describe};
use super::image_options::Upper;
use super::spec::Config;
use super::{Global, image, remnants};
use crate::error::{Doing, Error, Result};
use crate::host::{HostFacts, IdWish};
use crate::image::config::{Asked, Converted};
use crate::image::containers::{ContainerNote, KEPT, PASSING, Writable};
use crate::image::{base, flatten, obstacle, remove};
use crate::plan::{Note, Plan, RootLayers, RootUpper};
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

/// What a container that is restored as `id` has of its image, if the bundle at `path` is the directory of one.
pub(super) fn again(global: &Global, (path, id): (&Path, &str)) -> Result<Option<FromImage>> {
    let what = || format!("cannot find the image of the container of {path:?}");
    let path = std::fs::canonicalize(path).map_err(|e| Error::new(what()).because(e))?;
    let kind = path.parent().and_then(Path::file_name);
    let Some(keep) = kind.and_then(|kind| match kind.to_str()? {
        PASSING => Some(false),
        KEPT => Some(true),
        _ => None,
    }) else {
        return Ok(None);
    };
    let state = Store::open_or_make(global.root.as_deref())?;
    let state = std::path::absolute(state.path()).map_err(|e| Error::new(what()).because(e))?;
    let Some((writable, note)) = Writable::reopen(&path, (id, &state))? else {
        return Ok(None);
    };
    let store = path.ancestors().nth(2).unwrap_or(&path).to_owned();
    let mut layers = None;
    if !writable.has("rootfs") {
        let topmost_first = note.layers.iter().rev();
        let mut lower: Vec<PathBuf> = topmost_first
            .map(|name| store.join("layers").join(name).join("root"))
            .collect();
        lower.extend(writable.has("base").then(|| path.join("base")));
        let upper = match writable.has("upper") {
            true => RootUpper::Directory {
                upper: path.join("upper"),
                work: new_work(global, &writable)?,
                passing: !keep,
            },
            false => RootUpper::None,
        };
        layers = Some(RootLayers { lower, upper });
    }
    let config = path.join("config.json");
    let text = crate::bundle::read(&config).map_err(|error| super::spec::explain(&error))?;
    Ok(Some(FromImage {
        layers,
        notes: Vec::new(),
        used: ImageUse {
            name: note.image,
            manifest: note.manifest,
            directory: path,
            keep,
        },
        writable,
        store: sys::path::open_directory(rustix::fs::CWD, &store).doing(what)?,
        text,
    }))
}

/// Makes the work directory anew: an overlay that was not to be written to the disk at once (`volatile`) marks it, and is not
/// mounted with it again.
fn new_work(global: &Global, writable: &Writable) -> Result<PathBuf> {
    let what = || format!("cannot make {:?} anew", writable.path().join("work"));
    let remove = || remove::tree(writable.directory(), OsStr::new("work"));
    match remove() {
        Err(error) if error.is(nix::libc::EACCES) || error.is(nix::libc::EPERM) => {
            let state = Store::open_or_make(global.root.as_deref())?;
            let work = || remove().doing(what);
            remnants::in_outer(&state, global.id_wish(), what, work)?;
        }
        removed => removed.doing(what)?,
    }
    writable.make_directory("work")
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
        error.after(state.and_then(|state| {
            remnants::remove_writable(&state, global.id_wish(), self.writable.path())
        }))
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
