//! Staying with a process until it ends: every signal that reaches this process is passed on, and its terminal shown.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::libc::{SIGCHLD, SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH};
use rustix::event::{PollFd, PollFlags, epoll};

use super::Relay;
use super::notify::Notifier;
use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::process::{Child, Ended};
use crate::sys::signal::Signals;

/// Waits for the child and returns how it ended. All signals must be blocked (sys::signal::block_all) since before
/// the child was made, so that none is lost in between.
///
/// What the program tells of itself is passed on by `notifier`.
pub fn wait(child: &Child, mut relay: Option<Relay>, notifier: Option<&Notifier>) -> Result<Ended> {
    let what = || "cannot wait for the container's process".to_owned();
    let signals = Signals::all().doing(what)?;
    let both = notifier.map(|notifier| either(&signals, notifier.program()));
    let both = both.transpose().doing(what)?;
    let something = both.as_ref().map_or(signals.as_fd(), AsFd::as_fd);
    loop {
        if let Some(ended) = sys::process::try_wait(child).doing(what)? {
            if let Some(notifier) = notifier {
                notifier.forward();
            }
            if let Some(relay) = relay {
                relay.finish(&signals)?;
            }
            return Ok(ended);
        }
        match &mut relay {
            Some(relay) => relay.wait(something)?,
            None => wait_for(something).doing(what)?,
        }
        if let Some(notifier) = notifier {
            notifier.forward();
        }
        while let Some(signal) = signals.next().doing(what)? {
            take(signal, child, relay.as_mut())?;
        }
    }
}

/// An fd on which there is something when there is on one of the two (epoll(7)).
fn either(first: impl AsFd, second: impl AsFd) -> sys::Result<OwnedFd> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("epoll_create1", "EPOLL_CLOEXEC", e))?;
    for fd in [first.as_fd(), second.as_fd()] {
        epoll::add(
            &set,
            fd,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )
        .map_err(|e| sys::Error::new("epoll_ctl", "EPOLL_CTL_ADD, EPOLLIN", e))?;
    }
    Ok(set)
}

fn wait_for(something: BorrowedFd<'_>) -> sys::Result<()> {
    let mut fds = [PollFd::from_borrowed_fd(something, PollFlags::IN)];
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
    match sys::process::send_signal_to(child, signal) {
        // It has just ended; SIGCHLD is on its way.
        Err(error) if error.is(nix::libc::ESRCH) => Ok(()),
        sent => sent.doing(|| format!("cannot pass on signal {signal}")),
    }
}
