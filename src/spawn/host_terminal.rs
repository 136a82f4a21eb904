//! The caller's own terminal while a container's is shown on it: raw mode, and back again on every way out.
//!
//! Not even SIGKILL leaves the terminal raw: a second process of this program, which does nothing else, waits for the end
//! of the first and gives the terminal its mode back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::process::{Child, Cloned};
use crate::sys::tty::{self, Mode, Size};

/// What the guard is told: the terminal is raw, or as it was.
const RAW: u8 = b'r';
const COOKED: u8 = b'c';

/// The caller's terminal.
#[derive(Debug)]
pub struct HostTerminal {
    /// The number of the standard stream that is the terminal.
    stream: u8,
    /// Its mode, and who gives it back; only where standard input is the terminal, which alone has to be raw.
    input: Option<Input>,
    /// Standard output, opened once more for writing without waiting, where it is a terminal.
    output: Option<OwnedFd>,
}

#[derive(Debug)]
struct Input {
    mode: Mode,
    guard: Guard,
    is_raw: bool,
}

impl HostTerminal {
    /// The first of standard input, output and error that is a terminal. Nothing is changed yet.
    ///
    /// To be called before this process joins any namespace: the guard must not be in a container, and the terminal is opened
    /// through this process's own /proc.
    pub fn find() -> Result<Option<Self>> {
        let Some(stream) = (0..3).find(|stream| tty::is_terminal(standard(*stream))) else {
            return Ok(None);
        };
        let input = if stream == 0 {
            let mode = Mode::of(standard(0)).doing(|| "cannot examine the terminal".to_owned())?;
            let guard = Guard::start(&mode)?;
            Some(Input {
                mode,
                guard,
                is_raw: false,
            })
        } else {
            None
        };
        Ok(Some(Self {
            stream,
            input,
            output: tty::open_again(standard(1), 1),
        }))
    }

    /// Standard output, if it is a terminal that can be written to without waiting.
    pub fn output(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    /// Its size.
    pub fn size(&self) -> Option<Size> {
        tty::size(standard(self.stream)).ok()
    }

    /// Whether standard input is the terminal.
    pub fn is_input(&self) -> bool {
        self.input.is_some()
    }

    /// Whether standard input may be read: from the session's own terminal, only its foreground may.
    pub fn may_read(&self) -> bool {
        self.input.is_none() || !tty::in_background(standard(0))
    }

    /// Whether it is to become raw as soon as this process is in its foreground.
    pub fn waits_for_foreground(&self) -> bool {
        self.input.as_ref().is_some_and(|input| !input.is_raw)
    }

    /// After this process was stopped by a signal that cannot be blocked (SIGSTOP): whoever had the terminal meanwhile may
    /// have given it another mode, which is not ours to take back.
    pub fn look_again(&mut self) {
        let Some(input) = self.input.as_mut().filter(|input| input.is_raw) else {
            return;
        };
        let raw = input.mode.raw();
        if Mode::of(standard(0)).is_ok_and(|now| !now.treats_bytes_as(&raw)) {
            input.guard.tell(COOKED);
            input.is_raw = false;
        }
    }

    /// Makes it raw, if standard input is the terminal and this process not in its background.
    pub fn make_raw(&mut self) -> Result<()> {
        let may = self.may_read();
        let Some(input) = self.input.as_mut().filter(|input| may && !input.is_raw) else {
            return Ok(());
        };
        // What the caller has set since, while this process was stopped, is what she gets back.
        let what = || "cannot make the terminal raw".to_owned();
        input.mode = match Mode::of(standard(0)) {
            // Hung up: reading will tell.
            Err(error) if error.is(nix::libc::EIO) => return Ok(()),
            found => found.doing(what)?,
        };
        input.guard.tell(RAW);
        input.mode.raw().apply(standard(0)).doing(what)?;
        input.is_raw = true;
        Ok(())
    }

    /// Gives it the mode it had.
    pub fn restore(&mut self) {
        let Some(input) = self.input.as_mut().filter(|input| input.is_raw) else {
            return;
        };
        // A terminal that was hung up has no mode.
        let _gone = input.mode.apply(standard(0));
        input.guard.tell(COOKED);
        input.is_raw = false;
    }
}

impl Drop for HostTerminal {
    fn drop(&mut self) {
        self.restore();
    }
}

fn standard(stream: u8) -> BorrowedFd<'static> {
    match stream {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}

/// A process that gives the terminal its mode back when this one ends without having done so.
#[derive(Debug)]
struct Guard {
    /// Its end is the end of this process.
    line: Option<OwnedFd>,
    child: Child,
}

impl Guard {
    fn start(mode: &Mode) -> Result<Self> {
        let what = || "cannot start the guard of the terminal's mode".to_owned();
        let (wait, line) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))
            .doing(what)?;
        match sys::process::clone(0).doing(what)? {
            Cloned::Parent(child) => Ok(Self {
                line: Some(line),
                child,
            }),
            Cloned::Child => {
                let closed = sys::fd::close_others(sys::fd::FIRST, &[wait.as_fd()]);
                if closed.and_then(|()| sys::signal::block_all()).is_ok() {
                    watch(&wait, mode);
                }
                sys::process::exit_now(0)
            }
        }
    }

    /// One that has ended can be told nothing, and the terminal is given back by this process alone.
    fn tell(&self, state: u8) {
        if let Some(line) = &self.line {
            let _gone = rustix::io::write(line, &[state]);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.line.take();
        let _gone = sys::process::wait(&self.child);
    }
}

/// In the guard, with all signals blocked: so it may set the mode from the background (tcsetattr(3)), and outlives what
/// ends the others.
fn watch(wait: &OwnedFd, mode: &Mode) {
    let mut last = COOKED;
    let mut state = [COOKED];
    loop {
        match rustix::io::read(wait, &mut state) {
            Ok(1..) => last = state[0],
            Err(rustix::io::Errno::INTR) => {}
            _ => break,
        }
    }
    if last == RAW {
        let _gone = mode.apply(standard(0));
    }
}
