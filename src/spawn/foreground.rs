//! Staying with a process until it ends: every signal that reaches this process is passed on, and its terminal shown.

use std::os::fd::{AsFd, BorrowedFd};

use nix::libc::{SIGCHLD, SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH};
use rustix::event::{PollFd, PollFlags};

use super::Relay;
use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::process::{Child, Ended};
use crate::sys::signal::Signals;

/// Waits for the child and returns how it ended. All signals must be blocked (sys::signal::block_all) since before
/// the child was made, so that none is lost in between.
pub fn wait(child: &Child, mut relay: Option<Relay>) -> Result<Ended> {
    let what = || "cannot wait for the container's process".to_owned();
    let signals = Signals::all().doing(what)?;
    loop {
        if let Some(ended) = sys::process::try_wait(child).doing(what)? {
            if let Some(relay) = relay {
                relay.finish(&signals)?;
            }
            return Ok(ended);
        }
        match &mut relay {
            Some(relay) => relay.wait(signals.as_fd())?,
            None => wait_for_signal(signals.as_fd()).doing(what)?,
        }
        while let Some(signal) = signals.next().doing(what)? {
            take(signal, child, relay.as_mut())?;
        }
    }
}

fn wait_for_signal(signals: BorrowedFd<'_>) -> sys::Result<()> {
    let mut fds = [PollFd::from_borrowed_fd(signals, PollFlags::IN)];
    match rustix::event::poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(sys::Error::new("poll", "signalfd", e)),
    }
}

fn take(signal: i32, child: &Child, relay: Option<&mut Relay>) -> Result<()> {
    match (signal, relay.filter(|relay| relay.has_host())) {
        (SIGCHLD, _) => Ok(()),
        // What the caller's terminal does to this process; the keys themselves go to the container as bytes.
        (SIGWINCH, Some(relay)) => {
            relay.follow_size();
            Ok(())
        }
        (SIGTSTP | SIGTTIN | SIGTTOU, Some(relay)) => relay.stop(),
        (SIGCONT, Some(relay)) => relay.go_on(),
        (signal, _) => forward(child, signal),
    }
}

fn forward(child: &Child, signal: i32) -> Result<()> {
    match sys::process::send_signal(&child.pidfd, signal) {
        // It has just ended; SIGCHLD is on its way.
        Err(error) if error.is(nix::libc::ESRCH) => Ok(()),
        sent => sent.doing(|| format!("cannot pass on signal {signal}")),
    }
}
