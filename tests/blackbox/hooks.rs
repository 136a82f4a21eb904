//! Hooks (config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle"): when, where and as whom each kind runs, what it is
//! given, and what its caller sees of the container meanwhile.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, peer_differs, read_lossy, spawn, wait_for};
use crate::weak::{Outcome, held_by};

/// All kinds, in the order they run.
pub(crate) const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// Those that run in the caller's namespaces.
const RUNTIME: [&str; 4] = ["prestart", "createRuntime", "poststart", "poststop"];

/// A hook that is a shell script.
pub(crate) fn shell(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

/// A fixture with a directory that hooks and the container write to: on the host, and at /log in the container.
pub(crate) fn fixture() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fs::create_dir(fixture.path("log")).unwrap();
    let log = fixture.path("log");
    fixture.mount(json!({"destination": "/log", "type": "bind", "source": log.to_str().unwrap(), "options": ["bind", "rw"]}));
    fixture
}

/// Where a hook of this kind finds the log directory.
pub(crate) fn log_of(fixture: &Fixture, kind: &str) -> String {
    match kind {
        "startContainer" => "/log".to_owned(),
        _ => fixture.path("log").to_str().unwrap().to_owned(),
    }
}

/// Gives the fixture one more hook of this kind; `$LOG` in the script is the log directory. What the script does not read of the
/// state is read at its end: a pipe that nobody reads is a failure to crun.
pub(crate) fn add(fixture: &mut Fixture, kind: &str, script: &str) {
    let script = script.replace("$LOG", &log_of(fixture, kind));
    add_hook(
        fixture,
        kind,
        shell(&format!("trap 'cat >/dev/null' EXIT; {script}")),
    );
}

pub(crate) fn add_hook(fixture: &mut Fixture, kind: &str, hook: Value) {
    if fixture.config["hooks"][kind].is_null() {
        fixture.config["hooks"][kind] = json!([]);
    }
    let list = fixture.config["hooks"][kind].as_array_mut().unwrap();
    list.push(hook);
}

/// What hooks have written to the file `name` of the log directory.
pub(crate) fn log(fixture: &Fixture, name: &str) -> String {
    let path = fixture.path("log").join(name);
    if path.exists() {
        read_lossy(&path)
    } else {
        String::new()
    }
}

/// Hooks of all kinds, two each, that write down their names.
fn with_names(fixture: &mut Fixture) {
    for kind in KINDS {
        for number in 0..2 {
            add(fixture, kind, &format!("echo {kind}{number} >>$LOG/order"));
        }
    }
}

#[test]
fn hooks_run_in_their_order_over_create_start_and_delete() {
    peer_differs!(
        "runc",
        "1.1.5 runs poststart hooks at create, before the startContainer hooks and the program"
    );
    peer_differs!(
        "crun",
        "1.8.1 runs poststart hooks while those of startContainer are still at work"
    );
    let mut fixture = fixture();
    with_names(&mut fixture);
    fixture.args(&["/bin/sleep", "600"]);
    let words = |fixture: &Fixture| log(fixture, "order").replace('\n', " ");
    fixture.runtime(&["create", "c"]).ok();
    let created =
        "prestart0 prestart1 createRuntime0 createRuntime1 createContainer0 createContainer1 ";
    assert_eq!(words(&fixture), created);
    fixture.bare(&["start", "c"]).ok();
    let started = format!("{created}startContainer0 startContainer1 poststart0 poststart1 ");
    wait_for("the hooks of start", || {
        (words(&fixture) == started).then_some(())
    });
    fixture.bare(&["kill", "c", "KILL"]).ok();
    fixture.wait_status("c", "stopped");
    assert_eq!(words(&fixture), started);
    fixture.bare(&["delete", "c"]).ok();
    assert_eq!(words(&fixture), format!("{started}poststop0 poststop1 "));
}

#[test]
fn hooks_run_in_their_order_over_run() {
    peer_differs!(
        "runc",
        "1.1.5 runs poststart hooks at create, before the startContainer hooks and the program"
    );
    peer_differs!(
        "crun",
        "1.8.1 runs poststart hooks while those of startContainer are still at work"
    );
    for arguments in [&["run", "c"][..], &["run", "-d", "c"]] {
        let mut fixture = fixture();
        with_names(&mut fixture);
        fixture.runtime(arguments).ok();
        if arguments.contains(&"-d") {
            fixture.wait_status("c", "stopped");
            assert!(!log(&fixture, "order").contains("poststop"));
            fixture.bare(&["delete", "c"]).ok();
        }
        let order = log(&fixture, "order");
        let expected: Vec<String> = KINDS
            .iter()
            .flat_map(|kind| [format!("{kind}0"), format!("{kind}1")])
            .collect();
        assert_eq!(order.lines().collect::<Vec<_>>(), expected, "{arguments:?}");
    }
}

