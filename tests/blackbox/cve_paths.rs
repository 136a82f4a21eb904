//! Attacks by way of paths: what a hostile root filesystem has in place of a directory, a file or a device.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::harness::{Fixture, Ran, lodger_only};
use crate::nested::{nested, on_host_dev};
use crate::weak::{Outcome, held_by, off};

/// The names in a directory of the host.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Puts a symbolic link to `target` in place of an empty directory of the root filesystem.
fn link_in_place(fixture: &Fixture, name: &str, target: impl AsRef<Path>) {
    fs::remove_dir(fixture.rootfs().join(name)).unwrap();
    symlink(target, fixture.rootfs().join(name)).unwrap();
}

fn without_dev(fixture: &mut Fixture) {
    let mounts = fixture.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
}

/// The container ran although it should have been refused.
fn ran_anyway(ran: &Ran, text: &str) -> Outcome {
    assert!(
        off().is_some() || ran.code == 0 || ran.err.contains(text),
        "no {text:?} in {ran:?}"
    );
    Outcome::of(
        ran.out.contains("ran").then(|| format!("it ran: {ran:?}")),
        ran.err.clone(),
    )
}

/// What a link points to is there, and inside: only refusing links altogether helps.
fn linked_inside(name: &str, target: &str) {
    held_by(&["RefuseLinks"], || {
        let mut fixture = Fixture::with_own_root();
        fs::create_dir(fixture.rootfs().join("target")).unwrap();
        link_in_place(&fixture, name, target);
        fixture.sh("echo ran");
        let ran = fixture.run();
        if off().is_none() {
            assert_eq!(names(&fixture.rootfs().join("target")), [""; 0], "{ran:?}");
        }
        ran_anyway(&ran, "symbolic link")
    });
}

#[test]
fn cve_2025_54867_proc_symlink_abs_and_rel() {
    lodger_only!("switching defences off");
    linked_inside("proc", "/target");
    linked_inside("proc", "target");
}

#[test]
fn cve_2025_54867_sys_symlink_abs_and_rel() {
    lodger_only!("switching defences off");
    linked_inside("sys", "/target");
    linked_inside("sys", "target");
}

#[test]
fn cve_2026_41579_dev_symlink_abs_and_rel() {
    lodger_only!("switching defences off");
    linked_inside("dev", "/target");
    linked_inside("dev", "target");
}

#[test]
fn cve_2026_47766_dev_symlink_without_a_mount() {
    lodger_only!("switching defences off");
    for target in ["/target", "target"] {
        held_by(&["RefuseLinks"], || {
            let mut fixture = Fixture::with_own_root();
            fs::create_dir(fixture.rootfs().join("target")).unwrap();
            link_in_place(&fixture, "dev", target);
            without_dev(&mut fixture);
            fixture.sh("echo ran");
            let ran = fixture.run();
            assert!(off().is_some() || ran.err.contains("ELOOP"), "{ran:?}");
            let made = names(&fixture.rootfs().join("target"));
            Outcome::of((!made.is_empty()).then(|| made.join(" ")), ran.err)
        });
    }
}

/// The link leads into a filesystem that the config mounts first, where nothing was expected to go.
#[test]
fn cve_2026_41579_symlink_to_a_tmpfs_mount() {
    lodger_only!("switching defences off");
    for name in ["proc", "sys", "dev"] {
        held_by(&["RefuseLinks"], || {
            let mut fixture = Fixture::with_own_root();
            link_in_place(&fixture, name, "/tmp");
            let mounts = fixture.config["mounts"].as_array_mut().unwrap();
            mounts.insert(
                0,
                json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}),
            );
            fixture.sh("echo ran");
            ran_anyway(&fixture.run(), "symbolic link")
        });
    }
}

/// The link leads to a directory of the host, where lodger would make its mount points, nodes and links.
#[test]
fn cve_2026_41579_dev_symlink_to_the_host() {
    lodger_only!("switching defences off");
    for mounted in [true, false] {
        held_by(&["RefuseLinks", "ResolveInRoot"], || {
            let mut fixture = Fixture::with_own_root();
            let target = fixture.path("host-target");
            fs::create_dir(&target).unwrap();
            link_in_place(&fixture, "dev", &target);
            if mounted {
                fixture.unmount("/dev");
            } else {
                without_dev(&mut fixture);
            }
            fixture.sh("echo ran");
            let ran = fixture.run();
            let made = names(&target);
            assert!(off().is_some() || ran.code != 0, "{ran:?}");
            Outcome::of((!made.is_empty()).then(|| made.join(" ")), ran.err)
        });
    }
}

