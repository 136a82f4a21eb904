//! The types of runc's `events --stats`: names, units and the zeros that are left out are those of its types/events.go,
//! which go-runc reads.

use std::collections::BTreeMap;

use serde::Serialize;

/// What stands for "no limit" in runc's numbers.
pub const NO_LIMIT: u64 = u64::MAX;

/// `data` of an event of the type `stats`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Which processors and memory nodes may be used.
    pub cpuset: Cpuset,
    /// Memory.
    pub memory: Memory,
    /// Tasks.
    pub pids: Pids,
    /// Block devices.
    pub blkio: Blkio,
    /// Huge pages by their size, as the kernel names it: `2MB`.
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Always empty: lodger makes no resctrl group.
    pub intel_rdt: Empty,
    /// The interfaces of its own network namespace but lo; `None`: it has none of its own.
    pub network_interfaces: Option<Vec<NetworkInterface>>,
}

/// `{}`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Empty {}

/// Processor time, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// What was used.
    pub usage: CpuUsage,
    /// What cpu.max did.
    pub throttling: Throttling,
    /// cpu.pressure
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// Processor time that was used, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CpuUsage {
    /// All of it.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// In the kernel.
    pub kernel: u64,
    /// Outside of it.
    pub user: u64,
}

/// What cpu.max did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods that have passed.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Those of them in which it was stopped.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// For how long, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// Processors and memory nodes. The flags are those of version 1, which version 2 does not have: always 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the flags are named as the files of version 1")]
pub struct Cpuset {
    /// cpuset.cpus.effective
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    /// cpuset.mems.effective
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Page cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// All memory.
    pub usage: MemoryEntry,
    /// Memory and swap together, as version 1 had it.
    pub swap: MemoryEntry,
    /// Always zero, as with runc: version 2 has no such limit.
    pub kernel: MemoryEntry,
    /// As `kernel`.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryEntry,
    /// memory.stat
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// memory.pressure
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
    /// memory.events
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub event_count: BTreeMap<String, u64>,
}

/// Memory of one kind, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemoryEntry {
    /// The most there may be; [`NO_LIMIT`].
    pub limit: u64,
    /// What there is.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// The most there was (since Linux 5.19).
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

/// Tasks: processes and their threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// How many there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// How many there may be; 0: no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// Block devices, in the two tables of version 1 that version 2 knows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// io.pressure
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// What was done with a block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BlkioEntry {
    /// The device's major number; 0 when it is not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    /// The device's minor number.
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    /// `Read` or `Write`.
    pub op: &'static str,
    /// How much.
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hugetlb {
    /// Bytes that are reserved, or, before Linux 5.7, used.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Psi {
    /// At least one task waited.
    pub some: PsiLine,
    /// All tasks waited.
    pub full: PsiLine,
}

/// One line of pressure stall information.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PsiLine {
    /// Per cent of the last 10 seconds.
    pub avg10: f64,
    /// Per cent of the last minute.
    pub avg60: f64,
    /// Per cent of the last 5 minutes.
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total: u64,
}

/// A network interface, by the names of runc.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct NetworkInterface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
