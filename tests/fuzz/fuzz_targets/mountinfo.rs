//! /proc/PID/mountinfo: paths in it are whatever somebody mounted.
#![no_main]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use lodger::host::{MountLine, Revealing, parse_mountinfo, too_revealing};

fuzz_target!(|data: &[u8]| {
    let mounts = parse_mountinfo(data);
    assert!(mounts.len() <= data.split(|byte| *byte == b'\n').count());
    for mount in &mounts {
        assert!(mount.mount_point.is_absolute(), "{mount:?}");
        assert!(!mount.fstype.is_empty(), "{mount:?}");
        let numbers = format!("{} {} ", mount.id, mount.parent);
        let found = |line: &[u8]| without_zeros(line).starts_with(numbers.as_bytes());
        assert!(
            data.split(|byte| *byte == b'\n').any(found),
            "not in the text: {mount:?}"
        );
        let text = written(mount);
        assert_eq!(
            parse_mountinfo(&text),
            [mount.clone()],
            "does not survive being written"
        );
    }
    for fstype in ["proc", "sysfs"] {
        check_reason(&mounts, fstype);
    }
});

/// `line` with its first two words as numbers are printed.
fn without_zeros(line: &[u8]) -> Vec<u8> {
    let mut words = line.split(|byte| *byte == b' ');
    let mut text = Vec::new();
    for word in words.by_ref().take(2) {
        let zeros = word.iter().take_while(|digit| **digit == b'0').count();
        text.extend(&word[zeros.min(word.len().saturating_sub(1))..]);
        text.push(b' ');
    }
    text
}

/// As the kernel writes it, with every byte of a word escaped that could be taken for something else.
fn written(mount: &MountLine) -> Vec<u8> {
    let escaped =
        |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("\\{byte:03o}")).collect() };
    let root = escaped(mount.root.as_os_str().as_bytes());
    let point = escaped(mount.mount_point.as_os_str().as_bytes());
    let access = if mount.readonly { "ro" } else { "rw" };
    let fstype = escaped(mount.fstype.as_bytes());
    format!(
        "{} {} 0:1 {root} {point} {access} shared:1 - {fstype} none rw\n",
        mount.id, mount.parent
    )
    .into_bytes()
}

fn check_reason(mounts: &[MountLine], fstype: &str) {
    let whole = |m: &&MountLine| m.fstype == fstype && m.root == Path::new("/");
    let reason = too_revealing(mounts, fstype);
    assert_eq!(
        reason == Revealing::NoneVisible,
        !mounts.iter().any(|m| whole(&m))
    );
    match reason {
        Revealing::Covered(places) => {
            assert!(!places.is_empty());
            assert!(places.is_sorted());
            for place in places {
                assert!(
                    mounts.iter().any(|m| m.mount_point == place),
                    "{place:?} is no mount point"
                );
            }
        }
        Revealing::Readonly => assert!(mounts.iter().filter(whole).any(|m| m.readonly)),
        Revealing::Nothing => assert!(mounts.iter().filter(whole).any(|m| !m.readonly)),
        Revealing::NoneVisible => {}
    }
}
