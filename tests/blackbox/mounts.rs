//! `mounts`: id maps, trees, changes to what is mounted already, and the filesystems that a user namespace may mount.

use std::fs;

use serde_json::{Value, json};

use crate::base::{add_user_namespace, subordinate_range};
use crate::config::{has, mounted, run_with_mount};
use crate::harness::{Fixture, Ran, lodger_only, peer, peer_differs, skip};
use crate::nested::nested;

/// A bundle in a user namespace that the config asks for.
fn in_user_namespace() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    if !peer() {
        add_user_namespace(&mut fixture.config);
    }
    fixture
}

/// One line of a mount's maps.
fn line(container: u32, host: u32, size: u32) -> Value {
    json!({"containerID": container, "hostID": host, "size": size})
}

/// Whether the kernel has id maps for what a user namespace mounts itself.
fn kernel_maps_ids() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 3)
}

/// Where the runner has the mount API by fd refused (`LODGER_TEST_LOCKED`), there are no id maps: that is told.
fn refused_where_locked(fixture: &Fixture) -> bool {
    let locked = std::env::var_os("LODGER_TEST_LOCKED").is_some();
    if locked {
        assert_no_id_maps(&fixture.run());
    }
    locked
}

const NO_ID_MAPS: &str = "this needs open_tree(2), fsopen(2) and mount_setattr(2): Linux 5.12";

fn assert_no_id_maps(ran: &Ran) {
    assert!(
        ran.code == 1 && ran.err.contains("cannot map its ids"),
        "{ran:?}"
    );
    assert!(ran.err.contains(NO_ID_MAPS), "{ran:?}");
}

#[test]
fn a_tmpfs_with_an_id_map_of_its_own() {
    peer_differs!(
        "crun",
        "1.8 cannot make a user namespace for the map as an ordinary user"
    );
    peer_differs!(
        "runc",
        "1.1 gives the option to the filesystem, which refuses it"
    );
    if !kernel_maps_ids() {
        skip!("a tmpfs has id maps since Linux 6.3");
    }
    let (start, _) = subordinate_range("/etc/subuid").unwrap();
    let mut fixture = in_user_namespace();
    fixture.config["process"]["user"] = json!({"uid": 5, "gid": 5});
    // What has 0 on the filesystem is seen as 5, which is this host id in the container.
    fixture.mount(json!({
        "destination": "/mnt/at", "type": "tmpfs", "source": "t", "options": ["idmap", "mode=755"],
        "uidMappings": [line(0, start + 4, 1)], "gidMappings": [line(0, start + 4, 1)]
    }));
    fixture.sh("stat -c %u:%g /mnt/at; echo x >/mnt/at/file; stat -c %u:%g /mnt/at/file; cat /proc/self/mountinfo");
    if refused_where_locked(&fixture) {
        return;
    }
    let out = fixture.run().ok();
    assert!(out.starts_with("5:5\n5:5\n"), "{out}");
    let mount = mounted(&out, "/mnt/at").unwrap();
    assert!(has(&mount.options, &["idmapped"]), "{mount:?}");
}

#[test]
fn a_tmpfs_with_the_containers_id_map() {
    peer_differs!(
        "crun",
        "1.8 may not open the container's user namespace for the map: EACCES"
    );
    peer_differs!(
        "runc",
        "1.1 gives the option to the filesystem, which refuses it"
    );
    if !kernel_maps_ids() {
        skip!("a tmpfs has id maps since Linux 6.3");
    }
    for option in ["idmap", "ridmap"] {
        let mut fixture = in_user_namespace();
        fixture.mount(json!({
            "destination": "/mnt/at", "type": "tmpfs", "source": "t", "options": [option]
        }));
        fixture.sh(
            "echo x >/mnt/at/file; stat -c %u:%g /mnt/at /mnt/at/file; cat /proc/self/mountinfo",
        );
        if refused_where_locked(&fixture) {
            continue;
        }
        let out = fixture.run().ok();
        assert!(out.starts_with("0:0\n0:0\n"), "{out}");
        assert!(
            has(&mounted(&out, "/mnt/at").unwrap().options, &["idmapped"]),
            "{out}"
        );
    }
}

/// Copied up as they are in the image, and then seen through the map.
#[test]
fn a_copy_with_an_id_map() {
    lodger_only!("copying up into what has an id map");
    if !kernel_maps_ids() {
        skip!("a tmpfs has id maps since Linux 6.3");
    }
    let (start, _) = subordinate_range("/etc/subuid").unwrap();
    let mut fixture = in_user_namespace();
    fs::create_dir(fixture.rootfs().join("data")).unwrap();
    fs::write(fixture.rootfs().join("data/file"), "x\n").unwrap();
    let map = json!([line(0, start + 6, 1)]);
    fixture.mount(json!({
        "destination": "/data", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"],
        "uidMappings": map, "gidMappings": map
    }));
    fixture.sh("cat /data/file; stat -c %u:%g /data/file; touch /data/new 2>&1");
    if refused_where_locked(&fixture) {
        return;
    }
    let out = fixture.run().out;
    // The container's root is not in the map: it can make nothing there.
    assert!(out.starts_with("x\n7:7\n"), "{out}");
    assert!(out.contains("Value too large"), "{out}");
}

