//! What can only be tried: each trial is made by a child process that ends, so that this one stays as it is and nothing is left.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::readings::{Failed, Outcome, Readings, Trial};
use super::step::Step;
use crate::error::{Doing, Error, Result};
use crate::host::HostFacts;
use crate::plan::{self, Outer};
use crate::sys;
use crate::sys::process::Cloned;

pub(super) mod answering;
mod mounts;
mod namespaces;
mod storage;

/// How long one child may take: a server that does not answer must not keep doctor waiting, and a machine that is busy is no
/// reason to call a trial failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a full table of namespaces is tried again, and after which time: they go a moment after their last process.
const RETRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// The most that a child says, in bytes.
const MAX_SAID: u64 = 256 << 10;

/// One line of what a child says.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// What came of a trial.
    Trial(Trial, Outcome),
    /// Who answers a call.
    Call(String, Option<i32>),
}

/// Where a child writes what came of its trials.
struct Report(File);

impl Report {
    fn say(&mut self, said: &Said) {
        let Ok(mut line) = serde_json::to_vec(said) else {
            return;
        };
        line.push(b'\n');
        // Nobody reads on after the time is over.
        let _nobody_to_tell = self.0.write_all(&line);
    }

    /// Writes down what came of `trial`; whether it works.
    fn trial<T>(&mut self, trial: Trial, step: Step, done: Result<T>) -> Option<T> {
        let (outcome, value) = match done {
            Ok(value) => (Outcome::Works, Some(value)),
            Err(error) => (Outcome::Failed(failed(&error, step)), None),
        };
        self.say(&Said::Trial(trial, outcome));
        value
    }
}

fn failed(error: &Error, step: Step) -> Failed {
    Failed {
        origin: error.origin().cloned(),
        step: error.failed_step().or(Some(step)),
        message: error.message(),
    }
}

/// Makes all trials and adds what came of them to `readings`. `place` is the directory nearest to the store.
///
/// # Errors
/// No child process can be made.
pub(super) fn make(readings: &mut Readings, place: Option<&Path>) -> Result<()> {
    let Some(facts) = readings.facts.clone() else {
        return Ok(());
    };
    // Whether what is there does not work is what is to be found out.
    let mut hopeful = facts.clone();
    hopeful.helper_obstacle = None;
    hopeful.few_user_namespaces = None;
    let mut outer = plan::idmap::outer(&hopeful);
    let mut retries = 0;
    loop {
        let trial = trial_of(&outer);
        for said in in_child(&outer, &facts, place)? {
            match said {
                Said::Trial(trial, outcome) => drop(readings.trials.insert(trial, outcome)),
                Said::Call(call, answer) => drop(readings.calls.insert(call, answer)),
            }
        }
        let Some(failed) = readings.failed(&[trial, Trial::Inner]).cloned() else {
            return Ok(());
        };
        let limit = readings
            .kernel
            .as_ref()
            .and_then(|kernel| kernel.max_user_namespaces);
        let may_pass = failed.errno() == libc::ENOSPC && limit.is_none_or(|limit| limit > 1);
        if may_pass && retries < RETRIES {
            retries += 1;
            std::thread::sleep(PAUSE);
            continue;
        }
        if readings.works(trial) || trial == Trial::SingleId {
            return Ok(());
        }
        outer = Outer::SingleId {
            uid: facts.uid,
            gid: facts.gid,
        };
    }
}

/// Writes down that no process can be made.
pub(super) fn note_failure(readings: &mut Readings, error: &Error) {
    let failed = failed(error, Step::Process);
    readings
        .trials
        .insert(Trial::Process, Outcome::Failed(failed));
}

/// What the making of `outer` is called.
fn trial_of(outer: &Outer) -> Trial {
    match outer {
        Outer::SingleId { .. } => Trial::SingleId,
        _ => Trial::Outer,
    }
}

/// What a child says that enters `outer` and goes on from there.
fn in_child(outer: &Outer, facts: &HostFacts, place: Option<&Path>) -> Result<Vec<Said>> {
    let what = || "cannot try what this host allows".to_owned();
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))
        .doing(what)?;
    let child = match sys::process::clone(0)
        .doing(what)
        .map_err(|e| e.step(Step::Process))?
    {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(ours);
            let mut report = Report(File::from(theirs));
            if sys::cred::die_with_parent(true).is_ok() {
                let file = storage::try_attributes(place, &mut report);
                namespaces::try_all(outer, facts, file.as_ref(), &mut report);
            }
            sys::process::exit_now(0)
        }
    };
    drop(theirs);
    let text = read_until(ours, Instant::now() + PATIENCE);
    // It has ended, but where its time is over.
    let _ended_already = sys::process::send_signal(&child.pidfd, libc::SIGKILL);
    sys::process::wait(&child).doing(what)?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

/// What comes through `pipe` until it ends or `end` has come.
fn read_until(pipe: OwnedFd, end: Instant) -> Vec<u8> {
    let mut text = Vec::new();
    let mut pipe = File::from(pipe);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        let mut fds = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(1..) => {}
            _ => return text,
        }
        let mut part = [0u8; 4096];
        match pipe.read(&mut part) {
            Ok(0) | Err(_) => return text,
            Ok(size) => text.extend_from_slice(&part[..size]),
        }
        if text.len() as u64 > MAX_SAID {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_stays_open_is_not_waited_for() {
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&theirs, b"one\n").unwrap();
        let text = read_until(ours, Instant::now() + Duration::from_millis(1));
        assert_eq!(text, b"one\n");
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        let failed = Failed {
            origin: Some((&sys::Error::new("mount", "\"a\nb\"", 13)).into()),
            step: Some(Step::Mount),
            message: "a\nb".to_owned(),
        };
        let said = Said::Trial(Trial::Tmpfs, Outcome::Failed(failed));
        let line = serde_json::to_vec(&said).unwrap();
        assert!(!line.contains(&b'\n'));
        let again: Said = serde_json::from_slice(&line).unwrap();
        assert_eq!(format!("{said:?}"), format!("{again:?}"));
    }
}
