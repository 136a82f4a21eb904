//! Which version of systemd has what.
//!
//! The property `Version` of the manager is for people to read: it begins with the number, and distributions add to it.

/// The first version that has each property of a scope that lodger may set (systemd.resource-control(5), systemd.scope(5),
/// systemd.unit(5), org.freedesktop.systemd1(5)), by its name on the bus. Each is to be left out for an older one: it would refuse
/// the whole unit.
const SINCE: &[(&str, u32)] = &[
    ("Description", 1),
    ("Slice", 205),
    ("PIDs", 205),
    ("Documentation", 205),
    ("KillSignal", 205),
    ("TimeoutStopUSec", 205),
    ("SendSIGHUP", 207),
    ("CPUAccounting", 208),
    ("MemoryAccounting", 208),
    ("CPUQuotaPerSecUSec", 213),
    ("Delegate", 218),
    ("TasksAccounting", 227),
    ("TasksMax", 227),
    ("IOAccounting", 230),
    ("IOWeight", 230),
    ("IODeviceWeight", 230),
    ("IOReadBandwidthMax", 230),
    ("IOWriteBandwidthMax", 230),
    ("IOReadIOPSMax", 230),
    ("IOWriteIOPSMax", 230),
    ("MemoryLow", 231),
    ("MemoryHigh", 231),
    ("MemoryMax", 231),
    ("MemorySwapMax", 232),
    ("CPUWeight", 232),
    ("CollectMode", 236),
    ("MemoryMin", 240),
    ("IODeviceLatencyTargetUSec", 240),
    ("CPUQuotaPeriodUSec", 242),
    ("RuntimeMaxUSec", 244),
    ("AllowedCPUs", 244),
    ("AllowedMemoryNodes", 244),
    ("ManagedOOMSwap", 247),
    ("ManagedOOMMemoryPressure", 247),
    ("ManagedOOMMemoryPressureLimit", 247),
    ("ManagedOOMPreference", 248),
    ("OOMPolicy", 253),
    ("MemoryZSwapMax", 253),
    ("PIDFDs", 253),
    ("RuntimeRandomizedExtraUSec", 250),
    ("MemoryPressureWatch", 254),
    ("MemoryPressureThresholdUSec", 254),
    ("CoredumpReceive", 255),
    ("MemoryZSwapWriteback", 256),
    ("ManagedOOMMemoryPressureDurationUSec", 257),
];

/// The version since which weight 0 of the CPU stands for `idle` (cpu.idle): before it is out of range.
pub const IDLE_WEIGHT: u32 = 252;

/// The first version that has the property of a scope; `None`: it is none that lodger knows.
pub fn since(property: &str) -> Option<u32> {
    let found = SINCE.iter().find(|(name, _)| *name == property);
    found.map(|(_, version)| *version)
}

/// The version in the manager's property `Version`; `None`: it does not begin with one.
///
/// Debian has `252.38-1~deb12u1`, Fedora `v257.2-1.fc41`, a release candidate is `256~rc3`.
pub fn parse_version(text: &str) -> Option<u32> {
    let text = text.trim();
    let text = text.strip_prefix("systemd ").unwrap_or(text);
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok().filter(|version| *version > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let cases = [
            ("252.38-1~deb12u1", Some(252)),
            ("v257", Some(257)),
            ("v257.2-1.fc41", Some(257)),
            ("256~rc3", Some(256)),
            ("257~rc1-2", Some(257)),
            ("255 (255.4-1ubuntu8)", Some(255)),
            ("systemd 249", Some(249)),
            (" 253\n", Some(253)),
            ("", None),
            ("v", None),
            ("main-g1234", None),
            ("0", None),
            ("99999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_version(text), expected, "{text:?}");
        }
    }

    #[test]
    fn properties_have_one_line_each() {
        for (index, (name, version)) in SINCE.iter().enumerate() {
            assert_eq!(since(name), Some(*version), "{name}");
            let again = SINCE[..index].iter().any(|(other, _)| other == name);
            assert!(!again, "{name} stands twice");
        }
        assert_eq!(since("ExecStart"), None);
    }
}
