//! The processes of a container: those of its cgroup, or else of a namespace that they cannot leave.
//!
//! That is its own pid namespace, or one made in there; else its own user namespace, likewise, which another container may
//! have joined; else its mount namespace, which a process with CAP_SYS_ADMIN can leave. While the container's first process lives, its namespace is held open, so that
//! nothing else gets its number. After that, only Linux 6.18 and later have a number that is never used again.
//!
//! A process that hides its namespaces from its own user, by running a program that it may not read, is not found.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::group::Group;
use super::process;
use super::{NamespaceMark, Record, is_this_boot, once_visible};
use crate::error::{Doing, Error, Result};
use crate::host::IdRange;
use crate::sys;
use crate::sys::ns::flag;

/// How deep namespaces nest (user_namespaces(7), pid_namespaces(7)).
const MAX_DEPTH: usize = 33;

/// Between two looks for a process on its way into the container.
const PAUSE: Duration = Duration::from_millis(2);

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many looks in a row must find nobody and miss nobody: a process that forks away may get a pid that a look has
/// passed already.
const QUIET_LOOKS: u32 = 2;

/// How many looks may miss somebody, most often a process that has nothing to do with the container.
const DOUBTFUL_LOOKS: u32 = 50;

/// What the processes of one container have in common.
#[derive(Debug)]
pub struct Members {
    /// Its cgroup, which tells alone if it is there.
    group: Option<Group>,
    kind: Kind,
    sought: Sought,
    /// The uids of a process on its way into the container (`exec`): the caller's and the container's, as she sees them.
    uids: Vec<IdRange>,
}

/// A process of a container, by a pidfd: it may have ended by now, but is never another one.
#[derive(Debug)]
pub struct Member {
    /// Its pid in the caller's pid namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// Which namespace tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Pid,
    Mount,
}

#[derive(Debug)]
enum Sought {
    /// No process can be left.
    Nothing,
    /// The namespace, held open: device and inode are its alone.
    Held(OwnedFd),
    /// A namespace that may be gone, by its unique number.
    Number(u64),
    /// A namespace that may be gone, by device and inode, which may be another's by now.
    Perhaps(u64, u64),
}

impl Sought {
    fn is_certain(&self) -> bool {
        !matches!(self, Self::Perhaps(..))
    }
}

impl Kind {
    fn of(namespaces: u32) -> Self {
        match namespaces {
            bits if bits & flag::PID != 0 => Self::Pid,
            bits if bits & flag::USER != 0 => Self::User,
            _ => Self::Mount,
        }
    }

    fn open(self, pid: i32) -> sys::Result<OwnedFd> {
        let name = match self {
            Self::User => "user",
            Self::Pid => "pid",
            Self::Mount => "mnt",
        };
        sys::path::open_magic(Path::new(&format!("/proc/{pid}/ns/{name}")))
    }
}

impl NamespaceMark {
    /// The mark of a container whose first process is `pid`. `None` for one with a pid namespace of its own: it ends
    /// with its first process (pid_namespaces(7)).
    pub fn of(pid: i32, namespaces: u32) -> Result<Option<Self>> {
        if namespaces & flag::PID != 0 {
            return Ok(None);
        }
        let namespace = Kind::of(namespaces)
            .open(pid)
            .doing(|| "cannot tell the container's namespace".to_owned())?;
        Self::new(&namespace).map(Some)
    }

    /// The mark that `namespace` is.
    pub fn new(namespace: &OwnedFd) -> Result<Self> {
        let what = || "cannot tell the container's namespace".to_owned();
        let (device, inode) = sys::ns::identity(namespace).doing(what)?;
        Ok(Self {
            device,
            inode,
            number: sys::ns::unique_id(namespace),
        })
    }
}

