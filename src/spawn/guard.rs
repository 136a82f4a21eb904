//! A restored container whose lodger is killed: from when CRIU could no longer take back what it has made, until lodger has seen that
//! the container is as closed as it was, there is somebody who ends it then.
//!
//! CRIU waits for lodger's word before it lets the processes go, but takes lodger's end for a yes: a copy of lodger's end of their
//! line is kept open by a process that ends the container first, and CRIU after it. It stays with a container in the foreground, which
//! ends with lodger.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::checkpoint::rpc::Swrk;
use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::process::{Child, Cloned};

/// What it is told, each in a packet of one byte.
mod word {
    /// The line to CRIU comes with this.
    pub(super) const LINE: u8 = b'l';
    /// CRIU comes with this (pidfd).
    pub(super) const CRIU: u8 = b'c';
    /// The container's first process comes with this (pidfd).
    pub(super) const FIRST: u8 = b'f';
    /// The container runs, and is to end with lodger.
    pub(super) const STAY: u8 = b's';
    /// It is needed no more.
    pub(super) const LEAVE: u8 = b'b';
}

/// How long the container's end is waited for once CRIU is ended, too, in milliseconds.
const PATIENCE: i32 = 10_000;

/// How long it is waited for while CRIU works, in milliseconds: nobody who is under its trace must run, so CRIU is ended after all of
/// them have been.
const UNDER_TRACE: i32 = 1_000;

/// The process that ends the container when this one has ended.
#[derive(Debug)]
pub(super) struct Guard {
    line: OwnedFd,
    child: Child,
}

impl Guard {
    /// Makes it.
    pub(super) fn make() -> Result<Self> {
        let what = || "cannot make a process that guards the restore".to_owned();
        let (line, theirs) = sys::socket::pair().doing(what)?;
        match sys::process::clone(0).doing(what)? {
            Cloned::Parent(child) => Ok(Self { line, child }),
            Cloned::Child => {
                let alone = be_alone(theirs.as_fd());
                tracing::trace!("guarding: {alone:?}");
                if alone.is_ok() {
                    watch(&theirs);
                }
                sys::process::exit_now(0)
            }
        }
    }

    /// Gives it CRIU, and a copy of the line to it.
    pub(super) fn hold(&self, line: &Swrk, criu: &Child) -> Result<()> {
        self.tell(word::CRIU, criu.pidfd.as_fd())?;
        self.tell(word::LINE, line.socket().as_fd())
    }

    /// Gives it the container's first process.
    pub(super) fn know(&self, first: &Child) -> Result<()> {
        self.tell(word::FIRST, first.pidfd.as_fd())
    }

    /// The container is whole: it ends with this process from now on, however that ends.
    pub(super) fn stay(self) {
        let told = sys::socket::send(&self.line, &[word::STAY]);
        tracing::trace!("the guard stays: {told:?}");
        // Its other end closes with this process.
        std::mem::forget(self.line);
    }

    /// The container is whole, or gone. One that was killed is missed by nobody now.
    pub(super) fn leave(self) {
        let told = sys::socket::send(&self.line, &[word::LEAVE]);
        let ended = sys::process::wait(&self.child);
        tracing::trace!("the guard leaves: {told:?}, {ended:?}");
    }

    /// One that was killed guards nothing: then the restore fails.
    fn tell(&self, word: u8, fd: BorrowedFd<'_>) -> Result<()> {
        sys::socket::send_with(&self.line, &[word], fd)
            .doing(|| "lost the process that guards the restore".to_owned())
    }
}

/// What belongs to lodger (locks, the caller's streams) ends with lodger; what a terminal's keys send is for lodger.
fn be_alone(line: BorrowedFd<'_>) -> sys::Result<()> {
    sys::cred::new_session()?;
    sys::fd::close_others(0, &[line])
}

/// Until it is told to leave, or lodger has ended.
fn watch(line: &OwnedFd) {
    let (mut to_criu, mut criu, mut first) = (None, None, None);
    while let Ok(Some(packet)) = sys::socket::receive(line) {
        match packet.content.first() {
            Some(&word::LINE) => to_criu = packet.fd,
            Some(&word::CRIU) => criu = packet.fd,
            Some(&word::FIRST) => first = packet.fd,
            Some(&word::STAY) => (to_criu, criu) = (None, None),
            _ => return,
        }
    }
    if let Some(first) = &first {
        end_before(first, criu.as_ref());
    }
    drop(to_criu);
}

/// Ends a container, whose first process this is, and then CRIU (pidfds).
///
/// CRIU traces the container's processes at the end. Whoever is traced is gone only when the tracer has seen its end, and the first
/// process is gone last, with all others of its pid namespace; but CRIU waits for one of them after another, and for the first one
/// first: neither would ever end.
fn end_before(first: &OwnedFd, criu: Option<&OwnedFd>) {
    let ended = kill_first(first);
    if let Some(criu) = criu {
        // Also where it has ended: CRIU may wait for its word for ever.
        let _it_may_have_ended = sys::process::send_signal(criu, nix::libc::SIGKILL);
    }
    if !ended {
        let _as_far_as_can_be = sys::process::wait_ended(first, PATIENCE);
    }
}

/// Ends the container whose first process this is (pidfd), while CRIU may trace it still: all of it has been sent its end then. Whether
/// it is gone.
pub(super) fn kill_first(first: &OwnedFd) -> bool {
    let _it_may_have_ended = sys::process::send_signal(first, nix::libc::SIGKILL);
    sys::process::wait_ended(first, UNDER_TRACE).is_ok_and(|ended| ended)
}
