//! The line between the runtime and a container's init: one SOCK_SEQPACKET pair with two typed ends.
//!
//! Each end can only send what its side may say, and the runtime's side accepts messages only in the phase they belong
//! to ([`Handshake`]). What arrives is never trusted to be well-formed: a wrong byte is an error, not a panic.
//!
//! ```text
//!   runtime ──Go──▶ init      the id maps are written
//!   runtime ◀─Note─ init      something the kernel would not do, adapted (any number)
//!   runtime ◀Console init     the first end of the container's terminal, as an fd
//!   runtime ◀─Criu─ init      where it becomes CRIU: the line to that, as an fd
//!   runtime ◀Mounted init      where there are hooks: all is mounted, the root is not changed yet
//!   runtime HooksDone▶ init    the runtime's hooks have run
//!   runtime ◀Ready─ init      everything is set up
//!   runtime ─Detach▶ init     the state is recorded: outlive the runtime, wait for `start`
//!   runtime ◀Detached init
//!   runtime ──Exec─▶ init     run the program (also sent by `start`, on its own connection)
//!   runtime ◀Listener init    where the filter notifies an agent: its listener, as an fd
//!   runtime ─Proceed▶ init    the agent has it
//!   runtime ◀─EOF── init      execve succeeded: the line is close-on-exec
//!   runtime ◀Failed init      at any point instead
//! ```
//!
//! A process that joins a container (`exec`) begins with its reports, and goes from Ready to Exec.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::doctor::Step;
use crate::error::{Error, Origin};
use crate::plan::Note;
use crate::sys;

/// What the runtime tells init.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The id maps are written, and it is in its cgroup: set up the container, or join it.
    Go,
    /// The hooks in the runtime's namespaces have run: go on.
    HooksDone,
    /// The state is recorded: outlive the runtime and wait at the gate.
    Detach,
    /// Run the program.
    Exec {
        /// Whether to be killed when the runtime ends.
        die_with_runtime: bool,
    },
    /// The seccomp agent has its listener: go on.
    Proceed,
}

/// What init tells the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Something was adapted.
    Note(Note),
    /// The terminal is made: its first end comes with this.
    Console,
    /// It becomes CRIU, which has been asked already: the line to it comes with this.
    Criu,
    /// Everything is mounted, and init waits for the runtime's hooks.
    Mounted,
    /// Everything is set up but the program.
    Ready,
    /// Init no longer depends on the runtime.
    Detached,
    /// The system call filter is loaded: its listener, for the agent, comes with this.
    Listener,
    /// Init gave up.
    Failed(Failure),
}

/// Why init gave up: the runtime turns it into the one error that is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done.
    pub what: String,
    /// What stopped it.
    pub cause: Option<String>,
    /// What the reader can do.
    pub hint: Option<String>,
    /// Whether it was a hook that failed: the container is then removed (runtime.md, "Lifecycle").
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hook: bool,
    /// The system call that it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Box<Origin>>,
    /// What was being done, for a diagnosis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// The code of the cause, where it was found at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl Failure {
    /// What `error` tells.
    pub fn of(error: &Error) -> Self {
        Self {
            what: error.what().to_owned(),
            cause: error.cause(),
            hint: error.hints(),
            by_hook: false,
            origin: error.origin().cloned().map(Box::new),
            step: error.failed_step(),
            code: error.cause_code().map(str::to_owned),
        }
    }
}

/// The runtime's end.
#[derive(Debug)]
pub struct RuntimeEnd(OwnedFd);

/// Init's end.
#[derive(Debug)]
pub struct InitEnd(OwnedFd);

/// A new line.
pub fn pair() -> sys::Result<(RuntimeEnd, InitEnd)> {
    let (runtime, init) = sys::socket::pair()?;
    Ok((RuntimeEnd(runtime), InitEnd(init)))
}

impl RuntimeEnd {
    /// The end of a connection to the gate of a created container.
    pub fn over(connection: OwnedFd) -> Self {
        Self(connection)
    }

