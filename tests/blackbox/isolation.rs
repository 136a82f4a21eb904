//! One test a promise: what a container's process must not see, have or reach.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::harness::{
    Fixture, Running, lodger_only, peer, peer_differs, runtime_binary, skip, spawn, under_test,
    wait_for, write_program,
};

/// A bundle whose program is the probe.
fn probing() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fixture.add_probe();
    fixture.args(&["/probe", "report"]);
    fixture
}

fn report(fixture: &Fixture) -> Value {
    let text = fixture.run().ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn object<'a>(report: &'a Value, name: &str) -> &'a Map<String, Value> {
    report[name]
        .as_object()
        .unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap())
        .collect()
}

#[test]
fn exactly_three_descriptors_are_open() {
    let report = report(&probing());
    let names: Vec<&str> = object(&report, "descriptors")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(names, ["0", "1", "2"], "{:#}", report["descriptors"]);
}

#[test]
fn exactly_three_descriptors_are_open_in_exec() {
    let mut fixture = probing();
    fixture.sleeping("c");
    let text = fixture.bare(&["exec", "c", "/probe", "report"]).ok();
    let report: Value = serde_json::from_str(&text).unwrap();
    let names: Vec<&str> = object(&report, "descriptors")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(names, ["0", "1", "2"], "{:#}", report["descriptors"]);
    assert_eq!(strings(&report["outside"]), Vec::<&str>::new());
}

#[test]
fn a_descriptor_that_the_caller_leaks_does_not_reach_the_payload() {
    let fixture = probing();
    fixture.write_config();
    let host = fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&host, rustix::io::FdFlags::empty()).unwrap();
    assert!(host.as_raw_fd() > 2);
    let ran = spawn(&mut fixture.command(&["run", "c"]), b"").wait();
    rustix::io::fcntl_setfd(&host, rustix::io::FdFlags::CLOEXEC).unwrap();
    let report: Value = serde_json::from_str(&ran.ok()).unwrap();
    assert_eq!(
        object(&report, "descriptors").len(),
        3,
        "{:#}",
        report["descriptors"]
    );
}

#[test]
fn no_capability_outside_the_config() {
    let mut fixture = probing();
    fixture.config["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"]});
    let seen = report(&fixture);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(seen["status"][set], "0000000000000000", "{set}");
    }
    assert_eq!(seen["status"]["CapBnd"], "0000000000000020");
}

#[test]
fn no_new_privs_is_set() {
    assert_eq!(report(&probing())["status"]["NoNewPrivs"], "1");
}

#[test]
fn all_namespaces_differ_from_the_hosts() {
    let report = report(&probing());
    for name in ["ipc", "mnt", "net", "pid", "user", "uts"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let inside = report["namespaces"][name].as_str().unwrap();
        assert_ne!(inside, host.to_str().unwrap(), "{name}");
    }
}

#[test]
fn masked_paths_are_empty() {
    let mut fixture = Fixture::with_own_root();
    fs::create_dir(fixture.rootfs().join("secret")).unwrap();
    fs::write(fixture.rootfs().join("secret/file"), "secret").unwrap();
    fs::write(fixture.rootfs().join("etc/secret"), "secret").unwrap();
    fixture.config["linux"]["maskedPaths"] = json!([
        "/secret",
        "/etc/secret",
        "/no/such",
        "/proc/kcore",
        "/proc/keys"
    ]);
    fixture.sh(
        "ls -A /secret; cat /etc/secret /proc/kcore /proc/keys; touch /secret/new 2>/dev/null && echo wrote; \
         echo over >/etc/secret; test -e /no && echo made; true",
    );
    assert_eq!(fixture.run().ok(), "");
    assert_eq!(
        fs::read_to_string(fixture.rootfs().join("etc/secret")).unwrap(),
        "secret"
    );
}

#[test]
fn nothing_beneath_proc_sys_is_writable() {
    let report = report(&probing());
    assert_eq!(strings(&report["writable"]["proc_sys"]), Vec::<&str>::new());
    assert_eq!(
        strings(&report["writable"]["proc_other"]),
        Vec::<&str>::new()
    );
}

#[test]
fn nothing_beneath_sys_is_writable() {
    assert_eq!(
        strings(&report(&probing())["writable"]["sys"]),
        Vec::<&str>::new()
    );
}

