//! The lowest layer of a root filesystem: the directories of volumes, and where it is read-only the mount points, that the image lacks.
//!
//! An overlay without an upper directory shows what is in its layers and nothing else, and needs two of them. The image's own
//! are never written to: others share them.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde_json::Value;

use super::merged::{Found, Merged, duplicate, open_at};
use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// A place that must be there before something is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Absolute in the container.
    pub path: PathBuf,
    /// Whether it is a directory, else an empty file.
    pub directory: bool,
}

/// The mount points, and the working directory, of a config.json.
pub fn mount_points(config: &Value) -> Vec<MountPoint> {
    let mounts = config["mounts"].as_array().into_iter().flatten();
    let mounts = mounts.filter_map(|mount| {
        let bound = mount["options"].as_array().into_iter().flatten();
        let is_bind = bound
            .filter_map(Value::as_str)
            .any(|o| o == "bind" || o == "rbind");
        let source = mount["source"].as_str().filter(|_| is_bind);
        Some(MountPoint {
            path: PathBuf::from(mount["destination"].as_str()?),
            directory: source.is_none_or(|source| !Path::new(source).is_file()),
        })
    });
    let cwd = config["process"]["cwd"].as_str().map(|path| MountPoint {
        path: PathBuf::from(path),
        directory: true,
    });
    mounts.chain(cwd).collect()
}

/// The directories of an image's volumes, which have to be there.
pub fn volumes(directories: &[String]) -> Vec<MountPoint> {
    let point = |path: &String| MountPoint {
        path: PathBuf::from(path),
        directory: true,
    };
    directories.iter().map(point).collect()
}

/// Makes those of `points` that `image` lacks in the directory `base`, which is empty or a copy of the image; whether there were any.
///
/// # Errors
/// The kernel's.
pub fn fill(base: &OwnedFd, image: &Merged, points: &[MountPoint]) -> Result<bool> {
    let mut any = false;
    for point in points {
        let what = || format!("cannot make the mount point {:?}", point.path);
        if let Some(missing) = missing(image, &point.path)? {
            make(base, &missing, point.directory).doing(what)?;
            any = true;
        }
    }
    Ok(any)
}

/// Where `path` is to be made; `None`: it is there. Links of the image are followed.
fn missing(image: &Merged, path: &Path) -> Result<Option<PathBuf>> {
    // Every name is looked up in what the one before is, not from the root: there may be many long paths.
    let mut here = image.root()?;
    let mut components = path.components();
    while let Some(component) = components.next() {
        let place = here.as_ref().map_or(Path::new(""), |here| &here.path);
        let found = match component {
            Component::Normal(name) => child(image, here.as_ref(), name)?,
            Component::ParentDir => image.lookup(place.parent().unwrap_or(place), false)?,
            _ => continue,
        };
        if found.is_none() {
            // No `..` leads out of what is not there.
            let names = std::iter::once(component).chain(components);
            let names = names.filter(|c| matches!(c, Component::Normal(_)));
            return Ok(Some(place.components().chain(names).collect()));
        }
        here = found;
    }
    Ok(None)
}

/// What `name` means in `directory`, with the link followed that it may be.
fn child(image: &Merged, directory: Option<&Found>, name: &OsStr) -> Result<Option<Found>> {
    let Some(directory) = directory else {
        return Ok(None);
    };
    match image.child(directory, name)? {
        Some(link) if link.kind() == FileType::Symlink => {
            image.resolve(&directory.path, Path::new(name), true)
        }
        found => Ok(found),
    }
}

/// Makes `path` beneath `base`, and follows no link there: a copy of the image has those that lead to nothing in the image, and to
/// anything on the host. Nothing is made behind one.
fn make(base: &OwnedFd, path: &Path, directory: bool) -> sys::Result<()> {
    let mut here = duplicate(base.as_fd())?;
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        let is_directory = directory || names.peek().is_some();
        let mode = Mode::from_raw_mode(if is_directory { 0o755 } else { 0o644 });
        let made = if is_directory {
            rustix::fs::mkdirat(&here, name, mode)
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(&here, name, flags, mode).map(drop)
        };
        // Whatever the umask, all users of the container may go there.
        match made.and_then(|()| rustix::fs::chmodat(&here, name, mode, AtFlags::empty())) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(sys::Error::new("mkdirat", format!("{name:?}"), e)),
        }
        if names.peek().is_none() {
            break;
        }
        let mut flags = OFlags::PATH | OFlags::DIRECTORY;
        if is_on(Defence::LayerLinks) {
            flags |= OFlags::NOFOLLOW;
        }
        here = match open_at(&here, name, flags) {
            Err(error) if error.is(libc::ENOTDIR) => return Ok(()),
            opened => opened?,
        };
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a tree to work on is made")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_the_image_lacks_is_made_where_its_links_lead() {
        let place = tempfile::tempdir().unwrap();
        let (image, base) = (place.path().join("image"), place.path().join("base"));
        fs::create_dir_all(image.join("run")).unwrap();
        fs::create_dir_all(image.join("var/empty")).unwrap();
        fs::create_dir(&base).unwrap();
        symlink("/run", image.join("var/run")).unwrap();
        let merged = Merged::new(vec![fs::File::open(&image).unwrap().into()]);
        let config = serde_json::json!({
            "process": {"cwd": "/work/here"},
            "mounts": [
                {"destination": "/proc", "type": "proc"},
                {"destination": "/var/empty", "type": "tmpfs"},
                {"destination": "/var/run/lock/x", "type": "tmpfs"},
                {"destination": "/etc/resolv.conf", "source": "/etc/passwd", "options": ["bind", "ro"]},
                {"destination": "/a/../../b", "source": "/etc", "options": ["rbind"]},
            ],
        });
        let fd = fs::File::open(&base).unwrap().into();
        fill(&fd, &merged, &mount_points(&config)).unwrap();
        for directory in ["proc", "run/lock/x", "work/here"] {
            assert!(base.join(directory).is_dir(), "{directory}");
        }
        assert!(base.join("etc/resolv.conf").is_file());
        assert!(!base.join("var").exists());
        assert!(!image.join("proc").exists() && !place.path().join("b").exists());
    }

    #[test]
    fn nothing_is_made_behind_a_link_of_a_copy() {
        let place = tempfile::tempdir().unwrap();
        let (copy, outside) = (place.path().join("copy"), place.path().join("outside"));
        fs::create_dir(&copy).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, copy.join("absolute")).unwrap();
        symlink("../outside", copy.join("relative")).unwrap();
        fs::write(copy.join("file"), "x").unwrap();
        let fd: OwnedFd = fs::File::open(&copy).unwrap().into();
        for path in ["absolute/x", "relative/x/y", "file/x", "relative"] {
            for directory in [true, false] {
                make(&fd, Path::new(path), directory).unwrap();
            }
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
