use super::*;
use crate::checkpoint::image::ExternalMount;

const OWN: &str = "\
1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 0:9 / /run rw - tmpfs tmpfs rw
";

const TABLE: &str = "\
1 0 8:1 /r / rw,relatime - ext4 /dev/sda rw
2 1 0:5 / /proc rw,nosuid,nodev,noexec - proc proc rw
3 2 0:5 /sys /proc/sys ro,nosuid - proc proc rw
4 1 8:1 /x /a\\040b ro - ext4 /dev/sda rw
5 1 8:1 /r/d/e /m rw - ext4 /dev/sda rw
";

fn line(place: &str, device: &str, root: &str, fstype: &str, attributes: &[&str]) -> MountLine {
    MountLine {
        mountpoint: place.into(),
        device: device.to_owned(),
        root: root.into(),
        fstype: fstype.to_owned(),
        attributes: attributes.iter().map(|a| (*a).to_owned()).collect(),
    }
}

/// What [`TABLE`] is of: in another place then, with other numbers.
fn then() -> Manifest {
    let mut manifest = crate::checkpoint::image::sample();
    manifest.mounts = vec![
        line("/", "8:2", "/then/r", "ext4", &["relatime", "rw"]),
        line("/proc", "0:7", "/", "proc", &["nosuid"]),
        line("/proc/sys", "0:7", "/sys", "proc", &["ro"]),
        line("/a b", "8:2", "/elsewhere", "ext4", &["ro"]),
        line("/m", "8:2", "/then/r/d/e", "ext4", &["rw"]),
    ];
    manifest.externals = vec![ExternalMount {
        key: "/a b".to_owned(),
        beneath: PathBuf::new(),
        mountpoint: "/a b".into(),
    }];
    manifest
}

#[test]
fn what_is_as_it_was_is_no_difference() {
    assert_eq!(difference(&then(), TABLE, OWN), None);
}

#[test]
fn what_is_missing_is_found() {
    let lost = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = then();
        change(&mut manifest);
        difference(&manifest, TABLE, OWN).unwrap_or_default()
    };
    let irq = line("/proc/irq", "0:7", "/irq", "proc", &["ro"]);
    assert!(lost(&|m| m.mounts.push(irq.clone())).contains("is not there"));
    let ro = line("/proc", "0:7", "/", "proc", &["ro"]);
    assert!(lost(&|m| m.mounts[1] = ro.clone()).contains("has lost \"ro\""));
    let tmpfs = line("/proc", "0:7", "/", "tmpfs", &[]);
    assert!(lost(&|m| m.mounts[1] = tmpfs.clone()).contains("is not there"));
    // Each stands for one.
    assert!(lost(&|m| m.mounts.push(m.mounts[2].clone())).contains("/proc/sys"));
    assert!(lost(&|m| drop(m.mounts.pop())).contains("at \"/m\", where it had none"));
    assert!(difference(&then(), "", OWN).is_some());
}

#[test]
fn a_mount_that_shows_something_else_is_found() {
    for (from, to) in [
        ("8:1 /r/d/e /m", "8:1 /home /m"),
        ("8:1 /r/d/e /m", "8:1 /r/d /m"),
        ("8:1 /r/d/e /m", "8:3 /r/d/e /m"),
        ("0:5 /sys", "0:5 /"),
    ] {
        let table = TABLE.replace(from, to);
        let found = difference(&then(), &table, OWN).unwrap_or_default();
        assert!(found.contains("shows something else"), "{to}: {found}");
    }
}

#[test]
fn a_new_filesystem_is_the_containers_own() {
    let mut manifest = then();
    manifest.mounts.push(line("/t", "0:8", "/", "tmpfs", &[]));
    let with = |last: &str| difference(&manifest, &format!("{TABLE}{last}\n"), OWN);
    assert_eq!(with("6 1 0:10 / /t rw - tmpfs tmpfs rw"), None);
    // The host's.
    let found = with("6 1 0:9 / /t rw - tmpfs tmpfs rw");
    assert!(found.unwrap_or_default().contains("shows something else"));
    // Its options would be paths of the host's.
    let overlay = line("/o", "0:8", "/", "overlay", &[]);
    manifest.mounts[5] = overlay;
    let table = format!("{TABLE}6 1 0:10 / /o rw - overlay overlay rw\n");
    let found = difference(&manifest, &table, OWN);
    assert!(found.unwrap_or_default().contains("shows something else"));
}
