//! kill, delete and wait where a container has several processes, or has ended.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    Fixture, Running, lives, lodger_only, read_lossy, send_signal, skip, spawn, wait_for,
};

/// A number of seconds to sleep that no other test uses: what a process of one test is known by.
fn nap(number: u32) -> String {
    format!("{}{number:03}", 1_000_000 + std::process::id())
}

/// The processes that have this argument and have not ended.
fn with_argument(argument: &str) -> Vec<u32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let cmdline = fs::read(path.join("cmdline")).unwrap_or_default();
        let has = cmdline
            .split(|byte| *byte == 0)
            .any(|word| word == argument.as_bytes());
        if has && let Ok(pid) = entry.file_name().to_string_lossy().parse() {
            pids.push(pid);
        }
    }
    pids
}

fn wait_count(argument: &str, count: usize) {
    wait_for(
        &format!("{count} processes that sleep {argument} seconds"),
        || (with_argument(argument).len() == count).then_some(()),
    );
}

fn pid(fixture: &Fixture, id: &str) -> u32 {
    u32::try_from(fixture.state(id)["pid"].as_u64().unwrap()).unwrap()
}

/// A running container in the host's pid namespace with three processes that sleep `nap` seconds besides its shell.
fn family(id: &str, nap: &str) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.without_namespace("pid");
    fixture.sh(&format!("sleep {nap} & sleep {nap} & sleep {nap} & wait"));
    fixture.runtime(&["run", "-d", id]).ok();
    wait_count(nap, 3);
    fixture
}

fn record(fixture: &Fixture, id: &str) -> Value {
    let path = fixture.path("state").join(id).join("state.json");
    serde_json::from_str(&read_lossy(&path)).unwrap()
}

/// A kernel that gives no unique numbers: what is left of a container whose first process has ended might be another's.
#[test]
fn what_may_be_another_containers_is_not_signalled() {
    lodger_only!("the record of a container");
    let nap = nap(10);
    let fixture = family("c", &nap);
    let whole = record(&fixture, "c");
    let mut older = whole.clone();
    older["mark"]["number"] = Value::Null;
    let path = fixture.path("state/c/state.json");
    fs::write(&path, older.to_string()).unwrap();
    // While the first process lives, it tells.
    assert_eq!(
        fixture
            .bare(&["ps", "-f", "json", "c"])
            .ok()
            .matches(',')
            .count(),
        3
    );
    send_signal(pid(&fixture, "c"), "KILL");
    fixture.wait_status("c", "stopped");
    for args in [&["kill", "-a", "c", "KILL"][..], &["delete", "c"]] {
        fixture.bare(args).fails(1, "may be another's");
    }
    assert_eq!(fixture.bare(&["ps", "-f", "json", "c"]).ok(), "[]\n");
    assert_eq!(with_argument(&nap).len(), 3);
    let ran = fixture.bare(&["delete", "-f", "c"]).exits(0);
    assert!(
        ran.err.contains("note: ") && ran.err.contains("kill(1)"),
        "{ran:#?}"
    );
    for pid in with_argument(&nap) {
        send_signal(pid, "KILL");
    }
    wait_count(&nap, 0);
}

#[test]
fn kill_all_reaches_every_process_in_the_hosts_pid_namespace() {
    lodger_only!("a container without a cgroup");
    let nap = nap(1);
    let fixture = family("c", &nap);
    let shell = pid(&fixture, "c");
    for flag in ["--all", "-a"] {
        // Harmless, and everybody gets it.
        fixture.bare(&["kill", flag, "c", "CONT"]).ok();
    }
    fixture.bare(&["kill", "-a", "c", "KILL"]).ok();
    wait_count(&nap, 0);
    assert!(!lives(shell));
    assert_eq!(fixture.status("c"), "stopped");
}

#[test]
fn sigkill_ends_a_container_in_the_hosts_pid_namespace_as_a_whole() {
    lodger_only!("a container without a cgroup");
    let nap = nap(2);
    let fixture = family("c", &nap);
    fixture.bare(&["kill", "c", "KILL"]).ok();
    wait_count(&nap, 0);
    assert_eq!(fixture.status("c"), "stopped");
}

#[test]
fn another_signal_reaches_the_first_process_alone() {
    lodger_only!("a container without a cgroup");
    let nap = nap(3);
    let fixture = family("c", &nap);
    fixture.bare(&["kill", "c", "TERM"]).ok();
    fixture.wait_status("c", "stopped");
    assert_eq!(with_argument(&nap).len(), 3);
    fixture.bare(&["delete", "c"]).ok();
    wait_count(&nap, 0);
}

