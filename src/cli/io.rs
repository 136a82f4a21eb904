//! What create, run and exec have in common: where the process's files and terminal come from, and who is told of it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::init::Preserved;
use crate::plan::{Terminal, TerminalSize};
use crate::spawn::{HostTerminal, Outlets, Receiver, Relay, WholeFile};
use crate::sys;

/// Their common options.
#[derive(Debug, clap::Args)]
pub(super) struct Io {
    /// Hand the first end of the terminal over to the socket at PATH
    ///
    /// The caller listens there (AF_UNIX, SOCK_STREAM) and gets one message with one fd, the terminal's master. It is
    /// needed where lodger returns while the process goes on (create, --detach), and of no use elsewhere.
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// Hand a pidfd of the process over to the socket at PATH
    #[arg(long, value_name = "PATH")]
    pidfd_socket: Option<PathBuf>,
    /// Write the pid of the process to FILE
    ///
    /// The file is written whole once the process is made, without a newline, and replaces what has the name.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Pass on the N files that are open from fd 3 on
    ///
    /// They keep their numbers. With LISTEN_FDS and LISTEN_PID in the environment (systemd's socket activation), those
    /// sockets are passed on without being asked for, and the N files come after them.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u32,
}

impl Io {
    /// Those of one who has nothing else.
    pub(super) fn new(console_socket: Option<PathBuf>, pid_file: Option<PathBuf>) -> Self {
        Self {
            console_socket,
            pidfd_socket: None,
            pid_file,
            preserve_fds: 0,
        }
    }

    /// What of the caller's open files is passed on (sd_listen_fds(3) for the sockets).
    pub(super) fn preserved(&self) -> Result<Preserved> {
        let own =
            std::env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(sys::process::own_pid()));
        let listening = match std::env::var("LISTEN_FDS") {
            Ok(number) if own => number.parse().map_err(|_| {
                Error::new(format!("LISTEN_FDS is no number: {number:?}"))
                    .hint("unset it, or set it to how many sockets there are from fd 3 on")
            })?,
            _ => 0u32,
        };
        let count = listening.saturating_add(self.preserve_fds);
        let open = sys::fd::inherited();
        if count > open {
            return Err(Error::new(format!(
                "unable to stat preserved-fd {} (of {count}): it is not open",
                open + 1
            ))
            .hint("--preserve-fds N and LISTEN_FDS count the files that are open from fd 3 on, without a gap"));
        }
        let names = (listening > 0).then(|| std::env::var("LISTEN_FDNAMES").ok());
        Ok(Preserved {
            listening,
            names: names.flatten(),
            count,
        })
    }

    /// Who is told of the process, which has a terminal or not and goes on without us or not.
    pub(super) fn outlets(&self, terminal: bool, detached: bool) -> Result<Outlets> {
        if terminal && detached && self.console_socket.is_none() {
            return Err(Error::new(
                "cannot allocate tty if lodger will detach without setting console socket",
            )
            .hint("give --console-socket PATH, or run it in the foreground, or without a terminal (process.terminal false)"));
        }
        if self.console_socket.is_some() && !(terminal && detached) {
            return Err(Error::new(
                "cannot use console socket if lodger will not detach or allocate tty",
            )
            .hint("--console-socket goes with a terminal (process.terminal true, -t) and with create or --detach"));
        }
        let receiver = |option, path: &Option<PathBuf>| {
            path.as_deref()
                .map(|path| Receiver::connect(option, path))
                .transpose()
        };
        Ok(Outlets {
            pid_file: self
                .pid_file
                .as_deref()
                .map(|path| WholeFile::prepare("pid file", path))
                .transpose()?,
            console: receiver("--console-socket", &self.console_socket)?,
            pidfd: receiver("--pidfd-socket", &self.pidfd_socket)?,
        })
    }
}

/// What a process in the foreground is shown on.
#[derive(Debug, Default)]
pub(super) struct Front {
    host: Option<HostTerminal>,
}

impl Front {
    /// Prepares to show a process with this terminal, if it has one and lodger stays with it. To be called before the process
    /// is made and before any namespace of a container is joined, with all signals blocked (sys::signal::block_all).
    ///
    /// A terminal without a size gets that of the caller's, so that the program finds it when it begins; a change after
    /// that is told by SIGWINCH, which waits.
    pub(super) fn prepare(terminal: Option<&mut Terminal>, detached: bool) -> Result<Self> {
        let Some(terminal) = terminal.filter(|_| !detached) else {
            return Ok(Self::default());
        };
        let host = HostTerminal::find()?;
        if let (None, Some(host)) = (terminal.size, &host) {
            terminal.size = host.size().map(|size| TerminalSize {
                rows: size.rows,
                columns: size.columns,
            });
        }
        Ok(Self { host })
    }

    /// Shows the terminal whose first end is `console`.
    pub(super) fn show(self, console: Option<OwnedFd>) -> Result<Option<Relay>> {
        console
            .map(|master| Relay::begin(master, self.host))
            .transpose()
    }
}
