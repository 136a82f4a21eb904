//! Waiting for what happens to a container: its end, OOM kills, pressure. One poll(2), no thread, no look in between.
//!
//! The kernel tells of a change of memory.events and cgroup.events by POLLPRI, once per reading of the same open file
//! (Documentation/admin-guide/cgroup-v2.rst), and of pressure by a trigger that is written to the pressure file
//! (Documentation/accounting/psi.rst).

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

use super::fs::Dir;
use super::stats::{self, Psi};
use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::pidfd::Polled;

/// When pressure is told of: tasks waited for 150 ms of 2 s. Without privilege only windows of 2 s are allowed.
const TRIGGER: &[u8] = b"some 150000 2000000\0";

/// The most that one file of a cgroup holds.
const FILE: usize = 4096;

/// What has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Happened {
    /// The kernel killed a process of the container for want of memory.
    OomKill,
    /// Tasks waited for `resource` (`memory` or `cpu`) longer than they should.
    Pressure {
        /// What they waited for.
        resource: &'static str,
        /// The numbers now.
        psi: Psi,
    },
    /// An interval has passed.
    Interval,
    /// The container has ended. Nothing comes after that.
    Ended,
    /// Nobody reads any more what is written to the standard output.
    NobodyReads,
}

/// A container that is being watched.
#[derive(Debug)]
pub struct Watch {
    /// Its first process.
    pidfd: OwnedFd,
    /// cgroup.events
    events: Option<OwnedFd>,
    /// memory.events, and how many OOM kills it told of.
    memory: Option<(OwnedFd, u64)>,
    /// The pressure files with a trigger.
    triggers: Vec<(&'static str, OwnedFd)>,
    interval: Duration,
    next: Instant,
}

impl Watch {
    /// Begins to watch the container whose first process is that of `pidfd`. Of each file the first of `cgroups` that has
    /// it tells; what none can tell of is not told of.
    pub fn begin(pidfd: OwnedFd, cgroups: &[Dir], interval: Duration) -> Self {
        let read_only = |name| open(cgroups, name, OFlags::RDONLY);
        let events = read_only("cgroup.events").filter(|fd| read_again(fd).is_some());
        let memory = read_only("memory.events").and_then(|fd| {
            let kills = kills(&fd)?;
            Some((fd, kills))
        });
        let files = [("memory", "memory.pressure"), ("cpu", "cpu.pressure")];
        let triggers = files.into_iter().filter_map(|(resource, file)| {
            let fd = open(cgroups, file, OFlags::RDWR | OFlags::NONBLOCK)?;
            rustix::io::write(&fd, TRIGGER).ok().map(|_| (resource, fd))
        });
        let triggers: Vec<(&'static str, OwnedFd)> = triggers.collect();
        tracing::debug!(
            oom = memory.is_some(),
            pressure = triggers.len(),
            "watching the container"
        );
        Self {
            pidfd,
            events,
            memory,
            triggers,
            interval,
            next: Instant::now() + interval,
        }
    }

    /// Waits until something happens.
    pub fn wait(&mut self) -> Result<Vec<Happened>> {
        loop {
            let ready = self.poll().doing(|| "cannot wait".to_owned())?;
            let mut happened = Vec::new();
            if ready.nobody_reads {
                return Ok(vec![Happened::NobodyReads]);
            }
            let is_empty = ready.events && !self.is_populated();
            let has_ended = ready.ended || is_empty;
            // What killed it may be told of at the same time, or not yet.
            if ready.memory || has_ended {
                happened.extend(self.oom_kill());
            }
            happened.extend(self.pressure(&ready.triggers));
            if has_ended {
                happened.push(Happened::Ended);
            } else if Instant::now() >= self.next {
                // Those that were missed are not made up for.
                self.next = Instant::now() + self.interval;
                happened.push(Happened::Interval);
            }
            if !happened.is_empty() {
                return Ok(happened);
            }
        }
    }

    fn poll(&self) -> sys::Result<Ready> {
        let stdout = rustix::stdio::stdout();
        let mut fds = vec![
            // What is always told of (POLLERR, POLLHUP) is enough.
            PollFd::from_borrowed_fd(stdout, PollFlags::empty()),
        ];
        let cgroup = self
            .events
            .iter()
            .chain(self.memory.iter().map(|(fd, _)| fd));
        let pressure = self.triggers.iter().map(|(_, fd)| fd);
        fds.extend(
            cgroup
                .chain(pressure)
                .map(|fd| PollFd::new(fd, PollFlags::PRI)),
        );
        let left = self.next.saturating_duration_since(Instant::now());
        let polled = sys::pidfd::poll_with(self.pidfd.as_fd(), &mut fds, Some(left))?;
        let mut ready = fds.iter().map(PollFd::revents);
        let mut next = |is_there: bool| {
            let flags = if is_there { ready.next() } else { None };
            flags.unwrap_or(PollFlags::empty())
        };
        Ok(Ready {
            nobody_reads: !next(true).is_empty(),
            ended: polled == Polled::Ended,
            events: !next(self.events.is_some()).is_empty(),
            memory: !next(self.memory.is_some()).is_empty(),
            triggers: ready.collect(),
        })
    }

    fn is_populated(&self) -> bool {
        let text = self.events.as_ref().and_then(read_again);
        // One that cannot be read any more was removed.
        text.is_some_and(|text| stats::value_of(&text, "populated") == Some(1))
    }

    /// One event for all that were killed since the last look.
    fn oom_kill(&mut self) -> Option<Happened> {
        let (fd, known) = self.memory.as_mut()?;
        let Some(now) = kills(fd) else {
            // Removed: it would be ready for ever.
            self.memory = None;
            return None;
        };
        let grown = now > *known;
        *known = now;
        grown.then_some(Happened::OomKill)
    }

    fn pressure(&mut self, ready: &[PollFlags]) -> Vec<Happened> {
        let mut happened = Vec::new();
        let mut ready = ready.iter();
        self.triggers.retain(|(resource, fd)| {
            let flags = ready.next().copied().unwrap_or(PollFlags::empty());
            // Removed: it would be ready for ever.
            if flags.intersects(PollFlags::ERR | PollFlags::NVAL) {
                return false;
            }
            if flags.contains(PollFlags::PRI) {
                let psi = read_again(fd).and_then(|text| stats::psi(&text));
                happened.extend(psi.map(|psi| Happened::Pressure { resource, psi }));
            }
            true
        });
        happened
    }
}

/// Waits for `interval`; `false`: nobody reads any more what is written to the standard output.
pub fn pause(interval: Duration) -> Result<bool> {
    let end = Instant::now() + interval;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(
            rustix::stdio::stdout(),
            PollFlags::empty(),
        )];
        match rustix::event::poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(count) => return Ok(count == 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                return Err(sys::Error::new("poll", "stdout", e))
                    .doing(|| "cannot wait".to_owned());
            }
        }
    }
}

/// What poll(2) said.
struct Ready {
    nobody_reads: bool,
    ended: bool,
    events: bool,
    memory: bool,
    triggers: Vec<PollFlags>,
}

fn open(cgroups: &[Dir], name: &str, flags: OFlags) -> Option<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut opened = cgroups
        .iter()
        .filter_map(|cgroup| rustix::fs::openat(cgroup, name, flags, Mode::empty()).ok());
    opened.next()
}

/// The text now of a file that is open; `None`: it was removed.
fn read_again(fd: &OwnedFd) -> Option<String> {
    let mut text = vec![0; FILE];
    let length = rustix::io::pread(fd.as_fd(), &mut text, 0).ok()?;
    text.truncate(length);
    String::from_utf8(text).ok()
}

fn kills(fd: &OwnedFd) -> Option<u64> {
    stats::value_of(&read_again(fd)?, "oom_kill")
}
