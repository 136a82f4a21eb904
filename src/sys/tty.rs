//! Terminals: pseudo-terminal pairs, modes and sizes (pty(7), ioctl_tty(2)).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode as FileMode, OFlags};
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

    /// Whether a terminal with this mode treats bytes as one with `other` does.
    pub fn treats_bytes_as(&self, other: &Self) -> bool {
        let flags = |mode: &Termios| (mode.input_modes, mode.output_modes, mode.local_modes);
        flags(&self.0) == flags(&other.0)
    }

    /// Gives the terminal this mode. At once: what was written before has been processed by then, and a terminal that takes
    /// nothing at present would be waited for.
    pub fn apply(&self, fd: impl AsFd) -> Result<()> {
        rustix::termios::tcsetattr(fd, OptionalActions::Now, &self.0)
            .map_err(|e| Error::new("ioctl", "terminal, TCSETS", e))
    }
}

/// Whether this process is in the background of the terminal, and may not read from it. Nobody is in that of a terminal
/// that is not the session's own, or was hung up.
pub fn in_background(fd: impl AsFd) -> bool {
    let own = nix::unistd::getpgrp().as_raw();
    match rustix::termios::tcgetpgrp(fd) {
        Ok(group) => group.as_raw_nonzero().get() != own,
        // A group that this pid namespace has no number for: to getpgrp(2) that is 0.
        Err(rustix::io::Errno::OPNOTSUPP) => own != 0,
        Err(_) => false,
    }
}

/// Opens the terminal `fd`, which this process has as standard stream `stream`, once more, for writing without waiting: that
/// others have it open as well must not notice. `None` for what may be something else when it is opened again, as /dev/tty.
pub fn open_again(fd: impl AsFd, stream: u8) -> Option<OwnedFd> {
    if !is_pts(fd).is_ok_and(|pts| pts) {
        return None;
    }
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(
        CWD,
        format!("/proc/self/fd/{stream}"),
        flags,
        FileMode::empty(),
    )
    .ok()
}
