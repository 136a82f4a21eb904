//! What is beneath a cgroup. The container makes its own cgroups there, as deep and as many as it likes.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::fs::Dir;
use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::sys;

/// How long the processes of a cgroup that is removed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts at a cgroup that is busy though nobody is in it.
const PAUSE: Duration = Duration::from_millis(2);

/// The most that is read of cgroup.procs.
const MAX_PIDS: usize = 64 << 20;

/// What became of a cgroup that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, with all beneath it.
    Gone,
    /// One of the cgroups beneath it belongs to a subordinate id, and only who has power over that can remove what is in it.
    Denied(sys::Error),
}

/// Parses cgroup.procs: pids as the reader's pid namespace has them, 0 for a process outside of it.
fn parse_pids(text: &str) -> Vec<u32> {
    text.lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

impl Dir {
    /// The pids in cgroup.procs, as this process's pid namespace has them; 0 for a process outside of it. `recursive`: those of
    /// all cgroups beneath it as well. Processes that have ended and wait to be reaped are not among them.
    pub fn processes(&self, recursive: bool) -> Result<Vec<u32>> {
        let what = || format!("cannot list the processes of the cgroup {}", self.path());
        let mut pids = read_pids(self, self.path()).doing(what)?;
        if recursive {
            let mut add = |dir: &OwnedFd| {
                pids.extend(read_pids(dir, self.path())?);
                Ok(true)
            };
            self.beneath(&mut add).doing(what)?;
        }
        // One that moved meanwhile is seen twice.
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Calls `each` for every cgroup beneath it until one says `false`; whether none did.
    pub(super) fn beneath(
        &self,
        mut each: impl FnMut(&OwnedFd) -> sys::Result<bool>,
    ) -> sys::Result<bool> {
        let mut walk = Walk::from(self)?;
        while let Some(dir) = walk.next(false)? {
            if !each(dir)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the cgroups beneath it, and waits for processes on their way out of them.
    pub fn clear(&self) -> Result<Removal> {
        let what = || format!("cannot remove what is beneath the cgroup {}", self.path());
        let begin = Instant::now();
        loop {
            match self.remove_children() {
                Ok(()) => return Ok(Removal::Gone),
                Err(cause) => {
                    if let Some(denied) = self.settle(cause, begin, what)? {
                        return Ok(denied);
                    }
                }
            }
        }
    }

    /// Removes it, and the cgroups beneath it first. Its processes must have ended: it waits for those on their way out.
    pub fn remove_all(self) -> Result<Removal> {
        let what = || format!("cannot remove the cgroup {}", self.path());
        let Some((above, name)) = self
            .path()
            .rsplit_once('/')
            .filter(|(_, name)| !name.is_empty())
        else {
            return Err(Error::new(what()).because("it is the root of the hierarchy"));
        };
        let above = if above.is_empty() { "/" } else { above };
        let Some(above) = Self::open(above)? else {
            return Ok(Removal::Gone);
        };
        let begin = Instant::now();
        loop {
            let removed = self
                .remove_children()
                .and_then(|()| remove(&above, name.as_ref()));
            match removed {
                Ok(()) => return Ok(Removal::Gone),
                Err(cause) => {
                    if let Some(denied) = self.settle(cause, begin, what)? {
                        return Ok(denied);
                    }
                }
            }
        }
    }

    /// After `cause`, a removal that did not succeed: waits where that may help.
    fn settle(
        &self,
        cause: sys::Error,
        begin: Instant,
        what: impl Fn() -> String,
    ) -> Result<Option<Removal>> {
        match cause.errno {
            libc::EACCES | libc::EPERM => Ok(Some(Removal::Denied(cause))),
            libc::EBUSY => {
                let left = PATIENCE.saturating_sub(begin.elapsed());
                let is_empty = self.wait_empty(left)?;
                if is_empty && !left.is_zero() {
                    // Somebody makes cgroups in there while we remove them.
                    std::thread::sleep(PAUSE);
                    return Ok(None);
                }
                let error = Error::new(what()).because_of(&cause).step(Step::Cgroup);
                if is_empty {
                    return Err(
                        error.hint("something is mounted in it, or it is made anew all the time")
                    );
                }
                let pids = self.processes(true).unwrap_or_default();
                Err(error.because(format!("processes {pids:?} are in it")).hint(
                    "end them first: `lodger kill -a ID KILL`, or write 1 to its cgroup.kill",
                ))
            }
            _ => Err(Error::new(what()).because_of(&cause).step(Step::Cgroup)),
        }
    }

    fn remove_children(&self) -> sys::Result<()> {
        let mut walk = Walk::from(self)?;
        while walk.next(true)?.is_some() {}
        Ok(())
    }
}

fn read_pids(dir: impl AsFd, path: &str) -> sys::Result<Vec<u32>> {
    match sys::path::read_regular_at(dir, Path::new("cgroup.procs"), MAX_PIDS) {
        Ok(text) => Ok(parse_pids(&String::from_utf8_lossy(&text))),
        // For threads, whose processes are counted above (EOPNOTSUPP), or removed meanwhile.
        Err(error) if [libc::EOPNOTSUPP, libc::ENODEV, libc::ENOENT].contains(&error.errno) => {
            Ok(Vec::new())
        }
        Err(mut error) => {
            error.args = format!("{} /* in {path} or beneath */", error.args);
            Err(error)
        }
    }
}

fn remove(above: impl AsFd, name: &std::ffi::OsStr) -> sys::Result<()> {
    match rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(sys::Error::new(
            "unlinkat",
            format!("{name:?}, AT_REMOVEDIR"),
            e,
        )),
    }
}

/// A walk through the cgroups beneath one, each before those it has: the names that are still to do are kept, not the
/// directories, as there may be more of them than one process may have files.
struct Walk {
    at: OwnedFd,
    /// For each level from the beginning: the name that led there, and the names of its cgroups that are still to do.
    levels: Vec<(CString, Vec<CString>)>,
}

impl Walk {
    fn from(dir: &Dir) -> sys::Result<Self> {
        let at = open_directory(dir, c".")?;
        let names = children(&at)?;
        Ok(Self {
            at,
            levels: vec![(c".".to_owned(), names)],
        })
    }

    /// The next cgroup; with `remove`, each is removed when all beneath it is.
    fn next(&mut self, remove_left: bool) -> sys::Result<Option<&OwnedFd>> {
        while let Some((_, names)) = self.levels.last_mut() {
            let Some(name) = names.pop() else {
                let (left, _) = self.levels.pop().unwrap_or_default();
                if self.levels.is_empty() {
                    break;
                }
                // A cgroup stays in the one it was made in: this leads to where we came from.
                self.at = open_directory(&self.at, c"..")?;
                if remove_left {
                    remove(&self.at, &OsString::from_vec(left.into_bytes()))?;
                }
                continue;
            };
            match open_directory(&self.at, &name) {
                Ok(dir) => {
                    self.levels.push((name, children(&dir)?));
                    self.at = dir;
                    return Ok(Some(&self.at));
                }
                Err(error) if error.is(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn open_directory(dir: impl AsFd, name: &std::ffi::CStr) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{name:?}, O_DIRECTORY"), e))
}

/// The names of the directories in a directory.
fn children(dir: &OwnedFd) -> sys::Result<Vec<CString>> {
    let error = |e| sys::Error::new("getdents64", "cgroup", e);
    let mut names = Vec::new();
    for item in rustix::fs::Dir::read_from(dir).map_err(error)? {
        let item = item.map_err(error)?;
        let name = item.file_name();
        let is_other = item.file_type() != FileType::Directory;
        if !is_other && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::fs::pretended;
    use super::*;

    #[test]
    fn pids_are_numbers_and_zero_is_outside() {
        let table: [(&str, &[u32]); 3] = [("", &[]), ("12\n7\n", &[12, 7]), ("0\n3\nx\n", &[0, 3])];
        for (text, expected) in table {
            assert_eq!(parse_pids(text), expected);
        }
    }

    #[test]
    fn processes_of_the_whole_tree_once_each() {
        let (_place, dir) = pretended(&[("cgroup.procs", "3\n1\n")]);
        for (path, text) in [("a", "1\n2\n"), ("a/b", "9\n"), ("c", "")] {
            let (made, _) = dir.make_beneath(path, &[]).unwrap();
            let flags = OFlags::CREATE | OFlags::WRONLY;
            let file = rustix::fs::openat(&made, "cgroup.procs", flags, Mode::RUSR).unwrap();
            rustix::io::write(file, text.as_bytes()).unwrap();
        }
        assert_eq!(dir.processes(false).unwrap(), [1, 3]);
        assert_eq!(dir.processes(true).unwrap(), [1, 2, 3, 9]);
    }

    #[test]
    fn a_tree_that_is_deeper_than_there_may_be_files_is_removed() {
        let (place, dir) = pretended(&[]);
        let mut at = open_directory(&dir, c".").unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
            at = open_directory(&at, c"deep").unwrap();
        }
        for name in ["x", "y/z"] {
            dir.make_beneath(name, &[]).unwrap();
        }
        assert_eq!(dir.clear().unwrap(), Removal::Gone);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
