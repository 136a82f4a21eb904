//! Which process is meant: a pid alone may be somebody else's by now.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::process::Exit;

const SMALL_FILE: usize = 4096;

/// It names groups, processors and memory nodes.
const STATUS_FILE: usize = 1 << 20;

/// A process by pid and start time; within one boot no two processes share both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The pid in the caller's pid namespace.
    pub pid: i32,
    /// When it began, in clock ticks since the boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

impl ProcessIdentity {
    /// Reads the identity of the process `pid`, which the caller keeps from being reaped.
    pub fn of(pid: i32) -> Result<Self> {
        let what = || format!("cannot read the start time of process {pid}");
        let (_, start_time) = read_stat(pid)
            .doing(what)?
            .ok_or_else(|| Error::new(what()).because("unknown format of /proc/PID/stat"))?;
        Ok(Self { pid, start_time })
    }

    /// Whether the process is the same one and has not ended.
    pub fn is_alive(self, recorded_boot_id: &str) -> bool {
        let lives = matches!(
            read_stat(self.pid),
            Ok(Some((state, start_time)))
                if (start_time == self.start_time || !is_on(Defence::ProcessIdentity)) && !"ZXx".contains(state)
        );
        if !is_on(Defence::ProcessIdentity) {
            return lives;
        }
        // What cannot be told: no two processes of one boot share both.
        lives && is_this_boot(recorded_boot_id).is_ok_and(|same| same.unwrap_or(true))
    }

    /// How the process ended, if it has and was not reaped (proc_pid_stat(5), field 52).
    pub fn unreaped_exit(self) -> Result<Option<Exit>> {
        let path = format!("/proc/{}/stat", self.pid);
        let text = match sys::path::read_regular(Path::new(&path), SMALL_FILE) {
            Err(error) if error.is(libc::ENOENT) || error.is(libc::ESRCH) => return Ok(None),
            read => read.doing(|| format!("cannot read how process {} ended", self.pid))?,
        };
        let line = String::from_utf8_lossy(&text);
        let same = matches!(parse_stat(&line), Some(('Z', start)) if start == self.start_time);
        let status = line
            .trim_end()
            .rsplit(' ')
            .next()
            .and_then(|s| s.parse::<i32>().ok());
        // Of one that may not be looked into, as an init that has not become its program, the kernel says 0.
        let told = status.filter(|status| *status != 0 || !self.is_hidden());
        Ok(told.filter(|_| same).map(Exit::of_wait_status))
    }

    /// Whether this process may not look into it (ptrace(2), PTRACE_MODE_READ).
    fn is_hidden(self) -> bool {
        let path = format!("/proc/{}/ns/user", self.pid);
        matches!(
            rustix::fs::readlink(path, Vec::new()),
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM)
        )
    }

    /// A pidfd of the process; `None` when it has ended.
    pub fn open(self, recorded_boot_id: &str) -> Result<Option<OwnedFd>> {
        let pidfd = match sys::process::open_pidfd(self.pid) {
            // The others: the number is that of a thread by now, or its last holder is being reaped (pidfd_open(2)).
            Err(error)
                if [libc::ESRCH, libc::EINVAL, libc::ENOENT]
                    .iter()
                    .any(|e| error.is(*e)) =>
            {
                return Ok(None);
            }
            opened => opened.doing(|| format!("cannot open process {}", self.pid))?,
        };
        // Only now that the fd holds the process does the comparison hold.
        Ok(self.is_alive(recorded_boot_id).then_some(pidfd))
    }
}

/// How long init, or a process that joins, may be on the last steps to its program.
const SETTLING: Duration = Duration::from_secs(10);

/// How often is looked whether it has taken them, in milliseconds.
const PAUSE: i32 = 2;

/// Does `attempt`, which looks into the process of `pid` and `pidfd`, again while that is refused because it is an init
/// which nobody may look into before it is the program (CVE-2016-9962, PR_SET_DUMPABLE(2const)).
pub fn once_visible<T>(
    pid: i32,
    pidfd: &OwnedFd,
    mut attempt: impl FnMut() -> sys::Result<T>,
) -> sys::Result<T> {
    let begin = Instant::now();
    let mut is_last = false;
    loop {
        match attempt() {
            Err(e) if !is_last && (e.is(libc::EPERM) || e.is(libc::EACCES)) => {}
            answer => return answer,
        }
        // What became visible since is worth an attempt as well.
        is_last = !is_hidden(pid)
            || begin.elapsed() > SETTLING
            || sys::process::wait_ended(pidfd, PAUSE)?;
    }
}