impl Members {
    /// What the processes of the container of `record` have in common.
    pub fn of(record: &Record) -> Result<Self> {
        let kind = Kind::of(record.own_namespaces());
        let group = Group::of(record)?;
        let sought = match group {
            Some(_) if record.ends_with_first() => Sought::Nothing,
            _ => sought(kind, record)?,
        };
        let range = |start, count| IdRange { start, count };
        let own = record.user_namespace.iter().flat_map(|own| &own.uid_map);
        Ok(Self {
            group,
            kind,
            sought,
            uids: own
                .map(|map| range(map.host_id, map.size))
                .chain([range(sys::cred::uid(), 1)])
                .collect(),
        })
    }

    /// Whether what [`Members::find`] gives are processes of this container, and not perhaps of another one that got its
    /// namespace's number.
    pub fn is_certain(&self) -> bool {
        self.group.is_some() || self.sought.is_certain()
    }

    /// The processes there are now, without those that have ended and wait to be reaped.
    pub fn find(&self) -> Result<Vec<Member>> {
        if let Some(group) = &self.group {
            return group.find();
        }
        Ok(self.look(&mut BTreeSet::new())?.members)
    }

    /// Sends `signal` to each process, SIGKILL until none is left. Returns how many there were at first.
    pub fn signal(&self, signal: i32) -> Result<usize> {
        if let Some(group) = self.group.as_ref().filter(|_| signal == libc::SIGKILL) {
            let count = group.kill()?;
            // The caller may have moved some elsewhere in what is delegated to her.
            if self.sought.is_certain() {
                self.kill_rest()?;
            }
            return Ok(count);
        }
        let members = self.find()?;
        if !members.is_empty() && !self.is_certain() {
            return Err(uncertain(&members));
        }
        send(&members, signal)?;
        if signal == libc::SIGKILL {
            self.kill_rest()?;
        }
        Ok(members.len())
    }

    /// Kills whoever is there, and who is born meanwhile, until nobody is.
    fn kill_rest(&self) -> Result<()> {
        let begin = Instant::now();
        let mut ended = BTreeSet::new();
        let (mut quiet, mut doubtful) = (0, 0);
        while quiet < QUIET_LOOKS && doubtful < DOUBTFUL_LOOKS {
            let look = self.look(&mut ended)?;
            let Some(first) = look.members.first() else {
                let joins = look.hidden.iter().any(|pid| self.is_joining(*pid));
                if joins && begin.elapsed() < PATIENCE {
                    quiet = 0;
                    std::thread::sleep(PAUSE);
                    continue;
                }
                quiet = if look.is_whole { quiet + 1 } else { 0 };
                doubtful += u32::from(!look.is_whole);
                continue;
            };
            quiet = 0;
            if begin.elapsed() > PATIENCE {
                return Err(remaining(&look.members));
            }
            send(&look.members, libc::SIGKILL)?;
            // Those that were killed end in their own time.
            sys::process::wait_ended(&first.pidfd, 100)
                .doing(|| "cannot wait for a killed process".to_owned())?;
        }
        Ok(())
    }

    /// One look at all processes. `ended`: members that a look before has seen to have ended.
    fn look(&self, ended: &mut BTreeSet<i32>) -> Result<Look> {
        let mut look = Look {
            members: Vec::new(),
            is_whole: true,
            hidden: Vec::new(),
        };
        if matches!(self.sought, Sought::Nothing) {
            return Ok(look);
        }
        let mut seen = Seen::new();
        for pid in pids()? {
            // Opened first: who has the pid while the pidfd's process lives is that process.
            let Ok(pidfd) = sys::process::open_pidfd(pid) else {
                // Gone since the list was made, perhaps not without a child.
                look.is_whole = false;
                continue;
            };
            let namespace = self.kind.open(pid);
            if is_hidden(&namespace) {
                look.hidden.push(pid);
            }
            let is_member = namespace.is_ok_and(|found| self.is_beneath(found, &mut seen, 0));
            match (is_member, sys::pidfd::has_ended(&pidfd).unwrap_or(true)) {
                (true, false) => look.members.push(Member { pid, pidfd }),
                (true, true) => look.is_whole &= !ended.insert(pid),
                (false, false) => {}
                // The same as above, in between.
                (false, true) if !is_zombie(pid) => look.is_whole = false,
                // A zombie has no mount namespace any more: it may have been a member until now.
                (false, true) if self.kind == Kind::Mount => {
                    look.is_whole &= !ended.insert(pid);
                }
                (false, true) => {}
            }
        }
        Ok(look)
    }

