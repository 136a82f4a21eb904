//! NOTIFY_SOCKET (sd_notify(3)): what the program tells of itself goes on to the caller's service manager.
//!
//! The program gets a socket of its own (plan/notify.rs). Only lines that tell something of the program are passed on: which
//! process is the main one, or that a file be kept, is not for a container to say. Whoever starts a container and leaves waits
//! until the program is ready, and then tells the manager its pid; whoever stays is the main process herself.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::{Doing, Error, Result};
use crate::plan::Note;
use crate::state::Entry;
use crate::sys;
use crate::sys::pidfd::Polled;

/// What a program may tell (sd_notify(3)).
const PASSED_ON: [&str; 11] = [
    "READY",
    "RELOADING",
    "STOPPING",
    "STATUS",
    "ERRNO",
    "BUSERROR",
    "EXIT_STATUS",
    "MONOTONIC_USEC",
    "WATCHDOG",
    "WATCHDOG_USEC",
    "EXTEND_TIMEOUT_USEC",
];

/// How long the manager may take to have read what it was told.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many messages are passed on before anything else is looked at: as many as wait at once on most hosts
/// (net.unix.max_dgram_qlen).
const AT_ONCE: usize = 512;

/// Whether the caller has a service manager that waits to be told something.
pub fn is_wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|address| !address.is_empty())
}

/// Between the program and the manager.
#[derive(Debug)]
pub struct Notifier {
    program: OwnedFd,
    /// Connected; why not, if it could not be.
    manager: std::result::Result<OwnedFd, sys::Error>,
}

impl Notifier {
    /// Listens in the container's state directory, and connects to the caller's manager.
    pub fn begin(entry: &Entry) -> Result<Self> {
        let address = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
        Ok(Self {
            program: entry.make_notify_socket()?,
            manager: sys::socket::connect_datagram(&address, PATIENCE),
        })
    }

    /// Why nothing can be passed on, if that is so.
    pub fn complaint(&self) -> Option<Note> {
        self.manager.as_ref().err().map(not_told)
    }

    /// Where the program's messages arrive.
    pub fn program(&self) -> &OwnedFd {
        &self.program
    }

    /// Passes on what has arrived; whether the program said that it is ready. `and_then` goes with that.
    fn pass_on(&self, and_then: &str) -> sys::Result<bool> {
        let mut ready = false;
        // A program that never stops talking must not keep this process from its signals.
        for _ in 0..AT_ONCE {
            let Some(message) = sys::socket::take_datagram(&self.program)? else {
                break;
            };
            let (mut lines, is_ready) = filtered(&message);
            if is_ready && !ready {
                lines.push_str(and_then);
            }
            ready |= is_ready;
            self.send(&lines)?;
        }
        Ok(ready)
    }

    fn send(&self, lines: &str) -> sys::Result<()> {
        match &self.manager {
            Ok(manager) if !lines.is_empty() => sys::socket::send(manager, lines.as_bytes()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.clone()),
        }
    }

    /// Passes on what has arrived, for one who stays. A manager that is gone is no failure of the program.
    pub fn forward(&self) {
        if let Err(error) = self.pass_on("") {
            tracing::debug!("the service manager was not told: {error}");
        }
    }

    /// Waits until the program has said that it is ready, or has ended, for one who then leaves `pid` to the manager. Returns
    /// why that could not be passed on: then it is not waited for.
    pub fn wait_ready(&self, pid: i32, pidfd: &OwnedFd) -> Result<Option<Note>> {
        if let Some(complaint) = self.complaint() {
            return Ok(Some(complaint));
        }
        let what = || "cannot wait for the program to be ready (NOTIFY_SOCKET)".to_owned();
        let main = format!("MAINPID={pid}\n");
        loop {
            let mut fds = vec![PollFd::new(&self.program, PollFlags::IN)];
            let polled = sys::pidfd::poll_with(pidfd.as_fd(), &mut fds, None).doing(what)?;
            // Asked first: what it said before it ended has arrived.
            let ended = polled == Polled::Ended;
            match self.pass_on(&main).and_then(|ready| self.settle(ready)) {
                Ok(ready) if ready || ended => return Ok(None),
                Ok(_) => {}
                Err(error) => return Ok(Some(not_told(&error))),
            }
        }
    }

    /// Waits until the manager has read all (sd_notify_barrier(3)): it looks up who has sent a message, while that one is there.
    fn settle(&self, ready: bool) -> sys::Result<bool> {
        let (true, Ok(manager)) = (ready, &self.manager) else {
            return Ok(ready);
        };
        let (wait, handed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))?;
        sys::socket::send_with(manager, b"BARRIER=1", handed.as_fd())?;
        drop(handed);
        let limit = Timespec::try_from(PATIENCE).ok();
        let mut fds = [PollFd::new(&wait, PollFlags::IN)];
        match rustix::event::poll(&mut fds, limit.as_ref()) {
            // In the end she has waited long enough.
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(true),
            Err(e) => Err(sys::Error::new("poll", "pipe", e)),
        }
    }
}

fn not_told(error: &sys::Error) -> Note {
    let error = Error::new("what the program tells is not passed on").because(error);
    Note::new(
        "NOTIFY_SOCKET",
        error.message(),
        "unset NOTIFY_SOCKET where no service manager waits; it is an absolute path, or an abstract address after `@`",
    )
}

/// The lines of a message that are passed on, and whether one says that the program is ready.
fn filtered(message: &[u8]) -> (String, bool) {
    let message = String::from_utf8_lossy(message);
    let mut lines = String::new();
    let mut ready = false;
    for line in message.split('\n') {
        let name = line.split_once('=').map_or("", |(name, _)| name);
        if PASSED_ON.contains(&name) {
            ready |= line == "READY=1";
            lines.push_str(line);
            lines.push('\n');
        }
    }
    (lines, ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tells_of_the_program_is_passed_on() {
        let message =
            b"STATUS=a=b\nMAINPID=1\nREADY=1\nFDSTORE=1\nNOTIFYACCESS=all\n\nBARRIER=1\nX";
        assert_eq!(
            filtered(message),
            ("STATUS=a=b\nREADY=1\n".to_owned(), true)
        );
        assert_eq!(filtered(b"READY=0"), ("READY=0\n".to_owned(), false));
        assert_eq!(filtered(b""), (String::new(), false));
        let (lines, ready) = filtered(b"STATUS=\xff\x1b\nREADY=1");
        assert!(ready && lines.starts_with("STATUS="), "{lines:?}");
    }
}
