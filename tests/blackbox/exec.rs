//! exec: another program in a running container.

use std::path::Path;

use serde_json::json;

use crate::harness::{Fixture, lodger_only, peer, peer_differs, skip, spawn, wait_for};
use crate::pty::Pty;

#[test]
fn it_runs_in_the_namespaces_of_the_container() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let script = "for n in pid ipc uts net mnt user; do readlink /proc/self/ns/$n; done";
    let inside = fixture.bare(&["exec", "c", "/bin/sh", "-c", script]).ok();
    let init = script.replace("self", "1");
    let of_init = fixture.bare(&["exec", "c", "/bin/sh", "-c", &init]);
    // Pid 1 may be out of reach for want of privilege over it; then its namespaces are looked at from outside.
    if of_init.code == 0 && !of_init.out.is_empty() {
        assert_eq!(inside, of_init.out);
    }
    assert_eq!(
        fixture
            .bare(&["exec", "c", "/bin/cat", "/proc/sys/kernel/hostname"])
            .ok(),
        "inside\n"
    );
}

#[test]
fn it_gives_the_exit_code() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    for code in [0, 3] {
        let script = format!("exit {code}");
        fixture
            .bare(&["exec", "c", "/bin/sh", "-c", &script])
            .exits(code);
    }
    fixture
        .bare(&["exec", "c", "/bin/sh", "-c", "kill -KILL $$"])
        .exits(128 + 9);
}

#[test]
fn it_passes_stdio_plainly() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let args = [
        "exec",
        "c",
        "/bin/sh",
        "-c",
        "read x; echo out:$x; echo err >&2",
    ];
    let ran = spawn(&mut fixture.command(&args), b"hello\n")
        .wait()
        .exits(0);
    assert_eq!(ran.out, "out:hello\n");
    assert_eq!(ran.err, "err\n");
}

#[test]
fn it_looks_the_program_up_in_the_path_of_the_container() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    assert_eq!(
        fixture.bare(&["exec", "c", "echo", "found"]).ok(),
        "found\n"
    );
}

#[test]
fn arguments_that_look_like_options_belong_to_the_program() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let ran = fixture.bare(&["exec", "c", "echo", "-e", "--cwd", "--", "-u"]);
    let out = ran.ok();
    // busybox's and coreutils' echo take -e for their own, dash's does not.
    assert!(out.ends_with("--cwd -- -u\n"), "{out:?}");
}

#[test]
fn the_user_is_given_by_numbers() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let script = "id -u; id -g";
    for option in ["-u", "--user"] {
        let ran = fixture.bare(&["exec", option, "5:7", "c", "/bin/sh", "-c", script]);
        assert_eq!(ran.ok(), "5\n7\n");
    }
}

#[test]
fn the_environment_is_that_of_the_config_and_what_is_added() {
    peer_differs!(
        "crun",
        "1.8 gives exec the environment of its -e options alone, if there are any"
    );
    let mut fixture = Fixture::new();
    fixture.config["process"]["env"] =
        serde_json::json!(["PATH=/bin:/usr/bin", "FROM=config", "BOTH=config"]);
    fixture.sleeping("c");
    let args = ["exec", "-e", "ADDED=1", "-e", "BOTH=exec", "c", "env"];
    let out = fixture.bare(&args).ok();
    let lines: Vec<&str> = out.lines().collect();
    for wanted in ["FROM=config", "ADDED=1", "BOTH=exec"] {
        assert!(lines.contains(&wanted), "{wanted} in {out}");
    }
    assert!(!lines.contains(&"BOTH=config") || peer(), "{out}");
    assert!(
        !out.contains("XDG_RUNTIME_DIR"),
        "the caller's environment stays outside: {out}"
    );
}

#[test]
fn the_environment_by_the_long_option() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let args = [
        "exec",
        "--env",
        "ADDED=1",
        "c",
        "/bin/sh",
        "-c",
        "echo $ADDED",
    ];
    assert_eq!(fixture.bare(&args).ok(), "1\n");
}

#[test]
fn the_working_directory() {
    peer_differs!("crun", "1.8 runs exec in /");
    let mut fixture = Fixture::new();
    fixture.config["process"]["cwd"] = "/etc".into();
    fixture.sleeping("c");
    assert_eq!(fixture.bare(&["exec", "c", "pwd"]).ok(), "/etc\n");
    assert_eq!(
        fixture
            .bare(&[
                "exec",
                "--cwd",
                "/bin",
                "c",
                "/bin/sh",
                "-c",
                "cd .; pwd -P"
            ])
            .ok()
            .lines()
            .count(),
        1
    );
    let ran = fixture.bare(&["exec", "--cwd", "/proc", "c", "pwd"]);
    assert_eq!(ran.ok(), "/proc\n");
}

