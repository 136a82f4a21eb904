//! strace(1) as a tool of tests: which system calls a command makes, and what happens when the n-th one ends it or fails.
//!
//! Only the runtime's own process is traced, or init alone once it is attached to: the setuid helpers would lose their
//! privilege under a tracer.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Ran, Running, spawn, wait_for};

const STRACE: &str = "/usr/bin/strace";

/// Whether strace is there, and may trace.
pub(crate) fn works() -> bool {
    Path::new(STRACE).exists()
        && spawn(
            Command::new(STRACE).args(["-o", "/dev/null", "/bin/true"]),
            b"",
        )
        .wait()
        .code
            == 0
}

/// A system call of a trace: its name and its whole line.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) line: String,
}

impl Call {
    /// Whether the kernel let it succeed.
    pub(crate) fn succeeded(&self) -> bool {
        !self.line.contains(" = -1 ")
    }
}

/// The calls in strace's output, in order; an unfinished last one counts.
pub(crate) fn calls(path: &Path) -> Vec<Call> {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    text.lines()
        .filter_map(|line| {
            let (name, _) = line.split_once('(')?;
            let is_call = !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
            is_call.then(|| Call {
                name: name.to_owned(),
                line: line.to_owned(),
            })
        })
        .collect()
}

/// `command` under strace with these options.
pub(crate) fn under_strace(options: &[&str], output: &Path, command: &Command) -> Command {
    let mut strace = Command::new(STRACE);
    strace
        .arg("-qq")
        .args(options)
        .arg("-o")
        .arg(output)
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        strace.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace
}

/// Runs the command to its end and gives its calls.
#[track_caller]
pub(crate) fn trace(command: &Command, output: &Path) -> Vec<Call> {
    spawn(&mut under_strace(&[], output, command), b"")
        .wait()
        .ok();
    calls(output)
}

/// What happens to one call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// The process is killed before it.
    Kill,
    /// It is not made, and fails with this error.
    Error(&'static str),
}

/// strace's option for a fate of the `n`-th call of `calls`, counted from 0. (strace counts each name for itself.)
pub(crate) fn inject(calls: &[Call], n: usize, fate: Fate) -> String {
    let fate = match fate {
        Fate::Kill => "signal=KILL".to_owned(),
        Fate::Error(errno) => format!("error={errno}"),
    };
    let name = &calls[n].name;
    let number = calls[..=n].iter().filter(|call| call.name == *name).count();
    format!("--inject={name}:{fate}:when={number}")
}

/// Runs the command with a fate for the `n`-th of its `calls`, from 0. Its pid comes first.
pub(crate) fn run_injected(
    command: &Command,
    scratch: &Path,
    calls: &[Call],
    n: usize,
    fate: Fate,
) -> (u32, Ran) {
    let directory = scratch.join("traces");
    fs::create_dir(&directory).unwrap();
    let option = inject(calls, n, fate);
    let options = ["--output-separately", &*option];
    let ran = spawn(
        &mut under_strace(&options, &directory.join("t"), command),
        b"",
    )
    .wait();
    let name = fs::read_dir(&directory).unwrap().next().unwrap().unwrap();
    let pid = name.path().extension().unwrap().to_str().unwrap().parse();
    fs::remove_dir_all(&directory).unwrap();
    (pid.unwrap(), ran)
}

/// How many calls are named `name` up to the first one whose line has `text`: the number of the last of them, from 1.
pub(crate) fn number_of(calls: &[Call], name: &str, text: &str) -> Option<usize> {
    let last = calls.iter().position(|call| call.line.contains(text))?;
    let before = &calls[..=last];
    Some(before.iter().filter(|call| call.name == name).count())
}

/// The pids of the children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// Sends a signal to a process that may have ended; whether it was there.
pub(crate) fn signal_if_there(pid: u32, name: &str) -> bool {
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, signal).is_ok()
}

/// The letter of proc_pid_stat(5); `None` when there is no such process.
pub(crate) fn process_state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process is in the system call of this number (proc_pid_syscall(5)).
pub(crate) fn is_in_call(pid: u32, number: nix::libc::c_long) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.starts_with(&format!("{number} "))
}

/// A runtime that is stopped, itself or a process of its own, by strace after a call of one kind.
pub(crate) struct Stopped {
    strace: Option<Running>,
    pub(crate) runtime: u32,
    stopped: u32,
}

impl Stopped {
    /// The runtime itself, after its `n`-th call of this kind.
    pub(crate) fn after(command: &Command, scratch: &Path, kind: &str, n: usize) -> Stopped {
        let option = format!("--inject={kind}:signal=STOP:when={n}");
        Stopped::with(command, scratch, &[&option])
    }

