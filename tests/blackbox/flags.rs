//! Flags of create, run and exec that change how a container is made, one by one.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{
    Fixture, LIMIT, lodger_only, peer, peer_differs, read_lossy, skip, spawn, wait_for,
};

fn parsed(path: &Path) -> Value {
    let text = read_lossy(path);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn keep_leaves_the_state() {
    peer_differs!("crun", "1.8 has no --keep");
    let mut fixture = Fixture::new();
    fixture.sh("exit 3");
    fixture.runtime(&["run", "--keep", "c"]).exits(3);
    assert_eq!(fixture.status("c"), "stopped");
    fixture.bare(&["delete", "c"]).ok();
    fixture.runtime(&["run", "c"]).exits(3);
    assert_ne!(fixture.bare(&["state", "c"]).code, 0);
}

#[test]
fn the_exit_file_tells_how_the_container_ended() {
    lodger_only!("--exit-file");
    let mut fixture = Fixture::new();
    let path = fixture.path("exit.json");
    let option = path.to_str().unwrap();
    fixture.sh("i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; exit 7");
    fixture
        .runtime(&["run", "--exit-file", option, "c"])
        .exits(7);
    let told = parsed(&path);
    assert_eq!(told["code"], 7);
    assert_eq!(told["signal"], Value::Null);
    let usage = &told["rusage"];
    let used = usage["user_us"].as_u64().unwrap() + usage["system_us"].as_u64().unwrap();
    assert!((1_000..60_000_000).contains(&used), "{told}");
    assert!(usage["max_rss_kib"].as_u64().unwrap() > 100, "{told}");
    // Replaced as a whole.
    fixture.sh("kill -KILL $$; sleep 9");
    fixture.args(&["/bin/sleep", "600"]);
    let running = fixture.background(&["run", "--exit-file", option, "c"], b"");
    wait_for("the container", || {
        (fixture.bare(&["kill", "c", "KILL"]).code == 0).then_some(())
    });
    running.wait().exits(128 + 9);
    let told = parsed(&path);
    assert_eq!(told["code"], Value::Null);
    assert_eq!(told["signal"], 9);
    let drafts = fs::read_dir(fixture.path("")).unwrap().flatten();
    let drafts = drafts.filter(|entry| entry.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(drafts.count(), 0);
}

#[test]
fn an_exit_file_needs_a_runtime_that_stays_and_a_place() {
    lodger_only!("--exit-file");
    let fixture = Fixture::new();
    let ran = fixture.runtime(&["run", "-d", "--exit-file", "x", "c"]);
    ran.fails(1, "cannot be used with");
    fixture
        .runtime(&["run", "--exit-file", "/no/such/x", "c"])
        .fails(1, "cannot use the exit file");
    assert_ne!(fixture.bare(&["state", "c"]).code, 0);
}

#[test]
fn another_config_is_read() {
    peer_differs!("runc", "has no --config");
    let mut fixture = Fixture::new();
    fixture
        .args(&["/bin/echo", "of config.json"])
        .write_config();
    fixture.config["process"]["args"] = json!(["/bin/echo", "of the other"]);
    let other = fixture.path("other.json");
    fs::write(&other, fixture.config.to_string()).unwrap();
    let other = other.to_str().unwrap();
    for option in ["--config", "-f"] {
        let out = fixture.bare(&["run", option, other, "c"]).ok();
        assert_eq!(out, "of the other\n");
    }
    assert_eq!(fixture.bare(&["run", "c"]).ok(), "of config.json\n");
    fixture
        .bare(&["run", "-f", "/no/such.json", "c"])
        .fails(1, "/no/such.json");
}

#[test]
fn flags_may_follow_the_id() {
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]).write_config();
    let bundle = fixture.bundle();
    let pid = fixture.path("pid");
    let args = [
        "create",
        "c",
        "--bundle",
        bundle.to_str().unwrap(),
        "--pid-file",
        pid.to_str().unwrap(),
    ];
    let mut command = fixture.command(&args);
    let created = spawn(command.current_dir("/"), b"").wait();
    peer_differs!("crun", "1.8 takes no options after the id");
    created.ok();
    assert_eq!(fixture.status("c"), "created");
    fixture.bare(&["delete", "c", "--force"]).ok();
}

