//! The listener of a system call filter (seccomp_unotify(2)): what a process asks, and what it is answered.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::{Error, Result};

/// A call that waits for an answer (`struct seccomp_notif`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// What tells it from all others of this listener.
    pub id: u64,
    /// The thread that calls, in the pid namespace of this process; 0 when it has no number there.
    pub thread: i32,
    /// The call's number.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What a call is answered.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'fd> {
    /// The kernel does it, as if there were no filter.
    Continue,
    /// It has done what it should, and returns this.
    Value(i64),
    /// It fails with this error number (errno(3)).
    Failure(i32),
    /// It returns a new fd of the caller's, a copy of this one; `true`: close-on-exec. It must not be O_PATH.
    File(BorrowedFd<'fd>, bool),
}

// linux/seccomp.h: SECCOMP_IOWR and SECCOMP_IOW of '!'.
const RECEIVE: u64 = ioctl(3, 0, size_of::<libc::seccomp_notif>());
const SEND: u64 = ioctl(3, 1, size_of::<libc::seccomp_notif_resp>());
const ID_VALID: u64 = ioctl(1, 2, size_of::<u64>());
const ADD_FD: u64 = ioctl(1, 3, size_of::<libc::seccomp_notif_addfd>());

/// SECCOMP_USER_NOTIF_FLAG_CONTINUE and SECCOMP_ADDFD_FLAG_SEND of linux/seccomp.h.
const CONTINUE: u32 = 1;
const WITH_ANSWER: u32 = 1 << 1;

/// The number of an ioctl of the listener, where directions are as on most machines (asm-generic/ioctl.h).
const fn ioctl(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | (b'!' as u64) << 8 | number
}

/// Takes the next call that waits. `None`: there was one, but it is gone (its caller was killed, or got a signal).
///
/// Without one it waits: poll(2) the listener before.
pub fn receive(listener: impl AsFd) -> Result<Option<Notification>> {
    // SAFETY: all-zero is a valid value, and what the kernel wants of the caller.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    match call(listener, RECEIVE, (&raw mut raw).cast()) {
        Ok(()) => Ok(Some(Notification {
            id: raw.id,
            thread: raw.pid.cast_signed(),
            number: i64::from(raw.data.nr),
            arguments: raw.data.args,
        })),
        Err(libc::ENOENT | libc::EINTR) => Ok(None),
        Err(errno) => Err(Error::new("ioctl", "SECCOMP_IOCTL_NOTIF_RECV", errno)),
    }
}

/// Whether the call still waits: then its thread is the one that made it, and nobody else has its number.
pub fn is_waiting(listener: impl AsFd, id: u64) -> bool {
    let mut id = id;
    call(listener, ID_VALID, (&raw mut id).cast()).is_ok()
}

/// Whether [`Answer::File`] can be had (SECCOMP_ADDFD_FLAG_SEND, Linux 5.14): the kernel looks at the flag before it finds that
/// there is no file.
pub fn can_answer_with_files(listener: impl AsFd) -> bool {
    // SAFETY: all-zero is a valid value.
    let mut raw: libc::seccomp_notif_addfd = unsafe { std::mem::zeroed() };
    raw.flags = WITH_ANSWER;
    raw.srcfd = u32::MAX;
    call(listener, ADD_FD, (&raw mut raw).cast()) == Err(libc::EBADF)
}

/// Answers the call `id`. That it does not wait any more is no failure.
pub fn answer(listener: impl AsFd, id: u64, answer: Answer<'_>) -> Result<()> {
    // SAFETY: all-zero is a valid value.
    let mut raw: libc::seccomp_notif_resp = unsafe { std::mem::zeroed() };
    raw.id = id;
    match answer {
        Answer::Continue => raw.flags = CONTINUE,
        Answer::Value(value) => raw.val = value,
        Answer::Failure(errno) => raw.error = -errno,
        Answer::File(file, close_on_exec) => return add_file(listener, id, file, close_on_exec),
    }
    gone_is_fine(
        call(listener, SEND, (&raw mut raw).cast()),
        "SECCOMP_IOCTL_NOTIF_SEND",
    )
}

/// Gives the caller the file, and the answer with it, in one step (SECCOMP_ADDFD_FLAG_SEND): a caller that is killed meanwhile has
/// neither.
fn add_file(listener: impl AsFd, id: u64, file: BorrowedFd<'_>, close_on_exec: bool) -> Result<()> {
    // SAFETY: all-zero is a valid value.
    let mut raw: libc::seccomp_notif_addfd = unsafe { std::mem::zeroed() };
    raw.id = id;
    raw.flags = WITH_ANSWER;
    raw.srcfd = file.as_raw_fd().unsigned_abs();
    if close_on_exec {
        raw.newfd_flags = libc::O_CLOEXEC.unsigned_abs();
    }
    gone_is_fine(
        call(listener, ADD_FD, (&raw mut raw).cast()),
        "SECCOMP_IOCTL_NOTIF_ADDFD",
    )
}

/// ENOENT: nobody waits for the answer.
fn gone_is_fine(result: std::result::Result<(), i32>, request: &'static str) -> Result<()> {
    match result {
        Ok(()) | Err(libc::ENOENT) => Ok(()),
        Err(errno) => Err(Error::new("ioctl", request, errno)),
    }
}

fn call(
    listener: impl AsFd,
    request: u64,
    argument: *mut libc::c_void,
) -> std::result::Result<(), i32> {
    // SAFETY: the argument points to the structure that the request's number tells the size of, and outlives the call.
    let answer = unsafe {
        libc::ioctl(
            listener.as_fd().as_raw_fd(),
            request as libc::Ioctl,
            argument,
        )
    };
    if answer >= 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        assert_eq!(RECEIVE, 0xc050_2100);
        assert_eq!(SEND, 0xc018_2101);
        assert_eq!(ID_VALID, 0x4008_2102);
        assert_eq!(ADD_FD, 0x4018_2103);
    }

    #[test]
    fn what_is_no_listener_says_so() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(receive(&file).is_err());
        assert!(!is_waiting(&file, 1));
        assert!(!can_answer_with_files(&file));
        assert!(answer(&file, 1, Answer::Continue).is_err());
        assert!(answer(&file, 1, Answer::File(file.as_fd(), true)).is_err());
    }
}
