//! Letting the program of a created container run: init waits for it at its gate.

use super::line::{Order, Phase, RuntimeEnd};
use super::{Heard, Problem, wait_for};
use crate::error::{Doing, Error};
use crate::seccomp::Agent;
use crate::state::{ContainerState, Entry, GATE, Record, Status};
use crate::sys;

/// A program that was not run.
#[derive(Debug)]
pub struct NotStarted {
    /// Why.
    pub error: Error,
    /// Whether a hook failed, and the container is to be removed.
    pub by_hook: bool,
}

impl From<Error> for NotStarted {
    fn from(error: Error) -> Self {
        Self {
            error,
            by_hook: false,
        }
    }
}

/// Runs the program of a container that was created (runtime.md, "start"). `record` is its own.
pub fn start(entry: &Entry, record: &Record) -> std::result::Result<(), NotStarted> {
    let mut heard = Heard::default();
    if let Some(listener) = &record.listener {
        let mut agent = Agent::connect(listener)?;
        let state = ContainerState::of(entry.id(), record, Status::Created);
        agent.introduce(record.process.pid, &state)?;
        heard.agent = Some(agent);
    }
    let what = || "cannot reach the container's init".to_owned();
    let connection = match sys::socket::connect(entry.directory(), GATE) {
        Err(error) if error.is(nix::libc::ECONNREFUSED) => {
            if !record.process.is_alive(&record.boot_id) {
                return Err(Error::new("cannot start a container that has stopped").into());
            }
            // A `start` before this one was killed after it had done its work.
            entry.remove_gate()?;
            return Err(Error::new("cannot start an already running container").into());
        }
        connected => RuntimeEnd::over(connected.doing(what)?),
    };
    let exec = Order::Exec {
        die_with_runtime: false,
    };
    connection.send(exec).doing(what)?;
    let outcome = wait_for(Phase::Starting, &connection, &mut heard);
    outcome.map_err(|problem| {
        // What waits for an agent that was not reached is under its filter already.
        if let (Some(_), Ok(Some(process))) =
            (&record.listener, record.process.open(&record.boot_id))
        {
            let killed = sys::process::send_signal(&process, nix::libc::SIGKILL);
            tracing::debug!("ending the process: {killed:?}");
        }
        NotStarted {
            by_hook: matches!(&problem, Problem::Init(failure) if failure.by_hook),
            error: problem.explain(None),
        }
    })?;
    Ok(entry.remove_gate()?)
}
