//! Running one hook (config.md, "POSIX-platform Hooks"), in whatever namespaces this process is.
//!
//! The hook leads a session of its own, so that no terminal's keys reach it and all of its processes can be ended. The
//! state is a file in memory: a hook that does not read it keeps nobody waiting. What it prints is for the error; once
//! it has ended nobody waits for others that it left behind.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;

use crate::error::{Doing, Error, Result};
use crate::plan::Hook;
use crate::state::{ContainerState, Record, Status};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::pidfd::Polled;
use crate::sys::process::{Child, Cloned, Exit};

/// How much of what a hook printed is told, in bytes: the end of it.
const TOLD: usize = 1024;

/// What hooks are told of their container.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// ociVersion of its config.
    pub oci_version: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Absolute path of the bundle.
    pub bundle: &'a Path,
    /// The config's annotations.
    pub annotations: &'a BTreeMap<String, String>,
}

impl<'a> Told<'a> {
    /// What hooks of container `id` are told, by its record.
    pub fn of(id: &'a str, record: &'a Record) -> Self {
        Self {
            oci_version: &record.oci_version,
            id,
            bundle: &record.bundle,
            annotations: &record.annotations,
        }
    }

    /// The state as JSON; `pid` is the container's process as the hook numbers it, if there is one.
    pub fn text(&self, status: Status, pid: Option<i32>) -> Result<String> {
        let state = ContainerState {
            oci_version: self.oci_version,
            id: self.id,
            status: status.word(),
            pid,
            bundle: self.bundle,
            annotations: self.annotations,
        };
        serde_json::to_string(&state)
            .map_err(|error| Error::new("cannot tell a hook the container's state").because(error))
    }
}

/// The file that is a hook's standard input.
pub fn state_file(text: &str) -> Result<OwnedFd> {
    sys::memfd::sealed("state", text.as_bytes())
        .doing(|| "cannot tell a hook the container's state".to_owned())
}

/// What a hook gets beside what its config says.
#[derive(Debug)]
pub struct Given<'a> {
    /// The state ([`state_file`]).
    pub state: BorrowedFd<'a>,
    /// The environment where its config has none.
    pub env: &'a [CString],
    /// Its working directory, or `/` where there is none of that name; `None`: this process's.
    pub directory: Option<&'a Path>,
    /// A line on which nothing comes as long as the hook is wanted.
    pub wanted: Option<BorrowedFd<'a>>,
}

/// What is executed.
struct Command {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// How it came to its end.
enum End {
    Ended,
    TooLate,
    NotWanted,
}

/// Runs `hook` to its end; an error if that was no success.
pub fn run(hook: &Hook, given: &Given<'_>) -> Result<()> {
    let what = || format!("cannot run the hook {} ({:?})", hook.property, hook.path);
    let command = Command::of(hook, given.env).map_err(|e| e.within(what()))?;
    let (output, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))
        .doing(what)?;
    let parent = sys::process::own_pid();
    let child = match sys::process::clone(0).doing(what)? {
        Cloned::Parent(child) => child,
        Cloned::Child => command.become_it(given, &writer, parent),
    };
    drop(writer);
    let deadline = hook
        .timeout
        .and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let mut said = Vec::new();
    let followed = follow(&child, &output, given.wanted, deadline, &mut said);
    let all_ended = match followed {
        Ok(End::Ended) => Ok(()),
        _ => sys::process::kill_group(&child),
    };
    let exit = sys::process::wait(&child).doing(what)?;
    all_ended.doing(what)?;
    judge(hook, &followed.doing(what)?, exit, &said)
}

fn judge(hook: &Hook, end: &End, exit: Exit, said: &[u8]) -> Result<()> {
    let name = format!("the hook {} ({:?})", hook.property, hook.path);
    let error = match end {
        End::Ended if exit == Exit::Code(0) => return Ok(()),
        End::Ended => Error::new(format!("{name} failed")).because(exit).hint(
            "it was run with the container's state on standard input, and no variables but those of its `env` (PATH, for one)",
        ),
        End::TooLate => Error::new(format!("{name} took too long"))
            .because(format!(
                "it was killed with all of its process group after its timeout of {} s",
                hook.timeout.unwrap_or_default()
            ))
            .hint(format!("give it more time: {}/timeout", hook.property)),
        End::NotWanted => Error::new(format!("{name} was ended"))
            .because("a signal has asked for the end of the command"),
    };
    let said = String::from_utf8_lossy(said);
    Err(match said.trim() {
        "" => error,
        said => error.because(format!("it said {said:?}")),
    })
}