#[test]
fn cve_2023_27561_proc_symlink_to_the_host() {
    lodger_only!("switching defences off");
    for name in ["proc", "sys"] {
        held_by(&["RefuseLinks", "ResolveInRoot"], || {
            let mut fixture = Fixture::with_own_root();
            let target = fixture.path("host-target");
            fs::create_dir(&target).unwrap();
            link_in_place(&fixture, name, &target);
            fixture.sh("echo ran");
            ran_anyway(&fixture.run(), "symbolic link")
        });
    }
}

/// The node is put over whatever the link leads to.
#[test]
fn cve_2026_47766_symlink_in_place_of_a_device() {
    lodger_only!("switching defences off");
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        held_by(&["RefuseLinks"], || {
            let mut fixture = Fixture::with_own_root();
            without_dev(&mut fixture);
            symlink("/etc/passwd", fixture.rootfs().join("dev").join(device)).unwrap();
            fixture.sh("test -f /etc/passwd || echo covered");
            let ran = fixture.run();
            assert!(off().is_some() || ran.err.contains("ELOOP"), "{ran:?}");
            Outcome::of(
                ran.out.contains("covered").then(|| ran.out.clone()),
                ran.err,
            )
        });
    }
}

/// `..` and links on the way to a mount point, to a directory of the host.
#[test]
fn cve_2015_3627_mount_dest_dotdot_and_parent_symlink() {
    lodger_only!("switching defences off");
    for destination in ["/link/made", "/up/outside/made", "/link/a/b/made"] {
        held_by(&["ResolveInRoot"], || {
            let mut fixture = Fixture::with_own_root();
            let outside = fixture.path("outside");
            fs::create_dir(&outside).unwrap();
            symlink(&outside, fixture.rootfs().join("link")).unwrap();
            symlink("../..", fixture.rootfs().join("up")).unwrap();
            fixture.mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
            // Refused or made inside: both keep the host as it is.
            let ran = fixture.run();
            let made = names(&outside);
            Outcome::of((!made.is_empty()).then(|| made.join(" ")), ran.err)
        });
    }
}

#[test]
fn mount_dest_dotdot_in_the_config_stays_in_the_root() {
    let mut fixture = Fixture::with_own_root();
    fixture.mount(json!({"destination": "/../../made", "type": "tmpfs", "source": "tmpfs"}));
    let _ = fixture.run();
    assert!(!Path::new("/made").exists() && !fixture.path("made").exists());
}

/// A mount point that is a link to nothing yet: made where it leads, it would be a file of the host.
#[test]
fn cve_2024_45310_mount_dangling_symlink() {
    lodger_only!("switching defences off");
    held_by(&["ResolveOnce"], || {
        let mut fixture = Fixture::with_own_root();
        let outside = fixture.path("outside");
        fs::create_dir(&outside).unwrap();
        symlink(outside.join("new"), fixture.rootfs().join("way")).unwrap();
        fixture.mount(json!({"destination": "/way", "type": "bind", "source": "/etc/hostname", "options": ["bind"]}));
        let ran = fixture.run();
        assert!(
            off().is_some() || ran.err.contains("cannot prepare the destination"),
            "{ran:?}"
        );
        let made = names(&outside);
        Outcome::of((!made.is_empty()).then(|| made.join(" ")), ran.err)
    });
}

