//! The lowest layer of a root filesystem: the directories of volumes, and where it is read-only the mount points, that the image lacks.
//!
//! An overlay without an upper directory shows what is in its layers and nothing else, and needs two of them. The image's own
//! are never written to: others share them.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde_json::Value;

use super::merged::Merged;
use crate::error::{Doing, Result};
use crate::sys;

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
    let mut place = PathBuf::new();
    let mut components = path.components();
    while let Some(component) = components.next() {
        match component {
            Component::Normal(name) => match image.resolve(&place, Path::new(name), true)? {
                Some(found) => place = found.path,
                None => {
                    place.push(name);
                    // No `..` leads out of what is not there.
                    place.extend(components.filter(|c| matches!(c, Component::Normal(_))));
                    return Ok(Some(place));
                }
            },
            Component::ParentDir => drop(place.pop()),
            _ => {}
        }
    }
    Ok(None)
}

/// Makes `path` beneath `base`, in which are no links.
fn make(base: &OwnedFd, path: &Path, directory: bool) -> sys::Result<()> {
    let mut place = PathBuf::new();
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        place.push(component);
        let is_directory = directory || components.peek().is_some();
        let mode = Mode::from_raw_mode(if is_directory { 0o755 } else { 0o644 });
        let made = if is_directory {
            rustix::fs::mkdirat(base, &place, mode)
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(base, &place, flags, mode).map(drop)
        };
        // Whatever the umask, all users of the container may go there.
        match made.and_then(|()| rustix::fs::chmodat(base, &place, mode, AtFlags::empty())) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(sys::Error::new("mkdirat", format!("{place:?}"), e)),
        }
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
}
