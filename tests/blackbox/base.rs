//! The config that every test starts from and changes.

use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Fixture, peer};

/// The config that every test starts from: what `spec` would write, without a terminal.
pub(crate) fn base_config() -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "inside",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    if peer() {
        add_user_namespace(&mut config);
    }
    config
}

/// Peers do not all make a user namespace unasked: gives them the caller's first range.
pub(crate) fn add_user_namespace(config: &mut Value) {
    let map = |file: &str, own: u32| {
        let (start, count) = subordinate_range(file).expect("subordinate ids");
        json!([
            {"containerID": 0, "hostID": own, "size": 1},
            {"containerID": 1, "hostID": start, "size": count}
        ])
    };
    config["linux"]["uidMappings"] = map("/etc/subuid", rustix::process::getuid().as_raw());
    config["linux"]["gidMappings"] = map("/etc/subgid", rustix::process::getgid().as_raw());
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
}

/// The caller's first range in /etc/subuid or /etc/subgid: start and count.
pub(crate) fn subordinate_range(file: &str) -> Option<(u32, u32)> {
    let user = std::env::var("USER").ok()?;
    let text = fs::read_to_string(file).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{user}:")))?;
    let (start, count) = line.split_once(':')?;
    Some((start.parse().ok()?, count.parse().ok()?))
}

/// Waits until the first process of a container may be looked into, as it may not be on the last steps to its program
/// (PR_SET_DUMPABLE(2const)): these come after what tells the runtime that it runs. Whoever may never be is not waited for long.
pub(crate) fn settle(fixture: &Fixture, id: &str) {
    let namespace = format!("/proc/{}/ns/user", fixture.state(id)["pid"]);
    let begin = Instant::now();
    while fs::read_link(&namespace).is_err() && begin.elapsed() < patient(Duration::from_secs(10)) {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A limit as it is on this machine: `LODGER_TEST_PATIENCE` times as long, which says how slow an emulated one is.
pub(crate) fn patient(limit: Duration) -> Duration {
    static PATIENCE: LazyLock<u32> = LazyLock::new(|| {
        std::env::var("LODGER_TEST_PATIENCE").map_or(1, |times| times.parse().unwrap())
    });
    limit * *PATIENCE
}

/// Cleans up in a destructor: what panics here fails this test; where a panic is on its way already, a second one would
/// end the whole executable, and with it the results of all other tests.
pub(crate) fn tidy(work: impl FnOnce()) {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    if let Err(panic) = ended
        && !std::thread::panicking()
    {
        std::panic::resume_unwind(panic);
    }
}
