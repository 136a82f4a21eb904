//! `image bundle`.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::{enter, find, missing, print};
use crate::cli::Global;
use crate::cli::size::human;
use crate::error::{Doing, Error, Result};
use crate::host::HostFacts;
use crate::image::config::{Asked, Converted, ImageConfig, convert};
use crate::image::flatten::{self, Copied};
use crate::image::merged::Merged;
use crate::image::store::{ImageRecord, ImageStore};
use crate::image::{Owners, remove};
use crate::log::Log;
use crate::plan::{IdMapping, Note};
use crate::sys;

/// Write an image as a bundle: a directory with config.json and rootfs
///
/// The root filesystem is a copy; where the filesystem can share blocks, it needs no room of its own. config.json says what the image
/// does, with the id maps that its files' owners need, so that other runtimes run it too. It is yours to change.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger image bundle debian debian-bundle
  lodger run --bundle debian-bundle t1

Exit status:
  0  the bundle is complete
  1  it is not: nothing of it is left")]
pub(super) struct Args {
    /// The image's name
    #[arg(value_name = "NAME")]
    name: String,
    /// The bundle's directory, which is made; one that is there must be empty
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Does what `image bundle` asks.
pub(super) fn bundle(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    let within = |e: Error| e.within(format!("cannot make a bundle of image {:?}", args.name));
    let (store, _) = find(global, &args.name)?;
    // What was found stays until it is copied.
    let _lock = (!store.is_readonly())
        .then(|| store.lock_shared())
        .transpose()?;
    let image = store
        .image(&args.name)?
        .ok_or_else(|| missing(&args.name))?;
    let facts = HostFacts::probe();
    let owners = owners(&store, &image, &facts)?;
    let converted = converted(&store, &image, &owners).map_err(within)?;
    let place = Place::make(&args.directory).map_err(within)?;
    let done =
        enter(global, &facts).and_then(|()| fill(&place, &store, &image, (&owners, &converted)));
    match done {
        Ok(copied) => {
            log.notes(&converted.notes);
            log.notes(&notes(&copied));
            let how = if copied.reflinked {
                ", shared with the store"
            } else {
                ""
            };
            print(&format!(
                "{} files, {}{how}\n",
                copied.files,
                human(copied.bytes)
            ))?;
            Ok(0)
        }
        Err(error) => Err(within(place.discard(error))),
    }
}

/// Whose the files of the copy are: as in the store, if that is the caller's.
fn owners(store: &ImageStore, image: &ImageRecord, facts: &HostFacts) -> Result<Owners> {
    let stat = rustix::fs::fstat(store.directory())
        .map_err(|e| sys::Error::new("fstat", "image store", e))
        .doing(|| format!("cannot examine the image store {:?}", store.path()))?;
    Ok(if stat.st_uid == facts.uid {
        image.owners.clone()
    } else {
        Owners::of_caller(facts, true)
    })
}

/// The config of a container that is nothing but the image.
fn converted(store: &ImageStore, image: &ImageRecord, owners: &Owners) -> Result<Converted> {
    let config = ImageConfig::parse(&store.config(image)?)?;
    let asked = Asked {
        image: image.name.clone(),
        id: image.name.clone(),
        setgroups: matches!(owners, Owners::Mapped { .. }),
        ..Asked::default()
    };
    let files = Merged::new(store.open_layers(image)?);
    let mut converted = convert(&config, &asked, &files)?;
    add_user_namespace(&mut converted.config, owners);
    Ok(converted)
}

/// The ids of the container are those that the files were given to.
fn add_user_namespace(config: &mut Value, owners: &Owners) {
    let lines = |map: &[IdMapping]| -> Value {
        let line = |line: &IdMapping| json!({"containerID": line.container_id, "hostID": line.host_id, "size": line.size});
        map.iter().map(line).collect()
    };
    let one = |host_id| {
        [IdMapping {
            container_id: 0,
            host_id,
            size: 1,
        }]
    };
    let (uids, gids) = match owners {
        Owners::Mapped { uid_map, gid_map } => (lines(uid_map), lines(gid_map)),
        Owners::Squashed { uid, gid } => (lines(&one(*uid)), lines(&one(*gid))),
    };
    let linux = &mut config["linux"];
    linux["uidMappings"] = uids;
    linux["gidMappings"] = gids;
    if let Some(namespaces) = linux["namespaces"].as_array_mut()
        && !namespaces
            .iter()
            .any(|namespace| namespace["type"] == "user")
    {
        namespaces.push(json!({"type": "user"}));
    }
}

/// Copies the root filesystem and writes config.json.
fn fill(
    place: &Place,
    store: &ImageStore,
    image: &ImageRecord,
    (owners, converted): (&Owners, &Converted),
) -> Result<Copied> {
    let what = || format!("cannot write to {:?}", place.path);
    sys::cred::swap_umask(0o022);
    rustix::fs::mkdirat(&place.directory, "rootfs", Mode::RWXU)
        .map_err(|e| sys::Error::new("mkdirat", "\"rootfs\", 0700", e))
        .doing(what)?;
    let rootfs = open(&place.directory, Path::new("rootfs")).doing(what)?;
    let layers = store.open_layers(image)?;
    let copied = match owners {
        Owners::Squashed { uid, gid } => flatten::layers_squashed(&layers, &rootfs, *uid, *gid)?,
        Owners::Mapped { .. } => flatten::layers(&layers, &rootfs)?,
    };
    for directory in &converted.directories {
        make_directory(&rootfs, Path::new(directory))
            .doing(|| format!("cannot make the directory {directory:?} in the bundle"))?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    rustix::fs::openat(&place.directory, "config.json", flags, mode)
        .map_err(|e| sys::Error::new("openat", "\"config.json\", O_CREAT|O_EXCL", e))
        .and_then(|file| {
            sys::path::write_all(file, converted.text().as_bytes(), Path::new("config.json"))
        })
        .doing(what)?;
    Ok(copied)
}

/// Makes `path`, absolute, with all above it, where it is not there; links on the way lead nowhere but into `root`.
fn make_directory(root: &OwnedFd, path: &Path) -> sys::Result<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut above = sys::path::open_beneath(root, Path::new("/"), flags, resolve)?;
    for part in path
        .ancestors()
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .skip(1)
    {
        let Some(name) = part.file_name() else {
            continue;
        };
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(sys::Error::new("mkdirat", format!("{part:?}, 0755"), e)),
        }
        above = sys::path::open_beneath(root, part, flags, resolve)?;
    }
    Ok(())
}

