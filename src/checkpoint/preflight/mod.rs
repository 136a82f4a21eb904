//! What is looked at before CRIU is called, so that what cannot work fails before anything is touched, with its cause.

use std::path::Path;

use super::inspect::maps::{self, Trouble};
use super::inspect::mounts::Mounts;
use super::inspect::{Inspection, Obstacle, Process, inspect, open_root};
use super::saved::Saved;
use crate::error::{Error, Result};
use crate::state::Record;
use crate::sys;
use crate::sys::ns::flag;
use crate::sys::seccomp::Instruction;

pub mod bpf;
pub mod calls;
pub mod fit;
mod lasting;
pub mod lost;
mod tracking;

pub use lasting::{caller_in, caller_is_known, covered};
pub use tracking::tracking;

/// How many processes a message names.
const NAMED: usize = 6;

/// Whether the container of `record` can be checkpointed, as far as can be told without touching it; what was found out about it.
/// `saved` is what `create` has saved of it, and `filters` the programs of its system call filters. See [`inspect`] for where the
/// calling process must be.
///
/// # Errors
/// The first reason against it, with a remedy.
pub fn check(
    record: &Record,
    saved: Option<&Saved>,
    filters: &[Vec<Instruction>],
) -> Result<Inspection> {
    kernel()?;
    namespaces(record)?;
    let saved = saved.ok_or_else(|| {
        cannot()
            .because("it was made by a lodger that did not save how")
            .hint("make the container anew")
    })?;
    lasting::made(record, saved)?;
    let found = inspect(record.process.pid, saved)?;
    look(&found, filters.len())?;
    lasting::found(&found, &Mounts::of("self")?)?;
    sockets(record, &found)?;
    calls::check(filters, found.has)?;
    mapped(record, &found)?;
    Ok(found)
}

/// Who may trace whom, 0 to 3 (Linux's Documentation/admin-guide/LSM/Yama.rst); a 3 cannot be changed any more.
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";

fn cannot() -> Error {
    Error::new("the container cannot be checkpointed")
}

/// Whether this kernel can checkpoint processes.
///
/// # Errors
/// It was built without CONFIG_CHECKPOINT_RESTORE, or without CONFIG_PROC_CHILDREN; Yama forbids ptrace(2) to everyone.
pub fn kernel() -> Result<()> {
    // /proc/PID/map_files tells nothing: since Linux 4.3 it is there without the option, too.
    for (path, option) in [
        ("/proc/self/timers", "CONFIG_CHECKPOINT_RESTORE"),
        ("/proc/thread-self/children", "CONFIG_PROC_CHILDREN"),
    ] {
        if !Path::new(path).exists() {
            return Err(Error::new("this kernel cannot checkpoint processes")
                .because(format!("it was built without {option}: there is no {path}"))
                .hint("use a kernel that was built with it, as those of most distributions are")
                .code("LDG-CHECKPOINT-KERNEL"));
        }
    }
    // A file of one digit; none where there is no Yama.
    if sys::path::read_regular(Path::new(YAMA), 16).is_ok_and(|text| text.trim_ascii() == b"3") {
        return Err(Error::new("this kernel cannot checkpoint processes")
            .because("no process may trace another (kernel.yama.ptrace_scope is 3), which is how CRIU works")
            .hint("it stays so until the next boot: take it out of /etc/sysctl.conf and /etc/sysctl.d, and boot")
            .code("LDG-CHECKPOINT-KERNEL"));
    }
    Ok(())
}

/// The namespaces that may be others' as well: CRIU is in them, and so has nothing to dump of them, and a restore joins them again.
pub const REJOINED: u32 = flag::NETWORK | flag::UTS | flag::IPC | flag::CGROUP;

fn why_not_rejoined(kind: u32) -> &'static str {
    match kind {
        flag::USER => "they would have power over CRIU, which has more in reach than they",
        flag::PID => "its processes need the numbers that they had, which others may have by then",
        flag::MOUNT => "CRIU makes the mounts of what it restores anew",
        _ => "CRIU makes the clocks of what it restores anew",
    }
}

