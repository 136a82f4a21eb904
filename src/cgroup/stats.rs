//! What a container uses, in runc's words (schema.rs).
//!
//! The numbers are those of the cgroup's files (Documentation/admin-guide/cgroup-v2.rst). What the cgroup does not count,
//! since there is none or a controller is not enabled in it, is summed over the processes ([`Sums`]).

use std::collections::BTreeMap;

pub use super::schema::*;
use super::sums::Sums;
use crate::error::Result;

/// The text of a cgroup's file by its name; `None`: it has none, or it may not be read.
pub type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is summed over the processes, for a message.
pub type Summed = Vec<&'static str>;

impl Stats {
    /// What the cgroup counts, and `sum` for what it does not. Returns as well what that is. `huge_pages` are the sizes
    /// of the machine's, as [`huge_page_size`] names them.
    pub fn gather(
        read: Read<'_>,
        huge_pages: &[String],
        sum: &dyn Fn() -> Result<Sums>,
    ) -> Result<(Self, Summed)> {
        let mut stats = Self {
            cpuset: cpuset(read),
            hugetlb: hugetlb(read, huge_pages),
            ..Self::default()
        };
        let (cpu, memory, pids, blkio) = (cpu(read), memory(read), pids(read), blkio(read));
        let lacking = [
            (cpu.is_none(), "processor time"),
            (memory.is_none(), "memory"),
            (pids.is_none(), "tasks"),
            (blkio.is_none(), "block I/O"),
        ];
        let summed: Summed = lacking
            .iter()
            .filter_map(|(lacks, what)| lacks.then_some(*what))
            .collect();
        let sums = if summed.is_empty() {
            Sums::default()
        } else {
            sum()?
        };
        stats.cpu = cpu.unwrap_or_else(|| sums.cpu());
        stats.memory = memory.unwrap_or_else(|| sums.memory());
        stats.pids = pids.unwrap_or_else(|| sums.pids());
        stats.blkio = blkio.unwrap_or_else(|| sums.blkio());
        // Every cgroup has these files, whatever is enabled in it.
        let pressure = |name| psi(&read(name)?);
        stats.cpu.psi = pressure("cpu.pressure");
        stats.memory.psi = pressure("memory.pressure");
        stats.blkio.psi = pressure("io.pressure");
        Ok((stats, summed))
    }
}

/// The name in a cgroup's files of the huge pages that /sys/kernel/mm/hugepages calls `name`: `hugepages-2048kB` are `2MB`.
pub fn huge_page_size(name: &str) -> Option<String> {
    let kib: u64 = name
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    // As the kernel's mem_fmt().
    Some(match kib {
        0 => return None,
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    })
}

/// One number, or `max`.
pub fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(NO_LIMIT),
        digits => digits.parse().ok(),
    }
}

/// Lines of a name and a number ("flat keyed"). What is no such line is passed over: new kernels have new lines.
pub fn flat_keyed(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    pairs.collect()
}

/// The number of `name` in lines of names and numbers.
pub fn value_of(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(' ')?;
        value.trim().parse().ok()
    })
}

/// A list of numbers and ranges: `0-2,7`.
fn list(text: &str) -> Vec<u16> {
    let ranges = text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    });
    ranges.flatten().collect()
}

fn cpu(read: Read<'_>) -> Option<Cpu> {
    let stat = read("cpu.stat")?;
    let micro = |name| value_of(&stat, name).unwrap_or(0).saturating_mul(1000);
    let count = |name| value_of(&stat, name).unwrap_or(0);
    value_of(&stat, "usage_usec")?;
    Some(Cpu {
        usage: CpuUsage {
            total: micro("usage_usec"),
            kernel: micro("system_usec"),
            user: micro("user_usec"),
        },
        throttling: Throttling {
            periods: count("nr_periods"),
            throttled_periods: count("nr_throttled"),
            throttled_time: micro("throttled_usec"),
        },
        ..Cpu::default()
    })
}

fn cpuset(read: Read<'_>) -> Cpuset {
    let numbers = |name| read(name).map(|text| list(&text)).unwrap_or_default();
    Cpuset {
        cpus: numbers("cpuset.cpus.effective"),
        mems: numbers("cpuset.mems.effective"),
        ..Cpuset::default()
    }
}

