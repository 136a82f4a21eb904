//! Paths that are no namespace, and namespaces that belong to somebody else than a container of lodger's.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use crate::harness::{
    Fixture, Running, lives, lodger_only, peer_differs, spawn, under_test, wait_for,
};
use crate::namespaces::{first, join, list, namespace};
use crate::nested::nested;

/// Every wrong path is told, all of them at once, and nothing is touched.
#[test]
fn what_is_no_namespace_of_the_type_is_refused() {
    lodger_only!("naming the JSON pointer of each");
    let mut fixture = Fixture::new();
    let fifo = fixture.path("fifo");
    spawn(Command::new("/usr/bin/mkfifo").arg(&fifo), b"")
        .wait()
        .ok();
    fs::write(fixture.path("file"), "x").unwrap();
    symlink("/nowhere", fixture.path("link")).unwrap();
    let at = |name: &str| fixture.path(name).to_str().unwrap().to_owned();
    let no_namespace = "is not a namespace: a path like /proc/PID/ns/net is wanted";
    let cases = [
        ("pid", at("fifo"), no_namespace),
        ("network", at("file"), no_namespace),
        ("ipc", at("bundle"), no_namespace),
        ("uts", "/dev/zero".to_owned(), no_namespace),
        ("mount", at("link"), "ENOENT (No such file or directory)"),
        (
            "user",
            "/proc/self/ns/uts".to_owned(),
            "is a namespace of type \"uts\", not \"user\"",
        ),
        (
            "cgroup",
            "/proc/1/ns/cgroup".to_owned(),
            "EACCES (Permission denied): its process is not yours",
        ),
        (
            "time",
            "/proc/4194304/ns/time".to_owned(),
            "the process has ended, or the path is mistyped",
        ),
    ];
    fixture.config["linux"]["namespaces"] = cases
        .iter()
        .map(|(kind, path, _)| json!({"type": kind, "path": path}))
        .collect();
    let ran = fixture
        .run()
        .fails(1, "cannot do what config.json asks for");
    for (index, (_, path, message)) in cases.iter().enumerate() {
        let line = format!("/linux/namespaces/{index}/path: ");
        let line = ran
            .err
            .lines()
            .find_map(|l| l.split_once(&line))
            .unwrap_or_else(|| panic!("{path}: {ran:#?}"));
        assert!(line.1.contains(message), "{message}: {}", line.1);
    }
    fixture.bare(&["state", "c"]).exits(1);
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
    fixture.config["linux"]["namespaces"] =
        json!([{"type": "network", "path": "proc/self/ns/net"}]);
    fixture
        .run()
        .fails(1, "/linux/namespaces/0/path: must be an absolute path");
}

#[test]
fn a_wrong_path_fails_with_peers_too() {
    for path in ["/proc/self/ns/uts", "/nowhere"] {
        let mut fixture = Fixture::new();
        list(&mut fixture, "network", Some(path));
        fixture.run().fails(1, "/linux/namespaces/");
    }
}

/// As with the type left out; engines name the host's namespaces so.
#[test]
fn the_callers_own_namespace_is_shared() {
    peer_differs!(
        "crun",
        "1.8 fails with EPERM where a path names the namespace that the caller is in"
    );
    peer_differs!(
        "runc",
        "1.1 fails with EPERM where a path names the namespace that the caller is in"
    );
    let mut fixture = Fixture::new();
    fixture.without_namespace("pid");
    let mut kinds = vec![("network", "net"), ("ipc", "ipc"), ("cgroup", "cgroup")];
    if under_test() != "runc" {
        kinds.push(("time", "time"));
    }
    for (kind, name) in kinds {
        let own = format!("/proc/{}/ns/{name}", std::process::id());
        list(&mut fixture, kind, Some(&own));
    }
    fixture.unmount("/dev/mqueue");
    fixture.sleeping("c");
    for name in ["net", "ipc", "time", "cgroup"] {
        let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_eq!(namespace(&fixture, "c", name), own);
    }
    fixture.bare(&["exec", "c", "/bin/true"]).ok();
    fixture.bare(&["delete", "-f", "c"]).ok();
    for (kind, message) in [
        ("user", "is the user namespace that you are in"),
        ("mount", "is the mount namespace that you are in"),
        (
            "uts",
            "/hostname: the container shares your own uts namespace",
        ),
    ] {
        let mut fixture = Fixture::new();
        let name = if kind == "mount" { "mnt" } else { kind };
        list(&mut fixture, kind, Some(&format!("/proc/self/ns/{name}")));
        fixture.run().fails(1, message);
    }
}

