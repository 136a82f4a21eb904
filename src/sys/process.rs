//! Processes: clone, exec, signal, wait.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags};

use super::refused::{self, Call};
use super::{Error, Result, clone, fd, ns, pid_dir};

/// What [`clone`] returned.
#[derive(Debug)]
pub enum Cloned {
    /// In the parent.
    Parent(Child),
    /// In the child.
    Child,
}

/// A child process that has not been waited for: its pid cannot be reused.
#[derive(Debug)]
pub struct Child {
    /// The pid in the caller's pid namespace.
    pub pid: i32,
    /// A pidfd (pidfd_open(2)), or what stands in for it.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit status.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

impl Exit {
    /// From the status that wait(2) gives for a process that has ended.
    pub fn of_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Code((status >> 8) & 0xff),
            signal => Self::Signal(signal),
        }
    }

    /// The exit status a shell would show: 128 + the signal's number.
    pub fn shell_code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code & 0xff,
            Self::Signal(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => {
                let name = nix::sys::signal::Signal::try_from(*signal)
                    .map_or("unknown", nix::sys::signal::Signal::as_str);
                write!(f, "killed by signal {signal} ({name})")
            }
        }
    }
}

/// Makes a child process in new namespaces of the kinds in `namespaces` (clone3(2); where that is refused as such, clone(2));
/// with 0 it is a fork.
///
/// The process must have one thread, else EINVAL: the child has a copy of this one only, and a lock held by another
/// would stay locked for ever.
pub fn clone(namespaces: u32) -> Result<Cloned> {
    clone_with(namespaces, 0, libc::SIGCHLD as u64, None)
}

/// As [`clone()`], with the new process in `cgroup`, a directory of version 2, from its first instruction on (CLONE_INTO_CGROUP).
///
/// ENOSYS: a kernel before 5.7, or a filter that feigns an older one. EACCES and EPERM: the caller may not put a process there.
/// EBUSY, EOPNOTSUPP and ENODEV: nobody can.
pub fn clone_into(namespaces: u32, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    clone_with(namespaces, 0, libc::SIGCHLD as u64, cgroup)
}

/// As [`clone()`], but the new process is a child of this one's parent (CLONE_PARENT), for whom it ends as this one does.
pub fn clone_sibling(namespaces: u32) -> Result<Cloned> {
    clone_with(namespaces, libc::CLONE_PARENT as u64, 0, None)
}

fn clone_with(
    namespaces: u32,
    flags: u64,
    exit_signal: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned> {
    clone::require_single_thread()?;
    if !refused::is_known(Call::Clone3) {
        match clone3(namespaces, flags, exit_signal, cgroup) {
            Err(error) if refused::is_refused(Call::Clone3, error.errno) => {}
            made => return made.and_then(cloned),
        }
    }
    if cgroup.is_some() {
        let args = format!("CLONE_INTO_CGROUP|{}", ns::describe(namespaces));
        return Err(Error::new("clone3", args, libc::ENOSYS));
    }
    clone::clone(namespaces, flags, exit_signal).and_then(cloned)
}

fn cloned((pid, pidfd): clone::Made) -> Result<Cloned> {
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // Not reaped yet, it is the one that has the number.
    match pidfd.map_or_else(|| pid_dir::open(pid), Ok) {
        Ok(pidfd) => Ok(Cloned::Parent(Child { pid, pidfd })),
        Err(error) => {
            let _it_is_not_left = kill(pid, libc::SIGKILL);
            let _or_by_its_parent = reap(pid);
            Err(error)
        }
    }
}

fn clone3(
    namespaces: u32,
    flags: u64,
    exit_signal: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<clone::Made> {
    /// CLONE_INTO_CGROUP of linux/sched.h: beyond the flags of clone(2).
    const INTO_CGROUP: u64 = 1 << 33;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero is a valid clone_args: no stack, no tid pointers, no cgroup.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(namespaces) | flags | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = exit_signal;
    if let Some(cgroup) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: without CLONE_VM the child runs on a copy of this stack; the caller has found one thread, so that no lock is
    // held by another.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match i32::try_from(pid).unwrap_or(-1) {
        0 => Ok((0, None)),
        pid if pid > 0 => Ok((pid, Some(fd::owned(pidfd)))),
        _ => {
            let errno = std::io::Error::last_os_error();
            let mut args = ns::describe(namespaces);
            if cgroup.is_some() {
                args = format!("CLONE_INTO_CGROUP|{args}");
            }
            Err(Error::new("clone3", args.trim_end_matches('|'), errno))
        }
    }
}

/// Replaces this process by the program at `path`; returns only on failure.
pub fn exec(path: &CString, args: &[CString], env: &[CString]) -> Error {
    let Err(errno) = nix::unistd::execve(path, args, env);
    Error::new("execve", format!("{path:?}, {args:?}"), errno)
}

/// As [`exec`], with the program open as `fd` (execveat(2), AT_EMPTY_PATH; where that is refused, by its magic link).
pub fn exec_fd(program: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> Error {
    let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
    let Err(errno) = nix::unistd::execveat(program, c"", args, env, flags);
    if refused::is_refused(Call::Execveat, errno as i32)
        && let Ok(path) = CString::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
    {
        return exec(&path, args, env);
    }
    Error::new(
        "execveat",
        format!("fd, \"\", {args:?}, AT_EMPTY_PATH"),
        errno,
    )
}

/// Ends this process at once: no atexit handlers, no buffers, as is right for a child after clone.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// This process's id.
pub fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The parent's id; 0 when it is in another pid namespace.
pub fn parent_pid() -> i32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get())
}

