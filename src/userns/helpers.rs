//! newuidmap(1) and newgidmap(1), at work side by side on this process.
//!
//! They are started before the namespace is made, because inside it their setuid bit would mean nothing, and wait on
//! a pipe until it is. Only absolute paths from the plan are run, with an empty environment.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{explain_refusal, has_identity_maps, once_freed, record_own, wrong_maps};
use crate::error::{Doing, Error, Result};
use crate::host::IdRange;
use crate::state::OuterRecord;
use crate::sys;
use crate::sys::process::{Child, Cloned, Exit};

/// A helper prints a line or two; more is not read.
const MAX_OUTPUT: u64 = 4096;

/// Both helpers, at work.
#[derive(Debug)]
pub struct Mapping {
    helpers: [Helper; 2],
    ids: [Vec<IdRange>; 2],
}

#[derive(Debug)]
struct Helper {
    path: PathBuf,
    child: Child,
    stderr: OwnedFd,
}

/// Starts both helpers, makes the namespace and lets them go. `work` is newuidmap's, then newgidmap's.
pub(super) fn begin(work: [(&PathBuf, &Vec<IdRange>); 2]) -> Result<Mapping> {
    let what = || "cannot start the id map helpers".to_owned();
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))
        .doing(what)?;
    let [uid, gid] = work.map(|(path, ids)| start(path, ids, &wait).doing(what));
    let helpers = [uid?, gid?];
    once_freed(|| sys::ns::unshare(sys::ns::flag::USER)).map_err(explain_refusal)?;
    drop(go);
    let ids = work.map(|(_, ids)| ids.clone());
    Ok(Mapping { helpers, ids })
}

fn start(path: &Path, ids: &[IdRange], wait: &OwnedFd) -> sys::Result<Helper> {
    let (stderr, child_stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))?;
    let program = c_string(path.as_os_str().as_bytes())?;
    let args = arguments(&program, sys::process::own_pid(), ids)?;
    match sys::process::clone(0)? {
        Cloned::Parent(child) => Ok(Helper {
            path: path.to_owned(),
            child,
            stderr,
        }),
        Cloned::Child => {
            // Our copy of the writing end would keep us waiting for ever.
            let kept = sys::fd::close_others(3, &[wait.as_fd(), child_stderr.as_fd()]);
            let error = kept.and_then(|()| become_helper(&program, &args, wait, &child_stderr));
            if let Err(error) = error {
                let text = error.to_string();
                let _nobody_to_tell = rustix::io::write(&child_stderr, text.as_bytes());
            }
            sys::process::exit_now(127)
        }
    }
}

/// In the child: waits for the namespace, then runs the helper. Returns only on failure.
fn become_helper(
    program: &CString,
    args: &[CString],
    wait: &OwnedFd,
    stderr: &OwnedFd,
) -> sys::Result<()> {
    sys::fd::install_stdio(stderr.as_fd(), 2)?;
    // Stopped, it would keep us waiting, who cannot be stopped now: the job would hang for whoever pressed the key.
    sys::signal::unblock_all_but_stops()?;
    let mut byte = [0u8; 1];
    // The end of the pipe is the signal: nothing is ever written.
    rustix::io::read(wait, &mut byte).map_err(|e| sys::Error::new("read", "pipe", e))?;
    Err(sys::process::exec(program, args, &[]))
}

/// `newuidmap PID ID ID COUNT …`: every range mapped to itself.
fn arguments(program: &CString, pid: i32, ids: &[IdRange]) -> sys::Result<Vec<CString>> {
    let mut args = vec![program.clone(), c_string(pid.to_string().as_bytes())?];
    for range in ids {
        for number in [range.start, range.start, range.count] {
            args.push(c_string(number.to_string().as_bytes())?);
        }
    }
    Ok(args)
}

fn c_string(bytes: &[u8]) -> sys::Result<CString> {
    CString::new(bytes).map_err(|_| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        sys::Error::new("execve", text, nix::errno::Errno::EINVAL)
    })
}

impl Mapping {
    /// Waits for both helpers and checks what they did.
    pub(super) fn finish(self) -> Result<OuterRecord> {
        let [uids, gids] = self.ids;
        let [uid_helper, gid_helper] = self.helpers;
        // Both, before either's failure is told: none is left behind.
        let ended = [uid_helper.finish(&uids), gid_helper.finish(&gids)];
        ended.into_iter().collect::<Result<()>>()?;
        if !has_identity_maps(&uids, &gids)? {
            return Err(wrong_maps());
        }
        record_own(&uids, &gids)
    }
}

impl Helper {
    fn finish(self, ids: &[IdRange]) -> Result<()> {
        let what = || format!("cannot wait for {}", self.path.display());
        let exit = sys::process::wait(&self.child).doing(what)?;
        if exit == Exit::Code(0) {
            return Ok(());
        }
        let mut said = String::new();
        let _partial_is_fine = File::from(self.stderr)
            .take(MAX_OUTPUT)
            .read_to_string(&mut said);
        let name = self.path.display();
        let ranges: Vec<String> = ids
            .iter()
            .map(|range| format!("{}:{}", range.start, range.count))
            .collect();
        Err(Error::new(format!("{name} failed with {exit}"))
            .because(format!("it said {:?}", said.trim()))
            .hint(format!(
                "it was asked to map {}; compare /etc/subuid and /etc/subgid, and see that {name} has its setuid bit or file capabilities",
                ranges.join(" ")
            )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_mapped_to_itself() {
        let ids = [
            IdRange {
                start: 1000,
                count: 1,
            },
            IdRange {
                start: 100_000,
                count: 65_536,
            },
        ];
        let args = arguments(&c"/usr/bin/newuidmap".to_owned(), 42, &ids).unwrap();
        let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        assert_eq!(
            words.join(" "),
            "/usr/bin/newuidmap 42 1000 1000 1 100000 100000 65536"
        );
    }
}
