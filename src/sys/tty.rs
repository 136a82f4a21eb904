//! Terminals: pseudo-terminal pairs, modes and sizes (pty(7), ioctl_tty(2)).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FileType;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios, Winsize};

use super::{Error, Result};

/// The number of the node that makes a new pair, /dev/pts/ptmx (devices.txt of the kernel).
const PTMX: (u32, u32) = (5, 2);
/// The majors of the devices of devpts (devices.txt of the kernel).
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;
/// DEVPTS_SUPER_MAGIC of linux/magic.h.
const DEVPTS: u64 = 0x1cd1;

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    rustix::termios::isatty(fd)
}

/// Whether `fd` is the node that makes a new pair. EINVAL from [`other_end`] is what anything else would answer.
pub fn is_ptmx(fd: impl AsFd) -> Result<bool> {
    let stat = rustix::fs::fstat(fd).map_err(|e| Error::new("fstat", "ptmx", e))?;
    let number = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && number == PTMX)
}

/// Unlocks the pair whose first end is `master` and opens its other end, by the pair and not by a name that somebody may
/// have given to something else (CVE-2025-52565; TIOCGPTPEER). It does not become the controlling terminal.
pub fn other_end(master: impl AsFd) -> Result<OwnedFd> {
    rustix::pty::unlockpt(&master).map_err(|e| Error::new("ioctl", "ptmx, TIOCSPTLCK, 0", e))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    rustix::pty::ioctl_tiocgptpeer(master, flags)
        .map_err(|e| Error::new("ioctl", "ptmx, TIOCGPTPEER, O_RDWR|O_NOCTTY", e))
}

/// Whether `fd` is a terminal of a devpts filesystem.
pub fn is_pts(fd: impl AsFd) -> Result<bool> {
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::new("fstat", "terminal", e))?;
    let filesystem = rustix::fs::fstatfs(&fd).map_err(|e| Error::new("fstatfs", "terminal", e))?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && PTS_MAJORS.contains(&rustix::fs::major(stat.st_rdev));
    Ok(device && u64::try_from(filesystem.f_type) == Ok(DEVPTS))
}

/// The name of the other end of the pair whose first end is `master`, as its devpts has it.
pub fn name(master: impl AsFd) -> Result<String> {
    let name = rustix::pty::ptsname(master, Vec::new())
        .map_err(|e| Error::new("ioctl", "ptmx, TIOCGPTN", e))?;
    Ok(name.to_string_lossy().into_owned())
}

/// Makes `fd` the controlling terminal of this process, which must lead a session that has none (TIOCSCTTY).
pub fn control(fd: impl AsFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(fd).map_err(|e| Error::new("ioctl", "terminal, TIOCSCTTY", e))
}

/// The size of the terminal.
pub fn size(fd: impl AsFd) -> Result<Size> {
    let found = rustix::termios::tcgetwinsize(fd)
        .map_err(|e| Error::new("ioctl", "terminal, TIOCGWINSZ", e))?;
    Ok(Size {
        rows: found.ws_row,
        columns: found.ws_col,
    })
}

/// Sets the size of the terminal; whoever runs on it gets SIGWINCH if it is another one.
pub fn set_size(fd: impl AsFd, size: Size) -> Result<()> {
    let wanted = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(fd, wanted)
        .map_err(|e| Error::new("ioctl", format!("terminal, TIOCSWINSZ, {size:?}"), e))
}

/// The mode of a terminal (termios(3)).
#[derive(Debug, Clone)]
pub struct Mode(Termios);

impl Mode {
    /// The present mode of the terminal.
    pub fn of(fd: impl AsFd) -> Result<Self> {
        rustix::termios::tcgetattr(fd)
            .map(Self)
            .map_err(|e| Error::new("ioctl", "terminal, TCGETS", e))
    }

    /// This mode, but with every byte passed on as it is (cfmakeraw).
    pub fn raw(&self) -> Self {
        let mut raw = self.0.clone();
        raw.make_raw();
        Self(raw)
    }

    /// Gives the terminal this mode, once what was written to it has gone out.
    pub fn apply(&self, fd: impl AsFd) -> Result<()> {
        rustix::termios::tcsetattr(fd, OptionalActions::Drain, &self.0)
            .map_err(|e| Error::new("ioctl", "terminal, TCSETSW", e))
    }
}

/// Whether this process belongs to the terminal's foreground, which alone may read from it.
pub fn in_foreground(fd: impl AsFd) -> bool {
    rustix::termios::tcgetpgrp(fd).is_ok_and(|group| group == rustix::process::getpgrp())
}
