//! What engines put before the verb, and how they read the version.

use serde_json::json;

use crate::harness::{Fixture, lodger_only, peer_differs, runtime_binary, spawn};

/// As moby reads it: the last word after `version`, and what follows `commit:`.
#[test]
fn engines_can_read_the_version() {
    lodger_only!("the version");
    let fixture = Fixture::new();
    for option in ["--version", "-v", "-V"] {
        let text = fixture.bare(&[option]).ok();
        let lines: Vec<&str> = text.lines().collect();
        let (name, version) = lines[0].split_once(" version ").unwrap();
        assert_eq!((name, version), ("lodger", env!("CARGO_PKG_VERSION")));
        let others: Vec<&&str> = lines[1..]
            .iter()
            .filter(|l| l.contains("version"))
            .collect();
        assert!(others.is_empty(), "{text}");
        let commit = lines.iter().find_map(|line| line.strip_prefix("commit: "));
        assert!(commit.is_some_and(|commit| !commit.is_empty()), "{text}");
        assert!(lines.contains(&"spec: 1.3.0"), "{text}");
        assert!(text.ends_with('\n'));
    }
}

#[test]
fn the_state_directory_is_never_the_root_of_the_filesystem() {
    lodger_only!("--root");
    let fixture = Fixture::new();
    for root in ["/", "//", "/."] {
        // The last one given would be an error of its own.
        let mut command = std::process::Command::new(runtime_binary());
        command.args(["--root", root, "list"]);
        spawn(&mut command, b"")
            .wait()
            .fails(1, "option --root argument should not be set to /");
    }
    // Relative to where it is called.
    let mut command = std::process::Command::new(runtime_binary());
    command
        .args(["--root=state", "list", "-q"])
        .current_dir(fixture.path(""));
    spawn(&mut command, b"").wait().ok();
}

/// Slurm's documented oci.conf, and what go-runc and conmon put before the verb.
#[test]
fn the_global_options_of_engines_are_taken() {
    lodger_only!("the options of engines");
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.write_config();
    let log = fixture.path("log");
    let bundle = fixture.bundle();
    let pid_file = fixture.path("pid");
    let (log, bundle, pid_file) = (
        log.to_str().unwrap(),
        bundle.to_str().unwrap(),
        pid_file.to_str().unwrap(),
    );
    let go_runc = [
        "--debug",
        "--log",
        log,
        "--log-format",
        "json",
        "--rootless=true",
    ];
    let run = |args: &[&str]| {
        let whole: Vec<&str> = go_runc.iter().chain(args).copied().collect();
        fixture.bare(&whole)
    };
    // The harness deletes what it saw `create` for.
    let _cleaned = fixture.command(&["create", "c"]);
    run(&["create", "--bundle", bundle, "--pid-file", pid_file, "c"]).ok();
    run(&["start", "c"]).ok();
    run(&["ps", "--format", "json", "c"]).ok();
    run(&["kill", "--all", "c", "9"]).ok();
    fixture.wait_status("c", "stopped");
    run(&["delete", "--force", "c"]).ok();
    let slurm = |args: &[&str]| {
        let whole: Vec<&str> = ["--rootless=true"].iter().chain(args).copied().collect();
        fixture.bare(&whole)
    };
    slurm(&["create", "c", "-b", bundle]).ok();
    slurm(&["start", "c"]).ok();
    slurm(&["state", "c"]).ok();
    slurm(&["kill", "-a", "c"]).ok();
    slurm(&["kill", "-a", "c", "KILL"]).ok();
    slurm(&["delete", "--force", "c"]).ok();
}

