//! linux.intelRdt: a class of service is root's, and the specification wants an error where it cannot be had.

use std::fs;

use serde_json::json;

use crate::harness::{Fixture, lodger_only, peer_differs};

#[test]
fn a_class_of_service_is_refused_with_the_reason() {
    peer_differs!(
        "runc",
        "1.1 passes over intelRdt in silence, but for l3CacheSchema and memBwSchema"
    );
    peer_differs!("crun", "1.8.1 passes over intelRdt in silence");
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let why = if !filesystems.contains("\tresctrl\n") {
        "this host has no resctrl"
    } else if mounts.contains(" - resctrl ") {
        "lodger puts no process in one"
    } else {
        "resctrl is not mounted on this host"
    };
    for asked in [
        json!({"closID": "guaranteed"}),
        json!({"l3CacheSchema": "L3:0=f"}),
        json!({"schemata": ["MB:0=50"]}),
        json!({"enableMonitoring": true}),
        json!({}),
    ] {
        let mut fixture = Fixture::new();
        fixture.config["linux"]["intelRdt"] = asked;
        fixture.run().fails(1, &format!("/linux/intelRdt: {why}"));
        fixture.bare(&["state", "c"]).exits(1);
    }
}

#[test]
fn features_do_not_promise_it() {
    lodger_only!("features");
    let text = Fixture::new().bare(&["features"]).ok();
    let features: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(features["linux"]["intelRdt"]["enabled"], false);
}
