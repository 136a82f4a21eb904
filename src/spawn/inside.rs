//! Opening a file that belongs to one of the container's ids, with the power of its root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Error, Result};
use crate::state::{Record, once_visible};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::process::Cloned;

/// Opens `file` of `dir` for writing, in a process that has joined the container's user namespace and nothing else of it: what
/// the caller gave away she can open in there only. `what` is for messages.
pub fn open_inside(
    record: &Record,
    dir: impl AsFd,
    file: &str,
    what: impl Fn() -> String,
) -> Result<OwnedFd> {
    let gone = || Error::new(what()).because("the container's first process has ended");
    let pidfd = record.process.open(&record.boot_id)?.ok_or_else(gone)?;
    let pid = record.process.pid;
    let path = format!("/proc/{pid}/ns/user");
    let namespace =
        once_visible(pid, &pidfd, || sys::path::open_magic(Path::new(&path))).doing(&what)?;
    let (ours, theirs) = sys::socket::pair().doing(&what)?;
    let child = match sys::process::clone(0).doing(&what)? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            // Once it has joined, processes in there must not look into this one (CVE-2016-9962).
            let opened = sys::cred::set_dumpable(!is_on(Defence::NotDumpable))
                .and_then(|()| sys::ns::join_user(namespace.as_fd()))
                .and_then(|()| open(&dir, file));
            let _nobody_to_tell = match opened {
                Ok(fd) => sys::socket::send_with(&theirs, b".", fd.as_fd()),
                Err(error) => sys::socket::send(&theirs, error.to_string().as_bytes()),
            };
            sys::process::exit_now(0)
        }
    };
    drop(theirs);
    let packet = sys::socket::receive(&ours).doing(&what);
    sys::process::wait(&child).doing(&what)?;
    match packet? {
        Some(packet) => packet
            .fd
            .ok_or_else(|| Error::new(what()).because(String::from_utf8_lossy(&packet.content))),
        None => Err(Error::new(what()).because("the process that was to open it has ended")),
    }
}

fn open(dir: impl AsFd, file: &str) -> sys::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, file, flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{file:?}, O_WRONLY"), e))
}