/// The first process is gone, and with it the container's pid; the others are known by their namespace.
#[test]
fn processes_that_outlive_the_first_one_are_found_and_ended() {
    lodger_only!("a container without a cgroup");
    let nap = nap(4);
    for end in [&["kill", "-a", "c", "KILL"][..], &["delete", "c"]] {
        let fixture = family("c", &nap);
        if record(&fixture, "c")["mark"]["number"].is_null() {
            fixture.bare(&["kill", "-a", "c", "KILL"]).ok();
            skip!("before Linux 6.18 a namespace that is gone cannot be told from another");
        }
        send_signal(pid(&fixture, "c"), "KILL");
        fixture.wait_status("c", "stopped");
        let mut left = with_argument(&nap);
        left.sort_unstable();
        let told: Vec<u32> =
            serde_json::from_str(&fixture.bare(&["ps", "-f", "json", "c"]).ok()).unwrap();
        assert_eq!(told, left);
        fixture.bare(end).ok();
        wait_count(&nap, 0);
    }
}

#[test]
fn delete_force_leaves_no_process() {
    lodger_only!("a container without a cgroup");
    let nap = nap(5);
    let fixture = family("c", &nap);
    fixture
        .bare(&["delete", "c"])
        .fails(1, "container still running");
    assert_eq!(with_argument(&nap).len(), 3);
    fixture.bare(&["delete", "-f", "c"]).ok();
    assert_eq!(with_argument(&nap), Vec::<u32>::new());
    fixture.bare(&["state", "c"]).exits(1);
}

#[test]
fn run_leaves_no_process_in_the_hosts_pid_namespace() {
    lodger_only!("a container without a cgroup");
    let nap = nap(11);
    let mut fixture = Fixture::new();
    fixture.without_namespace("pid");
    fixture.sh(&format!("sleep {nap} >/dev/null & exit 6"));
    fixture.run().exits(6);
    assert_eq!(with_argument(&nap), Vec::<u32>::new());
    fixture.bare(&["state", "c"]).exits(1);
}

#[test]
fn a_process_in_a_user_namespace_of_its_own_is_ended_too() {
    lodger_only!("a container without a cgroup");
    let nap = nap(6);
    let mut fixture = Fixture::with_own_root();
    fixture.without_namespace("pid");
    fixture.sh(&format!("/bin/busybox unshare -U sleep {nap}; :"));
    fixture.runtime(&["run", "-d", "c"]).ok();
    let own = fs::read_link(format!("/proc/{}/ns/user", pid(&fixture, "c"))).unwrap();
    wait_for("the process to have its namespace", || {
        let pid = *with_argument(&nap).first()?;
        let namespace = fs::read_link(format!("/proc/{pid}/ns/user")).ok()?;
        (namespace != own).then_some(())
    });
    fixture.bare(&["delete", "-f", "c"]).ok();
    wait_count(&nap, 0);
}

/// A process that is another one every few milliseconds.
#[test]
fn a_process_that_forks_away_is_ended() {
    lodger_only!("a container without a cgroup");
    let nap = nap(7);
    let mut fixture = Fixture::with_own_root();
    fixture.without_namespace("pid");
    fixture.sh(&format!(
        "flee() {{ sleep 0.005; echo >>/tmp/hops; flee & exit 0; }}; flee & sleep {nap}"
    ));
    fixture.runtime(&["run", "-d", "c"]).ok();
    let hops = fixture.rootfs().join("tmp/hops");
    let size = || fs::metadata(&hops).map_or(0, |metadata| metadata.len());
    wait_for("it to be on its way", || (size() > 5).then_some(()));
    fixture.bare(&["delete", "-f", "c"]).ok();
    wait_count(&nap, 0);
    let before = size();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(size(), before, "it still hops");
}

#[test]
fn nobody_else_is_signalled() {
    lodger_only!("a container without a cgroup");
    let (nap, other) = (nap(8), nap(9));
    let fixture = family("c", &nap);
    let neighbour = family("other", &other);
    let bystander: Running = spawn(std::process::Command::new("/bin/sleep").arg("600"), b"");
    fixture.bare(&["kill", "-a", "c", "KILL"]).ok();
    fixture.bare(&["delete", "c"]).ok();
    wait_count(&nap, 0);
    assert_eq!(with_argument(&other).len(), 3);
    assert_eq!(neighbour.status("other"), "running");
    assert!(lives(bystander.pid()));
}

