//! Staying with a process until it ends: every signal that reaches this process is passed on.

use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::process::{Child, Exit};

/// Waits for the child and returns how it ended. All signals must be blocked (sys::signal::block_all) since before
/// the child was made, so that none is lost in between.
pub fn wait(child: &Child) -> Result<Exit> {
    let what = || "cannot wait for the container's process".to_owned();
    loop {
        if let Some(exit) = sys::process::try_wait(child).doing(what)? {
            return Ok(exit);
        }
        match sys::signal::next() {
            Ok(nix::libc::SIGCHLD) => {}
            Ok(signal) => forward(child, signal)?,
            Err(error) if error.is(nix::libc::EINTR) => {}
            Err(error) => return Err(error).doing(what),
        }
    }
}

fn forward(child: &Child, signal: i32) -> Result<()> {
    match sys::process::send_signal(&child.pidfd, signal) {
        // It has just ended; SIGCHLD is on its way.
        Err(error) if error.is(nix::libc::ESRCH) => Ok(()),
        sent => sent.doing(|| format!("cannot pass on signal {signal}")),
    }
}
