//! Properties of systemd's units that stand for files of a cgroup (systemd.resource-control(5),
//! org.freedesktop.systemd1(5)).

use super::cpu::{USUAL_PERIOD, USUAL_WEIGHT};
use super::{PropertyValue, Setting, UnitProperty};
use crate::cgroup::{IDLE_WEIGHT, since};
use crate::plan::NumberSet;

/// "infinity", and for a weight: none is set.
const INFINITY: u64 = u64::MAX;

/// CPUQuotaPerSecUSec is kept as whole percents of a second.
const PERCENT: u128 = 10_000;

/// The properties that stand for `settings`; of several for the same, the last is taken.
pub fn properties(settings: &[Setting]) -> Vec<UnitProperty> {
    let mut properties: Vec<UnitProperty> = Vec::new();
    for setting in settings {
        // Where there is a choice, systemd's property is for the last: it knows of BFQ by itself.
        let Some(write) = setting.writes.last() else {
            continue;
        };
        for (name, value) in of_file(&write.file, write.value.trim()) {
            let idle = name == "CPUWeight" && value == PropertyValue::U64(0);
            let since = if idle { Some(IDLE_WEIGHT) } else { since(name) };
            let property = UnitProperty {
                property: setting.property.clone(),
                name: name.to_owned(),
                value,
                since: since.unwrap_or_default(),
            };
            add(property, &mut properties);
        }
    }
    properties
}

/// Adds `new` in the place of one with its name; devices are added to those that it has.
fn add(new: UnitProperty, properties: &mut Vec<UnitProperty>) {
    let Some(old) = properties.iter_mut().find(|old| old.name == new.name) else {
        return properties.push(new);
    };
    match (&mut old.value, new.value) {
        (PropertyValue::DeviceNumbers(all), PropertyValue::DeviceNumbers(more)) => {
            all.retain(|(device, _)| more.iter().all(|(again, _)| again != device));
            all.extend(more);
        }
        (_, value) => {
            *old = UnitProperty { value, ..new };
        }
    }
}

