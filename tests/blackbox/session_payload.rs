//! systemd as the payload of a container: Debian's, with the units that Debian starts.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::base::subordinate_range;
use crate::harness::{Fixture, Running, peer_differs, spawn, wait_for};

/// What the packages systemd and dbus enable, for a guest does without most of it.
const WANTED: &[(&str, &str)] = &[
    (
        "multi-user.target",
        "dbus.service getty.target systemd-ask-password-wall.path systemd-logind.service systemd-user-sessions.service \
         systemd-update-utmp-runlevel.service",
    ),
    ("getty.target", "getty-static.service console-getty.service"),
    (
        "sockets.target",
        "dbus.socket systemd-initctl.socket systemd-journald-audit.socket systemd-journald-dev-log.socket systemd-journald.socket",
    ),
    (
        "sysinit.target",
        "cryptsetup.target dev-hugepages.mount dev-mqueue.mount kmod-static-nodes.service proc-sys-fs-binfmt_misc.automount \
         sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
         systemd-ask-password-console.path systemd-binfmt.service systemd-firstboot.service systemd-journal-flush.service \
         systemd-journald.service systemd-machine-id-commit.service systemd-modules-load.service systemd-random-seed.service \
         systemd-repart.service systemd-sysctl.service systemd-sysusers.service systemd-tmpfiles-setup-dev.service \
         systemd-tmpfiles-setup.service systemd-update-utmp.service",
    ),
    ("timers.target", "systemd-tmpfiles-clean.timer"),
];

/// What a systemd can make use of in a user namespace.
const CAPABILITIES: &str = "AUDIT_CONTROL AUDIT_WRITE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE \
     MKNOD NET_ADMIN NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_NICE SYS_PTRACE \
     SYS_RESOURCE SYS_TTY_CONFIG";

