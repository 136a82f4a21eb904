//! What a rootless runtime on Linux cannot do is refused with its pointer, or done otherwise with a note: never left out in
//! silence.

use serde_json::{Value, json};

use crate::harness::{Fixture, peer_differs};

/// Sets the value at `pointer`, with the objects on the way.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut at = config;
    for name in pointer.split('/').skip(1) {
        at = &mut at[name];
    }
    *at = value;
}

/// Each property alone is refused, with these words after its pointer, and nothing is left.
fn each_is_refused(cases: &[(&str, Value, &str)]) {
    for (pointer, value, words) in cases {
        let mut fixture = Fixture::new();
        set(&mut fixture.config, pointer, value.clone());
        fixture.run().fails(1, &format!("{pointer}{words}"));
        fixture.bare(&["state", "c"]).exits(1);
    }
}

#[test]
fn sections_of_other_platforms_are_refused() {
    peer_differs!(
        "crun",
        "leaves the sections of other platforms out in silence"
    );
    peer_differs!(
        "runc",
        "leaves the sections of other platforms out in silence"
    );
    each_is_refused(&[
        (
            "/windows",
            json!({"layerFolders": ["C:\\x"]}),
            ": this is for Windows, not Linux",
        ),
        (
            "/solaris",
            json!({"milestone": "x"}),
            ": this is for Solaris, not Linux",
        ),
        (
            "/zos",
            json!({"namespaces": [{"type": "pid"}]}),
            ": this is for z/OS, not Linux",
        ),
        (
            "/freebsd",
            json!({"jail": {"parent": "x"}}),
            ": this is for FreeBSD, not Linux",
        ),
        (
            "/vm",
            json!({"kernel": {"path": "/k"}}),
            ": this is for virtual machines, not Linux",
        ),
        (
            "/process/commandLine",
            json!("x"),
            ": this is for Windows, not Linux",
        ),
        (
            "/process/user/username",
            json!("x"),
            ": this is for Windows, not Linux",
        ),
    ]);
}

#[test]
fn a_version_of_another_major_is_refused() {
    peer_differs!(
        "crun",
        "1.8 takes the versions with 1.0 in their text: 2.1.0, but not 1.3.0"
    );
    for version in ["1.0.0", "1.3.0", "1.99.0"] {
        let mut fixture = Fixture::new();
        fixture.config["ociVersion"] = version.into();
        fixture.run().ok();
    }
    peer_differs!("runc", "1.1 takes any version");
    each_is_refused(&[
        ("/ociVersion", json!("2.0.0"), ": version \"2.0.0\""),
        ("/ociVersion", json!("one"), ": \"one\" is not a version"),
    ]);
}

/// They have no place in fsconfig(2) and mount_setattr(2).
#[test]
fn mount_options_that_nothing_carries_are_noted() {
    peer_differs!(
        "crun",
        "1.8 fails for iversion and silent with EINVAL of mount(2), and names neither"
    );
    peer_differs!("runc", "1.1 gives them to mount(2), and says nothing");
    for option in ["iversion", "mand", "silent"] {
        let mut fixture = Fixture::new();
        fixture.mount(
            json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": [option]}),
        );
        let ran = fixture.run().exits(0);
        let note = format!("/options/0: \"{option}\" left out");
        assert!(ran.err.contains(&note), "no {note:?} in {ran:#?}");
    }
}

#[test]
fn device_rules_are_noted() {
    peer_differs!("crun", "leaves them out in silence without root");
    peer_differs!("runc", "leaves them out in silence without root");
    let mut fixture = Fixture::new();
    fixture.config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    let ran = fixture.run().exits(0);
    let note = "/linux/resources/devices: device rules are not enforced";
    assert!(ran.err.contains(note), "no {note:?} in {ran:#?}");
}

/// Without a cgroup nothing can be limited: what asks for no limit passes.
#[test]
fn limits_are_refused() {
    peer_differs!(
        "crun",
        "leaves limits out in silence where no cgroup is delegated"
    );
    peer_differs!(
        "runc",
        "leaves limits out in silence where no cgroup is delegated"
    );
    // Version 1 and 2 at once here, and no session.
    let nobody = "nobody can keep this limit, as the container gets no cgroup: ";
    let none = "version 2 of cgroups ";
    let device = json!([{"major": 8, "minor": 0, "rate": 1}]);
    let cases = [
        ("memory/limit", json!(100_000_000), ": ", nobody),
        ("memory/swappiness", json!(10), ": ", none),
        ("memory/kernel", json!(100_000_000), ": ", none),
        ("cpu/quota", json!(1000), ": ", nobody),
        ("cpu/cpus", json!("0"), ": ", nobody),
        ("cpu/realtimeRuntime", json!(1000), ": ", none),
        ("pids/limit", json!(5), ": ", nobody),
        ("blockIO/weight", json!(10), ": ", nobody),
        ("blockIO/leafWeight", json!(10), ": ", none),
        ("blockIO/throttleReadIOPSDevice", device, "/0: ", nobody),
        (
            "hugepageLimits",
            json!([{"pageSize": "2MB", "limit": 0}]),
            "/0/limit: ",
            nobody,
        ),
        ("network/classID", json!(7), ": ", none),
        (
            "rdma",
            json!({"mlx5_1": {"hcaHandles": 3}}),
            "/mlx5_1: ",
            nobody,
        ),
        (
            "unified",
            json!({"memory.high": "100000000"}),
            "/memory.high: ",
            nobody,
        ),
    ];
    for (property, value, beneath, words) in cases {
        let pointer = format!("/linux/resources/{property}");
        each_is_refused(&[(&pointer, value, &format!("{beneath}{words}"))]);
    }
    let mut fixture = Fixture::new();
    fixture.config["linux"]["resources"] = json!({"memory": {"limit": -1}, "pids": {"limit": -1}});
    fixture.run().ok();
}
