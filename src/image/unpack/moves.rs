//! A directory without entry where the layers below have a link to a directory: what is in it belongs there.
//!
//! So `lib/x` upon a layer with `lib -> usr/lib` becomes `usr/lib/x`, as it would in one tree.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, OFlags, RenameFlags};
use rustix::io::Errno;

use super::attributes::keeping_times;
use super::names::{cut, names_of, os, within};
use super::parents::Way;
use super::settle::{Settling, is_directory_at};
use super::trouble::{Tried, Trouble};
use super::{copy_up, whiteouts};
use crate::image::merged::{Found, is_opaque, open_at};
use crate::sys;

/// Two directories that become one.
struct Pair {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Settling<'_> {
    /// Moves what is in `path` to where `link`, which the layers below have there, leads; `false` where that is no directory.
    pub(super) fn give_way(&mut self, path: &[u8], link: &Found) -> Tried<bool> {
        let target = link.target()?;
        let from = Path::new(os(cut(path).0));
        let Some(found) = self.full.find_from(from, Path::new(&target))? else {
            return Ok(false);
        };
        let to = found.path.as_os_str().as_bytes().to_vec();
        let inside = within(path, b"");
        if !found.is_directory() || to == path || to.starts_with(&inside) {
            return Ok(false);
        }
        if self.unpacker.enter(&names_of(&to), Way::Make)?.is_none() {
            return Ok(false);
        }
        self.last = None;
        self.keep_opaque(path, &to)?;
        let mut explicit = Vec::new();
        let mut pairs = vec![Pair {
            from: path.to_vec(),
            to: to.clone(),
        }];
        let mut next = 0;
        while next < pairs.len() {
            let more = self.move_children(&pairs[next], &mut explicit)?;
            pairs.extend(more);
            next += 1;
        }
        for pair in pairs.iter().rev() {
            self.remove_empty(&pair.from)?;
        }
        self.rename_noted(&inside, &within(&to, b""), &explicit);
        Ok(true)
    }

    fn open(&mut self, path: &[u8]) -> Tried<Rc<OwnedFd>> {
        match self.unpacker.enter(&names_of(path), Way::Find)? {
            Some(here) => Ok(here.fd),
            None => Err(sys::Error::new("openat", format!("{:?}", os(path)), Errno::NOENT).into()),
        }
    }

    /// A directory that hides what is below hides it where it goes, too.
    fn keep_opaque(&mut self, from: &[u8], to: &[u8]) -> Tried<()> {
        if self.opaque.remove(from) {
            self.opaque.insert(to.to_vec());
        }
        let (parent, name) = cut(from);
        let above = self.open(parent)?;
        if !is_opaque(&above, os(name))? {
            return Ok(());
        }
        let (parent, name) = cut(to);
        if name.is_empty() {
            self.opaque.insert(Vec::new());
            return Ok(());
        }
        let above = self.open(parent)?;
        Ok(whiteouts::mark_opaque(&above, name)?)
    }

    /// Moves what is in one directory to another; returns the directories that both have.
    fn move_children(&mut self, pair: &Pair, explicit: &mut Vec<Vec<u8>>) -> Tried<Vec<Pair>> {
        let (from, to) = (self.open(&pair.from)?, self.open(&pair.to)?);
        let mut both = Vec::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let listed = open_at(&*from, OsStr::new("."), flags)?;
        let error = |e| sys::Error::new("getdents64", "fd", e);
        loop {
            let mut moved = false;
            for entry in Dir::read_from(&listed).map_err(error)? {
                let entry = entry.map_err(error)?;
                let name = entry.file_name().to_bytes();
                let is_known = |pair: &Pair| cut(&pair.from).1 == name;
                if name == b"." || name == b".." || both.iter().any(is_known) {
                    continue;
                }
                moved = true;
                if keeping_times(&to, || rename(&from, &to, name))? {
                    continue;
                }
                let met = Pair {
                    from: within(&pair.from, name),
                    to: within(&pair.to, name),
                };
                if !is_directory_at(&from, name)? || !is_directory_at(&to, name)? {
                    return Err(twice(&met));
                }
                self.merge_metadata(&met, explicit)?;
                both.push(met);
            }
            if !moved {
                return Ok(both);
            }
        }
    }

    /// Of two directories the one that has an entry says what the metadata is.
    fn merge_metadata(&mut self, met: &Pair, explicit: &mut Vec<Vec<u8>>) -> Tried<()> {
        let implied = &mut self.unpacker.unsettled.implied;
        let to_is_implied = implied.contains(&met.to) || self.complete.contains(&met.to);
        if !to_is_implied {
            explicit.push(met.to.clone());
            return Ok(());
        }
        if implied.contains(&met.from) {
            return Ok(());
        }
        implied.remove(&met.to);
        explicit.push(met.to.clone());
        let (from, to) = (self.open(&met.from)?, self.open(&met.to)?);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let readable = |fd: &OwnedFd| open_at(fd, OsStr::new("."), flags);
        Ok(copy_up::metadata(&readable(&from)?, &readable(&to)?)?)
    }

    fn remove_empty(&mut self, path: &[u8]) -> Tried<()> {
        let (parent, name) = cut(path);
        let above = self.open(parent)?;
        self.unpacker.parents.forget();
        keeping_times(&above, || {
            rustix::fs::unlinkat(&*above, os(name), AtFlags::REMOVEDIR).map_err(|e| {
                sys::Error::new("unlinkat", format!("{:?}, AT_REMOVEDIR", os(name)), e)
            })
        })?;
        Ok(())
    }

    /// What was noted of paths beginning with `from` holds for those beginning with `to`.
    fn rename_noted(&mut self, from: &[u8], to: &[u8], explicit: &[Vec<u8>]) {
        let renamed = |path: &[u8]| path.strip_prefix(from).map(|rest| [to, rest].concat());
        let implied = &mut self.unpacker.unsettled.implied;
        let moved = implied.range(from.to_vec()..);
        let moved: Vec<Vec<u8>> = moved
            .take_while(|path| path.starts_with(from))
            .cloned()
            .collect();
        for path in moved {
            implied.remove(&path);
            let path = renamed(&path).unwrap_or(path);
            if !explicit.contains(&path) && !self.complete.contains(&path) {
                implied.insert(path);
            }
        }
        for (name, _) in &mut self.unpacker.unsettled.links {
            if let Some(path) = renamed(name) {
                *name = path;
            }
        }
        let opaque = std::mem::take(&mut self.opaque).into_iter();
        self.opaque = opaque.map(|path| renamed(&path).unwrap_or(path)).collect();
    }
}

/// `false` where the name is taken.
fn rename(from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> sys::Result<bool> {
    let name = os(name);
    match rustix::fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // Not every filesystem can (rename(2)); nobody else makes files here.
        Err(Errno::INVAL) => match rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(false),
            Err(_) => rustix::fs::renameat(from, name, to, name)
                .map(|()| true)
                .map_err(|e| sys::Error::new("renameat", format!("{name:?}"), e)),
        },
        Err(e) => Err(sys::Error::new(
            "renameat2",
            format!("{name:?}, RENAME_NOREPLACE"),
            e,
        )),
    }
}

fn twice(met: &Pair) -> Trouble {
    let [from, to] = [&met.from, &met.to].map(|path| String::from_utf8_lossy(path).into_owned());
    Trouble::malformed(format!(
        "the layer has {from:?} and {to:?}, which are one because of a symbolic link in the layers below"
    ))
}
