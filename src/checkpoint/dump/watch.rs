//! Watching CRIU: its system calls are answered, what it says is heard, and it may not stand still for ever.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::super::inspect::processes::children_of;
use super::super::rpc::{Event, Swrk};
use super::super::supervisor::{Answered, Supervisor};
use super::process::Begun;
use crate::error::{Doing, Error, Result};
use crate::spawn::line::InitEnd;
use crate::sys;
use crate::sys::pidfd::Polled;
use crate::sys::process::{Child, Exit};

/// How often is looked whether there is progress.
const LOOK: Duration = Duration::from_millis(500);

/// CRIU has to say that it comes to each of some ten moments.
const MOST_SAID: u32 = 1000;

/// How CRIU ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Whether it said that all is done.
    pub(super) done: bool,
    /// Why it failed, as far as this side knows.
    pub(super) why: Option<Error>,
    /// What the supervisor refused.
    pub(super) complaint: Option<String>,
    /// Its end.
    pub(super) exit: Exit,
}

/// All that is watched.
pub(super) struct Watch<'a, 'b> {
    begun: &'a mut Begun<'b>,
    supervisor: Option<Supervisor>,
    swrk: Option<Swrk>,
    child: &'a Child,
    line: Option<&'a InitEnd>,
    done: bool,
    why: Option<Error>,
    complaint: Option<String>,
    /// Whether CRIU was ended, as it did nothing.
    is_ended: bool,
    /// How many things CRIU has said.
    heard: u32,
    /// When something last happened, and how much was written by then.
    progress: (Instant, u64),
}

impl<'a, 'b> Watch<'a, 'b> {
    pub(super) fn new(
        begun: &'a mut Begun<'b>,
        supervisor: Supervisor,
        swrk: Swrk,
        child: &'a Child,
        line: &'a InitEnd,
    ) -> Self {
        Self {
            begun,
            supervisor: Some(supervisor),
            swrk: Some(swrk),
            child,
            line: Some(line),
            done: false,
            why: None,
            complaint: None,
            is_ended: false,
            heard: 0,
            progress: (Instant::now(), 0),
        }
    }

    /// Until CRIU has ended.
    pub(super) fn run(mut self) -> Result<Ended> {
        let what = || "cannot watch CRIU".to_owned();
        loop {
            self.begun.pulse.beat();
            let (polled, ready) = self.poll().doing(what)?;
            match polled {
                Polled::Nothing => self.look_for_progress(),
                Polled::Ended | Polled::Other => {
                    self.take(ready);
                }
            }
            if polled == Polled::Ended {
                break;
            }
        }
        // What it said before it ended. Its end of the line may be open still: what it has started has a copy.
        while self.swrk.as_ref().is_some_and(Swrk::has_spoken) {
            self.hear();
        }
        let exit = sys::process::wait(self.child).doing(what)?;
        if self.begun.asked.extent.is_memory() {
            self.await_orphans().doing(what)?;
        }
        Ok(Ended {
            done: self.done,
            why: self.why,
            complaint: self.complaint,
            exit,
        })
    }