/// Refuses what the container shares with others, and what it lacks.
fn namespaces(record: &Record) -> Result<()> {
    const KINDS: [(u32, &str); 8] = [
        (flag::USER, "user"),
        (flag::PID, "pid"),
        (flag::MOUNT, "mount"),
        (flag::IPC, "ipc"),
        (flag::TIME, "time"),
        (flag::UTS, "uts"),
        (flag::NETWORK, "network"),
        (flag::CGROUP, "cgroup"),
    ];
    let lasting = record.joined & !REJOINED;
    if let Some((bit, kind)) = KINDS.iter().find(|(bit, _)| lasting & bit != 0) {
        return Err(cannot()
            .because(format!(
                "its {kind} namespace is one that was there before it, and that others may be in: {}",
                why_not_rejoined(*bit)
            ))
            .hint(format!(
                "make it with a {kind} namespace of its own: without a path in linux.namespaces"
            )));
    }
    // Without a user namespace of its own it is in that of its caller, who is root of that.
    let needed = &KINDS[1..3];
    if let Some((_, kind)) = needed.iter().find(|(bit, _)| record.namespaces & bit == 0) {
        return Err(cannot()
            .because(format!("it has no {kind} namespace of its own"))
            .hint(format!("make it with one: {kind:?} in linux.namespaces")));
    }
    if record.listener.is_some() {
        return Err(cannot()
            .because("its system call filter asks an agent, and nobody could tell the agent of other processes")
            .hint("make it with a seccomp profile without SCMP_ACT_NOTIFY"));
    }
    if record.namespaces & flag::TIME != 0 {
        return Err(cannot()
            .because(
                "it has a time namespace of its own, which CRIU does not dump without privilege",
            )
            .hint("make it without one: without \"time\" in linux.namespaces"));
    }
    if record.no_pivot {
        return Err(cannot()
            .because("the root of this machine is mounted beneath its own (--no-pivot)")
            .hint("make it without --no-pivot"));
    }
    Ok(())
}

/// Refuses what the processes do that CRIU cannot dump. `installed`: how many filters each was started with.
fn look(found: &Inspection, installed: usize) -> Result<()> {
    let living = || {
        found
            .processes
            .iter()
            .filter(|process| !process.has_ended())
    };
    let strange: Vec<&Process> = living().filter(|process| !process.is_descendant).collect();
    if !strange.is_empty() {
        return Err(cannot()
            .because(format!(
                "{} did not come from its first process, and would be left out: most often `lodger exec` has started it",
                named(&strange)
            ))
            .hint("end it first, or wait until it has ended"));
    }
    for process in living() {
        process_alone(process)?;
        filters(process, installed)?;
    }
    if let Some(first) = found
        .processes
        .first()
        .filter(|first| first.session != first.inside)
    {
        return Err(cannot()
            .because(format!(
                "its first process, {}, leads no session",
                first.called()
            ))
            .hint("make the container anew: its first process is given a session of its own"));
    }
    found
        .obstacle
        .as_ref()
        .map_or(Ok(()), |obstacle| Err(refused(obstacle)))
}

