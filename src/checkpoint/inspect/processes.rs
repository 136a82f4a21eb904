//! The processes of a container.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::error::{Doing, Error, Result};
use crate::sys;

/// It names groups, processors and memory nodes.
const STATUS_FILE: usize = 1 << 20;

/// More than all pids that there can be, in digits.
const CHILDREN_FILE: usize = 32 << 20;

/// How many tasks a container may have that is looked at. CRIU, which handles one after the other, would take many minutes.
const MOST_TASKS: usize = 1 << 18;

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid in the pid namespace of /proc.
    pub pid: i32,
    /// Its pid in the container.
    pub inside: i32,
    /// The name of its program, as its first task has it.
    pub name: String,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, … (proc_pid_stat(5)).
    pub state: char,
    /// Its session, by the pid of the leader in the container: 0 for one outside.
    pub session: i32,
    /// Its process group, likewise.
    pub group: i32,
    /// Whether it is in a pid namespace within the container's.
    pub is_nested: bool,
    /// Whether it descends from the first process: CRIU finds no others.
    pub is_descendant: bool,
    /// Its tasks, the first one first.
    pub tasks: Vec<Task>,
}

/// A thread of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Its number in the pid namespace of /proc.
    pub tid: i32,
    /// Its number in the container.
    pub inside: i32,
    /// Who traces it, in that numbering; 0: nobody.
    pub tracer: i32,
    /// The mode of seccomp(2): 0 none, 1 strict, 2 by filters.
    pub mode: u32,
    /// By how many filters; `None`: the kernel does not tell, before Linux 5.9.
    pub filters: Option<u32>,
}

impl Process {
    /// `process 7 ("sleep")`, by its pid in the container.
    pub fn called(&self) -> String {
        format!("process {} ({:?})", self.inside, self.name)
    }

    /// Whether it has ended, and waits to be reaped.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// All processes of the container whose first one is `first`: its descendants, and whoever else is in its pid namespace. The first
/// one comes first.
///
/// # Errors
/// The first process is gone or cannot be looked into, or there are too many.
pub fn find(first: i32) -> Result<Vec<Process>> {
    let mut processes = look_around(first)?;
    if processes.iter().all(|process| process.is_descendant) {
        return Ok(processes);
    }
    // Whoever was started while the others were looked at is no child of theirs that was seen, and is one the next time.
    let again = look_around(first)?;
    let is_known = |process: &Process| {
        let other = again.iter().find(|other| other.pid == process.pid);
        other.is_none_or(|other| other.is_descendant)
    };
    for process in &mut processes {
        process.is_descendant = process.is_descendant || is_known(process);
    }
    Ok(processes)
}

/// Those alone that descend from the first process, which comes first.
///
/// # Errors
/// As of [`find`].
pub fn tree(first: i32) -> Result<Vec<Process>> {
    descendants(first).map(|found| found.processes)
}

fn descendants(first: i32) -> Result<Found> {
    let what = || format!("cannot look into the container's first process {first}");
    let status = read_status(first, first).doing(what)?;
    let level = parse(&status)
        .map(|status| status.pids.len().saturating_sub(1))
        .ok_or_else(|| unknown_format(first))?;
    let mut found = Found {
        level,
        ..Found::default()
    };
    found.add_tree(first, true)?;
    if found.processes.is_empty() {
        return Err(Error::new(what()).because("it has ended"));
    }
    Ok(found)
}

fn look_around(first: i32) -> Result<Vec<Process>> {
    let namespace = pid_namespace(first)
        .doing(|| format!("cannot look into the container's first process {first}"))?;
    let mut found = descendants(first)?;
    for pid in pids()? {
        let is_other = !found.seen.contains(&pid);
        if is_other && pid_namespace(pid).is_ok_and(|other| other == namespace) {
            found.add_tree(pid, false)?;
        }
    }
    Ok(found.processes)
}

#[derive(Default)]
struct Found {
    /// Which column of `NSpid` is the container's.
    level: usize,
    seen: BTreeSet<i32>,
    tasks: usize,
    processes: Vec<Process>,
}

impl Found {
    /// Adds `root` and its descendants. Who ends meanwhile is left out.
    fn add_tree(&mut self, root: i32, is_descendant: bool) -> Result<()> {
        let mut next = vec![root];
        while let Some(pid) = next.pop() {
            if !self.seen.insert(pid) {
                continue;
            }
            let Some(mut process) = self.look(pid, &mut next)? else {
                continue;
            };
            process.is_descendant = is_descendant;
            self.processes.push(process);
        }
        Ok(())
    }

