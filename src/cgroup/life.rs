//! Freezing, thawing and ending all that is in a cgroup.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

use super::fs::Dir;
use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::sys;

/// How long processes may take to be frozen, thawed or gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file that tells of changes.
const EVENTS: &str = "cgroup.events";

/// Between two rounds of signals, where the kernel cannot kill a cgroup at once.
const ROUND: Duration = Duration::from_millis(20);

/// What cgroup.events tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// Whether there are processes in the cgroup or beneath it that have not ended.
    pub populated: bool,
    /// Whether all of them are frozen. With none, whether they would be.
    pub frozen: bool,
}

/// Parses cgroup.events. Before Linux 5.2 it has no `frozen`.
fn parse_events(text: &str) -> Option<Events> {
    let flag = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value.trim() == "1")
    };
    Some(Events {
        populated: flag("populated")?,
        frozen: flag("frozen").unwrap_or(false),
    })
}

/// cgroup.events, held open: the kernel says when it changes.
struct Watch {
    file: OwnedFd,
    path: PathBuf,
}

impl Watch {
    /// Of the cgroup `dir`; `path` is for messages.
    fn open(dir: impl AsFd, path: PathBuf) -> sys::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, EVENTS, flags, Mode::empty())
            .map_err(|e| sys::Error::new("openat", format!("{path:?}, O_RDONLY"), e))?;
        Ok(Self { file, path })
    }

    fn read(&self) -> sys::Result<Events> {
        /// `populated 0\nfrozen 0\n`, and room for more.
        const SIZE: usize = 512;
        let path = &self.path;
        let mut text = [0; SIZE];
        let length = rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut text, 0))
            .map_err(|e| sys::Error::new("pread64", format!("{path:?}"), e))?;
        parse_events(&String::from_utf8_lossy(&text[..length])).ok_or_else(|| {
            sys::Error::new(
                "pread64",
                format!("{path:?} /* no populated */"),
                libc::EBADMSG,
            )
        })
    }

    /// Whether somebody is in it; not in one that was removed.
    fn is_populated(&self) -> sys::Result<bool> {
        match self.read() {
            Err(error) if error.is(libc::ENODEV) => Ok(false),
            read => Ok(read?.populated),
        }
    }

    /// Waits until `done`, at most for `patience`; whether it came to that. A cgroup that is removed has nobody in it.
    fn wait(&self, patience: Duration, done: impl Fn(Events) -> bool) -> sys::Result<bool> {
        let begin = Instant::now();
        loop {
            match self.read() {
                Ok(events) if done(events) => return Ok(true),
                Err(error) if error.is(libc::ENODEV) => return Ok(true),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            let left = patience.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            // The read above has told the kernel what we know.
            let mut polled = [PollFd::new(&self.file, PollFlags::PRI)];
            let limit = Timespec::try_from(left).ok();
            match rustix::event::poll(&mut polled, limit.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(sys::Error::new("poll", "cgroup.events, POLLPRI", e)),
            }
        }
    }
}