#[test]
fn kill_all_reaches_every_process_of_a_pid_namespace() {
    lodger_only!("a container without a cgroup");
    let mut fixture = Fixture::new();
    fixture.sh("trap 'wait; exit 5' TERM
         (trap 'echo child; exit 0' TERM; echo ready; while :; do sleep 0.05; done) &
         while :; do sleep 0.05; done");
    let running = fixture.background(&["run", "c"], b"");
    wait_for("the child to be ready", || {
        running.out().contains("ready").then_some(())
    });
    fixture.bare(&["kill", "--all", "c"]).ok();
    assert_eq!(running.wait().exits(5).out, "ready\nchild\n");
}

#[test]
fn kill_all_of_a_stopped_container_is_no_failure() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    fixture.bare(&["kill", "c", "KILL"]).ok();
    fixture.wait_status("c", "stopped");
    fixture.bare(&["kill", "-a", "c", "KILL"]).ok();
    fixture
        .bare(&["kill", "c", "KILL"])
        .fails(1, "container not running: no such process");
    fixture.bare(&["kill", "-a", "nobody"]).exits(1);
}

#[test]
fn flags_are_taken_before_and_after_the_id() {
    lodger_only!("flags in any place");
    let mut fixture = Fixture::new();
    for (kill, delete) in [
        (["kill", "-a", "c", "KILL"], ["delete", "-f", "c"]),
        (["kill", "c", "-a", "KILL"], ["delete", "c", "-f"]),
        (["kill", "c", "KILL", "--all"], ["delete", "c", "--force"]),
    ] {
        fixture.sleeping("c");
        fixture.bare(&kill).ok();
        fixture.bare(&delete).ok();
    }
}

#[test]
fn an_id_that_begins_with_a_hyphen() {
    lodger_only!("an id after --");
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["run", "-d", "--", "-x"]).ok();
    fixture.bare(&["state", "--", "-x"]).ok();
    fixture.bare(&["kill", "-a", "--", "-x", "KILL"]).ok();
    fixture.bare(&["delete", "-f", "--", "-x"]).ok();
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
}

#[test]
fn containers_by_a_regular_expression() {
    lodger_only!("-r");
    let mut fixture = Fixture::new();
    for id in ["web-1", "web-2", "db"] {
        fixture.sleeping(id);
    }
    fixture.bare(&["kill", "-r", "^web-", "KILL"]).ok();
    fixture.wait_status("web-1", "stopped");
    fixture.wait_status("web-2", "stopped");
    assert_eq!(fixture.status("db"), "running");
    // One that has stopped is no failure, and one that runs is, without stopping the others.
    fixture.bare(&["kill", "--regex", "web"]).ok();
    fixture
        .bare(&["delete", "--regex", "."])
        .fails(1, "cannot delete 1 of the 3 containers that match \".\"");
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "db\n");
    fixture.bare(&["delete", "-f", "-r", "^d"]).ok();
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
    fixture.bare(&["delete", "-r", "nothing"]).ok();
    for verb in ["kill", "delete"] {
        fixture
            .bare(&[verb, "-r", "a("])
            .fails(1, "invalid regular expression");
    }
}

#[test]
fn a_container_without_a_cgroup_cannot_be_paused() {
    lodger_only!("a container without a cgroup");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let ran = fixture.bare(&["pause", "c"]);
    assert!(ran.err.contains("`lodger kill -a c STOP`"), "{ran:#?}");
    ran.fails(
        1,
        "cannot pause container \"c\": it has no cgroup of its own",
    );
    fixture
        .bare(&["resume", "c"])
        .fails(1, "cannot resume container \"c\": container not paused");
    // What is said to help does.
    fixture.bare(&["kill", "-a", "c", "STOP"]).ok();
    let pid = u32::try_from(fixture.state("c")["pid"].as_u64().unwrap()).unwrap();
    crate::harness::wait_for("it to stop", || {
        (crate::tracing::process_state(pid) == Some('T')).then_some(())
    });
    fixture.bare(&["kill", "-a", "c", "CONT"]).ok();
    fixture.bare(&["exec", "c", "/bin/true"]).ok();
    for verb in ["pause", "resume"] {
        fixture
            .bare(&[verb, "nobody"])
            .fails(1, "container does not exist");
    }
}