/// Kills `leader`, a child that has not been waited for, and every process of the group that it leads.
pub fn kill_group(leader: &Child) -> Result<()> {
    // It may not lead a group yet; killed first, it makes neither a group nor a child any more.
    match send_signal_to(leader, libc::SIGKILL) {
        Err(error) if !error.is(libc::ESRCH) => return Err(error),
        _ => {}
    }
    let group = nix::unistd::Pid::from_raw(leader.pid);
    match nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL) {
        // All of them have ended.
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(e) => Err(Error::new("kill", format!("-{}, SIGKILL", leader.pid), e)),
    }
}

/// Has descendants of this process that lose their parent become its children (PR_SET_CHILD_SUBREAPER, prctl(2)).
pub fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| Error::new("prctl", "PR_SET_CHILD_SUBREAPER", e))
}

/// Reaps the children that have ended, whoever's they were before; only for one that waits for none of them.
pub fn reap_ended() -> Result<()> {
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::new("wait4", "-1, WNOHANG", e)),
        }
    }
}

/// A pidfd of process `pid`, or what stands in for it where pidfd_open(2) is refused. ESRCH when there is none.
pub fn open_pidfd(pid: i32) -> Result<OwnedFd> {
    let name = Pid::from_raw(pid).ok_or_else(|| Error::new("pidfd_open", "0", libc::ESRCH))?;
    if !refused::is_known(Call::PidfdOpen) {
        match rustix::process::pidfd_open(name, PidfdFlags::empty()) {
            Ok(pidfd) => return Ok(pidfd),
            Err(e) if refused::is_refused(Call::PidfdOpen, e.raw_os_error()) => {}
            Err(e) => return Err(Error::new("pidfd_open", format!("{pid}"), e)),
        }
    }
    pid_dir::open(pid)
}

/// Sends `signal` to the process (pidfd_send_signal(2)). ESRCH when it has ended.
///
/// Where that call is refused, kill(2) takes the number of a process that has just been seen to be there. Between the two it
/// may end, be reaped, and its number be given to another: the kernel must have handed out all others by then.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let pidfd = pidfd.as_fd();
    match signal_by_fd(pidfd, signal)? {
        true => Ok(()),
        false => kill(super::pidfd::number(pidfd)?, signal),
    }
}

/// As [`send_signal`], to a child that has not been waited for: its number is nobody else's.
pub fn send_signal_to(child: &Child, signal: i32) -> Result<()> {
    match signal_by_fd(child.pidfd.as_fd(), signal)? {
        true => Ok(()),
        false => kill(child.pid, signal),
    }
}

/// `false`: the call is refused as such.
fn signal_by_fd(pidfd: BorrowedFd<'_>, signal: i32) -> Result<bool> {
    if refused::is_known(Call::PidfdSendSignal) {
        return Ok(false);
    }
    // SAFETY: the siginfo pointer may be NULL; the rest are plain integers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if answer == 0 {
        return Ok(true);
    }
    let error = std::io::Error::last_os_error();
    if refused::is_refused(Call::PidfdSendSignal, error.raw_os_error().unwrap_or(0)) {
        return Ok(false);
    }
    let args = format!("pidfd, {signal}");
    Err(Error::new("pidfd_send_signal", args, error))
}

/// To one process: never 0 or less, which are groups.
fn kill(pid: i32, signal: i32) -> Result<()> {
    let args = || format!("{pid}, {signal}");
    if pid <= 0 {
        return Err(Error::new("kill", args(), libc::ESRCH));
    }
    // SAFETY: kill takes plain integers.
    if unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(());
    }
    Err(Error::new("kill", args(), std::io::Error::last_os_error()))
}