/// A foreground container that a signal ends is removed as any other, and one that is kept is not.
#[test]
fn poststop_follows_the_removal_of_a_foreground_container() {
    let mut ended = fixture();
    add(&mut ended, "poststop", "echo gone >>$LOG/order");
    ended.sh("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    let running = ended.background(&["run", "c"], b"");
    wait_for("the program", || {
        running.out().contains("ready").then_some(())
    });
    running.signal("TERM");
    running.wait().exits(3);
    assert_eq!(log(&ended, "order"), "gone\n");
    assert!(!ended.path("state/c").exists());

    peer_differs!("crun", "1.8.1 has no --keep");
    let mut kept = fixture();
    add(&mut kept, "poststop", "echo gone >>$LOG/order");
    kept.runtime(&["run", "--keep", "c"]).ok();
    assert_eq!(log(&kept, "order"), "");
    kept.bare(&["delete", "c"]).ok();
    assert_eq!(log(&kept, "order"), "gone\n");
}

/// What a hook of each kind read on its standard input.
fn states(fixture: &mut Fixture) -> Vec<(&'static str, Value)> {
    for kind in KINDS {
        add(fixture, kind, &format!("cat >$LOG/{kind}"));
    }
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["create", "c"]).ok();
    let pid = fixture.state("c")["pid"].clone();
    fixture.bare(&["start", "c"]).ok();
    fixture.bare(&["delete", "-f", "c"]).ok();
    let read = |kind: &&'static str| {
        let text = log(fixture, kind);
        let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{kind}: {e}: {text:?}"));
        (*kind, value)
    };
    let mut states: Vec<(&str, Value)> = KINDS.iter().map(read).collect();
    states.push(("state", json!({ "pid": pid })));
    states
}

#[test]
fn hooks_are_told_the_state_of_their_container() {
    peer_differs!(
        "crun",
        "1.8.1 tells startContainer hooks that the bundle is /"
    );
    let mut fixture = fixture();
    fixture.config["annotations"] = json!({"a.b/c": "d \"é\" e"});
    let bundle = fixture.bundle();
    for (kind, state) in states(&mut fixture) {
        if kind == "state" {
            continue;
        }
        assert_eq!(state["id"], "c", "{kind}");
        assert_eq!(state["bundle"], bundle.to_str().unwrap(), "{kind}");
        assert_eq!(
            state["annotations"],
            json!({"a.b/c": "d \"é\" e"}),
            "{kind}"
        );
        let version = state["ociVersion"].as_str().unwrap();
        assert!(version.starts_with("1."), "{kind}: {state}");
    }
}

#[test]
fn hooks_are_told_the_status_of_their_container() {
    peer_differs!(
        "crun",
        "1.8.1 tells the hooks of create `created`, and those of startContainer `starting`"
    );
    peer_differs!("runc", "1.1.5 tells poststart hooks `created`");
    let mut fixture = fixture();
    let expected = [
        "creating", "creating", "creating", "created", "running", "stopped",
    ];
    for ((kind, state), expected) in states(&mut fixture).iter().zip(expected) {
        assert_eq!(state["status"], expected, "{kind}: {state}");
    }
}

/// The number is that of the namespace in which the hook is.
#[test]
fn hooks_are_told_the_pid_as_they_would_see_it() {
    peer_differs!("crun", "1.8.1 tells hooks in the container the pid 0");
    let mut fixture = fixture();
    let states = states(&mut fixture);
    let host = &states.last().unwrap().1["pid"];
    for (kind, state) in &states {
        let expected = match *kind {
            "createContainer" | "startContainer" => json!(1),
            "poststop" => {
                assert!(state["pid"].is_null() || state["pid"] == 0, "{state}");
                continue;
            }
            _ => host.clone(),
        };
        assert_eq!(state["pid"], expected, "{kind}: {state}");
    }
}

/// Shell: the ids, capabilities and namespaces of the hook.
const WHO: &str = "{ id -u; grep CapEff /proc/self/status; \
    for n in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done; }";

