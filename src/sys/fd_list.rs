//! Closing fds one by one, as close_range(2) closes them all: for a kernel without it, or a filter that refuses it.

use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir};

use super::{Error, Result};

/// Numbers up to here are tried where nothing lists those that are open: the kernel's own limit (fs.nr_open), unless the
/// administrator has raised it.
const MOST: u32 = 1 << 20;

/// How often the list is read again until it has nothing more to close.
const PASSES: u32 = 16;

/// Closes every fd in `range`, or marks it close-on-exec. That they are nobody's is the contract of the callers.
pub(super) fn treat(range: RangeInclusive<u32>, mark: bool) -> Result<()> {
    match own_list() {
        Some(list) => treat_listed(list, &range, mark),
        None => treat_all(&range, mark),
    }
}

/// This process's directory of fds (proc_pid_fd(5)); `None` where there is none, or something else has its path, as a root
/// filesystem without a procfs may.
fn own_list() -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = rustix::fs::openat(CWD, "/proc/self/fd", flags, Mode::empty()).ok()?;
    let kind = rustix::fs::fstatfs(&list).ok()?.f_type;
    let own = rustix::fs::fstat(&list).ok()?;
    // In another process's directory the number leads to something else, or nowhere.
    let name = list.as_raw_fd().to_string();
    let itself = rustix::fs::statat(&list, name, AtFlags::empty()).ok()?;
    let is_own = (own.st_dev, own.st_ino) == (itself.st_dev, itself.st_ino);
    (kind == rustix::fs::PROC_SUPER_MAGIC && is_own).then_some(list)
}

/// The list itself may be in the range: it is closed at the end in any case.
fn treat_listed(list: OwnedFd, range: &RangeInclusive<u32>, mark: bool) -> Result<()> {
    let own = list.as_raw_fd().unsigned_abs();
    for _ in 0..PASSES {
        let open: Vec<u32> = numbers(&list)?
            .into_iter()
            .filter(|number| *number != own && range.contains(number))
            .collect();
        for number in &open {
            treat_one(*number, mark)?;
        }
        // What was marked is still there; what was closed is not.
        if mark || open.is_empty() {
            return Ok(());
        }
    }
    let args = "fds /* always more of them */";
    Err(Error::new("close", args, libc::EAGAIN))
}

/// Read as a whole before anything is closed, so that nothing is missed.
fn numbers(list: &OwnedFd) -> Result<Vec<u32>> {
    let error = |e| Error::new("getdents64", "/proc/self/fd", e);
    rustix::fs::seek(list, rustix::fs::SeekFrom::Start(0)).map_err(error)?;
    let mut numbers = Vec::new();
    let mut buffer = Vec::with_capacity(4096);
    let mut items = RawDir::new(list, buffer.spare_capacity_mut());
    while let Some(item) = items.next() {
        let item = item.map_err(error)?;
        // All but `.` and `..`.
        numbers.extend(
            item.file_name()
                .to_str()
                .ok()
                .and_then(|n| n.parse::<u32>().ok()),
        );
    }
    Ok(numbers)
}

fn treat_all(range: &RangeInclusive<u32>, mark: bool) -> Result<()> {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).maximum;
    let most = limit
        .and_then(|limit| u32::try_from(limit).ok())
        .unwrap_or(u32::MAX);
    if most > MOST {
        let args = format!("{most} numbers /* no close_range(2), and no /proc/self/fd */");
        return Err(Error::new("close", args, libc::ENOSYS));
    }
    // Beyond the limit as well: it may have been lowered since something was opened.
    for number in *range.start()..MOST.min(range.end().saturating_add(1)) {
        treat_one(number, mark)?;
    }
    Ok(())
}

fn treat_one(number: u32, mark: bool) -> Result<()> {
    let number = number.cast_signed();
    let answer = match mark {
        // SAFETY: F_SETFD changes a flag of a number, whoever owns it.
        true => unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) },
        // SAFETY: that nobody owns it any more is the contract of the callers.
        false => unsafe { libc::close(number) },
    };
    let errno = std::io::Error::last_os_error();
    match errno.raw_os_error() {
        _ if answer >= 0 => Ok(()),
        Some(libc::EBADF) => Ok(()),
        // Whatever close(2) says of a file, its number is free.
        _ if !mark => Ok(()),
        _ => Err(Error::new("fcntl", format!("{number}, F_SETFD"), errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::owned;

    /// High numbers that nothing else in this process takes.
    fn open_at(number: i32) {
        // SAFETY: dup2 onto a number that nothing in this process uses.
        assert_eq!(unsafe { libc::dup2(0, number) }, number);
    }

    fn flags(number: i32) -> Option<i32> {
        // SAFETY: F_GETFD takes no argument, and answers EBADF for a number that is not open.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        (flags >= 0).then_some(flags)
    }

    #[test]
    fn marked_then_closed_by_the_list_and_by_trying_and_nothing_beside() {
        for (base, listed) in [(700u32, true), (750, false)] {
            let treat = |mark| {
                let range = base + 1..=base + 3;
                match listed {
                    true => treat_listed(own_list().unwrap(), &range, mark).unwrap(),
                    false => treat_all(&range, mark).unwrap(),
                }
            };
            let number = |n: u32| (base + n).cast_signed();
            // One is missing in between.
            let open = [0, 1, 3, 4].map(number);
            open.into_iter().for_each(open_at);
            treat(true);
            let marked = open.map(flags);
            assert_eq!(marked, [0, 1, 1, 0].map(Some), "{listed}");
            treat(false);
            assert_eq!(open.map(flags), [Some(0), None, None, Some(0)], "{listed}");
            [number(0), number(4)]
                .into_iter()
                .for_each(|n| drop(owned(n)));
        }
    }

    #[test]
    fn the_list_is_this_process_own() {
        let list = own_list().unwrap();
        let numbers = numbers(&list).unwrap();
        assert!(
            numbers.contains(&list.as_raw_fd().unsigned_abs()),
            "{numbers:?}"
        );
        assert!(numbers.contains(&0), "{numbers:?}");
    }
}
