//! Why systemd did not do what was asked of it, and what the reader can do.

use std::path::PathBuf;

use crate::doctor::Step;
use crate::error::Error;
use crate::sys;

/// What remedy there is where systemd does not answer.
const WITHOUT: &str = "see whether `systemctl --user status` answers; to do without systemd, use --cgroup-manager cgroupfs or disabled";

/// Why systemd did not do what was asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// There is no socket of the caller's.
    #[error("no systemd of the caller's is there to ask{}", because(.passed_over))]
    NoSession {
        /// What was passed over, and why.
        passed_over: Vec<String>,
    },
    /// None of several sockets was of use.
    #[error("no systemd of the caller's answers: {}", .tried.join("; "))]
    NoneAnswers {
        /// What happened with each.
        tried: Vec<String>,
    },
    /// The socket cannot be used.
    #[error("cannot speak to systemd at {socket:?}: {error}")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the kernel answered.
        error: sys::Error,
    },
    /// Somebody else serves it.
    #[error("{socket:?} is served by uid {peer}, not by the caller's uid {uid}")]
    Stranger {
        /// The socket.
        socket: PathBuf,
        /// Who serves it.
        peer: u32,
        /// The caller.
        uid: u32,
    },
    /// It does not let the caller in.
    #[error("{socket:?} does not take the caller for who she is: {answer:?}")]
    Rejected {
        /// The socket.
        socket: PathBuf,
        /// What it answered.
        answer: String,
    },
    /// Nothing came in time.
    #[error("{socket:?} kept lodger waiting for {what} for {seconds} seconds")]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// The server has closed the connection.
    #[error("{socket:?} closed the connection while lodger waited for {what}")]
    Closed {
        /// The socket.
        socket: PathBuf,
        /// What was waited for.
        what: String,
    },
    /// What came is not D-Bus, or not an answer to what was asked.
    #[error("{socket:?} does not speak D-Bus as it should while lodger waits for {what}: {found}")]
    Garbage {
        /// The socket.
        socket: PathBuf,
        /// What was waited for.
        what: String,
        /// What is wrong.
        found: String,
    },
    /// More came than any answer has.
    #[error("{socket:?} sends a message of {bytes} bytes, and lodger takes {limit}")]
    Oversized {
        /// The socket.
        socket: PathBuf,
        /// How large it says the message is.
        bytes: usize,
        /// The largest that is taken.
        limit: usize,
    },
    /// The bus has no systemd.
    #[error("there is no systemd on the bus at {socket:?}: {answer}")]
    NoSystemd {
        /// The socket.
        socket: PathBuf,
        /// What the bus answered.
        answer: String,
    },
    /// Somebody else has the unit.
    #[error("the unit {unit} is there already, and is {state}")]
    UnitExists {
        /// The unit.
        unit: String,
        /// Its ActiveState.
        state: String,
    },
    /// The job ended otherwise than well.
    #[error("systemd's job for {unit} ended with {result:?}")]
    JobFailed {
        /// The unit.
        unit: String,
        /// Its result (JobRemoved in org.freedesktop.systemd1(5)).
        result: String,
    },
    /// systemd said no.
    #[error("systemd refuses {call} for {unit}: {name}: {message}")]
    Refused {
        /// The method.
        call: &'static str,
        /// The unit, or what else was asked for.
        unit: String,
        /// The error's name.
        name: String,
        /// The error's text.
        message: String,
    },
    /// A call that cannot be put into a message.
    #[error("cannot ask systemd for {call}: {why}")]
    Unspeakable {
        /// The method.
        call: &'static str,
        /// Why.
        why: String,
    },
    /// This process was asked to end.
    #[error("ended by signal {signal} while waiting for {what}")]
    Interrupted {
        /// The signal.
        signal: i32,
        /// What was waited for.
        what: String,
    },
}

fn because(passed_over: &[String]) -> String {
    if passed_over.is_empty() {
        return String::new();
    }
    format!(": {}", passed_over.join("; "))
}

impl BusError {
    /// What the reader can do, where that is known.
    pub fn remedy(&self) -> Option<String> {
        let remedy = match self {
            Self::NoSession { .. } => {
                "log in so that there is a session (ssh, or `machinectl shell USER@` instead of su and sudo), or let the \
                 manager stay with `loginctl enable-linger USER`; systemd needs libpam-systemd for that, and a bus the \
                 package dbus-user-session; to do without systemd, use --cgroup-manager cgroupfs or disabled"
            }
            Self::Stranger { .. } => {
                "after su or sudo the environment is another user's: unset DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR, \
                 or log in with ssh or `machinectl shell USER@`"
            }
            Self::NoSystemd { .. } => {
                "this bus was not begun by the user's systemd (dbus-launch, dbus-run-session): unset \
                 DBUS_SESSION_BUS_ADDRESS, or use --cgroup-manager cgroupfs or disabled"
            }
            Self::UnitExists { .. } => {
                "see `systemctl --user status UNIT`: stop it with `systemctl --user stop UNIT`, or give the container \
                 another name or another cgroupsPath"
            }
            Self::JobFailed { .. } => {
                "`systemctl --user status UNIT` and `journalctl --user -u UNIT` say why"
            }
            Self::Refused { name, .. } if name.ends_with(".AccessDenied") => {
                "only the user's own manager may be asked, and only as that user: see `systemctl --user status`"
            }
            Self::Refused { name, .. } if name.ends_with(".LimitsExceeded") => {
                "see `busctl --user` for who uses the bus, and stop what is not needed"
            }
            Self::Refused { name, .. } if name.ends_with(".NoSuchUnit") => {
                "its processes have ended, or the user's manager was begun anew: see `systemctl --user list-units`"
            }
            Self::Refused { .. } | Self::Unspeakable { .. } | Self::Interrupted { .. } => {
                return None;
            }
            _ => WITHOUT,
        };
        Some(remedy.to_owned())
    }

    /// Whether another socket may do better.
    pub(super) fn is_of_the_socket(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Stranger { .. }
                | Self::Rejected { .. }
                | Self::Silent { .. }
                | Self::Closed { .. }
                | Self::Garbage { .. }
                | Self::Oversized { .. }
                | Self::NoSystemd { .. }
        )
    }
}

impl From<BusError> for Error {
    fn from(error: BusError) -> Self {
        let remedy = error.remedy();
        let error = Self::new(error.to_string()).step(Step::Session);
        match remedy {
            Some(remedy) => error.hint(remedy),
            None => error,
        }
    }
}
