//! Limits of the caller and of the kernel, devices and networks.

use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use serde::{Deserialize, Serialize};

use super::text;

/// What of a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// It can be opened.
    Usable,
    /// It is there; the caller has no access.
    Denied,
    /// It is not there.
    Missing,
}

/// The devices that container tools want.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// /dev/net/tun, for networks of user space.
    pub tun: Device,
    /// /dev/fuse, for filesystems of user space.
    pub fuse: Device,
    /// /dev/shm, for shared memory.
    pub shm: Device,
}

impl Devices {
    pub(super) fn read() -> Self {
        let both = Access::READ_OK | Access::WRITE_OK;
        Self {
            tun: device("/dev/net/tun", both),
            fuse: device("/dev/fuse", both),
            shm: device("/dev/shm", Access::WRITE_OK | Access::EXEC_OK),
        }
    }
}

fn device(path: &str, access: Access) -> Device {
    match rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS) {
        Ok(()) => Device::Usable,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Device::Missing,
        Err(_) => Device::Denied,
    }
}

/// Limits that HostFacts does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// net.ipv4.ping_group_range: the gids that may send echo requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_groups: Option<(u64, u64)>,
    /// How many keys the caller has, and may have (/proc/key-users).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<(u64, u64)>,
    /// How many tasks of the caller can be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    /// /proc/self/oom_score_adj.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i64>,
    /// kernel.yama.ptrace_scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ptrace_scope: Option<u64>,
    /// The network interfaces; `None`: /proc does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<String>>,
}

impl Limits {
    pub(super) fn read(uid: u32) -> Self {
        Self {
            ping_groups: text::read("/proc/sys/net/ipv4/ping_group_range")
                .and_then(|text| pair(text.split_ascii_whitespace())),
            keys: text::read("/proc/key-users").and_then(|text| keys(&text, uid)),
            tasks: tasks(uid),
            oom_score_adj: text::read("/proc/self/oom_score_adj")
                .and_then(|text| text.parse().ok()),
            ptrace_scope: text::number("/proc/sys/kernel/yama/ptrace_scope"),
            interfaces: text::read("/proc/self/net/dev").map(|text| interfaces(&text)),
        }
    }
}

fn pair<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<(u64, u64)> {
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// `UID: USAGE NKEYS/NIKEYS QNKEYS/MAXKEYS QNBYTES/MAXBYTES` a line (keyrings(7)).
fn keys(text: &str, uid: u32) -> Option<(u64, u64)> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, rest) = lines.find(|(id, _)| id.trim() == uid.to_string())?;
    pair(rest.split_ascii_whitespace().nth(2)?.split('/'))
}

/// The names before the colons, after two lines of headings.
fn interfaces(text: &str) -> Vec<String> {
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// What counts against RLIMIT_NPROC, as far as /proc shows it.
fn tasks(uid: u32) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    /// More than any limit that is worth a warning.
    const ENOUGH: usize = 20_000;
    let entries = std::fs::read_dir(Path::new("/proc")).ok()?;
    let processes = entries.flatten().filter(|entry| {
        let number = entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|b| b.is_ascii_digit());
        number && entry.metadata().is_ok_and(|found| found.uid() == uid)
    });
    let threads = processes.take(ENOUGH).map(|entry| {
        let tasks = std::fs::read_dir(entry.path().join("task"));
        tasks.map_or(1, |tasks| tasks.count() as u64)
    });
    Some(threads.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_procfs() {
        let users =
            "    0:    83 82/82 75/1000000 1520/25000000\n 1001:     4 4/4 2/200 26/20000\n";
        assert_eq!(keys(users, 1001), Some((2, 200)));
        assert_eq!(keys(users, 100), None);
        let dev = "Inter-| R\n face |b\n    lo:  1 2\n  eth0: 1\n";
        assert_eq!(interfaces(dev), ["lo", "eth0"]);
        assert_eq!(pair("1\t0".split_ascii_whitespace()), Some((1, 0)));
        assert!(tasks(crate::sys::cred::uid()).unwrap() > 0);
    }
}
