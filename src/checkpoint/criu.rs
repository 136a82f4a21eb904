//! The program: where it is, whether it is new enough, running it, and what it says when it fails.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::lack::Lack;
use crate::error::{Doing, Error, Result, printable};
use crate::host;
use crate::sys;

/// The oldest that can do it: what is tolerated without privilege came with 4.0 (CRIU's release notes).
const OLDEST: (u32, u32) = (4, 0);

/// Where it is looked for after PATH: Debian has it where an ordinary user's PATH does not lead.
const DIRECTORIES: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// The most that is looked at of a log, from its end.
const MAX_LOG: usize = 1 << 20;

/// The longest line of a log that becomes part of a message.
const MAX_LINE: usize = 400;

/// A CRIU that is there and new enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criu {
    /// Where it is.
    pub path: PathBuf,
    /// Its version.
    pub version: (u32, u32, u32),
}

impl Criu {
    /// Finds CRIU: at `asked` (`--criu`), else in PATH and where Debian has it.
    ///
    /// # Errors
    /// It is not there, cannot be run, or is too old.
    pub fn find(asked: Option<&Path>) -> Result<Self> {
        let path = match asked {
            Some(path) => std::path::absolute(path)
                .map_err(|error| Error::new(format!("--criu {path:?}")).because(error))?,
            None => look_up()?,
        };
        let said = host::ask_program(&path, &["--version"]).map_err(|why| {
            let error = Error::new(format!("cannot run CRIU ({path:?})")).because(&why.why);
            if let Some(lack) = why.errno.and_then(Lack::of_errno) {
                return lack.explain(error, &path);
            }
            error.code("LDG-CRIU-MISSING").hint(
                "install criu 4.0 or newer (Debian 13: package criu), or name it with --criu PATH",
            )
        })?;
        let version = parse_version(&said).ok_or_else(|| {
            Error::new(format!("{path:?} is not CRIU"))
                .because(format!("--version says {:?}", printable(said.trim())))
                .code("LDG-CRIU-MISSING")
                .hint("name CRIU 4.0 or newer with --criu PATH")
        })?;
        if (version.0, version.1) < OLDEST {
            let (major, minor, sub) = version;
            return Err(Error::new(format!(
                "criu {major}.{minor}.{sub} is too old ({path:?}): checkpoints without root need 4.0 or newer"
            ))
            .code("LDG-CRIU-OLD")
            .hint("Debian 13 has a newer one (package criu); --criu PATH names one that is installed elsewhere"));
        }
        Ok(Self { path, version })
    }

    /// Its version as it writes it.
    pub fn version(&self) -> String {
        let (major, minor, sub) = self.version;
        format!("{major}.{minor}.{sub}")
    }

