//! Namespaces that are there before the container, and that others are in, as in a pod: they stay as they are, and what is restored
//! joins them again, or those of another pod.

use std::path::PathBuf;

use serde_json::json;

use crate::base::settle;
use crate::checkpoint_lab::{Lab, checkpoints_or_skip};
use crate::checkpoint_refusals::refused;
use crate::namespaces::{join, list, namespace};

/// The kinds that can be joined again, and their names in /proc/PID/ns.
const KINDS: [(&str, &str); 4] = [
    ("network", "net"),
    ("uts", "uts"),
    ("ipc", "ipc"),
    ("cgroup", "cgroup"),
];

/// A running container `id` of `lab`'s bundle that has a namespace of each kind for others to join.
fn pod(lab: &mut Lab, id: &str) {
    let config = lab.fixture.config.clone();
    lab.fixture.config["process"]["args"] = json!(["sleep", "600"]);
    for kind in ["network", "uts", "ipc", "cgroup", "user"] {
        list(&mut lab.fixture, kind, None);
    }
    lab.fixture.config["hostname"] = json!(id);
    lab.fixture.write_config();
    lab.lodger(&["run", "-d", id]).ok();
    settle(&lab.fixture, id);
    lab.fixture.config = config;
}

/// Has `lab`'s container join these namespaces of the container `id`.
fn member(lab: &mut Lab, id: &str, kinds: &[&str]) {
    join(&mut lab.fixture, id, kinds);
    let config = lab.fixture.config.as_object_mut().unwrap();
    let is_joined = |kind: &str| kinds.contains(&kind);
    if is_joined("uts") {
        config.remove("hostname");
    }
    // What the host's stands in for has others beneath it; and nobody may mount the queues of others.
    let gone = [("network", "/sys"), ("ipc", "/dev/mqueue")];
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| {
        let is = |(kind, place): &(&str, &str)| is_joined(kind) && mount["destination"] == *place;
        !gone.iter().any(is)
    });
    lab.fixture.write_config();
}

/// Which namespaces `c` is in.
fn namespaces(lab: &Lab, id: &str) -> Vec<PathBuf> {
    let names = KINDS.iter().map(|(_, name)| *name).chain(["user"]);
    names
        .map(|name| namespace(&lab.fixture, id, name))
        .collect()
}

#[test]
fn a_namespace_of_each_kind_twice() {
    checkpoints_or_skip!();
    for (number, (kind, name)) in KINDS.into_iter().enumerate() {
        let mut lab = Lab::with(&["unix", "pipes", "memfd", "shared", "threads", "tree"]);
        pod(&mut lab, "pod");
        member(&mut lab, "pod", &[kind]);
        lab.start();
        let of_pod = namespaces(&lab, "pod");
        for _ in 0..2 {
            let before = lab.look("c");
            lab.checkpoint(&[]).ok();
            assert_eq!(lab.ids(), ["pod"]);
            lab.restore(&["-d"], "c").ok();
            lab.look("c").goes_on_from(&before);
            let own = namespaces(&lab, "c");
            for other in 0..of_pod.len() {
                assert_eq!(
                    own[other] == of_pod[other],
                    other == number,
                    "{kind} {own:?}"
                );
            }
            let link = format!("/proc/self/ns/{name}");
            let seen = lab.lodger(&["exec", "c", "readlink", &link]).ok();
            assert_eq!(PathBuf::from(seen.trim_end()), own[number]);
        }
        lab.lodger(&["kill", "c", "KILL"]).ok();
        lab.fixture.wait_status("c", "stopped");
        lab.lodger(&["delete", "c"]).ok();
        assert_eq!(lab.fixture.status("pod"), "running");
        assert_eq!(namespaces(&lab, "pod"), of_pod);
    }
}

/// Its names are the pod's, and whoever listens is heard in there.
#[test]
fn a_member_moves_to_another_pod() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["listen", "udp", "unix"]);
    let config = lab.fixture.config.clone();
    let kinds = KINDS.map(|(kind, _)| kind);
    pod(&mut lab, "old");
    member(&mut lab, "old", &kinds);
    lab.start();
    let listeners = |pod: &str| {
        let count = "busybox grep -c ' 0A ' /proc/net/tcp";
        let ran = lab_exec(&lab, pod, count);
        ran.trim_end().to_owned()
    };
    assert_eq!(listeners("old"), "1");
    let before = lab.look("c");
    lab.checkpoint(&[]).ok();
    assert_eq!(listeners("old"), "0");
    assert_eq!(lab_exec(&lab, "old", "hostname"), "old\n");
    let gone = namespaces(&lab, "old");
    lab.lodger(&["delete", "-f", "old"]).ok();
    lab.restore(&["-d"], "c").fails(1, "/linux/namespaces/");
    assert_eq!(lab.ids(), [""; 0]);

    lab.fixture.config = config;
    pod(&mut lab, "new");
    member(&mut lab, "new", &kinds);
    let ran = lab.restore(&["-d"], "moved").exits(0);
    // Where they are is no difference.
    assert!(!ran.err.contains("/linux/namespaces"), "{ran:#?}");
    lab.look("moved").goes_on_from(&before);
    let (now, of_pod) = (namespaces(&lab, "moved"), namespaces(&lab, "new"));
    assert_eq!(now[..KINDS.len()], of_pod[..KINDS.len()]);
    assert!(now != gone && now[KINDS.len()] != of_pod[KINDS.len()]);
    assert_eq!(lab_exec(&lab, "moved", "hostname"), "new\n");
    let heard = "busybox grep -c ' 0A ' /proc/net/tcp";
    assert_eq!(lab_exec(&lab, "new", heard), "1\n");
    lab.consume("moved", &[("listen.accepted", "hello")]);
}