fn open(directory: &OwnedFd, name: &Path) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{name:?}, O_DIRECTORY"), e))
}

fn notes(copied: &Copied) -> Vec<Note> {
    let lost = &copied.without_xattrs;
    let lost = (!lost.is_empty()).then(|| {
        Note::new(
            "/root",
            format!(
                "extended attributes could not be kept, first of {:?}",
                lost.first.first()
            ),
            "make the bundle on a filesystem that has them",
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

/// The directory of a bundle in the making.
struct Place {
    path: PathBuf,
    /// The directory that it is in, and its name there, if it was made.
    made: Option<(OwnedFd, OsString)>,
    directory: OwnedFd,
}

impl Place {
    fn make(path: &Path) -> Result<Self> {
        let what = || format!("cannot make the directory {path:?}");
        let name = path
            .file_name()
            .ok_or_else(|| Error::new(what()).because("its last part is no name"))?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty())
            .map_err(|e| sys::Error::new("openat", format!("{parent:?}, O_DIRECTORY"), e))
            .doing(what)?;
        let made = match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => {
                return Err(sys::Error::new("mkdirat", format!("{name:?}, 0700"), e)).doing(what);
            }
        };
        let directory = open(&parent, Path::new(name)).doing(what)?;
        let error = |e| sys::Error::new("getdents64", format!("{name:?}"), e);
        let mut names = Dir::read_from(&directory).map_err(error).doing(what)?;
        if !made
            && names
                .any(|entry| entry.is_ok_and(|e| !matches!(e.file_name().to_bytes(), b"." | b"..")))
        {
            return Err(Error::new(format!("{path:?} is not empty"))
                .hint("name a directory that is not there yet"));
        }
        Ok(Self {
            path: path.to_owned(),
            made: made.then(|| (parent, name.to_owned())),
            directory,
        })
    }

    /// Removes what was made; a second failure is part of the one error.
    fn discard(self, error: Error) -> Error {
        let removed = match &self.made {
            Some((parent, name)) => remove::tree(parent, name),
            None => ["rootfs", "config.json"]
                .into_iter()
                .try_for_each(|name| remove::tree(&self.directory, name.as_ref())),
        };
        match removed {
            Ok(()) => error,
            Err(left) => error.hint(format!(
                "remove {:?}, of which something is left: {left}",
                self.path
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_the_config_are_those_of_the_files() {
        let mut config = json!({"linux": {"namespaces": [{"type": "pid"}]}});
        add_user_namespace(&mut config, &Owners::Squashed { uid: 7, gid: 8 });
        assert_eq!(
            config["linux"],
            json!({
                "namespaces": [{"type": "pid"}, {"type": "user"}],
                "uidMappings": [{"containerID": 0, "hostID": 7, "size": 1}],
                "gidMappings": [{"containerID": 0, "hostID": 8, "size": 1}],
            })
        );
    }

    #[test]
    fn only_an_empty_directory_is_taken_and_a_failure_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let count = |path: &Path| path.read_dir().unwrap().count();
        let new = scratch.path().join("new");
        let place = Place::make(&new).unwrap();
        rustix::fs::mkdirat(&place.directory, "rootfs", Mode::RWXU).unwrap();
        let error = Error::new("no");
        assert_eq!(place.discard(error.clone()), error);
        assert_eq!(count(scratch.path()), 0);

        rustix::fs::mkdirat(CWD, &new, Mode::RWXU).unwrap();
        let place = Place::make(&new).unwrap();
        rustix::fs::mkdirat(&place.directory, "rootfs", Mode::RWXU).unwrap();
        place.discard(error);
        assert_eq!((count(scratch.path()), count(&new)), (1, 0));

        rustix::fs::mkdirat(CWD, new.join("other"), Mode::RWXU).unwrap();
        let error = Place::make(&new).map(drop).unwrap_err();
        assert!(error.message().contains("is not empty"), "{error}");
        assert_eq!(count(&new), 1);
        for path in ["/", "..", "/nonexistent/a"] {
            assert!(Place::make(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn directories_are_made_within_the_root() {
        let scratch = tempfile::tempdir().unwrap();
        let root: OwnedFd = std::fs::File::open(scratch.path()).unwrap().into();
        rustix::fs::symlinkat("/real", &root, "link").unwrap();
        rustix::fs::mkdirat(&root, "real", Mode::RWXU).unwrap();
        make_directory(&root, Path::new("/link/a/b")).unwrap();
        make_directory(&root, Path::new("/link/a")).unwrap();
        assert!(scratch.path().join("real/a/b").is_dir());
    }
}