/// A working directory that is missing is made: in the container, wherever a link of the image leads.
#[test]
fn cve_2026_55686_cwd_symlink_makes_no_directory_of_the_host() {
    lodger_only!("switching defences off");
    held_by(&["ResolveInRoot"], || {
        let mut fixture = Fixture::with_own_root();
        let outside = fixture.path("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, fixture.rootfs().join("way")).unwrap();
        fixture.config["process"]["cwd"] = "/way/made".into();
        let ran = fixture.run();
        let made = names(&outside);
        Outcome::of((!made.is_empty()).then(|| made.join(" ")), ran.err)
    });
}

/// What is mounted over a file of procfs feigns what the kernel says.
#[test]
fn cve_2019_16884_proc_mount_inside() {
    lodger_only!("switching defences off");
    let direct = |destination: &str| {
        let mut fixture = Fixture::with_own_root();
        let fake = fixture.path("fake");
        fs::write(&fake, "feigned ran\n").unwrap();
        symlink("/proc/uptime", fixture.rootfs().join("way")).unwrap();
        fixture.mount(json!({"destination": destination, "type": "bind", "source": fake, "options": ["bind"]}));
        fixture.sh("cat /proc/version /proc/uptime /proc/sys/kernel/pid_max");
        let ran = fixture.run();
        let refused = ["lies in procfs", "nothing may be mounted inside /proc"];
        assert!(
            off().is_some() || refused.iter().any(|text| ran.err.contains(text)),
            "{ran:?}"
        );
        Outcome::of(
            ran.out.contains("feigned").then(|| ran.out.clone()),
            ran.err,
        )
    };
    for destination in ["/way", "/proc/version", "/proc/sys/kernel/pid_max"] {
        held_by(&["RefuseProcfs"], || direct(destination));
    }
}

#[test]
fn cve_2019_16884_proc_fake_tmpfs() {
    lodger_only!("switching defences off");
    for fake in ["tmpfs", "bind"] {
        held_by(&["RefuseProcfs"], || {
            let mut fixture = Fixture::with_own_root();
            let source = fixture.path("fake");
            fs::create_dir(&source).unwrap();
            fixture.unmount("/proc").mount(
                json!({"destination": "/proc", "type": fake, "source": source, "options": []}),
            );
            fixture.sh("echo ran");
            ran_anyway(&fixture.run(), "only procfs may be mounted on /proc")
        });
    }
}

/// The write of a kernel parameter ends in a file of the attacker's choice.
#[test]
fn cve_2025_52881_proc_fake_bind_sysctl() {
    lodger_only!("switching defences off");
    const PATH: &str = "proc/sys/net/ipv4/ip_forward";
    let write = |prepare: &dyn Fn(&mut Fixture, &Path)| {
        let mut fixture = Fixture::with_own_root();
        let target = fixture.path("target");
        fs::write(&target, "untouched").unwrap();
        prepare(&mut fixture, &target);
        fixture.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        let ran = fixture.run();
        let now = fs::read_to_string(&target).unwrap();
        Outcome::of((now != "untouched").then_some(now), format!("{ran:?}"))
    };
    // The image's own /proc, where the config mounts none.
    held_by(&["OwnProcfs"], || {
        write(&|fixture, target| {
            fixture.unmount("/proc");
            let link = fixture.rootfs().join(PATH);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        })
    });
    // A mount over the parameter.
    held_by(&["OwnProcfs", "RefuseProcfs"], || {
        write(&|fixture, target| {
            fixture.mount(json!({"destination": format!("/{PATH}"), "type": "bind", "source": target, "options": ["bind"]}));
        })
    });
}

/// A parameter of the host's; the kernel would refuse it to a user namespace, too, at its own time.
#[test]
fn cve_2022_0811_sysctl_global() {
    lodger_only!("switching defences off");
    for key in [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "vm.overcommit_memory",
    ] {
        held_by(&["SysctlNames"], || {
            let mut fixture = Fixture::with_own_root();
            fixture.config["linux"]["sysctl"] = json!({key: "1"});
            let ran = fixture.run();
            assert_eq!(ran.code, 1, "{ran:?}");
            let tried = ran.err.contains("cannot set /linux/sysctl/");
            Outcome::of(tried.then(|| format!("it was tried: {}", ran.err)), ran.err)
        });
    }
}

/// Names that climb, and values that are more than one.
#[test]
fn sysctl_path_traversal_and_lines_are_refused() {
    lodger_only!("the checks of parameters");
    for (key, value) in [
        ("net/../kernel/core_pattern", "x"),
        ("net.ipv4...ip_forward", "1"),
        ("/net/ipv4/ip_forward", "1"),
        ("net.ipv4.ip_forward", "1\n2"),
    ] {
        let mut fixture = Fixture::with_own_root();
        fixture.config["linux"]["sysctl"] = json!({key: value});
        fixture.run().fails(1, "/linux/sysctl/");
    }
}

fn secret(fixture: &mut Fixture) {
    fs::write(fixture.rootfs().join("etc/secret"), "hidden\n").unwrap();
    fs::write(fixture.rootfs().join("leak"), "leaked\n").unwrap();
    fixture.config["linux"]["maskedPaths"] = json!(["/etc/secret"]);
    fixture.sh("echo ran; cat /etc/secret");
}

/// Something other than nothing is read through a mask.
fn seen_through(ran: &Ran) -> Outcome {
    let seen = ran.out.trim().trim_start_matches("ran").trim();
    Outcome::of(
        (!seen.is_empty()).then(|| seen.to_owned()),
        format!("{ran:?}"),
    )
}

#[test]
fn cve_2015_3630_masked_works() {
    lodger_only!("switching defences off");
    held_by(&["CoverPaths"], || {
        let mut fixture = Fixture::with_own_root();
        secret(&mut fixture);
        seen_through(&fixture.run())
    });
    held_by(&["CoverPaths"], || {
        let mut fixture = Fixture::with_own_root();
        fixture.config["linux"]["readonlyPaths"] = json!(["/etc"]);
        fixture.sh("touch /etc/new && echo wrote");
        let ran = fixture.run();
        Outcome::of(ran.out.contains("wrote").then(|| ran.out.clone()), ran.err)
    });
}

/// What the image has for /dev/null would be what the mask is made of.
#[test]
fn cve_2025_31133_masked_devnull_symlink_and_regular() {
    lodger_only!("switching defences off");
    for kind in ["symlink", "regular"] {
        held_by(&["HostNodes"], || {
            let mut fixture = Fixture::with_own_root();
            secret(&mut fixture);
            without_dev(&mut fixture);
            let null = fixture.rootfs().join("dev/null");
            match kind {
                "symlink" => symlink("/leak", null).unwrap(),
                _ => fs::write(null, "leaked\n").unwrap(),
            }
            let ran = fixture.run();
            if off().is_none() {
                // A link in the device's place is refused; a file is covered by the device.
                assert_eq!(ran.code, i32::from(kind == "symlink"), "{ran:?}");
            }
            seen_through(&ran)
        });
    }
}

/// With no /dev/null in the image, one is made.
#[test]
fn cve_2025_31133_masked_devnull_missing_in_the_image() {
    lodger_only!("the devices of the container");
    let mut fixture = Fixture::with_own_root();
    secret(&mut fixture);
    without_dev(&mut fixture);
    assert_eq!(fixture.run().ok(), "ran\n");
}

/// The host's own /dev/null is something else, as its caller in a user namespace can have it.
#[test]
fn cve_2025_62161_masked_devnull_of_the_host() {
    lodger_only!("switching defences off");
    let plain = Fixture::with_own_root;
    let make: [fn() -> Fixture; 2] = [plain, on_host_dev];
    for fixture in make {
        held_by(&["VerifyNodes"], || {
            let mut fixture = fixture();
            secret(&mut fixture);
            let leak = fixture.rootfs().join("leak");
            let prepare = format!("mount --bind {} /dev/null", leak.display());
            let ran = nested(&fixture, &[], &prepare, &["run", "c"]);
            assert!(
                off().is_some() || ran.err.contains("cannot use the host's /dev/null"),
                "{ran:?}"
            );
            seen_through(&ran)
        });
    }
}

#[test]
fn cve_2025_31133_masked_devnull_of_the_host_missing() {
    lodger_only!("switching defences off");
    held_by(&["VerifyNodes"], || {
        let mut fixture = on_host_dev();
        secret(&mut fixture);
        let ran = nested(&fixture, &[], "mount -t tmpfs none /dev", &["run", "c"]);
        assert!(
            off().is_some() || ran.err.contains("cannot use the host's /dev/null"),
            "{ran:?}"
        );
        seen_through(&ran)
    });
}
