//! Joining the namespaces of a process one after the other, where setns(2) does not take a pidfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::ns::{self, flag};
use super::{Error, Result, path, pid_dir, pidfd};

/// The names in /proc/PID/ns (namespaces(7)). The mount namespace is joined last: its /proc may be another.
const KINDS: [(u32, &str); 7] = [
    (flag::PID, "pid"),
    (flag::IPC, "ipc"),
    (flag::UTS, "uts"),
    (flag::NETWORK, "net"),
    (flag::CGROUP, "cgroup"),
    (flag::TIME, "time"),
    (flag::MOUNT, "mnt"),
];

/// Joins the namespaces of the kinds in `flags`. All are opened before the first is joined.
///
/// The user namespace gives the power to join what belongs to it. What does not belong to it is joined before, with the power
/// that its parent gives.
pub(super) fn join(process: BorrowedFd<'_>, flags: u32) -> Result<()> {
    let directory = directory(process)?;
    let open = |name: &str| path::open_magic_at(&directory, Path::new(&format!("ns/{name}")));
    let user = (flags & flag::USER != 0)
        .then(|| open("user"))
        .transpose()?;
    let others = KINDS.iter().filter(|(kind, _)| flags & kind != 0);
    let others = others.map(|(kind, name)| Ok((*kind, open(name)?)));
    let others = others.collect::<Result<Vec<(u32, OwnedFd)>>>()?;
    let Some(user) = user else {
        return join_all(&others);
    };
    let (inside, outside) = parted(others, user.as_fd())?;
    if !outside.is_empty() {
        let around = ns::parent(user.as_fd())?;
        let own = path::open_magic(Path::new("/proc/self/ns/user"))?;
        // Who is in it already has that power.
        if ns::identity(&own)? != ns::identity(&around)? {
            ns::join_user(around.as_fd())?;
        }
        join_all(&outside)?;
    }
    ns::join_user(user.as_fd())?;
    join_all(&inside)
}

/// The directory in /proc of the process that `process` is a pidfd of, or stands in for.
fn directory(process: BorrowedFd<'_>) -> Result<OwnedFd> {
    if pid_dir::is(process) {
        let copy = process.try_clone_to_owned();
        return copy.map_err(|e| Error::new("fcntl", "fd, F_DUPFD_CLOEXEC", e));
    }
    let directory = pid_dir::open(pidfd::number(process)?)?;
    // Not reaped after the opening, it had its number at the opening too.
    pidfd::number(process)?;
    Ok(directory)
}

type Namespaces = Vec<(u32, OwnedFd)>;

/// Those that belong to `user`, and those that do not.
fn parted(all: Namespaces, user: BorrowedFd<'_>) -> Result<(Namespaces, Namespaces)> {
    let user = ns::identity(user)?;
    let mut belong = Vec::with_capacity(all.len());
    for (_, namespace) in &all {
        // EPERM: above what this process may see.
        belong.push(match ns::owning(namespace.as_fd()) {
            Ok(owner) => ns::identity(&owner)? == user,
            Err(error) if error.is(libc::EPERM) => false,
            Err(error) => return Err(error),
        });
    }
    let mut belong = belong.into_iter();
    Ok(all.into_iter().partition(|_| belong.next() == Some(true)))
}

fn join_all(namespaces: &[(u32, OwnedFd)]) -> Result<()> {
    namespaces
        .iter()
        .try_for_each(|(kind, namespace)| ns::join(namespace, *kind))
}
