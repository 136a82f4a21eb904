//! A real terminal for the program under test: what a terminal emulator would hold, with keys typed and the screen read.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::base::patient;
use crate::harness::{LIMIT, send_signal, wait_for};

/// The prompt of a shell in a container: its PS1.
pub(crate) const PROMPT: &str = "ready> ";

/// A terminal and the program that runs on it, which leads the session.
pub(crate) struct Pty {
    master: Option<OwnedFd>,
    child: Child,
    /// Everything that was on the screen.
    seen: String,
    command: String,
}

/// Files in place of the terminal, for some of the standard streams of a program on a [`Pty`].
#[derive(Default)]
pub(crate) struct Instead<'a> {
    pub(crate) stdin: Option<&'a Path>,
    pub(crate) stdout: Option<&'a Path>,
}

impl Pty {
    /// Runs `command` on a new terminal of 24 lines and 80 columns.
    pub(crate) fn spawn(command: &Command) -> Pty {
        Pty::with(command, Instead::default())
    }

    /// As [`Pty::spawn`], with some streams going elsewhere; standard error is the terminal.
    pub(crate) fn with(command: &Command, instead: Instead<'_>) -> Pty {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        resize(&master, 24, 80);
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK).unwrap();
        // setsid(1) takes its standard input for the controlling terminal; the shell then puts files in its place.
        let mut script = String::from("exec \"$@\"");
        let mut session = Command::new("/usr/bin/setsid");
        if let Some(path) = instead.stdin {
            session.env("PTY_STDIN", path);
            script.push_str(" <\"$PTY_STDIN\"");
        }
        if let Some(path) = instead.stdout {
            session.env("PTY_STDOUT", path);
            script.push_str(" >\"$PTY_STDOUT\"");
        }
        session.args(["--ctty", "/bin/sh", "-c", &script, "sh"]);
        session.arg(command.get_program()).args(command.get_args());
        if let Some(directory) = command.get_current_dir() {
            session.current_dir(directory);
        }
        session
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave);
        let child = session.spawn().unwrap();
        Pty {
            master: Some(master),
            child,
            seen: String::new(),
            command: format!("{command:?}"),
        }
    }

    /// A shell with job control on a new terminal, with `command` typed into it, and `tail` after that.
    pub(crate) fn of_shell(command: &Command, tail: &str) -> Pty {
        let mut shell = Command::new("/bin/bash");
        shell
            .args(["--norc", "--noprofile", "-i"])
            .current_dir(command.get_current_dir().unwrap());
        let mut pty = Pty::spawn(&shell);
        pty.expect("$ ");
        let words: Vec<&str> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_str().unwrap())
            .collect();
        pty.type_keys(&format!("{}{tail}\r", words.join(" ")));
        pty
    }

    fn master(&self) -> &OwnedFd {
        self.master.as_ref().expect("hung up")
    }

    /// The pid of the program.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types `keys`.
    pub(crate) fn type_keys(&self, keys: &str) {
        let mut rest = keys.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(self.master(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(rustix::io::Errno::AGAIN) => std::thread::yield_now(),
                Err(error) => panic!("typing {keys:?}: {error}"),
            }
        }
    }

    /// Takes what has come to the screen. Whether more can come.
    fn look(&mut self) -> bool {
        let mut bytes = [0u8; 4096];
        let Some(master) = &self.master else {
            return false;
        };
        loop {
            match rustix::io::read(master, &mut bytes) {
                Ok(0) => return false,
                Ok(count) => self
                    .seen
                    .push_str(&String::from_utf8_lossy(&bytes[..count])),
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Whether `text` has been on the screen; takes everything up to its end away.
    pub(crate) fn has(&mut self, text: &str) -> bool {
        self.look();
        let end = self.seen.find(text).map(|at| at + text.len());
        self.seen.drain(..end.unwrap_or(0));
        end.is_some()
    }

    /// Waits until `text` has been on the screen, and takes everything up to its end away.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let begin = Instant::now();
        loop {
            self.look();
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(
                begin.elapsed() < patient(LIMIT),
                "no {text:?} on the screen of {}: {:?}",
                self.command,
                self.seen
            );
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    }

    /// Types a line and waits until it was echoed. A shell that is told of a new size meanwhile draws its line anew, from a
    /// carriage return on.
    #[track_caller]
    pub(crate) fn line(&mut self, line: &str) {
        const ERASE: &str = "\x1b[J";
        self.type_keys(line);
        let what = format!("the echo of {line:?}");
        let taken = wait_for(&what, || {
            self.look();
            if let Some(at) = self.seen.find(line) {
                return Some(at + line.len());
            }
            let drawn = self.seen.rsplit('\r').next().unwrap_or_default();
            let whole = drawn.replace(ERASE, "").contains(line);
            whole.then_some(self.seen.len())
        });
        self.seen.drain(..taken);
        self.type_keys("\r");
    }

    /// Types a line at the prompt of a container's shell, and waits for the next prompt: what was shown in between. With
    /// each prompt waited for, a late one is never taken for the next.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.line(line);
        self.expect("\r\n");
        let mut seen = self.expect(PROMPT);
        seen.truncate(seen.len() - PROMPT.len());
        seen
    }

    /// Types a line for cat(1), and waits for its answer: it is in the foreground, and reads.
    #[track_caller]
    pub(crate) fn answered(&mut self, line: &str) {
        self.type_keys(&format!("{line}\r"));
        self.expect(&format!("{line}\r\n{line}\r\n"));
    }

    /// Changes the size of the terminal, which tells its foreground.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        resize(self.master(), rows, columns);
    }

    /// Whether lines are edited and keys echoed: a terminal as it is when nobody has made it raw.
    pub(crate) fn is_cooked(&self) -> bool {
        let modes = tcgetattr(self.master()).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Sends a signal, by name, to the program.
    pub(crate) fn signal(&self, name: &str) {
        send_signal(self.pid(), name);
    }

    /// Takes the terminal away.
    pub(crate) fn hang_up(&mut self) {
        self.master.take();
    }

    /// Waits for the end of the program: its exit code (128+n after a signal), and what was still on the screen.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> (i32, String) {
        use std::os::unix::process::ExitStatusExt;
        let begin = Instant::now();
        loop {
            self.look();
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.look();
                    let code = status
                        .code()
                        .unwrap_or_else(|| 128 + status.signal().unwrap());
                    return (code, std::mem::take(&mut self.seen));
                }
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
            assert!(
                begin.elapsed() < patient(LIMIT),
                "{} did not end: {:?}",
                self.command,
                self.seen
            );
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn resize(master: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).unwrap();
}
