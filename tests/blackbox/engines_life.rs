//! The life of podman's containers: detached, looked into, on a terminal, signalled, in pods, many at once.

use std::time::Duration;

use crate::engines_lab::{Engines, IMAGE, engines, shown};
use crate::harness::{skip, spawn, wait_for};
use crate::pty::{PROMPT, Pty};

/// A shell script that tells of SIGTERM, and ends with 3.
const TRAP: &str =
    "trap 'echo term; exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.05; done";

#[test]
fn a_detached_container_is_logged_stopped_and_removed() {
    engines(|e| {
        let name = e.name("trap");
        e.run(&["-d", "--name", &name, IMAGE, "sh", "-c", TRAP])
            .ok();
        let logs = || {
            let ran = e.podman(&["logs", &name]);
            (ran.out, ran.err)
        };
        wait_for("the logs", || {
            (logs() == ("out\n".into(), "err\n".into())).then_some(())
        });
        assert_eq!(status(e, &name), "running");
        e.podman(&["stop", "--time", "40", &name]).ok();
        assert_eq!(e.podman(&["wait", &name]).ok(), "3\n");
        assert_eq!(logs().0, "out\nterm\n");
        assert_eq!(status(e, &name), "exited");
        // Once more, from the same config.
        e.podman(&["start", &name]).ok();
        e.podman(&["restart", "--time", "10", &name]).ok();
        assert_eq!(status(e, &name), "running");
        e.podman(&["rm", "--force", "--time", "0", &name]).ok();
        e.podman(&["container", "exists", &name]).exits(1);
    });
}

fn status(e: &Engines, name: &str) -> String {
    let format = ["inspect", "--format", "{{.State.Status}}", name];
    e.podman(&format).ok().trim().to_owned()
}

#[test]
fn signals_end_a_container() {
    engines(|e| {
        let name = e.sleeping(&[]);
        e.podman(&["kill", &name]).ok();
        assert_eq!(e.podman(&["wait", &name]).ok(), "137\n");
        e.podman(&["rm", &name]).ok();
        // In the host's pid namespace the first process has no protection against a signal.
        let name = e.sleeping(&["--pid=host"]);
        e.podman(&["kill", "--signal", "TERM", &name]).ok();
        assert_eq!(e.podman(&["wait", &name]).ok(), "143\n");
        e.podman(&["rm", &name]).ok();
    });
}

/// Without a pid namespace nothing ends the other processes by itself.
#[test]
fn a_container_in_the_pid_namespace_of_the_host_leaves_no_process() {
    engines(|e| {
        let name = e.name("host-pid");
        let mark = format!("6{}", 100 + std::process::id() % 800);
        let script = format!("sleep {mark} & sleep {mark}");
        e.run(&[
            "-d",
            "--pid=host",
            "--name",
            &name,
            IMAGE,
            "sh",
            "-c",
            &script,
        ])
        .ok();
        let sleepers = || {
            let all = std::fs::read_dir("/proc").unwrap();
            let lines = all.filter_map(|p| std::fs::read(p.ok()?.path().join("cmdline")).ok());
            let wanted = format!("sleep\0{mark}\0");
            lines.filter(|line| line == wanted.as_bytes()).count()
        };
        wait_for("two processes", || (sleepers() == 2).then_some(()));
        let removed = e.podman(&["rm", "--force", "--time", "0", &name]);
        if e.with_peer() && (removed.code != 0 || sleepers() != 0) {
            skip!(
                "a peer does not end all processes of a container without cgroup and pid namespace"
            );
        }
        removed.ok();
        wait_for("their end", || (sleepers() == 0).then_some(()));
    });
}

