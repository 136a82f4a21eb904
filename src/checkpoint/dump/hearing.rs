//! Hearing the second process out, and giving up when a signal asks for that.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::pulse::Pulse;
use crate::error::{Doing, Error, Result};
use crate::plan::Note;
use crate::spawn::line::{Order, Report, RuntimeEnd};
use crate::spawn::reported;
use crate::sys;
use crate::sys::pidfd::Polled;
use crate::sys::process::Child;
use crate::sys::signal::Signals;

/// How often is looked whether the second process moves.
const LOOK: Duration = Duration::from_secs(1);

/// How much longer than CRIU the second process may do nothing.
const MARGIN: Duration = Duration::from_secs(5);

/// Hears the second process out. It is ended if it does not move any more: it opens files of the container, and one on a server that
/// is away may hold it for ever.
pub(super) struct Hearing<'a> {
    line: &'a RuntimeEnd,
    child: &'a Child,
    signals: &'a Signals,
    pulse: &'a Pulse,
    patience: Duration,
    /// When it last moved, and what its pulse was then.
    last: (Instant, u8),
    /// Whether it said that the checkpoint is whole.
    done: bool,
    /// The signal for which this was given up.
    signal: Option<i32>,
}

impl<'a> Hearing<'a> {
    pub(super) fn new(
        line: &'a RuntimeEnd,
        child: &'a Child,
        signals: &'a Signals,
        (pulse, patience): (&'a Pulse, Duration),
    ) -> Self {
        Self {
            line,
            child,
            signals,
            pulse,
            patience,
            last: (Instant::now(), pulse.now()),
            done: false,
            signal: None,
        }
    }

    /// Until it has ended.
    pub(super) fn run(mut self, notes: &mut Vec<Note>) -> Result<()> {
        let what = || "cannot hear of the dump".to_owned();
        let failed = loop {
            let (polled, has_said) = self.poll().doing(what)?;
            self.take_signal().doing(what)?;
            // What it said before it ended may have come since.
            let ended = polled == Polled::Ended;
            let has_said =
                has_said || ended && self.line.has_something(Duration::ZERO).doing(what)?;
            let over = match (has_said, polled) {
                (true, _) => self.hear(notes),
                (false, Polled::Ended) => Some(None),
                (false, Polled::Nothing) => self.look_for_life(),
                (false, Polled::Other) => None,
            };
            if let Some(failed) = over {
                break failed;
            }
        };
        let end = sys::process::wait(self.child).doing(|| "cannot wait for the dump".to_owned())?;
        match (failed, self.signal) {
            (None, _) if self.done => Ok(()),
            // The images were not whole by then.
            (_, Some(signal)) => {
                Err(Error::new("given up").because(format!("signal {signal} has come")))
            }
            (Some(error), None) => Err(error),
            (None, None) => {
                Err(Error::new("the process that supervised the dump is gone").because(end))
            }
        }
    }

    /// Waits; whether there is something on the line.
    fn poll(&self) -> sys::Result<(Polled, bool)> {
        let fds = [self.line.as_fd(), self.signals.as_fd()];
        let mut fds = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .into_iter()
            .collect();
        let polled = sys::pidfd::poll_with(self.child.pidfd.as_fd(), &mut fds, Some(LOOK))?;
        let has_said = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        Ok((polled, has_said))
    }

    /// Asks the second process to give up, once.
    fn take_signal(&mut self) -> sys::Result<()> {
        let Some(signal) = self.signals.next()? else {
            return Ok(());
        };
        if self.signal.replace(signal).is_none() {
            let asked = self.line.send(Order::Detach);
            tracing::debug!(signal, "giving up: {asked:?}");
        }
        Ok(())
    }

    /// `Some`: that was the last; why it failed, if it said so.
    fn hear(&mut self, notes: &mut Vec<Note>) -> Option<Option<Error>> {
        match self.line.receive() {
            Ok(Some((Report::Note(note), _))) => notes.push(note),
            Ok(Some((Report::Ready, _))) => self.done = true,
            Ok(Some((Report::Failed(failure), _))) => return Some(Some(reported(failure))),
            Ok(Some(_)) => {}
            Ok(None) => return Some(None),
            Err(error) => {
                let error = Error::new("cannot hear of the dump").because(error);
                return Some(Some(error));
            }
        }
        None
    }

    /// Ends it if it has not moved for too long.
    fn look_for_life(&mut self) -> Option<Option<Error>> {
        let now = self.pulse.now();
        if now != self.last.1 || now == Pulse::AT_WORK {
            self.last = (Instant::now(), now);
            return None;
        }
        if self.last.0.elapsed() <= self.patience + MARGIN {
            return None;
        }
        let killed = sys::process::send_signal_to(self.child, nix::libc::SIGKILL);
        tracing::debug!("ending the supervisor: {killed:?}");
        let error = Error::new("the process that supervises CRIU does not move any more, and was ended")
            .hint("it may wait for a file that the container has mapped, on a server that does not answer");
        Some(Some(error))
    }
}
