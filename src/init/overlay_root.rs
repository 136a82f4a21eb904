//! A root filesystem that is an overlay of directories: those of an image, and one for what the container changes.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::beneath::RootDir;
use super::filesystem::{self, Given};
use crate::error::{Doing, Error, Result};
use crate::plan::{Attributes, Layers, RootLayers, RootUpper};
use crate::sys;

/// The directories within a tmpfs.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// Opens the directories of `layers`, before this process takes the container's ids.
pub(super) fn open(layers: &RootLayers) -> Result<Vec<OwnedFd>> {
    let upper = match &layers.upper {
        RootUpper::Directory { upper, work, .. } => vec![upper, work],
        RootUpper::None | RootUpper::Tmpfs { .. } => Vec::new(),
    };
    layers
        .lower
        .iter()
        .chain(upper)
        .map(open_directory)
        .collect()
}

fn open_directory(path: &PathBuf) -> Result<OwnedFd> {
    sys::mount::open_path(path)
        .doing(|| format!("cannot open the layer {path:?}"))
        .map_err(|e| e.hint("the store of images was changed: `lodger image verify` tells"))
}

/// Mounts the overlay at `place`, which is what `path` is.
pub(super) fn attach(
    layers: &RootLayers,
    opened: &[OwnedFd],
    place: &OwnedFd,
    path: &Path,
) -> Result<RootDir> {
    let what = || format!("cannot mount the root filesystem {path:?}");
    let mut paths = Layers {
        lower: layers.lower.clone(),
        ..Layers::default()
    };
    let plain = Attributes::default();
    let mut flags = vec!["userxattr".to_owned()];
    if matches!(
        layers.upper,
        RootUpper::Directory { passing: true, .. } | RootUpper::Tmpfs { .. }
    ) {
        flags.push("volatile".to_owned());
    }
    let given = Given {
        source: "overlay",
        flags: &flags,
        options: &[],
        attributes: [&plain; 2],
    };
    let tree = match &layers.upper {
        RootUpper::None => filesystem::overlay(&paths, opened, &given),
        RootUpper::Directory { upper, work, .. } => {
            paths.upper = Some((upper.clone(), work.clone()));
            filesystem::overlay(&paths, opened, &given)
        }
        RootUpper::Tmpfs { size, mode } => {
            let [upper, work] = on_tmpfs(size.as_deref(), *mode, place, path)?;
            paths.upper = Some((path.join(UPPER), path.join(WORK)));
            let lower = opened.iter().map(|fd| fd.try_clone());
            let lower = lower.collect::<std::io::Result<Vec<_>>>();
            let mut all = lower.map_err(|e| Error::new(what()).because(e))?;
            all.extend([upper, work]);
            filesystem::overlay(&paths, &all, &given)
        }
    };
    let tree = tree.map_err(|e| e.within(what()))?;
    sys::mount::attach(&tree, place, path).doing(what)?;
    Ok(RootDir::new(tree))
}

/// A tmpfs at `place`, beneath the overlay that comes there, with an upper and a work directory.
fn on_tmpfs(size: Option<&str>, mode: u32, place: &OwnedFd, path: &Path) -> Result<[OwnedFd; 2]> {
    let what = || "cannot make a tmpfs for what the container changes".to_owned();
    let size = size.map(|size| ("size".to_owned(), Some(size.to_owned())));
    let options: Vec<_> = size
        .into_iter()
        .chain([("mode".to_owned(), Some("700".to_owned()))])
        .collect();
    let plain = Attributes::default();
    let given = Given {
        source: "tmpfs",
        flags: &[],
        options: &options,
        attributes: [&plain; 2],
    };
    let tree = filesystem::new("tmpfs", &given).map_err(|e| e.within(what()))?;
    sys::mount::attach(&tree, place, path).doing(what)?;
    let make = |name: &str, mode: u32| {
        let error = |call, e| sys::Error::new(call, format!("{name:?}, {mode:o}"), e);
        let bits = Mode::from_raw_mode(mode);
        rustix::fs::mkdirat(&tree, name, bits).map_err(|e| error("mkdirat", e))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&tree, name, flags, Mode::empty())
            .map_err(|e| error("openat", e))?;
        rustix::fs::fchmod(&fd, bits).map_err(|e| error("fchmod", e))?;
        Ok::<_, sys::Error>(fd)
    };
    let upper = make(UPPER, mode).doing(what)?;
    let work = make(WORK, 0o700).doing(what)?;
    Ok([upper, work])
}
