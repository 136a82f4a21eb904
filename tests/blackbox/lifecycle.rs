//! run, create, start, kill and delete.

use std::fs;

use crate::harness::{Fixture, lodger_only, peer_differs, read_lossy, skip, spawn, wait_for};

#[test]
fn run_gives_the_exit_code_of_the_payload() {
    for code in [0, 7] {
        let mut fixture = Fixture::new();
        fixture.sh(&format!("exit {code}"));
        let ran = fixture.run().exits(code);
        assert_eq!(ran.out, "");
    }
}

#[test]
fn run_gives_128_and_the_signal() {
    for (name, number) in [("KILL", 9), ("TERM", 15)] {
        let mut fixture = Fixture::new();
        // Pid 1 takes no signal from itself without a handler: a child dies of it, and the shell says so by its status.
        fixture.sh(&format!("sh -c 'kill -{name} $$'; exit $?"));
        fixture.run().exits(128 + number);
    }
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]);
    let running = fixture.background(&["run", "c"], b"");
    wait_for("the payload", || {
        (fixture.bare(&["state", "c"]).out.contains("running")).then_some(())
    });
    fixture.bare(&["kill", "c", "KILL"]).ok();
    running.wait().exits(128 + 9);
}

#[test]
fn run_passes_stdio_plainly() {
    let mut fixture = Fixture::new();
    fixture.sh("read line; echo out:$line; echo err >&2");
    let ran = fixture
        .background(&["run", "c"], b"hello\n")
        .wait()
        .exits(0);
    assert_eq!(ran.out, "out:hello\n");
    assert!(ran.err.ends_with("err\n"), "{ran:#?}");
}

#[test]
fn run_leaves_nothing_in_the_state_directory() {
    let fixture = Fixture::new();
    fixture.run().ok();
    assert_eq!(entries(&fixture), Vec::<String>::new());
    fixture.bare(&["state", "c"]).exits(1);
}

/// The containers in the state root; dot files are the runtime's own (a lock, a cache).
fn entries(fixture: &Fixture) -> Vec<String> {
    let names = fs::read_dir(fixture.path("state")).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect()
}

#[test]
fn run_forwards_signals_to_the_payload() {
    for (name, code) in [("TERM", 42), ("HUP", 43), ("USR1", 44), ("INT", 45)] {
        let mut fixture = Fixture::new();
        fixture.sh(&format!(
            "trap 'exit {code}' {name}; echo ready; while :; do sleep 0.05; done"
        ));
        let running = fixture.background(&["run", "c"], b"");
        wait_for("the payload to be ready", || {
            running.out().contains("ready").then_some(())
        });
        running.signal(name);
        running.wait().exits(code);
    }
}

#[test]
fn run_detached_returns_while_the_payload_runs() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let pid = fixture.state("c")["pid"].as_u64().unwrap();
    // The kernel has none to show while it sets the new program up.
    let cmdline = wait_for("the payload's command line", || {
        let line = read_lossy(format!("/proc/{pid}/cmdline").as_ref());
        (!line.is_empty()).then_some(line)
    });
    assert_eq!(cmdline, "/bin/sleep\u{0}600\u{0}");
}

#[test]
fn create_start_kill_delete() {
    let mut fixture = Fixture::with_own_root();
    fixture.sh("echo started >/tmp/started; exec sleep 600");
    fixture.runtime(&["create", "c"]).ok();
    assert_eq!(fixture.status("c"), "created");
    assert!(!fixture.rootfs().join("tmp/started").exists());

    fixture.bare(&["start", "c"]).ok();
    fixture.wait_status("c", "running");
    wait_for("the payload", || {
        fixture.rootfs().join("tmp/started").exists().then_some(())
    });

    fixture.bare(&["delete", "c"]).exits(1);
    fixture.bare(&["kill", "c", "KILL"]).ok();
    fixture.wait_status("c", "stopped");
    fixture.bare(&["delete", "c"]).ok();
    fixture.bare(&["state", "c"]).exits(1);
    assert_eq!(entries(&fixture), Vec::<String>::new());
}

#[test]
fn an_id_can_be_used_again_after_delete() {
    let fixture = Fixture::new();
    for _ in 0..2 {
        fixture.runtime(&["create", "c"]).ok();
        fixture.bare(&["start", "c"]).ok();
        fixture.wait_status("c", "stopped");
        fixture.bare(&["delete", "c"]).ok();
    }
}

#[test]
fn a_container_that_is_created_can_be_killed_and_deleted() {
    let fixture = Fixture::new();
    fixture.runtime(&["create", "killed"]).ok();
    fixture.bare(&["kill", "killed", "KILL"]).ok();
    fixture.wait_status("killed", "stopped");
    fixture.bare(&["delete", "killed"]).ok();

    fixture.runtime(&["create", "deleted"]).ok();
    fixture.bare(&["delete", "deleted"]).ok();
    assert_eq!(entries(&fixture), Vec::<String>::new());
}

#[test]
fn delete_force_kills() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let pid = fixture.state("c")["pid"].as_u64().unwrap();
    fixture.bare(&["delete", "-f", "c"]).ok();
    assert_eq!(entries(&fixture), Vec::<String>::new());
    wait_for("the payload to be gone", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        (status.is_empty() || status.contains("State:\tZ")).then_some(())
    });
}

#[test]
fn delete_force_of_a_missing_container_succeeds() {
    Fixture::new().bare(&["delete", "--force", "nobody"]).ok();
}