impl Dir {
    /// `None` when the cgroup was removed.
    fn watch(&self) -> sys::Result<Option<Watch>> {
        match Watch::open(self, self.place(EVENTS)) {
            Ok(watch) => Ok(Some(watch)),
            Err(error) if error.is(libc::ENODEV) => Ok(None),
            // The root of the hierarchy has other files.
            Err(error) if error.is(libc::ENOENT) && !self.has("cgroup.procs") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Dir::watch`], for what cannot be done to a cgroup that was removed.
    fn watch_existing(&self) -> sys::Result<Watch> {
        let gone = || sys::Error::new("openat", format!("{:?}", self.place(EVENTS)), libc::ENOENT);
        self.watch()?.ok_or_else(gone)
    }

    /// What cgroup.events tells now; of a cgroup that was removed, that nobody is in it. The root of the hierarchy has none.
    pub fn events(&self) -> Result<Events> {
        let none = Events {
            populated: false,
            frozen: false,
        };
        let what = || format!("cannot read cgroup.events of {}", self.path());
        let Some(watch) = self.watch().doing(what)? else {
            return Ok(none);
        };
        match watch.read() {
            Err(error) if error.is(libc::ENODEV) => Ok(none),
            read => read.doing(what),
        }
    }

    /// Whether there are processes in it or beneath it that have not ended.
    pub fn is_populated(&self) -> Result<bool> {
        Ok(self.events()?.populated)
    }

    /// Whether all in it is frozen: it, or one above it.
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(self.events()?.frozen)
    }

    /// Freezes all that is in it, and waits until it is.
    pub fn freeze(&self) -> Result<()> {
        let what = || format!("cannot freeze the cgroup {}", self.path());
        let watch = self.watch_existing().doing(what)?;
        self.write("cgroup.freeze", "1")
            .map_err(|cause| unfreezable(what(), cause))?;
        let begin = Instant::now();
        let is_frozen = watch.wait(PATIENCE, |events| events.frozen).doing(what)?;
        if is_frozen && self.all_frozen(begin).doing(what)? {
            return Ok(());
        }
        // As it was: half of it must not stand still for ever.
        let _first_error_counts = self.write("cgroup.freeze", "0");
        Err(Error::new(what())
            .because(format!("some process in it does not stop within {} seconds", PATIENCE.as_secs()))
            .hint("it waits in the kernel, most often for a device or a network filesystem: try again later"))
    }

    /// Waits until all beneath it are frozen too, since `begin`: a cgroup with processes of its own is said to be when those are.
    fn all_frozen(&self, begin: Instant) -> sys::Result<bool> {
        self.beneath(|dir| {
            let watch = match Watch::open(dir, self.place("…").join(EVENTS)) {
                // Removed from outside.
                Err(error) if error.is(libc::ENOENT) => return Ok(true),
                opened => opened?,
            };
            watch.wait(PATIENCE.saturating_sub(begin.elapsed()), |events| {
                events.frozen
            })
        })
    }

    /// Thaws what [`Dir::freeze`] froze, and waits until it is.
    pub fn thaw(&self) -> Result<()> {
        let what = || format!("cannot thaw the cgroup {}", self.path());
        let watch = self.watch_existing().doing(what)?;
        self.write("cgroup.freeze", "0")
            .map_err(|cause| unfreezable(what(), cause))?;
        if !watch.read().doing(what)?.frozen {
            return Ok(());
        }
        if let Some(above) = self.frozen_above()? {
            return Err(Error::new(what())
                .because(format!("{above}, which it is in, is frozen"))
                .hint("whoever froze that one must thaw it: for a unit of systemd, `systemctl --user thaw UNIT`"));
        }
        if watch.wait(PATIENCE, |events| !events.frozen).doing(what)? {
            return Ok(());
        }
        Err(Error::new(what()).because(format!(
            "the kernel has not done so within {} seconds",
            PATIENCE.as_secs()
        )))
    }

    /// The nearest cgroup above this one that is frozen by itself.
    fn frozen_above(&self) -> Result<Option<String>> {
        let mut path = self.path();
        while let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| !above.is_empty()) {
            let is_frozen = |dir: &Self| {
                dir.read("cgroup.freeze")
                    .is_ok_and(|text| text.trim() == "1")
            };
            if Self::open(above)?.as_ref().is_some_and(is_frozen) {
                return Ok(Some(above.to_owned()));
            }
            path = above;
        }
        Ok(None)
    }

    /// Kills all that is in it and beneath it, frozen or not, and waits until nobody is left.
    pub fn kill(&self) -> Result<()> {
        let what = || format!("cannot end the processes of the cgroup {}", self.path());
        let Some(watch) = self.watch().doing(what)? else {
            return Ok(());
        };
        match self.write("cgroup.kill", "1") {
            Ok(()) => {}
            Err(error) if error.is(libc::ENODEV) => return Ok(()),
            // Without it, it is an old kernel's, or was removed since it was opened.
            Err(error) if error.is(libc::ENOENT) => return self.kill_each(&watch),
            Err(error) => return Err(error).doing(what),
        }
        if watch
            .wait(PATIENCE, |events| !events.populated)
            .doing(what)?
        {
            return Ok(());
        }
        Err(self.still_there())
    }

    /// As [`Dir::kill`], before Linux 5.14: frozen, none can have children that are missed.
    fn kill_each(&self, watch: &Watch) -> Result<()> {
        let what = || format!("cannot end the processes of the cgroup {}", self.path());
        let begin = Instant::now();
        // What cannot be frozen is killed as well, in more rounds.
        let froze = self.freeze();
        let mut killed = Ok(());
        while watch.is_populated().doing(what)? {
            for pid in self.processes(true)? {
                killed = kill_one(pid);
                if killed.is_err() {
                    break;
                }
            }
            // SIGKILL ends what is frozen, too.
            let empty = watch.wait(ROUND, |events| !events.populated).doing(what)?;
            if empty || killed.is_err() || begin.elapsed() > PATIENCE {
                break;
            }
        }
        if froze.is_ok() {
            self.write("cgroup.freeze", "0").doing(what)?;
        }
        killed?;
        match watch.is_populated().doing(what)? {
            false => Ok(()),
            true => Err(self.still_there()),
        }
    }

    fn still_there(&self) -> Error {
        let pids: Vec<String> = self
            .processes(true)
            .unwrap_or_default()
            .iter()
            .map(u32::to_string)
            .collect();
        Error::new(format!("cannot end the processes of the cgroup {}", self.path()))
            .because(format!(
                "{} are still there {} seconds after SIGKILL",
                pids.join(", "),
                PATIENCE.as_secs()
            ))
            .hint("they wait in the kernel, most often for a device or a network filesystem: try again later")
    }

    /// Waits until no process is left in it, at most for `patience`; whether none is.
    pub(super) fn wait_empty(&self, patience: Duration) -> Result<bool> {
        let what = || {
            format!(
                "cannot wait for the processes of the cgroup {}",
                self.path()
            )
        };
        let Some(watch) = self.watch().doing(what)? else {
            return Ok(true);
        };
        watch.wait(patience, |events| !events.populated).doing(what)
    }
}

fn kill_one(pid: u32) -> Result<()> {
    let what = || format!("cannot kill process {pid}");
    let number = i32::try_from(pid).unwrap_or(0);
    if number == 0 {
        return Err(Error::new("cannot kill a process of the cgroup")
            .because("it is outside of this pid namespace")
            .hint("whoever has it in hers must end it; Linux 5.14 and later can (cgroup.kill)"));
    }
    let pidfd = match sys::process::open_pidfd(number) {
        Err(error) if error.is(libc::ESRCH) => return Ok(()),
        opened => opened.doing(what)?,
    };
    match sys::process::send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(error) if error.is(libc::ESRCH) => Ok(()),
        sent => sent.doing(what),
    }
}

fn unfreezable(what: String, cause: sys::Error) -> Error {
    let hint = match cause.errno {
        libc::ENOENT => {
            Some("cgroup.freeze is there from Linux 5.2 on, in any cgroup but the root")
        }
        libc::EACCES | libc::EPERM => Some("the cgroup was not delegated to you"),
        libc::ENODEV => Some("the cgroup was removed meanwhile"),
        _ => None,
    };
    hint.into_iter().fold(
        Error::new(what).because_of(&cause).step(Step::Cgroup),
        Error::hint,
    )
}

#[cfg(test)]
mod tests {
    use super::super::fs::pretended;
    use super::*;

    #[test]
    fn events_are_understood() {
        let events = |populated, frozen| Some(Events { populated, frozen });
        let table = [
            ("populated 1\nfrozen 0\n", events(true, false)),
            ("populated 0\nfrozen 1\n", events(false, true)),
            ("later 1\nfrozen 1\npopulated 1\n", events(true, true)),
            ("populated 1\n", events(true, false)),
            ("frozen 1\n", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_events(text), expected, "{text:?}");
        }
    }

    #[test]
    fn where_nothing_can_be_frozen_it_is_said() {
        let (_place, dir) = pretended(&[("cgroup.events", "populated 0\nfrozen 0\n")]);
        let error = dir.freeze().unwrap_err();
        assert_eq!(error.what(), "cannot freeze the cgroup /pretended");
        assert!(error.hints().unwrap().contains("Linux 5.2"));
        assert!(!dir.is_populated().unwrap() && !dir.is_frozen().unwrap());
    }

    #[test]
    fn what_is_thawed_already_is_not_waited_for() {
        let (_place, dir) = pretended(&[
            ("cgroup.events", "populated 1\nfrozen 0\n"),
            ("cgroup.freeze", "1"),
        ]);
        dir.thaw().unwrap();
        assert_eq!(dir.read("cgroup.freeze").unwrap(), "0");
    }

    #[test]
    fn without_cgroup_kill_an_empty_cgroup_is_thawed_again() {
        let (_place, dir) = pretended(&[
            ("cgroup.events", "populated 0\nfrozen 1\n"),
            ("cgroup.freeze", ""),
        ]);
        dir.kill().unwrap();
        assert_eq!(dir.read("cgroup.freeze").unwrap(), "0");
    }
}
