//! Defences one by one: each test here fails when its defence is taken out of the source.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::harness::{Fixture, lodger_only, peer_differs};

/// The files of lxcfs may lie in procfs, and nowhere that a link of the image leads to.
#[test]
fn a_file_of_lxcfs_is_not_mounted_through_a_link() {
    lodger_only!("the files of lxcfs");
    let mut fixture = Fixture::with_own_root();
    fs::remove_dir(fixture.rootfs().join("proc")).unwrap();
    fs::create_dir(fixture.rootfs().join("target")).unwrap();
    symlink("/target", fixture.rootfs().join("proc")).unwrap();
    fixture.unmount("/proc").mount(json!({
        "destination": "/proc/uptime", "type": "bind", "source": "/etc/hostname", "options": ["bind"]
    }));
    fixture.run().fails(1, "not symbolic links");
    let left = fs::read_dir(fixture.rootfs().join("target")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_read_only_path_is_so_with_all_that_is_mounted_beneath() {
    peer_differs!("crun", "1.8 leaves the mounts beneath as they are");
    peer_differs!("runc", "1.1 leaves the mounts beneath as they are");
    let mut fixture = Fixture::with_own_root();
    fixture.mount(json!({"destination": "/kept/below", "type": "tmpfs", "source": "tmpfs"}));
    fixture.config["linux"]["readonlyPaths"] = json!(["/kept"]);
    fixture
        .sh("touch /kept/below/new 2>/dev/null && echo wrote; test -d /kept/below && echo there");
    assert_eq!(fixture.run().ok(), "there\n");
}

/// The attributes that `mountinfo` shows for the topmost mount at `path`.
fn attributes<'a>(mountinfo: &'a str, path: &str) -> Vec<&'a str> {
    let line = mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(path));
    let line = line.unwrap_or_else(|| panic!("{path} is not mounted: {mountinfo}"));
    line.split(' ').nth(5).unwrap().split(',').collect()
}

#[test]
fn every_masked_directory_is_covered_and_closed() {
    peer_differs!("crun", "1.8 masks with a read-only tmpfs alone");
    peer_differs!("runc", "1.1 masks with a read-only tmpfs alone");
    let mut fixture = Fixture::with_own_root();
    let names = ["one", "two", "three"];
    for name in names {
        fs::create_dir(fixture.rootfs().join(name)).unwrap();
        fs::write(fixture.rootfs().join(name).join("secret"), "secret").unwrap();
    }
    fixture.config["linux"]["maskedPaths"] = json!(["/one", "/two", "/three"]);
    fixture.sh("ls -A /one /two /three | grep secret; cat /proc/self/mountinfo");
    let out = fixture.run().ok();
    assert!(!out.starts_with("secret"), "{out}");
    for name in names {
        let seen = attributes(&out, &format!("/{name}"));
        for wanted in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(seen.contains(&wanted), "{name}: {seen:?}");
        }
    }
}

#[test]
fn a_bind_mount_has_all_of_its_attributes() {
    let mut fixture = Fixture::with_own_root();
    let source = fixture.path("shared");
    fs::create_dir(&source).unwrap();
    for (destination, kind) in [("/one", "bind"), ("/all", "rbind")] {
        fixture.mount(json!({
            "destination": destination, "type": "bind", "source": source.to_str().unwrap(),
            "options": [kind, "ro", "nosuid", "nodev", "noexec"]
        }));
    }
    fixture.args(&["cat", "/proc/self/mountinfo"]);
    let out = fixture.run().ok();
    for path in ["/one", "/all"] {
        let seen = attributes(&out, path);
        for wanted in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(seen.contains(&wanted), "{path}: {seen:?}");
        }
    }
}

/// While it waits for `start`, init has no more than its program will have.
#[test]
fn a_created_container_has_its_final_capabilities() {
    lodger_only!("dropping everything before the wait");
    let mut fixture = Fixture::new();
    fixture.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_KILL"], "effective": []
    });
    fixture.runtime(&["create", "c"]).ok();
    let pid = fixture.state("c")["pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000020",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000021",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
}

#[test]
fn an_exec_leads_a_session_of_its_own() {
    peer_differs!("crun", "1.8 leaves exec in the caller's session");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let script = "read stat </proc/self/stat; set -- $stat; echo $1 $5 $6";
    let out = fixture.bare(&["exec", "c", "/bin/sh", "-c", script]).ok();
    let ids: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(ids, [ids[0]; 3], "pid, process group, session");
}
