//! A root filesystem that is an overlay of directories: those of an image, and one for what the container changes.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::beneath::RootDir;
use super::filesystem::{self, Given};
use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::plan::{Attributes, Layers, RootLayers, RootUpper};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

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
    open_in_store(path)
        .doing(|| format!("cannot open the layer {path:?}"))
        .map_err(|e| {
            e.hint("the store of images was changed: `lodger image verify` tells")
                .step(Step::Store)
        })
}

/// Opens `STORE/layers/NAME/root`, or what a container has in `STORE/containers/NAME`. No link of the store is followed: it may be
/// another user's, who is to give files of his own to containers, and not whatever the caller can reach.
fn open_in_store(path: &Path) -> sys::Result<OwnedFd> {
    let Some(store) = path.ancestors().nth(3) else {
        return sys::mount::open_path(path);
    };
    let inside = path.strip_prefix(store).unwrap_or(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let resolve = match is_on(Defence::StateDirectory) {
        true => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        false => ResolveFlags::empty(),
    };
    sys::path::open_beneath(sys::mount::open_path(store)?, inside, flags, resolve)
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
    let attached = sys::mount::attach(&tree, place, path).doing(what);
    attached.map_err(|e| e.step(Step::Mount))?;
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
    let attached = sys::mount::attach(&tree, place, path).doing(what);
    attached.map_err(|e| e.step(Step::Mount))?;
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a store to open is made")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_of_a_store_is_a_layer() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("real/layers/a/root")).unwrap();
        fs::create_dir_all(at("real/layers/b")).unwrap();
        fs::create_dir_all(at("outside/root")).unwrap();
        symlink(at("outside/root"), at("real/layers/b/root")).unwrap();
        symlink(at("outside"), at("real/layers/c")).unwrap();
        symlink("real", at("store")).unwrap();
        let open = |name: &str| open_in_store(&at(name)).map(drop);
        // What the store itself is called is the caller's affair.
        assert!(open("real/layers/a/root").is_ok() && open("store/layers/a/root").is_ok());
        for name in ["b", "c"] {
            let error = open(&format!("store/layers/{name}/root")).unwrap_err();
            assert!(error.is(libc::ELOOP), "{name}: {error}");
        }
    }
}
