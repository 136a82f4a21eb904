//! Hooks in the caller's namespaces, run by a process that has never left them.
//!
//! `create` and `run` enter the outer user namespace before they know the config, and their hooks are to be the caller's as
//! she is: the runner is forked before that. It keeps none of her files open, and when this process goes away, however
//! that is, it ends the hook that runs, with all of its process group, and itself.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

use super::hook::{self, Given, Told};
use super::line::{Failure, shortened};
use super::reported;
use crate::error::{Doing, Error, Result};
use crate::plan::{Hook, Note};
use crate::state::{Record, Status};
use crate::sys;
use crate::sys::process::{Child, Cloned};
use crate::sys::signal::Signals;

/// The largest order: a config of 16 MiB may be one hook, and its annotations the state.
const ORDER_LIMIT: usize = 128 << 20;

/// What the runner is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    hook: Hook,
    state: String,
    directory: PathBuf,
}

/// A process that runs hooks as the caller. It ends when this is dropped.
#[derive(Debug)]
pub struct Runner {
    child: Child,
    line: OwnedFd,
}

impl Runner {
    /// Forks the runner, which stays in the namespaces that this process is in now.
    pub fn begin() -> Result<Self> {
        let what = || "cannot make a process for the hooks".to_owned();
        let (line, other) = sys::socket::pair().doing(what)?;
        match sys::process::clone(0).doing(what)? {
            Cloned::Parent(child) => Ok(Self { child, line }),
            Cloned::Child => serve(&other),
        }
    }

    /// Runs `hooks` one after the other, with `state` to read, in the bundle's `directory`; the first failure ends it.
    pub fn run<'a>(
        &self,
        hooks: impl IntoIterator<Item = &'a Hook>,
        state: &str,
        directory: &Path,
    ) -> Result<()> {
        hooks
            .into_iter()
            .try_for_each(|hook| self.run_one(hook, state, directory))
    }

    fn run_one(&self, hook: &Hook, state: &str, directory: &Path) -> Result<()> {
        let what = || format!("cannot run the hook {} ({:?})", hook.property, hook.path);
        tracing::debug!(hook = hook.property, path = ?hook.path, "running a hook");
        let order = Order {
            hook: hook.clone(),
            state: state.to_owned(),
            directory: directory.to_owned(),
        };
        let text = serde_json::to_vec(&order).map_err(|e| Error::new(what()).because(e))?;
        let order = sys::memfd::sealed("hook", &text).doing(what)?;
        sys::socket::send_with(&self.line, b"run", order.as_fd()).doing(what)?;
        self.wait().doing(what)?;
        let answer = sys::socket::receive(&self.line).doing(what)?;
        let lost = || Error::new(what()).because("the process that runs hooks has ended");
        let answer = answer.ok_or_else(lost)?;
        let failure: Option<Failure> =
            serde_json::from_slice(&answer.content).map_err(|e| Error::new(what()).because(e))?;
        failure.map_or(Ok(()), |failure| Err(reported(failure)))
    }

    /// Waits for the answer. A signal that asks this process to end, which it has blocked, ends the hook.
    fn wait(&self) -> sys::Result<()> {
        let signals = Signals::ending()?;
        loop {
            let mut fds = [
                PollFd::new(&self.line, PollFlags::IN),
                PollFd::new(&signals, PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(sys::Error::new("poll", "socket, signalfd", e)),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            if signals.next()?.is_some() {
                sys::socket::send(&self.line, b"stop")?;
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // It has nobody to tell that it could not be ended, and follows the end of this process in any case.
        if rustix::net::shutdown(&self.line, rustix::net::Shutdown::Both).is_ok() {
            let _reaped = sys::process::wait(&self.child);
        }
    }
}

/// The runner: takes orders until there is nobody who gives them.
fn serve(line: &OwnedFd) -> ! {
    if become_runner(line).is_ok() {
        while let Ok(Some(packet)) = sys::socket::receive(line) {
            // Without an order it is one to stop, which came too late.
            let Some(order) = packet.fd else { continue };
            let failure = carry_out(order, line).err().map(|e| Failure::of(&e));
            let failure = failure.as_ref().map(shortened);
            let sent = serde_json::to_vec(&failure).map(|text| sys::socket::send(line, &text));
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
        }
    }
    sys::process::exit_now(0)
}

/// No file, no terminal and no signal of the caller's: they would keep her waiting, or reach a hook.
fn become_runner(line: &OwnedFd) -> sys::Result<()> {
    sys::signal::block_all()?;
    sys::cred::new_session()?;
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|e| sys::Error::new("open", "\"/dev/null\", O_RDWR", e))?;
    for stream in 0..3 {
        sys::fd::install_stdio(null.as_fd(), stream)?;
    }
    sys::fd::close_others(sys::fd::FIRST, &[line.as_fd()])?;
    // Closed with the others.
    std::mem::forget(null);
    Ok(())
}

fn carry_out(order: OwnedFd, line: &OwnedFd) -> Result<()> {
    let what = || "cannot understand which hook to run".to_owned();
    let text = sys::path::read_limited(order, Path::new("hook"), ORDER_LIMIT).doing(what)?;
    let order: Order = serde_json::from_slice(&text).map_err(|e| Error::new(what()).because(e))?;
    let state = hook::state_file(&order.state)?;
    let given = Given {
        state: state.as_fd(),
        env: &[],
        directory: Some(&order.directory),
        wanted: Some(line.as_fd()),
    };
    hook::run(&order.hook, &given)
}

/// The `poststop` hooks of a container, to be run once it is removed.
#[derive(Debug)]
pub struct Poststop {
    hooks: Vec<Hook>,
    state: String,
    directory: PathBuf,
}

impl Poststop {
    /// Those of a container that `told` is of; `None` when there are none.
    pub fn new(hooks: &[Hook], told: Told<'_>) -> Result<Option<Self>> {
        if hooks.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            hooks: hooks.to_vec(),
            state: told.text(Status::Stopped, None)?,
            directory: told.bundle.to_owned(),
        }))
    }

    /// Those of container `id` with this record.
    pub fn of(id: &str, record: &Record) -> Result<Option<Self>> {
        Self::new(&record.hooks.poststop, Told::of(id, record))
    }

    /// Runs all of them: a failure is told, and hinders none (runtime.md, "Lifecycle").
    pub fn run(&self, runner: &Runner) -> Vec<Note> {
        let run = |hook: &Hook| runner.run([hook], &self.state, &self.directory);
        let failed = self.hooks.iter().map(|hook| (hook, run(hook).err()));
        failed
            .filter_map(|(hook, error)| Some(note(hook, &error?)))
            .collect()
    }

    /// As [`Poststop::run`], with a runner of its own: for a process that is in the caller's namespaces.
    pub fn run_here(&self) -> Vec<Note> {
        match Runner::begin() {
            Ok(runner) => self.run(&runner),
            Err(error) => self.hooks.iter().map(|hook| note(hook, &error)).collect(),
        }
    }
}

fn note(hook: &Hook, error: &Error) -> Note {
    Note::new(
        &hook.property,
        error.message(),
        error.hints().unwrap_or_else(|| {
            "the container is removed: see whether what the hook was to tidy up is still there"
                .to_owned()
        }),
    )
}