type Named = (&'static str, PropertyValue);

/// What stands for `value` in `file`: nothing, if systemd has no word for it. Such a value is for the kernel alone to judge.
fn of_file(file: &str, value: &str) -> Vec<Named> {
    let one = |name: &'static str, value: Option<PropertyValue>| {
        value.map(|value| (name, value)).into_iter().collect()
    };
    let bytes = |name| one(name, amount(value).map(PropertyValue::U64));
    match file {
        "memory.min" => bytes("MemoryMin"),
        "memory.low" => bytes("MemoryLow"),
        "memory.high" => bytes("MemoryHigh"),
        "memory.max" => bytes("MemoryMax"),
        "memory.swap.max" => bytes("MemorySwapMax"),
        "memory.zswap.max" => bytes("MemoryZSwapMax"),
        "memory.zswap.writeback" => one(
            "MemoryZSwapWriteback",
            switch(value).map(PropertyValue::Bool),
        ),
        "memory.oom.group" => {
            let policy = |on| if on { "kill" } else { "continue" };
            let policy = switch(value).map(|on| PropertyValue::Text(policy(on).to_owned()));
            one("OOMPolicy", policy)
        }
        // systemd knows no limit of none: the file says it.
        "pids.max" => one(
            "TasksMax",
            number_or_max(value).map(|n| PropertyValue::U64(n.max(1))),
        ),
        "cpu.weight" => one("CPUWeight", weight(value)),
        "cpu.idle" => {
            let weight = switch(value).map(|idle| if idle { 0 } else { u64::from(USUAL_WEIGHT) });
            one("CPUWeight", weight.map(PropertyValue::U64))
        }
        "cpu.max" => bandwidth(value).unwrap_or_default(),
        "cpuset.cpus" => one("AllowedCPUs", bits(value)),
        "cpuset.mems" => one("AllowedMemoryNodes", bits(value)),
        "io.weight" => match value.split_once(' ') {
            None => one("IOWeight", weight(value)),
            Some(("default", value)) => one("IOWeight", weight(value.trim())),
            Some((device, value)) => {
                let numbers = device_path(device).zip(number(value.trim()));
                one(
                    "IODeviceWeight",
                    numbers.map(|n| PropertyValue::DeviceNumbers(vec![n])),
                )
            }
        },
        "io.max" => rates(value).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Decimal digits.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn number_or_max(text: &str) -> Option<u64> {
    if text == "max" {
        Some(INFINITY)
    } else {
        number(text)
    }
}

/// A number of bytes, perhaps with one of the kernel's suffixes (lib/cmdline.c, `memparse`).
fn amount(text: &str) -> Option<u64> {
    let suffix = text.chars().last().filter(char::is_ascii_alphabetic);
    let power = suffix.and_then(|suffix| "KMGTPE".find(suffix.to_ascii_uppercase()));
    match power {
        Some(power) => {
            let unit = 1024_u64.checked_pow(u32::try_from(power).ok()? + 1)?;
            number(&text[..text.len() - 1])?.checked_mul(unit)
        }
        None => number_or_max(text),
    }
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

fn weight(text: &str) -> Option<PropertyValue> {
    let weight = number(text).filter(|weight| (1..=10_000).contains(weight));
    weight.map(PropertyValue::U64)
}

/// `QUOTA [PERIOD]`: what may be used of a second, rounded up, as the cgroup below has the limit to the microsecond.
fn bandwidth(text: &str) -> Option<Vec<Named>> {
    let mut words = text.split_whitespace();
    let quota = number_or_max(words.next()?)?;
    let given = words.next().map(number);
    if words.next().is_some() || given == Some(None) {
        return None;
    }
    let period = given.flatten().unwrap_or(USUAL_PERIOD);
    if period == 0 {
        return None;
    }
    let of_second = if quota == INFINITY {
        INFINITY
    } else {
        let percents = (u128::from(quota) * 1_000_000).div_ceil(u128::from(period) * PERCENT);
        let rounded = percents.max(1) * PERCENT;
        u64::try_from(rounded).ok().filter(|n| *n < INFINITY)?
    };
    Some(vec![
        ("CPUQuotaPerSecUSec", PropertyValue::U64(of_second)),
        ("CPUQuotaPeriodUSec", PropertyValue::U64(period)),
    ])
}

/// A set of numbers as a mask, the lowest byte first; without any, no set is given.
fn bits(text: &str) -> Option<PropertyValue> {
    if text.is_empty() {
        return Some(PropertyValue::Bytes(Vec::new()));
    }
    let set = NumberSet::parse(text).ok()?;
    let mut bytes = Vec::new();
    for number in set.numbers() {
        let index = usize::try_from(number / 8).ok()?;
        if bytes.len() <= index {
            bytes.resize(index + 1, 0_u8);
        }
        bytes[index] |= 1 << (number % 8);
    }
    Some(PropertyValue::Bytes(bytes))
}

/// The path under which systemd takes a device's number.
fn device_path(number: &str) -> Option<String> {
    let (major, minor) = number.split_once(':')?;
    let whole = |text: &str| self::number(text).is_some();
    (whole(major) && whole(minor)).then(|| format!("/dev/block/{major}:{minor}"))
}

/// `MAJOR:MINOR rbps=N …`.
fn rates(text: &str) -> Option<Vec<Named>> {
    let mut words = text.split_whitespace();
    let device = device_path(words.next()?)?;
    let named = words.map(|word| {
        let (key, rate) = word.split_once('=')?;
        let name = match key {
            "rbps" => "IOReadBandwidthMax",
            "wbps" => "IOWriteBandwidthMax",
            "riops" => "IOReadIOPSMax",
            "wiops" => "IOWriteIOPSMax",
            _ => return None,
        };
        let numbers = vec![(device.clone(), number_or_max(rate)?)];
        Some((name, PropertyValue::DeviceNumbers(numbers)))
    });
    named.collect()
}
