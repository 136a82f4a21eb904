//! What a container uses without a cgroup that counts it: sums over its processes in /proc.
//!
//! A process that has ended is in its parent's numbers once that has waited for it, and lost otherwise. Pages that
//! processes share are counted once for each.

use super::stats::{Blkio, BlkioEntry, Cpu, CpuUsage, Memory, MemoryEntry, NO_LIMIT, Pids};

/// The sums.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Nanoseconds outside the kernel.
    pub user: u64,
    /// Nanoseconds in the kernel.
    pub kernel: u64,
    /// Bytes of resident memory.
    pub resident: u64,
    /// Processes and their threads.
    pub threads: u64,
    /// Bytes that were fetched from storage; `None`: not known of any process.
    pub read: Option<u64>,
    /// Bytes that were sent to storage.
    pub written: Option<u64>,
}

/// The units of /proc.
#[derive(Debug, Clone, Copy)]
pub struct Units {
    /// Clock ticks in a second (sysconf(3), _SC_CLK_TCK).
    pub ticks: u64,
    /// Bytes in a page.
    pub page: u64,
}

impl Sums {
    /// Adds a process: its /proc/PID/stat, and /proc/PID/io if that may be read (proc_pid_stat(5), proc_pid_io(5)). What is
    /// no such text, of a process that has ended meanwhile, adds nothing.
    pub fn add(&mut self, stat: &str, io: Option<&str>, units: Units) {
        let fields = fields(stat);
        let field = |number: usize| -> Option<u64> { fields.get(number - 3)?.parse().ok() };
        let Some(resident) = field(24) else { return };
        let time = |own, of_children| {
            let ticks = field(own)
                .unwrap_or(0)
                .saturating_add(field(of_children).unwrap_or(0));
            nanoseconds(ticks, units.ticks)
        };
        self.user = self.user.saturating_add(time(14, 16));
        self.kernel = self.kernel.saturating_add(time(15, 17));
        self.resident = self
            .resident
            .saturating_add(resident.saturating_mul(units.page));
        self.threads = self.threads.saturating_add(field(20).unwrap_or(1));
        let bytes = |name| {
            let mut lines = io?.lines();
            lines.find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        self.read = total(self.read, bytes("read_bytes:"));
        self.written = total(self.written, bytes("write_bytes:"));
    }

    pub(super) fn cpu(&self) -> Cpu {
        Cpu {
            usage: CpuUsage {
                total: self.user.saturating_add(self.kernel),
                kernel: self.kernel,
                user: self.user,
            },
            ..Cpu::default()
        }
    }

    pub(super) fn memory(&self) -> Memory {
        let entry = MemoryEntry {
            limit: NO_LIMIT,
            usage: self.resident,
            ..MemoryEntry::default()
        };
        Memory {
            // Who is swapped out is not counted here either.
            swap: entry.clone(),
            usage: entry,
            ..Memory::default()
        }
    }

    pub(super) fn pids(&self) -> Pids {
        Pids {
            current: self.threads,
            limit: 0,
        }
    }

    pub(super) fn blkio(&self) -> Blkio {
        let entry = |op, value: Option<u64>| {
            let value = value?;
            Some(BlkioEntry {
                op,
                value,
                ..BlkioEntry::default()
            })
        };
        let entries = [entry("Read", self.read), entry("Write", self.written)];
        Blkio {
            io_service_bytes_recursive: entries.into_iter().flatten().collect(),
            ..Blkio::default()
        }
    }
}

/// The fields of a /proc/PID/stat from the third on: the name, field 2, may hold spaces and parentheses.
fn fields(stat: &str) -> Vec<&str> {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_ascii_whitespace().collect()
}

/// Whether the process of this /proc/PID/stat is on its way out (PF_EXITING of linux/sched.h in field 9): until it is one that has
/// ended it may live on, without memory.
pub fn is_ending(stat: &str) -> bool {
    const EXITING: u64 = 0x4;
    let flags = fields(stat).get(9 - 3).and_then(|flags| flags.parse().ok());
    flags.is_some_and(|flags: u64| flags & EXITING != 0)
}

/// The sum of what is known.
fn total(so_far: Option<u64>, more: Option<u64>) -> Option<u64> {
    match (so_far, more) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (known, None) | (None, known) => known,
    }
}

/// `ticks` of which there are `per_second` in a second.
pub fn nanoseconds(ticks: u64, per_second: u64) -> u64 {
    let nanoseconds = u128::from(ticks) * 1_000_000_000 / u128::from(per_second.max(1));
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}
