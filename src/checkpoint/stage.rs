//! The place where CRIU finds what it is given: in a mount namespace of its own, under names that nobody else can change, whatever
//! the directories above the originals allow to the container's root.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::mount::FsContext;

/// An empty directory of procfs: it is there, cannot be renamed, and nobody needs it.
const PLACE: &str = "/proc/tty/ldisc";

/// A small filesystem in memory over [`PLACE`], and another one over /tmp, where CRIU makes directories that it would leave behind
/// if it were killed.
#[derive(Debug)]
pub struct Stage(OwnedFd);

impl Stage {
    /// Makes both. The calling process must be in a mount namespace of its own, which passes nothing on, with CAP_SYS_ADMIN over it.
    pub fn make() -> Result<Self> {
        mount("/tmp", "1777").map_err(|e| e.within("cannot give CRIU a /tmp of its own"))?;
        mount(PLACE, "0755")
            .map(Self)
            .map_err(|e| e.within("cannot prepare a place for CRIU's files"))
    }

    /// The path of what is shown under `name`.
    pub fn path(name: &str) -> PathBuf {
        Path::new(PLACE).join(name)
    }

    /// Shows the file or directory that is open as `source` under `name`, `recursive` with the mounts beneath it. Returns its path.
    pub fn bind(&self, name: &str, source: impl AsFd, recursive: bool) -> Result<PathBuf> {
        let path = Self::path(name);
        let what = || format!("cannot show CRIU {path:?}");
        let tree = sys::mount::clone_tree(&source, recursive, &path).doing(what)?;
        self.show(name, &tree)
    }

    /// Shows the detached mount `tree` under `name`. Returns its path.
    pub fn show(&self, name: &str, tree: &OwnedFd) -> Result<PathBuf> {
        let path = Path::new(PLACE).join(name);
        let what = || format!("cannot show CRIU {path:?}");
        let place = self
            .make_place(name, is_directory(tree).doing(what)?)
            .doing(what)?;
        sys::mount::attach(tree, &place, &path).doing(what)?;
        Ok(path)
    }

    fn make_place(&self, name: &str, directory: bool) -> sys::Result<OwnedFd> {
        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        if directory {
            rustix::fs::mkdirat(&self.0, name, mode)
                .map_err(|e| sys::Error::new("mkdirat", format!("{name:?}"), e))?;
        } else {
            rustix::fs::mknodat(&self.0, name, rustix::fs::FileType::RegularFile, mode, 0)
                .map_err(|e| sys::Error::new("mknodat", format!("{name:?}, S_IFREG"), e))?;
        }
        sys::path::open_itself(&self.0, OsStr::new(name))
    }
}

/// Makes everything read-only that the calling process sees, but for the mounts at `kept` and those beneath them. To be called
/// before [`Stage::make`], by a process as for that.
///
/// CRIU follows paths of the container with the host's root as `/`: a symbolic link of the container's in there would have it make
/// files, and links to them, in any directory of the caller's.
pub fn close_host(kept: &[&str]) -> Result<()> {
    if !is_on(Defence::HostReadonly) {
        return Ok(());
    }
    let what = || "cannot keep CRIU from writing to the host".to_owned();
    let open = |path: &&str| sys::mount::open_path(Path::new(path)).doing(what);
    let kept: Vec<_> = kept
        .iter()
        .map(|path| {
            let tree = sys::mount::clone_tree(open(path)?, true, Path::new(path)).doing(what)?;
            Ok((path, tree))
        })
        .collect::<Result<_>>()?;
    sys::mount::set_attributes(open(&"/")?, true, sys::mount::MOUNT_ATTR_RDONLY, 0, 0)
        .doing(what)?;
    for (path, tree) in kept {
        sys::mount::attach(&tree, open(path)?, Path::new(path)).doing(what)?;
    }
    Ok(())
}

fn is_directory(fd: impl AsFd) -> sys::Result<bool> {
    let stat = rustix::fs::fstat(fd).map_err(|e| sys::Error::new("fstat", "source", e))?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}

/// Mounts a filesystem in memory at `path`; returns its root.
fn mount(path: &str, mode: &str) -> Result<OwnedFd> {
    let path = Path::new(path);
    let what = || format!("cannot mount a tmpfs at {path:?}");
    let mut context = FsContext::open_for_mount("tmpfs");
    context.set_string("mode", mode).doing(what)?;
    let tree = context
        .mount(sys::mount::MOUNT_ATTR_NOSUID | sys::mount::MOUNT_ATTR_NODEV)
        .doing(what)?;
    let place = sys::mount::open_path(path).doing(what)?;
    sys::mount::attach(&tree, &place, path).doing(what)?;
    // What was made is beneath what is shown there now.
    sys::mount::open_path(path).doing(what)
}
