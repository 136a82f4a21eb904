//! A file for the caller (the pid file, the exit file): written whole, or not at all.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::nameless::Linker;
use crate::error::{Doing, Error, Result};
use crate::sys;

/// A place for a file, whose directory is already open: later this process may see another root.
#[derive(Debug)]
pub struct WholeFile {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
    kind: &'static str,
    linker: Linker,
}

impl WholeFile {
    /// Opens the directory of `path`. `kind` is for messages: "pid file".
    pub fn prepare(kind: &'static str, path: &Path) -> Result<Self> {
        let what = || format!("cannot use the {kind} {path:?}");
        let name = path
            .file_name()
            .ok_or_else(|| Error::new(what()).because("it has no file name"))?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty())
            .map_err(|e| sys::Error::new("openat", format!("{parent:?}, O_DIRECTORY"), e))
            .doing(what)?;
        Ok(Self {
            directory,
            name: name.to_owned(),
            path: path.to_owned(),
            kind,
            linker: Linker::prepare(),
        })
    }

    /// Writes `content` to a new file that then takes the name.
    pub fn write(&self, content: &str) -> Result<()> {
        let what = || format!("cannot write the {} {:?}", self.kind, self.path);
        let written = self.linker.write(&self.directory, &self.name, content);
        if written.doing(what)? {
            return Ok(());
        }
        let mut draft = OsString::from(".");
        draft.push(&self.name);
        draft.push(format!(".{}", sys::process::own_pid()));
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.directory, &draft, flags, Mode::from_raw_mode(0o644))
            .map_err(|e| sys::Error::new("openat", format!("{draft:?}, O_CREAT"), e))
            .doing(what)?;
        let written = sys::path::write_all(fd, content.as_bytes(), &self.path);
        let named = written.and_then(|()| self.rename(&draft));
        if named.is_err() {
            let _first_error_counts =
                rustix::fs::unlinkat(&self.directory, &draft, AtFlags::empty());
        }
        named.doing(what)
    }

    fn rename(&self, draft: &OsStr) -> sys::Result<()> {
        rustix::fs::renameat(&self.directory, draft, &self.directory, &self.name)
            .map_err(|e| sys::Error::new("renameat", format!("{draft:?}, {:?}", self.name), e))
    }
}
