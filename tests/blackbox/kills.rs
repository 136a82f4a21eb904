//! Ends at the wrong moment: what is killed or fails half-way leaves no process and nothing that is in the way.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Fixture, LIMIT, Running, lodger_only, send_signal, skip, spawn, wait_for};

/// The pids of the processes that have this word in their command line: lodger's own, up to the program.
pub(crate) fn processes_with(word: &str) -> Vec<u32> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word)
        })
        .collect()
}

/// Every process of the test's runtime has the state root in its command line.
fn state_root(fixture: &Fixture) -> String {
    fixture.path("state").to_str().unwrap().to_owned()
}

#[track_caller]
pub(crate) fn assert_no_process(fixture: &Fixture) {
    let word = state_root(fixture);
    wait_for("all processes to end", || {
        processes_with(&word).is_empty().then_some(())
    });
}

pub(crate) fn state_entries(fixture: &Fixture) -> usize {
    fs::read_dir(fixture.path("state"))
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            !name.to_string_lossy().starts_with('.')
        })
        .count()
}

/// Also where the program has another uid: the kernel forgets the wish when the uid changes.
#[test]
fn a_container_ends_with_its_foreground_run() {
    lodger_only!("following the end of the foreground process");
    for uid in [0, 5] {
        let mut fixture = Fixture::new();
        let word = format!("6{uid}{:07}", std::process::id());
        fixture.config["process"]["user"] = json!({"uid": uid, "gid": uid});
        fixture.args(&["/bin/sleep", &word]);
        let running = fixture.background(&["run", "c"], b"");
        wait_for("the program", || {
            (processes_with(&word).len() == 1).then_some(())
        });
        running.signal("KILL");
        running.wait().exits(128 + 9);
        wait_for("the program to end", || {
            processes_with(&word).is_empty().then_some(())
        });
        fixture.wait_status("c", "stopped");
    }
}

#[test]
fn a_detached_container_does_not_end_with_run() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(fixture.status("c"), "running");
}

/// A `create` that was stopped while init sets the container up, and so before init may outlive it.
pub(crate) fn stopped_create() -> Option<(Fixture, Running)> {
    (0..50).find_map(|_| {
        let fixture = Fixture::new();
        let create = fixture.background(&["create", "c"], b"");
        let begun = fixture.path("state/c/config.json");
        let begin = Instant::now();
        while !begun.exists() && begin.elapsed() < LIMIT {
            std::thread::yield_now();
        }
        create.signal("STOP");
        let stat = format!("/proc/{}/stat", create.pid());
        wait_for("create to stop", || {
            let stat = fs::read_to_string(&stat).unwrap_or_default();
            (stat.contains(") T ") || stat.contains(") Z ")).then_some(())
        });
        if !fixture.path("state/c/state.json").exists() {
            return Some((fixture, create));
        }
        create.signal("CONT");
        create.wait().ok();
        None
    })
}

/// Init of a stopped `create`, once it has set everything up and waits.
pub(crate) fn init_of(create: &Running) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", create.pid());
    let children = fs::read_to_string(children).unwrap();
    let init = children.split_whitespace().last().unwrap();
    let status = format!("/proc/{init}/status");
    wait_for("init to have set everything up", || {
        let status = fs::read_to_string(&status).unwrap();
        status.contains("NoNewPrivs:\t1").then_some(())
    });
    init.parse().unwrap()
}

/// Init waits for a runtime that is gone: nobody else will end it, also where it cannot notice by itself.
#[test]
fn a_create_that_is_killed_in_the_middle_leaves_no_process() {
    lodger_only!("following the end of create");
    for stopped in [false, true] {
        let Some((fixture, create)) = stopped_create() else {
            skip!("create was never stopped in time");
        };
        if stopped {
            send_signal(init_of(&create), "STOP");
        }
        create.signal("KILL");
        create.wait().exits(128 + 9);
        assert_no_process(&fixture);
        assert_eq!(fixture.status("c"), "stopped");
        // What is left is no container: it can be removed, and its id be taken.
        if !stopped {
            fixture.bare(&["delete", "c"]).ok();
        }
        fixture.bare(&["create", "c"]).ok();
        assert_eq!(fixture.status("c"), "created");
    }
}

