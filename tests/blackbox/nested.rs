//! lodger inside a user namespace that its caller made: there it may meet a host that its caller has prepared, and
//! credentials that a plain session never has.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Fixture, Ran, lodger_only, skip, spawn};

/// Runs lodger in new user and mount namespaces, after `prepare`, a shell script in them; `options` are unshare(1)'s.
pub(crate) fn nested(fixture: &Fixture, options: &[&str], prepare: &str, args: &[&str]) -> Ran {
    fixture.write_config();
    let inner = fixture.command(args);
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args(["--user", "--map-root-user", "--mount"])
        .args(options)
        .args(["/bin/sh", "-ec", &format!("{prepare}\n\"$@\""), "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(fixture.bundle());
    spawn(&mut command, b"").wait()
}

/// Whether unshare(1) can map the subordinate ids too (util-linux 2.38).
pub(crate) fn maps_all() -> bool {
    let mut command = Command::new("/usr/bin/unshare");
    command.args(["--map-root-user", "--map-auto", "/bin/true"]);
    spawn(&mut command, b"").wait().code == 0
}

/// A bundle whose /dev is the host's: then only the masks need the host's /dev/null.
pub(crate) fn on_host_dev() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    let mounts = fixture.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    fixture.mount(
        json!({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}),
    );
    fixture.sh("echo ran");
    fixture
}

/// CVE-2025-31133: masks and devices are made from nodes of the host, which must be what they are taken for.
#[test]
fn a_device_of_the_host_that_is_something_else_is_refused() {
    lodger_only!("a user namespace around the runtime");
    let plain = || {
        let mut fixture = Fixture::with_own_root();
        fixture.sh("echo ran");
        fixture
    };
    for make in [plain, on_host_dev] {
        assert_eq!(nested(&make(), &[], ":", &["run", "c"]).ok(), "ran\n");
        for other in ["/etc/hostname", "/dev/zero"] {
            let prepare = format!("mount --bind {other} /dev/null");
            nested(&make(), &[], &prepare, &["run", "c"])
                .fails(1, "cannot use the host's /dev/null");
        }
    }
    nested(
        &plain(),
        &[],
        "mount --bind /dev/null /dev/zero",
        &["run", "c"],
    )
    .fails(1, "cannot use the host's /dev/zero");
}

/// The callers of most tests have no groups but their own, so that only here it is seen that groups are given up.
#[test]
fn supplementary_groups_are_exactly_those_of_the_config() {
    lodger_only!("a user namespace around the runtime");
    if !maps_all() {
        skip!("unshare(1) has no --map-auto, or there are no subordinate ids");
    }
    let options = ["--map-auto", "setpriv", "--groups", "5,7"];
    for user_namespace in [false, true] {
        for (asked, seen) in [(json!(null), ""), (json!([]), ""), (json!([9]), "9")] {
            let mut fixture = Fixture::with_own_root();
            if user_namespace {
                let namespaces = fixture.config["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap();
                namespaces.push(json!({"type": "user"}));
            }
            if !asked.is_null() {
                fixture.config["process"]["user"]["additionalGids"] = asked.clone();
            }
            fixture.sh("grep Groups: /proc/self/status");
            let out = nested(
                &fixture,
                &options,
                "test \"$(id -G)\" = '0 5 7'",
                &["run", "c"],
            )
            .ok();
            let groups = out.trim_start_matches("Groups:").trim();
            assert_eq!(groups, seen, "{asked} {user_namespace}");
        }
    }
}

#[test]
fn ambient_capabilities_of_the_caller_stay_outside() {
    lodger_only!("a user namespace around the runtime");
    let mut fixture = Fixture::with_own_root();
    let raw = json!(["CAP_NET_RAW"]);
    fixture.config["process"]["capabilities"] =
        json!({"bounding": raw, "permitted": raw, "inheritable": raw, "effective": raw});
    fixture.sh("grep Cap /proc/self/status");
    let options = ["setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"];
    let prepare = "grep -q 'CapAmb:.*2000$' /proc/self/status";
    let out = nested(&fixture, &options, prepare, &["run", "c"]).ok();
    assert!(out.contains("CapInh:\t0000000000002000"), "{out}");
    assert!(out.contains("CapAmb:\t0000000000000000"), "{out}");
}

#[test]
fn no_mount_of_the_container_reaches_the_callers_namespace() {
    lodger_only!("a user namespace around the runtime");
    let mut fixture = Fixture::with_own_root();
    fixture.sh("echo ran");
    fixture.write_config();
    let inner = fixture.command(&["run", "c"]);
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "--propagation", "shared"])
        .args(["/bin/sh", "-c", "cut -d' ' -f5 /proc/self/mountinfo >\"$0\"; \"$@\"; cut -d' ' -f5 /proc/self/mountinfo"])
        .arg(fixture.path("before"))
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(fixture.bundle());
    let out = spawn(&mut command, b"").wait().ok();
    let before = fs::read_to_string(fixture.path("before")).unwrap();
    assert_eq!(out, format!("ran\n{before}"));
}

