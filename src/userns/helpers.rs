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
use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::host::IdRange;
use crate::plan::IdMapping;
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
    /// The call, as it was made.
    call: String,
    child: Child,
    stderr: OwnedFd,
}

/// What is to be mapped by a helper: first id inside, first id outside, how many.
type Line = [u32; 3];

/// Starts both helpers, makes the namespace and lets them go. `work` is newuidmap's, then newgidmap's.
pub(super) fn begin(work: [(&PathBuf, &Vec<IdRange>); 2]) -> Result<Mapping> {
    let identity = |ids: &Vec<IdRange>| -> Vec<Line> {
        ids.iter().map(|r| [r.start, r.start, r.count]).collect()
    };
    let work_lines = work.map(|(path, ids)| (path, identity(ids)));
    let (helpers, go) = start_both(sys::process::own_pid(), work_lines)?;
    once_freed(|| sys::ns::unshare(sys::ns::flag::USER)).map_err(explain_refusal)?;
    drop(go);
    let ids = work.map(|(_, ids)| ids.clone());
    Ok(Mapping { helpers, ids })
}

/// Has both helpers map the user namespace that process `pid` was made in. `work` is newuidmap's, then newgidmap's.
pub(super) fn map(pid: i32, work: [(&PathBuf, &[IdMapping]); 2]) -> Result<()> {
    let lines = |map: &[IdMapping]| -> Vec<Line> {
        let line = |l: &IdMapping| [l.container_id, l.host_id, l.size];
        map.iter().map(line).collect()
    };
    let (helpers, go) = start_both(pid, work.map(|(path, map)| (path, lines(map))))?;
    drop(go);
    finish_both(helpers)
}

/// Both helpers, which wait until what comes with them is dropped.
fn start_both(pid: i32, work: [(&PathBuf, Vec<Line>); 2]) -> Result<([Helper; 2], OwnedFd)> {
    let what = || "cannot start the id map helpers".to_owned();
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))
        .doing(what)?;
    let [uid, gid] = work.map(|(path, lines)| start(path, pid, &lines, &wait).doing(what));
    Ok(([uid?, gid?], go))
}

fn start(path: &Path, pid: i32, lines: &[Line], wait: &OwnedFd) -> sys::Result<Helper> {
    let (stderr, child_stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))?;
    let program = c_string(path.as_os_str().as_bytes())?;
    let args = arguments(&program, pid, lines)?;
    match sys::process::clone(0)? {
        Cloned::Parent(child) => {
            let words = args.iter().map(|word| word.to_string_lossy());
            Ok(Helper {
                call: words.collect::<Vec<_>>().join(" "),
                child,
                stderr,
            })
        }
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

/// `newuidmap PID INSIDE OUTSIDE COUNT …`.
fn arguments(program: &CString, pid: i32, lines: &[Line]) -> sys::Result<Vec<CString>> {
    let mut args = vec![program.clone(), c_string(pid.to_string().as_bytes())?];
    for number in lines.iter().flatten() {
        args.push(c_string(number.to_string().as_bytes())?);
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
        finish_both(self.helpers)?;
        if !has_identity_maps(&uids, &gids)? {
            return Err(wrong_maps());
        }
        record_own(&uids, &gids)
    }
}

/// Waits for both, before either's failure is told: none is left behind.
fn finish_both(helpers: [Helper; 2]) -> Result<()> {
    let mut failed = Vec::new();
    for helper in helpers {
        failed.extend(helper.finish()?);
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(failure(&failed))
}

/// A helper that failed: its call, its exit, what it said.
struct Failed {
    call: String,
    exit: Exit,
    said: String,
}

impl Helper {
    fn finish(self) -> Result<Option<Failed>> {
        let what = || format!("cannot wait for {:?}", self.call);
        let exit = sys::process::wait(&self.child).doing(what)?;
        if exit == Exit::Code(0) {
            return Ok(None);
        }
        let mut said = String::new();
        let _partial_is_fine = File::from(self.stderr)
            .take(MAX_OUTPUT)
            .read_to_string(&mut said);
        Ok(Some(Failed {
            call: self.call,
            exit,
            said: said.trim().to_owned(),
        }))
    }
}

/// The error of helpers that failed though nothing was read that keeps them from their work.
fn failure(failed: &[Failed]) -> Error {
    let names: Vec<&str> = failed
        .iter()
        .map(|one| one.call.split(' ').next().unwrap_or_default())
        .collect();
    let error = Error::new(format!("{} failed", names.join(" and "))).step(Step::IdHelper);
    let error = failed.iter().fold(error, |error, one| {
        error.because(format!(
            "`{}`: {}: it said {:?}",
            one.call, one.exit, one.said
        ))
    });
    let says = |words: &str| failed.iter().any(|one| one.said.contains(words));
    if says("Read-only file system") {
        return error
            .code("LDG-PROC-READONLY")
            .hint("/proc is read-only here, and no id map can be written: ask whoever started the container around this session for a writable /proc");
    }
    let (code, hint) = if says("overflow detected") {
        (
            "LDG-SUBID-OVERFLOW",
            "a range in /etc/subuid or /etc/subgid goes beyond the last id: ask the administrator to correct it",
        )
    } else if says("not allowed") {
        (
            "LDG-HELPER-FAILED",
            "/etc/subuid and /etc/subgid do not give you these ids any more, or another source than lodger asks does: compare `getsubids` and `getsubids -g` with the call",
        )
    } else {
        (
            "LDG-HELPER-FAILED",
            "nothing was found that takes its privilege: a security module or a filter around this session may; ask the administrator, with the call",
        )
    };
    error
        .code(code)
        .hint(hint)
        .hint("lodger --single-id runs without it, with your own id alone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_has_every_line() {
        let lines = [[0, 1000, 1], [1, 100_000, 65_536]];
        let args = arguments(&c"/usr/bin/newuidmap".to_owned(), 42, &lines).unwrap();
        let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        assert_eq!(
            words.join(" "),
            "/usr/bin/newuidmap 42 0 1000 1 1 100000 65536"
        );
    }

    #[test]
    fn a_failure_has_both_calls_their_words_and_a_code() {
        let failed = |name: &str, said: &str| Failed {
            call: format!("/usr/bin/{name} 7 0 1000 1"),
            exit: Exit::Code(1),
            said: said.to_owned(),
        };
        for (said, code, hint) in [
            (
                "newuidmap: write to uid_map failed: Operation not permitted",
                "LDG-HELPER-FAILED",
                "--single-id",
            ),
            (
                "newuidmap: uid range [0-1) -> [5-6) not allowed",
                "LDG-HELPER-FAILED",
                "/etc/subuid",
            ),
            (
                "newuidmap: subuid overflow detected.",
                "LDG-SUBID-OVERFLOW",
                "--single-id",
            ),
            (
                "newuidmap: open of uid_map failed: Read-only file system",
                "LDG-PROC-READONLY",
                "/proc",
            ),
        ] {
            let error = failure(&[failed("newuidmap", said), failed("newgidmap", "x")]);
            let message = error.message();
            assert_eq!(error.cause_code(), Some(code), "{message}");
            assert_eq!(error.failed_step(), Some(Step::IdHelper));
            for part in [
                "/usr/bin/newuidmap and /usr/bin/newgidmap failed",
                "`/usr/bin/newuidmap 7 0 1000 1`: exit status 1",
                said,
                "it said \"x\"",
            ] {
                assert!(message.contains(part), "{part}: {message}");
            }
            assert!(error.hints().unwrap().contains(hint), "{error}");
        }
    }
}