/// Waits at most `milliseconds` for a process that need not be a child to end; whether it did.
pub fn wait_ended(pidfd: impl AsFd, milliseconds: i32) -> Result<bool> {
    super::pidfd::poll(pidfd.as_fd(), libc::POLLIN, milliseconds.max(0))
}

/// Lowers the size that a file of this process may grow to, in bytes (RLIMIT_FSIZE): a write beyond it is EFBIG, as SIGXFSZ is
/// ignored ([`super::signal::ignore_failed_writes`]).
pub fn limit_file_size(bytes: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let lower = |limit: Option<u64>| Some(limit.map_or(bytes, |limit| limit.min(bytes)));
    let now = getrlimit(Resource::Fsize);
    let limit = Rlimit {
        current: lower(now.current),
        maximum: lower(now.maximum),
    };
    setrlimit(Resource::Fsize, limit)
        .map_err(|e| Error::new("prlimit64", format!("RLIMIT_FSIZE, {bytes}"), e))
}

/// Lets this process have as many files open as it ever may (RLIMIT_NOFILE).
pub fn raise_open_files() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit)
        .map_err(|e| Error::new("prlimit64", format!("RLIMIT_NOFILE, {maximum:?}"), e))
}

/// What a process used, and all of its children that it waited for (getrusage(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Time in user mode, in microseconds.
    pub user_us: u64,
    /// Time in the kernel, in microseconds.
    pub system_us: u64,
    /// The largest resident set of one process, in KiB.
    pub max_rss_kib: u64,
    /// Page faults that needed no I/O.
    pub minor_faults: u64,
    /// Page faults that needed I/O.
    pub major_faults: u64,
    /// Blocks read, of 512 bytes.
    pub blocks_in: u64,
    /// Blocks written, of 512 bytes.
    pub blocks_out: u64,
    /// Times it waited.
    pub voluntary_switches: u64,
    /// Times it was made to wait.
    pub involuntary_switches: u64,
}

impl Usage {
    fn of(kernel: &libc::rusage) -> Self {
        let count = |number: libc::c_long| u64::try_from(number).unwrap_or(0);
        let micros = |time: libc::timeval| count(time.tv_sec) * 1_000_000 + count(time.tv_usec);
        Self {
            user_us: micros(kernel.ru_utime),
            system_us: micros(kernel.ru_stime),
            max_rss_kib: count(kernel.ru_maxrss),
            minor_faults: count(kernel.ru_minflt),
            major_faults: count(kernel.ru_majflt),
            blocks_in: count(kernel.ru_inblock),
            blocks_out: count(kernel.ru_oublock),
            voluntary_switches: count(kernel.ru_nvcsw),
            involuntary_switches: count(kernel.ru_nivcsw),
        }
    }
}

/// The end of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    /// What it used.
    pub usage: Usage,
}

/// Waits for the child to end and reaps it.
pub fn wait(child: &Child) -> Result<Exit> {
    loop {
        if let Some(ended) = wait_pid(child.pid, 0)? {
            return Ok(ended.exit);
        }
    }
}

/// Reaps the child if it has ended.
pub fn try_wait(child: &Child) -> Result<Option<Ended>> {
    wait_pid(child.pid, libc::WNOHANG)
}

/// Waits for the child `pid` to end, however it does, and reaps it.
pub(super) fn reap(pid: i32) -> Result<()> {
    wait_pid(pid, 0).map(|_| ())
}

fn wait_pid(pid: i32, options: libc::c_int) -> Result<Option<Ended>> {
    let mut status: libc::c_int = 0;
    // SAFETY: all-zero is a valid rusage, which is plain numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both addresses are valid for what wait4 writes to them.
        let found = unsafe { libc::wait4(pid, &raw mut status, options, &raw mut usage) };
        if found == 0 {
            return Ok(None);
        }
        if found > 0 {
            let code = libc::WIFEXITED(status).then(|| Exit::Code(libc::WEXITSTATUS(status)));
            let signal = libc::WIFSIGNALED(status).then(|| Exit::Signal(libc::WTERMSIG(status)));
            let usage = Usage::of(&usage);
            return Ok(code.or(signal).map(|exit| Ended { exit, usage }));
        }
        let errno = std::io::Error::last_os_error();
        if errno.raw_os_error() != Some(libc::EINTR) {
            return Err(Error::new("wait4", format!("{pid}"), errno));
        }
    }
}
