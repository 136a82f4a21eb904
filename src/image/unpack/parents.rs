//! The directory that an entry is in: found beneath the destination, or made.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::journal::Record;
use super::names::{join, os, within};
use super::remove::remove;
use super::trouble::{Tried, Trouble};
use super::{Unpacker, attributes};
use crate::image::merged::{is_whiteout, stat_of};
use crate::image::tar::Time;
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// Symbolic links on one path, as the kernel has it (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// How many of the last directory's parents stay open.
const MOST_OPEN: usize = 24;

/// An open directory.
#[derive(Debug, Clone)]
pub(super) struct Here {
    pub(super) fd: Rc<OwnedFd>,
    /// What is made in it gets its group, and its set-group-id bit (inode(7)).
    pub(super) inherits: bool,
}

/// What happens to a name on the way that is not there, and to links on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It is made; links are followed.
    Make,
    /// It is made; links are refused.
    MakeWithoutLinks,
    /// Then there is no such directory; links are followed.
    Find,
}

/// The last directory, with those above it: archives go through a tree in order, so it is most often the next one too.
#[derive(Debug)]
pub(super) struct Parents {
    root: Rc<OwnedFd>,
    root_inherits: bool,
    /// What leads to it, without links.
    levels: Vec<Level>,
    /// How the archive called it.
    called: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Level {
    name: Vec<u8>,
    open: Option<Here>,
}

impl Parents {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root: Rc::new(root),
            root_inherits: false,
            levels: Vec::new(),
            called: None,
        }
    }

    /// The destination.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The path of the last directory, without links.
    pub(super) fn path(&self) -> Vec<u8> {
        let names: Vec<&[u8]> = self.levels.iter().map(|level| &*level.name).collect();
        join(&names)
    }

    /// Something was taken away: a name may lead elsewhere now.
    pub(super) fn forget(&mut self) {
        self.called = None;
    }

    /// The root's mode was changed.
    pub(super) fn look_at_root(&mut self) -> sys::Result<()> {
        self.root_inherits = inherits(&stat_of(&self.root)?);
        Ok(())
    }

    /// Keeps what the last directory and the one named so have in common; how many names that is.
    fn keep_common(&mut self, names: &[&[u8]]) -> usize {
        let pairs = self.levels.iter().zip(names);
        let common = pairs
            .take_while(|(level, name)| level.name == **name)
            .count();
        self.levels.truncate(common);
        common
    }

    /// The last directory, opened again where it was closed.
    fn top(&mut self) -> sys::Result<Here> {
        let open = self.levels.iter().rposition(|level| level.open.is_some());
        let (mut here, next) =
            match open.and_then(|at| Some((self.levels[at].open.clone()?, at + 1))) {
                Some(open) => open,
                None => {
                    let inherits = self.root_inherits;
                    let fd = Rc::clone(&self.root);
                    (Here { fd, inherits }, 0)
                }
            };
        let closed: Vec<&[u8]> = self.levels[next..]
            .iter()
            .map(|level| &*level.name)
            .collect();
        if !closed.is_empty() {
            here = open_all(&here.fd, &closed)?;
        }
        if let Some(level) = self.levels.last_mut() {
            level.open = Some(here.clone());
        }
        Ok(here)
    }

    /// Goes down several directories at once, if all are there and none is a link.
    fn descend(&mut self, names: &[&[u8]]) -> sys::Result<bool> {
        let Some((last, way)) = names.split_last() else {
            return Ok(true);
        };
        let Ok(here) = open_all(&self.top()?.fd, names) else {
            return Ok(false);
        };
        let closed = |name: &&[u8]| Level {
            name: name.to_vec(),
            open: None,
        };
        self.levels.extend(way.iter().map(closed));
        self.push(last.to_vec(), here);
        Ok(true)
    }

    fn push(&mut self, name: Vec<u8>, here: Here) {
        let open = Some(here);
        self.levels.push(Level { name, open });
        // Of those far above, some may be open because there was a way back to them.
        let far = self.levels.len().saturating_sub(MOST_OPEN);
        for level in &mut self.levels[..far] {
            level.open = None;
        }
    }
}