/// An initramfs cannot be pivoted away from; a container without CAP_SYS_ADMIN is as safe without.
#[test]
fn the_root_can_be_changed_without_pivot_root() {
    let mut fixture = Fixture::new();
    fixture.sh("ls -d /var/tmp/lodger* /work 2>/dev/null; ls -di / | grep -o '^ *[0-9]*'; cd /; cd ..; pwd; sleep 600 & exec sleep 600");
    fixture.args(&[
        "/bin/sh",
        "-c",
        "echo in $(pwd); ls /; cat /proc/self/mountinfo | wc -l",
    ]);
    let plain = fixture.run().ok();
    let ran = fixture.runtime(&["run", "--no-pivot", "c"]);
    if !peer() {
        assert!(
            ran.err.contains("/root: the host's root stays mounted"),
            "{ran:#?}"
        );
    }
    let moved = ran.ok();
    let names = |text: &str| {
        text.lines()
            .filter(|l| !l.chars().all(|c| c.is_ascii_digit()))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&plain), names(&moved));
    // What joins is in the same root.
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["run", "-d", "--no-pivot", "c"]).ok();
    let script = "stat -c %d:%i / /proc/1/root/ | sort -u | wc -l; cd /; cd ..; ls -d etc var/tmp/lodger-* 2>/dev/null; true";
    let inside = fixture.bare(&["exec", "c", "/bin/sh", "-c", script]).ok();
    assert!(
        inside.contains("etc") && !inside.contains("lodger-"),
        "{inside}"
    );
}

#[test]
fn a_container_with_cap_sys_admin_is_not_left_over_the_hosts_root() {
    lodger_only!("refusing --no-pivot with CAP_SYS_ADMIN");
    let mut fixture = Fixture::new();
    fixture.config["process"]["capabilities"] = json!({"bounding": ["CAP_SYS_ADMIN"]});
    fixture
        .runtime(&["run", "--no-pivot", "c"])
        .fails(1, "cannot change the root without pivot_root(2)");
}

/// It could take the root away for all processes of the container: the next `exec` would be in the host's.
#[test]
fn no_process_with_cap_sys_admin_joins_a_container_over_the_hosts_root() {
    lodger_only!("refusing CAP_SYS_ADMIN after --no-pivot");
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["run", "-d", "--no-pivot", "c"]).ok();
    let umount = ["/bin/busybox", "umount", "-l", "/"];
    let exec = |options: &[&str]| {
        let args: Vec<&str> = ["exec"]
            .iter()
            .chain(options)
            .chain(&["c"])
            .chain(&umount)
            .copied()
            .collect();
        fixture.bare(&args)
    };
    let refusal = "cannot run a process with CAP_SYS_ADMIN";
    exec(&["--cap", "SYS_ADMIN"]).fails(255, refusal);
    let process = json!({
        "args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_SYS_ADMIN"]}
    });
    let path = fixture.path("process.json");
    fs::write(&path, process.to_string()).unwrap();
    exec(&["-p", path.to_str().unwrap()]).fails(255, refusal);
    assert_ne!(exec(&["--cap", "KILL"]).code, 0);
    let state = fixture.path("state");
    let seen = fixture.bare(&["exec", "c", "/bin/ls", "-d", state.to_str().unwrap()]);
    assert_ne!(seen.code, 0, "the host's root is in reach: {seen:?}");
}

