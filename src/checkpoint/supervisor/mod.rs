//! Who answers for the kernel what it keeps for the initial user namespace, while CRIU dumps a container.
//!
//! CRIU runs in the container's user namespace, under a filter ([`install`]) that brings some of its calls here:
//!
//!  - openat(2) of a file in /proc/PID/map_files: opened by the path that it has in the container, if that is still the same file
//!    ([`files`]); where it is in no directory, from who has it open ([`open`]). Of shared memory that CRIU itself has attached: a
//!    copy ([`segment`]).
//!  - ptrace(2), PTRACE_O_SUSPEND_SECCOMP: answered as if it were done. It is not: what CRIU has the container's processes do, they
//!    do under their filter, which is never off. Where the filter is in the way the dump fails.
//!  - ptrace(2), PTRACE_SECCOMP_GET_FILTER and PTRACE_SECCOMP_GET_METADATA: the programs that were loaded for the container, and
//!    how; whoever has other ones is refused.
//!
//! All else goes on to the kernel. See [`task::Container::task`] for what keeps CRIU from using it against others.
#![forbid(unsafe_code)]

mod files;
mod filter;
mod maps;
mod open;
mod segment;
mod task;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

pub use filter::install;

use crate::error::{Doing, Error, Result};
use crate::sys;
use crate::sys::notify::{self, Answer, Notification};
use crate::sys::remote;
use crate::sys::seccomp::{Instruction, to_bytes};
use files::REFUSED;
use maps::{Mapping, Maps, Range, Whose};
use open::OpenFiles;
use segment::Segments;
use task::{Container, Task};

/// Whether there is somebody left to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// What waited was answered, or nothing waited.
    Some,
    /// No process is under the filter any more.
    Gone,
}

/// The supervisor. It must not run in the container's user namespace, but in one above it, with all capabilities, and see the
/// processes of the container and CRIU in /proc by its own numbers.
#[derive(Debug)]
pub struct Supervisor {
    listener: OwnedFd,
    container: Container,
    /// As bytes; oldest first.
    filters: Vec<Vec<u8>>,
    /// The flags with which they were loaded.
    flags: Vec<u64>,
    /// Of the process that was asked about last. The container's processes stand still.
    maps: Option<(i32, Maps)>,
    segments: Segments,
    /// Once one was asked for.
    open: Option<OpenFiles>,
    complaint: Option<String>,
}

/// An answer, with the file that it gives.
enum Verdict {
    Continue,
    Value(i64),
    Failure(i32),
    File(OwnedFd, bool),
}

impl Supervisor {
    /// A supervisor for the container of process `first`, under whose filters `listener` is none. `filters` are those that were
    /// loaded for the container's processes, in that order: the oldest first, as the kernel counts them.
    /// `flags` are those that they were loaded with.
    ///
    /// # Errors
    /// The kernel cannot give a process a file in answer to its call; something cannot be read.
    pub fn new(
        listener: OwnedFd,
        first: i32,
        filters: &[Vec<Instruction>],
        flags: &[u64],
    ) -> Result<Self> {
        if !notify::can_answer_with_files(&listener) {
            return Err(
                Error::new("this kernel cannot checkpoint containers without privilege")
                    .because("it cannot answer a system call with a file (SECCOMP_ADDFD_FLAG_SEND)")
                    .hint("use Linux 5.14 or newer")
                    .code("LDG-CHECKPOINT-KERNEL"),
            );
        }
        Ok(Self {
            flags: flags.to_vec(),
            listener,
            container: Container::of(first).map_err(task::cannot_begin)?,
            filters: filters.iter().map(|program| to_bytes(program)).collect(),
            maps: None,
            segments: Segments::default(),
            open: None,
            complaint: None,
        })
    }

    /// What is to be polled: when it is readable, or hung up, [`Self::answer_one`] has something to do.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Why a process cannot be dumped, where CRIU will not know it.
    pub fn complaint(&self) -> Option<String> {
        self.complaint.clone()
    }