    /// Whether there is a report, or the end of the line, within `limit`.
    pub fn has_something(&self, limit: Duration) -> sys::Result<bool> {
        sys::fd::is_readable(&self.0, limit)
    }

    /// The line, for poll(2).
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Gives an order.
    pub fn send(&self, order: Order) -> sys::Result<()> {
        send(&self.0, &order)
    }

    /// Waits for a report and the fd that comes with it; `None` when init has closed its end.
    pub fn receive(&self) -> Result<Option<(Report, Option<OwnedFd>)>, ProtocolError> {
        receive(&self.0)
    }
}

impl InitEnd {
    /// The end of a connection that the gate accepted.
    pub fn over(connection: OwnedFd) -> Self {
        Self(connection)
    }

    /// Makes a report. The text of a failure or a note is cut so that it fits a packet.
    pub fn send(&self, report: &Report) -> sys::Result<()> {
        match report {
            Report::Failed(failure) => send(&self.0, &Report::Failed(shortened(failure))),
            Report::Note(note) => send(&self.0, &Report::Note(shortened_note(note))),
            other => send(&self.0, other),
        }
    }

    /// Hands over the first end of the container's terminal.
    pub fn send_console(&self, master: BorrowedFd<'_>) -> sys::Result<()> {
        sys::socket::send_with(&self.0, &packet(&Report::Console)?, master)
    }

    /// Hands over the line to CRIU.
    pub fn send_criu(&self, line: BorrowedFd<'_>) -> sys::Result<()> {
        sys::socket::send_with(&self.0, &packet(&Report::Criu)?, line)
    }

    /// As [`InitEnd::send`], for a process that may be under a filter already: one call may be allowed where another is not.
    pub fn send_last(&self, report: &Report) -> sys::Result<()> {
        let Report::Failed(failure) = report else {
            return self.send(report);
        };
        let text = packet(&Report::Failed(shortened(failure)))?;
        let path = std::path::Path::new("line");
        sys::socket::send(&self.0, &text).or_else(|_| sys::path::write_once(&self.0, &text, path))
    }

    /// Hands over the listener of the filter.
    pub fn send_listener(&self, listener: BorrowedFd<'_>) -> sys::Result<()> {
        sys::socket::send_with(&self.0, &packet(&Report::Listener)?, listener)
    }

    /// Another fd of the same end.
    pub fn try_clone(&self) -> sys::Result<Self> {
        let copy = self.0.try_clone();
        copy.map(Self)
            .map_err(|e| sys::Error::new("fcntl", "fd, F_DUPFD_CLOEXEC", e))
    }

    /// Waits for an order; `None` when the runtime is gone.
    pub fn receive(&self) -> Result<Option<Order>, ProtocolError> {
        Ok(receive(&self.0)?.map(|(order, _)| order))
    }
}

impl AsFd for InitEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn send<T: Serialize>(socket: &OwnedFd, message: &T) -> sys::Result<()> {
    sys::socket::send(socket, &packet(message)?)
}

fn packet<T: Serialize>(message: &T) -> sys::Result<Vec<u8>> {
    serde_json::to_vec(message)
        .map_err(|e| sys::Error::new("send", e.to_string(), std::io::Error::from(e)))
}

fn receive<T: for<'a> Deserialize<'a>>(
    socket: &OwnedFd,
) -> Result<Option<(T, Option<OwnedFd>)>, ProtocolError> {
    let Some(packet) = sys::socket::receive(socket).map_err(ProtocolError::Receive)? else {
        return Ok(None);
    };
    let message = serde_json::from_slice(&packet.content).map_err(|_| {
        ProtocolError::Unreadable(String::from_utf8_lossy(&packet.content).into_owned())
    })?;
    Ok(Some((message, packet.fd)))
}

/// The most characters of each of three texts that share a packet: JSON may make six bytes of one.
const LONGEST: usize = sys::socket::MAX_PACKET / 6 / 3 - 16;

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

