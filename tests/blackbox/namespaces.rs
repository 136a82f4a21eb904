//! Namespaces that are joined by path: those of a container that runs.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{
    Fixture, lives, lodger_only, peer, peer_differs, skip, spawn, under_test, wait_for,
};
use crate::tracing::{Stopped, under_strace, works};
use crate::weak::{Outcome, held_by};

/// The kinds of namespaces that a container can have in common with another one: type, name in /proc/PID/ns.
const KINDS: [(&str, &str); 7] = [
    ("user", "user"),
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

/// Those that the runtime under test knows.
fn kinds() -> Vec<(&'static str, &'static str)> {
    // runc 1.1: "namespace "time" does not exist".
    let known = |(kind, _): &(&str, &str)| *kind != "time" || under_test() != "runc";
    KINDS.into_iter().filter(known).collect()
}

/// The pid of a container's first process.
fn pid(fixture: &Fixture, id: &str) -> u64 {
    fixture.state(id)["pid"].as_u64().unwrap()
}

/// Which namespace of this kind the container is in.
pub(crate) fn namespace(fixture: &Fixture, id: &str, name: &str) -> PathBuf {
    fs::read_link(path(fixture, id, name)).unwrap()
}

/// The path of a container's namespace.
pub(crate) fn path(fixture: &Fixture, id: &str, name: &str) -> String {
    format!("/proc/{}/ns/{name}", pid(fixture, id))
}

/// Lists a namespace, new or by path, in the place of one of its type.
pub(crate) fn list(fixture: &mut Fixture, kind: &str, path: Option<&str>) {
    fixture.without_namespace(kind);
    let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
    namespaces.unwrap().push(match path {
        Some(path) => json!({"type": kind, "path": path}),
        None => json!({"type": kind}),
    });
}

/// Lists those of the container `id`.
pub(crate) fn join(fixture: &mut Fixture, id: &str, kinds: &[&str]) {
    for (kind, name) in KINDS.iter().filter(|(kind, _)| kinds.contains(kind)) {
        let path = path(fixture, id, name);
        list(fixture, kind, Some(&path));
    }
}

/// A container `a` that has all kinds of namespaces of its own.
pub(crate) fn first() -> Fixture {
    let mut fixture = Fixture::new();
    if under_test() != "runc" {
        list(&mut fixture, "time", None);
    }
    list(&mut fixture, "cgroup", None);
    list(&mut fixture, "user", None);
    fixture.sleeping("a");
    fixture
}

/// A `sleep` that no other test has, by the number of its seconds.
pub(crate) fn seconds() -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("4{:07}{number:02}", std::process::id())
}

/// The pids of the processes that sleep so many seconds.
pub(crate) fn sleepers(seconds: &str) -> Vec<u32> {
    let wanted = format!("\0{seconds}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).ends_with(&wanted)
        })
        .collect()
}

#[test]
fn all_kinds_are_joined() {
    peer_differs!(
        "crun",
        "1.8 cannot join a pid namespace along with a user namespace: EPERM"
    );
    let mut fixture = first();
    let kinds = kinds();
    let types: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
    join(&mut fixture, "a", &types);
    fixture.sleeping("b");
    for (_, name) in &kinds {
        let [first, second] = ["a", "b"].map(|id| namespace(&fixture, id, name));
        assert_eq!(first, second);
        assert_ne!(
            first,
            fs::read_link(format!("/proc/self/ns/{name}")).unwrap()
        );
    }
    assert_ne!(
        namespace(&fixture, "a", "mnt"),
        namespace(&fixture, "b", "mnt")
    );
    // Who comes later is where the first process is.
    let told = fixture
        .bare(&["exec", "b", "/bin/ls", "-l", "/proc/self/ns"])
        .ok();
    for (_, name) in &kinds {
        let namespace = namespace(&fixture, "a", name);
        assert!(told.contains(namespace.to_str().unwrap()), "{name}: {told}");
    }
    fixture.bare(&["kill", "b", "KILL"]).ok();
    fixture.wait_status("b", "stopped");
    fixture.bare(&["delete", "b"]).ok();
    assert_eq!(fixture.status("a"), "running");
}

