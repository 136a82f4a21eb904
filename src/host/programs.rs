//! The programs of the host that the probe finds or asks: only from fixed directories, never from `$PATH`.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::sys::defence::{Defence, is_on};

/// Where helpers may be. A `$PATH` of the caller's could name somebody else's program.
const SAFE_DIRECTORIES: &str = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin:/run/wrappers/bin";

/// The most that is read of a program's answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// What the ids that a user namespace does not map look like (user_namespaces(7)).
const OVERFLOW_UID: u32 = 65534;

/// `name` in a safe directory; `Err` says why the one there is not used.
pub(super) fn find(name: &str, in_user_namespace: bool) -> Result<Option<PathBuf>, String> {
    find_file(name, in_user_namespace).map(|found| found.map(|(path, _)| path))
}

/// As [`find`], with what is known of the file by then.
pub(super) fn find_file(
    name: &str,
    in_user_namespace: bool,
) -> Result<Option<(PathBuf, Metadata)>, String> {
    let directories = match is_on(Defence::HelperPaths) {
        true => SAFE_DIRECTORIES.into(),
        false => std::env::var_os("PATH").unwrap_or_default(),
    };
    let Ok(path) = which::which_in(name, Some(directories), "/") else {
        return Ok(None);
    };
    let Ok(metadata) = std::fs::metadata(&path) else {
        return Ok(None);
    };
    match distrust(metadata.uid(), metadata.mode(), in_user_namespace) {
        _ if !is_on(Defence::HelperPaths) => Ok(Some((path, metadata))),
        Some(why) => Err(format!("{} is not used: {why}", path.display())),
        None => Ok(Some((path, metadata))),
    }
}

fn distrust(owner: u32, mode: u32, in_user_namespace: bool) -> Option<&'static str> {
    if owner != 0 && !(in_user_namespace && owner == OVERFLOW_UID) {
        return Some("it does not belong to root");
    }
    (mode & 0o022 != 0).then_some("its group or everybody can write to it")
}

/// Starts `program` with a clean environment; only its standard output is kept.
pub(super) fn start(program: &Path, args: &[&str]) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(args).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.stdout(Stdio::piped());
    spawn(&mut command)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the host is asked by a program"
)]
fn spawn(command: &mut Command) -> io::Result<Child> {
    match command.spawn() {
        // Where a filter refuses clone3(2) so, posix_spawn(3) of glibc makes no process. Whoever is to have a uid, her own
        // here, is made by fork(3).
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            command.uid(crate::sys::cred::uid()).spawn()
        }
        spawned => spawned,
    }
}

/// What a started program says; `None` when it failed or said too much.
pub(super) fn answer(mut child: Child) -> Option<String> {
    let mut text = Vec::new();
    // Taken out of the child, so that it closes and a program that says too much ends by SIGPIPE.
    let read = child
        .stdout
        .take()
        .map(|pipe| pipe.take(MAX_ANSWER + 1).read_to_end(&mut text));
    let status = child.wait().ok()?;
    let whole = matches!(read, Some(Ok(size)) if size as u64 <= MAX_ANSWER);
    (status.success() && whole).then(|| String::from_utf8_lossy(&text).into_owned())
}

/// What the program `name`, found in the safe directories, prints. `Err` says why it is not run, or how it failed.
pub fn run(name: &str, args: &[String]) -> Result<String, String> {
    let in_user_namespace = super::probe::in_user_namespace();
    let path = find(name, in_user_namespace)?
        .ok_or_else(|| format!("{name} is in none of {SAFE_DIRECTORIES}"))?;
    ask(&path, args).map_err(|unanswered| unanswered.why)
}

/// Why a program has not answered.
#[derive(Debug)]
pub struct Unanswered {
    /// In words.
    pub why: String,
    /// The error number with which it could not even be started, where there is one.
    pub errno: Option<i32>,
}

