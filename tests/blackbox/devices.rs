//! `linux.devices`: nodes of the host in the container, FIFOs, and what cannot be had.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, peer_differs, skip};
use crate::weak::{Outcome, held_by, off};

/// A bundle that asks for these devices.
fn with_devices(devices: Value) -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fixture.config["linux"]["devices"] = devices;
    fixture
}

/// Leaves /dev to the image.
fn on_the_images_dev(fixture: &mut Fixture) {
    let mounts = fixture.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
}

/// Whether the host has this node, with these numbers.
fn host_has(path: &str, major: u64, minor: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| {
        (
            nix::sys::stat::major(found.rdev()),
            nix::sys::stat::minor(found.rdev()),
        ) == (major, minor)
    })
}

macro_rules! needs {
    ($path:literal, $major:literal, $minor:literal) => {
        if !host_has($path, $major, $minor) {
            skip!("this host has no {} ({}:{})", $path, $major, $minor);
        }
    };
}

#[test]
fn a_character_device_of_the_host_is_there() {
    peer_differs!(
        "crun",
        "1.8 gives an ordinary user no devices: unshare(CLONE_NEWNS) is refused"
    );
    needs!("/dev/kmsg", 1, 11);
    for kind in ["c", "u"] {
        let mut fixture = with_devices(json!([
            {"path": "/dev/kmsg", "type": kind, "major": 1, "minor": 11}
        ]));
        fixture.sh("stat -c '%F %t:%T' /dev/kmsg; ls /dev");
        let out = fixture.run().ok();
        assert!(out.starts_with("character special file 1:b\n"), "{out}");
        // The default ones are there as well.
        assert!(out.contains("\nnull\n"), "{out}");
        // And nothing on the host.
        let dev = fixture.rootfs().join("dev");
        assert_eq!(fs::read_dir(dev).unwrap().count(), 0);
    }
}

#[test]
fn a_block_device_of_the_host_is_there() {
    peer_differs!(
        "crun",
        "1.8 gives an ordinary user no devices: unshare(CLONE_NEWNS) is refused"
    );
    needs!("/dev/loop0", 7, 0);
    let mut fixture = with_devices(json!([
        {"path": "/dev/./loop0", "type": "b", "major": 7, "minor": 0}
    ]));
    fixture.sh("stat -c '%F %t:%T' /dev/loop0");
    assert_eq!(fixture.run().ok(), "block special file 7:0\n");
}

#[test]
fn a_device_works_and_is_there_for_exec_too() {
    peer_differs!(
        "crun",
        "1.8 gives an ordinary user no devices: unshare(CLONE_NEWNS) is refused"
    );
    peer_differs!(
        "runc",
        "1.1 binds the host's node of the same path, and fails where there is none"
    );
    let mut fixture = with_devices(json!([
        {"path": "/dev/nothing", "type": "c", "major": 1, "minor": 3},
        {"path": "/opt/new/zeros", "type": "u", "major": 1, "minor": 5}
    ]));
    fixture.sleeping("c");
    let script = "echo gone >/dev/nothing && cat /dev/nothing; head -c 3 /opt/new/zeros | cat -v";
    let out = fixture.bare(&["exec", "c", "/bin/sh", "-c", script]).ok();
    assert_eq!(out, "^@^@^@");
}

/// The host's node of that path is another device, and there is one with the numbers elsewhere.
#[test]
fn the_numbers_count_and_not_the_path() {
    peer_differs!(
        "crun",
        "1.8 gives an ordinary user no devices: unshare(CLONE_NEWNS) is refused"
    );
    peer_differs!(
        "runc",
        "1.1 binds the host's node of the same path, whatever its numbers are"
    );
    needs!("/dev/kmsg", 1, 11);
    let mut fixture = with_devices(json!([
        {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 5}
    ]));
    fixture.sh("stat -c '%F %t:%T' /dev/kmsg");
    assert_eq!(fixture.run().ok(), "character special file 1:5\n");
}

