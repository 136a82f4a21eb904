use std::path::PathBuf;

use super::*;

const HOST: &str = "\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:21 / /proc rw - proc proc rw
23 21 0:22 / /sys rw - sysfs sysfs rw
24 23 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup rw
25 21 0:6 / /dev rw - devtmpfs devtmpfs rw
30 21 0:50 / /home/ann/src/sub rw - tmpfs tmpfs rw
31 21 0:51 / /home/ann/src/sub\\040b rw - tmpfs tmpfs rw
32 21 0:52 / /home/ann/root/mnt rw - tmpfs tmpfs rw
";

const CONTAINER: &str = "\
64 42 254:0 /home/ann/root / rw,relatime - ext4 /dev/vda rw
65 64 0:40 / /proc rw,relatime - proc proc rw
66 64 0:41 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k
70 64 0:22 / /sys ro,nosuid,nodev - sysfs sysfs rw
71 70 0:38 / /sys/fs/cgroup ro - cgroup2 cgroup rw
72 66 0:6 /null /dev/null rw - devtmpfs devtmpfs rw
80 64 254:0 /home/ann/src /data rw - ext4 /dev/vda rw
81 80 0:50 / /data/sub rw - tmpfs tmpfs rw
82 80 0:51 / /data/sub\\040b rw - tmpfs tmpfs rw
83 80 0:90 / /data/own rw - tmpfs tmpfs rw
84 80 254:0 /home/ann/src/x /data/y rw - ext4 /dev/vda rw
85 64 0:52 / /mnt rw - tmpfs tmpfs rw
";

fn mounts(text: &str) -> Mounts {
    Mounts::parse(text.as_bytes())
}

/// With the mounts `given` already found, as (id, key): what is beneath `top`.
fn beneath(container: &str, given: &[(u64, &str)], top: u64, key: &str) -> Vec<(String, PathBuf)> {
    let (container, host) = (mounts(container), mounts(HOST));
    let mut all = Externals {
        mounts: &container,
        outside: &host,
        found: Vec::new(),
        ids: BTreeSet::new(),
    };
    for (id, key) in given {
        all.add(container.by_id(*id).unwrap(), Path::new(key), Path::new(""));
    }
    all.found.clear();
    all.add_beneath(container.by_id(top).unwrap(), Path::new(key));
    let found = all.found.into_iter();
    found.map(|found| (found.key, found.beneath)).collect()
}

#[test]
fn what_was_mounted_beneath_a_source_came_with_it() {
    let given = [(72, "/dev/null"), (80, "/link/data")];
    let found = beneath(CONTAINER, &given, 80, "/link/data");
    let of = |beneath: &str| ("/link/data".to_owned(), PathBuf::from(beneath));
    // What the container has mounted there, a filesystem of its own and a part of what it sees, has not.
    assert_eq!(found, [of("sub"), of("sub b")]);
}

#[test]
fn what_was_mounted_beneath_the_root_came_with_it() {
    let given = [
        (72, "/dev/null"),
        (80, "/data"),
        (81, "/data"),
        (82, "/data"),
    ];
    // Its own sysfs and cgroup2 are those of the host, seen again.
    assert_eq!(
        beneath(CONTAINER, &given, 64, "/"),
        [("/".to_owned(), PathBuf::from("mnt"))]
    );
    // Bound once more by the container, it is no second one.
    let again = format!("{CONTAINER}86 64 0:50 / /again rw - tmpfs tmpfs rw\n");
    assert_eq!(beneath(&again, &given, 64, "/").len(), 1);
}

fn refused(container: &str, given: &[u64]) -> Option<String> {
    let (container, host) = (mounts(container), mounts(HOST));
    let mut all = Externals {
        mounts: &container,
        outside: &host,
        found: Vec::new(),
        ids: BTreeSet::new(),
    };
    for id in given {
        all.add(
            container.by_id(*id).unwrap(),
            Path::new("/k"),
            Path::new(""),
        );
    }
    let refused = refuse_served(&container, &host)
        .and_then(|()| all.refuse_covered())
        .and_then(|()| all.refuse_unknown());
    refused.err().map(|error| error.message())
}

#[test]
fn mounts_that_criu_cannot_make_are_refused() {
    assert_eq!(refused(CONTAINER, &[80]), None);
    for (line, given, told) in [
        (
            "90 64 0:91 / /f rw - fuse.sshfs ann@host rw",
            &[][..],
            "the fuse.sshfs mount at \"/f\": it was mounted in the container",
        ),
        (
            "90 64 0:91 / /b\\040b rw - bpf bpf rw",
            &[],
            "the bpf mount at \"/b b\": it was mounted after",
        ),
        // Another one over a mount from outside, or over another directory of it.
        (
            "90 80 0:91 / /data rw - tmpfs tmpfs rw",
            &[80],
            "the tmpfs mount at \"/data\": it is over another one",
        ),
        ("90 80 0:91 / /data rw - tmpfs tmpfs rw", &[], ""),
        ("90 64 0:91 / /e rw - ext4 /dev/vdb rw", &[90], ""),
        // A part of one that is given.
        (
            "90 64 0:91 / /e rw - xfs /dev/vdb rw\n91 64 0:91 /p /q rw - xfs /dev/vdb rw",
            &[90],
            "",
        ),
        // FUSE of the host's, bound by the config.
        (
            "90 64 0:91 / /f rw - fuse.sshfs ann@host rw",
            &[90],
            "mounted in the container",
        ),
    ] {
        let container = format!("{CONTAINER}{line}\n");
        let refused = refused(&container, given);
        assert_eq!(refused.is_none(), told.is_empty(), "{line}: {refused:?}");
        assert!(refused.unwrap_or_default().contains(told), "{line}");
    }
}

#[test]
fn lines_of_the_manifest() {
    let lines = mounts(CONTAINER).lines();
    assert_eq!(lines.len(), 12);
    assert_eq!(
        lines[3],
        MountLine {
            mountpoint: PathBuf::from("/sys"),
            device: "0:22".to_owned(),
            root: PathBuf::from("/"),
            fstype: "sysfs".to_owned(),
            attributes: ["nodev", "nosuid", "ro"].map(str::to_owned).to_vec(),
        }
    );
}

#[test]
fn a_mount_is_found_where_a_path_leads() {
    // This process's own, as a container would see them.
    let root = sys::mount::open_path(Path::new("/")).unwrap();
    let own = Mounts::of("self").unwrap();
    let external = |destination: &str, kind| External {
        destination: PathBuf::from(destination),
        kind,
    };
    let found = |destination, kind| find(&root, &own, &external(destination, kind)).unwrap();
    let proc = found("/proc", ExternalKind::Bind).unwrap();
    assert_eq!(proc.line.mount_point, Path::new("/proc"));
    assert_eq!(found("/proc/sys/kernel", ExternalKind::Bind), None);
    assert_eq!(found("/nowhere/at/all", ExternalKind::Mask), None);
    // Not /dev/null.
    assert_eq!(found("/proc", ExternalKind::Mask), None);
}