/// What [`WHO`] says of this process.
fn own_identity() -> Vec<String> {
    let mut shell = std::process::Command::new("/bin/sh");
    let ran = spawn(shell.args(["-c", WHO]), b"").wait().ok();
    ran.lines().map(str::to_owned).collect()
}

#[test]
fn runtime_hooks_run_as_the_caller_where_the_caller_is() {
    // Cold and warm, where the ways into the outer user namespace differ.
    let mut neighbour = Fixture::new();
    for warm in [false, true] {
        let mut fixture = fixture();
        if warm {
            neighbour.sleeping("n");
        }
        for kind in RUNTIME {
            add(&mut fixture, kind, &format!("{WHO} >$LOG/{kind}"));
        }
        fixture.run().ok();
        for kind in RUNTIME {
            let found = log(&fixture, kind);
            let found: Vec<&str> = found.lines().collect();
            assert_eq!(found, own_identity(), "{kind}, warm: {warm}");
        }
    }
}

#[test]
fn a_create_container_hook_is_in_the_container_and_sees_the_host_s_files() {
    peer_differs!(
        "crun",
        "1.8.1 runs createContainer hooks in the bundle's directory, not in the root filesystem"
    );
    let mut fixture = fixture();
    let marker = fixture.path("marker");
    fs::write(&marker, "on the host").unwrap();
    let script = format!(
        "{WHO} >$LOG/who; pwd >$LOG/pwd; cat {} >$LOG/marker; cp $0 . 2>/dev/null; \
         grep -c ' {}/proc ' /proc/self/mountinfo >$LOG/mounts; echo made >>made",
        marker.display(),
        fixture.rootfs().display()
    );
    add(&mut fixture, "createContainer", &script);
    fixture.sh("cat /made; readlink /proc/self/ns/pid; readlink /proc/self/ns/net");
    let out = fixture.run().ok();
    let own = own_identity();
    let who = log(&fixture, "who");
    let who: Vec<&str> = who.lines().collect();
    assert_eq!(who[0], "0", "the container's root: {who:?}");
    for namespace in [2, 3, 4, 5, 6, 7] {
        assert_ne!(who[namespace], own[namespace]);
    }
    assert_eq!(out, format!("made\n{}\n{}\n", who[4], who[5]));
    assert_eq!(log(&fixture, "marker"), "on the host");
    assert_eq!(log(&fixture, "mounts"), "1\n", "after the mounts");
    let cwd = log(&fixture, "pwd");
    assert_eq!(cwd.trim(), fixture.rootfs().to_str().unwrap());
    let all = u64::from_str_radix(who[1].trim_start_matches("CapEff:\t"), 16).unwrap();
    assert!(all & (1 << 21) != 0, "CAP_SYS_ADMIN: {who:?}");
}

