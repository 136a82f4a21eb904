//! What the config says of the container around the process: mounts, devices, namespaces, kernel parameters.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Fixture, peer, peer_differs, read_lossy};

/// A line of the payload's mountinfo, taken apart.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) options: Vec<String>,
    pub(crate) optional: String,
    pub(crate) fstype: String,
    pub(crate) super_options: Vec<String>,
}

/// The topmost mount at a path, from the text of mountinfo.
pub(crate) fn mounted(mountinfo: &str, path: &str) -> Option<Mounted> {
    let line = mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(path))?;
    let (mount, filesystem) = line.split_once(" - ")?;
    let fields: Vec<&str> = mount.split(' ').collect();
    let last: Vec<&str> = filesystem.split(' ').collect();
    let list = |text: &str| text.split(',').map(str::to_string).collect();
    Some(Mounted {
        options: list(fields[5]),
        optional: fields[6..].join(" "),
        fstype: last[0].to_string(),
        super_options: list(last[2]),
    })
}

/// Runs the bundle with one more mount at /mnt/at, and gives what is mounted there.
pub(crate) fn run_with_mount(mount: Value) -> Mounted {
    let mut fixture = Fixture::with_own_root();
    let mut mount = mount;
    mount["destination"] = "/mnt/at".into();
    fixture.mount(mount);
    let mountinfo = fixture.args(&["cat", "/proc/self/mountinfo"]).run().ok();
    mounted(&mountinfo, "/mnt/at").unwrap_or_else(|| panic!("not mounted: {mountinfo}"))
}

pub(crate) fn has(options: &[String], wanted: &[&str]) -> bool {
    wanted
        .iter()
        .all(|option| options.iter().any(|have| have == option))
}