/// What is on the way.
enum Step {
    Entered,
    Missing,
    Link(Vec<u8>),
}

impl Unpacker<'_> {
    /// Opens the directory `names`; `None` where it is not there and not to be made. [`Parents::path`] is where it is.
    pub(super) fn enter(&mut self, names: &[&[u8]], way: Way) -> Tried<Option<Here>> {
        let called = join(names);
        if self.parents.called.as_ref() == Some(&called) && way != Way::MakeWithoutLinks {
            return Ok(Some(self.parents.top()?));
        }
        self.parents.called = None;
        let mut common = self.parents.keep_common(names);
        if names.len() > common + 1
            && is_on(Defence::LayerLinks)
            && self.parents.descend(&names[common..])?
        {
            common = names.len();
        }
        let mut todo: VecDeque<Vec<u8>> =
            names[common..].iter().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." && is_on(Defence::LayerNames) {
                self.parents.levels.pop();
                continue;
            }
            match self.step(&name, way)? {
                Step::Entered => {}
                Step::Missing => return Ok(None),
                Step::Link(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Trouble::malformed(
                            "more than 40 symbolic links are on the way to it",
                        ));
                    }
                    if target.starts_with(b"/") {
                        self.parents.levels.clear();
                    }
                    let target = target.split(|&byte| byte == b'/').rev();
                    for name in target.filter(|name| !matches!(*name, b"" | b".")) {
                        todo.push_front(name.to_vec());
                    }
                }
            }
        }
        self.parents.called = Some(called);
        Ok(Some(self.parents.top()?))
    }

    /// Goes into the directory `name`, if it is one.
    fn step(&mut self, name: &[u8], way: Way) -> Tried<Step> {
        self.check_way(name)?;
        let here = self.parents.top()?;
        match open_directory(&here.fd, name) {
            Ok(next) => self.parents.push(name.to_vec(), next),
            Err(error) if error.is(libc::ENOENT) => {
                if way == Way::Find {
                    return Ok(Step::Missing);
                }
                self.imply(&here, name, false)?;
            }
            Err(error) if error.is(libc::ENOTDIR) => {
                return self.not_a_directory(&here, name, way);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Step::Entered)
    }

    /// Links can lead deeper than names, and make the way to one file as long as an archive.
    fn check_way(&mut self, name: &[u8]) -> Tried<()> {
        /// What no archive needs without such links: of directories that are there, all are opened at once.
        const STEPS: u64 = 1_000_000;
        const EACH: u64 = 16;
        self.steps += 1;
        let most = STEPS + EACH * self.report.entries;
        if self.steps > most && is_on(Defence::LayerLimits) {
            return Err(Trouble::malformed(
                "symbolic links make the ways to the layer's entries too long",
            ));
        }
        let limits = &self.how.limits;
        let length = |level: &Level| level.name.len() + 1;
        let bytes = self.parents.levels.iter().map(length).sum::<usize>() + name.len();
        let is_far = self.parents.levels.len() >= limits.depth || bytes > limits.name;
        if is_far && is_on(Defence::LayerLimits) {
            return Err(Trouble::malformed(format!(
                "symbolic links lead it more than {} directories deep, or to a path of more than {} bytes",
                limits.depth, limits.name
            )));
        }
        Ok(())
    }

    /// A link leads on, a whiteout makes place for a directory that hides what is below.
    fn not_a_directory(&mut self, here: &Here, name: &[u8], way: Way) -> Tried<Step> {
        let path = || String::from_utf8_lossy(&within(&self.parents.path(), name)).into_owned();
        match rustix::fs::readlinkat(&here.fd, os(name), Vec::new()) {
            Ok(_) if way == Way::MakeWithoutLinks => {
                return Err(Trouble::malformed(format!(
                    "the whiteout is beneath {:?}, which the layer makes a symbolic link",
                    path()
                )));
            }
            Ok(target) => return Ok(Step::Link(target.into_bytes())),
            Err(Errno::INVAL) => {}
            Err(e) => {
                return Err(sys::Error::new("readlinkat", format!("{:?}", os(name)), e).into());
            }
        }
        if way == Way::Find {
            return Ok(Step::Missing);
        }
        if !is_whiteout(&stat_at(&here.fd, name)?) {
            return Err(Trouble::malformed(format!(
                "it is beneath {:?}, which is no directory in this layer",
                path()
            )));
        }
        remove(&here.fd, os(name))?;
        self.imply(here, name, true)?;
        Ok(Step::Entered)
    }

    /// Makes a directory that has no entry, or none yet, and goes into it. `hides`: the layers below have nothing to do with it.
    fn imply(&mut self, here: &Here, name: &[u8], hides: bool) -> Tried<()> {
        let make = || {
            rustix::fs::mkdirat(&here.fd, os(name), Mode::from_raw_mode(0o755))
                .map_err(|e| sys::Error::new("mkdirat", format!("{:?}, 0755", os(name)), e))
        };
        if self.settling {
            attributes::keeping_times(&here.fd, make)?;
        } else {
            make()?;
        }
        let (uid, gid) = self.disk_owner(0, 0)?;
        if here.inherits || self.fresh.masked || (uid, gid) != (self.fresh.uid, self.fresh.gid) {
            attributes::own_at(&here.fd, name, uid, gid)?;
            attributes::change_mode_at(&here.fd, name, 0o755)?;
        }
        let next = open_directory(&here.fd, name)?;
        self.parents.push(name.to_vec(), next);
        let path = self.parents.path();
        if hides {
            self.make_opaque(&here.fd, name, &path)?;
        }
        self.note_implied(path, hides)
    }

    /// Its metadata is that of the directory in the layers below, where there can be one.
    fn note_implied(&mut self, path: Vec<u8>, hides: bool) -> Tried<()> {
        if self.how.bottom || hides {
            return self.journal.add(&Record {
                path,
                time: Time::default(),
                acl: Vec::new(),
            });
        }
        self.unsettled.account(&[&path])?;
        self.unsettled.implied.insert(path);
        Ok(())
    }

    /// The root is as any directory without entry until it has one.
    pub(super) fn imply_root(&mut self) -> Tried<()> {
        let (uid, gid) = self.disk_owner(0, 0)?;
        let root = Rc::clone(&self.parents.root);
        attributes::own_at(&root, b".", uid, gid)?;
        attributes::change_mode_at(&root, b".", 0o755)?;
        self.parents.look_at_root()?;
        self.note_implied(Vec::new(), false)
    }
}