    /// Makes this process ready to become `criu swrk`, talking on `socket`, with `complaints` for what it says before it has a log.
    /// The files in `passed` go along, under the numbers that they have.
    pub fn prepare(
        &self,
        socket: BorrowedFd<'_>,
        complaints: BorrowedFd<'_>,
        passed: &[BorrowedFd<'_>],
    ) -> Result<Program> {
        let what = || "cannot prepare to run CRIU".to_owned();
        let null = sys::path::open_existing(Path::new("/dev/null")).doing(what)?;
        sys::fd::install_stdio(null.as_fd(), 0).doing(what)?;
        sys::fd::install_stdio(complaints, 1).doing(what)?;
        sys::fd::install_stdio(complaints, 2).doing(what)?;
        for fd in passed.iter().chain([&socket]) {
            sys::fd::keep_one_across_exec(*fd).doing(what)?;
        }
        sys::signal::reset_actions();
        sys::signal::unblock_all().doing(what)?;
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let path = CString::new(self.path.as_os_str().as_bytes()).unwrap_or_default();
        let number = socket.as_raw_fd().to_string();
        Ok(Program {
            args: [path.clone(), text("swrk"), text(&number)],
            path,
            // It runs tar, and keeps what it finds out of the kernel in a directory that must not be shared (criu.kdat).
            env: [
                text("PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
                text("LANG=C"),
                text("XDG_RUNTIME_DIR=/nonexistent"),
            ],
        })
    }
}

/// CRIU, ready to be run.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: [CString; 3],
    env: [CString; 3],
}

impl Program {
    /// Becomes it; returns only on failure.
    pub fn exec(&self) -> Error {
        let error = sys::process::exec(&self.path, &self.args, &self.env);
        Error::new(format!("cannot run CRIU ({:?})", self.path))
            .because_of(&error)
            .code("LDG-CRIU-MISSING")
    }
}

fn look_up() -> Result<PathBuf> {
    let own: OsString = std::env::var_os("PATH").unwrap_or_default();
    for directories in [own, OsString::from(DIRECTORIES)] {
        if let Ok(path) = which::which_in("criu", Some(directories), "/") {
            return Ok(path);
        }
    }
    Err(Error::new("'criu' not found in PATH")
        .code("LDG-CRIU-MISSING")
        .hint("install criu 4.0 or newer (Debian 13: package criu), or name it with --criu PATH"))
}

/// `Version: 4.2.1`, or `Version: 4.2`.
fn parse_version(said: &str) -> Option<(u32, u32, u32)> {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("Version:"))?;
    let mut numbers = line.trim().split('.').map(|part| part.parse().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    Some((major, minor, numbers.next().flatten().unwrap_or(0)))
}

/// The last line of `log` that tells of an error.
pub fn last_error(log: &[u8]) -> Option<String> {
    errors(log).pop()
}

/// What each line of `log` says that tells of an error; CRIU's complaint about its own limit of files, which is none, is passed over.
pub fn errors(log: &[u8]) -> Vec<String> {
    let log = &log[log.len().saturating_sub(MAX_LOG)..];
    let text = String::from_utf8_lossy(log);
    let lines = text.lines().filter(|line| {
        let own = line.contains("RLIMIT_NOFILE") || is_the_sum(line);
        line.contains("Error (") && !own
    });
    lines
        .map(|line| {
            // Without the time and the place in CRIU's source.
            let text = line.split_once("): ").map_or(line, |(_, text)| text);
            let text = text.get(..MAX_LINE).unwrap_or(text);
            printable(text.trim())
        })
        .collect()
}

/// Says that it failed, and nothing of why.
fn is_the_sum(line: &str) -> bool {
    const SUMS: [&str; 4] = [
        "Dumping FAILED",
        "Restoring FAILED",
        "Unable to open fd=",
        "failed with -1",
    ];
    SUMS.iter().any(|sum| line.contains(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("Version: 4.2.1\n"), Some((4, 2, 1)));
        assert_eq!(
            parse_version("Version: 4.0\nGitID: v4.0\n"),
            Some((4, 0, 0))
        );
        assert_eq!(parse_version("Version: 3.17.1\n"), Some((3, 17, 1)));
        assert_eq!(parse_version("criu, the other one"), None);
        assert_eq!(parse_version("Version: x.y"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn the_last_error_is_found() {
        let log = "\
(00.011) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.020) Error (criu/mount.c:2236): mnt: Unable to mount devpts: Invalid argument
(00.021)      1: Error (criu/mount.c:2301): mnt: Can't mount at /dev/pts: Invalid argument
(00.022) Warn  (criu/x.c:1): nothing
(00.022) Error (criu/cr-dump.c:1640): Dump files (pid: 21162) failed with -1
(00.023) Error (criu/cr-restore.c:2331): Restoring FAILED.
";
        let found = last_error(log.as_bytes()).unwrap();
        assert_eq!(found, "mnt: Can't mount at /dev/pts: Invalid argument");
        assert_eq!(last_error(b""), None);
        let (harmless, _) = log.split_once('\n').unwrap();
        assert_eq!(last_error(harmless.as_bytes()), None);
        let hostile = last_error(b"(0) Error (a.c:1): x\x1b[31mred").unwrap();
        assert!(!hostile.contains('\x1b'), "{hostile}");
    }
}