/// No process of the set-up is left over.
#[test]
fn an_id_map_leaves_no_process() {
    lodger_only!("a process for the id map");
    if !kernel_maps_ids() {
        skip!("a tmpfs has id maps since Linux 6.3");
    }
    let mut fixture = in_user_namespace();
    for at in ["/mnt/a", "/mnt/b"] {
        fixture.mount(
            json!({"destination": at, "type": "tmpfs", "source": "t", "options": ["idmap"]}),
        );
    }
    fixture.sh("echo /proc/[0-9]*");
    if refused_where_locked(&fixture) {
        return;
    }
    // The shell.
    assert_eq!(fixture.run().ok(), "/proc/1\n");
}

#[test]
fn id_maps_that_cannot_be() {
    let wrong = |mount: Value, user_namespace: bool, problem: &str| {
        let mut fixture = if user_namespace {
            in_user_namespace()
        } else {
            Fixture::with_own_root()
        };
        let mut mount = mount;
        mount["destination"] = "/mnt/at".into();
        fixture.mount(mount);
        fixture.run().fails(1, problem);
    };
    let (start, _) = subordinate_range("/etc/subuid").unwrap();
    let map = json!([line(0, start, 1)]);
    // Both kinds come together.
    wrong(
        json!({"type": "tmpfs", "source": "t", "options": ["idmap"], "uidMappings": map}),
        true,
        "/mounts/6/gidMappings: is required when the other kind",
    );
    peer_differs!("crun", "1.8 passes over ridmap of a bind mount in silence");
    peer_differs!(
        "runc",
        "1.1 passes over the maps and options of a bind mount"
    );
    // The host's filesystems are not ours.
    for options in [json!(["bind", "idmap"]), json!(["rbind", "ridmap"])] {
        wrong(
            json!({"type": "bind", "source": "/etc", "options": options}),
            true,
            "/mounts/6/options/1: the source's filesystem was mounted outside of the container",
        );
    }
    wrong(
        json!({"type": "bind", "source": "/etc", "options": ["bind"], "uidMappings": map, "gidMappings": map}),
        true,
        "/mounts/6/uidMappings: the source's filesystem was mounted outside",
    );
    // An id that is nobody's.
    let foreign = json!([line(0, 4_000_000_000, 1)]);
    wrong(
        json!({"type": "tmpfs", "source": "t", "options": ["idmap"], "uidMappings": foreign, "gidMappings": map}),
        true,
        "/mounts/6/uidMappings/0: hostID 4000000000 is not mapped in the container's user namespace",
    );
    // Nothing to map with.
    wrong(
        json!({"type": "tmpfs", "source": "t", "options": ["idmap"]}),
        false,
        "/mounts/6/options/0: needs uidMappings and gidMappings, or a namespace of type \"user\"",
    );
    // A filesystem that has none.
    let has_none = match std::env::var_os("LODGER_TEST_LOCKED") {
        None => "the kernel has no id maps for this kind of filesystem",
        Some(_) => NO_ID_MAPS,
    };
    wrong(
        json!({"type": "ramfs", "source": "r", "options": ["idmap"]}),
        true,
        has_none,
    );
}

/// Where the caller's own user namespace is used, what was mounted in it is ours.
#[test]
fn a_bind_mount_with_an_id_map_inside_a_user_namespace() {
    lodger_only!("a user namespace around the runtime");
    if !kernel_maps_ids() {
        skip!("a tmpfs has id maps since Linux 6.3");
    }
    let mut fixture = Fixture::with_own_root();
    let source = fixture.path("source");
    fs::create_dir(&source).unwrap();
    let map = json!([line(0, 0, 1)]);
    fixture.mount(json!({
        "destination": "/mnt/at", "type": "bind", "source": source, "options": ["bind", "idmap"],
        "uidMappings": map, "gidMappings": map
    }));
    fixture.sh("cat /mnt/at/file; cat /proc/self/mountinfo");
    let prepare = format!("mount -t tmpfs t {0}; echo x >{0}/file", source.display());
    let ran = nested(&fixture, &[], &prepare, &["run", "c"]);
    if std::env::var_os("LODGER_TEST_LOCKED").is_some() {
        assert_no_id_maps(&ran);
        return;
    }
    let out = ran.ok();
    assert!(out.starts_with("x\n"), "{out}");
    assert!(
        has(&mounted(&out, "/mnt/at").unwrap().options, &["idmapped"]),
        "{out}"
    );
    // And what was not is not.
    nested(&fixture, &[], ":", &["run", "c"]).fails(1, "its filesystem was mounted outside");
}