/// It has the rights of the program and nothing that the program does not have.
#[test]
fn a_start_container_hook_is_what_the_program_will_be() {
    let mut fixture = fixture();
    fixture.config["process"]["user"] = json!({"uid": 5, "gid": 6});
    fixture.config["process"]["cwd"] = json!("/tmp");
    fs::create_dir(fixture.path("log/open")).unwrap();
    fs::set_permissions(
        fixture.path("log/open"),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let what =
        "id -u; id -g; pwd; grep -E 'Cap|NoNewPrivs|Groups' /proc/self/status; ls /proc/self/fd";
    add(
        &mut fixture,
        "startContainer",
        &format!("{{ {what}; }} >$LOG/open/hook"),
    );
    fixture.sh(&format!("{{ {what}; }} >/log/open/program"));
    fixture.run().ok();
    let hook = log(&fixture, "open/hook");
    assert_eq!(hook, log(&fixture, "open/program"));
    assert!(hook.starts_with("5\n6\n/tmp\n"), "{hook}");
}

#[test]
fn a_hook_has_the_environment_that_it_is_given_and_no_other() {
    peer_differs!(
        "crun",
        "1.8.1 passes its own environment on to hooks without `env`"
    );
    peer_differs!(
        "runc",
        "1.1.5 passes its own environment on to hooks without `env`"
    );
    let mut fixture = fixture();
    for kind in KINDS {
        let mut copy = |name: &str, env: Option<Value>| {
            // The state is read too: see `add`.
            fs::create_dir(fixture.path("log").join(format!("{kind}.{name}"))).unwrap();
            let to = format!("{}/{kind}.{name}/", log_of(&fixture, kind));
            let args = json!(["cp", "/dev/stdin", "/proc/self/environ", to]);
            let path = match kind {
                "startContainer" => "/bin/busybox",
                _ => "/bin/cp",
            };
            let mut hook = json!({"path": path, "args": args});
            if let Some(env) = env {
                hook["env"] = env;
            }
            add_hook(&mut fixture, kind, hook);
        };
        copy("given", Some(json!(["A=1", "B=x y"])));
        copy("empty", Some(json!([])));
        copy("none", None);
    }
    fixture.config["process"]["env"] = json!(["PATH=/bin", "PROGRAM=1"]);
    fixture.write_config();
    let mut run = fixture.command(&["run", "c"]);
    spawn(run.env("CALLER_SECRET", "s"), b"").wait().ok();
    for kind in KINDS {
        let read = |name: &str| log(&fixture, &format!("{kind}.{name}/environ"));
        assert_eq!(read("given"), "A=1\0B=x y\0", "{kind}");
        assert_eq!(read("empty"), "", "{kind}");
        // As other runtimes do it, and configs rely on it.
        let none = match kind {
            "startContainer" => "PATH=/bin\0PROGRAM=1\0HOME=/root\0",
            _ => "",
        };
        assert_eq!(read("none"), none, "{kind}");
    }
}

#[test]
fn no_variable_of_the_caller_reaches_a_hook() {
    lodger_only!("the switch of a defence");
    held_by(&["HookEnvironment"], || {
        let mut fixture = fixture();
        let file = fixture.path("log/environ");
        let copy = json!({"path": "/bin/cp", "args": ["cp", "/proc/self/environ", file.to_str().unwrap()]});
        add_hook(&mut fixture, "createRuntime", copy);
        fixture.write_config();
        let mut run = fixture.command(&["run", "c"]);
        spawn(run.env("CALLER_SECRET", "s"), b"").wait().ok();
        let environ = log(&fixture, "environ");
        let seen = environ
            .contains("CALLER_SECRET=s")
            .then(|| "CALLER_SECRET".to_owned());
        Outcome::of(seen, "it has no variable")
    });
}

#[test]
fn a_hook_gets_its_arguments_as_they_are() {
    let mut fixture = fixture();
    let file = fixture.path("log/args");
    let script = format!(
        "for a; do echo \"<$a>\"; done >{}; tr '\\0' '|' </proc/$$/cmdline >>{0}",
        file.display()
    );
    let hook = json!({"path": "/bin/sh", "args": ["another name", "-c", script, "zero", "one two", "", "$x"]});
    add_hook(&mut fixture, "createRuntime", hook);
    fixture.run().ok();
    let args = read_lossy(&file);
    assert!(
        args.starts_with("<one two>\n<>\n<$x>\nanother name|-c|"),
        "{args}"
    );
}

/// Those that a hook has left behind, and have ended, are not the program's to wait for.
#[test]
fn hooks_leave_no_zombies_to_the_program() {
    let mut fixture = fixture();
    let orphan =
        "(sleep 0 &); until grep -q ') Z ' /proc/[0-9]*/stat; do :; done; echo seen >$LOG/seen";
    add(&mut fixture, "startContainer", orphan);
    fixture.sh("cat /proc/1/task/1/children; echo /proc/[0-9]*");
    let program = fixture.run().ok();
    assert_eq!(log(&fixture, "seen"), "seen\n");
    assert!(program.contains("/proc/1\n"), "{program:?}");
}

/// A config in which the name is written otherwise has hooks all the same.
#[test]
fn hooks_by_an_escaped_name_run() {
    let mut fixture = fixture();
    add(&mut fixture, "createRuntime", "echo ran >$LOG/ran");
    fixture.write_config();
    let path = fixture.bundle().join("config.json");
    let text = read_lossy(&path).replace("\"hooks\"", "\"h\\u006Fo\\u006bs\"");
    fs::write(&path, text).unwrap();
    fixture.bare(&["run", "c"]).ok();
    assert_eq!(log(&fixture, "ran"), "ran\n");
}

/// What a hook prints is for its error, not for whoever reads the container's output.
#[test]
fn nothing_that_hooks_print_is_in_the_output() {
    let mut fixture = fixture();
    for kind in KINDS {
        add(&mut fixture, kind, "echo noise; echo noise >&2");
    }
    fixture.sh("echo program");
    let ran = fixture.run();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("program\n", ""));
}