/// What the program at `path`, which the caller has chosen, prints.
pub fn ask(path: &Path, args: &[impl AsRef<OsStr>]) -> Result<String, Unanswered> {
    let mut command = Command::new(path);
    command.args(args).env_clear().current_dir("/");
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error: io::Error| Unanswered {
        why: format!("{}: {error}", path.display()),
        errno: error.raw_os_error(),
    };
    let mut child = spawn(&mut command).map_err(failed)?;
    let (said, complaint) = (child.stdout.take(), child.stderr.take());
    let heard = std::thread::scope(|scope| {
        // Without a process left for the thread the pipes close, and it ends by SIGPIPE if it goes on talking.
        let thread = std::thread::Builder::new();
        let complaint = thread.spawn_scoped(scope, || first_of(complaint))?;
        Ok((first_of(said), complaint.join().unwrap_or_default()))
    });
    let status = child.wait().map_err(failed)?;
    let (said, complaint) = heard.map_err(failed)?;
    let failed = |why: String| Unanswered {
        why: format!("{}: {why}", path.display()),
        errno: None,
    };
    if said.len() as u64 > MAX_ANSWER {
        return Err(failed("it does not stop talking".to_owned()));
    }
    if status.success() {
        return Ok(said);
    }
    Err(failed(format!("{status}: {}", complaint.trim())))
}

/// What comes through a pipe, up to a limit. Who says more ends by SIGPIPE, as the pipe is closed then.
fn first_of(pipe: Option<impl Read>) -> String {
    let mut text = Vec::new();
    let read = pipe.map(|pipe| pipe.take(MAX_ANSWER + 1).read_to_end(&mut text));
    tracing::trace!("a program's answer: {read:?}");
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust() {
        assert_eq!(distrust(0, 0o104_755, false), None);
        assert!(distrust(1000, 0o104_755, false).is_some());
        assert!(distrust(0, 0o104_775, false).is_some());
        assert!(distrust(0, 0o104_757, false).is_some());
        assert!(distrust(65534, 0o104_755, false).is_some());
        assert_eq!(distrust(65534, 0o104_755, true), None);
    }

    #[test]
    fn who_does_not_stop_talking_is_not_listened_to() {
        let zeros = ["if=/dev/zero", "status=none"];
        let said = ask(Path::new("/bin/dd"), &zeros).unwrap_err().why;
        assert!(said.contains("does not stop talking"), "{said}");
        let to_stderr = ["-c", "head -c 10M /dev/zero >&2; exit 3"];
        let said = ask(Path::new("/bin/sh"), &to_stderr).unwrap_err().why;
        assert!(
            said.contains("status: 3") || said.contains("signal"),
            "{}",
            said.len()
        );
    }

    #[test]
    fn programs_are_found_and_answer() {
        assert_eq!(find("no-such-program-of-lodger", false), Ok(None));
        let echo = find("echo", true).unwrap().unwrap();
        let said = answer(start(&echo, &["hello"]).unwrap());
        assert_eq!(said.as_deref(), Some("hello\n"));
        let env = find("env", true).unwrap().unwrap();
        assert_eq!(answer(start(&env, &[]).unwrap()).as_deref(), Some(""));
        let not = find("false", true).unwrap().unwrap();
        assert_eq!(answer(start(&not, &[]).unwrap()), None);
    }

    #[test]
    fn a_program_that_is_not_there_or_fails_says_so() {
        let none = run("no-such-program-of-lodger", &[]).unwrap_err();
        assert!(none.contains("is in none of /usr/bin:"), "{none}");
        let failed = run("ls", &["/no-such-file".to_owned()]).unwrap_err();
        assert!(
            failed.contains("exit status") && failed.contains("no-such-file"),
            "{failed}"
        );
        assert_eq!(run("echo", &["hello".to_owned()]).as_deref(), Ok("hello\n"));
        assert_eq!(run("env", &[]).as_deref(), Ok(""));
    }
}
