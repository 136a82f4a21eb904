//! pause and resume, and what a container's cgroup is good for besides: kill, ps and delete.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Fixture, lives, lodger_only, peer_differs, wait_for};

/// The directory of the container's cgroup, as the hierarchy has it.
pub(crate) fn cgroup(fixture: &Fixture, id: &str) -> PathBuf {
    let pid = fixture.state(id)["pid"].as_u64().unwrap();
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap();
    Path::new("/sys/fs/cgroup").join(path)
}

/// The uppermost cgroup that is the container's alone.
fn top(fixture: &Fixture, id: &str) -> PathBuf {
    let path = cgroup(fixture, id);
    match path.file_name().unwrap().to_str().unwrap() {
        "container" => path.parent().unwrap().to_owned(),
        _ => path,
    }
}

/// The status in the line of `list`.
fn listed(fixture: &Fixture, id: &str) -> String {
    let list: Value = serde_json::from_str(&fixture.bare(&["list", "-f", "json"]).ok()).unwrap();
    let all = list.as_array().unwrap();
    let one = all.iter().find(|one| one["id"] == id).unwrap();
    one["status"].as_str().unwrap().to_owned()
}

/// Makes the id of a container unlike that of any other test's, whose cgroup has that name.
pub(crate) fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    peer_differs!(
        "crun",
        "1.8.1 makes no cgroup without systemd for an ordinary user"
    );
    let id = &unique("paused");
    let mut fixture = Fixture::with_own_root();
    fixture.sh("while :; do echo >>/tick; sleep 0.01; done");
    fixture.runtime(&["run", "-d", id]).ok();
    let ticks = || std::fs::metadata(fixture.rootfs().join("tick")).map_or(0, |file| file.len());
    wait_for("the first tick", || (ticks() > 0).then_some(()));
    fixture.bare(&["pause", id]).ok();
    assert_eq!(fixture.status(id), "paused");
    assert_eq!(listed(&fixture, id), "paused");
    let before = ticks();
    // A command takes longer than a tick.
    fixture.bare(&["state", id]).ok();
    std::process::Command::new("/bin/sleep")
        .arg("0.1")
        .status()
        .unwrap();
    assert_eq!(ticks(), before);

    fixture.bare(&["exec", id, "/bin/true"]).fails(
        255,
        "cannot exec in a paused container (use --ignore-paused to override)",
    );
    fixture
        .bare(&["start", id])
        .fails(1, "cannot start a container in the paused state");
    fixture
        .bare(&["delete", id])
        .fails(1, "container still running");
    fixture
        .bare(&["pause", id])
        .fails(1, "it is paused already");
    assert_eq!((fixture.status(id).as_str(), ticks()), ("paused", before));

    fixture.bare(&["resume", id]).ok();
    assert_eq!(fixture.status(id), "running");
    wait_for("a tick more", || (ticks() > before).then_some(()));
    fixture
        .bare(&["resume", id])
        .fails(1, "container not paused");
    fixture.bare(&["exec", id, "/bin/true"]).ok();
}

#[test]
fn a_process_that_joins_a_paused_container_waits_there() {
    lodger_only!("where a process that joins waits");
    let id = &unique("joined");
    let mut fixture = Fixture::new();
    fixture.sleeping(id);
    fixture.bare(&["pause", id]).ok();
    let joining = fixture.background(&["exec", "--ignore-paused", id, "/bin/echo", "there"], b"");
    // It is in the cgroup, and nothing but resume brings it further.
    wait_for("the process in the cgroup", || {
        let pids: Vec<u64> =
            serde_json::from_str(&fixture.bare(&["ps", "-f", "json", id]).ok()).unwrap();
        (pids.len() == 2).then_some(())
    });
    assert_eq!(joining.out(), "");
    fixture.bare(&["resume", id]).ok();
    assert_eq!(joining.wait().ok(), "there\n");
}

#[test]
fn a_created_container_can_be_paused_too() {
    peer_differs!(
        "crun",
        "1.8.1 makes no cgroup without systemd for an ordinary user"
    );
    let id = &unique("created");
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["create", id]).ok();
    fixture.bare(&["pause", id]).ok();
    assert_eq!(fixture.status(id), "paused");
    fixture
        .bare(&["start", id])
        .fails(1, "cannot start a container in the paused state");
    fixture.bare(&["resume", id]).ok();
    assert_eq!(fixture.status(id), "created");
    fixture.bare(&["start", id]).ok();
    assert_eq!(fixture.status(id), "running");
}

#[test]
fn a_paused_container_is_killed_and_deleted_as_any_other() {
    peer_differs!(
        "crun",
        "1.8.1 makes no cgroup without systemd for an ordinary user"
    );
    let mut fixture = Fixture::new();
    let ids = ["kill", "kill-all", "delete"].map(unique);
    for id in &ids {
        fixture.sleeping(id);
    }
    let tops = ids.each_ref().map(|id| top(&fixture, id));
    let pids = ids
        .each_ref()
        .map(|id| fixture.state(id)["pid"].as_u64().unwrap());
    for id in &ids {
        fixture.bare(&["pause", id]).ok();
    }
    fixture.bare(&["kill", &ids[0], "KILL"]).ok();
    fixture.wait_status(&ids[0], "stopped");
    fixture.bare(&["kill", "-a", &ids[1], "KILL"]).ok();
    fixture.wait_status(&ids[1], "stopped");
    fixture
        .bare(&["pause", &ids[0]])
        .fails(1, "container not running");
    fixture
        .bare(&["resume", &ids[0]])
        .fails(1, "container not paused");
    for id in &ids[..2] {
        fixture.bare(&["delete", id]).ok();
    }
    fixture.bare(&["delete", "-f", &ids[2]]).ok();
    for (pid, top) in pids.iter().zip(tops) {
        assert!(!lives(u32::try_from(*pid).unwrap()));
        assert!(!top.exists(), "{top:?}");
    }
}