#[test]
fn a_device_that_the_host_does_not_have() {
    peer_differs!(
        "crun",
        "1.8 gives an ordinary user no devices: unshare(CLONE_NEWNS) is refused"
    );
    peer_differs!(
        "runc",
        "1.1 binds the host's node of the same path, whatever its numbers are"
    );
    needs!("/dev/kmsg", 1, 11);
    let fixture = with_devices(json!([
        {"path": "/dev/kmsg", "type": "c", "major": 240, "minor": 77}
    ]));
    let ran = fixture
        .run()
        .fails(1, "/linux/devices/0: cannot use the host's /dev/kmsg");
    let both = "it is CharacterDevice 1:11, not character device 240:77";
    assert!(ran.err.contains(both), "{ran:?}");
    assert!(ran.err.contains("devices that the host has"), "{ran:?}");
}

#[test]
fn a_path_that_the_host_does_not_have() {
    let fixture = with_devices(json!([
        {"path": "/dev/no-such-device", "type": "b", "major": 240, "minor": 77}
    ]));
    let ran = fixture
        .run()
        .fails(1, "cannot use the host's /dev/no-such-device");
    assert!(
        crate::harness::peer() || ran.err.contains("block device 240:77"),
        "{ran:?}"
    );
}

#[test]
fn a_default_device_stays_what_it_is() {
    peer_differs!(
        "crun",
        "1.8 gives an ordinary user no devices: unshare(CLONE_NEWNS) is refused"
    );
    peer_differs!(
        "runc",
        "1.1 binds the host's node of the same path, whatever its numbers are"
    );
    let fixture = with_devices(json!([
        {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 5}
    ]));
    let ran = fixture.run().fails(1, "/linux/devices/1/path");
    assert!(ran.err.contains("character device 1:3 already"), "{ran:?}");
    assert!(!ran.err.contains("/linux/devices/0"), "{ran:?}");
}

#[test]
fn a_fifo_with_its_mode_and_owner() {
    peer_differs!(
        "crun",
        "1.8 gives an ordinary user no devices: unshare(CLONE_NEWNS) is refused"
    );
    peer_differs!(
        "runc",
        "1.1 binds the host's FIFO of the same path, and fails where there is none"
    );
    let mut fixture = with_devices(json!([
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o622, "uid": 5, "gid": 7},
        {"path": "/dev/sub/plain", "type": "p", "major": 0, "minor": 0}
    ]));
    fixture.sh(
        "stat -c '%F %a %u:%g' /dev/pipe /dev/sub/plain; (echo through >/dev/sub/plain) & cat /dev/sub/plain",
    );
    assert_eq!(fixture.run().ok(), "fifo 622 5:7\nfifo 666 0:0\nthrough\n");
}

/// In an image's own /dev the FIFO stays: a second container finds it as it should be, or another one is asked for.
#[test]
fn a_fifo_that_is_there_already() {
    lodger_only!("making FIFOs");
    let mut fixture = with_devices(json!([{"path": "/dev/pipe", "type": "p", "fileMode": 0o620}]));
    on_the_images_dev(&mut fixture);
    for _ in 0..2 {
        fixture.sh("stat -c %F /dev/pipe");
        assert_eq!(fixture.run().ok(), "fifo\n");
    }
    fixture.config["linux"]["devices"][0]["fileMode"] = 0o600.into();
    let ran = fixture.run().fails(1, "cannot make the FIFO \"/dev/pipe\"");
    assert!(
        ran.err.contains("Fifo 620 0:0, not Fifo 600 0:0"),
        "{ran:?}"
    );
}