/// Somebody else made the directory in /tmp first.
#[test]
fn a_state_directory_of_another_user_is_refused() {
    lodger_only!("the checks of the state directory");
    if !maps_all() {
        skip!("unshare(1) has no --map-auto, or there are no subordinate ids");
    }
    let uid = rustix::process::getuid().as_raw();
    let prepare = format!(
        "unset XDG_RUNTIME_DIR; mount -t tmpfs none /run; mount -t tmpfs none /tmp; \
         mkdir -m 700 /tmp/lodger-{uid}; chown 5:5 /tmp/lodger-{uid}"
    );
    let fixture = Fixture::with_own_root();
    fixture.write_config();
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args(["--user", "--map-root-user", "--map-auto", "--mount"])
        .args(["/bin/sh", "-ec", &format!("{prepare}\nexec \"$@\""), "sh"])
        .arg(crate::harness::runtime_binary())
        .args(["run", "c"])
        .current_dir(fixture.bundle());
    let ran = spawn(&mut command, b"").wait();
    if ran.err.contains("not found") {
        skip!("the runtime lies in /tmp or /run");
    }
    ran.fails(1, "it belongs to uid 5, not to 0");
}

/// `state` of a nested run is the caller's: nothing is left behind for her to clean up.
#[test]
fn a_nested_run_leaves_no_state() {
    lodger_only!("a user namespace around the runtime");
    let mut fixture = Fixture::with_own_root();
    fixture.sh("exit 4");
    nested(&fixture, &[], ":", &["run", "c"]).exits(4);
    let list: Value = serde_json::from_str(&fixture.bare(&["list", "-f", "json"]).ok()).unwrap();
    assert_eq!(list, json!([]));
}

/// As in a container with masks: the kernel refuses a new procfs or sysfs to a user namespace that sees none whole.
#[test]
fn the_mounts_that_forbid_a_new_procfs_or_sysfs_are_named() {
    lodger_only!("the hint of the error");
    let own_user_namespace = || {
        let mut fixture = Fixture::with_own_root();
        let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
        namespaces.unwrap().push(json!({"type": "user"}));
        fixture.sh("echo ran");
        fixture
    };
    let run = |fixture: &Fixture, prepare| nested(fixture, &[], prepare, &["run", "c"]);
    assert_eq!(run(&own_user_namespace(), ":").ok(), "ran\n");
    let masked = "mount --bind /dev/null /proc/version; mount -t tmpfs none /proc/bus";
    let covered = run(&own_user_namespace(), masked);
    let named = "this host's is covered by mounts on \"/proc/bus\", \"/proc/version\"; have";
    let covered = covered.fails(1, named);
    assert!(
        covered.err.contains("  code: LDG-PROC-MASKED\n"),
        "{covered:#?}"
    );
    assert!(covered.err.contains("--proc=auto"), "{covered:#?}");
    // A directory that is there to be mounted on hides nothing.
    if fs::exists("/proc/sys/fs/binfmt_misc").unwrap() {
        let prepare = "mount -t tmpfs none /proc/sys/fs/binfmt_misc";
        assert_eq!(run(&own_user_namespace(), prepare).ok(), "ran\n");
    }
}

/// The host's own, and not to be written to, stands in for a sysfs that shows too much; with its masks.
#[test]
fn the_hosts_sys_stands_in_where_it_is_masked() {
    lodger_only!("a user namespace around the runtime");
    let mut fixture = Fixture::with_own_root();
    let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
    namespaces.unwrap().push(json!({"type": "user"}));
    fixture.unmount("/sys").unmount("/sys/fs/cgroup");
    let options = json!(["nosuid", "noexec"]);
    fixture.mount(
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": options}),
    );
    fixture.sh("ls -A /sys/kernel; touch /sys/fs/x; while read -r a b c d e f g; do case $e in /sys | /sys/kernel) echo \"$e $f\" ;; esac; done </proc/self/mountinfo");
    let masked = "mount -t tmpfs none /sys/kernel";
    let ran = nested(&fixture, &[], masked, &["run", "c"]).exits(0);
    for (line, path) in ran.out.lines().zip(["/sys ", "/sys/kernel "]) {
        let flags = line.strip_prefix(path);
        let flags = flags.unwrap_or_else(|| panic!("{ran:#?}"));
        assert!(flags.starts_with("ro,nosuid"), "{ran:#?}");
        assert!(flags.contains("noexec"), "{ran:#?}");
    }
    assert_eq!(ran.out.lines().count(), 2, "{ran:#?}");
    assert!(ran.err.contains("Read-only file system"), "{ran:#?}");
    let said = "covered by mounts on \"/sys/kernel\". It shows the host's network devices";
    assert!(ran.err.contains(said), "{ran:#?}");
    assert!(ran.err.contains("  code: LDG-SYS-MASKED\n"), "{ran:#?}");
}

#[test]
fn a_new_sysfs_is_had_where_the_hosts_is_read_only() {
    lodger_only!("a user namespace around the runtime");
    for (options, works) in [(json!(["ro", "nosuid"]), true), (json!(["nosuid"]), false)] {
        let mut fixture = Fixture::with_own_root();
        let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
        namespaces.unwrap().push(json!({"type": "user"}));
        fixture.unmount("/sys").unmount("/sys/fs/cgroup");
        fixture.mount(
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": options}),
        );
        fixture.sh("echo ran");
        let ran = nested(
            &fixture,
            &[],
            "mount -o remount,bind,ro /sys",
            &["run", "c"],
        );
        if works {
            assert_eq!(ran.ok(), "ran\n");
        } else {
            ran.fails(1, "this host's is read-only; add \"ro\"");
        }
    }
}