    /// Whether a process that cannot be looked into is one of ours that joins some container: so is its parent then, the
    /// runtime, and both have the caller's uid or the container's. Both have forbidden it: the caller's other processes
    /// cannot be looked into from inside a user namespace either, and they go on for ever.
    fn is_joining(&self, pid: i32) -> bool {
        let parent = |pid| {
            let (parent, uid) = process::parent_and_uid(pid)?;
            let is_ours = self.uids.iter().any(|ids| ids.has(uid));
            (is_ours && process::is_undumpable(pid)).then_some(parent)
        };
        parent(pid)
            .is_some_and(|runtime| is_hidden(&self.kind.open(runtime)) && parent(runtime).is_some())
    }

    /// Whether `namespace` is the one that is sought, or one that was made in it.
    fn is_beneath(&self, namespace: OwnedFd, seen: &mut Seen, depth: usize) -> bool {
        let Ok(identity) = sys::ns::identity(&namespace) else {
            return false;
        };
        if let Some((_, known)) = seen.get(&identity) {
            return *known;
        }
        let answer = self.is_sought(namespace.as_fd(), identity)
            || self.kind != Kind::Mount
                && depth < MAX_DEPTH
                // EPERM: above what we may see.
                && sys::ns::parent(namespace.as_fd())
                    .is_ok_and(|parent| self.is_beneath(parent, seen, depth + 1));
        seen.insert(identity, (namespace, answer));
        answer
    }

    fn is_sought(&self, namespace: BorrowedFd<'_>, identity: (u64, u64)) -> bool {
        match &self.sought {
            Sought::Nothing => false,
            Sought::Held(held) => sys::ns::identity(held).is_ok_and(|own| own == identity),
            Sought::Number(number) => sys::ns::unique_id(namespace) == Some(*number),
            Sought::Perhaps(device, inode) => (*device, *inode) == identity,
        }
    }
}

/// What one look at all processes saw.
struct Look {
    members: Vec<Member>,
    /// Whether nobody ended during it, who may have left a child that it did not see.
    is_whole: bool,
    /// Processes that cannot be looked into, as one on its way into the container cannot be until it is there.
    hidden: Vec<i32>,
}

/// Whether the process of this namespace may not be looked into.
fn is_hidden(namespace: &sys::Result<OwnedFd>) -> bool {
    matches!(namespace, Err(error) if error.is(libc::EACCES))
}

/// Whether what has ended is there to be reaped, by whoever has not done so yet.
fn is_zombie(pid: i32) -> bool {
    sys::process::open_pidfd(pid).is_ok()
}

fn send(members: &[Member], signal: i32) -> Result<()> {
    for member in members {
        match sys::process::send_signal(&member.pidfd, signal) {
            Err(error) if error.is(libc::ESRCH) => {}
            sent => sent.doing(|| format!("cannot send a signal to process {}", member.pid))?,
        }
    }
    Ok(())
}

/// Namespaces and the answer about each; held open, so that no number changes hands during one look.
type Seen = BTreeMap<(u64, u64), (OwnedFd, bool)>;

fn sought(kind: Kind, record: &Record) -> Result<Sought> {
    if let Some(pidfd) = record.process.open(&record.boot_id)? {
        let pid = record.process.pid;
        let namespace = once_visible(pid, &pidfd, || kind.open(pid));
        // Alive after the opening, it had its pid at the opening too.
        if record.process.is_alive(&record.boot_id) {
            let what = || "cannot look into the container's process".to_owned();
            return Ok(Sought::Held(namespace.doing(what)?));
        }
    }
    if is_this_boot(&record.boot_id)? != Some(true) {
        return Ok(Sought::Nothing);
    }
    Ok(match &record.mark {
        None => Sought::Nothing,
        Some(mark) => mark
            .number
            .map_or(Sought::Perhaps(mark.device, mark.inode), Sought::Number),
    })
}