fn fits<T: Serialize>(message: &T) -> bool {
    serde_json::to_vec(message).is_ok_and(|text| text.len() + 32 < sys::socket::MAX_PACKET)
}

/// `failure`, cut so that it fits a packet.
pub(super) fn shortened(failure: &Failure) -> Failure {
    if fits(failure) {
        return failure.clone();
    }
    Failure {
        what: cut(&failure.what),
        cause: failure.cause.as_deref().map(cut),
        hint: failure.hint.as_deref().map(cut),
        by_hook: failure.by_hook,
        // Its arguments are in the cause.
        origin: failure.origin.as_ref().map(|origin| {
            Box::new(Origin {
                call: origin.call.clone(),
                args: String::new(),
                errno: origin.errno,
            })
        }),
        step: failure.step,
        code: failure.code.clone(),
    }
}

fn shortened_note(note: &Note) -> Note {
    if fits(note) {
        return note.clone();
    }
    Note {
        property: cut(&note.property),
        reason: cut(&note.reason),
        remedy: cut(&note.remedy),
        code: note.code.clone(),
    }
}

/// Something arrived that should not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The socket failed.
    #[error("{0}")]
    Receive(sys::Error),
    /// Not a message.
    #[error("unreadable message {0:?}")]
    Unreadable(String),
    /// A message that does not belong to this phase.
    #[error("unexpected message {report:?} while {phase}")]
    Unexpected {
        /// The message.
        report: Report,
        /// What the runtime was waiting for.
        phase: Phase,
    },
    /// A listener was announced, and no fd came with it, or nobody was to get one.
    #[error("the listener of the seccomp filter did not arrive, or was not expected")]
    NoListener,
    /// A terminal was announced, and no fd came with it.
    #[error("the container's terminal did not arrive")]
    NoTerminal,
    /// The line to CRIU was announced, and no fd came with it.
    #[error("the line to CRIU did not arrive")]
    NoCriu,
    /// Init ended without a word.
    #[error("the container's process ended while {0}")]
    Ended(Phase),
}

/// What the runtime waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// For `Mounted`.
    Mounting,
    /// For `Ready`.
    SettingUp,
    /// For `Detached`.
    Detaching,
    /// For the end of the line, which is success.
    Starting,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mounting => "mounting",
            Self::SettingUp => "setting up the container",
            Self::Detaching => "detaching from the runtime",
            Self::Starting => "starting the program",
        })
    }
}

/// What a report means in a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The phase is over.
    Done,
    /// A note to keep; the phase goes on.
    Keep(Note),
    /// A terminal to keep; the phase goes on.
    Console,
    /// The line to CRIU; the phase goes on.
    Criu,
    /// A listener for the seccomp agent; the phase goes on.
    Listener,
    /// Init gave up.
    Fail(Failure),
}

/// The runtime's side of the conversation: which report may come when.
#[derive(Debug)]
pub struct Handshake;