    /// Answers one call, if one waits. It does not wait for one.
    pub fn answer_one(&mut self) -> Result<Answered> {
        let what = || "cannot answer CRIU's calls".to_owned();
        let events = events(&self.listener).doing(what)?;
        if !events.contains(PollFlags::IN) {
            let gone = events.intersects(PollFlags::HUP | PollFlags::ERR);
            return Ok(if gone { Answered::Gone } else { Answered::Some });
        }
        let Some(call) = notify::receive(&self.listener).doing(what)? else {
            return Ok(Answered::Some);
        };
        let verdict = self.decide(&call);
        self.send(call.id, &verdict).doing(what)?;
        Ok(Answered::Some)
    }

    /// A file that cannot be given, as when CRIU has no number left, is answered all the same.
    fn send(&self, id: u64, verdict: &Verdict) -> sys::Result<()> {
        let answer = match verdict {
            Verdict::Continue => Answer::Continue,
            Verdict::Value(value) => Answer::Value(*value),
            Verdict::Failure(errno) => Answer::Failure(*errno),
            Verdict::File(file, close_on_exec) => Answer::File(file.as_fd(), *close_on_exec),
        };
        match notify::answer(&self.listener, id, answer) {
            Err(error) if matches!(verdict, Verdict::File(..)) => {
                notify::answer(&self.listener, id, Answer::Failure(error.errno))
            }
            sent => sent,
        }
    }

    fn decide(&mut self, call: &Notification) -> Verdict {
        match call.number {
            libc::SYS_openat => self.decide_open(call),
            libc::SYS_newfstatat => self.decide_stat(call),
            libc::SYS_ptrace => self.decide_trace(call),
            _ => Verdict::Continue,
        }
    }

    fn decide_open(&mut self, call: &Notification) -> Verdict {
        let Some((whose, range)) = asked_for(call) else {
            return Verdict::Continue;
        };
        // What was read was the caller's, if it still waits.
        if !notify::is_waiting(&self.listener, call.id) {
            return Verdict::Failure(libc::ESRCH);
        }
        let close_on_exec = call.arguments[2] & libc::O_CLOEXEC as u64 != 0;
        let opened = match whose {
            Whose::Process(id) if !is_own(whose, call) => self.open_mapped(call, id, range),
            _ => self.open_own(call, range),
        };
        match opened {
            Ok(file) => Verdict::File(file, close_on_exec),
            Err(errno) => Verdict::Failure(errno),
        }
    }

    fn open_mapped(
        &mut self,
        call: &Notification,
        id: i32,
        range: Range,
    ) -> std::result::Result<OwnedFd, i32> {
        if !files::is_to_read(call.arguments[2]) {
            return Err(REFUSED);
        }
        let task = self.container.task(id, call.thread).ok_or(REFUSED)?;
        let mapping = match &self.maps {
            Some((known, maps)) if *known == id => maps.find(range).copied(),
            _ => None,
        };
        let mapping = match mapping {
            Some(mapping) => mapping,
            None => {
                let maps = task.maps().ok_or(REFUSED)?;
                let (_, maps) = self.maps.insert((id, maps));
                maps.find(range).copied().ok_or(libc::ENOENT)?
            }
        };
        match files::open(&self.container, &task, &mapping) {
            Err(refused) => match refused.path {
                Some(path) => self.open_elsewhere(call, &task, &mapping, &path),
                None => Err(refused.errno),
            },
            Ok(file) => Ok(file),
        }
    }

    /// Opens what is mapped, and is not at `path`, where it is open.
    fn open_elsewhere(
        &mut self,
        call: &Notification,
        task: &Task,
        mapping: &Mapping,
        path: &[u8],
    ) -> std::result::Result<OwnedFd, i32> {
        let is_memory = files::is_nameless(path);
        let is_memfd = open::is_memfd(path);
        if open::is_gone(path) && (is_memfd || !is_memory) {
            let (container, tracer) = (&self.container, call.thread);
            let open = self
                .open
                .get_or_insert_with(|| OpenFiles::of(container, tracer));
            if let Some(file) = open.open((container, tracer), path, mapping.file) {
                return Ok(file);
            }
        }
        let complaint = match (is_memory, is_memfd && mapping.private) {
            (false, _) => task::has_lost_file(task, path),
            // Of pages that were not written to CRIU would know nothing, and go on.
            (true, true) => task::has_closed_memory(task, path),
            (true, false) => return Err(REFUSED),
        };
        self.complaint.get_or_insert(complaint);
        Err(if is_memory { libc::EIO } else { REFUSED })
    }

