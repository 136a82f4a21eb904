//! Removing a tree that others have made: of any depth, with any names, with directories that nobody may read.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::sys;

/// How many directories are open at a time: one that lies deeper is moved up first.
const DEEPEST: usize = 32;

/// Removes `name` in `parent`, and everything beneath it. It is no error when it is not there.
///
/// Nobody else may be at work in it. Links are removed, not followed.
///
/// # Errors
/// What the kernel refused: EACCES or EPERM where files belong to ids that this process has no power over.
pub fn tree(parent: impl AsFd, name: &OsStr) -> sys::Result<()> {
    let parent = parent.as_fd();
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // EPERM is what POSIX says for a directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(error("unlinkat", name, e)),
    }
    // An empty one goes without being looked into.
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(e) => return Err(error("unlinkat", name, e)),
    }
    let top = open(parent, name)?;
    let mut remover = Remover { top, moved: 0 };
    let begun = open(parent, name)?;
    remover.clear(&begun, 0)?;
    // What was moved up lies in the top now, and brings more up with it.
    while remover.moved > 0 {
        remover.moved = 0;
        let again = open(parent, name)?;
        remover.clear(&again, 0)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(|e| error("unlinkat", name, e))
}

struct Remover {
    top: OwnedFd,
    /// How many were moved up since the top was last read.
    moved: u64,
}

impl Remover {
    fn clear(&mut self, directory: &OwnedFd, depth: usize) -> sys::Result<()> {
        let entries =
            Dir::read_from(directory).map_err(|e| error("getdents64", OsStr::new("."), e))?;
        for entry in entries {
            let entry = entry.map_err(|e| error("getdents64", OsStr::new("."), e))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                self.remove_directory(directory, name, depth)?;
            } else {
                rustix::fs::unlinkat(directory, name, AtFlags::empty())
                    .map_err(|e| error("unlinkat", os(name), e))?;
            }
        }
        Ok(())
    }

    fn remove_directory(&mut self, parent: &OwnedFd, name: &CStr, depth: usize) -> sys::Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(e) => return Err(error("unlinkat", os(name), e)),
        }
        if depth >= DEEPEST {
            return self.move_up(parent, name);
        }
        let directory = open(parent, os(name))?;
        self.clear(&directory, depth + 1)?;
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(error("unlinkat", os(name), e)),
        }
    }

    /// Gives the directory a place in the top directory.
    fn move_up(&mut self, parent: &OwnedFd, name: &CStr) -> sys::Result<()> {
        for number in self.moved.. {
            let new = CString::new(format!(".deep-{number}")).unwrap_or_default();
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(parent, name, &self.top, &new, flags) {
                Ok(()) => {
                    self.moved = number + 1;
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                Err(e) => return Err(error("renameat2", os(name), e)),
            }
        }
        Ok(())
    }
}

/// Opens a directory of ours to clear it, also one whose mode forbids it.
fn open(parent: impl AsFd, name: &OsStr) -> sys::Result<OwnedFd> {
    let parent = parent.as_fd();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty());
    let fd = match opened {
        Err(Errno::ACCESS) => {
            permit(parent, name)?;
            rustix::fs::openat(parent, name, flags, Mode::empty())
        }
        opened => opened,
    };
    let fd = fd.map_err(|e| error("openat", name, e))?;
    let mode = rustix::fs::fstat(&fd)
        .map_err(|e| error("fstat", name, e))?
        .st_mode;
    if mode & 0o700 != 0o700 {
        // Who has the power over it needs none of this.
        let _cannot_matter = rustix::fs::fchmod(&fd, Mode::RWXU);
    }
    Ok(fd)
}

/// Lets its owner into the directory. By an O_PATH fd, so that no link is followed.
fn permit(parent: impl AsFd, name: &OsStr) -> sys::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(parent, name, flags, Mode::empty())
        .map_err(|e| error("openat", name, e))?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&place);
    // The kernel has no fchmod(2) for such an fd but by this name of it.
    rustix::fs::chmod(format!("/proc/self/fd/{number}"), Mode::RWXU)
        .map_err(|e| error("chmod", name, e))
}

fn os(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

fn error(call: &'static str, name: &OsStr, errno: Errno) -> sys::Error {
    sys::Error::new(call, format!("{name:?}"), errno)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a tree to work on is made")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_tree_goes_with_what_nobody_may_read_and_nothing_else_does() {
        let place = tempfile::tempdir().unwrap();
        let outside = place.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let tree = place.path().join("tree");
        fs::create_dir_all(tree.join("a/closed/b")).unwrap();
        fs::create_dir(tree.join(".deep-0")).unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        fs::write(tree.join("a/closed/b/file"), "x").unwrap();
        fs::set_permissions(tree.join("a/closed"), fs::Permissions::from_mode(0)).unwrap();
        let directory = fs::File::open(place.path()).unwrap();
        super::tree(&directory, OsStr::new("tree")).unwrap();
        super::tree(&directory, OsStr::new("tree")).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_long_goes() {
        let place = tempfile::tempdir().unwrap();
        let top = OwnedFd::from(fs::File::open(place.path()).unwrap());
        let mut below = top.try_clone().unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&below, "directory", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&below, "sibling", Mode::RWXU).unwrap();
            below = open(&below, OsStr::new("directory")).unwrap();
        }
        super::tree(&top, OsStr::new("directory")).unwrap();
        assert!(!place.path().join("directory").exists());
    }
}