#[test]
fn commands_in_a_running_container() {
    engines(|e| {
        let name = e.sleeping(&["--env", "FROM=config"]);
        let exec = |args: &[&str]| e.podman(&[&["exec"], args].concat());
        let told = |args: &[&str]| shown(|| exec(args)).ok();
        assert_eq!(told(&[&name, "sh", "-c", "echo $FROM"]), "config\n");
        exec(&[&name, "sh", "-c", "exit 9"]).exits(9);
        let script = "id -u; pwd; echo $X";
        let out = told(&[
            "--user",
            "1",
            "--workdir",
            "/tmp",
            "--env",
            "X=y",
            &name,
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(out, "1\n/tmp\ny\n");
        exec(&[&name, "nosuchprogram"]).exits(127);
        exec(&[&name, "/etc"]).exits(126);
        let mut command = e.podman_command(&["exec", "-i", &name, "cat"]);
        assert_eq!(shown(|| spawn(&mut command, b"in\n").wait()).ok(), "in\n");
        exec(&["-d", &name, "touch", "/tmp/detached"]).ok();
        wait_for("a detached exec", || {
            (exec(&[&name, "test", "-e", "/tmp/detached"]).code == 0).then_some(())
        });
        assert!(e.podman(&["top", &name]).ok().contains("sleep 600"));
    });
}

/// The container is set up, and its program not started yet.
#[test]
fn a_created_container_starts_later() {
    engines(|e| {
        let name = e.name("created");
        let args = [
            &["create", "--name", &name],
            e.without(),
            &[IMAGE, "echo", "late"],
        ]
        .concat();
        e.podman(&args).ok();
        e.podman(&["init", &name]).ok();
        assert_eq!(status(e, &name), "initialized");
        e.podman(&["start", "--attach", &name]).ok();
        assert_eq!(e.podman(&["logs", &name]).ok(), "late\n");
    });
}

/// The acceptance command: a shell on a terminal.
#[test]
fn a_shell_on_a_terminal() {
    engines(|e| {
        let prompt = format!("PS1={PROMPT}");
        let command = e.run_command(&["--rm", "-it", "--env", &prompt, IMAGE, "sh"]);
        let mut pty = Pty::spawn(&command);
        pty.expect(PROMPT);
        assert_eq!(pty.ask("echo $((6 * 7))"), "42\r\n");
        assert_eq!(pty.ask("stty size"), "24 80\r\n");
        pty.resize(40, 100);
        wait_for("the new size", || {
            (pty.ask("stty size") == "40 100\r\n").then_some(())
        });
        assert_eq!(pty.ask("tty"), "/dev/pts/0\r\n");
        // The terminal is the controlling one.
        pty.line("sh -c 'echo in the fore''ground; exec sleep 600'");
        pty.expect("in the foreground");
        // Once: a second one might come when the shell reads the next line.
        pty.type_keys("\x03");
        pty.expect(PROMPT);
        pty.line("exit 5");
        assert_eq!(pty.wait().0, 5);
        assert!(pty.is_cooked());
    });
}

#[test]
fn a_shell_on_a_terminal_in_a_running_container() {
    engines(|e| {
        let name = e.sleeping(&[]);
        let prompt = format!("PS1={PROMPT}");
        let command = e.podman_command(&["exec", "-it", "--env", &prompt, &name, "sh"]);
        let mut pty = Pty::spawn(&command);
        pty.expect(PROMPT);
        assert_eq!(pty.ask("echo $((6 * 7))"), "42\r\n");
        assert_eq!(pty.ask("stty size"), "24 80\r\n");
        pty.line("exit 6");
        assert_eq!(pty.wait().0, 6);
        // And one that is attached to.
        let name = e.name("attached");
        e.run(&["-dit", "--name", &name, "--env", &prompt, IMAGE, "sh"])
            .ok();
        let mut pty = Pty::spawn(&e.podman_command(&["attach", &name]));
        wait_for("the prompt", || {
            pty.type_keys("\r");
            std::thread::sleep(Duration::from_millis(20));
            pty.has(PROMPT).then_some(())
        });
        pty.type_keys("exit 8\r");
        pty.wait();
        assert_eq!(e.podman(&["wait", &name]).ok(), "8\n");
    });
}

/// They share the network and the host name: namespaces are joined by path.
#[test]
fn containers_in_a_pod() {
    engines(|e| {
        let pod = e.name("pod");
        let created = e.podman(&[
            "pod",
            "create",
            "--name",
            &pod,
            "--infra-image",
            IMAGE,
            "--infra-command",
            "/bin/sleep 600",
        ]);
        created.ok();
        let of_pod = ["--pod", &pod];
        let server = e.name("server");
        let listen = [
            "-d",
            "--name",
            &server,
            IMAGE,
            "nc",
            "-l",
            "-p",
            "99",
            "-e",
            "echo",
            "from the pod",
        ];
        e.run(&[&of_pod[..], &listen].concat()).ok();
        let script =
            "for i in $(seq 600); do nc 127.0.0.1 99 2>/dev/null && exit; sleep 0.05; done; exit 1";
        assert_eq!(e.sh(&of_pod, script), "from the pod\n");
        assert_eq!(e.sh(&of_pod, "hostname"), format!("{pod}\n"));
        e.podman(&["pod", "rm", "--force", "--time", "0", &pod])
            .ok();
    });
}

#[test]
fn thirty_containers_at_once() {
    engines(|e| {
        let names: Vec<String> = (0..30).map(|_| e.name("crowd")).collect();
        // A few at a time: each podman has a dozen threads.
        for few in names.chunks(5) {
            let starting: Vec<_> = few
                .iter()
                .map(|name| e.start(&["-d", "--name", name, IMAGE, "sleep", "600"]))
                .collect();
            for running in starting {
                running.wait().ok();
            }
        }
        let mut running = vec!["inspect", "--format", "{{.State.Status}}"];
        running.extend(names.iter().map(String::as_str));
        assert_eq!(e.podman(&running).ok(), "running\n".repeat(30));
        let mut kill = vec!["kill"];
        kill.extend(names.iter().map(String::as_str));
        e.podman(&kill).ok();
        let mut wait = vec!["wait"];
        wait.extend(names.iter().map(String::as_str));
        assert_eq!(e.podman(&wait).ok(), "137\n".repeat(30));
    });
}

/// In the cgroup that is made beneath that of these tests.
#[test]
fn a_container_is_paused() {
    engines(|e| {
        if e.with_peer() {
            skip!("whether a peer can pause is decided by the cgroup it gets");
        }
        let name = e.sleeping(&[]);
        e.podman(&["pause", &name]).ok();
        assert_eq!(status(e, &name), "paused");
        e.podman(&["unpause", &name]).ok();
        assert_eq!(status(e, &name), "running");
        e.podman(&["exec", &name, "true"]).ok();
    });
}