#[test]
fn kill_takes_a_name_a_signame_and_a_number() {
    for signal in ["TERM", "SIGTERM", "15"] {
        let mut fixture = Fixture::new();
        fixture.sh("trap 'echo got it; exit 0' TERM; echo ready; while :; do sleep 0.05; done");
        let running = fixture.background(&["run", "c"], b"");
        wait_for("the payload to be ready", || {
            running.out().contains("ready").then_some(())
        });
        fixture.bare(&["kill", "c", signal]).ok();
        assert_eq!(running.wait().ok(), "ready\ngot it\n");
    }
}

#[test]
fn kill_without_a_signal_sends_term() {
    let mut fixture = Fixture::new();
    fixture.sh("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done");
    let running = fixture.background(&["run", "c"], b"");
    wait_for("the payload to be ready", || {
        running.out().contains("ready").then_some(())
    });
    fixture.bare(&["kill", "c"]).ok();
    running.wait().exits(9);
}

#[test]
fn the_pid_file_holds_the_pid_and_nothing_else() {
    let fixture = Fixture::new();
    let file = fixture.path("pid");
    fixture
        .runtime(&["create", "--pid-file", file.to_str().unwrap(), "c"])
        .ok();
    let pid = fixture.state("c")["pid"].as_u64().unwrap();
    assert_eq!(read_lossy(&file), pid.to_string());
}

#[test]
fn the_pid_file_of_a_detached_run() {
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]);
    let file = fixture.path("pid");
    fixture
        .runtime(&["run", "-d", "--pid-file", file.to_str().unwrap(), "c"])
        .ok();
    let pid = fixture.state("c")["pid"].as_u64().unwrap();
    assert_eq!(read_lossy(&file), pid.to_string());
}

#[test]
fn the_bundle_is_given_by_an_option() {
    let mut fixture = Fixture::new();
    fixture.sh("echo here");
    fixture.write_config();
    let bundle = fixture.bundle();
    for option in ["-b", "--bundle"] {
        let args = ["run", option, bundle.to_str().unwrap(), "c"];
        let mut command = fixture.command(&args);
        command.current_dir("/");
        assert_eq!(spawn(&mut command, b"").wait().ok(), "here\n");
    }
}

#[test]
fn config_edited_after_create_does_not_matter() {
    let mut fixture = Fixture::with_own_root();
    fixture.sh("echo first >/tmp/which");
    fixture.runtime(&["create", "c"]).ok();
    fixture.sh("echo second >/tmp/which");
    fixture.write_config();
    fixture.bare(&["start", "c"]).ok();
    fixture.wait_status("c", "stopped");
    assert_eq!(read_lossy(&fixture.rootfs().join("tmp/which")), "first\n");
}

#[test]
fn the_payload_outlives_the_bundle_config() {
    peer_differs!("runc", "reads config.json of the bundle again at exec");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    fs::remove_file(fixture.bundle().join("config.json")).unwrap();
    assert_eq!(fixture.status("c"), "running");
    fixture.bare(&["exec", "c", "/bin/true"]).ok();
    fixture.bare(&["kill", "c", "KILL"]).ok();
    fixture.wait_status("c", "stopped");
    fixture.bare(&["delete", "c"]).ok();
}

#[test]
fn a_config_without_a_user_namespace_runs() {
    lodger_only!("the default user namespace");
    let mut fixture = Fixture::new();
    fixture.sh("id -u; id -g");
    assert_eq!(fixture.run().ok(), "0\n0\n");
}

#[test]
fn many_containers_at_once() {
    let fixture = Fixture::new();
    fixture.write_config();
    let ids: Vec<String> = (0..8).map(|number| format!("c{number}")).collect();
    let running: Vec<_> = ids
        .iter()
        .map(|id| spawn(&mut fixture.command(&["run", id]), b""))
        .collect();
    for one in running {
        one.wait().ok();
    }
    assert_eq!(entries(&fixture), Vec::<String>::new());
}

/// Under strace a setuid helper has no privilege, so a run that needs one fails.
#[test]
fn a_second_container_starts_no_helper() {
    lodger_only!("the warm start");
    if !std::path::Path::new("/usr/bin/strace").exists() {
        skip!("strace is not installed");
    }
    let mut fixture = Fixture::new();
    fixture.sleeping("first");
    fixture.args(&["/bin/echo", "warm"]);
    fixture.write_config();
    let run = fixture.command(&["run", "second"]);
    let mut traced = std::process::Command::new("/usr/bin/strace");
    traced
        .args(["-f", "-qq", "-e", "trace=execve"])
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(fixture.bundle());
    let ran = spawn(&mut traced, b"").wait().exits(0);
    assert_eq!(ran.out, "warm\n");
    assert!(
        !ran.err.contains("newuidmap") && !ran.err.contains("newgidmap"),
        "{}",
        ran.err
    );
}

#[test]
fn a_container_after_the_last_one_has_ended_starts_cold() {
    let mut fixture = Fixture::new();
    fixture.sleeping("first");
    fixture.bare(&["kill", "first", "KILL"]).ok();
    fixture.wait_status("first", "stopped");
    // The record of the first is still there, its namespace is not.
    fixture.args(&["/bin/echo", "cold"]);
    assert_eq!(fixture.runtime(&["run", "second"]).ok(), "cold\n");
}
