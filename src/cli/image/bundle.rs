//! `image bundle`.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use super::{enter, find, is_foreign, missing, notes_of_copy, print, require_owners};
use crate::cli::Global;
use crate::cli::size::human;
use crate::error::{Doing, Error, Result};
use crate::host::HostFacts;
use crate::image::config::{Asked, Converted, ImageConfig, convert};
use crate::image::flatten::{self, Copied};
use crate::image::merged::Merged;
use crate::image::store::{ImageRecord, ImageStore};
use crate::image::{Owners, base};
use crate::log::Log;
use crate::plan::IdMapping;
use crate::sys;

mod place;

use place::{CONFIG, Making, Place, ROOTFS};

/// Write an image as a bundle: a directory with config.json and rootfs
///
/// The root filesystem is a copy; where the filesystem can share blocks, it needs no room of its own. config.json says what the image
/// does, with the id maps that its files' owners need, so that other runtimes run it too. It is yours to change. Until the bundle is
/// complete it is beside DIR, as `.DIR.part`; what one that was killed leaves there is removed by the next.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger image bundle debian debian-bundle
  lodger run --bundle debian-bundle t1
  lodger image bundle debian date-bundle date -u

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
    /// What is in place of the image's arguments: a program, if the image has no entry point
    ///
    /// Everything after DIR belongs to the program, whatever it begins with.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
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
    let facts = global.facts()?;
    if !is_foreign(&store)? {
        require_owners(&image, &facts).map_err(within)?;
    }
    let owners = owners(&store, &image, &facts)?;
    let converted = converted(&store, &image, &args.args, &owners).map_err(within)?;
    let place = Place::find(&args.directory).map_err(within)?;
    enter(global, &facts).map_err(within)?;
    let making = place.begin().map_err(within)?;
    let filled = fill(&making, &store, &image, (&owners, &converted)).and_then(|copied| {
        let notes = [converted.notes.clone(), notes_of_copy(&copied)].concat();
        global.allow(&notes)?;
        making.finish()?;
        Ok((copied, notes))
    });
    match filled {
        Ok((copied, notes)) => {
            log.notes(&notes);
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
        Err(error) => Err(within(making.discard(error))),
    }
}

/// Whose the files of the copy are: as in the store, if that is the caller's.
fn owners(store: &ImageStore, image: &ImageRecord, facts: &HostFacts) -> Result<Owners> {
    Ok(if is_foreign(store)? {
        Owners::of_caller(facts, true)
    } else {
        image.owners.clone()
    })
}

/// The config of a container that is nothing but the image.
fn converted(
    store: &ImageStore,
    image: &ImageRecord,
    args: &[String],
    owners: &Owners,
) -> Result<Converted> {
    let config = ImageConfig::parse(&store.config(image)?)?;
    let asked = Asked {
        image: image.name.clone(),
        id: image.name.clone(),
        args: args.to_vec(),
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
    making: &Making,
    store: &ImageStore,
    image: &ImageRecord,
    (owners, converted): (&Owners, &Converted),
) -> Result<Copied> {
    let what = || format!("cannot write to {:?}", making.path());
    let directory = making.directory();
    sys::cred::swap_umask(0o022);
    rustix::fs::mkdirat(directory, ROOTFS, Mode::RWXU)
        .map_err(|e| sys::Error::new("mkdirat", format!("{ROOTFS:?}, 0700"), e))
        .doing(what)?;
    let rootfs = sys::path::open_directory(directory, ROOTFS).doing(what)?;
    let layers = store.open_layers(image)?;
    let copied = match owners {
        Owners::Squashed { uid, gid } => flatten::layers_squashed(&layers, &rootfs, *uid, *gid)?,
        Owners::Mapped { .. } => flatten::layers(&layers, &rootfs)?,
    };
    let volumes = base::volumes(&converted.directories);
    base::fill(&rootfs, &Merged::new(layers), &volumes)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    rustix::fs::openat(directory, CONFIG, flags, mode)
        .map_err(|e| sys::Error::new("openat", format!("{CONFIG:?}, O_CREAT|O_EXCL"), e))
        .and_then(|file| sys::path::write_all(file, converted.text().as_bytes(), Path::new(CONFIG)))
        .doing(what)?;
    Ok(copied)
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
}