/// A root filesystem with the guest's own /usr, and a copy of what she can read of its /etc.
fn root_filesystem(root: &Path) {
    for name in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"] {
        let _there = fs::remove_dir_all(root.join(name));
    }
    for name in ["dev", "home", "proc", "root", "run", "sys", "tmp", "usr"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    for name in ["cache", "lib", "log", "tmp"] {
        fs::create_dir_all(root.join("var").join(name)).unwrap();
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    let mut copy = Command::new("cp");
    copy.args(["-r", "/etc"]).arg(root);
    // Some files are for root alone.
    let copied = spawn(&mut copy, b"").wait();
    assert!(root.join("etc/dbus-1").exists(), "{copied:#?}");
    let units = root.join("etc/systemd/system");
    fs::remove_dir_all(&units).unwrap();
    fs::create_dir(&units).unwrap();
    for (target, wanted) in WANTED {
        let directory = units.join(format!("{target}.wants"));
        fs::create_dir(&directory).unwrap();
        for unit in wanted.split_whitespace() {
            let file = Path::new("/usr/lib/systemd/system").join(unit);
            assert!(file.exists(), "no {unit}");
            symlink(file, directory.join(unit)).unwrap();
        }
    }
    fs::write(root.join("etc/machine-id"), "").unwrap();
}

/// The config of a container that boots, in a cgroup that it may divide.
fn booting(name: &str) -> Fixture {
    let mut fixture = Fixture::with_own_root();
    root_filesystem(&fixture.rootfs());
    // The tests share one manager.
    fixture.config["linux"]["cgroupsPath"] = json!(format!("user.slice:payload:{name}"));
    fixture.args(&["/sbin/init"]);
    let process = &mut fixture.config["process"];
    process["env"]
        .as_array_mut()
        .unwrap()
        .push(json!("container=oci"));
    process["noNewPrivileges"] = json!(false);
    let names: Vec<_> = CAPABILITIES
        .split_whitespace()
        .map(|name| format!("CAP_{name}"))
        .collect();
    process["capabilities"] = json!({"bounding": names, "effective": names, "permitted": names});
    let namespaces = fixture.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap();
    namespaces.push(json!({"type": "cgroup"}));
    let mounts: [(&str, &str, &str, Value); 5] = [
        ("/usr", "bind", "/usr", json!(["bind", "ro"])),
        (
            "/sys/fs/cgroup",
            "cgroup2",
            "cgroup",
            json!(["nosuid", "noexec", "nodev"]),
        ),
        (
            "/run",
            "tmpfs",
            "tmpfs",
            json!(["nosuid", "nodev", "mode=755"]),
        ),
        (
            "/run/lock",
            "tmpfs",
            "tmpfs",
            json!(["nosuid", "nodev", "noexec"]),
        ),
        (
            "/tmp",
            "tmpfs",
            "tmpfs",
            json!(["nosuid", "nodev", "mode=1777"]),
        ),
    ];
    for (destination, kind, source, options) in mounts {
        fixture.mount(
            json!({"destination": destination, "type": kind, "source": source, "options": options}),
        );
    }
    fixture
}

/// Runs it until it has booted: to `running`, without a unit that has failed.
fn boots(fixture: &Fixture) -> Running {
    let runtime: &[&str] = match crate::harness::peer() {
        true => &["--systemd-cgroup", "run", "c"],
        false => &["run", "c"],
    };
    fixture.write_config();
    let running = fixture.background(runtime, b"");
    let said = wait_for("the bus of the container", || {
        let asked = fixture.bare(&["exec", "c", "systemctl", "is-system-running", "--wait"]);
        (!asked.out.is_empty() && asked.out != "offline\n").then_some(asked.out)
    });
    let failed = fixture.bare(&["exec", "c", "systemctl", "--failed", "--no-legend"]);
    assert_eq!(said, "running\n", "{failed:#?}");
    assert_eq!(failed.ok(), "");
    running
}

/// The directories of the container's cgroup, and the ids that they belong to.
fn cgroups(top: &str) -> Vec<(String, u32)> {
    let mut open = vec![format!("/sys/fs/cgroup{top}")];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        let Ok(entries) = fs::read_dir(&path) else {
            continue;
        };
        found.push((path.clone(), fs::metadata(&path).map_or(0, |m| m.uid())));
        for entry in entries.filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

fn top(fixture: &Fixture) -> String {
    let state = fixture.state("c");
    state["cgroup"]["top"].as_str().unwrap().to_owned()
}

/// A service of the container's that divides its cgroup further, as another user.
fn divides(fixture: &Fixture) {
    let script =
        "mkdir /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/further && exec sleep 600";
    fixture
        .bare(&[
            "exec",
            "c",
            "systemd-run",
            "--quiet",
            "--unit=divides",
            "-p",
            "User=daemon",
            "-p",
            "Delegate=yes",
            "sh",
            "-c",
            script,
        ])
        .ok();
}

/// Whether the owner `uid` on the host has the cgroup that the service made.
fn has_divided(top: &str, uid: u32) {
    wait_for("a cgroup of the service's own", || {
        let found = cgroups(top);
        found
            .iter()
            .any(|(path, owner)| path.ends_with("/divides.service/further") && *owner == uid)
            .then_some(())
    });
}

#[test]
fn systemd_boots_and_halts() {
    peer_differs!("crun", "1.8.1 tells no cgroup in its state");
    peer_differs!("runc", "1.1 tells no cgroup in its state");
    let fixture = booting("halts");
    let running = boots(&fixture);
    let top = top(&fixture);
    let exec = |args: &[&str]| fixture.bare(&[&["exec", "c"], args].concat());
    assert_eq!(
        exec(&[
            "systemctl",
            "is-active",
            "systemd-journald",
            "dbus",
            "systemd-logind"
        ])
        .ok(),
        "active\n".repeat(3)
    );
    assert_eq!(exec(&["systemd-detect-virt", "--container"]).code, 0);
    // Each of its services has a cgroup, and what is in them is the container's.
    let listed = fixture.bare(&["ps", "c"]).ok();
    for program in [
        "/sbin/init",
        "systemd-journald",
        "dbus-daemon",
        "systemd-logind",
    ] {
        assert!(listed.contains(program), "no {program} in {listed}");
    }
    // Whoever writes it does so in her own time.
    wait_for("the journal to have it", || {
        let journal = exec(&["journalctl", "--output=cat"]).ok();
        let reached = journal.contains("Reached target multi-user.target");
        reached.then_some(())
    });
    fixture.bare(&["pause", "c"]).ok();
    assert_eq!(fixture.status("c"), "paused");
    fixture.bare(&["resume", "c"]).ok();
    let (own, first) = (
        rustix::process::getuid().as_raw(),
        subordinate_range("/etc/subuid").unwrap().0,
    );
    divides(&fixture);
    has_divided(&top, first); // daemon is 1
    assert!(
        cgroups(&top)
            .iter()
            .any(|(path, owner)| path.ends_with("/container/system.slice") && *owner == own)
    );

    // As systemd's container interface has it: the signal for halt.target.
    fixture.bare(&["kill", "c", "SIGRTMIN+3"]).ok();
    running.wait();
    assert_eq!(cgroups(&top), []);
}

/// All that it has made is removed when it has had no time to do so itself.
#[test]
fn a_subtree_of_other_ids_is_deleted() {
    peer_differs!("crun", "1.8.1 tells no cgroup in its state");
    peer_differs!("runc", "1.1 tells no cgroup in its state");
    let fixture = booting("deleted");
    fixture.runtime(&["run", "-d", "c"]).ok();
    let top = top(&fixture);
    let first = subordinate_range("/etc/subuid").unwrap().0;
    wait_for("a manager that answers", || {
        let asked = fixture.bare(&["exec", "c", "systemctl", "is-system-running", "--wait"]);
        (asked.out == "running\n").then_some(())
    });
    divides(&fixture);
    has_divided(&top, first);
    fixture.bare(&["delete", "--force", "c"]).ok();
    assert_eq!(cgroups(&top), []);
    let units = spawn(
        Command::new("systemctl").args([
            "--user",
            "--all",
            "--no-legend",
            "list-units",
            "payload-deleted.scope",
        ]),
        b"",
    )
    .wait();
    assert_eq!(units.ok(), "");
}

/// A root of the container that is nobody on the host: the cgroup is given to it.
#[test]
fn systemd_boots_as_a_subordinate_id() {
    peer_differs!("crun", "1.8.1 tells no cgroup in its state");
    peer_differs!("runc", "1.1 tells no cgroup in its state");
    let mut fixture = booting("subordinate");
    let (first, count) = subordinate_range("/etc/subuid").unwrap();
    let maps = json!([{"containerID": 0, "hostID": first, "size": count}]);
    fixture.config["linux"]["uidMappings"] = maps.clone();
    fixture.config["linux"]["gidMappings"] = maps;
    let namespaces = fixture.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap();
    namespaces.push(json!({"type": "user"}));
    // Given away in a user namespace where the caller is 0, and the ids are those that come after.
    let given = |owner: &str| {
        let mut chown = Command::new("unshare");
        chown.args([
            "--user",
            "--map-root-user",
            "--map-auto",
            "chown",
            "-R",
            "--no-dereference",
            owner,
        ]);
        chown.arg(fixture.rootfs());
        spawn(&mut chown, b"").wait().ok();
    };
    for path in [fixture.path(""), fixture.bundle()] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path, mode).unwrap();
    }
    given("1:1");
    let running = boots(&fixture);
    let top = top(&fixture);
    let owners = cgroups(&top);
    let of = |end: &str| {
        owners
            .iter()
            .find(|(path, _)| path.ends_with(end))
            .map(|(_, owner)| *owner)
    };
    assert_eq!(of("/container"), Some(first), "{owners:?}");
    assert_eq!(of("/container/system.slice"), Some(first), "{owners:?}");
    // Not what limits it.
    let container = format!("/sys/fs/cgroup{top}/container");
    assert_ne!(
        fs::metadata(format!("{container}/cgroup.freeze"))
            .unwrap()
            .uid(),
        first
    );
    assert_eq!(of(&top), Some(rustix::process::getuid().as_raw()));
    fixture.bare(&["delete", "--force", "c"]).ok();
    running.wait();
    assert_eq!(cgroups(&top), []);
    given("0:0");
}