#[test]
fn no_host_path_is_reachable_through_magic_links() {
    assert_eq!(strings(&report(&probing())["outside"]), Vec::<&str>::new());
}

#[test]
fn host_processes_are_not_visible() {
    assert_eq!(report(&probing())["processes"], json!([1]));
}

#[test]
fn the_environment_is_the_configs() {
    let mut fixture = probing();
    fixture.config["process"]["env"] = json!(["A=1"]);
    let seen = report(&fixture);
    let env: BTreeSet<&str> = strings(&seen["env"]).into_iter().collect();
    assert!(
        env.is_subset(&BTreeSet::from(["A=1", "HOME=/root"])),
        "{env:?}"
    );
}

#[test]
fn setgroups_is_allowed_where_the_groups_are_mapped() {
    let mut fixture = probing();
    fixture.config["process"]["capabilities"] = json!({"bounding": ["CAP_SETGID"], "effective": ["CAP_SETGID"], "permitted": ["CAP_SETGID"]});
    let seen = report(&fixture);
    assert_eq!(seen["maps"]["setgroups"], "allow");
    assert_eq!(seen["setgroups_works"], true);
}

#[test]
fn setgroups_is_denied_where_only_the_callers_id_is_mapped() {
    let mut fixture = probing();
    if !peer() {
        let namespaces = fixture.config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap();
        namespaces.push(json!({"type": "user"}));
    }
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    fixture.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    fixture.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    fixture.sh("cat /proc/self/uid_map /proc/self/gid_map");
    let out = fixture.run().ok();
    let maps: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(maps.len(), 2, "{out}");
    for map in maps {
        assert_eq!((map[0], map[2]), ("0", "1"), "{out}");
    }
}

#[test]
fn only_the_expected_devices_are_there() {
    let report = report(&probing());
    let devices = object(&report, "devices");
    let expected = [
        ("/dev/null", "char 1:3"),
        ("/dev/zero", "char 1:5"),
        ("/dev/full", "char 1:7"),
        ("/dev/random", "char 1:8"),
        ("/dev/urandom", "char 1:9"),
        ("/dev/tty", "char 5:0"),
        ("/dev/fd", "link /proc/self/fd"),
        ("/dev/stdin", "link /proc/self/fd/0"),
        ("/dev/stdout", "link /proc/self/fd/1"),
        ("/dev/stderr", "link /proc/self/fd/2"),
        ("/dev/ptmx", "link pts/ptmx"),
        ("/dev/pts", "directory"),
        ("/dev/shm", "directory"),
        ("/dev/mqueue", "directory"),
    ];
    for (path, kind) in expected {
        let seen = devices
            .get(path)
            .and_then(Value::as_str)
            .map(|seen| seen.replace("/dev/pts/ptmx", "pts/ptmx"));
        assert_eq!(seen.as_deref(), Some(kind), "{path} in {devices:#?}");
    }
    let known: BTreeSet<&str> = expected.iter().map(|(path, _)| *path).collect();
    // core is what runc links to /proc/kcore, which is masked.
    let others: Vec<&String> = devices
        .keys()
        .filter(|path| {
            !known.contains(path.as_str())
                && path.as_str() != "/dev/core"
                && path.as_str() != "/dev/console"
        })
        .collect();
    assert_eq!(others, Vec::<&String>::new());
}

#[test]
fn a_cwd_that_names_a_descriptor_is_refused() {
    peer_differs!("crun", "1.8 has CVE-2024-21626");
    peer_differs!("runc", "1.1.5 has CVE-2024-21626");
    for number in 0..16 {
        let mut fixture = Fixture::new();
        fixture.config["process"]["cwd"] = format!("/proc/self/fd/{number}").into();
        fixture.sh("pwd -P; ls -A .");
        let ran = fixture.run();
        // A descriptor that leads to a directory of the host is the attack (CVE-2024-21626): the payload must not have run.
        assert_ne!(ran.code, 0, "{number}: {ran:#?}");
    }
}