/// A container with a user namespace of its own, beside the one that the other namespace belongs to.
#[test]
fn each_kind_is_joined_alone() {
    peer_differs!(
        "crun",
        "1.8 fails with EPERM: it goes into the container's user namespace before it joins others"
    );
    peer_differs!(
        "runc",
        "1.1 fails with EPERM: it goes into the container's user namespace before it joins others"
    );
    let mut fixture = first();
    let config = fixture.config.clone();
    for (kind, name) in kinds() {
        fixture.config = config.clone();
        // What belongs to another user namespace cannot be named or mounted.
        fixture.config["hostname"] = json!(null);
        fixture.unmount("/dev/mqueue");
        join(&mut fixture, "a", &[kind]);
        fixture.sleeping("b");
        for (other, other_name) in kinds() {
            let [first, second] = ["a", "b"].map(|id| namespace(&fixture, id, other_name));
            assert_eq!(
                first == second,
                other == kind,
                "{other} where {kind} is joined"
            );
        }
        fixture.bare(&["exec", "b", "/bin/true"]).ok();
        assert_eq!(
            namespace(&fixture, "b", name),
            namespace(&fixture, "a", name)
        );
        fixture.bare(&["delete", "-f", "b"]).ok();
    }
    assert_eq!(fixture.status("a"), "running");
}

/// What engines call a pod: one user namespace, network, ipc and uts for all, and a pid namespace for each.
#[test]
fn containers_of_a_pod_share_what_they_shall() {
    let mut fixture = first();
    let shared = ["user", "network", "ipc", "uts"];
    join(&mut fixture, "a", &shared);
    fixture.config["hostname"] = json!("pod");
    fixture.sleeping("b");
    fixture.sleeping("c");
    for (kind, name) in KINDS.into_iter().filter(|(kind, _)| *kind != "time") {
        let [a, b, c] = ["a", "b", "c"].map(|id| namespace(&fixture, id, name));
        assert_eq!(a == b && b == c, shared.contains(&kind), "{kind}");
        assert_eq!(b == c, shared.contains(&kind), "{kind}");
    }
    assert_eq!(fixture.bare(&["exec", "a", "/bin/hostname"]).ok(), "pod\n");
    // A filesystem of the shared namespace.
    let net = fixture
        .bare(&["exec", "b", "/bin/ls", "/sys/class/net"])
        .ok();
    assert_eq!(net, "lo\n");
    fixture.bare(&["kill", "a", "KILL"]).ok();
    fixture.wait_status("a", "stopped");
    fixture.bare(&["delete", "a"]).ok();
    for id in ["b", "c"] {
        assert_eq!(fixture.status(id), "running");
        fixture.bare(&["exec", id, "/bin/true"]).ok();
    }
    // The user namespace is there as long as one is in it.
    join(&mut fixture, "b", &shared);
    fixture.sleeping("d");
}

/// The container that a pod began with has no part in the others' processes.
#[test]
fn the_processes_of_a_pod_are_told_apart() {
    lodger_only!("a container without a cgroup");
    let mut fixture = first();
    join(&mut fixture, "a", &["user", "network"]);
    fixture.sleeping("b");
    for id in ["a", "b"] {
        let pids = fixture.bare(&["ps", "-f", "json", id]).ok();
        assert_eq!(pids, format!("[{}]\n", pid(&fixture, id)));
    }
    fixture.bare(&["kill", "-a", "a", "KILL"]).ok();
    fixture.wait_status("a", "stopped");
    assert_eq!(fixture.status("b"), "running");
}

