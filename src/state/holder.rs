//! Who holds a lock that one has to wait for: a hook that waited for the command by which it was started would wait for ever.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::process::parent_and_uid;
use crate::error::{Error, Result};
use crate::sys;

/// /proc/locks has the locks of the whole machine.
const LOCKS_LIMIT: usize = 16 << 20;

/// More processes than are ever above one another.
const DEEPEST: usize = 4096;

/// Refuses to wait for the lock on the directory of container `id` if that would be for ever.
pub(super) fn refuse_ancestor(directory: &OwnedFd, id: &str) -> Result<()> {
    if !rustix::fs::fstat(directory).is_ok_and(|stat| is_ancestor(stat.st_ino)) {
        return Ok(());
    }
    Err(Error::new(format!("container {id:?} is being worked on"))
        .because("this is a hook of the container, and the command that runs it waits for its end")
        .hint("let the hook fail, and the container is removed; or do it after the command has returned"))
}

/// Whether the lock (flock(2)) on the file with this inode number is held by a process that this one descends from.
fn is_ancestor(inode: u64) -> bool {
    let locks = sys::path::read_regular(Path::new("/proc/locks"), LOCKS_LIMIT).unwrap_or_default();
    let holders = holders(&String::from_utf8_lossy(&locks), inode);
    let mut pid = sys::process::own_pid();
    for _ in 0..DEEPEST {
        let Some((parent, _)) = parent_and_uid(pid).filter(|(parent, _)| *parent > 0) else {
            return false;
        };
        if holders.contains(&parent) {
            return true;
        }
        pid = parent;
    }
    false
}

/// The pids that hold a lock on the inode, by the lines of /proc/locks (proc_locks(5)).
fn holders(locks: &str, inode: u64) -> Vec<i32> {
    let holder = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        // One that waits has an arrow in this place.
        (words.next()? == "FLOCK").then_some(())?;
        let pid = words.nth(2)?.parse().ok()?;
        let (_, number) = words.next()?.rsplit_once(':')?;
        (number.parse() == Ok(inode)).then_some(pid)
    };
    locks.lines().filter_map(holder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holders_are_read_from_the_kernel_s_lines() {
        let locks = "1: FLOCK  ADVISORY  WRITE 4242 00:1c:77 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 4243 00:1c:77 0 EOF\n\
                     2: POSIX  ADVISORY  READ  7 fd:01:77 128 128\n\
                     3: FLOCK  ADVISORY  WRITE 9 00:1c:78 0 EOF\n\
                     4: FLOCK\n";
        assert_eq!(holders(locks, 77), [4242]);
        assert_eq!(holders(locks, 1), Vec::<i32>::new());
    }

    #[test]
    fn nobody_above_this_process_holds_what_it_holds_itself() {
        let directory = tempfile::tempdir().unwrap();
        let file = rustix::fs::open(
            directory.path(),
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let inode = rustix::fs::fstat(&file).unwrap().st_ino;
        assert!(!is_ancestor(inode));
    }
}