/// A mount, and two beneath it with attributes of their own: made in a user namespace around the runtime.
fn nested_tree(options: Value) -> String {
    let mut fixture = Fixture::with_own_root();
    let source = fixture.path("tree");
    fs::create_dir(&source).unwrap();
    fixture.mount(json!({
        "destination": "/mnt/at", "type": "bind", "source": source, "options": options
    }));
    fixture.args(&["cat", "/proc/self/mountinfo"]);
    let prepare = format!(
        "cd {0}; mount -t tmpfs -o nosuid t {0}; cd {0}; mkdir a b; mount -t tmpfs -o noexec,noatime t a; mkdir a/c; \
         mount -t tmpfs -o ro t a/c; mount -t tmpfs t b; cd {1}",
        source.display(),
        fixture.bundle().display()
    );
    nested(&fixture, &[], &prepare, &["run", "c"]).ok()
}

const TREE: [&str; 4] = ["/mnt/at", "/mnt/at/a", "/mnt/at/a/c", "/mnt/at/b"];

#[test]
fn an_attribute_of_the_tree_is_one_of_every_mount_in_it() {
    lodger_only!("a user namespace around the runtime");
    for (option, seen) in [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnodiratime", "nodiratime"),
        ("rnosymfollow", "nosymfollow"),
        ("rnoatime", "noatime"),
        ("rrelatime", "relatime"),
    ] {
        let out = nested_tree(json!(["rbind", option]));
        for path in TREE {
            let mount = mounted(&out, path).unwrap();
            assert!(has(&mount.options, &[seen]), "{option} {path}: {mount:?}");
        }
    }
    // Without the r, it is only the one mount.
    let out = nested_tree(json!(["rbind", "ro", "nodev"]));
    for path in TREE {
        let mount = mounted(&out, path).unwrap();
        assert_eq!(
            has(&mount.options, &["nodev"]),
            path == TREE[0],
            "{path}: {mount:?}"
        );
    }
}

#[test]
fn an_attribute_is_taken_from_the_tree_where_it_is_the_containers_to_take() {
    lodger_only!("a user namespace around the runtime");
    let out = nested_tree(json!(["rbind", "rrw", "rexec", "rsuid", "rstrictatime"]));
    for path in TREE {
        let mount = mounted(&out, path).unwrap();
        for gone in ["ro", "noexec", "nosuid", "noatime", "relatime"] {
            assert!(!has(&mount.options, &[gone]), "{gone} {path}: {mount:?}");
        }
    }
}

/// What the host has restricted stays so (mount_namespaces(7)): said, and not an error.
#[test]
fn an_attribute_that_the_host_has_locked_stays() {
    lodger_only!("a user namespace around the runtime");
    let mut fixture = in_user_namespace();
    fixture.config["linux"]["uidMappings"] = json!([line(0, 0, 1)]);
    fixture.config["linux"]["gidMappings"] = json!([line(0, 0, 1)]);
    let source = fixture.path("tree");
    fs::create_dir(&source).unwrap();
    fixture.mount(json!({
        "destination": "/mnt/at", "type": "bind", "source": source, "options": ["rbind", "rrw", "rnodev", "rexec"]
    }));
    fixture.args(&["cat", "/proc/self/mountinfo"]);
    let prepare = format!(
        "mount -t tmpfs t {0}; mkdir {0}/a; mount -t tmpfs -o ro t {0}/a",
        source.display()
    );
    let ran = nested(&fixture, &[], &prepare, &["run", "c"]).exits(0);
    let inner = mounted(&ran.out, "/mnt/at/a").unwrap();
    assert!(has(&inner.options, &["ro", "nodev"]), "{inner:?}");
    assert!(
        ran.err
            .contains("note: /mounts/6/options: rw was not applied"),
        "{ran:?}"
    );
    assert!(!ran.err.contains("exec was not applied"), "{ran:?}");
}

#[test]
fn a_mount_that_is_changed_afterwards() {
    let mut fixture = Fixture::with_own_root();
    fixture.mount(json!({
        "destination": "/mnt/at", "type": "tmpfs", "source": "t", "options": ["size=64k", "nosuid"]
    }));
    fixture.mount(json!({
        "destination": "/mnt/at", "type": "tmpfs", "source": "t", "options": ["remount", "nosuid", "ro"]
    }));
    fixture.sh("touch /mnt/at/x 2>/dev/null && echo WRITABLE; cat /proc/self/mountinfo");
    let out = fixture.run().ok();
    let mount = mounted(&out, "/mnt/at").unwrap();
    assert!(
        !out.contains("WRITABLE") && has(&mount.options, &["ro", "nosuid"]),
        "{mount:?}"
    );
    assert_eq!(out.matches(" /mnt/at ").count(), 1, "{out}");
}

