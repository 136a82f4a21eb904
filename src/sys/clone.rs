//! clone(2), for a kernel without clone3(2), or a filter that refuses it because it cannot look into its arguments.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::{Error, Result, fd, ns, process};

/// The new process's pid, 0 in itself, and its pidfd, which kernels before Linux 5.2 do not give.
pub(super) type Made = (i32, Option<OwnedFd>);

/// As clone3(2) with these namespaces, other flags and signal.
pub(super) fn clone(namespaces: u32, flags: u64, exit_signal: u64) -> Result<Made> {
    if namespaces & ns::flag::TIME == 0 {
        return plain(namespaces, flags, exit_signal);
    }
    // Its bit is part of the signal's number here: the new process makes that namespace itself, and goes into it.
    let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Error::new("pipe2", "O_CLOEXEC", e))?;
    let (pid, pidfd) = plain(namespaces & !ns::flag::TIME, flags, exit_signal)?;
    if pid == 0 {
        drop(told);
        let errno = enter_time().err().map_or(0, |error| error.errno);
        let is_told = rustix::io::write(&tell, &errno.to_ne_bytes()).is_ok();
        if errno != 0 || !is_told {
            process::exit_now(1);
        }
        return Ok((0, None));
    }
    drop(tell);
    let mut word = 0i32.to_ne_bytes();
    let errno = match rustix::io::retry_on_intr(|| rustix::io::read(&told, &mut word)) {
        Ok(count) if count == word.len() => i32::from_ne_bytes(word),
        _ => libc::ECHILD,
    };
    if errno == 0 {
        return Ok((pid, pidfd));
    }
    if flags & libc::CLONE_PARENT as u64 == 0 {
        process::reap(pid)?;
    }
    Err(Error::new("unshare", ns::describe(ns::flag::TIME), errno))
}

fn plain(namespaces: u32, flags: u64, exit_signal: u64) -> Result<Made> {
    let mut pidfd: libc::c_int = -1;
    let all = u64::from(namespaces) | flags | exit_signal | libc::CLONE_PIDFD as u64;
    // SAFETY: without CLONE_VM the child runs on a copy of this stack, and the caller has seen that there is one thread; the
    // third argument is where CLONE_PIDFD puts its fd, on every architecture.
    let pid = unsafe { libc::syscall(libc::SYS_clone, all, 0, &raw mut pidfd, 0, 0) };
    match i32::try_from(pid).unwrap_or(-1) {
        0 => Ok((0, None)),
        pid if pid > 0 => Ok((pid, (pidfd >= 0).then(|| fd::owned(pidfd)))),
        _ => {
            let errno = std::io::Error::last_os_error();
            Err(Error::new("clone", ns::describe(namespaces), errno))
        }
    }
}

/// unshare(2) is for the children to come; setns(2) is for this process too, and those (time_namespaces(7)).
fn enter_time() -> Result<()> {
    ns::unshare(ns::flag::TIME)?;
    let made = super::path::open_magic(Path::new("/proc/self/ns/time_for_children"))?;
    ns::join(made.as_fd(), ns::flag::TIME)
}

/// Refuses a process with more than one thread (EINVAL): a child has a copy of one only, and a lock held by another would stay
/// locked for ever.
pub(super) fn require_single_thread() -> Result<()> {
    // SAFETY: the call changes nothing, whatever it answers; it is refused to a process with more than one thread
    // (unshare(2)).
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    // A filter that lets nobody unshare anything: what is refused in earnest is to be told by what needs it.
    let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS));
    if refused && threads() == Some(1) {
        return Ok(());
    }
    let args = "CLONE_THREAD /* more than one thread */";
    Err(Error::new("unshare", args, error))
}

/// How many threads this process has (proc_pid_status(5)).
fn threads() -> Option<u32> {
    const STATUS_FILE: usize = 1 << 20;
    let text = super::path::read_regular(Path::new("/proc/self/status"), STATUS_FILE).ok()?;
    let text = String::from_utf8_lossy(&text);
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted() {
        let before = threads().unwrap();
        std::thread::scope(|scope| {
            let (go, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || wait.recv());
            // Those of other tests come and go: this one is there in any case, beside the one that counts.
            assert!(threads().unwrap() >= 2, "{before}");
            assert!(require_single_thread().unwrap_err().is(libc::EINVAL));
            drop(go);
        });
    }
}