fn named(processes: &[&Process]) -> String {
    let shown = processes.iter().take(NAMED).map(|process| process.called());
    let shown = shown.collect::<Vec<_>>().join(", ");
    match processes.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn process_alone(process: &Process) -> Result<()> {
    let called = process.called();
    if process.is_nested {
        return Err(cannot()
            .because(format!(
                "{called} is in a pid namespace of its own, which CRIU does not dump"
            ))
            .hint("end the container or sandbox that it belongs to first"));
    }
    let tracer = process.tasks.iter().find(|task| task.tracer != 0);
    if let Some(task) = tracer {
        return Err(cannot()
            .because(format!(
                "{called} is traced by process {} ({:?}), and only one can trace it",
                task.tracer,
                name(task.tracer)
            ))
            .hint("end the debugger, or have it let go of the process"));
    }
    let (session, group) = (process.session == 0, process.group == 0);
    if session || group {
        let kind = if session { "session" } else { "process group" };
        return Err(cannot()
            .because(format!("{called} is in a {kind} of somebody outside of the container"))
            .hint("end it first: most often something that `lodger exec` had started has left it behind"));
    }
    Ok(())
}

/// The name of a process, which may be outside of the container.
fn name(pid: i32) -> String {
    let text = sys::path::read_regular(Path::new(&format!("/proc/{pid}/comm")), 4096);
    let text = text.unwrap_or_default();
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// Refuses filters that were not loaded by this program: nobody but root of the whole machine can read them.
fn filters(process: &Process, installed: usize) -> Result<()> {
    let called = process.called();
    for task in &process.tasks {
        let thread = match task.tid == process.pid {
            true => String::new(),
            false => format!(" in its thread {}", task.tid),
        };
        if task.mode == 1 {
            return Err(cannot()
                .because(format!("{called} is in seccomp's strict mode{thread}, where it cannot call what CRIU must call in it"))
                .hint("end it first"));
        }
        // Where the kernel does not tell how many there are, one more is not seen.
        let there = match (task.filters, task.mode) {
            (Some(count), _) => usize::try_from(count).unwrap_or(usize::MAX),
            (None, 0) => 0,
            (None, _) => installed.max(1),
        };
        if there > installed {
            let own = there - installed;
            let filters = if own == 1 { "filter" } else { "filters" };
            return Err(cannot()
                .because(format!(
                    "{called} has installed {own} system call {filters} of its own{thread}, and only root of this machine can \
                     read them"
                ))
                .hint("have the program work without its own filter (\"sandbox\"), or end it first"));
        }
        if there < installed {
            return Err(cannot()
                .because(format!(
                    "{called} is under {there} system call filters{thread}, and the container was made with {installed}"
                ))
                .hint("end it first"));
        }
    }
    Ok(())
}

fn refused(obstacle: &Obstacle) -> Error {
    let Obstacle {
        process,
        number,
        what,
        from_outside,
    } = obstacle;
    let error = cannot();
    match from_outside {
        true => error
            .because(format!(
                "{process} has file {number} open ({what}), which is on no mount of the container, nor was it passed on by \
                 whoever made it"
            ))
            .hint("close it first: restored, the process could not be given it again"),
        false => error
            .because(format!("{process} has file {number} open ({what}), of a kind that CRIU does not know"))
            .hint("close it first, or have the program work without it"),
    }
}

/// Refuses sockets of the caller's where the container is in another network namespace: CRIU looks for sockets in that.
fn sockets(record: &Record, found: &Inspection) -> Result<()> {
    let mut streams = found.streams.iter();
    let socket = streams.find(|stream| stream.key.starts_with("socket:"));
    match socket.filter(|_| record.namespaces & flag::NETWORK != 0) {
        None => Ok(()),
        Some(socket) => Err(cannot()
            .because(format!(
                "its file {} is a socket that whoever made it has passed on, of another network namespace, where CRIU does not look",
                socket.number
            ))
            .hint("make it with a pipe, a file or /dev/null instead")),
    }
}

/// Refuses mapped files that CRIU cannot open.
fn mapped(record: &Record, found: &Inspection) -> Result<()> {
    let Some(first) = found.processes.first() else {
        return Ok(());
    };
    let search = maps::Search::new(open_root(first.pid)?, &found.memory, &found.gone)?;
    let search = match record.own_namespaces() & flag::IPC {
        0 => search.without_segments(),
        _ => search,
    };
    for process in found.processes.iter().filter(|one| !one.has_ended()) {
        if let Some(trouble) = search.first(process.pid)? {
            return Err(unreachable(process, &trouble));
        }
    }
    Ok(())
}

fn unreachable(process: &Process, trouble: &Trouble) -> Error {
    let called = process.called();
    let (what, hint) = match trouble {
        Trouble::Segment(segment) => {
            return cannot()
                .because(format!(
                    "{called} has attached the shared memory segment {segment:?} (shmget(2)) of an ipc namespace that is not the \
                     container's alone, and CRIU leaves such a namespace as it is"
                ))
                .hint("make it with an ipc namespace of its own, or have the program detach the segment");
        }
        Trouble::Deleted(file) => (
            format!(
                "{called} maps the deleted file {file:?}, which nobody in the container has open"
            ),
            "restart the process, most often after its program or a library was replaced; or have it unmap the file",
        ),
        Trouble::Private(file) => (
            format!(
                "{called} maps privately the file in memory {file:?} (memfd_create), which nobody has open"
            ),
            "have the program do without, or end it first",
        ),
    };
    let why = "to open it for CRIU takes CAP_CHECKPOINT_RESTORE on this machine, not only in the container";
    cannot().because(format!("{what}, and {why}")).hint(hint)
}

#[cfg(test)]
mod tests;