#[test]
fn an_exec_cwd_that_names_a_descriptor_is_refused() {
    peer_differs!("crun", "1.8 has CVE-2024-21626");
    peer_differs!("runc", "1.1.5 has CVE-2024-21626");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    for number in 3..16 {
        let cwd = format!("/proc/self/fd/{number}");
        let ran = fixture.bare(&["exec", "--cwd", &cwd, "c", "/bin/sh", "-c", "ls -A ."]);
        assert_ne!(ran.code, 0, "{number}: {ran:#?}");
    }
}

#[test]
fn a_symlinked_mount_point_is_refused_and_its_target_unchanged() {
    peer_differs!("crun", "1.8 follows the link inside the root filesystem");
    peer_differs!(
        "runc",
        "1.1 follows a linked /dev inside the root filesystem"
    );
    for name in ["proc", "sys", "dev"] {
        let mut fixture = Fixture::with_own_root();
        let target = fixture.path("host-target");
        fs::create_dir(&target).unwrap();
        fs::remove_dir(fixture.rootfs().join(name)).unwrap();
        symlink(&target, fixture.rootfs().join(name)).unwrap();
        fixture.sh("echo ran");
        let ran = fixture.run();
        assert_ne!(ran.code, 0, "{name}: {ran:#?}");
        assert_eq!(ran.out, "", "{name}");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "{name}");
        fixture.config["mounts"] = json!([]);
    }
}