/// A process in namespaces that unshare(1) has made: "ready" is what it says.
fn unshared(options: &[&str]) -> Running {
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args(options)
        .args(["/bin/sh", "-c", "echo ready; exec sleep 600"]);
    let running = spawn(&mut command, b"");
    wait_for("unshare", || (running.out() == "ready\n").then_some(()));
    running
}

/// A user namespace with another map than the caller's: what belongs to it is joined with it, and not without.
#[test]
fn a_user_namespace_of_somebody_else_s_making_is_joined() {
    lodger_only!("taking the ids of a user namespace that is joined");
    let other = unshared(&["--user", "--map-root-user", "--net", "--uts"]);
    let at = |name: &str| format!("/proc/{}/ns/{name}", other.pid());
    let mut fixture = Fixture::new();
    list(&mut fixture, "network", Some(&at("net")));
    fixture.run().fails(1, "has other ids than yours");
    list(&mut fixture, "user", Some(&at("user")));
    list(&mut fixture, "uts", Some(&at("uts")));
    fixture.sh("cat /proc/self/uid_map; hostname");
    let ran = fixture.run();
    let own = rustix::process::getuid().as_raw();
    let out = ran.ok();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["0", &own.to_string(), "1", "inside"]);
    // Only uid 0 is there.
    fixture.config["process"]["user"] = json!({"uid": 1, "gid": 0});
    fixture.run().fails(1, "/process/user/uid");
}

/// The mappings of a joined user namespace are its own: others are said not to be written.
#[test]
fn mappings_beside_a_joined_user_namespace_are_noted() {
    lodger_only!("the note on mappings beside a user namespace by path");
    let mut fixture = first();
    join(&mut fixture, "a", &["user"]);
    fixture.without_namespace("pid").unmount("/dev/mqueue");
    fixture.config["hostname"] = json!(null);
    let one = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    fixture.config["linux"]["uidMappings"] = one.clone();
    fixture.config["linux"]["gidMappings"] = one;
    fixture.without_namespace("ipc").without_namespace("uts");
    fixture.args(&["/bin/true"]);
    let ran = fixture.run().exits(0);
    let note = "/linux/uidMappings: not written: the user namespace that is joined keeps its own";
    assert!(ran.err.contains(note), "{ran:#?}");
}

/// Inside of a user namespace of the caller's the namespaces are hers: none of them needs another way in.
#[test]
fn namespaces_are_joined_inside_a_user_namespace() {
    lodger_only!("a user namespace around the runtime");
    let mut fixture = Fixture::with_own_root();
    for own_user in [false, true] {
        list(&mut fixture, "network", Some("/proc/self/ns/net"));
        fixture.unmount("/sys").without_namespace("user");
        if own_user {
            list(&mut fixture, "user", None);
        }
        fixture.sh("/bin/readlink /proc/self/ns/uts");
        let prepare = "unshare --uts sleep 600 & child=$!; \
                       until [ \"$(readlink /proc/$child/ns/uts)\" != \"$(readlink /proc/self/ns/uts)\" ]; do sleep 0.01; done; \
                       trap 'kill $child' EXIT; sed -i \"s,/proc/CHILD,/proc/$child,\" config.json; readlink /proc/$child/ns/uts";
        list(&mut fixture, "uts", Some("/proc/CHILD/ns/uts"));
        fixture.config["hostname"] = match own_user {
            // What belongs to the container's own user namespace can be named.
            false => json!("named"),
            true => json!(null),
        };
        let out = nested(&fixture, &["--net"], prepare, &["run", "c"]).ok();
        let links: Vec<&str> = out.lines().collect();
        assert_eq!(links.len(), 2, "{out}");
        assert_eq!(links[0], links[1], "{own_user}");
    }
}

