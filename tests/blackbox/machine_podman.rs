//! podman's limits, where all controllers are delegated to its user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Fixture, Ran, runtime_binary, spawn, under_test};

const IMAGE: &str = "limited";

/// podman, with an image of a busybox and the drop-in of contrib.
struct Podman {
    home: PathBuf,
    manager: &'static str,
    fixture: Fixture,
}

impl Podman {
    fn new(manager: &'static str) -> Podman {
        let fixture = Fixture::with_own_root();
        // A short path: it has sockets in it.
        let home = fixture.path("h");
        let configs = home.join(".config/containers/containers.conf.d");
        fs::create_dir_all(&configs).unwrap();
        let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("tests/run sets it");
        let drop_in = Path::new(&package).join("contrib/containers.conf.d/lodger.conf");
        fs::copy(drop_in, configs.join("lodger.conf")).unwrap();
        let podman = Podman {
            home,
            manager,
            fixture,
        };
        let mut import = podman.command(&["import", "--quiet", "-", IMAGE]);
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(podman.fixture.rootfs()).args(["-c", "."]);
        let archive = podman.home.join("image.tar");
        tar.arg("-f").arg(&archive);
        spawn(&mut tar, b"").wait().ok();
        spawn(&mut import, &fs::read(&archive).unwrap()).wait().ok();
        podman
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        let manager = format!("--cgroup-manager={}", self.manager);
        command
            .args(["--events-backend=file", "--runtime"])
            .arg(runtime_binary());
        command
            .arg("--root")
            .arg(self.home.join("s"))
            .arg(manager)
            .args(args);
        command.env("HOME", &self.home);
        command
    }

    /// Starts a container that sleeps.
    fn sleeping(&self, name: &str) {
        let name = format!("--name={name}");
        self.ran(&["run", "-d", "--network=none", &name, IMAGE, "sleep", "600"])
            .ok();
    }

    /// What podman says of its status.
    fn status(&self, name: &str) -> String {
        self.says(&["inspect", "--format={{.State.Status}}", name])
    }

    fn says(&self, args: &[&str]) -> String {
        self.ran(args).ok().trim_end().to_owned()
    }

    fn ran(&self, args: &[&str]) -> Ran {
        spawn(&mut self.command(args), b"").wait()
    }

    /// What `podman run` of this script says, without a network, which is not what this is about.
    fn sh(&self, options: &[&str], script: &str) -> String {
        self.says(
            &[
                &["run", "--rm", "--network=none"],
                options,
                &[IMAGE, "sh", "-c", script],
            ]
            .concat(),
        )
    }
}

const READ: &str = "cd /sys/fs/cgroup && cat memory.max pids.max cpu.max";
const LIMITS: [&str; 3] = ["--memory=64m", "--pids-limit=50", "--cpus=0.5"];

#[test]
fn limits_by_systemd() {
    let podman = Podman::new("systemd");
    assert_eq!(podman.sh(&LIMITS, READ), "67108864\n50\n50000 100000");
    assert_eq!(
        podman.sh(&[], "cat /sys/fs/cgroup/pids.max"),
        "2048",
        "podman's own default"
    );
    let memory = ["--memory=24m", "--memory-swap=24m"];
    let eats = [
        "run",
        "--rm",
        "--network=none",
        IMAGE,
        "sh",
        "-c",
        "head -c 64m /dev/zero | tail",
    ];
    podman
        .ran(&[&eats[..3], &memory, &eats[3..]].concat())
        .exits(137);

    podman.sleeping("c");
    let status = || podman.status("c");
    podman.ran(&["pause", "c"]).ok();
    assert_eq!(status(), "paused");
    podman.ran(&["unpause", "c"]).ok();
    assert_eq!(status(), "running");
    assert_eq!(
        podman.says(&["stats", "--no-stream", "--format={{.PIDs}}", "c"]),
        "1"
    );
    podman.ran(&["update", "--memory=32m", "c"]).ok();
    let limit = podman.says(&["exec", "c", "cat", "/sys/fs/cgroup/memory.max"]);
    assert_eq!(limit, "33554432");
    podman.ran(&["kill", "c"]).ok();
    assert_eq!(podman.says(&["wait", "c"]), "137");
    podman.ran(&["rm", "--force", "--time=0", "c"]).ok();
    let units = Command::new("systemctl")
        .args(["--user", "--all", "--no-legend", "list-units", "libpod-*"])
        .output();
    let units = String::from_utf8(units.unwrap().stdout).unwrap();
    // conmon's is podman's own to remove.
    let mut left = units.lines().filter(|unit| unit.contains("libpod-"));
    assert!(left.all(|unit| unit.contains("libpod-conmon-")), "{units}");
}

/// podman names no cgroup then: lodger makes one all the same, and its limits hold.
#[test]
fn limits_by_cgroupfs() {
    let podman = Podman::new("cgroupfs");
    if under_test() != "lodger" {
        crate::harness::skip!(
            "what a peer makes of limits without a cgroup that is named is its own"
        );
    }
    assert_eq!(podman.sh(&LIMITS, READ), "67108864\n50\n50000 100000");
    podman.sleeping("c");
    podman.ran(&["pause", "c"]).ok();
    assert_eq!(podman.status("c"), "paused");
    podman.ran(&["unpause", "c"]).ok();
    podman.ran(&["rm", "--force", "--time=0", "c"]).ok();
}
