//! `cpu`.

use oci_spec::runtime::LinuxCpu;

use super::Out;
use crate::plan::NumberSet;

/// The kernel's period, where none is given, in microseconds (cgroup-v2.rst, "cpu.max").
pub(super) const USUAL_PERIOD: u64 = 100_000;

/// The weight of a new cgroup (cgroup-v2.rst, "cpu.weight"); its share was 1024 in version 1.
pub(super) const USUAL_WEIGHT: u32 = 100;

/// The periods and the least quota that the kernel takes, in microseconds (kernel/sched/core.c, `tg_set_cfs_bandwidth`).
const PERIODS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
const LEAST_QUOTA: i64 = 1_000;

/// The most shares of version 1, and the greatest weight of version 2.
const MOST_SHARES: u64 = 1 << 18;
const MOST_WEIGHT: u32 = 10_000;

/// Converts what version 2 has: realtime budgets it has not.
pub(super) fn convert(cpu: &LinuxCpu, out: &mut Out<'_>) {
    match cpu.idle() {
        None => {}
        // Before the weight: leaving idleness sets it back.
        Some(idle @ 0..=1) => out.set("cpu/idle", "cpu.idle", idle),
        Some(_) => out.problem("cpu/idle", "is neither 0 nor 1"),
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
        out.set("cpu/shares", "cpu.weight", weight(shares));
    }
    bandwidth(cpu, out);
    if cpu.realtime_runtime().is_some_and(|runtime| runtime > 0) {
        out.problem(
            "cpu/realtimeRuntime",
            "version 2 of cgroups has no budget of real time: leave it out",
        );
    }
    set_of_numbers("cpus", cpu.cpus().as_deref(), out);
    set_of_numbers("mems", cpu.mems().as_deref(), out);
}

/// cpu.weight for cpu.shares: the curve that runc and crun use since 2025 (runc#4785, crun#1721). In
/// powers of ten of the one and of two of the other it is the parabola through the least (2, 1), the usual (1024, 100) and the
/// most (262144, 10000) of both.
pub(super) fn weight(shares: u64) -> u32 {
    let shares = u32::try_from(shares.clamp(2, MOST_SHARES)).unwrap_or(u32::MAX);
    let power = f64::from(shares).log2();
    let exponent = (power * power + 125.0 * power) / 612.0 - 7.0 / 34.0;
    // The three points are whole numbers, whatever the last bit of a floating-point number says.
    let exact = 10_f64.powf(exponent) - 1e-6;
    let (mut least, mut most) = (1, MOST_WEIGHT);
    while least < most {
        let middle = u32::midpoint(least, most);
        if f64::from(middle) < exact {
            least = middle + 1;
        } else {
            most = middle;
        }
    }
    least
}

/// `quota`, `period` and `burst`.
fn bandwidth(cpu: &LinuxCpu, out: &mut Out<'_>) {
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if let Some(short) = quota.filter(|quota| (1..LEAST_QUOTA).contains(quota)) {
        let message = format!("{short} µs are less than the kernel takes: {LEAST_QUOTA}");
        out.problem("cpu/quota", message);
    }
    if let Some(period) = period.filter(|period| !PERIODS.contains(period)) {
        let (least, most) = (PERIODS.start(), PERIODS.end());
        let message =
            format!("{period} µs are not within what the kernel takes: {least} to {most}");
        out.problem("cpu/period", message);
    }
    if quota.is_some() || period.is_some() {
        let member = if quota.is_some() {
            "cpu/quota"
        } else {
            "cpu/period"
        };
        let quota = super::or_max(quota.unwrap_or(-1));
        let period = period.unwrap_or(USUAL_PERIOD);
        out.set(member, "cpu.max", format!("{quota} {period}"));
    }
    let Some(burst) = cpu.burst() else { return };
    let limit = quota.and_then(|quota| u64::try_from(quota).ok());
    match limit.filter(|limit| burst > *limit) {
        Some(limit) => out.problem(
            "cpu/burst",
            format!("{burst} µs are more than cpu/quota, {limit}"),
        ),
        // After the quota: the kernel takes no burst above it.
        None => out.set("cpu/burst", "cpu.max.burst", burst),
    }
}

/// `cpus` and `mems`; empty parts pass, as with runc.
fn set_of_numbers(name: &str, text: Option<&str>, out: &mut Out<'_>) {
    let parts = text.unwrap_or_default().split(',').map(str::trim);
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return;
    }
    let member = format!("cpu/{name}");
    match NumberSet::parse(&parts.join(",")) {
        Ok(set) => out.set(&member, &format!("cpuset.{name}"), set),
        Err(message) => out.problem(&member, message),
    }
}
