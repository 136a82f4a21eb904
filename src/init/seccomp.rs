//! Loading the system call filter, the last thing before execve(2): everything else of ours is done by then.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::error::{Doing, Error, Result};
use crate::plan::{CapabilitySet, Process};
use crate::seccomp::Filter;
use crate::spawn::line::{InitEnd, Order};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// A filter, and what it takes to load it.
#[derive(Debug)]
pub(super) struct Loading {
    filter: Filter,
    /// Effective, permitted and inheritable capabilities with which it may be loaded; `None`: no_new_privs is enough.
    capabilities: Option<[u64; 3]>,
}

/// What has to be kept among the permitted capabilities until `filter` is loaded: without no_new_privs, CAP_SYS_ADMIN
/// (seccomp(2)). execve(2) does not look at it when it computes the program's own.
pub(super) fn needs(filter: Option<&Filter>, process: &Process) -> u64 {
    let restricted = process.no_new_privileges && is_on(Defence::NoNewPrivs);
    if filter.is_none() || restricted {
        return 0;
    }
    CapabilitySet::number("CAP_SYS_ADMIN").map_or(0, |number| 1 << number)
}

impl Loading {
    /// Keeps `filter` for a process that was given its own privileges, and what [`needs`] says.
    pub(super) fn new(filter: &Filter, process: &Process) -> Self {
        let needed = needs(Some(filter), process);
        let sets = &process.capabilities;
        Self {
            filter: filter.clone(),
            capabilities: (needed != 0).then_some([
                sets.effective.0 | needed,
                sets.permitted.0 | needed,
                sets.inheritable.0,
            ]),
        }
    }

    /// Loads the filter; every system call after that is its to decide on. Where there is an agent, the listener goes to
    /// it over `line` before this returns.
    pub(super) fn load(&self, line: &InitEnd) -> Result<()> {
        let what = || "cannot load the seccomp filter (/linux/seccomp)".to_owned();
        if !is_on(Defence::Seccomp) {
            return Ok(());
        }
        if let Some([effective, permitted, inheritable]) = self.capabilities {
            sys::cred::set_capabilities(effective, permitted, inheritable).doing(what)?;
        }
        if !self.filter.before.is_empty() {
            sys::seccomp::load(&self.filter.before, 0)
                .doing(|| "cannot load the filter of --fake-root=ignore".to_owned())?;
        }
        if self.filter.program.is_empty() {
            return Ok(());
        }
        if self.filter.notifies {
            hand_over_once_there(line)?;
        }
        let listener = sys::seccomp::load(&self.filter.program, self.filter.flags)
            .doing(what)
            .map_err(|error| {
                error.hint("the program does not run without its filter; lodger features shows the flags that this kernel knows")
            })?;
        match listener {
            None => Ok(()),
            Some(listener) => wait_handed_over(listener),
        }
    }
}

/// The listener, for the thread that hands it over.
static LISTENER: OnceLock<OwnedFd> = OnceLock::new();

/// What came of that.
static HANDED_OVER: AtomicU8 = AtomicU8::new(PENDING);
const PENDING: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// Begins a thread that hands the listener over as soon as it is there. The filter is loaded by the first thread alone:
/// this one can still send and receive, whatever the filter forbids or an agent has to be asked for. execve(2) ends it.
fn hand_over_once_there(line: &InitEnd) -> Result<()> {
    /// How often it looks.
    const PAUSE: Duration = Duration::from_micros(20);
    let what = || "cannot prepare to hand over to the seccomp agent".to_owned();
    let line = line.try_clone().doing(what)?;
    let work = move || {
        let listener = loop {
            match LISTENER.get() {
                Some(listener) => break listener,
                None => std::thread::sleep(PAUSE),
            }
        };
        let sent = line.send_listener(listener.as_fd());
        let answer = sent.is_ok().then(|| line.receive());
        let done = matches!(answer, Some(Ok(Some(Order::Proceed))));
        HANDED_OVER.store(if done { DONE } else { FAILED }, Ordering::Release);
    };
    let thread = std::thread::Builder::new().spawn(work);
    thread
        .map(|_never_joined| ())
        .map_err(|error| Error::new(what()).because(error))
}

/// Waits without a system call: to wait with one may be what the filter forbids.
fn wait_handed_over(listener: OwnedFd) -> Result<()> {
    let _it_is_the_first = LISTENER.set(listener);
    loop {
        match HANDED_OVER.load(Ordering::Acquire) {
            PENDING => std::hint::spin_loop(),
            DONE => return Ok(()),
            _ => return Err(Error::new("the seccomp agent was not reached")),
        }
    }
}
