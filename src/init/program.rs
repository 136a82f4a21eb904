//! The program: finding it in the container, and becoming it.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, CWD, FileType};

use super::beneath::{RootDir, file_type};
use super::seccomp::{self, Loading};
use super::{Manner, Preserved, labels, passwd, privileges};
use crate::error::{Doing, Error, Result};
use crate::plan::Process;
use crate::spawn::line::InitEnd;
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// What execvp(3) searches when PATH is not set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A program that is ready to be run: only execve is missing.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    preserved: u32,
    filter: Option<Loading>,
}

impl Program {
    /// Takes on the process's ids and limits, enters its directory and finds its program.
    ///
    /// All fds but 0, 1, 2, those preserved and `kept` are closed on the way. `umask` is the caller's, for a config that sets none;
    /// `proc` the procfs for its labels.
    pub(super) fn prepare(
        process: &Process,
        manner: &Manner,
        kept: &[BorrowedFd<'_>],
        umask: Option<u32>,
        proc: Option<OwnedFd>,
    ) -> Result<Self> {
        let home = home_of(process)?;
        own_stdio(process);
        let entered = enter(&process.cwd);
        let filter = manner.filter.as_ref();
        privileges::apply(process, seccomp::needs(filter, process))?;
        labels::apply(&process.attributes, proc)?;
        // The program's own ids may open what the container's root may not (a home directory on NFS).
        entered.or_else(|_| enter(&process.cwd))?;
        let preserved = &manner.preserved;
        let own = sys::fd::FIRST + preserved.count;
        if is_on(Defence::CloseFiles) {
            sys::fd::close_others(own, kept).doing(|| "cannot close files".to_owned())?;
        }
        verify_directory(&process.cwd)?;
        if let Some(mask) = process.umask.or(umask) {
            sys::cred::swap_umask(mask);
        }
        let name = process.args.first().cloned().unwrap_or_default();
        let path = find(&name, &process.env)?;
        let mut env = c_strings(&process.env)?;
        for entry in listening_env(preserved) {
            env.push(c_string(&entry)?);
        }
        if let Some(home) = home {
            env.push(c_string(&format!("HOME={home}"))?);
        }
        Ok(Self {
            path: c_string(&path)?,
            args: c_strings(&process.args)?,
            env,
            name,
            preserved: preserved.count,
            filter: filter.map(|filter| Loading::new(filter, process)),
        })
    }

    /// Its environment.
    pub(super) fn env(&self) -> &[CString] {
        &self.env
    }

    /// Becomes the program; returns only on failure.
    pub(super) fn exec(&self, line: &InitEnd) -> Error {
        sys::signal::reset_actions();
        if let Err(error) = sys::signal::unblock_all() {
            return Error::new("cannot unblock signals").because(error);
        }
        if let Err(error) = sys::fd::keep_across_exec(self.preserved) {
            return Error::new("cannot pass on the caller's files").because(error);
        }
        if let Some(Err(error)) = self.filter.as_ref().map(|filter| filter.load(line)) {
            return error;
        }
        let error = sys::process::exec(&self.path, &self.args, &self.env);
        let reason = match error.errno {
            nix::libc::ENOENT => "no such file or directory",
            nix::libc::EACCES => "permission denied",
            nix::libc::ENOEXEC => "exec format error",
            _ => return Error::new(format!("exec: {:?}", self.name)).because(error),
        };
        let failure = Error::new(format!("exec: {:?}: {reason}", self.name));
        match error.errno {
            nix::libc::ENOENT => failure
                .hint("the file is there: its interpreter (#! line) or dynamic loader is not"),
            _ => failure,
        }
    }
}

/// What tells a program of its sockets (sd_listen_fds(3)), with its pid as it sees it.
fn listening_env(preserved: &Preserved) -> Vec<String> {
    if preserved.listening == 0 {
        return Vec::new();
    }
    let mut env = vec![
        format!("LISTEN_FDS={}", preserved.listening),
        format!("LISTEN_PID={}", sys::process::own_pid()),
    ];
    env.extend(
        preserved
            .names
            .iter()
            .map(|names| format!("LISTEN_FDNAMES={names}")),
    );
    env
}

fn home_of(process: &Process) -> Result<Option<String>> {
    if process.env.iter().any(|entry| entry.starts_with("HOME=")) {
        return Ok(None);
    }
    let root = sys::mount::open_path(Path::new("/"))
        .doing(|| "cannot open the container's root".to_owned())?;
    Ok(Some(passwd::home(&RootDir::new(root), process.uid)))
}

/// Gives pipes among the standard streams to the program's uid, so that it can open /dev/stdout again. It is a
/// courtesy: a stream that is not ours to give still works through its fd. The caller's files stay hers.
fn own_stdio(process: &Process) {
    if process.uid == 0 {
        return;
    }
    let uid = Some(rustix::fs::Uid::from_raw(process.uid));
    let streams = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    for stream in streams {
        if file_type(stream).is_ok_and(|kind| kind == FileType::Fifo) {
            let _courtesy = rustix::fs::fchown(stream, uid, None);
        }
    }
}

fn enter(cwd: &Path) -> Result<()> {
    rustix::process::chdir(cwd)
        .map_err(|e| sys::Error::new("chdir", format!("{cwd:?}"), e))
        .doing(|| format!("cannot enter the working directory {cwd:?} (/process/cwd)"))
}

/// A directory outside of the root has no path in it: the kernel then says `(unreachable)` (CVE-2024-21626).
fn verify_directory(cwd: &Path) -> Result<()> {
    let refuse = || {
        Error::new(format!(
            "the working directory {cwd:?} (/process/cwd) is not in the container"
        ))
    };
    match rustix::process::getcwd(Vec::new()) {
        _ if !is_on(Defence::VerifyCwd) => Ok(()),
        Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
        Ok(_) => Err(refuse()),
        Err(e) => Err(refuse().because(sys::Error::new("getcwd", "", e))),
    }
}

/// Finds the program as execvp(3) does, with the program's own ids.
fn find(name: &str, env: &[String]) -> Result<String> {
    if name.contains('/') {
        return check(name)
            .map(|()| name.to_owned())
            .map_err(|reason| Error::new(format!("exec: {name:?}: {reason}")));
    }
    let path = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut denied = false;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{name}");
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(reason) => denied |= reason == DENIED,
        }
    }
    let reason = if denied {
        DENIED
    } else {
        "executable file not found in $PATH"
    };
    Err(Error::new(format!("exec: {name:?}: {reason}"))
        .hint(format!("PATH in the container is {path:?}")))
}

const DENIED: &str = "permission denied";

/// Whether the file is there and may be executed.
fn check(path: &str) -> std::result::Result<(), &'static str> {
    let stat = match rustix::fs::stat(path) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::ACCESS) => return Err(DENIED),
        Err(_) => return Err("no such file or directory"),
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err("is a directory: permission denied");
    }
    match sys::path::may_use(CWD, path, Access::EXEC_OK) {
        true => Ok(()),
        false => Err(DENIED),
    }
}

fn c_strings(strings: &[String]) -> Result<Vec<CString>> {
    strings.iter().map(|string| c_string(string)).collect()
}

fn c_string(string: &str) -> Result<CString> {
    CString::new(string).map_err(|_| {
        Error::new(format!(
            "{string:?} holds a NUL byte, which no program can be given"
        ))
    })
}