#[test]
fn the_mounts_of_the_base_config() {
    let mut fixture = Fixture::new();
    let mountinfo = fixture.args(&["cat", "/proc/self/mountinfo"]).run().ok();
    for (path, fstype, options) in [
        ("/proc", "proc", &[][..]),
        ("/dev", "tmpfs", &["nosuid"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec"]),
        ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ] {
        let mount = mounted(&mountinfo, path).unwrap_or_else(|| panic!("{path} in {mountinfo}"));
        assert_eq!(mount.fstype, fstype, "{path}");
        assert!(has(&mount.options, options), "{path}: {mount:?}");
    }
}

#[test]
fn the_root_is_read_only_if_asked() {
    let mut fixture = Fixture::with_own_root();
    fixture.sh("touch /made 2>/dev/null && echo writable || echo read-only");
    assert_eq!(fixture.run().ok(), "writable\n");
    fixture.config["root"]["readonly"] = true.into();
    assert_eq!(fixture.run().ok(), "read-only\n");
}

#[test]
fn tmpfs_and_its_options() {
    let mount = run_with_mount(json!({
        "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "nodev", "noexec", "noatime", "size=4096k", "mode=700"]
    }));
    assert_eq!(mount.fstype, "tmpfs");
    assert!(
        has(
            &mount.options,
            &["rw", "nosuid", "nodev", "noexec", "noatime"]
        ),
        "{mount:?}"
    );
    assert!(
        has(&mount.super_options, &["size=4096k", "mode=700"]),
        "{mount:?}"
    );
}

/// Each option of a mount and what it looks like in mountinfo: there or not there.
#[test]
fn options_of_a_mount() {
    peer_differs!("crun", "1.8 does not clear with rw what ro has set");
    peer_differs!("runc", "1.1 passes `defaults` to the filesystem");
    const OPTIONS: &[(&[&str], &[&str], &[&str])] = &[
        (&["ro"], &["ro"], &["rw"]),
        (&["rw"], &["rw"], &["ro"]),
        (&["ro", "rw"], &["rw"], &["ro"]),
        (&["nosuid", "suid"], &[], &["nosuid"]),
        (&["nodev"], &["nodev"], &[]),
        (&["noexec", "exec"], &[], &["noexec"]),
        (&["nodiratime"], &["nodiratime"], &[]),
        (&["noatime"], &["noatime"], &["relatime"]),
        (&["strictatime"], &[], &["noatime", "relatime"]),
        (&["relatime"], &["relatime"], &["noatime"]),
        (&["defaults"], &["rw"], &["nosuid", "nodev", "noexec"]),
    ];
    for (options, there, not_there) in OPTIONS {
        let mount = run_with_mount(json!({"type": "tmpfs", "source": "tmpfs", "options": options}));
        assert!(has(&mount.options, there), "{options:?}: {mount:?}");
        assert!(
            !not_there
                .iter()
                .any(|option| has(&mount.options, &[option])),
            "{options:?}: {mount:?}"
        );
    }
}

#[test]
fn propagation_of_a_mount() {
    peer_differs!(
        "crun",
        "1.8 makes a new filesystem private, whatever is asked"
    );
    for (option, seen) in [
        ("shared", "shared:"),
        ("private", ""),
        ("unbindable", "unbindable"),
    ] {
        let mount =
            run_with_mount(json!({"type": "tmpfs", "source": "tmpfs", "options": [option]}));
        assert!(mount.optional.starts_with(seen), "{option}: {mount:?}");
        assert!(
            !seen.is_empty() || mount.optional.is_empty(),
            "{option}: {mount:?}"
        );
    }
}

/// A directory of the host with a file, as the source of a bind mount.
fn shared_directory(fixture: &Fixture) -> String {
    let directory = fixture.path("shared");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("file"), "from the host\n").unwrap();
    directory.to_str().unwrap().to_string()
}

#[test]
fn bind_mounts_of_a_directory() {
    for (options, writable) in [
        (&["bind"][..], true),
        (&["rbind"], true),
        (&["rbind", "rw"], true),
        (&["bind", "ro"], false),
        (&["rbind", "ro", "nosuid", "nodev", "noexec"], false),
    ] {
        let mut fixture = Fixture::with_own_root();
        let source = shared_directory(&fixture);
        fixture.mount(
            json!({"destination": "/data", "type": "bind", "source": source, "options": options}),
        );
        fixture.sh("cat /data/file; echo inside 2>/dev/null >/data/new || echo read-only");
        let ran = fixture.run().exits(0);
        let new = fixture.path("shared/new");
        assert_eq!(new.exists(), writable, "{options:?}");
        let rest = if writable { "" } else { "read-only\n" };
        assert_eq!(ran.out, format!("from the host\n{rest}"), "{options:?}");
    }
}

#[test]
fn a_bind_mount_of_a_file() {
    let mut fixture = Fixture::with_own_root();
    let source = shared_directory(&fixture);
    fixture.mount(json!({
        "destination": "/etc/new/file", "type": "none", "source": format!("{source}/file"), "options": ["bind", "ro"]
    }));
    fixture.args(&["cat", "/etc/new/file"]);
    assert_eq!(fixture.run().ok(), "from the host\n");
}

#[test]
fn a_bind_source_is_relative_to_the_bundle() {
    let mut fixture = Fixture::with_own_root();
    fs::create_dir(fixture.bundle().join("data")).unwrap();
    fs::write(fixture.bundle().join("data/file"), "relative\n").unwrap();
    fixture.mount(
        json!({"destination": "/data", "type": "bind", "source": "data", "options": ["rbind"]}),
    );
    fixture.args(&["cat", "/data/file"]);
    assert_eq!(fixture.run().ok(), "relative\n");
}

#[test]
fn mounts_are_made_in_order() {
    let mut fixture = Fixture::with_own_root();
    let source = shared_directory(&fixture);
    fixture.mount(json!({"destination": "/top", "type": "tmpfs", "source": "tmpfs"}));
    fixture.mount(
        json!({"destination": "/top/below", "type": "bind", "source": source, "options": ["bind"]}),
    );
    fixture.args(&["cat", "/top/below/file"]);
    assert_eq!(fixture.run().ok(), "from the host\n");
}

#[test]
fn a_tmpfs_gid_that_is_not_mapped_is_adapted_or_refused() {
    let mut fixture = Fixture::new();
    // What `runc spec` has for devpts; in a map with subordinate ids group 5 is there.
    fixture.unmount("/dev/pts");
    fixture.mount(json!({
        "destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    }));
    fixture.args(&["stat", "-c", "%g", "/dev/pts/ptmx"]);
    fixture.run().ok();
}

#[test]
fn a_cgroup_mount_is_read_only() {
    let mut fixture = Fixture::new();
    fixture.mount(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]
    }));
    fixture.sh(
        "cat /proc/self/mountinfo; mkdir /sys/fs/cgroup/made 2>/dev/null && echo WRITABLE; true",
    );
    let out = fixture.run().ok();
    assert!(!out.contains("WRITABLE"), "{out}");
    let mount = mounted(&out, "/sys/fs/cgroup").unwrap_or_else(|| panic!("{out}"));
    assert!(has(&mount.options, &["ro"]), "{mount:?}");
}

#[test]
fn host_and_domain_name() {
    let mut fixture = Fixture::new();
    fixture.config["hostname"] = "some-host".into();
    fixture.config["domainname"] = "some.domain".into();
    fixture.args(&[
        "cat",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/domainname",
    ]);
    let out = fixture.run().ok();
    if peer() {
        assert!(out.starts_with("some-host\n"), "{out}");
    } else {
        assert_eq!(out, "some-host\nsome.domain\n");
    }
}

#[test]
fn a_hostname_needs_a_namespace_of_its_own() {
    let mut fixture = Fixture::new();
    fixture.without_namespace("uts");
    fixture.run().fails(1, "/hostname");
}

#[test]
fn a_namespace_that_is_not_asked_for_is_inherited() {
    let mut fixture = Fixture::new();
    fixture
        .without_namespace("uts")
        .without_namespace("ipc")
        .unmount("/dev/mqueue");
    fixture.config.as_object_mut().unwrap().remove("hostname");
    fixture.sh("for n in uts ipc net; do readlink /proc/self/ns/$n; done");
    let out = fixture.run().ok();
    let inside: Vec<&str> = out.lines().collect();
    let host =
        ["uts", "ipc", "net"].map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap());
    assert_eq!(inside[0], host[0].to_str().unwrap());
    assert_eq!(inside[1], host[1].to_str().unwrap());
    assert_ne!(inside[2], host[2].to_str().unwrap());
}

