//! Defences one by one: each test here fails when its defence is taken out of the source.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Fixture, LIMIT, lodger_only, peer, peer_differs, skip, spawn};

fn probe_report(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A directory of the host, open in this process as a descriptor that children inherit.
struct Leak(fs::File);

impl Leak {
    fn new() -> Leak {
        let leak = Leak(fs::File::open("/usr").unwrap());
        rustix::io::fcntl_setfd(&leak.0, rustix::io::FdFlags::empty()).unwrap();
        leak
    }

    fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Init lives on while it waits for `start`: it must not keep what the caller left open.
#[test]
fn a_created_container_holds_no_descriptor_of_the_host() {
    let mut fixture = Fixture::with_own_root();
    fixture.add_probe();
    fixture.args(&["/bin/true"]);
    fixture.write_config();
    let leak = Leak::new();
    let created = spawn(&mut fixture.command(&["create", "c"]), b"").wait();
    drop(leak);
    created.ok();
    let ran = fixture.bare(&["exec", "c", "/probe", "report"]);
    if ran.code != 0 {
        peer_differs!("crun", "1.8 runs no exec before start");
        peer_differs!("runc", "1.1 may run no exec before start");
    }
    assert_eq!(probe_report(&ran.ok())["outside"], json!([]));
    let pid = fixture.state("c")["pid"].as_u64().unwrap();
    let held: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .map(|target| target.display().to_string())
        .filter(|target| target.starts_with("/usr") || (!peer() && target.contains("/state")))
        .collect();
    assert_eq!(held, Vec::<String>::new());
}

#[test]
fn a_leaked_descriptor_is_no_working_directory() {
    peer_differs!("crun", "1.8 has CVE-2024-21626");
    peer_differs!("runc", "1.1.5 has CVE-2024-21626");
    let mut fixture = Fixture::with_own_root();
    fixture.sleeping("c");
    let leak = Leak::new();
    let cwd = format!("/proc/self/fd/{}", leak.number());
    let exec = ["exec", "--cwd", &cwd, "c", "/bin/sh", "-c", "ls -A ."];
    let joined = spawn(&mut fixture.command(&exec), b"").wait();
    fixture.config["process"]["cwd"] = cwd.as_str().into();
    fixture.sh("ls -A .");
    let ran = fixture.run();
    drop(leak);
    for ran in [joined, ran] {
        assert_ne!(ran.code, 0, "{ran:#?}");
        assert_eq!(ran.out, "");
    }
}

/// A path through a descriptor is looked up before close-on-exec takes effect: the descriptor must be gone by then.
#[test]
fn no_program_of_the_host_is_run_through_a_descriptor() {
    peer_differs!("crun", "1.8 closes descriptors by close-on-exec alone");
    peer_differs!("runc", "1.1.5 closes descriptors by close-on-exec alone");
    let mut fixture = Fixture::with_own_root();
    fixture.sleeping("c");
    let leak = Leak::new();
    assert!(std::path::Path::new("/usr/bin/busybox").exists());
    let program = format!("/proc/self/fd/{}/bin/busybox", leak.number());
    fixture.args(&[&program, "echo", "escaped"]);
    let ran = fixture.runtime(&["run", "d"]);
    let exec = ["exec", "c", &program, "echo", "escaped"];
    let joined = spawn(&mut fixture.command(&exec), b"").wait();
    symlink(&program, fixture.rootfs().join("bin/linked")).unwrap();
    let exec = ["exec", "c", "linked", "echo", "escaped"];
    let linked = spawn(&mut fixture.command(&exec), b"").wait();
    drop(leak);
    for ran in [ran, joined, linked] {
        assert_ne!(ran.code, 0, "{ran:#?}");
        assert_eq!(ran.out, "");
    }
}

/// The link points to a directory that is there, and inside: only refusing links altogether helps (CVE-2025-54867).
#[test]
fn a_link_inside_the_root_is_no_mount_point_for_proc_sys_dev() {
    peer_differs!("crun", "1.8 follows the link inside the root filesystem");
    peer_differs!("runc", "1.1 follows a linked /dev");
    for (name, mounted) in [("proc", true), ("sys", true), ("dev", true), ("dev", false)] {
        let mut fixture = Fixture::with_own_root();
        fs::create_dir(fixture.rootfs().join("target")).unwrap();
        fs::remove_dir(fixture.rootfs().join(name)).unwrap();
        symlink("/target", fixture.rootfs().join(name)).unwrap();
        if !mounted {
            let mounts = fixture.config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        }
        fixture.sh("echo ran");
        let ran = fixture.run();
        assert_ne!(ran.code, 0, "{name} {mounted}: {ran:#?}");
        assert_eq!(ran.out, "", "{name} {mounted}");
        let left = fs::read_dir(fixture.rootfs().join("target")).unwrap();
        assert_eq!(left.count(), 0, "{name} {mounted}");
    }
}

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

/// What was put in place of a device must not be taken for the place to bind one on.
#[test]
fn a_link_in_place_of_a_device_is_refused() {
    lodger_only!("refusing links on the way to a device");
    let mut fixture = Fixture::with_own_root();
    let mounts = fixture.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    symlink("/etc/passwd", fixture.rootfs().join("dev/null")).unwrap();
    fixture.run().fails(1, "/dev/null");
}

/// CVE-2019-16884, by way of a link in the image.
#[test]
fn nothing_is_mounted_into_procfs_through_a_link() {
    lodger_only!("refusing every destination in procfs");
    for (target, directory) in [("/proc/sys/kernel", true), ("/proc/uptime", false)] {
        let mut fixture = Fixture::with_own_root();
        symlink(target, fixture.rootfs().join("way")).unwrap();
        let mount = if directory {
            json!({"destination": "/way", "type": "tmpfs", "source": "tmpfs"})
        } else {
            json!({"destination": "/way", "type": "bind", "source": "/etc/hostname", "options": ["bind"]})
        };
        fixture.mount(mount);
        fixture.run().fails(1, "lies in procfs");
    }
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

/// A process of ours that joins a container still has files of the host open for a moment. strace(1) makes that
/// moment long; what runs in the container must not get at them (CVE-2016-9962).
#[test]
fn a_process_that_joins_cannot_be_looked_into() {
    lodger_only!("the process that joins");
    if !std::path::Path::new("/usr/bin/strace").exists() {
        skip!("strace is not installed");
    }
    let mut fixture = Fixture::with_own_root();
    fixture.add_probe();
    fixture.sleeping("c");
    let exec = fixture.command(&["exec", "c", "/bin/sleep", "0"]);
    let mut traced = Command::new("/usr/bin/strace");
    traced
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=close_range"])
        .args(["-e", "inject=close_range:delay_enter=3000000"])
        .arg(exec.get_program())
        .args(exec.get_args())
        .current_dir(fixture.bundle());
    let slow = spawn(&mut traced, b"");
    let mut together = 0;
    let begin = Instant::now();
    while together < 3 && begin.elapsed() < LIMIT / 2 {
        let report = probe_report(&fixture.bare(&["exec", "c", "/probe", "report"]).ok());
        assert_eq!(report["outside"], json!([]));
        let seen = report["processes"].as_array().unwrap().len();
        together += usize::from(seen > 2);
    }
    slow.wait().ok();
    assert!(together > 0, "the process that joins was never seen");
}

/// While it is set up, init belongs to nobody but root of the host: its runtime is stopped in the middle.
#[test]
fn init_cannot_be_looked_into_while_it_is_set_up() {
    lodger_only!("init during the set-up");
    let Some((_fixture, runtime)) = crate::kills::stopped_create() else {
        skip!("create was never stopped in time");
    };
    let init = crate::kills::init_of(&runtime);
    let looked = fs::read_link(format!("/proc/{init}/exe"));
    runtime.signal("CONT");
    runtime.wait().ok();
    assert!(looked.is_err(), "{looked:?}");
}
