//! The clocks of a time namespace (time_namespaces(7)).

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, peer_differs};
use crate::namespaces::{first, join, list};

/// A container with a time namespace whose clocks are set so.
fn clocks(offsets: Value) -> Fixture {
    let mut fixture = Fixture::new();
    list(&mut fixture, "time", None);
    fixture.config["linux"]["timeOffsets"] = offsets;
    fixture.sh("cat /proc/uptime /proc/self/timens_offsets; ls -l /proc/self/ns");
    fixture
}

fn uptime(text: &str) -> f64 {
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// The offsets in what /proc/PID/timens_offsets says: monotonic, boottime.
fn offsets(text: &str) -> Vec<Vec<&str>> {
    let lines = text
        .lines()
        .filter(|line| line.starts_with("monotonic") || line.starts_with("boottime"));
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[test]
fn clocks_are_ahead_by_their_offsets() {
    peer_differs!("runc", "1.1 knows no time namespaces, and fails");
    peer_differs!(
        "crun",
        "1.8 makes the time namespace and leaves out timeOffsets in silence"
    );
    let asked = json!({"monotonic": {"secs": 3600, "nanosecs": 5}, "boottime": {"secs": 86400}});
    let fixture = clocks(asked);
    let host = || uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let before = host();
    let out = fixture.run().ok();
    let inside = uptime(&out) - 86400.0;
    assert!(
        before - 1.0 < inside && inside < host() + 1.0,
        "{before} {inside}"
    );
    assert_eq!(
        offsets(&out),
        [["monotonic", "3600", "5"], ["boottime", "86400", "0"]]
    );
    // The program itself is in the namespace, and not only its children.
    let links: Vec<&str> = out
        .lines()
        .filter(|line| line.contains(" -> time:"))
        .collect();
    let [own, children] = &links[..] else {
        panic!("{out}")
    };
    assert_eq!(own.split(" -> ").last(), children.split(" -> ").last());
    let host = fs::read_link("/proc/self/ns/time").unwrap();
    assert!(!own.ends_with(host.to_str().unwrap()), "{out}");
}

/// A clock may be behind the host's too, but not before its beginning.
#[test]
fn clocks_are_behind_by_their_offsets() {
    peer_differs!("runc", "1.1 knows no time namespaces, and fails");
    peer_differs!(
        "crun",
        "1.8 makes the time namespace and leaves out timeOffsets in silence"
    );
    let fixture = clocks(json!({"boottime": {"secs": -2, "nanosecs": 500_000_000}}));
    let host = || uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let out = fixture.run().ok();
    assert!(uptime(&out) < host() - 1.0, "{out}");
    let fixture = clocks(json!({"boottime": {"secs": -9_000_000_000i64}}));
    fixture
        .run()
        .fails(1, "a clock would stand before its beginning");
}

/// Who comes later, or from another container, has the same time.
#[test]
fn a_time_namespace_is_joined_with_its_offsets() {
    peer_differs!("runc", "1.1 knows no time namespaces, and fails");
    peer_differs!(
        "crun",
        "1.8 makes the time namespace and leaves out timeOffsets in silence"
    );
    let mut fixture = clocks(json!({"boottime": {"secs": 86400}}));
    fixture.sleeping("a");
    let read = ["exec", "a", "/bin/cat", "/proc/self/timens_offsets"];
    let expected = [["monotonic", "0", "0"], ["boottime", "86400", "0"]];
    assert_eq!(offsets(&fixture.bare(&read).ok()), expected);
    let fields = fixture.config["linux"].as_object_mut().unwrap();
    fields.remove("timeOffsets");
    join(&mut fixture, "a", &["time", "user"]);
    fixture.args(&["/bin/cat", "/proc/uptime", "/proc/self/timens_offsets"]);
    let out = fixture.runtime(&["run", "b"]).ok();
    assert!(uptime(&out) > 86400.0, "{out}");
    assert_eq!(offsets(&out), expected);
}

/// With a user namespace that is joined, the time namespace belongs to it.
#[test]
fn clocks_are_set_in_a_joined_user_namespace() {
    peer_differs!(
        "runc",
        "1.1 leaves out timeOffsets in silence where there is no time namespace"
    );
    peer_differs!(
        "crun",
        "1.8 makes the time namespace and leaves out timeOffsets in silence"
    );
    let mut fixture = first();
    join(&mut fixture, "a", &["user"]);
    fixture.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 86400}});
    fixture.args(&["/bin/cat", "/proc/uptime"]);
    assert!(uptime(&fixture.runtime(&["run", "b"]).ok()) > 86400.0);
}

#[test]
fn clocks_that_cannot_be_are_refused() {
    lodger_only!("naming the JSON pointer");
    let ran =
        clocks(json!({"bootime": {"secs": 1}, "monotonic": {"nanosecs": 1_000_000_000}})).run();
    for told in [
        "/linux/timeOffsets/bootime: no such clock",
        "/linux/timeOffsets/monotonic/nanosecs: is a second or more",
    ] {
        assert!(ran.err.contains(told), "{ran:#?}");
    }
    ran.fails(1, "cannot do what config.json asks for");
    let mut fixture = clocks(json!({"boottime": {"secs": 1}}));
    list(&mut fixture, "time", Some("/proc/self/ns/time"));
    fixture.run().fails(
        1,
        "/linux/timeOffsets: a time namespace that is joined keeps its offsets",
    );
    fixture.without_namespace("time");
    fixture.run().fails(
        1,
        "/linux/timeOffsets: needs a new namespace of type \"time\"",
    );
}