#[test]
fn a_mount_destination_through_a_symlink_stays_in_the_root() {
    let mut fixture = Fixture::with_own_root();
    let outside = fixture.path("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, fixture.rootfs().join("link")).unwrap();
    symlink("../../../../../../../..", fixture.rootfs().join("up")).unwrap();
    for destination in ["/link/made", "/up/made", "/../../made"] {
        let mut config = fixture.config.clone();
        std::mem::swap(&mut config, &mut fixture.config);
        fixture.mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
        // Refused or made inside: both keep the host as it is.
        let _ = fixture.run();
        fixture.config = config;
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!Path::new("/made").exists());
}

#[test]
fn a_helper_in_front_of_the_path_is_not_used() {
    lodger_only!("the fixed list of helper directories");
    let mut fixture = Fixture::new();
    fixture.sh("echo ran");
    fixture.write_config();
    let fake = fixture.path("fake");
    fs::create_dir(&fake).unwrap();
    let witness = fixture.path("witness");
    for name in ["newuidmap", "newgidmap", "getsubids"] {
        let script = format!("#!/bin/sh\necho {name} >>{}\nexit 1\n", witness.display());
        write_program(&fake.join(name), script.as_bytes());
    }
    let mut command = fixture.command(&["run", "c"]);
    command.env("PATH", format!("{}:.:/usr/bin:/bin", fake.display()));
    assert_eq!(spawn(&mut command, b"").wait().ok(), "ran\n");
    assert!(
        !witness.exists(),
        "{}",
        fs::read_to_string(&witness).unwrap()
    );
}

/// What a hostile image may have for /etc/passwd; each must be told apart within the time limit.
#[test]
fn a_hostile_passwd_does_not_hang_the_lookup_of_home() {
    peer_differs!("crun", "1.8 reads what it is given");
    peer_differs!("runc", "1.1 reads what it is given");
    for kind in ["fifo", "endless", "loop", "huge", "directory"] {
        let mut fixture = Fixture::with_own_root();
        let passwd = fixture.rootfs().join("etc/passwd");
        fs::remove_file(&passwd).unwrap();
        match kind {
            "fifo" => make_fifo(&passwd),
            "endless" => symlink("/dev/zero", &passwd).unwrap(),
            "loop" => symlink("passwd", &passwd).unwrap(),
            "directory" => fs::create_dir(&passwd).unwrap(),
            _ => fs::File::create(&passwd).unwrap().set_len(1 << 31).unwrap(),
        }
        fixture.sh("echo $HOME");
        let ran = fixture.run();
        // Either HOME is a default, or the container is refused with a message; not a hang, not a crash.
        match ran.code {
            0 => assert_eq!(ran.out, "/\n", "{kind}"),
            code => {
                assert_eq!(code, 1, "{kind}: {ran:#?}");
                assert!(ran.err.contains("passwd"), "{kind}: {ran:#?}");
            }
        }
    }
}

fn make_fifo(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
}

#[test]
fn a_config_that_is_a_fifo_is_refused_at_once() {
    lodger_only!("refusing a FIFO for a config");
    let fixture = Fixture::new();
    make_fifo(&fixture.bundle().join("config.json"));
    for args in [&["run", "c"][..], &["create", "c"], &["plan", "."]] {
        fixture.bare(args).fails(1, "config.json");
    }
}

/// A copy of the runtime that the caller, and so the container's root, could write to.
struct OwnRuntime {
    path: PathBuf,
    original: Vec<u8>,
}

fn own_runtime(fixture: &Fixture) -> OwnRuntime {
    let path = fixture.path("runtime");
    let original = fs::read(runtime_binary()).unwrap();
    write_program(&path, &original);
    OwnRuntime { path, original }
}

impl OwnRuntime {
    fn start(&self, fixture: &Fixture, args: &[&str]) -> Running {
        let command = fixture.command(args);
        let mut own = Command::new(&self.path);
        own.args(command.get_args()).current_dir(fixture.bundle());
        spawn(&mut own, b"")
    }

    #[track_caller]
    fn assert_unchanged(&self) {
        let now = fs::read(&self.path).unwrap();
        assert!(now == self.original, "the runtime was overwritten");
    }
}

#[test]
fn the_runtime_cannot_be_overwritten_from_inside() {
    let mut fixture = probing();
    write_program(&fixture.rootfs().join("evil"), b"#!/proc/self/exe\n");
    let own = own_runtime(&fixture);
    fixture.args(&["/probe", "overwrite", "10"]);
    fixture.write_config();
    // Detached: a runtime that goes on running keeps its file from being written, and hides the fault.
    own.start(&fixture, &["run", "-d", "c"]).wait().ok();
    let attacker = |name: &str| fixture.rootfs().join("tmp").join(name);
    wait_for("the attacker", || {
        attacker("attacking").exists().then_some(())
    });
    for _ in 0..12 {
        // Its program is the runtime's own file, if the kernel can still find that from inside.
        let _ = own.start(&fixture, &["exec", "c", "/evil"]).wait();
        let _ = own.start(&fixture, &["exec", "c", "/bin/true"]).wait();
    }
    fs::write(attacker("stop"), "").unwrap();
    wait_for("the attacker's end", || {
        attacker("done").exists().then_some(())
    });
    own.assert_unchanged();
}

#[test]
fn a_container_whose_program_is_the_runtime_cannot_overwrite_it() {
    let mut fixture = probing();
    write_program(&fixture.rootfs().join("evil"), b"#!/proc/self/exe\n");
    let own = own_runtime(&fixture);
    fixture.args(&["/evil"]);
    fixture.write_config();
    let _ = own.start(&fixture, &["run", "c"]).wait();
    own.assert_unchanged();
}

#[test]
fn the_payload_cannot_write_to_the_executable_of_pid_1() {
    let mut fixture = probing();
    fixture.sleeping("c");
    let text = fixture.bare(&["exec", "c", "/probe", "report"]).ok();
    let report: Value = serde_json::from_str(&text).unwrap();
    for (pid, executable) in object(&report, "executables") {
        let target = executable["target"].as_str().unwrap();
        assert!(
            !target.contains("runtime") && !target.contains("lodger"),
            "{pid}: {executable}"
        );
    }
}

#[test]
fn the_runtime_that_waits_in_a_created_container_cannot_be_overwritten() {
    let mut fixture = probing();
    let own = own_runtime(&fixture);
    fixture.args(&["/bin/true"]);
    fixture.write_config();
    own.start(&fixture, &["create", "c"]).wait().ok();
    let attack = own
        .start(&fixture, &["exec", "c", "/probe", "overwrite", "1"])
        .wait();
    if attack.code != 0 && !attack.out.contains("attacking") {
        skip!(
            "{} runs no exec in a container that is not started",
            under_test()
        );
    }
    own.assert_unchanged();
    let seen = own
        .start(&fixture, &["exec", "c", "/probe", "report"])
        .wait()
        .ok();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    for (pid, executable) in object(&seen, "executables") {
        assert_ne!(executable["target"], own.path.to_str().unwrap(), "{pid}");
        assert_eq!(executable["writable"], false, "{pid}: {executable}");
    }
}