    /// The process `pid`, whose children are added to `next`. `None`: it is gone.
    fn look(&mut self, pid: i32, next: &mut Vec<i32>) -> Result<Option<Process>> {
        let mut process: Option<Process> = None;
        let Some(tids) = tids(pid)? else {
            return Ok(None);
        };
        for tid in tids {
            let read = read_status(pid, tid).and_then(|text| Ok((text, children(pid, tid)?)));
            let (text, mut children) = match read {
                Err(error) if is_gone(&error) => continue,
                read => read.doing(|| format!("cannot look into process {pid}"))?,
            };
            let status = parse(&text).ok_or_else(|| unknown_format(pid))?;
            next.append(&mut children);
            self.tasks += 1;
            if self.tasks > MOST_TASKS {
                return Err(
                    Error::new("the container cannot be checkpointed").because(format!(
                        "it has more than {MOST_TASKS} processes and threads"
                    )),
                );
            }
            let inside = status.pids.get(self.level).copied().unwrap_or(0);
            let task = Task {
                tid,
                inside,
                ..status.task
            };
            match &mut process {
                Some(process) => process.tasks.push(task),
                None => process = Some(self.process(pid, task, status)),
            }
        }
        Ok(process)
    }

    fn process(&self, pid: i32, task: Task, status: Status) -> Process {
        let inside = |numbers: &[i32]| numbers.get(self.level).copied().unwrap_or(0);
        Process {
            pid,
            inside: inside(&status.pids),
            name: status.name,
            state: status.state,
            session: inside(&status.sessions),
            group: inside(&status.groups),
            is_nested: status.pids.len() > self.level + 1,
            is_descendant: true,
            tasks: vec![task],
        }
    }
}

fn is_gone(error: &sys::Error) -> bool {
    error.is(libc::ENOENT) || error.is(libc::ESRCH)
}

fn unknown_format(pid: i32) -> Error {
    Error::new(format!("cannot read the state of process {pid}"))
        .because("unknown format of /proc/PID/status")
}

/// What tells the pid namespace of a process.
fn pid_namespace(pid: i32) -> sys::Result<(u64, u64)> {
    // Followed, it is the namespace's own device and inode; nothing is opened.
    let path = format!("/proc/{pid}/ns/pid");
    let stat = rustix::fs::stat(&*path);
    let stat = stat.map_err(|e| sys::Error::new("stat", format!("{path:?}"), e))?;
    Ok((stat.st_dev, stat.st_ino))
}

fn read_status(pid: i32, tid: i32) -> sys::Result<String> {
    let path = format!("/proc/{pid}/task/{tid}/status");
    let text = sys::path::read_regular(Path::new(&path), STATUS_FILE)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether a process is gone, or has no memory any more (no `VmSize` in proc_pid_status(5)): it has ended, or is about to, which its
/// state does not tell yet.
pub(super) fn is_ending(pid: i32) -> bool {
    match read_status(pid, pid) {
        Ok(text) => !text.lines().any(|line| line.starts_with("VmSize:")),
        Err(error) => is_gone(&error),
    }
}

/// The children of a process, those of all of its tasks; none where it is gone.
pub(in crate::checkpoint) fn children_of(pid: i32) -> Vec<i32> {
    let tids = tids(pid).ok().flatten().unwrap_or_default().into_iter();
    tids.flat_map(|tid| children(pid, tid).unwrap_or_default())
        .collect()
}

/// The children of a task (proc_pid_tid_children(5)).
fn children(pid: i32, tid: i32) -> sys::Result<Vec<i32>> {
    let path = format!("/proc/{pid}/task/{tid}/children");
    let text = sys::path::read_regular(Path::new(&path), CHILDREN_FILE)?;
    let text = String::from_utf8_lossy(&text);
    let pids = text.split_ascii_whitespace();
    Ok(pids.filter_map(|pid| pid.parse().ok()).collect())
}

/// The numbers of the tasks of a process, its own first. `None`: it is gone.
fn tids(pid: i32) -> Result<Option<Vec<i32>>> {
    let path = format!("/proc/{pid}/task");
    match sys::path::open_magic(Path::new(&path)).and_then(|dir| numbers(&dir)) {
        Ok(mut tids) => {
            tids.sort_unstable_by_key(|tid| (*tid != pid, *tid));
            Ok(Some(tids))
        }
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error).doing(|| format!("cannot list the threads of process {pid}")),
    }
}

/// All pids of /proc.
fn pids() -> Result<Vec<i32>> {
    let dir = sys::path::open_magic(Path::new("/proc"));
    dir.and_then(|dir| numbers(&dir))
        .doing(|| "cannot list the processes of this machine".to_owned())
}

/// The names in a directory of /proc that are numbers.
pub(super) fn numbers(dir: &OwnedFd) -> sys::Result<Vec<i32>> {
    let error = |e| sys::Error::new("getdents64", "directory of /proc", e);
    let mut numbers = Vec::new();
    for item in rustix::fs::Dir::read_from(dir.as_fd()).map_err(error)? {
        let item = item.map_err(error)?;
        let name = item.file_name().to_str().ok();
        numbers.extend(name.and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(numbers)
}

/// What /proc/PID/task/TID/status tells, as far as it is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    name: String,
    state: char,
    pids: Vec<i32>,
    sessions: Vec<i32>,
    groups: Vec<i32>,
    task: Task,
}

fn parse(text: &str) -> Option<Status> {
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let numbers = |name: &str| -> Option<Vec<i32>> {
        let words = field(name)?.split_ascii_whitespace();
        words.map(|word| word.parse().ok()).collect()
    };
    let number = |name: &str| field(name)?.trim().parse().ok();
    Some(Status {
        name: field("Name")?.trim().to_owned(),
        state: field("State")?.trim().chars().next()?,
        pids: numbers("NSpid").filter(|pids| !pids.is_empty())?,
        sessions: numbers("NSsid")?,
        groups: numbers("NSpgid")?,
        task: Task {
            tid: 0,
            inside: 0,
            tracer: i32::try_from(number("TracerPid")?).ok()?,
            mode: number("Seccomp").unwrap_or(0),
            filters: number("Seccomp_filters"),
        },
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the processes of tests")]
mod tests {
    use super::*;

    const TEXT: &str = "Name:\tState: Z\\n\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t8250\nPid:\t8250\nPPid:\t8249\n\
        TracerPid:\t31\nNStgid:\t8250\t7\t1\nNSpid:\t8250\t7\t1\nNSpgid:\t8249\t1\t0\nNSsid:\t8249\t1\t0\n\
        Seccomp:\t2\nSeccomp_filters:\t3\n";

    #[test]
    fn status_of_a_task() {
        let status = parse(TEXT).unwrap();
        let task = Task {
            tid: 0,
            inside: 0,
            tracer: 31,
            mode: 2,
            filters: Some(3),
        };
        assert_eq!(
            status,
            Status {
                name: "State: Z\\n".to_owned(),
                state: 'S',
                pids: vec![8250, 7, 1],
                sessions: vec![8249, 1, 0],
                groups: vec![8249, 1, 0],
                task,
            }
        );
        let found = Found {
            level: 1,
            ..Found::default()
        };
        let process = found.process(8250, task, status);
        assert_eq!((process.inside, process.session, process.group), (7, 1, 1));
        assert!(process.is_nested);
    }

    #[test]
    fn status_of_older_kernels_and_of_none() {
        let older = TEXT.replace("Seccomp_filters:\t3\n", "");
        assert_eq!(parse(&older).unwrap().task.filters, None);
        assert_eq!(parse(""), None);
        assert_eq!(parse(&TEXT.replace("NSpid", "Npid")), None);
        assert_eq!(parse(&TEXT.replace("8250\t7", "x\t7")), None);
    }

    #[test]
    fn who_has_ended_is_told_from_who_has_not() {
        assert!(!is_ending(sys::process::own_pid()));
        assert!(is_ending(i32::MAX));
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let which = rustix::process::WaitId::Pid(rustix::process::Pid::from_raw(pid).unwrap());
        rustix::process::waitid(which, ended).unwrap();
        // It is not reaped: there is all of it but its memory.
        assert!(Path::new(&format!("/proc/{pid}/fd")).exists());
        assert!(is_ending(pid));
        child.wait().unwrap();
        assert!(is_ending(pid));
    }

    #[test]
    fn threads_of_this_process_are_found() {
        let own = sys::process::own_pid();
        let mut found = Found::default();
        found.add_tree(own, true).unwrap();
        let process = &found.processes[0];
        assert_eq!((process.pid, process.tasks[0].tid), (own, own));
        // The test runs in a thread.
        assert!(process.tasks.len() > 1);
        assert!(!process.is_nested && !process.has_ended());
        let error = find(i32::MAX).unwrap_err();
        assert!(error.message().contains("cannot look into"), "{error}");
    }
}
