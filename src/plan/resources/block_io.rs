//! `blockIO`.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::Out;

/// The weights of version 1 (cgroup-v1/blkio-controller.rst).
const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

const LEAF: &str =
    "version 2 of cgroups has none: nothing competes with its own descendants there; leave it out";

/// Converts weights and rates.
pub(super) fn convert(block_io: &LinuxBlockIo, out: &mut Out<'_>) {
    if let Some(weight) = block_io.weight().filter(|weight| *weight > 0) {
        set_weight("blockIO/weight", None, weight, out);
    }
    if block_io.leaf_weight().is_some_and(|weight| weight > 0) {
        out.problem("blockIO/leafWeight", LEAF);
    }
    for (index, device) in block_io.weight_device().iter().flatten().enumerate() {
        let member = format!("blockIO/weightDevice/{index}");
        let number = number(&member, device.major(), device.minor(), out);
        if device.leaf_weight().is_some_and(|weight| weight > 0) {
            out.problem(&format!("{member}/leafWeight"), LEAF);
        }
        match (device.weight().filter(|weight| *weight > 0), number) {
            (Some(weight), Some(number)) => {
                set_weight(&format!("{member}/weight"), Some(&number), weight, out)
            }
            (None, _) if device.leaf_weight().is_none() => out.problem(&member, "needs a weight"),
            _ => {}
        }
    }
    for (name, key, list) in [
        (
            "throttleReadBpsDevice",
            "rbps",
            block_io.throttle_read_bps_device(),
        ),
        (
            "throttleWriteBpsDevice",
            "wbps",
            block_io.throttle_write_bps_device(),
        ),
        (
            "throttleReadIOPSDevice",
            "riops",
            block_io.throttle_read_iops_device(),
        ),
        (
            "throttleWriteIOPSDevice",
            "wiops",
            block_io.throttle_write_iops_device(),
        ),
    ] {
        for (index, device) in list.iter().flatten().enumerate() {
            throttle(&format!("blockIO/{name}/{index}"), key, *device, out);
        }
    }
}

/// BFQ's weights are those of version 1; io.weight has more of them.
fn set_weight(member: &str, device: Option<&str>, weight: u16, out: &mut Out<'_>) {
    if !WEIGHTS.contains(&weight) {
        let (least, most) = (WEIGHTS.start(), WEIGHTS.end());
        return out.problem(member, format!("{weight} is not within {least} and {most}"));
    }
    let of = device.unwrap_or("default");
    let files = [
        ("io.bfq.weight", format!("{of} {weight}")),
        ("io.weight", format!("{of} {}", io_weight(weight))),
    ];
    out.set_first(member, &files);
}

/// io.weight for blkio.weight: 10 to 1000 become 1 to 10000, as with runc and crun.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

/// One limit of one device; 0 takes it off, as in version 1.
fn throttle(member: &str, key: &str, device: LinuxThrottleDevice, out: &mut Out<'_>) {
    let Some(number) = number(member, device.major(), device.minor(), out) else {
        return;
    };
    let rate = match device.rate() {
        0 => "max".to_owned(),
        rate => rate.to_string(),
    };
    out.set(member, "io.max", format!("{number} {key}={rate}"));
}

/// `MAJOR:MINOR`.
fn number(member: &str, major: i64, minor: i64, out: &mut Out<'_>) -> Option<String> {
    let whole = |number: i64| u32::try_from(number).ok();
    let number = whole(major).zip(whole(minor));
    if number.is_none() {
        out.problem(member, format!("there is no device {major}:{minor}"));
    }
    number.map(|(major, minor)| format!("{major}:{minor}"))
}