#[test]
fn sysfs_without_a_network_namespace() {
    peer_differs!("runc", "does not adapt sysfs");
    let mut fixture = Fixture::new();
    fixture.without_namespace("network");
    fixture.sh("ls -d /sys/class; touch /sys/made 2>/dev/null && echo WRITABLE; true");
    assert_eq!(fixture.run().ok(), "/sys/class\n");
}

#[test]
fn time_and_cgroup_namespaces() {
    peer_differs!("runc", "1.1 has no time namespace");
    let mut fixture = Fixture::new();
    let namespaces = fixture.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap();
    namespaces.push(json!({"type": "cgroup"}));
    namespaces.push(json!({"type": "time"}));
    fixture.sh("for n in cgroup time; do readlink /proc/self/ns/$n; done");
    let out = fixture.run().ok();
    for (line, name) in out.lines().zip(["cgroup", "time"]) {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(line, host.to_str().unwrap(), "{name}");
    }
}

#[test]
fn sysctl() {
    let mut fixture = Fixture::new();
    fixture.config["linux"]["sysctl"] =
        json!({"kernel.msgmax": "4321", "net.ipv4.ip_forward": "1"});
    fixture.args(&[
        "cat",
        "/proc/sys/kernel/msgmax",
        "/proc/sys/net/ipv4/ip_forward",
    ]);
    assert_eq!(fixture.run().ok(), "4321\n1\n");
}

#[test]
fn readonly_paths() {
    let mut fixture = Fixture::with_own_root();
    fs::create_dir(fixture.rootfs().join("kept")).unwrap();
    fs::write(fixture.rootfs().join("kept/file"), "kept\n").unwrap();
    fixture.config["linux"]["readonlyPaths"] = json!(["/kept", "/etc/passwd", "/no/such"]);
    fixture.sh(
        "cat /kept/file; touch /kept/new 2>/dev/null && echo wrote; \
         (echo x >>/etc/passwd) 2>/dev/null && echo appended; touch /elsewhere && echo elsewhere",
    );
    assert_eq!(fixture.run().ok(), "kept\nelsewhere\n");
}