/// In a pid namespace that was there before, nothing ends with the container's first process by itself.
#[test]
fn no_process_is_left_in_a_joined_pid_namespace() {
    lodger_only!("ending all processes of a container that has no cgroup");
    for kinds in [&["pid"][..], &["pid", "user"], &["user"]] {
        let mut fixture = first();
        join(&mut fixture, "a", kinds);
        if kinds == ["user"] {
            fixture.without_namespace("pid");
        }
        fixture.config["hostname"] = json!(null);
        let seconds = seconds();
        let script = format!("/bin/sleep {seconds} & exec /bin/sleep {seconds}");
        let start = |fixture: &mut Fixture| {
            fixture.sh(&script);
            fixture.runtime(&["run", "-d", "b"]).ok();
            wait_for("both", || (sleepers(&seconds).len() == 2).then_some(()));
        };
        let ended = || wait_for("all to end", || sleepers(&seconds).is_empty().then_some(()));
        start(&mut fixture);
        let pids = fixture.bare(&["ps", "-f", "json", "b"]).ok();
        let mut expected = sleepers(&seconds);
        expected.sort_unstable();
        let pids: Vec<u32> = serde_json::from_str(&pids).unwrap();
        assert_eq!(pids, expected, "{kinds:?}");
        fixture.bare(&["kill", "b", "KILL"]).ok();
        ended();
        fixture.wait_status("b", "stopped");
        fixture.bare(&["delete", "b"]).ok();
        start(&mut fixture);
        fixture.bare(&["delete", "-f", "b"]).ok();
        ended();
        // The first one has ended by itself.
        fixture.sh(&format!("/bin/sleep {seconds} & exit 3"));
        fixture.runtime(&["run", "b"]).exits(3);
        ended();
        assert_eq!(fixture.status("a"), "running", "{kinds:?}");
    }
}

/// `create` and `start` as two, with a terminal or not: init waits in the namespaces of another container.
#[test]
fn a_created_container_waits_where_it_was_put() {
    peer_differs!(
        "crun",
        "1.8 cannot join a pid namespace along with a user namespace: EPERM"
    );
    let mut fixture = first();
    join(&mut fixture, "a", &["user", "pid", "network", "ipc", "uts"]);
    fixture.args(&["/bin/echo", "ran"]);
    let create = fixture.background(&["create", "b"], b"");
    wait_for("create", || {
        (fixture.bare(&["state", "b"]).code == 0 && fixture.status("b") == "created").then_some(())
    });
    // Nobody may look into an init of runc's that waits.
    if !peer() {
        // Nor into one of lodger's, for the moment until it waits.
        let at = path(&fixture, "b", "pid");
        let second = wait_for("init to be seen", || fs::read_link(&at).ok());
        assert_eq!(namespace(&fixture, "a", "pid"), second);
    }
    fixture.bare(&["start", "b"]).ok();
    fixture.wait_status("b", "stopped");
    let ran = create.wait();
    assert_eq!((ran.code, &*ran.out), (0, "ran\n"), "{ran:#?}");
}

/// A container whose namespaces are joined can be ended at any moment, and so can whoever joins them.
#[test]
fn a_joiner_that_is_killed_leaves_nothing() {
    lodger_only!("the process that joins");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let mut fixture = first();
    join(&mut fixture, "a", &["user", "network", "pid"]);
    fixture.config["hostname"] = json!(null);
    let seconds = seconds();
    fixture.args(&["/bin/sleep", &seconds]).write_config();
    let scratch = tempfile::tempdir().unwrap();
    // Only the joiner joins more than one.
    for fate in ["signal=KILL", "error=ENOSPC"] {
        let option = format!("--inject=setns:{fate}:when=2");
        let output = scratch.path().join("trace");
        let create = fixture.command(&["create", "b"]);
        let ran = spawn(&mut under_strace(&["-f", &option], &output, &create), b"").wait();
        let told = match fate {
            "signal=KILL" => {
                "cannot make the process that joins namespaces\n  caused by: killed by signal 9"
            }
            _ => "/path\n  caused by: setns(fd, CLONE_NEWPID): ENOSPC",
        };
        assert_eq!(ran.code, 1, "{ran:#?}");
        assert!(ran.err.contains(told), "{ran:#?}");
        assert!(sleepers(&seconds).is_empty());
        assert_eq!(fixture.bare(&["list", "-q"]).ok(), "a\n");
    }
}

