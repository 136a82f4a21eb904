//! Between the container's terminal and the caller's standard streams: bytes, size, and the end of either side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;

use super::HostTerminal;
use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::signal::Signals;
use crate::sys::tty;

/// No more is moved at once: a pipe that poll(2) says is writable takes this much without waiting (PIPE_BUF). A terminal may
/// take less, and is written to without waiting ([`HostTerminal::output`]).
const PIECE: usize = 4096;
/// More than a terminal holds of what was written to it (8 KiB on either side, `pty_common_install` of the kernel).
const HELD: usize = 64 << 10;
/// What a terminal takes for the end of a line that was begun, and else for the end of input (VEOF, termios(3)).
const END_OF_INPUT: u8 = 4;

/// How often a job in the background looks whether it has come into the foreground, of which no signal tells.
const LOOK: Timespec = milliseconds(250);
/// How long a program that may have missed the end of input waits to be told again, in milliseconds: at first, and at most,
/// as each time takes twice as long as the one before.
const REPEAT: std::ops::Range<i64> = 50..2000;

/// Moves bytes between a container's terminal and the standard streams.
#[derive(Debug)]
pub struct Relay {
    host: Option<HostTerminal>,
    /// The container's terminal; `None` once it was hung up.
    container: Option<Container>,
    input: Piece,
    output: Piece,
    /// When the end of input is told again, in milliseconds.
    repeat: i64,
}

#[derive(Debug)]
struct Container {
    master: OwnedFd,
    /// The other end, kept open: programs may close it and open it again (/dev/console) without being taken for gone.
    other: Option<OwnedFd>,
}

impl Container {
    /// Whether everything that was typed has been read.
    fn has_read_all(&self) -> bool {
        let Some(other) = &self.other else {
            return true;
        };
        let mut fds = [PollFd::new(other, PollFlags::IN)];
        matches!(
            rustix::event::poll(&mut fds, Some(&Timespec::default())),
            Ok(0)
        )
    }
}

/// Bytes on their way in one direction.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    /// Whether more can come.
    open: bool,
}

impl Piece {
    fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(PIECE),
            open: true,
        }
    }

    fn wants_more(&self) -> bool {
        self.open && self.bytes.is_empty()
    }
}

/// What poll(2) said of one fd.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    input: bool,
    output: bool,
    master_in: bool,
    master_out: bool,
    /// Nothing came in the time there was.
    idle: bool,
}

