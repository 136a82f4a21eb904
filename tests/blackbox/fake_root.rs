//! `--fake-root=ignore`: chown and its like succeed without effect.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, skip, spawn};

const NOTE: &str = "succeed without effect";

/// Gives a file away, gives up its groups, makes a device, and says whose the file is.
const SCRIPT: &str = "busybox touch /tmp/f && busybox chown 5:6 /tmp/f && busybox mknod /tmp/n c 1 3 && \
     busybox stat -c %u:%g /tmp/f && ls /tmp";

fn fixture() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER"
    ]);
    for set in ["bounding", "effective", "permitted"] {
        fixture.config["process"]["capabilities"][set] = capabilities.clone();
    }
    fixture
}

#[test]
fn owners_and_devices_are_feigned_and_said() {
    lodger_only!("--fake-root");
    for (option, privileges) in [
        (Some("--single-id"), true),
        (Some("--single-id"), false),
        (None, true),
    ] {
        let mut fixture = fixture();
        fixture.sh(SCRIPT);
        fixture.config["process"]["noNewPrivileges"] = json!(!privileges);
        let mut args = vec!["run", "--fake-root=ignore"];
        args.extend(option);
        args.push("c");
        let ran = fixture.runtime(&args).exits(0);
        // The file is root's still, and the device is not there.
        assert_eq!(ran.out, "0:0\nf\n");
        assert!(ran.err.contains(NOTE), "{ran:#?}");
        let not_needed = ran.err.contains("which is not needed");
        assert_eq!(not_needed, option.is_none(), "{ran:#?}");
    }
}

#[test]
fn without_it_the_kernel_decides() {
    lodger_only!("--fake-root");
    for option in [None, Some("--fake-root=none")] {
        let mut fixture = fixture();
        fixture.sh(SCRIPT);
        let args: Vec<&str> = ["run", "--single-id"]
            .into_iter()
            .chain(option)
            .chain(["c"])
            .collect();
        let ran = fixture.runtime(&args).exits(1);
        assert!(
            ran.err.contains("chown: /tmp/f: Invalid argument"),
            "{ran:#?}"
        );
        assert!(!ran.err.contains(NOTE), "{ran:#?}");
    }
}

#[test]
fn processes_that_join_have_it_and_state_and_plan_show_it() {
    lodger_only!("--fake-root");
    let mut fixture = fixture();
    fixture.args(&["/bin/sleep", "600"]);
    fixture
        .runtime(&["run", "-d", "--single-id", "--fake-root=ignore", "c"])
        .ok();
    let out = fixture.bare(&["exec", "c", "/bin/sh", "-c", SCRIPT]).ok();
    assert_eq!(out, "0:0\nf\n");
    assert_eq!(fixture.state("c")["fakeRoot"], "ignore");
    fixture
        .bare(&["exec", "--fake-root=ignore", "c", "true"])
        .ok();
    fixture
        .bare(&["exec", "--fake-root=none", "c", "true"])
        .fails(255, "cannot do what --fake-root asks for");
    let plan: Value =
        serde_json::from_str(&fixture.bare(&["plan", "--fake-root=ignore"]).ok()).unwrap();
    assert_eq!(plan["fake_root"], "ignore");
    fixture.runtime(&["run", "-d", "d"]).ok();
    assert_eq!(fixture.state("d").get("fakeRoot"), None);
}

/// What the config forbids stays forbidden, with its own errno; what it does not speak of is feigned.
#[test]
fn the_stricter_filter_counts() {
    lodger_only!("--fake-root");
    let profile = |action: Value| {
        let mut call = json!({"names": ["chown", "fchownat", "lchown"]});
        call.as_object_mut()
            .unwrap()
            .extend(action.as_object().unwrap().clone());
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]})
    };
    for (action, code, said) in [
        (
            json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 95}),
            1,
            "not supported",
        ),
        (json!({"action": "SCMP_ACT_KILL_PROCESS"}), 128 + 31, ""),
        (json!({"action": "SCMP_ACT_LOG"}), 0, ""),
    ] {
        for no_new_privileges in [true, false] {
            let mut fixture = fixture();
            // The device first: no rule is for it.
            fixture
                .sh("busybox mknod /tmp/n c 1 3 && busybox touch /tmp/f && busybox chown 5 /tmp/f");
            fixture.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            fixture.config["linux"]["seccomp"] = profile(action.clone());
            let ran = fixture.runtime(&["run", "--single-id", "--fake-root=ignore", "c"]);
            assert!(!ran.err.contains("mknod: "), "{ran:#?}");
            assert!(ran.err.contains(said), "{action} {ran:#?}");
            ran.exits(code);
        }
    }
}

/// The root filesystem of the tests, copied, if it is a Debian.
fn debian(fixture: &mut Fixture) -> Option<()> {
    let rootfs = PathBuf::from(std::env::var_os("LODGER_TEST_ROOTFS")?);
    if !rootfs.join("usr/bin/dpkg-deb").exists() {
        return None;
    }
    let copy = fixture.path("debian");
    let mut command = Command::new("cp");
    command
        .args(["-a", "--reflink=auto"])
        .arg(rootfs)
        .arg(&copy);
    spawn(&mut command, b"").wait().ok();
    fixture.config["root"] = json!({"path": copy.to_str().unwrap(), "readonly": false});
    Some(())
}

#[test]
fn a_package_that_gives_files_away_is_installed() {
    lodger_only!("--fake-root");
    let mut fixture = fixture();
    if debian(&mut fixture).is_none() {
        skip!("there is no Debian root filesystem");
    }
    // dpkg wants the tar archive's owners, the maintainer's script wants another's.
    fixture.args(&[
        "/bin/sh",
        "-euc",
        "cd /tmp; mkdir -p p/DEBIAN p/srv; echo x >p/srv/f
        printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: t <t@t>\\nDescription: t\\n' >p/DEBIAN/control
        printf '#!/bin/sh\\nset -e\\nchown www-data:www-data /srv/f\\nsetpriv --reuid 33 --regid 33 --clear-groups true\\n' >p/DEBIAN/postinst
        chmod 755 p/DEBIAN/postinst
        dpkg-deb --build p >/dev/null
        dpkg --install p.deb
        dpkg-query --show p
        stat --format %U /srv/f",
    ]);
    let ran = fixture.runtime(&["run", "--single-id", "c"]).exits(1);
    assert!(
        ran.err.contains("chown: changing ownership of '/srv/f'"),
        "{ran:#?}"
    );
    let ran = fixture
        .runtime(&["run", "--single-id", "--fake-root=ignore", "c"])
        .exits(0);
    assert!(ran.out.ends_with("p\t1\nroot\n"), "{ran:#?}");
    assert!(Path::new(&fixture.path("debian/srv/f")).exists());
}