    /// Of itself, CRIU asks for shared memory that it has attached.
    fn open_own(&mut self, call: &Notification, range: Range) -> std::result::Result<OwnedFd, i32> {
        let (_, id) = own_segment(call, range)?;
        self.segments.copy(&self.container, id, range.1 - range.0)
    }

    /// newfstatat(2): CRIU takes the number of a segment from it.
    fn decide_stat(&self, call: &Notification) -> Verdict {
        let Some((whose, range)) = asked_for(call) else {
            return Verdict::Continue;
        };
        if !is_own(whose, call) {
            return Verdict::Continue;
        }
        let answered = own_segment(call, range).and_then(|(device, inode)| {
            let stat = remote::stat_of(device, inode, range.1 - range.0);
            self.write(call, call.arguments[2], &stat)
                .map_err(|e| e.errno)
        });
        answered.map_or_else(Verdict::Failure, |()| Verdict::Value(0))
    }

    fn decide_trace(&mut self, call: &Notification) -> Verdict {
        let [request, id, index, data, ..] = call.arguments;
        if ![
            filter::SET_OPTIONS,
            filter::GET_FILTER,
            filter::GET_METADATA,
        ]
        .contains(&request)
        {
            return Verdict::Continue;
        }
        let id = i32::try_from(id & 0xffff_ffff).unwrap_or(0);
        let Some(task) = self.container.task(id, call.thread) else {
            return Verdict::Failure(libc::ESRCH);
        };
        match request {
            filter::SET_OPTIONS => suspend(data),
            filter::GET_FILTER => self.give_filter(call, &task, index, data),
            _ => self.give_flags(call, &task, index, data),
        }
    }

    /// PTRACE_SECCOMP_GET_FILTER: the number of instructions of program `index`, which are written to `address`, if that is not 0.
    fn give_filter(
        &mut self,
        call: &Notification,
        task: &Task,
        index: u64,
        address: u64,
    ) -> Verdict {
        let program = match self.number_of(task, index) {
            Ok(number) => &self.filters[number],
            Err(errno) => return Verdict::Failure(errno),
        };
        if address != 0 && self.write(call, address, program).is_err() {
            return Verdict::Failure(libc::EFAULT);
        }
        let count = program.len() / sys::seccomp::INSTRUCTION_SIZE;
        i64::try_from(count).map_or(Verdict::Failure(libc::EINVAL), Verdict::Value)
    }

    /// PTRACE_SECCOMP_GET_METADATA (`struct seccomp_metadata` of linux/ptrace.h), of which `size` bytes are at `address`: the number
    /// of a filter, after which its flags are written. As the kernel, it tells of the one alone that matters to others.
    fn give_flags(&mut self, call: &Notification, task: &Task, size: u64, address: u64) -> Verdict {
        const NUMBER: usize = size_of::<u64>();
        const WHOLE: usize = 2 * NUMBER;
        let size = usize::try_from(size).unwrap_or(WHOLE).min(WHOLE);
        if size < NUMBER {
            return Verdict::Failure(libc::EINVAL);
        }
        let mut content = [0; WHOLE];
        let (number, flags) = content.split_at_mut(NUMBER);
        if remote::read(call.thread, address, number) != NUMBER {
            return Verdict::Failure(libc::EFAULT);
        }
        let index = u64::from_ne_bytes(number.try_into().unwrap_or_default());
        let loaded_with = match self.number_of(task, index) {
            Ok(number) => self.flags.get(number).copied().unwrap_or(0),
            Err(errno) => return Verdict::Failure(errno),
        };
        flags.copy_from_slice(&(loaded_with & libc::SECCOMP_FILTER_FLAG_LOG).to_ne_bytes());
        match self.write(call, address, &content[..size]) {
            Ok(()) => i64::try_from(size).map_or(Verdict::Failure(libc::EINVAL), Verdict::Value),
            Err(_) => Verdict::Failure(libc::EFAULT),
        }
    }

