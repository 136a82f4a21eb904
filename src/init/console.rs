//! The container's terminal: a pair made in its own devpts, never reached by a name that may mean something else a moment
//! later (CVE-2025-52565, CVE-2016-9962).

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;

use super::beneath::{Links, RootDir, make_file};
use crate::error::{Doing, Error, Result};
use crate::plan::{Process, Terminal};
use crate::spawn::line::InitEnd;
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::tty;

const PTMX: &str = "/dev/ptmx";
const HINT: &str = "a terminal needs a new devpts at /dev/pts: in config.json, the mount \
                    {\"destination\": \"/dev/pts\", \"type\": \"devpts\", \"source\": \"devpts\", \"options\": [\"newinstance\", \"ptmxmode=0666\"]}";

/// Makes a terminal, hands its first end to the runtime and returns the other.
pub(super) fn make(root: &RootDir, terminal: Terminal, line: &InitEnd) -> Result<OwnedFd> {
    let what = || "cannot make the container's terminal (/process/terminal)".to_owned();
    let master = root
        .open_terminal(Path::new(PTMX))
        .doing(what)
        .map_err(|e| e.hint(HINT))?;
    if is_on(Defence::VerifyNodes) && !tty::is_ptmx(&master).doing(what)? {
        return Err(Error::new(what())
            .because(format!("{PTMX} in the container is not the device 5:2"))
            .hint(HINT));
    }
    let other = tty::other_end(&master).doing(what)?;
    if !tty::is_pts(&other).doing(what)? {
        return Err(Error::new(what()).because("what was opened is no terminal of a devpts"));
    }
    if let Some(size) = terminal.size {
        let (rows, columns) = (size.rows, size.columns);
        tty::set_size(&master, tty::Size { rows, columns })
            .doing(|| "cannot apply /process/consoleSize".to_owned())?;
    }
    // It was opened without waiting; whoever gets it may want to wait.
    rustix::fs::fcntl_setfl(&master, OFlags::empty())
        .map_err(|e| sys::Error::new("fcntl", "ptmx, F_SETFL, 0", e))
        .doing(what)?;
    line.send_console(master.as_fd())
        .doing(|| "cannot hand the container's terminal to the runtime".to_owned())?;
    Ok(other)
}

/// Binds the terminal to /dev/console, from its fd (config.md, "terminal").
pub(super) fn bind(root: &RootDir, terminal: &OwnedFd) -> Result<()> {
    let what = || "cannot bind the container's terminal to /dev/console".to_owned();
    let path = Path::new("/dev/console");
    let directory = root
        .make_dirs(Path::new("/dev"), Links::Refused)
        .doing(what)?;
    let place = match make_file(&directory, OsStr::new("console")) {
        Err(_) if !is_on(Defence::RefuseLinks) => root.open(path, Links::InRoot),
        made => made,
    };
    let place = place.doing(what)?;
    let tree = sys::mount::clone_tree(terminal, false, path).doing(what)?;
    sys::mount::attach(&tree, &place, path).doing(what)
}

/// Makes the terminal the standard streams and the controlling terminal of this process, and the program's own.
pub(super) fn take(terminal: &OwnedFd, process: &Process) -> Result<()> {
    let what = || "cannot take the container's terminal".to_owned();
    if process.uid != 0 {
        let uid = Some(rustix::fs::Uid::from_raw(process.uid));
        rustix::fs::fchown(terminal, uid, None)
            .map_err(|e| sys::Error::new("fchown", format!("terminal, {}", process.uid), e))
            .doing(what)?;
    }
    for number in 0..3 {
        sys::fd::install_stdio(terminal.as_fd(), number).doing(what)?;
    }
    tty::control(terminal).doing(what)
}
