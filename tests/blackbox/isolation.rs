//! One test a promise: what a container's process must not see, have or reach.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Map, Value, json};

use crate::harness::{Fixture, peer};

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

/// No specification asks for it, but every runtime does it, and servers in a container count on it.
#[test]
fn the_loopback_device_of_a_new_network_namespace_is_up() {
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/cat", "/sys/class/net/lo/flags"]);
    // IFF_UP and IFF_LOOPBACK.
    assert_eq!(fixture.run().ok(), "0x9\n");
}