/// `plan` shows what would be joined, and joins nothing.
#[test]
fn a_plan_tells_what_is_joined() {
    lodger_only!("plan");
    let mut fixture = first();
    join(&mut fixture, "a", &["user", "network"]);
    let at = path(&fixture, "a", "net");
    let plan: Value = serde_json::from_str(&fixture.runtime(&["plan", "."]).ok()).unwrap();
    assert_eq!(plan["user_namespace"]["kind"], "joined");
    assert_eq!(plan["joined"][0]["path"], json!(at));
    assert_eq!(plan["joined"][0]["owned"], true);
}

/// In namespaces that others are in already, init still has the root of the host for a moment: its runtime is stopped then.
#[test]
fn cve_2016_9962_an_init_that_joins_cannot_be_looked_into() {
    lodger_only!("switching defences off");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    held_by(&["NotDumpable"], || {
        // The second child that its runtime waits for is the joiner: init waits for its first order.
        let outside = seen_from_inside(&["user", "pid"], 2);
        let found = (!outside.is_empty()).then(|| format!("{outside:?}"));
        Outcome::of(found, "nothing was reachable")
    });
    // In a user namespace of its own it is out of reach already.
    assert_eq!(seen_from_inside(&["pid"], 1), [] as [Value; 0]);
}

/// What tells the kernel the id map of a mount is a process, which init has to be able to look into.
#[test]
fn cve_2016_9962_the_process_of_an_id_map_shows_nothing_of_the_host() {
    lodger_only!("switching defences off");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    held_by(&["NotDumpable"], || {
        let mut fixture = Fixture::with_own_root();
        fixture.add_probe();
        list(&mut fixture, "user", None);
        fixture.sleeping("a");
        join(&mut fixture, "a", &["user", "pid"]);
        fixture.config["hostname"] = json!(null);
        let to = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        fixture.mount(json!({
            "destination": "/mnt", "type": "tmpfs", "source": "t", "options": ["idmap"],
            "uidMappings": to(rustix::process::getuid().as_raw()),
            "gidMappings": to(rustix::process::getgid().as_raw()),
        }));
        fixture.write_config();
        let create = fixture.command(&["create", "b"]);
        // As soon as it has another root than the host's it may be looked into: it is stopped right before.
        let stopped = Stopped::in_exec(&create, &fixture.path(""), "pivot_root");
        let look = ["exec", "-c", "CAP_SYS_PTRACE", "a", "/probe", "report"];
        let seen: Value = serde_json::from_str(&fixture.bare(&look).ok()).unwrap();
        // Init would be stopped where it changes its own root: both end here.
        let runtime = stopped.runtime;
        drop(stopped);
        wait_for("create to end", || (!lives(runtime)).then_some(()));
        let outside = seen["outside"].as_array().unwrap();
        let found = (!outside.is_empty()).then(|| format!("{outside:?}"));
        Outcome::of(found, "nothing was reachable")
    });
}

/// The ways out of a container, found by it in the processes of another one that is being made and joins `kinds` of its
/// namespaces; the runtime of that one has waited for its `n`-th child.
fn seen_from_inside(kinds: &[&str], n: usize) -> Vec<Value> {
    let mut fixture = Fixture::with_own_root();
    fixture.add_probe();
    fixture.sleeping("a");
    join(&mut fixture, "a", kinds);
    fixture.write_config();
    let create = fixture.command(&["create", "b"]);
    let stopped = Stopped::after(&create, &fixture.path(""), "wait4", n);
    let look = ["exec", "-c", "CAP_SYS_PTRACE", "a", "/probe", "report"];
    let seen: Value = serde_json::from_str(&fixture.bare(&look).ok()).unwrap();
    stopped.go_on();
    stopped.wait().ok();
    // The first container's own program, init, and who looks.
    let processes = seen["processes"].as_array().unwrap();
    assert!(processes.len() >= 3, "it was not seen: {processes:?}");
    seen["outside"].as_array().unwrap().clone()
}