/// What of a process file cannot be had is told, as for a container; the container's own process had its notes already.
#[test]
fn what_is_left_out_of_a_process_file_is_told() {
    lodger_only!("the notes");
    let mut fixture = Fixture::new();
    fixture.config["process"]["capabilities"] =
        json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
    fixture.sleeping("c");
    let process = json!({
        "args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    });
    let path = fixture.path("process.json");
    fs::write(&path, process.to_string()).unwrap();
    let ran = fixture
        .bare(&["exec", "-p", path.to_str().unwrap(), "c"])
        .exits(0);
    assert!(
        ran.err
            .contains("/process/capabilities/ambient: CAP_KILL left out"),
        "{ran:#?}"
    );
    let ran = fixture.bare(&["exec", "c", "true"]).exits(0);
    assert_eq!(ran.err, "", "{ran:#?}");
}

/// Lets a container see /proc/keys, and every session keyring it can look at.
fn with_keys() -> Fixture {
    let mut fixture = Fixture::new();
    let masked = fixture.config["linux"]["maskedPaths"]
        .as_array_mut()
        .unwrap();
    masked.retain(|path| path != "/proc/keys");
    fixture.args(&["/bin/cat", "/proc/keys"]);
    fixture
}

#[test]
fn a_container_has_a_session_keyring_of_its_own() {
    peer_differs!("runc", "1.1 lets every container of the user see it");
    peer_differs!("crun", "1.8 names the keyring by the id alone");
    if !Path::new("/proc/keys").exists() {
        skip!("this kernel has no keys");
    }
    let mut fixture = with_keys();
    // An id that no other test has: until a keyring has its permissions, all containers of the user see it.
    let own = fixture.runtime(&["run", "keys"]).ok();
    assert!(own.contains("_ses.keys"), "{own}");
    let shared = fixture.runtime(&["run", "--no-new-keyring", "keys"]).ok();
    assert!(!shared.contains("_ses.keys"), "{shared}");
    // What joins joins it too, and finds it instead of making another.
    fixture.sleeping("keys");
    let joined = fixture
        .bare(&["exec", "keys", "/bin/cat", "/proc/keys"])
        .ok();
    if !peer() {
        let serials = joined.lines().filter(|line| line.contains("_ses.keys"));
        assert_eq!(serials.count(), 1, "{joined}");
    }
    // Others do not see it.
    fixture.args(&["/bin/cat", "/proc/keys"]);
    let other = fixture.runtime(&["run", "other"]).ok();
    assert!(!other.contains("_ses.keys"), "{other}");
}

/// As an id that has used up its keys: the quota is that of the real user, and a session is no reason to fail.
#[test]
fn a_used_up_quota_of_keys_is_a_note() {
    lodger_only!("the note");
    let keyctl = Path::new("/usr/bin/keyctl");
    if !keyctl.exists() || !Path::new("/proc/keys").exists() {
        skip!("there is no keyctl(1), or no keys");
    }
    let mut fixture = Fixture::with_own_root();
    fixture.args(&["/bin/echo", "ran"]).write_config();
    // Another kernel uid than the caller's, so that other tests keep their quota; it needs a place of its own. The kernel
    // collects keys some time after their namespace has gone: those of an earlier run would leave room too late.
    let as_other = "d=$(mktemp -d /var/tmp/lodger-keys.XXXXXX); trap 'rm -rf \"$d\"' EXIT; cp -a . \"$d\"; \
        chown -R 7:7 \"$d\"; cd \"$d\"; setpriv --reuid 7 --regid 7 --clear-groups --inh-caps=-all \
        unshare --user --map-root-user --mount /bin/sh -c \
        'while grep -q \"^ *0: \" /proc/key-users; do sleep 0.05; done; i=0; while keyctl add user k$i x @u >/dev/null 2>&1; do i=$((i+1)); done; \
        \"$@\" --root state run c' sh \"$@\"";
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args(["--user", "--map-root-user", "--map-auto", "--mount"])
        .args(["/bin/sh", "-c", as_other, "sh"])
        .arg(crate::harness::runtime_binary())
        .current_dir(fixture.bundle());
    let mut running = spawn(&mut command, b"");
    // Hundreds of commands: more than what one may take.
    let ran = running
        .wait_at_most(LIMIT * 6)
        .unwrap_or_else(|| panic!("it did not end: {:?}", running.out()));
    assert_eq!(ran.out, "ran\n", "{ran:#?}");
    assert!(
        ran.err.contains("shares the caller's session keyring"),
        "{ran:#?}"
    );
    assert!(ran.err.contains("kernel.keys.maxkeys"), "{ran:#?}");
}

#[test]
fn exec_takes_its_process_from_a_file() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let process = json!({
        "args": ["/bin/sh", "-c", "id -u; id -g; echo $A; pwd; grep -E 'CapEff|CapInh|NoNewPrivs' /proc/self/status"],
        "cwd": "/tmp", "env": ["PATH=/usr/bin:/bin", "A=of the file"],
        "user": {"uid": 0, "gid": 6}, "noNewPrivileges": true,
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"]}
    });
    let path = fixture.path("process.json");
    fs::write(&path, process.to_string()).unwrap();
    let path = path.to_str().unwrap();
    let out = fixture.bare(&["exec", "--process", path, "c"]).ok();
    assert!(out.starts_with("0\n6\nof the file\n/tmp\n"), "{out}");
    assert!(out.contains("CapEff:\t0000000000000020"), "{out}");
    assert!(out.contains("NoNewPrivs:\t1"), "{out}");
    let short = fixture.bare(&["exec", "-p", path, "-d", "--pid-file", "pid", "c"]);
    short.ok();
    if peer() {
        return;
    }
    // The options change it.
    let args = [
        "exec",
        "-p",
        path,
        "-e",
        "A=of the option",
        "-u",
        "5",
        "--cwd",
        "/etc",
        "c",
    ];
    let out = fixture.bare(&args).ok();
    assert!(out.starts_with("5\n6\nof the option\n/etc\n"), "{out}");
    let args = ["exec", "-p", path, "c", "/bin/echo", "of the command"];
    assert_eq!(fixture.bare(&args).ok(), "of the command\n");
}

#[test]
fn a_process_file_that_is_wrong_is_an_error() {
    lodger_only!("the wording");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let good = json!({"args": ["/bin/true"], "cwd": "/"});
    let with = |name: &str, value: Value| {
        let mut process = good.clone();
        process[name] = value;
        process.to_string()
    };
    let table = [
        ("{".to_owned(), "it is not JSON"),
        ("[]".to_owned(), "/process"),
        (with("cwd", json!("relative")), "/process/cwd"),
        (with("args", json!([])), "/process/args"),
        (with("user", json!({"uid": -1})), "/process/user/uid"),
        (
            with("user", json!({"uid": 4_294_967_295_u32})),
            "uid 4294967295 is not mapped",
        ),
        (
            with("scheduler", json!({"policy": "SCHED_X"})),
            "/process/scheduler/policy: there is no scheduling policy",
        ),
        (
            with(
                "rlimits",
                json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            ),
            "RLIMIT_X",
        ),
    ];
    let path = fixture.path("process.json");
    for (text, expected) in table {
        fs::write(&path, &text).unwrap();
        let ran = fixture.bare(&["exec", "--process", path.to_str().unwrap(), "c"]);
        let ran = ran.fails(255, expected);
        assert!(ran.err.contains("process.json"), "{ran:#?}");
    }
    // Neither waited for, nor read without end, nor followed to where there is nothing.
    fs::remove_file(&path).unwrap();
    let mut fifo = Command::new("/usr/bin/mkfifo");
    spawn(fifo.arg(&path), b"").wait().ok();
    for path in [path.to_str().unwrap(), "/dev/zero", "/no/such/file", "/etc"] {
        let ran = fixture.bare(&["exec", "--process", path, "c"]);
        ran.fails(255, "cannot use the process file");
    }
    fixture
        .bare(&["exec", "c"])
        .fails(255, "there is no program to run");
}

#[test]
fn exec_adds_groups_capabilities_and_no_new_privs() {
    peer_differs!(
        "crun",
        "1.8 has no exec -g, and gives exec no additional groups"
    );
    let mut fixture = Fixture::new();
    fixture.config["process"]["noNewPrivileges"] = false.into();
    fixture.config["process"]["capabilities"] =
        json!({"bounding": [], "effective": [], "permitted": []});
    fixture.config["process"]["user"]["additionalGids"] = json!([7]);
    peer_differs!("runc", "sets no additional groups without root");
    fixture.sleeping("c");
    let status = |options: &[&str]| {
        let args = [&["exec"], options, &["c", "/bin/cat", "/proc/self/status"]].concat();
        fixture.bare(&args).ok()
    };
    let plain = status(&[]);
    for line in [
        "Groups:\t7 ",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t0",
    ] {
        assert!(plain.contains(line), "{line:?} in {plain}");
    }
    let changed = status(&[
        "-g",
        "8",
        "-g",
        "9,10",
        "--cap",
        "CAP_KILL",
        "-c",
        "net_raw",
        "--no-new-privs",
    ]);
    for line in [
        "Groups:\t7 8 9 10 ",
        "CapEff:\t0000000000002020",
        "CapPrm:\t0000000000002020",
        "CapBnd:\t0000000000002020",
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(changed.contains(line), "{line:?} in {changed}");
    }
    fixture
        .bare(&["exec", "-g", "wheel", "c", "true"])
        .fails(255, "invalid group \"wheel\"");
    fixture
        .bare(&["exec", "-g", "99999999", "c", "true"])
        .fails(255, "gid 99999999 is not mapped");
    fixture
        .bare(&["exec", "--cap", "CAP_NONE", "c", "true"])
        .fails(255, "unknown capability \"CAP_NONE\"");
}

#[test]
fn options_of_exec_end_at_the_id() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let ran = fixture.bare(&["exec", "c", "-t"]);
    assert_ne!(ran.code, 0);
    if !peer() {
        ran.fails(255, "exec: \"-t\": executable file not found in $PATH");
    }
    let out = fixture.bare(&[
        "exec",
        "c",
        "/bin/sh",
        "-c",
        "echo $0 $@",
        "-d",
        "-u",
        "--",
        "x",
    ]);
    assert_eq!(out.ok(), "-d -u -- x\n");
    let out = fixture.bare(&["exec", "--", "c", "/bin/echo", "x"]);
    assert_eq!(out.ok(), "x\n");
    if !peer() {
        fixture
            .bare(&["exec", "--ignore-paused", "c", "/bin/true"])
            .ok();
    }
}

#[test]
fn what_exec_cannot_do_is_refused_by_name() {
    lodger_only!("refusing what is not there yet");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let ran = fixture.bare(&["exec", "--cgroup", "x", "c", "/bin/echo", "ran"]);
    ran.fails(255, "cannot do what --cgroup asks for");
}