#[test]
fn devices_work() {
    let mut fixture = Fixture::new();
    fixture.sh(
        "echo gone >/dev/null && head -c 4 /dev/zero | od -An -tx1 2>/dev/null; head -c 4 /dev/urandom | wc -c; \
         echo through >>/dev/stdout; : </dev/random && echo random; cat /dev/null",
    );
    let out = fixture.run().ok();
    assert!(out.ends_with("4\nthrough\nrandom\n"), "{out:?}");
}

#[test]
fn propagation_of_the_root() {
    peer_differs!(
        "runc",
        "1.1 makes the root private where shared is asked, and fails for unbindable"
    );
    for (propagation, seen) in [
        ("private", ""),
        ("shared", "shared:"),
        ("slave", ""),
        ("unbindable", "unbindable"),
    ] {
        let mut fixture = Fixture::with_own_root();
        fixture.config["linux"]["rootfsPropagation"] = propagation.into();
        let mountinfo = fixture.args(&["cat", "/proc/self/mountinfo"]).run().ok();
        let root = mounted(&mountinfo, "/").unwrap();
        assert!(root.optional.starts_with(seen), "{propagation}: {root:?}");
    }
}

#[test]
fn unknown_properties_are_ignored() {
    let mut fixture = Fixture::new();
    fixture.config["org.example.unknown"] = json!({"any": "thing"});
    fixture.config["process"]["unknown"] = json!(1);
    fixture.config["linux"]["unknown"] = json!([1, 2]);
    fixture.sh("echo ran");
    assert_eq!(fixture.run().ok(), "ran\n");
}

#[test]
fn mappings_of_the_config_are_used() {
    peer_differs!(
        "runc",
        "1.1 cannot have another root than the caller: it gives it the standard streams"
    );
    let mut fixture = Fixture::new();
    if !peer() {
        crate::base::add_user_namespace(&mut fixture.config);
    }
    let (start, _) = crate::base::subordinate_range("/etc/subuid").unwrap();
    let own = rustix::process::getuid().as_raw();
    fixture.config["linux"]["uidMappings"] = json!([
        {"containerID": 0, "hostID": start + 10, "size": 5},
        {"containerID": 100, "hostID": own, "size": 1},
        {"containerID": 1000, "hostID": start + 100, "size": 100}
    ]);
    // The root filesystem is owned by 100 inside; its files are readable by all.
    fixture.config["process"]["user"]["uid"] = 100.into();
    fixture.args(&["cat", "/proc/self/uid_map"]);
    let out = fixture.run().ok();
    let lines: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let firsts: Vec<(&str, &str)> = lines.iter().map(|line| (line[0], line[2])).collect();
    assert_eq!(firsts, [("0", "5"), ("100", "1"), ("1000", "100")]);
}

#[test]
fn annotations_do_not_reach_the_payload_but_state() {
    let mut fixture = Fixture::new();
    fixture.config["annotations"] = json!({"a": "1", "b": "2"});
    fixture.runtime(&["create", "c"]).ok();
    let annotations = fixture.state("c")["annotations"].clone();
    assert_eq!(
        (&annotations["a"], &annotations["b"]),
        (&json!("1"), &json!("2"))
    );
}

#[test]
fn a_root_given_by_an_absolute_path() {
    let mut fixture = Fixture::with_own_root();
    fixture.config["root"]["path"] = fixture.rootfs().to_str().unwrap().into();
    fixture.sh("echo ran >/tmp/ran");
    fixture.run().ok();
    assert_eq!(read_lossy(&fixture.rootfs().join("tmp/ran")), "ran\n");
}

#[test]
fn a_root_that_is_not_there() {
    let mut fixture = Fixture::with_own_root();
    fixture.config["root"]["path"] = "no-such-root".into();
    fixture.run().fails(1, "no-such-root");
}