fn memory(read: Read<'_>) -> Option<Memory> {
    let value = |name| read(name).as_deref().and_then(number);
    let events = read("memory.events")
        .map(|text| flat_keyed(&text))
        .unwrap_or_default();
    let raw = read("memory.stat")
        .map(|text| flat_keyed(&text))
        .unwrap_or_default();
    let usage = MemoryEntry {
        usage: value("memory.current")?,
        limit: value("memory.max").unwrap_or(NO_LIMIT),
        max: value("memory.peak").unwrap_or(0),
        failcnt: events.get("max").copied().unwrap_or(0),
    };
    // Without accounting of swap there are no such files, and no limit beyond that of memory.
    let swap_limit = value("memory.swap.max").unwrap_or(0);
    let swap = MemoryEntry {
        limit: swap_limit.saturating_add(usage.limit),
        usage: value("memory.swap.current")
            .unwrap_or(0)
            .saturating_add(usage.usage),
        ..MemoryEntry::default()
    };
    Some(Memory {
        cache: raw.get("file").copied().unwrap_or(0),
        usage,
        swap,
        raw,
        event_count: events,
        ..Memory::default()
    })
}

fn pids(read: Read<'_>) -> Option<Pids> {
    let limit = read("pids.max").as_deref().and_then(number);
    Some(Pids {
        current: number(&read("pids.current")?)?,
        limit: limit.filter(|limit| *limit != NO_LIMIT).unwrap_or(0),
    })
}

fn blkio(read: Read<'_>) -> Option<Blkio> {
    let mut blkio = Blkio::default();
    for line in read("io.stat")?.lines() {
        io_line(line, &mut blkio);
    }
    Some(blkio)
}

/// One line of io.stat: `8:0 rbytes=1 wbytes=2 …`. Some kernels leave the name of a device without numbers before it.
fn io_line(line: &str, blkio: &mut Blkio) {
    let mut device = None;
    for word in line.split_ascii_whitespace() {
        let Some((name, value)) = word.split_once('=') else {
            let numbers = word.split_once(':');
            device = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            continue;
        };
        let (Some((major, minor)), Ok(value)) = (device, value.parse()) else {
            continue;
        };
        let entry = |op| BlkioEntry {
            major,
            minor,
            op,
            value,
        };
        match name {
            "rbytes" => blkio.io_service_bytes_recursive.push(entry("Read")),
            "wbytes" => blkio.io_service_bytes_recursive.push(entry("Write")),
            "rios" => blkio.io_serviced_recursive.push(entry("Read")),
            "wios" => blkio.io_serviced_recursive.push(entry("Write")),
            _ => {}
        }
    }
}

fn hugetlb(read: Read<'_>, sizes: &[String]) -> BTreeMap<String, Hugetlb> {
    let value = |size: &str, file: &str| number(&read(&format!("hugetlb.{size}.{file}"))?);
    let entries = sizes.iter().filter_map(|size| {
        let usage = value(size, "rsvd.current").or_else(|| value(size, "current"))?;
        let events = read(&format!("hugetlb.{size}.events")).unwrap_or_default();
        let failcnt = value_of(&events, "max").unwrap_or(0);
        Some((size.clone(), Hugetlb { usage, failcnt }))
    });
    entries.collect()
}

/// The lines of a pressure file; `None` where the kernel does not count.
pub fn psi(text: &str) -> Option<Psi> {
    let mut psi = Psi::default();
    let mut any = false;
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let place = match kind {
            "some" => &mut psi.some,
            "full" => &mut psi.full,
            _ => continue,
        };
        let value = |name: &str| {
            let mut words = rest.split_ascii_whitespace();
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        let average = |name| {
            value(name)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0.0)
        };
        any = true;
        *place = PsiLine {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: value("total")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        };
    }
    any.then_some(psi)
}

/// The interfaces of /proc/PID/net/dev (proc_pid_net(5)) but lo.
pub fn network_interfaces(text: &str) -> Vec<NetworkInterface> {
    let interfaces = text.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let [
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            _,
            _,
            _,
            _,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
            ..,
        ] = numbers[..]
        else {
            return None;
        };
        Some(NetworkInterface {
            name: name.trim().to_owned(),
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        })
    });
    interfaces
        .filter(|interface| interface.name != "lo")
        .collect()
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
