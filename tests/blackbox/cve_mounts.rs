//! Attacks on what is bound from elsewhere: control groups, terminals, the root itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, peer_differs, skip};
use crate::weak::{Outcome, held_by, off};

/// A bundle with a terminal on the image's own /dev, which is hostile, and a devpts of the container's.
fn on_a_terminal() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    let kept = ["/dev/pts", "/proc"];
    let mounts = fixture.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| kept.contains(&mount["destination"].as_str().unwrap()));
    fixture.config["process"]["terminal"] = true.into();
    fixture
}

/// Runs a container whose /dev/console is a link to /etc/passwd: whether the terminal was bound over that.
fn link_is_covered(mut fixture: Fixture) -> Outcome {
    fixture.sh("test -c /etc/passwd && echo covered; true");
    let ran = fixture.run();
    let refused = ran
        .err
        .contains("cannot bind the container's terminal to /dev/console");
    assert!(off().is_some() || refused, "{ran:?}");
    Outcome::of(
        ran.out.contains("covered").then(|| ran.out.clone()),
        ran.err,
    )
}

/// The terminal is bound over whatever the link leads to.
#[test]
fn cve_2025_52565_console_symlink() {
    lodger_only!("switching defences off");
    for target in ["/etc/passwd", "../etc/passwd"] {
        held_by(&["RefuseLinks"], || {
            let fixture = on_a_terminal();
            symlink(target, fixture.rootfs().join("dev/console")).unwrap();
            link_is_covered(fixture)
        });
    }
}

/// The same in a directory that the config binds to /dev, and that others may write to.
#[test]
fn cve_2025_52565_console_symlink_bind_dev() {
    lodger_only!("switching defences off");
    held_by(&["RefuseLinks"], || {
        let mut fixture = on_a_terminal();
        let source = fixture.path("dev");
        fs::create_dir_all(source.join("pts")).unwrap();
        symlink("/etc/passwd", source.join("console")).unwrap();
        let mounts = fixture.config["mounts"].as_array_mut().unwrap();
        mounts.insert(
            0,
            json!({"destination": "/dev", "type": "bind", "source": source, "options": ["bind"]}),
        );
        link_is_covered(fixture)
    });
}

/// The image's ptmx leads to the host's: the terminal would be one of the host's devpts.
#[test]
fn cve_2025_52565_ptmx_of_the_host() {
    lodger_only!("switching defences off");
    held_by(&["ResolveInRoot"], || {
        let mut fixture = on_a_terminal();
        fixture.unmount("/dev/pts");
        fs::create_dir(fixture.rootfs().join("dev/pts")).unwrap();
        symlink("/dev/ptmx", fixture.rootfs().join("dev/pts/ptmx")).unwrap();
        fixture.sh("echo ran");
        let ran = fixture.run();
        let refused = ran.err.contains("cannot make the container's terminal");
        assert!(off().is_some() || refused, "{ran:?}");
        Outcome::of(ran.out.contains("ran").then(|| ran.out.clone()), ran.err)
    });
}

/// What is no terminal multiplexer is not asked for a terminal.
#[test]
fn cve_2025_52565_ptmx_that_is_something_else() {
    lodger_only!("the check of /dev/ptmx");
    for kind in ["file", "fifo", "zero"] {
        let mut fixture = on_a_terminal();
        fixture.unmount("/dev/pts");
        let ptmx = fixture.rootfs().join("dev/pts/ptmx");
        fs::create_dir(fixture.rootfs().join("dev/pts")).unwrap();
        match kind {
            "file" => fs::write(ptmx, "").unwrap(),
            "fifo" => rustix::fs::mkfifoat(rustix::fs::CWD, &ptmx, rustix::fs::Mode::RWXU).unwrap(),
            _ => symlink("/dev/zero", ptmx).unwrap(),
        }
        fixture.sh("echo ran");
        fixture
            .run()
            .fails(1, "cannot make the container's terminal");
    }
}

/// Without a cgroup namespace the host's tree is bound: not for writing, whatever is delegated to the caller.
#[test]
fn cve_2023_25809_cgroup_ro() {
    lodger_only!("switching defences off");
    if !Path::new("/sys/fs/cgroup").is_dir() {
        skip!("there is no /sys/fs/cgroup");
    }
    held_by(&["ReadonlyCgroup"], || {
        let mut fixture = Fixture::with_own_root();
        fixture.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": []}));
        fixture.args(&["cat", "/proc/self/mountinfo"]);
        let out = fixture.run().ok();
        let writable: Vec<&str> = out
            .lines()
            .filter(|line| {
                line.split(' ')
                    .nth(4)
                    .is_some_and(|path| path.starts_with("/sys/fs/cgroup"))
            })
            .filter(|line| {
                !line
                    .split(' ')
                    .nth(5)
                    .unwrap()
                    .split(',')
                    .any(|word| word == "ro")
            })
            .collect();
        assert!(out.contains("/sys/fs/cgroup"), "{out}");
        Outcome::of(
            (!writable.is_empty()).then(|| writable.join("\n")),
            "all read-only",
        )
    });
}

/// The root filesystem itself may be named through a link: that is the caller's choice, and it is resolved once.
#[test]
fn incus_2026_23953_a_root_that_is_a_link_is_resolved_once() {
    peer_differs!("runc", "refuses a root that is a link");
    let mut fixture = Fixture::with_own_root();
    let other: PathBuf = fixture.path("bundle/link");
    symlink("rootfs", &other).unwrap();
    fixture.config["root"]["path"] = Value::from("link");
    fixture.sh("echo ran");
    assert_eq!(fixture.run().ok(), "ran\n");
}