    /// The number of the filter that the kernel would give for `index`, or its refusal.
    fn number_of(&mut self, task: &Task, index: u64) -> std::result::Result<usize, i32> {
        let loaded = self.filters.len();
        if task.status.filters != loaded {
            self.complaint
                .get_or_insert_with(|| task::has_other_filters(task, loaded));
            return Err(REFUSED);
        }
        if loaded == 0 {
            return Err(libc::EINVAL);
        }
        let number = usize::try_from(index).ok().filter(|at| *at < loaded);
        number.ok_or(libc::ENOENT)
    }

    /// Writes to the caller's memory, and to nobody else's: opened before it is seen waiting, it is the caller's.
    fn write(&self, call: &Notification, address: u64, content: &[u8]) -> sys::Result<()> {
        let memory = remote::Memory::open(call.thread)?;
        if !notify::is_waiting(&self.listener, call.id) {
            return Err(sys::Error::new(
                "ioctl",
                "SECCOMP_IOCTL_NOTIF_ID_VALID",
                libc::ENOENT,
            ));
        }
        memory.write(address, content)
    }
}

/// CRIU sets PTRACE_O_SUSPEND_SECCOMP and PTRACE_O_TRACESYSGOOD in one call. Only the tracer could set the second one, so it is not
/// set either; CRIU sets it again, alone, before it lets a process run to its next call. Any other option would be missed.
fn suspend(options: u64) -> Verdict {
    match options & !u64::from(filter::SUSPEND | filter::MARK_CALLS) {
        0 => Verdict::Value(0),
        _ => Verdict::Failure(REFUSED),
    }
}

fn is_own(whose: Whose, call: &Notification) -> bool {
    matches!(whose, Whose::Own) || whose == Whose::Process(call.thread)
}

/// Device and inode of the segment that the caller has at `range`; the inode is its id.
fn own_segment(call: &Notification, range: Range) -> std::result::Result<((u32, u32), u64), i32> {
    let maps = task::maps_of(call.thread).ok_or(REFUSED)?;
    let mapping = maps.find(range).ok_or(libc::ENOENT)?;
    let (major, minor, inode) = mapping.file;
    match mapping.segment {
        true => Ok(((major, minor), inode)),
        false => Err(REFUSED),
    }
}

/// Which file of map_files the caller opens, if it is one.
fn asked_for(call: &Notification) -> Option<(Whose, Range)> {
    /// More than such a path can have.
    const LONGEST: usize = 128;
    let mut buffer = [0; LONGEST];
    let length = remote::read(call.thread, call.arguments[1], &mut buffer);
    let end = buffer[..length].iter().position(|b| *b == 0)?;
    let path = &buffer[..end];
    // Nearly all are none: it is seen by the name alone.
    maps::range(path.rsplit(|b| *b == b'/').next()?)?;
    if path.first() == Some(&b'/') {
        return maps::map_file(path);
    }
    // The fd is the lower half.
    let directory = (call.arguments[0] & 0xffff_ffff) as u32;
    let mut whole = task::open_path(call.thread, directory.cast_signed())?;
    whole.push(b'/');
    whole.extend(path);
    maps::map_file(&whole)
}

fn events(listener: &OwnedFd) -> sys::Result<PollFlags> {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&Timespec::default())) {
        Ok(_) => Ok(fds[0].revents()),
        Err(rustix::io::Errno::INTR) => Ok(PollFlags::empty()),
        Err(e) => Err(sys::Error::new("poll", "listener, POLLIN", e)),
    }
}