fn lab_exec(lab: &Lab, id: &str, script: &str) -> String {
    let ran = lab.lodger(&["exec", id, "sh", "-c", script]);
    assert!(ran.err.is_empty(), "{ran:#?}");
    ran.out
}

/// The pod stays, and the container goes on beside what was saved of it.
#[test]
fn a_member_that_is_left_running() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["unix", "shared"]);
    pod(&mut lab, "pod");
    member(&mut lab, "pod", &["network", "ipc"]);
    lab.start();
    let before = lab.look("c");
    lab.checkpoint(&["--leave-running"]).ok();
    lab.look("c").goes_on_from(&before);
    lab.lodger(&["delete", "-f", "c"]).ok();
    lab.restore(&["-d"], "c").ok();
    lab.look("c").goes_on_from(&before);
}

#[test]
fn what_is_joined_stays_joined() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["threads"]);
    let alone = lab.fixture.config.clone();
    pod(&mut lab, "pod");
    member(&mut lab, "pod", &["network", "uts"]);
    let both = lab.fixture.config.clone();
    lab.start();
    let before = lab.look("c");
    lab.checkpoint(&[]).ok();
    // Its own, the caller's, and that of another kind.
    for (kind, listed) in [("network", true), ("network", false), ("ipc", false)] {
        lab.fixture.config = both.clone();
        match (kind, listed) {
            ("ipc", _) => member(&mut lab, "pod", &["ipc"]),
            (_, true) => list(&mut lab.fixture, kind, None),
            (_, false) => {
                lab.fixture.without_namespace(kind);
            }
        }
        lab.fixture.write_config();
        let ran = lab.restore(&["-d"], "c").fails(1, "/linux/namespaces: ");
        assert!(ran.err.contains("had"), "{ran:#?}");
        assert_eq!(lab.ids(), ["pod"]);
    }
    lab.fixture.config = both;
    lab.fixture.write_config();
    lab.restore(&["-d"], "c").ok();
    lab.look("c").goes_on_from(&before);
    lab.lodger(&["delete", "-f", "c"]).ok();

    // And one that was alone does not come into a pod.
    lab.fixture.config = alone;
    lab.start();
    lab.checkpoint(&[]).ok();
    member(&mut lab, "pod", &["uts"]);
    lab.restore(&["-d"], "c").fails(1, "had of its own");
    assert_eq!(lab.ids(), ["pod"]);
}

/// To take a connection apart takes CAP_NET_ADMIN where it is.
#[test]
fn connections_in_a_network_of_others() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["tcp"]);
    pod(&mut lab, "pod");
    member(&mut lab, "pod", &["network"]);
    lab.start();
    let ran = lab.checkpoint(&["--tcp-established"]);
    refused(&lab, ran, &["TCP repair mode", "still running"]);
}

#[test]
fn memory_in_an_ipc_namespace_of_others() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["sysv"]);
    pod(&mut lab, "pod");
    member(&mut lab, "pod", &["ipc"]);
    lab.start();
    let segments = || lab_exec(&lab, "pod", "cat /proc/sysvipc/shm");
    let before = segments();
    refused(&lab, lab.checkpoint(&[]), &["/SYSV", "ipc namespace"]);
    assert_eq!(segments(), before);
}

/// Others who are in these would reach CRIU, or what CRIU makes would not be there.
#[test]
fn namespaces_that_cannot_be_joined_again() {
    checkpoints_or_skip!();
    for (kind, why) in [
        ("user", "power over CRIU"),
        ("pid", "numbers"),
        ("time", "clocks"),
    ] {
        let mut lab = Lab::with(&[]);
        let config = lab.fixture.config.clone();
        list(&mut lab.fixture, "time", None);
        pod(&mut lab, "pod");
        lab.fixture.config = config;
        member(&mut lab, "pod", &[kind]);
        lab.start();
        // In a pid namespace of others its program sees theirs, too: its answers differ.
        let ran = lab.checkpoint(&[]).fails(1, why);
        assert!(ran.err.contains("namespace is one"), "{ran:#?}");
        assert_eq!(lab.fixture.status("c"), "running");
    }
}
