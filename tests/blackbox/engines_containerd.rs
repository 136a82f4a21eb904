//! containerd, in a user namespace of the ordinary user as RootlessKit makes one for nerdctl and rootless Docker: there the
//! runtime is called as root, by containerd's shim through go-runc.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::engines_lab::{Engines, IMAGE, engines};
use crate::harness::{Ran, Running, skip, spawn, wait_for};
use crate::pty::{PROMPT, Pty};

/// A containerd with an image, which ends with the test.
pub(crate) struct Containerd<'a> {
    pub(crate) engines: &'a Engines,
    daemon: Running,
    id: String,
    socket: PathBuf,
}

impl<'a> Containerd<'a> {
    pub(crate) fn start(engines: &'a Engines) -> Containerd<'a> {
        let directory = engines.socket_directory();
        let config = directory.join("c.toml");
        let at = directory.to_str().unwrap();
        let text = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{at}/s\"\n"
        );
        fs::write(&config, text).unwrap();
        // The same filesystem is not mounted twice in one place.
        let script = "set -e; for at in /run /sys/fs/cgroup; do mount -t tmpfs none $at; done; \
                      mount -t cgroup2 none /sys/fs/cgroup; exec containerd -c \"$0\"";
        let mut command = engines.command(&[
            "unshare",
            "-U",
            "--map-root-user",
            "--map-auto",
            "-m",
            "-C",
            "sh",
            "-c",
            script,
            config.to_str().unwrap(),
        ]);
        let daemon = spawn(&mut command, b"");
        let containerd = Containerd {
            engines,
            id: format!("d{}", daemon.pid()),
            daemon,
            socket: directory.join("s"),
        };
        wait_for("containerd", || {
            (containerd.ctr(&["version"]).code == 0).then_some(())
        });
        let archive = directory.join("image.tar");
        let archive = archive.to_str().unwrap();
        let save = [
            "save",
            "--quiet",
            "--format",
            "oci-archive",
            "-o",
            archive,
            IMAGE,
        ];
        engines.podman(&save).ok();
        containerd
            .ctr(&["image", "import", "--no-unpack", archive])
            .ok();
        containerd
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let pid = self.daemon.pid().to_string();
        let enter = [
            "nsenter",
            "--preserve-credentials",
            "-U",
            "-m",
            "-C",
            "-t",
            &pid,
            "ctr",
            "-a",
            self.socket.to_str().unwrap(),
        ];
        self.engines.command(&[&enter, args].concat())
    }

    pub(crate) fn ctr(&self, args: &[&str]) -> Ran {
        spawn(&mut self.command(args), b"").wait()
    }

    /// `ctr run`, without the share of the processors that it asks for by default: a cgroup of these tests has no
    /// controller for that.
    pub(crate) fn run_command(&self, args: &[&str]) -> Command {
        let runtime = self.engines.runtime.to_str().unwrap();
        let options = [
            "run",
            "--snapshotter",
            "native",
            "--cpu-shares",
            "0",
            "--runc-binary",
            runtime,
        ];
        self.command(&[&options, args].concat())
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        spawn(&mut self.run_command(args), b"").wait()
    }

    /// The id of a container that no test beside this one has: they are all in one cgroup.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn task_status(&self, name: &str) -> Option<String> {
        let list = self.ctr(&["task", "ls"]).ok();
        let line = list
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))?;
        Some(line.split_whitespace().last()?.to_owned())
    }
}

pub(crate) fn is_installed() -> bool {
    Path::new("/usr/bin/containerd").exists() && Path::new("/usr/bin/ctr").exists()
}

#[test]
fn containers_come_and_go() {
    engines(|e| {
        if !is_installed() {
            skip!("containerd is not installed");
        }
        let c = Containerd::start(e);
        assert_eq!(c.run(&["--rm", IMAGE, "a", "echo", "hi"]).ok(), "hi\n");
        c.run(&["--rm", IMAGE, "a", "sh", "-c", "exit 7"]).exits(7);
        let ran = c.run(&["--rm", IMAGE, "a", "nosuchprogram"]);
        assert!(ran.code != 0 && ran.err.contains("not found"), "{ran:#?}");
        if !e.with_peer() {
            assert!(
                ran.err.contains("executable file not found in $PATH"),
                "{ran:#?}"
            );
            // The share that every cgroup has is one that a container without cgroup has as well.
            c.run(&["--rm", "--cpu-shares", "1024", IMAGE, "a", "true"])
                .ok();
        }
        c.run(&["-d", IMAGE, "d", "sleep", "600"]).ok();
        assert_eq!(c.task_status("d").as_deref(), Some("RUNNING"));
        let exec = |id, script| c.ctr(&["task", "exec", "--exec-id", id, "d", "sh", "-c", script]);
        assert_eq!(exec("e1", "echo inside; id -u").ok(), "inside\n0\n");
        exec("e2", "exit 4").exits(4);
        assert_eq!(c.ctr(&["task", "ps", "d"]).ok().lines().count(), 2);
        if !e.with_peer() {
            c.ctr(&["task", "pause", "d"]).ok();
            assert_eq!(c.task_status("d").as_deref(), Some("PAUSED"));
            c.ctr(&["task", "resume", "d"]).ok();
            assert_eq!(c.task_status("d").as_deref(), Some("RUNNING"));
        }
        c.ctr(&["task", "kill", "--signal", "KILL", "d"]).ok();
        wait_for("its end", || {
            (c.task_status("d")? == "STOPPED").then_some(())
        });
        let ran = c.ctr(&["task", "delete", "d"]);
        assert!(ran.err.contains("137"), "{ran:#?}");
        c.ctr(&["container", "delete", "d"]).ok();
    });
}

#[test]
fn a_shell_on_a_terminal() {
    engines(|e| {
        if !is_installed() {
            skip!("containerd is not installed");
        }
        let c = Containerd::start(e);
        let prompt = format!("PS1={PROMPT}");
        let mut pty =
            Pty::spawn(&c.run_command(&["--rm", "-t", "--env", &prompt, IMAGE, "t", "sh"]));
        pty.expect(PROMPT);
        // ctr adds a carriage return to the one that the container's terminal has added, with every runtime.
        assert_eq!(pty.ask("echo $((6 * 7))").trim_end(), "42");
        assert_eq!(pty.ask("stty size").trim_end(), "24 80");
        pty.line("exit 5");
        assert_eq!(pty.wait().0, 5);
    });
}