impl Relay {
    /// Between `master`, the first end of the container's terminal, and the standard streams; `host` is the caller's
    /// terminal, if there is one. It becomes raw.
    pub fn begin(master: OwnedFd, mut host: Option<HostTerminal>) -> Result<Self> {
        let what = || "cannot use the container's terminal".to_owned();
        rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK)
            .map_err(|e| sys::Error::new("fcntl", "ptmx, F_SETFL, O_NONBLOCK", e))
            .doing(what)?;
        if let Some(host) = &mut host {
            host.make_raw()?;
        }
        let container = Container {
            other: tty::other_end(&master).ok(),
            master,
        };
        Ok(Self {
            host,
            container: Some(container),
            input: Piece::new(),
            output: Piece::new(),
            repeat: REPEAT.start,
        })
    }

    /// Whether the caller has a terminal, whose keys and size are the container's.
    pub fn has_host(&self) -> bool {
        self.host.is_some()
    }

    /// Gives the container's terminal the size of the caller's.
    pub fn follow_size(&self) {
        let size = self.host.as_ref().and_then(HostTerminal::size);
        if let (Some(container), Some(size)) = (&self.container, size) {
            // It may have been hung up a moment ago.
            let _gone = tty::set_size(&container.master, size);
        }
    }

    /// Stops this process, with the terminal as the caller knows it, until it is let go on.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(host) = &mut self.host {
            host.restore();
        }
        sys::signal::stop_here().doing(|| "cannot stop".to_owned())?;
        self.go_on()
    }

    /// After this process was stopped, or came into the foreground.
    pub fn go_on(&mut self) -> Result<()> {
        if let Some(host) = &mut self.host {
            host.look_again();
            host.make_raw()?;
        }
        self.follow_size();
        Ok(())
    }

    /// Waits until `signals` has something, or bytes were moved.
    pub fn wait(&mut self, signals: BorrowedFd<'_>) -> Result<()> {
        if let Some(host) = &mut self.host {
            host.make_raw()?;
        }
        self.tell_end_of_input();
        let ready = self.poll(signals).doing(|| "cannot wait".to_owned())?;
        if ready.idle {
            self.repeat = (2 * self.repeat).min(REPEAT.end);
        }
        self.move_some(ready);
        Ok(())
    }

    fn poll(&self, signals: BorrowedFd<'_>) -> sys::Result<Ready> {
        let wants = Ready {
            input: self.input.wants_more() && self.may_read() && self.container.is_some(),
            output: !self.output.bytes.is_empty(),
            master_in: self.output.wants_more(),
            master_out: !self.input.bytes.is_empty(),
            idle: false,
        };
        let mut fds = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        // One that is not wanted is left out: its end would be told again and again.
        let mut add = |fd, wanted: bool, flag| {
            wanted.then(|| {
                fds.push(PollFd::from_borrowed_fd(fd, flag));
                fds.len() - 1
            })
        };
        let input = add(rustix::stdio::stdin(), wants.input, PollFlags::IN);
        let output = add(self.stdout(), wants.output, PollFlags::OUT);
        let (master_in, master_out) = match &self.container {
            Some(container) => (
                add(container.master.as_fd(), wants.master_in, PollFlags::IN),
                add(container.master.as_fd(), wants.master_out, PollFlags::OUT),
            ),
            None => (None, None),
        };
        let host = self.host.as_ref();
        let limit = if self.container.is_some() && !self.input.open {
            Some(milliseconds(self.repeat))
        } else {
            host.is_some_and(HostTerminal::waits_for_foreground)
                .then_some(LOOK)
        };
        let idle = match rustix::event::poll(&mut fds, limit.as_ref()) {
            Ok(count) => count == 0,
            Err(rustix::io::Errno::INTR) => false,
            Err(e) => return Err(sys::Error::new("poll", "signalfd, terminal", e)),
        };
        let told = |place: Option<usize>| place.is_some_and(|at| !fds[at].revents().is_empty());
        Ok(Ready {
            input: told(input),
            output: told(output),
            master_in: told(master_in),
            master_out: told(master_out),
            idle,
        })
    }

    fn move_some(&mut self, ready: Ready) {
        if ready.input {
            self.read_input();
        }
        if ready.master_out {
            self.write_to_container();
        }
        if ready.master_in {
            self.read_from_container();
        }
        if ready.output {
            self.write_output();
        }
    }

    fn read_input(&mut self) {
        let ended = read(rustix::stdio::stdin(), &mut self.input).is_none();
        // Since poll(2) was called it may have come into the background, whose reading fails.
        if ended && self.may_read() {
            self.end_of_input();
        }
    }

    fn may_read(&self) -> bool {
        self.host.as_ref().is_none_or(HostTerminal::may_read)
    }

    fn stdout(&self) -> BorrowedFd<'_> {
        let host = self.host.as_ref();
        host.and_then(HostTerminal::output)
            .unwrap_or(rustix::stdio::stdout())
    }

    /// The caller's terminal has gone: so has the container's.
    fn end_of_input(&mut self) {
        self.input.open = false;
        if self.host.as_ref().is_some_and(HostTerminal::is_input) {
            self.container = None;
        }
    }

    /// The end of a file or a pipe is told as by the key for it: whenever a program has read all there is and wants more,
    /// as the end of a file stays its end. Told earlier, it would be lost to a shell that changes modes between two lines.
    fn tell_end_of_input(&mut self) {
        let idle = !self.input.open && self.input.bytes.is_empty();
        if idle && self.container.as_ref().is_some_and(Container::has_read_all) {
            self.input.bytes.push(END_OF_INPUT);
        }
    }

    fn write_to_container(&mut self) {
        let Some(container) = &self.container else {
            self.input.bytes.clear();
            return;
        };
        write(container.master.as_fd(), &mut self.input);
    }

    /// Whether there was something.
    fn read_from_container(&mut self) -> bool {
        let Some(container) = &self.container else {
            return false;
        };
        match read(container.master.as_fd(), &mut self.output) {
            Some(found) => found,
            None => {
                self.output.open = false;
                false
            }
        }
    }

    fn write_output(&mut self) {
        // Not by `stdout`, which would borrow the output too.
        let host = self.host.as_ref();
        let stdout = host
            .and_then(HostTerminal::output)
            .unwrap_or(rustix::stdio::stdout());
        write(stdout, &mut self.output);
    }

    /// Moves what the container had written when it ended, and no more: others that it has left on its terminal may write for
    /// ever. A signal ends the waiting for a reader that is slow.
    pub fn finish(mut self, signals: &Signals) -> Result<()> {
        let what = || "cannot wait".to_owned();
        let mut held = HELD;
        loop {
            while !self.output.bytes.is_empty() {
                if self.is_writable(signals).doing(what)? {
                    self.write_output();
                } else if is_asked_to_end(signals).doing(what)? {
                    return Ok(());
                }
            }
            if held == 0 || !self.output.open || !self.read_from_container() {
                return Ok(());
            }
            held = held.saturating_sub(self.output.bytes.len());
        }
    }

    /// Waits until standard output can be written to, or a signal has come; whether it was the output.
    fn is_writable(&self, signals: &Signals) -> sys::Result<bool> {
        let stdout = self.stdout();
        let mut fds = [
            PollFd::from_borrowed_fd(stdout, PollFlags::OUT),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => Ok(!fds[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(sys::Error::new("poll", "stdout, signalfd", e)),
        }
    }
}

/// Whether a signal has come that means this process, and not its terminal or its children.
fn is_asked_to_end(signals: &Signals) -> sys::Result<bool> {
    use nix::libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let asked = |signal: i32| [SIGHUP, SIGINT, SIGQUIT, SIGTERM].contains(&signal);
    Ok(signals.next()?.is_some_and(asked))
}

/// Reads a piece. `None` at the end, `Some(false)` when there is nothing now.
fn read(from: BorrowedFd<'_>, piece: &mut Piece) -> Option<bool> {
    let mut bytes = [0u8; PIECE];
    match rustix::io::read(from, &mut bytes) {
        Ok(0) => None,
        Ok(count) => {
            piece.bytes.extend_from_slice(&bytes[..count]);
            Some(true)
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Some(false),
        // EIO: all that had a pty's other end open have closed it, or a terminal was hung up.
        Err(_) => None,
    }
}

/// Writes what can be written now. A reader that went away must not hold up the other side: what is written is then nobody's.
fn write(to: BorrowedFd<'_>, piece: &mut Piece) {
    match rustix::io::write(to, &piece.bytes) {
        Ok(count) => drop(piece.bytes.drain(..count)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
        Err(_) => piece.bytes.clear(),
    }
}

const fn milliseconds(number: i64) -> Timespec {
    Timespec {
        tv_sec: number / 1000,
        tv_nsec: number % 1000 * 1_000_000,
    }
}