#[test]
fn signals_wait_for_a_paused_container_to_go_on() {
    peer_differs!(
        "runc",
        "fails now and then to resume a container that a signal which waited ends"
    );
    peer_differs!(
        "crun",
        "1.8.1 makes no cgroup without systemd for an ordinary user"
    );
    let id = &unique("signal");
    let mut fixture = Fixture::new();
    fixture.sh("trap 'exit 7' TERM; while :; do sleep 0.01; done");
    let run = fixture.background(&["run", id], b"");
    wait_for("it to be there", || {
        let ran = fixture.bare(&["state", id]);
        ran.out.contains("running").then_some(())
    });
    wait_for("the trap", || {
        let pid = fixture.state(id)["pid"].to_string();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // SIGTERM is bit 14.
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:\t"))?;
        (u64::from_str_radix(caught, 16).ok()? & (1 << 14) != 0).then_some(())
    });
    fixture.bare(&["pause", id]).ok();
    fixture.bare(&["kill", id, "TERM"]).ok();
    assert_eq!(fixture.status(id), "paused");
    fixture.bare(&["resume", id]).ok();
    run.wait().exits(7);
}

#[test]
fn all_processes_of_a_container_in_the_hosts_pid_namespace_are_its_cgroups() {
    peer_differs!(
        "runc",
        "1.1.5 kills the first process alone, and leaves the others"
    );
    peer_differs!(
        "crun",
        "1.8.1 makes no cgroup without systemd for an ordinary user"
    );
    let id = &unique("hostpid");
    let mut fixture = Fixture::new();
    fixture.without_namespace("pid").unmount("/proc");
    fixture.mount(json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind", "nosuid"]}));
    fixture.sh("(sleep 600 &) ; sleep 601 & wait");
    fixture.runtime(&["run", "-d", id]).ok();
    let pids = || -> Vec<u32> {
        serde_json::from_str(&fixture.bare(&["ps", "-f", "json", id]).ok()).unwrap()
    };
    let all = wait_for("its processes", || {
        Some(pids()).filter(|pids| pids.len() == 3)
    });
    let top = top(&fixture, id);
    let first = u32::try_from(fixture.state(id)["pid"].as_u64().unwrap()).unwrap();
    assert!(all.contains(&first));
    fixture.bare(&["pause", id]).ok();
    // Without a pid namespace they do not end with the first process, and it takes no --all.
    fixture.bare(&["kill", id, "KILL"]).ok();
    for pid in all {
        wait_for("its end", || (!lives(pid)).then_some(()));
    }
    fixture.wait_status(id, "stopped");
    assert!(pids().is_empty());
    fixture.bare(&["delete", id]).ok();
    assert!(!top.exists());
}

#[test]
fn cgroups_of_the_containers_own_ids_are_removed_with_it() {
    peer_differs!(
        "runc",
        "1.1.5 leaves what its caller may not remove, without a word"
    );
    peer_differs!(
        "crun",
        "1.8.1 makes no cgroup without systemd for an ordinary user"
    );
    let id = &unique("nested");
    let mut fixture = Fixture::with_own_root();
    fixture.sleeping(id);
    let top = top(&fixture, id);
    // What a container does that may divide its cgroup, done by another one: it makes cgroups that belong to its ids.
    let helper = unique("helper");
    let mut own = Fixture::new();
    own.mount(
        json!({"destination": "/tmp", "type": "bind", "source": top, "options": ["rbind", "rw"]}),
    );
    let caps = json!(["CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"]);
    own.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    own.sh("mkdir -p /tmp/deep/er/est && chown 5:5 /tmp/deep /tmp/deep/er /tmp/deep/er/est");
    own.runtime(&["run", &helper]).ok();
    let inner = top.join("deep/er");
    assert_ne!(
        std::os::unix::fs::MetadataExt::uid(&inner.metadata().unwrap()),
        rustix::process::getuid().as_raw()
    );
    assert!(
        std::fs::remove_dir(inner.join("est")).is_err(),
        "the test's own user may do it"
    );
    fixture.bare(&["kill", id, "KILL"]).ok();
    fixture.wait_status(id, "stopped");
    fixture.bare(&["delete", id]).ok();
    assert!(!top.exists());
}

#[test]
fn the_cgroup_of_another_container_with_the_same_name_is_left_alone() {
    lodger_only!("its state.json");
    let id = &unique("number");
    let mut fixture = Fixture::new();
    fixture.sleeping(id);
    let top = top(&fixture, id);
    // As if it was made after this container's was gone: its number is another one.
    let state = fixture.path(&format!("state/{id}/state.json"));
    let text = std::fs::read_to_string(&state).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    let number = record["cgroup"]["id"].as_u64().unwrap();
    record["cgroup"]["id"] = json!(number + 1);
    std::fs::write(&state, record.to_string()).unwrap();
    fixture.bare(&["pause", id]).fails(1, "is gone");
    fixture.bare(&["delete", "-f", id]).ok();
    assert!(top.exists());
    for path in [top.join("container"), top] {
        if path.exists() {
            wait_for("the cgroup to be free", || std::fs::remove_dir(&path).ok());
        }
    }
}