/// As podman writes it for `--pid=host`, with the parameter that it always sets.
#[test]
fn kernel_parameters_are_set_with_the_pid_namespace_of_the_host() {
    let mut fixture = Fixture::new();
    fixture.without_namespace("pid").unmount("/proc");
    fixture.mount(json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind", "nosuid"]}));
    fixture.config["linux"]["sysctl"] =
        json!({"net.ipv4.ping_group_range": "0 0", "kernel.msgmax": "9000"});
    fixture.args(&[
        "/bin/cat",
        "/proc/sys/net/ipv4/ping_group_range",
        "/proc/sys/kernel/msgmax",
    ]);
    assert_eq!(fixture.run().ok(), "0\t0\n9000\n");
}

/// As every engine that knows of cgroups writes it. Each of the ways to ask for one is told once.
#[test]
fn a_cgroup_that_is_not_made_is_told() {
    lodger_only!("the note on a cgroup that is not made");
    let mut fixture = Fixture::new();
    let told = |fixture: &Fixture, options: &[&str]| {
        fixture.write_config();
        let whole: Vec<&str> = options.iter().chain(&["run", "c"]).copied().collect();
        let ran = fixture.bare(&whole).exits(0);
        (ran.err.matches("/linux/cgroupsPath: ").count(), ran.err)
    };
    assert_eq!(told(&fixture, &["--cgroup-manager=disabled"]).0, 0);
    // Engines give the one, and whoever uses them the other.
    let both = &["--systemd-cgroup", "--cgroup-manager=disabled"];
    assert_eq!(told(&fixture, both).0, 0);
    for options in [
        &["--systemd-cgroup"][..],
        &["--cgroup-manager", "systemd"],
        &["--cgroup-manager=cgroupfs"],
    ] {
        let (count, err) = told(&fixture, options);
        assert_eq!(count, 1, "{err}");
        let manager = options
            .join("=")
            .replace("--systemd-cgroup", "--cgroup-manager=systemd");
        assert!(err.contains(&manager.replace('=', " ")), "{err}");
    }
    fixture.config["linux"]["cgroupsPath"] = json!("user.slice:libpod:c");
    let (count, err) = told(&fixture, &["--systemd-cgroup"]);
    assert_eq!(count, 1, "{err}");
    assert!(err.contains("stays in its caller's cgroup"), "{err}");
    // What asks for no limit is no reason to fail, and what asks for one is.
    fixture.config["linux"]["resources"] =
        json!({"pids": {"limit": 0}, "memory": {"limit": -1}, "cpu": {"shares": 1024}});
    assert!(
        told(&fixture, &[])
            .1
            .contains("/linux/resources/pids/limit: 0 is")
    );
    fixture.config["linux"]["resources"] = json!({"pids": {"limit": 2048}});
    fixture.run().fails(1, "nobody can keep this limit");
}

/// Paths count from where the caller is, as conmon and Slurm have it, and not from the bundle.
#[test]
fn a_pid_file_counts_from_where_the_caller_is() {
    peer_differs!(
        "crun",
        "1.8 writes the relative pid file of create in the bundle"
    );
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]).write_config();
    let elsewhere = fixture.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let bundle = fixture.bundle();
    let create = [
        "create",
        "--bundle",
        bundle.to_str().unwrap(),
        "--pid-file",
        "pid",
        "c",
    ];
    spawn(fixture.command(&create).current_dir(&elsewhere), b"")
        .wait()
        .ok();
    fixture.sleeping("d");
    let exec = [
        "exec",
        "--detach",
        "--pid-file",
        "second",
        "d",
        "/bin/sleep",
        "600",
    ];
    spawn(fixture.command(&exec).current_dir(&elsewhere), b"")
        .wait()
        .ok();
    let written = std::fs::read_to_string(elsewhere.join("pid")).unwrap();
    assert_eq!(written, fixture.state("c")["pid"].to_string());
    let written = std::fs::read_to_string(elsewhere.join("second")).unwrap();
    assert!(crate::harness::lives(written.parse().unwrap()));
}

/// As docker exec and ctr tasks exec may do before the container is started.
#[test]
fn commands_run_in_a_container_that_is_not_started() {
    peer_differs!(
        "crun",
        "1.8 fails: it may not join the user namespace of a container that is not started"
    );
    let fixture = Fixture::new();
    fixture.runtime(&["create", "c"]).ok();
    let ran = fixture.bare(&["exec", "c", "/bin/hostname"]);
    assert_eq!(ran.ok(), "inside\n");
    assert_eq!(fixture.status("c"), "created");
}

/// config.md wants it absolute, and what it would be relative to is nowhere said.
#[test]
fn a_relative_working_directory_of_exec_is_refused() {
    peer_differs!("crun", "1.8 counts it from the root");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    fixture
        .bare(&["exec", "--cwd", "usr/bin", "c", "/bin/pwd"])
        .fails(255, "the working directory \"usr/bin\" is not absolute");
}

/// What buildkit, and CRI-O's synchronous exec, do with the exit code: it is the program's.
#[test]
fn exit_codes_of_the_foreground_are_the_programs() {
    let mut fixture = Fixture::new();
    fixture.sh("exit 42").write_config();
    let log = fixture.path("log.json");
    let bundle = fixture.bundle();
    let (log, bundle) = (log.to_str().unwrap(), bundle.to_str().unwrap());
    // The harness deletes what it saw `run` for.
    let _cleaned = fixture.command(&["run", "b"]);
    let buildkit = [
        "--log",
        log,
        "--log-format",
        "json",
        "run",
        "--bundle",
        bundle,
        "b",
    ];
    fixture.bare(&buildkit).exits(42);
    fixture.sleeping("c");
    let process = fixture.path("process.json");
    let text =
        json!({"args": ["/bin/sh", "-c", "exit 43"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    std::fs::write(&process, text.to_string()).unwrap();
    let exec = ["exec", "--process", process.to_str().unwrap(), "c"];
    fixture.bare(&exec).exits(43);
}