/// A mount namespace gets the container's root: only one that nobody is in is joined.
#[test]
fn a_mount_namespace_is_joined_when_nobody_is_in_it() {
    lodger_only!("mount namespaces by path");
    let mut fixture = Fixture::with_own_root();
    fixture.sh("/bin/readlink /proc/self/ns/mnt; /bin/ls /");
    let pinned = fixture.path("pinned");
    fs::write(&pinned, "").unwrap();
    list(&mut fixture, "mount", Some(pinned.to_str().unwrap()));
    // A namespace can be pinned where no mount is passed on, and by one that was made before it. Linux 6.18 takes the numbers
    // for that of each processor in order, but not those of several: the one that made the first is tried among others.
    let pin = format!(
        "mount --make-rprivate /; cpu=0; \
         until taskset -c $cpu unshare --mount={} readlink /proc/self/ns/mnt; do \
         cpu=$((cpu + 1)); [ $cpu -lt $(nproc --all) ]; done",
        pinned.display()
    );
    let out = nested(&fixture, &[], &pin, &["run", "c"]).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], lines[1], "{out}");
    assert!(lines.contains(&"bin") && !lines.contains(&"home"), "{out}");
    let occupied = unshared(&["--user", "--map-root-user", "--mount"]);
    let at = format!("/proc/{}/ns/mnt", occupied.pid());
    list(&mut fixture, "mount", Some(&at));
    let named = format!("processes are in this mount namespace ({})", occupied.pid());
    fixture.run().fails(1, &named);
    assert!(lives(occupied.pid()));
}

/// What the kernel refuses of a namespace of others is said before it is tried.
#[test]
fn what_belongs_to_another_user_namespace_is_not_changed() {
    peer_differs!(
        "crun",
        "1.8 fails with EPERM at setns(2), and names no property"
    );
    peer_differs!(
        "runc",
        "1.1 fails with EPERM at setns(2), and names no property"
    );
    let mut fixture = first();
    join(&mut fixture, "a", &["network", "ipc", "uts"]);
    fixture.config["linux"]["sysctl"] = json!({"net.core.somaxconn": "99", "kernel.shmmax": "1"});
    let ran = fixture.runtime(&["run", "c"]).fails(
        1,
        "/linux/sysctl/net.core.somaxconn: the network namespace that is joined",
    );
    for told in [
        "/linux/sysctl/kernel.shmmax: the ipc namespace that is joined",
        "/hostname: the uts namespace that is joined belongs to another user namespace",
        "/mounts/4/type: message queues belong to the IPC namespace, and the one that is joined",
    ] {
        assert!(ran.err.contains(told), "{told}: {ran:#?}");
    }
    // With its user namespace all of it works.
    join(&mut fixture, "a", &["user"]);
    fixture.config["linux"]["readonlyPaths"] = json!([]);
    fixture.sh("cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmax");
    assert_eq!(fixture.runtime(&["run", "c"]).ok(), "99\n1\n");
}

/// Containers with different state roots are in different outer user namespaces: that of the one that is joined is
/// taken, and not that of a neighbour.
#[test]
fn the_way_to_a_namespace_leads_through_its_own_outer_one() {
    lodger_only!("outer user namespaces");
    let (mut first, mut second) = (Fixture::new(), Fixture::new());
    for fixture in [&mut first, &mut second] {
        fixture.config["hostname"] = json!(null);
        fixture.sleeping("a");
    }
    let at = |fixture: &Fixture, name: &str| crate::namespaces::path(fixture, "a", name);
    let network = at(&first, "net");
    list(&mut second, "network", Some(&network));
    second.sleeping("b");
    assert_eq!(
        namespace(&first, "a", "net"),
        namespace(&second, "b", "net")
    );
    second.bare(&["exec", "b", "/bin/true"]).ok();
    // A new one finds its way to both of its neighbours' outer namespaces, but to one at a time.
    let uts = at(&second, "uts");
    list(&mut second, "uts", Some(&uts));
    let ran = second.run();
    ran.fails(
        1,
        "belongs to another family of user namespaces than one that is named before it",
    );
}