#[test]
fn a_create_that_is_killed_at_any_moment_can_be_deleted_and_repeated() {
    let fixture = Fixture::new();
    fixture.write_config();
    let begin = std::time::Instant::now();
    fixture.bare(&["create", "c"]).ok();
    let whole = begin.elapsed();
    fixture.bare(&["delete", "-f", "c"]).ok();
    for step in 0..20 {
        let create = spawn(&mut fixture.command(&["create", "c"]), b"");
        std::thread::sleep(whole * step / 20);
        create.signal("KILL");
        create.wait();
        fixture.bare(&["delete", "-f", "c"]).ok();
        assert_eq!(state_entries(&fixture), 0, "step {step}");
        fixture.bare(&["create", "c"]).ok();
        assert_eq!(fixture.status("c"), "created", "step {step}");
        fixture.bare(&["delete", "-f", "c"]).ok();
    }
    if !crate::harness::peer() {
        assert_no_process(&fixture);
    }
}

/// A pid file that cannot be written, which is noticed last: its name belongs to a directory.
fn taken_pid_file(fixture: &Fixture) -> String {
    let path = fixture.path("taken/pid");
    fs::create_dir_all(&path).unwrap();
    path.to_str().unwrap().to_owned()
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_create_that_fails_leaves_no_state_and_no_process() {
    lodger_only!("how a failure is undone");
    for verb in ["create", "run"] {
        let mut fixture = Fixture::with_own_root();
        fixture.args(&["/bin/sleep", "600"]);
        // Init is set up and waits when this one is noticed.
        let pid_file = taken_pid_file(&fixture);
        fixture
            .runtime(&[verb, "--pid-file", &pid_file, "c"])
            .fails(1, "cannot write the pid file");
        assert_eq!(state_entries(&fixture), 0, "pid file");
        assert_eq!(names_in(&fixture.path("taken")), ["pid"]);
        assert_no_process(&fixture);
        fixture.args(&["/no/such/program"]);
        fixture.runtime(&[verb, "c"]).fails(1, "/no/such/program");
        assert_eq!(state_entries(&fixture), 0, "program");
        fixture.args(&["/bin/true"]).mount(
            json!({"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]}),
        );
        fixture.runtime(&[verb, "c"]).fails(1, "/no/such");
        assert_eq!(state_entries(&fixture), 0, "mount");
        assert_no_process(&fixture);
    }
}

#[test]
fn an_exec_that_fails_leaves_no_process() {
    lodger_only!("how a failure is undone");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let pid_file = taken_pid_file(&fixture);
    let word = format!("7{:07}", std::process::id());
    for detach in [&["-d"][..], &[]] {
        let mut args = vec!["exec", "--pid-file", &pid_file];
        args.extend(detach);
        args.extend(["c", "/bin/sleep", &word]);
        fixture.bare(&args).fails(255, "cannot write the pid file");
        assert_eq!(processes_with(&word), Vec::<u32>::new());
        assert_eq!(names_in(&fixture.path("taken")), ["pid"]);
    }
}

/// Links that wait under the names a draft of the pid file might take.
#[test]
fn a_pid_file_is_not_written_through_a_link() {
    lodger_only!("the draft of the pid file");
    let victim_text = "keep";
    for _ in 0..5 {
        let fixture = Fixture::new();
        let directory = fixture.path("pids");
        fs::create_dir(&directory).unwrap();
        let victim = fixture.path("victim");
        fs::write(&victim, victim_text).unwrap();
        let newest = spawn(&mut std::process::Command::new("/bin/true"), b"");
        let first = newest.pid();
        newest.wait().ok();
        for pid in first..first + 2000 {
            symlink(&victim, directory.join(format!(".pid.{pid}"))).unwrap();
        }
        let pid_file = directory.join("pid");
        let ran = fixture.runtime(&["create", "--pid-file", pid_file.to_str().unwrap(), "c"]);
        assert_eq!(fs::read_to_string(&victim).unwrap(), victim_text);
        if ran.code != 0 {
            ran.fails(1, "cannot write the pid file");
            return;
        }
        // A file that had no name before the right one.
        let pid: u32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        if (first..first + 2000).contains(&pid) {
            return;
        }
    }
    skip!("the pid was never foreseen");
}

/// The file takes its name when it is complete: what had the name before is replaced, and never written to.
#[test]
fn a_pid_file_replaces_what_has_its_name() {
    lodger_only!("replacing the pid file");
    let fixture = Fixture::new();
    let victim = fixture.path("victim");
    fs::write(&victim, "keep").unwrap();
    let pid_file = fixture.path("pid");
    symlink(&victim, &pid_file).unwrap();
    fixture
        .runtime(&["create", "--pid-file", pid_file.to_str().unwrap(), "c"])
        .ok();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "keep");
    assert!(pid_file.symlink_metadata().unwrap().is_file());
    let pid = fixture.state("c")["pid"].to_string();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid);
    let mut left = names_in(&fixture.path(""));
    left.retain(|name| name.starts_with(".pid"));
    assert_eq!(left, Vec::<String>::new());
}

/// Everything a caller or a config can put into a message.
#[test]
fn no_message_has_control_characters() {
    lodger_only!("the escaping of messages");
    const EVIL: &str = "x\u{1b}]0;t\u{7}\u{9b}1m\r\u{8}y";
    let fixture = Fixture::new();
    fixture.runtime(&["create", "c"]).ok();
    let path = fixture.path(EVIL);
    let file = fixture.path("file");
    fs::write(&file, "").unwrap();
    let beneath = file.join(EVIL);
    let (path, beneath) = (path.to_str().unwrap(), beneath.to_str().unwrap());
    let commands: &[&[&str]] = &[
        &["run", "--bundle", path, "d"],
        &["create", "--bundle", path, "d"],
        &["plan", path],
        &["spec", "--bundle", path],
        &["run", "--pid-file", beneath, "d"],
        &["--log", beneath, "list"],
        &["--root", beneath, "list"],
        &["--root", beneath, "create", "d"],
        &["--log-format", EVIL, "list"],
        &[EVIL],
        &["list", EVIL],
        &["kill", "c", EVIL],
        &["start", EVIL],
        &["exec", "-u", EVIL, "c", "true"],
        &["exec", "-e", EVIL, "c", "true"],
        &["exec", "--cwd", EVIL, "c", "true"],
        &["exec", "--cwd", &format!("/{EVIL}"), "c", "true"],
        &["exec", "c", EVIL],
        &["exec", "c", &format!("/{EVIL}")],
    ];
    for args in commands {
        assert_clean(args, &fixture.bare(args));
    }
    let changes = [
        ("/process/cwd", json!(EVIL)),
        ("/process/cwd", json!(format!("/etc/passwd/{EVIL}"))),
        ("/process/env", json!([EVIL])),
        ("/process/args", json!([format!("/{EVIL}")])),
        ("/process/user", json!(EVIL)),
        ("/process/capabilities/bounding", json!([EVIL])),
        ("/root/path", json!(EVIL)),
        ("/ociVersion", json!(EVIL)),
        ("/mounts/0/destination", json!(EVIL)),
        ("/mounts/0/type", json!(EVIL)),
        ("/mounts/0/options", json!([EVIL])),
        ("/mounts/1/options", json!([format!("size={EVIL}")])),
        (
            "/mounts/0",
            json!({"destination": "/x", "type": "bind", "source": format!("/{EVIL}"), "options": ["bind"]}),
        ),
        ("/linux/namespaces/0/type", json!(EVIL)),
        ("/linux/rootfsPropagation", json!(EVIL)),
        ("/linux/sysctl", json!({"net.evil": EVIL, EVIL: "1"})),
        ("/linux/maskedPaths", json!([format!("/etc/passwd/{EVIL}")])),
    ];
    for (pointer, value) in changes {
        let mut fixture = Fixture::new();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = fixture.config.pointer_mut(parent).unwrap();
        match key.parse::<usize>() {
            Ok(index) => parent[index] = value,
            Err(_) => parent[key] = value,
        }
        assert_clean(&[pointer], &fixture.run());
    }
}

#[track_caller]
fn assert_clean(what: &[&str], ran: &crate::harness::Ran) {
    let raw = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    assert!(!raw(&ran.err), "{what:?}: {ran:?}");
    assert!(!raw(&ran.out), "{what:?}: {ran:?}");
}

#[test]
fn a_list_has_no_control_characters() {
    lodger_only!("the escaping of a list");
    let fixture = Fixture::new();
    fixture.write_config();
    let evil = fixture.path("b\u{1b}[31m\u{9b}31m\u{7f}\r\nx");
    fs::rename(fixture.bundle(), &evil).unwrap();
    let mut command = fixture.command(&["create", "c"]);
    spawn(command.current_dir(&evil), b"").wait().ok();
    fs::create_dir(fixture.bundle()).unwrap();
    fs::write(evil.join("config.json"), fixture.config.to_string()).unwrap();
    let plan = ["plan", evil.to_str().unwrap()];
    for args in [
        &["list"][..],
        &["list", "-f", "json"],
        &["state", "c"],
        &plan,
    ] {
        let ran = fixture.bare(args);
        assert_clean(args, &ran);
        ran.exits(0);
    }
    let table = fixture.bare(&["list"]).ok();
    assert_eq!(table.lines().count(), 2, "{table}");
    let state: serde_json::Value =
        serde_json::from_str(&fixture.bare(&["state", "c"]).ok()).unwrap();
    assert_eq!(state["bundle"], evil.to_str().unwrap());
}