    /// Whichever process of the runtime's makes a call of this kind, after the first one.
    pub(crate) fn in_exec(command: &Command, scratch: &Path, kind: &str) -> Stopped {
        let option = format!("--inject={kind}:signal=STOP:when=1");
        Stopped::with(command, scratch, &["-f", &option])
    }

    fn with(command: &Command, scratch: &Path, options: &[&str]) -> Stopped {
        let output = scratch.join("stopped");
        // That of the one before would say that this one has stopped.
        let _ = fs::remove_file(&output);
        let strace = spawn(&mut under_strace(options, &output, command), b"");
        let (runtime, stopped) = wait_for("the runtime to stop", || {
            // strace's own fork for the command bears strace's name at first.
            let trace = fs::read_to_string(&output).ok()?;
            let line = trace
                .lines()
                .find(|line| line.contains("stopped by SIGSTOP"))?;
            let runtime = *children(strace.pid()).first()?;
            // With -f a line begins with the pid.
            let stopped = line.split_whitespace().next()?.parse().unwrap_or(runtime);
            (process_state(stopped) == Some('t')).then_some((runtime, stopped))
        });
        Stopped {
            strace: Some(strace),
            runtime,
            stopped,
        }
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        crate::harness::send_signal(self.stopped, "CONT");
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ran {
        self.strace.take().unwrap().wait()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // A test that fails: what is stopped holds the container's lock, also when its tracer has gone.
        if self.strace.take().is_some() && process_state(self.stopped).is_some() {
            // It may be on its way out with its tracer.
            signal_if_there(self.stopped, "KILL");
        }
    }
}

/// A strace that is attached to a process.
pub(crate) struct Attached {
    strace: std::process::Child,
    pub(crate) output: PathBuf,
}

impl Attached {
    /// To a process that waits in a call.
    pub(crate) fn to(pid: u32, options: &[&str], scratch: &Path) -> Attached {
        let output = scratch.join("attached");
        let strace = Command::new(STRACE)
            .arg("-qq")
            .args(options)
            .arg("-o")
            .arg(&output)
            .args(["-p", &pid.to_string()])
            .spawn()
            .unwrap();
        // TracerPid says so too early: what ends the call before strace has stopped the process is passed by.
        wait_for("strace to see the call that the process waits in", || {
            let seen = fs::read(&output).is_ok_and(|text| !text.is_empty());
            // The very first call may have had its fate already.
            (seen || process_state(pid).is_none_or(|state| state == 'Z')).then_some(())
        });
        Attached { strace, output }
    }

    /// Lets go of the process, if it is there still, and gives the calls it made.
    pub(crate) fn detach(mut self) -> Vec<Call> {
        let pid = nix::unistd::Pid::from_raw(self.strace.id().try_into().unwrap());
        if self.strace.try_wait().unwrap().is_none() {
            // It detaches when it is asked to end.
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        }
        let status = self.strace.wait().unwrap();
        assert!(status.code().is_some() || status.signal().is_some());
        let calls = calls(&self.output);
        fs::remove_file(&self.output).unwrap();
        calls
    }
}

/// A trace of several processes with every call on one line, where it ended: strace tells of one in two parts when another
/// process comes in between. What never ended stays as it is.
pub(crate) fn joined(trace: &str) -> String {
    const BROKEN_OFF: &str = " <unfinished ...>";
    let mut begun: Vec<(&str, &str)> = Vec::new();
    let mut whole = String::new();
    for line in trace.lines() {
        let pid = line.split_whitespace().next().unwrap_or("");
        if let Some(begin) = line.strip_suffix(BROKEN_OFF) {
            begun.push((pid, begin));
            continue;
        }
        let end = line
            .split_once(" resumed>")
            .filter(|_| line.contains(" <... "));
        let place = begun.iter().position(|(of, _)| *of == pid);
        match (end, place) {
            (Some((_, end)), Some(place)) => {
                whole.push_str(begun.remove(place).1);
                whole.push_str(end);
            }
            _ => whole.push_str(line),
        }
        whole.push('\n');
    }
    for (_, begin) in begun {
        whole.push_str(begin);
        whole.push_str(BROKEN_OFF);
        whole.push('\n');
    }
    whole
}

#[test]
fn a_call_in_two_parts_is_one() {
    let trace = "\
1 read(3,  <unfinished ...>
2 stat(\"/a\", <unfinished ...>
1 <... read resumed>\"x\", 1) = 1
1 close(3) = 0
2 <... stat resumed>{...}) = 0
1 exit_group(0 <unfinished ...>
";
    let whole = "1 read(3, \"x\", 1) = 1\n1 close(3) = 0\n2 stat(\"/a\",{...}) = 0\n1 exit_group(0 <unfinished ...>\n";
    assert_eq!(joined(trace), whole);
}
