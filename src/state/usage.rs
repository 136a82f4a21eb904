//! What a container uses now: from its cgroup, and from /proc what that does not count.

use std::path::Path;

use super::{Members, Record};
use crate::cgroup::Dir;
use crate::cgroup::stats::{self, NetworkInterface, Stats, Summed};
use crate::cgroup::sums::{self, Sums, Units};
use crate::error::{Doing, Error, Result};
use crate::sys;
use crate::sys::ns::flag;

/// The most that is read of one file of /proc.
const FILE: usize = 1 << 20;

/// A container whose use of resources can be read again and again.
#[derive(Debug)]
pub struct Meter {
    record: Record,
    /// Its cgroup, and the one above that is its alone too: what the first does not count, the second may.
    cgroups: Vec<Dir>,
    huge_pages: Vec<String>,
    units: Units,
}

/// What a container uses.
#[derive(Debug)]
pub struct Usage {
    /// The numbers.
    pub stats: Stats,
    /// Which of them are sums over its processes.
    pub summed: Summed,
}

impl Meter {
    /// A meter for the container of `record`.
    pub fn new(record: Record) -> Self {
        let cgroups = open_cgroups(&record);
        let huge_pages = match cgroups[..] {
            [] => Vec::new(),
            _ => huge_pages(),
        };
        let (ticks, page) = sys::memory::proc_units();
        Self {
            cgroups,
            huge_pages,
            units: Units { ticks, page },
            record,
        }
    }

    /// The cgroups that are its alone, the lowest first; none where it has none.
    pub fn cgroups(&self) -> &[Dir] {
        &self.cgroups
    }

    /// What it uses now; `None`: it has ended.
    pub fn read(&self) -> Result<Option<Usage>> {
        let file = |name: &str| {
            let mut texts = self.cgroups.iter().filter_map(|dir| dir.read(name).ok());
            texts.next()
        };
        let (mut stats, summed) = Stats::gather(&file, &self.huge_pages, &|| self.sums())?;
        stats.network_interfaces = self.network_interfaces();
        // The files of a cgroup that is gone, and of processes that are or have given their memory back, say nothing.
        let is_there = !self.is_ending() && self.record.process.is_alive(&self.record.boot_id);
        Ok(is_there.then_some(Usage { stats, summed }))
    }

    /// Whether the first process is on its way out.
    fn is_ending(&self) -> bool {
        let stat = read(Path::new(&format!(
            "/proc/{}/stat",
            self.record.process.pid
        )));
        stat.is_ok_and(|stat| sums::is_ending(&stat))
    }

    /// Nanoseconds since its first process began.
    pub fn age(&self) -> Result<u64> {
        let what = || "cannot read for how long this machine has been running".to_owned();
        let text = read(Path::new("/proc/uptime")).doing(what)?;
        let up = text.split(' ').next().and_then(|seconds| {
            let (whole, hundredths) = seconds.split_once('.')?;
            let ticks = whole.parse::<u64>().ok()?.checked_mul(100)?;
            Some(ticks + hundredths.parse::<u64>().ok()?)
        });
        let up = up.ok_or_else(|| Error::new(what()).because("unknown format of /proc/uptime"))?;
        let began = self.record.process.start_time;
        let [up, began] = [(up, 100), (began, self.units.ticks)]
            .map(|(ticks, per_second)| sums::nanoseconds(ticks, per_second));
        Ok(up.saturating_sub(began))
    }

    fn sums(&self) -> Result<Sums> {
        let mut sums = Sums::default();
        for member in Members::of(&self.record)?.find()? {
            let file = |name| read(Path::new(&format!("/proc/{}/{name}", member.pid)));
            let (Ok(stat), io) = (file("stat"), file("io").ok()) else {
                continue;
            };
            // Alive after the reading, it had its pid at the reading too.
            if !sys::pidfd::has_ended(&member.pidfd).unwrap_or(true) {
                sums.add(&stat, io.as_deref(), self.units);
            }
        }
        Ok(sums)
    }

    /// Those of the network namespace that the container has and its creator has not.
    fn network_interfaces(&self) -> Option<Vec<NetworkInterface>> {
        if self.record.namespaces & flag::NETWORK == 0 {
            return None;
        }
        let path = format!("/proc/{}/net/dev", self.record.process.pid);
        Some(stats::network_interfaces(&read(Path::new(&path)).ok()?))
    }
}

fn read(path: &Path) -> sys::Result<String> {
    let text = sys::path::read_regular(path, FILE)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// None as well where this process does not see the hierarchy: then the processes are what can be looked at.
fn open_cgroups(record: &Record) -> Vec<Dir> {
    let Some(cgroup) = &record.cgroup else {
        return Vec::new();
    };
    let mut paths = vec![&cgroup.path];
    paths.extend((cgroup.top != cgroup.path).then_some(&cgroup.top));
    let opened = paths.into_iter().filter_map(|path| {
        let opened = Dir::open(path);
        tracing::debug!(path, ?opened, "looking for the container's cgroup");
        opened.ok().flatten()
    });
    opened.collect()
}

/// The sizes of the huge pages of this machine; none where it has none.
fn huge_pages() -> Vec<String> {
    let Ok(directory) = sys::path::open_magic(Path::new("/sys/kernel/mm/hugepages")) else {
        return Vec::new();
    };
    let names = sys::path::names(&directory).unwrap_or_default();
    names
        .iter()
        .filter_map(|name| stats::huge_page_size(name))
        .collect()
}