#[test]
fn a_filesystem_that_is_changed_afterwards() {
    lodger_only!("the details of remount");
    let mut fixture = Fixture::with_own_root();
    // /dev is read-only only when the devices are in it.
    fixture.mount(json!({"destination": "/dev", "type": "none", "options": ["remount", "ro", "noexec", "size=128k"]}));
    fixture.mount(json!({"destination": "/sys", "type": "none", "options": ["remount", "bind", "rw", "exec"]}));
    fixture.sh("echo x >/dev/null && touch /dev/new 2>/dev/null && echo WRITABLE; cat /proc/self/mountinfo");
    let out = fixture.run().ok();
    let dev = mounted(&out, "/dev").unwrap();
    assert!(
        !out.contains("WRITABLE") && has(&dev.options, &["ro", "nosuid", "noexec"]),
        "{dev:?}"
    );
    assert!(has(&dev.super_options, &["size=128k"]), "{dev:?}");
    let sys = mounted(&out, "/sys").unwrap();
    assert!(
        has(&sys.options, &["rw", "nosuid", "nodev"]) && !has(&sys.options, &["noexec"]),
        "{sys:?}"
    );
}

#[test]
fn a_change_to_what_is_not_mounted() {
    let mut fixture = Fixture::with_own_root();
    fixture.mount(json!({"destination": "/etc", "type": "none", "options": ["remount", "ro"]}));
    let ran = fixture
        .run()
        .fails(1, "cannot mount \"/etc\" (/mounts/6): cannot remount it");
    assert!(
        peer() || ran.err.contains("nothing is mounted there"),
        "{ran:?}"
    );
}

#[test]
fn filesystems_that_a_user_namespace_may_mount() {
    for kind in ["ramfs", "binfmt_misc"] {
        let known = fs::read_to_string("/proc/filesystems").unwrap();
        if !known
            .lines()
            .any(|line| line.ends_with(&format!("\t{kind}")))
        {
            continue;
        }
        let mount = run_with_mount(json!({"type": kind, "source": kind, "options": ["nosuid"]}));
        assert_eq!(mount.fstype, kind);
        assert!(has(&mount.options, &["nosuid"]), "{mount:?}");
    }
}

#[test]
fn filesystems_that_it_may_not_are_told_with_what_to_do() {
    for (kind, why) in [
        ("fuse", "start the server on the host and bind its mount"),
        (
            "fuse.sshfs",
            "start the server on the host and bind its mount",
        ),
        ("bpf", "have it mounted on the host, and bind it"),
        ("ext4", "mount it on the host and bind it"),
        ("no-such-type", "mount it on the host and bind it"),
    ] {
        let mut fixture = Fixture::with_own_root();
        fixture.mount(
            json!({"destination": "/mnt/at", "type": kind, "source": "none", "options": []}),
        );
        let ran = fixture.run().fails(
            1,
            "/mounts/6/type: a user namespace cannot mount the filesystem type",
        );
        assert!(peer() || ran.err.contains(why), "{kind}: {ran:?}");
    }
}

/// As engines ask for them: with a namespace of its own, and without, over the host's /sys.
#[test]
fn control_groups_as_engines_mount_them() {
    peer_differs!(
        "runc",
        "1.1 cannot mount /sys without a network namespace of the container's own"
    );
    let mount = json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["rprivate", "nosuid", "noexec", "nodev", "relatime", "ro"]
    });
    for (namespace, network, fstype) in [
        (true, true, Some("cgroup2")),
        (true, false, Some("cgroup2")),
        (false, true, None),
        (false, false, None),
    ] {
        let mut fixture = Fixture::with_own_root();
        if namespace {
            let namespaces = fixture.config["linux"]["namespaces"]
                .as_array_mut()
                .unwrap();
            namespaces.push(json!({"type": "cgroup"}));
        }
        if !network {
            fixture.without_namespace("network");
        }
        fixture.mount(mount.clone());
        fixture.sh(
            "cat /proc/self/mountinfo; mkdir /sys/fs/cgroup/new 2>/dev/null && echo WRITABLE; true",
        );
        let out = fixture.run().ok();
        let mount = mounted(&out, "/sys/fs/cgroup").unwrap();
        assert!(
            has(&mount.options, &["ro", "nosuid", "noexec", "nodev"]),
            "{mount:?}"
        );
        assert!(!out.contains("WRITABLE"), "{out}");
        if let Some(fstype) = fstype {
            assert_eq!(mount.fstype, fstype, "{out}");
        }
    }
}