#[test]
fn what_is_there_and_is_no_device_is_an_error() {
    peer_differs!(
        "crun",
        "1.8 gives an ordinary user no devices: unshare(CLONE_NEWNS) is refused"
    );
    peer_differs!(
        "runc",
        "1.1 covers whatever file the image has in the device's place"
    );
    needs!("/dev/kmsg", 1, 11);
    let mut fixture = with_devices(json!([
        {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}
    ]));
    on_the_images_dev(&mut fixture);
    let place = fixture.rootfs().join("dev/kmsg");
    for kind in ["file", "directory", "fifo"] {
        match kind {
            "file" => fs::write(&place, "precious").unwrap(),
            "directory" => fs::create_dir(&place).unwrap(),
            _ => nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
        let ran = fixture
            .run()
            .fails(1, "cannot bind the device \"/dev/kmsg\" (/linux/devices/0)");
        match kind {
            "file" => {
                assert!(
                    ran.err.contains("RegularFile, not character device 1:11"),
                    "{ran:?}"
                );
                assert_eq!(fs::read_to_string(&place).unwrap(), "precious");
                fs::remove_file(&place).unwrap();
            }
            "directory" => fs::remove_dir(&place).unwrap(),
            _ => {
                assert!(fs::metadata(&place).unwrap().file_type().is_fifo());
                fs::remove_file(&place).unwrap();
            }
        }
    }
    // The empty file that one container leaves does not stop the next.
    for _ in 0..2 {
        fixture.sh("stat -c %t:%T /dev/kmsg");
        assert_eq!(fixture.run().ok(), "1:b\n");
    }
}

/// What the host's /dev has already is what is asked for.
#[test]
fn on_the_hosts_dev() {
    peer_differs!(
        "crun",
        "1.8 gives an ordinary user no devices: unshare(CLONE_NEWNS) is refused"
    );
    needs!("/dev/kmsg", 1, 11);
    let mut fixture = with_devices(json!([
        {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3}
    ]));
    on_the_images_dev(&mut fixture);
    fixture.mount(
        json!({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}),
    );
    fixture.sh("stat -c %t:%T /dev/kmsg /dev/null");
    assert_eq!(fixture.run().ok(), "1:b\n1:3\n");
}

#[test]
fn what_the_hosts_node_does_not_have_is_said() {
    lodger_only!("notes");
    needs!("/dev/kmsg", 1, 11);
    let said = |devices: Value| {
        let mut fixture = with_devices(devices);
        fixture.sh("true");
        fixture.run().exits(0).err
    };
    let same = said(json!([
        {"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o666, "uid": 0, "gid": 0},
        // As some callers give it, with the type in it.
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o020_666}
    ]));
    assert!(!same.contains("/linux/devices"), "{same}");
    for other in [
        json!({"fileMode": 0o600}),
        json!({"uid": 1}),
        json!({"gid": 1}),
    ] {
        let mut device = json!({"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11});
        for (name, value) in other.as_object().unwrap() {
            device[name] = value.clone();
        }
        let said = said(json!([device]));
        assert!(
            said.contains("note: /linux/devices/0: \"/dev/kmsg\" keeps the owner"),
            "{other}: {said}"
        );
        let mode = fs::metadata("/dev/kmsg").unwrap().mode() & 0o7777;
        assert!(said.contains(&format!("({mode:o})")), "{said}");
    }
}

/// A node that only others may open is there, and it is said that opening it will not work.
#[test]
fn a_device_that_cannot_be_opened_is_said() {
    lodger_only!("notes");
    needs!("/dev/loop0", 7, 0);
    if nix::unistd::access("/dev/loop0", nix::unistd::AccessFlags::R_OK).is_ok() {
        skip!("the caller may read /dev/loop0");
    }
    let mut fixture = with_devices(json!([
        {"path": "/dev/loop0", "type": "b", "major": 7, "minor": 0}
    ]));
    fixture.sh("cat /dev/loop0 2>&1; true");
    let ran = fixture.run().exits(0);
    assert!(ran.out.contains("Permission denied"), "{ran:?}");
    assert!(
        ran.err
            .contains("note: /linux/devices/0: \"/dev/loop0\" is there, but"),
        "{ran:?}"
    );
    assert!(ran.err.contains("setfacl"), "{ran:?}");
}

/// Every problem is listed, with its place.
#[test]
fn what_is_wrong_with_a_device_is_listed() {
    let mut fixture = with_devices(json!([
        {"path": "dev/relative", "type": "c", "major": 1, "minor": 3},
        {"path": "/dev/x", "type": "a", "major": 1, "minor": 3},
        {"path": "/dev/y", "type": "c"},
        {"type": "p"}
    ]));
    let ran = fixture
        .run()
        .fails(1, "/linux/devices/0/path: must be an absolute path");
    if !crate::harness::peer() {
        for problem in [
            "/linux/devices/1/type: there is no device type \"a\"",
            "/linux/devices/2/major: is required",
            "/linux/devices/2/minor: is required",
            "/linux/devices/3/path: is required",
        ] {
            assert!(ran.err.contains(problem), "{problem}: {ran:?}");
        }
    }
    fixture.config["linux"]["devices"] = json!([
        {"path": "/proc/cpuinfo", "type": "c", "major": 1, "minor": 3},
        {"path": "/dev/x", "type": "c", "major": -1, "minor": 1 << 20},
        {"path": "/dev/y", "type": "p", "uid": 4_000_000_000u32}
    ]);
    let ran = fixture
        .run()
        .fails(1, "/linux/devices/0/path: no device may be put into /proc");
    if !crate::harness::peer() {
        for problem in [
            "/linux/devices/1/major: is not within 0 and 4095",
            "/linux/devices/1/minor: is not within 0 and 1048575",
            "/linux/devices/2/uid: 4000000000 is not mapped",
        ] {
            assert!(ran.err.contains(problem), "{problem}: {ran:?}");
        }
    }
}

/// A directory on the way is a link to the host's, or to another place in the root: neither is written to.
#[test]
fn cve_2026_41579_a_devices_parent_is_a_link() {
    lodger_only!("switching defences off");
    for target in ["/tmp", "../tmp"] {
        held_by(&["RefuseLinks"], || {
            let mut fixture = with_devices(json!([
                {"path": "/dev/sub/nothing", "type": "c", "major": 1, "minor": 3}
            ]));
            on_the_images_dev(&mut fixture);
            symlink(target, fixture.rootfs().join("dev/sub")).unwrap();
            fixture.sh("stat -c ran-%F /tmp/nothing");
            let ran = fixture.run();
            assert!(
                off().is_some() || ran.err.contains("cannot bind the device"),
                "{ran:?}"
            );
            if off().is_none() {
                assert!(!fixture.rootfs().join("tmp/nothing").exists());
            }
            Outcome::of(ran.out.contains("ran-").then_some(ran.out), ran.err)
        });
    }
}

/// The device's own name is a link: what it leads to is neither covered nor made.
#[test]
fn cve_2026_41579_a_device_is_a_link() {
    lodger_only!("switching defences off");
    held_by(&["RefuseLinks"], || {
        let mut fixture = with_devices(json!([
            {"path": "/dev/nothing", "type": "c", "major": 1, "minor": 3}
        ]));
        on_the_images_dev(&mut fixture);
        fs::write(fixture.rootfs().join("etc/empty"), "").unwrap();
        symlink("/etc/empty", fixture.rootfs().join("dev/nothing")).unwrap();
        fixture.sh("test -c /etc/empty && echo covered; true");
        let ran = fixture.run();
        assert!(
            off().is_some() || ran.err.contains("cannot bind the device"),
            "{ran:?}"
        );
        Outcome::of(ran.out.contains("covered").then_some(ran.out), ran.err)
    });
}

/// A FIFO's owner is not given to what a link in its place leads to.
#[test]
fn a_fifo_in_whose_place_there_is_a_link() {
    lodger_only!("making FIFOs");
    let fixture = {
        let mut fixture = with_devices(json!([
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o666, "uid": 9, "gid": 9}
        ]));
        on_the_images_dev(&mut fixture);
        fixture.sh("true");
        fixture
    };
    let before = fs::metadata(fixture.rootfs().join("etc/passwd")).unwrap();
    symlink("/etc/passwd", fixture.rootfs().join("dev/pipe")).unwrap();
    let ran = fixture
        .run()
        .fails(1, "cannot make the FIFO \"/dev/pipe\" (/linux/devices/0)");
    assert!(ran.err.contains("Symlink"), "{ran:?}");
    let after = fs::metadata(fixture.rootfs().join("etc/passwd")).unwrap();
    assert_eq!(
        (after.uid(), after.gid(), after.mode()),
        (before.uid(), before.gid(), before.mode())
    );
}

/// The host's node is looked at, and not believed for its name (CVE-2025-62161 is the same for /dev/null).
#[test]
fn a_node_of_the_host_is_verified() {
    lodger_only!("switching defences off");
    needs!("/dev/kmsg", 1, 11);
    held_by(&["VerifyNodes"], || {
        let mut fixture = with_devices(json!([
            {"path": "/dev/kmsg", "type": "c", "major": 240, "minor": 77}
        ]));
        fixture.sh("stat -c got-%t:%T /dev/kmsg");
        let ran = fixture.run();
        Outcome::of(ran.out.contains("got-1:b").then_some(ran.out), ran.err)
    });
}