impl Handshake {
    /// What `report` (`None`: the line has ended) means in `phase`.
    pub fn accept(phase: Phase, report: Option<Report>) -> Result<Next, ProtocolError> {
        match (phase, report) {
            (Phase::Mounting | Phase::SettingUp, Some(Report::Note(note))) => Ok(Next::Keep(note)),
            (Phase::Mounting | Phase::SettingUp, Some(Report::Console)) => Ok(Next::Console),
            (Phase::SettingUp, Some(Report::Criu)) => Ok(Next::Criu),
            (Phase::Starting, Some(Report::Listener)) => Ok(Next::Listener),
            (Phase::Mounting, Some(Report::Mounted))
            | (Phase::SettingUp, Some(Report::Ready))
            | (Phase::Detaching, Some(Report::Detached))
            | (Phase::Starting, None) => Ok(Next::Done),
            (_, Some(Report::Failed(failure))) => Ok(Next::Fail(failure)),
            (_, Some(report)) => Err(ProtocolError::Unexpected { report, phase }),
            (_, None) => Err(ProtocolError::Ended(phase)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure {
            what: "w".to_owned(),
            cause: None,
            hint: None,
            by_hook: false,
            origin: None,
            step: None,
            code: None,
        }
    }

    fn note() -> Note {
        Note {
            property: "/p".to_owned(),
            reason: "r".to_owned(),
            remedy: "m".to_owned(),
            code: None,
        }
    }

    #[test]
    fn every_report_is_accepted_in_its_phase_only() {
        let phases = [
            Phase::Mounting,
            Phase::SettingUp,
            Phase::Detaching,
            Phase::Starting,
        ];
        let reports = [
            (Some(Report::Note(note())), [true, true, false, false]),
            (Some(Report::Console), [true, true, false, false]),
            (Some(Report::Criu), [false, true, false, false]),
            (Some(Report::Mounted), [true, false, false, false]),
            (Some(Report::Ready), [false, true, false, false]),
            (Some(Report::Detached), [false, false, true, false]),
            (Some(Report::Listener), [false, false, false, true]),
            (None, [false, false, false, true]),
            (Some(Report::Failed(failure())), [true, true, true, true]),
        ];
        for (report, accepted) in reports {
            for (phase, expected) in phases.into_iter().zip(accepted) {
                let answer = Handshake::accept(phase, report.clone());
                assert_eq!(answer.is_ok(), expected, "{report:?} while {phase}");
            }
        }
    }

    #[test]
    fn a_failure_is_a_failure_in_every_phase() {
        let answer = Handshake::accept(Phase::Starting, Some(Report::Failed(failure())));
        assert_eq!(answer, Ok(Next::Fail(failure())));
    }

    #[test]
    fn messages_cross_the_line_in_order() {
        let (runtime, init) = pair().unwrap();
        runtime.send(Order::Go).unwrap();
        let exec = Order::Exec {
            die_with_runtime: true,
        };
        runtime.send(exec).unwrap();
        assert_eq!(init.receive(), Ok(Some(Order::Go)));
        assert_eq!(init.receive(), Ok(Some(exec)));
        init.send(&Report::Note(note())).unwrap();
        drop(init);
        assert_eq!(heard(&runtime), Some((Report::Note(note()), false)));
        assert_eq!(heard(&runtime), None);
    }

    /// What arrived, and whether an fd came with it.
    fn heard(runtime: &RuntimeEnd) -> Option<(Report, bool)> {
        let (report, fd) = runtime.receive().unwrap()?;
        Some((report, fd.is_some()))
    }

    #[test]
    fn a_terminal_crosses_the_line_as_an_fd() {
        let (runtime, init) = pair().unwrap();
        init.send_console(init.as_fd()).unwrap();
        init.send(&Report::Console).unwrap();
        assert_eq!(heard(&runtime), Some((Report::Console, true)));
        assert_eq!(heard(&runtime), Some((Report::Console, false)));
    }

    #[test]
    fn an_endless_failure_is_cut_to_a_packet() {
        let (runtime, init) = pair().unwrap();
        let long = Failure {
            what: "\u{1}".repeat(10_000),
            cause: Some("é".repeat(10_000)),
            hint: Some("h".repeat(10_000)),
            by_hook: true,
            origin: Some(Box::new(Origin {
                call: "mount".to_owned(),
                args: "a".repeat(10_000),
                errno: 1,
            })),
            step: Some(Step::Mount),
            code: Some("LDG-MOUNT-LSM".to_owned()),
        };
        init.send(&Report::Failed(long)).unwrap();
        assert!(matches!(
            runtime.receive(),
            Ok(Some((Report::Failed(_), None)))
        ));
    }

    #[test]
    fn noise_is_an_error() {
        let (runtime, init) = pair().unwrap();
        sys::socket::send(&init, b"\xff\x00 nonsense").unwrap();
        assert!(matches!(
            runtime.receive(),
            Err(ProtocolError::Unreadable(_))
        ));
    }
}
