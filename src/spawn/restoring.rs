//! Waiting for what CRIU says while it restores, and seeing that it goes on.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::checkpoint::rpc::{Event, Swrk};
use crate::error::{Doing, Error, Result};
use crate::sys;
use crate::sys::pidfd::Polled;
use crate::sys::process::Child;
use crate::sys::signal::Signals;

/// How often is looked whether there is progress.
const LOOK: Duration = Duration::from_millis(500);

/// What is known of the container on the way.
pub(super) struct Known {
    /// The children that this process had before.
    pub(super) before: Vec<i32>,
    /// Its first process, once there is one.
    pub(super) first: Option<Child>,
    /// Whether CRIU has nothing left to do that may fail.
    pub(super) restored: bool,
    /// Signals that ask this process to end, if it has blocked them.
    pub(super) signals: Option<Signals>,
    /// On which there is something when the images are damaged; its other end closes when they are not.
    pub(super) damage: Option<OwnedFd>,
    /// What is seen of CRIU's work.
    pub(super) progress: Progress,
}

impl Known {
    /// What CRIU says next. That it was killed the line does not tell, which processes have that it was restoring; and CRIU does
    /// not notice that the first process has ended, which is no child of its own. Images that are damaged end it, too.
    pub(super) fn next(&mut self, line: &Swrk, criu: &Child, log: &Path) -> Result<Event> {
        let what = || "cannot wait for CRIU".to_owned();
        let first = self.first.as_ref().map(|first| &first.pidfd);
        let first = first.filter(|fd| !self.restored && !sys::pidfd::is_stand_in(fd));
        loop {
            if let Some(damage) = &self.damage
                && sys::fd::is_readable(damage, Duration::ZERO).doing(what)?
            {
                let mut byte = [0];
                if rustix::io::read(damage, &mut byte).is_ok_and(|count| count > 0) {
                    return Ok(Event::Gone);
                }
                self.damage = None;
            }
            let mut fds = vec![PollFd::new(line.socket(), PollFlags::IN)];
            let others = [
                self.signals.as_ref().map(AsFd::as_fd),
                first.map(AsFd::as_fd),
                self.damage.as_ref().map(AsFd::as_fd),
            ];
            let others = others.into_iter().flatten();
            fds.extend(others.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let polled =
                sys::pidfd::poll_with(criu.pidfd.as_fd(), &mut fds, Some(LOOK)).doing(what)?;
            if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
                self.progress.note();
                return line.next();
            }
            if polled == Polled::Nothing {
                self.progress
                    .look(self.first.as_ref().map(|first| first.pid), log, criu)?;
            }
            let arrived = self.signals.as_ref().map_or(Ok(None), Signals::next);
            if let Some(signal) = arrived.doing(what)? {
                return Err(Error::new("given up").because(format!("signal {signal} has come")));
            }
            let ended = first.is_some_and(|first| sys::pidfd::has_ended(first).unwrap_or(true));
            if polled == Polled::Ended || ended {
                return Ok(Event::Gone);
            }
        }
    }
}

/// What is seen of CRIU's work.
pub(super) struct Progress {
    /// How long that may be nothing.
    patience: Duration,
    /// When there was something last, and how much there was by then.
    last: (Instant, u64),
}

impl Progress {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            last: (Instant::now(), 0),
        }
    }

    /// There is some.
    fn note(&mut self) {
        self.last.0 = Instant::now();
    }

    /// Its log grows, or it reads, or the container's first process does: the images of memory.
    fn look(&mut self, first: Option<i32>, log: &Path, criu: &Child) -> Result<()> {
        let written = rustix::fs::stat(log).map_or(0, |stat| stat.st_size.unsigned_abs());
        let now = written + has_read(criu.pid) + first.map_or(0, has_read);
        if now != self.last.1 {
            self.last = (Instant::now(), now);
            return Ok(());
        }
        if self.last.0.elapsed() < self.patience {
            return Ok(());
        }
        let seconds = self.patience.as_secs_f64();
        Err(Error::new(format!(
            "CRIU has done nothing for {seconds} s, and was ended"
        ))
        .hint("--timeout gives it more time"))
    }
}

/// How much a process has read, in bytes (proc_pid_io(5)).
fn has_read(pid: i32) -> u64 {
    let path = format!("/proc/{pid}/io");
    let text = sys::path::read_regular(Path::new(&path), 4096).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let count = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}