fn open_directory(directory: &OwnedFd, name: &[u8]) -> sys::Result<Here> {
    let mut flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !is_on(Defence::LayerLinks) {
        flags.remove(OFlags::NOFOLLOW);
    }
    let fd = rustix::fs::openat(directory, os(name), flags, Mode::empty()).map_err(|e| {
        sys::Error::new(
            "openat",
            format!("{:?}, O_PATH|O_DIRECTORY|O_NOFOLLOW", os(name)),
            e,
        )
    })?;
    let inherits = inherits(&stat_of(&fd)?);
    let fd = Rc::new(fd);
    Ok(Here { fd, inherits })
}

/// Opens the last of several directories, each in the one before.
fn open_all(directory: &OwnedFd, names: &[&[u8]]) -> sys::Result<Here> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let path = join(names);
    let fd = sys::path::open_beneath(directory, Path::new(os(&path)), flags, resolve)?;
    let inherits = inherits(&stat_of(&fd)?);
    let fd = Rc::new(fd);
    Ok(Here { fd, inherits })
}

fn inherits(stat: &Stat) -> bool {
    Mode::from_raw_mode(stat.st_mode).contains(Mode::SGID)
}

/// The file `name` itself.
pub(super) fn stat_at(directory: impl AsFd, name: &[u8]) -> sys::Result<Stat> {
    rustix::fs::statat(directory, os(name), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| sys::Error::new("fstatat", format!("{:?}", os(name)), e))
}