#[test]
fn it_has_the_limits_and_capabilities_of_the_config() {
    peer_differs!("crun", "1.8 gives exec no resource limits");
    let mut fixture = Fixture::new();
    fixture.config["process"]["rlimits"] =
        serde_json::json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    fixture.sleeping("c");
    peer_differs!("runc", "1.1 raises the soft limit of open files");
    let limits = fixture
        .bare(&["exec", "c", "cat", "/proc/self/limits"])
        .ok();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(&fields[3..5], ["100", "200"]);
    let status = fixture
        .bare(&["exec", "c", "cat", "/proc/self/status"])
        .ok();
    assert!(status.contains("CapBnd:\t0000000020000420"), "{status}");
    assert!(status.contains("CapEff:\t0000000020000420"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
}

#[test]
fn a_program_that_is_not_there() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    fixture.bare(&["exec", "c", "no-such-program"]).fails(
        255,
        "exec: \"no-such-program\": executable file not found in $PATH",
    );
}

#[test]
fn a_program_that_cannot_be_run() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    fixture
        .bare(&["exec", "c", "/etc/passwd"])
        .fails(255, "exec: \"/etc/passwd\": permission denied");
    fixture
        .bare(&["exec", "c", "/etc"])
        .fails(255, "exec: \"/etc\": is a directory: permission denied");
}

#[test]
fn a_stopped_container_is_refused() {
    let fixture = Fixture::new();
    fixture.runtime(&["create", "c"]).ok();
    fixture.bare(&["start", "c"]).ok();
    fixture.wait_status("c", "stopped");
    fixture
        .bare(&["exec", "c", "/bin/true"])
        .fails(255, "cannot exec in a stopped container");
}

#[test]
fn a_missing_container_is_refused() {
    let fixture = Fixture::new();
    fixture
        .bare(&["exec", "nobody", "/bin/true"])
        .fails(255, "container does not exist");
}

#[test]
fn signals_are_forwarded() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let script = "trap 'exit 21' TERM; echo ready; while :; do sleep 0.05; done";
    let running = spawn(
        &mut fixture.command(&["exec", "c", "/bin/sh", "-c", script]),
        b"",
    );
    wait_for("the program", || {
        running.out().contains("ready").then_some(())
    });
    running.signal("TERM");
    running.wait().exits(21);
}

#[test]
fn the_container_outlives_it() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    fixture
        .bare(&["exec", "c", "/bin/sh", "-c", "exit 1"])
        .exits(1);
    assert_eq!(fixture.status("c"), "running");
}

/// In a map that leaves the caller's own ids out, what joins is still the container's: its terminal and its keyring.
#[test]
fn who_joins_is_root_where_the_caller_is_nobody() {
    lodger_only!("a map without the caller's own id");
    let ids = ["/etc/subuid", "/etc/subgid"].map(crate::base::subordinate_range);
    let [Some((uids, _)), Some((gids, _))] = ids else {
        skip!("there are no subordinate ids");
    };
    let mut fixture = Fixture::new();
    let map = |start| json!([{"containerID": 0, "hostID": start, "size": 1000}]);
    fixture.config["linux"]["uidMappings"] = map(uids);
    fixture.config["linux"]["gidMappings"] = map(gids);
    let linux = &mut fixture.config["linux"];
    let namespaces = linux["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    let masked = linux["maskedPaths"].as_array_mut().unwrap();
    masked.retain(|path| path != "/proc/keys");
    // An id that no other test has: until a keyring has its permissions, all containers of the same ids see it.
    fixture.sleeping("nobodys");
    let script = "stat -c %u /dev/pts/0; echo again >/dev/pts/0";
    let mut pty = Pty::spawn(&fixture.command(&["exec", "-t", "nobodys", "/bin/sh", "-c", script]));
    assert_eq!(pty.wait(), (0, "0\r\nagain\r\n".to_owned()));
    if Path::new("/proc/keys").exists() {
        let keys = fixture
            .bare(&["exec", "nobodys", "/bin/cat", "/proc/keys"])
            .ok();
        let own = keys.lines().filter(|line| line.contains("_ses.nobodys"));
        assert_eq!(own.count(), 1, "{keys}");
    }
}
