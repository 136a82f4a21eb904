//! Why a container could not be set up: whoever knows the most says so, in one error.

use super::line::{Failure, ProtocolError};
use crate::error::Error;
use crate::init::Stage;
use crate::sys;
use crate::sys::memory::SharedByte;
use crate::sys::process::{Child, Exit};

/// Why the conversation with init ended.
pub(super) enum Problem {
    Ours(Error),
    Line(sys::Error),
    Protocol(ProtocolError),
    Init(Failure),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl Problem {
    /// One error for the reader; `end` is how init ended and where, if that is known.
    pub(super) fn explain(self, end: Option<String>) -> Error {
        match self {
            Self::Ours(error) => error,
            Self::Init(failure) => reported(failure),
            Self::Line(cause) => {
                with_end(Error::new("lost the container's init").because(cause), end)
            }
            Self::Protocol(cause) => {
                with_end(Error::new("lost the container's init").because(cause), end)
            }
        }
    }
}

fn with_end(error: Error, end: Option<String>) -> Error {
    match end {
        Some(end) => error.because(end),
        None => error,
    }
}

/// The error that `failure` tells.
pub(crate) fn reported(failure: Failure) -> Error {
    let mut error = Error::new(failure.what);
    if let Some(cause) = failure.cause {
        error = error.because(cause);
    }
    error = error.began_with(failure.origin.map(|origin| *origin));
    if let Some(step) = failure.step {
        error = error.step(step);
    }
    if let Some(code) = failure.code {
        error = error.code(code);
    }
    if let Some(hint) = failure.hint {
        error = error.hint(hint);
    }
    error
}

/// Ends init, whatever state it is in, and makes the one error.
pub(super) fn undo(child: &Child, problem: Problem, stage: &SharedByte) -> Error {
    let end = end(child).map(|exit| {
        let place = Stage::from_number(stage.get()).map_or("unknown", Stage::describe);
        format!("{exit}, while {place}")
    });
    problem.explain(end)
}

/// Kills the child and reaps it. ESRCH is as good: it has ended by itself.
pub(super) fn end(child: &Child) -> Option<Exit> {
    let killed = sys::process::send_signal_to(child, nix::libc::SIGKILL);
    tracing::debug!("ending the process: {killed:?}");
    sys::process::wait(child).ok()
}
