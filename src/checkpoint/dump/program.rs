//! The process that becomes CRIU: in the container's user, uts, network and cgroup namespaces, as its root, in a mount namespace of
//! its own. Of these namespaces CRIU has nothing to dump then: they are its own. So is an ipc namespace that the container has
//! joined. Where the root is not the caller, it is whoever the caller is in there, with root's capabilities.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::super::criu::Criu;
use super::super::stage::{Stage, close_host};
use super::super::supervisor;
use crate::error::{Doing, Error, Result};
use crate::init;
use crate::spawn::line::{Failure, InitEnd, Report};
use crate::state::Record;
use crate::sys;
use crate::sys::ns::flag;

/// The name under which CRIU is shown the images.
pub(super) const IMAGES: &str = "images";

/// What it is given.
pub(super) struct Becoming<'a> {
    pub(super) criu: &'a Criu,
    pub(super) record: &'a Record,
    /// The container's first process.
    pub(super) init: BorrowedFd<'a>,
    /// Where the images go, and the same as an fd.
    pub(super) images: (&'a Path, BorrowedFd<'a>),
    /// CRIU's end of the conversation.
    pub(super) socket: OwnedFd,
    /// What it says before it has a log.
    pub(super) complaints: BorrowedFd<'a>,
    /// Where the listener goes, and why there is none.
    pub(super) line: InitEnd,
}

impl Becoming<'_> {
    /// Becomes CRIU. The listener of its filter is handed over before.
    pub(super) fn run(self) -> ! {
        let error = match self.prepare() {
            Err(error) => error,
            Ok(program) => match self.hand_over() {
                Err(error) => error,
                Ok(()) => program.exec(),
            },
        };
        let _nobody_to_tell = self.line.send_last(&Report::Failed(Failure::of(&error)));
        sys::process::exit_now(1)
    }

    fn prepare(&self) -> Result<super::super::criu::Program> {
        sys::ns::unshare(flag::MOUNT)
            .doing(|| "cannot make a mount namespace for CRIU".to_owned())?;
        sys::mount::make_all_slave().doing(|| "cannot leave mount propagation".to_owned())?;
        // Opened anew: what was opened before is of the mount namespace that is left.
        let (path, expected) = self.images;
        let what = || format!("cannot open {path:?}");
        let images = sys::mount::open_path(path).doing(what)?;
        if identity(&images).doing(what)? != identity(expected).doing(what)? {
            return Err(Error::new(what()).because("it is another directory by now"));
        }
        let images = sys::mount::clone_tree(&images, false, path).doing(what)?;
        // CRIU writes to the control group of a container that is paused.
        close_host(&["/proc", "/sys"])?;
        Stage::make()?.show(IMAGES, &images)?;
        if let Some(own) = &self.record.user_namespace {
            if own.setgroups {
                sys::cred::set_groups(&[])
                    .doing(|| "cannot leave the caller's groups".to_owned())?;
            }
            match (sys::cred::uid(), sys::cred::gid()) {
                (0, 0) => init::take_root_ids(&own.uid_map, &own.gid_map)?,
                // The images would be a subordinate id's, which is root in there.
                _ => keep_capabilities()?,
            }
        }
        let shared = flag::UTS | flag::NETWORK | flag::CGROUP;
        let kinds = self.record.own_namespaces() & shared;
        if kinds != 0 {
            sys::ns::join_process(self.init, kinds)
                .doing(|| "cannot join the container's namespaces".to_owned())?;
        }
        sys::cred::swap_umask(0o077);
        sys::cred::set_dumpable(true).doing(|| "cannot become dumpable".to_owned())?;
        let program = self
            .criu
            .prepare(self.socket.as_fd(), self.complaints, &[])?;
        // Ended in the middle, it may take a process of the container along: it gives up when the supervisor does.
        sys::signal::ignore_file_limit_and_ending()
            .doing(|| "cannot prepare to run CRIU".to_owned())?;
        Ok(program)
    }

    fn hand_over(&self) -> Result<()> {
        let listener = supervisor::install()?;
        self.line
            .send_listener(listener.as_fd())
            .doing(|| "cannot hand over to the supervisor".to_owned())
    }
}

/// Has a program that this process becomes without being root keep all capabilities (capabilities(7), the ambient set).
fn keep_capabilities() -> Result<()> {
    let what = || "cannot keep capabilities for CRIU".to_owned();
    let all = sys::cred::effective_set();
    sys::cred::set_capabilities(all, all, all).doing(what)?;
    for number in (0..64).filter(|number| all >> number & 1 == 1) {
        sys::cred::raise_ambient(number).doing(what)?;
    }
    Ok(())
}

/// Where CRIU finds the images.
pub(super) fn images() -> PathBuf {
    Stage::path(IMAGES)
}

fn identity(fd: impl AsFd) -> sys::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd).map_err(|e| sys::Error::new("fstat", "images", e))?;
    Ok((stat.st_dev, stat.st_ino))
}