/// The processes of /proc.
fn pids() -> Result<Vec<i32>> {
    let what = || "cannot list the processes of this machine".to_owned();
    let error = |e| sys::Error::new("getdents64", "\"/proc\"", e);
    let proc = sys::path::open_magic(Path::new("/proc")).doing(what)?;
    let mut pids = Vec::new();
    for item in rustix::fs::Dir::read_from(proc)
        .map_err(error)
        .doing(what)?
    {
        let item = item.map_err(error).doing(what)?;
        pids.extend(item.file_name().to_str().ok().and_then(pid));
    }
    Ok(pids)
}

fn pid(name: &str) -> Option<i32> {
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    name.parse().ok().filter(|pid| digits && *pid > 0)
}

/// The pids of `members`, for a message: `12, 13`.
fn numbers(members: &[Member]) -> String {
    let pids: Vec<String> = members.iter().map(|m| m.pid.to_string()).collect();
    pids.join(", ")
}

fn uncertain(members: &[Member]) -> Error {
    Error::new("cannot tell whether processes of the container are left")
        .because(format!(
            "its first process has ended, and the number of its namespace, which processes {} have, may be another's by \
             now (Linux before 6.18)",
            numbers(members)
        ))
        .hint("look at these processes, and end those that are the container's with kill(1)")
}

fn remaining(members: &[Member]) -> Error {
    Error::new("cannot end all processes of the container")
        .because(format!(
            "{} are still there {} seconds after SIGKILL",
            numbers(members),
            PATIENCE.as_secs()
        ))
        .hint("they wait in the kernel, most often for a device or a network filesystem: try again later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_namespace_tells_most_then_the_user_namespace() {
        assert_eq!(Kind::of(flag::USER | flag::PID | flag::MOUNT), Kind::Pid);
        assert_eq!(Kind::of(flag::USER | flag::MOUNT), Kind::User);
        assert_eq!(Kind::of(flag::MOUNT), Kind::Mount);
    }

    #[test]
    fn names_of_proc_that_are_pids() {
        assert_eq!(pid("1"), Some(1));
        for name in ["", "0", "+1", "-1", "self", "1a", "99999999999"] {
            assert_eq!(pid(name), None, "{name:?}");
        }
    }

    #[test]
    fn only_a_number_that_is_used_again_is_uncertain() {
        let members = |sought| Members {
            group: None,
            kind: Kind::User,
            sought,
            uids: Vec::new(),
        };
        assert!(members(Sought::Nothing).is_certain());
        assert!(members(Sought::Number(7)).is_certain());
        assert!(!members(Sought::Perhaps(4, 4_026_531_837)).is_certain());
        assert!(members(Sought::Nothing).find().unwrap().is_empty());
    }

    #[test]
    fn a_signal_is_not_sent_where_the_number_may_be_anothers() {
        let own = Kind::User.open(sys::process::own_pid()).unwrap();
        let (device, inode) = sys::ns::identity(&own).unwrap();
        let members = Members {
            group: None,
            kind: Kind::User,
            sought: Sought::Perhaps(device, inode),
            uids: Vec::new(),
        };
        // SIGCONT: harmless, should this fail.
        let error = members.signal(libc::SIGCONT).unwrap_err();
        assert!(error.message().contains("may be another's"), "{error}");
    }

    #[test]
    fn this_process_is_found_by_its_own_namespace() {
        let own = Kind::User.open(sys::process::own_pid()).unwrap();
        let members = Members {
            group: None,
            kind: Kind::User,
            sought: Sought::Held(own),
            uids: Vec::new(),
        };
        let found = members.find().unwrap();
        let own = sys::process::own_pid();
        assert!(found.iter().any(|member| member.pid == own));
    }
}