    /// Waits; which of the three has something: supervisor, conversation, line.
    fn poll(&self) -> sys::Result<(Polled, [bool; 3])> {
        let mut fds = Vec::with_capacity(4);
        let sources = [
            self.supervisor.as_ref().map(|s| (s.fd(), PollFlags::IN)),
            self.swrk
                .as_ref()
                .map(|s| (s.socket().as_fd(), PollFlags::IN)),
            // One thing is said there, to give up; and its end means the same.
            self.line.map(|line| (line.as_fd(), PollFlags::IN)),
        ];
        let mut places = [None; 3];
        for (index, source) in sources.into_iter().enumerate() {
            if let Some((fd, flags)) = source {
                places[index] = Some(fds.len());
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        let polled = sys::pidfd::poll_with(self.child.pidfd.as_fd(), &mut fds, Some(LOOK))?;
        let has = |place: Option<usize>| {
            let fd = place.and_then(|place| fds.get(place));
            fd.is_some_and(|fd| !fd.revents().is_empty())
        };
        Ok((polled, places.map(has)))
    }

    fn take(&mut self, [supervised, said, ended]: [bool; 3]) {
        if supervised {
            self.answer();
        }
        if said && self.swrk.is_some() {
            self.hear();
            self.note_progress();
        }
        if ended {
            // Nobody waits any more. Without somebody to talk to CRIU gives up, and lets the container go.
            self.line = None;
            self.swrk = None;
            self.why = Some(Error::new(
                "the dump was given up: lodger was ended, or asked to",
            ));
        }
    }

    fn answer(&mut self) {
        let Some(supervisor) = &mut self.supervisor else {
            return;
        };
        match supervisor.answer_one() {
            Ok(Answered::Some) => {
                self.complaint = supervisor.complaint().or(self.complaint.take());
                self.note_progress();
            }
            Ok(Answered::Gone) => self.supervisor = None,
            Err(error) => {
                // Closed, every call that it would have answered fails.
                self.supervisor = None;
                self.why.get_or_insert(error);
            }
        }
    }

    /// Takes one thing that CRIU says.
    fn hear(&mut self) {
        let Some(swrk) = &self.swrk else {
            return;
        };
        self.heard += 1;
        let event = match self.heard {
            0..MOST_SAID => swrk.next(),
            _ => Err(Error::new("CRIU says more than CRIU has to say")),
        };
        let over = match event {
            Ok(Event::Notify { script, .. }) => {
                tracing::debug!(script, "CRIU");
                let ready = match script.as_str() {
                    "post-dump" => self.begun.commit(),
                    _ => Ok(()),
                };
                let go_on = swrk.go_on(ready.is_ok());
                match ready.and(go_on) {
                    Ok(()) => false,
                    Err(error) => {
                        // With nobody to talk to it gives up, as with a refusal.
                        self.why.get_or_insert(error);
                        true
                    }
                }
            }
            Ok(Event::Done { .. }) => {
                self.done = true;
                // Of memory alone it does not say when it is written.
                let written = match self.begun.asked.extent.is_memory() {
                    true => self.begun.commit(),
                    false => Ok(()),
                };
                self.why = self.why.take().or(written.err());
                true
            }
            Ok(Event::Failed { errno, message }) => {
                tracing::debug!(?errno, ?message, "CRIU failed");
                true
            }
            Ok(Event::Gone) => true,
            Err(error) => {
                self.why.get_or_insert(error);
                true
            }
        };
        if over {
            self.swrk = None;
        }
    }

    /// Memory alone CRIU saves in a child of its own, which holds the container: it is answered until it has ended, too.
    fn await_orphans(&mut self) -> sys::Result<()> {
        let begin = Instant::now();
        loop {
            sys::process::reap_ended()?;
            let Some(pid) = children_of(sys::process::own_pid()).into_iter().next() else {
                return Ok(());
            };
            self.begun.pulse.beat();
            let orphan = sys::process::open_pidfd(pid)?;
            if self.is_ended || begin.elapsed() > self.begun.asked.patience {
                let killed = sys::process::send_signal(&orphan, nix::libc::SIGKILL);
                tracing::debug!(pid, "ending what CRIU has left: {killed:?}");
            }
            let mut fds = Vec::with_capacity(2);
            fds.extend(
                self.supervisor
                    .as_ref()
                    .map(|s| PollFd::from_borrowed_fd(s.fd(), PollFlags::IN)),
            );
            let polled = sys::pidfd::poll_with(orphan.as_fd(), &mut fds, Some(LOOK))?;
            if polled == Polled::Other {
                self.answer();
            }
        }
    }

    fn note_progress(&mut self) {
        self.progress.0 = Instant::now();
    }

    /// Ends a CRIU that does nothing any more: the kernel lets go what it holds.
    fn look_for_progress(&mut self) {
        let written = self.begun.volume();
        if written != self.progress.1 {
            self.progress = (Instant::now(), written);
            return;
        }
        let patience = self.begun.asked.patience;
        if self.progress.0.elapsed() < patience {
            return;
        }
        let seconds = patience.as_secs_f64();
        self.why.get_or_insert(
            Error::new(format!(
                "CRIU has done nothing for {seconds} s, and was ended"
            ))
            .hint("--timeout gives it more time"),
        );
        self.is_ended = true;
        let killed = sys::process::send_signal_to(self.child, nix::libc::SIGKILL);
        tracing::debug!("ending CRIU: {killed:?}");
        self.note_progress();
    }
}