/// Whether nobody may look into the process: what is its own is root's then (proc(5)).
fn is_hidden(pid: i32) -> bool {
    owner(pid, "ns") == Some(0) || is_undumpable(pid)
}

/// Whether the process has forbidden to be looked into, or was never allowed it (PR_SET_DUMPABLE(2const)): what is its own
/// has another owner than its directory in /proc then, as root of this user namespace or another is seen here.
pub(super) fn is_undumpable(pid: i32) -> bool {
    let (own, inside) = (owner(pid, ""), owner(pid, "ns"));
    own.is_some() && inside.is_some() && own != inside
}

fn owner(pid: i32, name: &str) -> Option<u32> {
    let stat = rustix::fs::stat(format!("/proc/{pid}/{name}")).ok()?;
    Some(stat.st_uid)
}

/// The parent and the real uid of a process, which everybody may read (proc_pid_status(5)).
pub(super) fn parent_and_uid(pid: i32) -> Option<(i32, u32)> {
    let path = format!("/proc/{pid}/status");
    let text = sys::path::read_regular(Path::new(&path), STATUS_FILE).ok()?;
    let text = String::from_utf8_lossy(&text);
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()
    };
    Some((field("PPid:")?.parse().ok()?, field("Uid:")?.parse().ok()?))
}

/// What the time of a boot begins with where it stands for the boot's id.
const BOOT_TIME: &str = "btime ";

/// This boot's id (random(4), /proc/sys/kernel/random/boot_id); where /proc/sys is masked the time of the boot (proc_stat(5))
/// stands for it.
pub fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let read = sys::path::read_regular(path, SMALL_FILE);
    let masked = matches!(&read, Err(error) if error.is(libc::ENOENT));
    if let Some(time) = masked.then(boot_time).flatten() {
        return Ok(time);
    }
    let text = read.doing(|| "cannot read the boot id".to_owned())?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

fn boot_time() -> Option<String> {
    let text = sys::path::read_regular(Path::new("/proc/stat"), STATUS_FILE).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.starts_with(BOOT_TIME));
    line.map(str::to_owned)
}

/// Whether `recorded` ([`boot_id`]) is this boot's; `None`: only one of the two could be read as an id, and not now.
pub fn is_this_boot(recorded: &str) -> Result<Option<bool>> {
    let now = boot_id()?;
    let by_time = |id: &str| id.starts_with(BOOT_TIME);
    Ok(match (by_time(recorded), by_time(&now)) {
        (false, true) => None,
        (true, false) => boot_time().map(|time| time == recorded),
        _ => Some(now == recorded),
    })
}

fn read_stat(pid: i32) -> sys::Result<Option<(char, u64)>> {
    let path = format!("/proc/{pid}/stat");
    let text = sys::path::read_regular(Path::new(&path), SMALL_FILE)?;
    Ok(parse_stat(&String::from_utf8_lossy(&text)))
}

/// State and start time of a line of /proc/PID/stat. The name, field 2, may hold spaces and parentheses.
fn parse_stat(line: &str) -> Option<(char, u64)> {
    let (_, after_name) = line.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((state, start_time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let line = "4242 (a) R 1 2) S 1 4242 4242 0 -1 4194304 93 0 0 0 0 0 0 0 20 0 1 0 987654 2613248 \
                    219 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(parse_stat(line), Some(('S', 987_654)));
    }

    #[test]
    fn stat_that_is_cut_off() {
        assert_eq!(parse_stat("1 (x) S 1 2 3"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn everybody_may_read_parent_and_uid() {
        let parent = nix::unistd::getppid().as_raw();
        let own = parent_and_uid(sys::process::own_pid());
        assert_eq!(own, Some((parent, sys::cred::uid())));
        assert_eq!(parent_and_uid(0), None);
    }

    #[test]
    fn this_process_lives_and_a_reused_pid_does_not() {
        let own = ProcessIdentity::of(sys::process::own_pid()).unwrap();
        let boot = boot_id().unwrap();
        assert!(own.is_alive(&boot));
        assert!(!own.is_alive("another boot"));
        // Where /proc/sys was masked.
        assert!(own.is_alive(&boot_time().unwrap()));
        assert!(!own.is_alive("btime 7"));
        let reused = ProcessIdentity {
            start_time: own.start_time + 1,
            ..own
        };
        assert!(!reused.is_alive(&boot));
        assert!(reused.open(&boot).unwrap().is_none());
    }
}