impl Command {
    fn of(hook: &Hook, env: &[CString]) -> Result<Self> {
        let strings = |list: &[String]| -> Result<Vec<CString>> {
            list.iter().map(|text| c_string(text.as_bytes())).collect()
        };
        let own = hook.env.as_deref().map(strings).transpose()?;
        let mut env = own.unwrap_or_else(|| env.to_vec());
        if !is_on(Defence::HookEnvironment) {
            // What is not done: the caller's variables are the hook's too.
            let variables = std::env::vars().map(|(name, value)| format!("{name}={value}"));
            env.extend(strings(&variables.collect::<Vec<_>>())?);
        }
        Ok(Self {
            path: c_string(hook.path.as_os_str().as_bytes())?,
            args: strings(&hook.args)?,
            env,
        })
    }

    /// In the child: becomes the hook, or says why not.
    fn become_it(&self, given: &Given<'_>, output: &OwnedFd, parent: i32) -> ! {
        let _nobody_to_tell = match prepare(given, output, parent) {
            Ok(()) => {
                let error = sys::process::exec(&self.path, &self.args, &self.env);
                rustix::io::write(rustix::stdio::stderr(), error.to_string().as_bytes())
            }
            Err(error) => rustix::io::write(output, error.to_string().as_bytes()),
        };
        sys::process::exit_now(127)
    }
}

fn c_string(text: &[u8]) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new("a string of it holds a NUL byte"))
}

fn prepare(given: &Given<'_>, output: &OwnedFd, parent: i32) -> sys::Result<()> {
    sys::cred::new_session()?;
    sys::cred::die_with_parent(true)?;
    if sys::process::parent_pid() != parent {
        sys::process::exit_now(1);
    }
    sys::memfd::rewind(given.state)?;
    sys::fd::install_stdio(given.state, 0)?;
    sys::fd::install_stdio(output.as_fd(), 1)?;
    sys::fd::install_stdio(output.as_fd(), 2)?;
    if is_on(Defence::CloseFiles) {
        sys::fd::close_others(sys::fd::FIRST, &[])?;
    }
    if let Some(directory) = given.directory {
        rustix::process::chdir(directory)
            .or_else(|_| rustix::process::chdir("/"))
            .map_err(|e| sys::Error::new("chdir", "\"/\"", e))?;
    }
    sys::signal::reset_actions();
    sys::signal::unblock_all()
}

/// Waits until the hook has ended, or is to be ended. What it prints meanwhile ends up in `said`.
fn follow(
    child: &Child,
    output: &OwnedFd,
    wanted: Option<BorrowedFd<'_>>,
    deadline: Option<Instant>,
    said: &mut Vec<u8>,
) -> sys::Result<End> {
    rustix::fs::fcntl_setfl(output, OFlags::NONBLOCK)
        .map_err(|e| sys::Error::new("fcntl", "pipe, F_SETFL, O_NONBLOCK", e))?;
    let mut open = true;
    loop {
        let mut fds = Vec::new();
        if let Some(wanted) = wanted {
            fds.push(PollFd::from_borrowed_fd(wanted, PollFlags::IN));
        }
        if open {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let polled = sys::pidfd::poll_with(child.pidfd.as_fd(), &mut fds, left)?;
        if polled == Polled::Nothing {
            return Ok(End::TooLate);
        }
        let ended = polled == Polled::Ended;
        let unwanted = wanted.is_some() && !fds[0].revents().is_empty();
        open = open && take(output, said);
        if ended {
            return Ok(End::Ended);
        }
        if unwanted {
            return Ok(End::NotWanted);
        }
    }
}

/// Takes what was printed, as far as it is there; whether there can be more.
fn take(output: &OwnedFd, said: &mut Vec<u8>) -> bool {
    let mut piece = [0u8; 4096];
    // Others that the hook left behind may print for ever.
    for _ in 0..64 {
        match rustix::io::read(output, &mut piece) {
            Ok(0) => return false,
            Ok(count) => {
                said.extend_from_slice(&piece[..count]);
                let surplus = said.len().saturating_sub(TOLD);
                said.drain(..surplus);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}
