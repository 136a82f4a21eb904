//! Network devices of the host that become a container's.
//!
//! An ordinary user has devices to give only in a network namespace of her own: these tests run lodger in one.

use serde_json::{Value, json};

use crate::harness::{Fixture, Ran, lodger_only, peer_differs, skip, spawn, under_test};
use crate::nested::nested;

/// Makes two pairs of devices, one end of one with addresses of all kinds.
const DEVICES: &str = "ip link add out0 address 02:00:00:00:00:07 mtu 1400 type veth peer name peer0; ip link add out1 type veth peer name peer1; \
     ip address add 10.1.2.3/24 dev out0; ip address add 10.9.9.9/32 dev out0 scope link; \
     ip -6 address add fd00::7/64 dev out0 nodad; ip link set out0 up; ip link set peer0 up";

macro_rules! needs_devices {
    () => {
        lodger_only!("moving network devices");
        let fixture = Fixture::with_own_root();
        if run(
            &fixture,
            "ip link add out0 type veth peer name peer0",
            "true",
        )
        .code
            != 0
        {
            skip!("iproute2 is not installed, or a user namespace may have no devices");
        }
    };
}

/// A container that gets these devices.
fn with_devices(devices: Value) -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fixture.config["linux"]["netDevices"] = devices;
    fixture
}

/// Runs `then`, a script in which `lodger` is lodger, where `DEVICES` or others are prepared.
fn run(fixture: &Fixture, prepare: &str, then: &str) -> Ran {
    let program = fixture.command(&[]);
    let args: Vec<&str> = program
        .get_args()
        .map(|arg| arg.to_str().unwrap())
        .collect();
    let prepare = format!(
        "export PATH=$PATH:/usr/sbin:/sbin; lodger() {{ {} {} \"$@\"; }}; {prepare}; {then}; exit",
        program.get_program().to_str().unwrap(),
        args.join(" ")
    );
    nested(fixture, &["--net"], &prepare, &["list"])
}

#[test]
fn a_device_is_moved_with_its_name_and_addresses() {
    needs_devices!();
    for own_user in [false, true] {
        let mut fixture = with_devices(json!({"out0": {"name": "in%d"}, "out1": {}}));
        if own_user {
            let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
            namespaces.unwrap().push(json!({"type": "user"}));
        }
        fixture.args(&["/bin/busybox", "ip", "address"]);
        let out = run(&fixture, DEVICES, "lodger run c; echo left; ip -o link").ok();
        let (inside, outside) = out.split_once("left\n").unwrap();
        let device = inside
            .split("in0@")
            .nth(1)
            .unwrap_or_else(|| panic!("{inside}"));
        for told in [
            ",UP,",
            "mtu 1400",
            "02:00:00:00:00:07",
            "inet 10.1.2.3/24 scope global in0",
            "inet6 fd00::7/64 scope global",
        ] {
            assert!(device.contains(told), "{told}: {inside}");
        }
        assert!(
            inside.contains("out1@") && !inside.contains("10.9.9.9"),
            "{inside}"
        );
        // It went with the container, and is not moved back.
        assert!(
            !outside.contains("out0") && !outside.contains("out1"),
            "{outside}"
        );
    }
}

#[test]
fn a_device_is_there_from_create_on_and_goes_with_the_container() {
    needs_devices!();
    let mut fixture = with_devices(json!({"out0": {}}));
    fixture.args(&["/bin/sleep", "600"]);
    let then = "lodger create c; ip -o link | grep -c out0@; lodger start c; \
                lodger exec c /bin/busybox ip -o address | grep -c 10.1.2.3; lodger delete -f c; ip -o link | grep -c out0";
    let ran = run(&fixture, DEVICES, &format!("{{ {then}; }} || true"));
    assert_eq!(ran.out, "0\n1\n0\n", "{ran:#?}");
}

/// Else the kernel would end it with the container's network namespace.
#[test]
fn a_device_comes_back_from_a_container_that_cannot_be_made() {
    needs_devices!();
    let mut fixture = with_devices(json!({"out0": {"name": "in0"}, "out1": {}}));
    let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
    namespaces.unwrap().push(json!({"type": "user"}));
    fixture.mount(
        json!({"destination": "/x", "type": "bind", "source": "/nowhere", "options": ["bind"]}),
    );
    let ran = run(
        &fixture,
        DEVICES,
        "lodger run c || ip address show dev out0; ip link show dev out1 >&2",
    );
    assert!(
        ran.err.contains("cannot open the source of /mounts/6"),
        "{ran:#?}"
    );
    assert!(!ran.err.contains("did not come back"), "{ran:#?}");
    for told in [",UP,", "inet 10.1.2.3/24", "inet6 fd00::7/64"] {
        assert!(ran.out.contains(told), "{told}: {ran:#?}");
    }
    assert!(ran.err.contains("out1@"), "{ran:#?}");
}

#[test]
fn a_name_that_is_taken_in_a_joined_namespace_is_refused() {
    needs_devices!();
    let other = "unshare --net sh -c 'ip link add taken type veth peer name in0; exec sleep 600' & child=$!; trap 'kill $child' EXIT; \
                 until nsenter --net=/proc/$child/ns/net ip link show dev taken >/dev/null 2>&1; do sleep 0.01; done; \
                 sed -i \"s,/proc/CHILD,/proc/$child,\" config.json";
    for (target, name) in [("taken", None), ("in%d", Some("in1@"))] {
        let mut fixture = with_devices(json!({"out0": {"name": target}}));
        fixture.without_namespace("network");
        let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
        namespaces
            .unwrap()
            .push(json!({"type": "network", "path": "/proc/CHILD/ns/net"}));
        fixture.args(&["/bin/busybox", "ip", "link"]);
        let then = "lodger run c || ip link show dev out0";
        let ran = run(&fixture, &format!("{DEVICES}; {other}"), then);
        match name {
            Some(name) => assert!(ran.out.contains(name), "{ran:#?}"),
            None => {
                let told = "the container's network namespace has a device \"taken\" already";
                assert!(ran.err.contains(told), "{ran:#?}");
                assert!(ran.out.contains("out0@"), "{ran:#?}");
            }
        }
    }
}

#[test]
fn devices_of_the_host_are_refused() {
    peer_differs!("crun", "1.8 passes netDevices over in silence");
    peer_differs!("runc", "1.1 passes netDevices over in silence");
    let fixture = with_devices(json!({"lo": {"name": "lo1"}, "no-such-device": {}}));
    let ran = fixture.run().fails(1, "/linux/netDevices: the devices of this host belong to a network namespace of the initial user namespace");
    let missing = "/linux/netDevices/no-such-device: there is no such network device here";
    assert!(ran.err.contains(missing), "{ran:#?}");
    assert!(!ran.err.contains("/linux/netDevices/lo:"), "{ran:#?}");
    // Here it is another's, too, in a user namespace without a network namespace of its own.
    let ran = nested(&fixture, &[], ":", &["run", "c"]);
    ran.fails(1, "a network namespace of a user namespace around yours");
}

#[test]
fn devices_need_a_network_namespace() {
    lodger_only!("naming the JSON pointer");
    let mut fixture = with_devices(json!({"lo": {"name": "lo1"}}));
    fixture.without_namespace("network");
    fixture.run().fails(
        1,
        "/linux/netDevices: needs a namespace of type \"network\"",
    );
    let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
    namespaces
        .unwrap()
        .push(json!({"type": "network", "path": "/proc/self/ns/net"}));
    fixture.run().fails(
        1,
        "/linux/netDevices: the container is in your own network namespace",
    );
}

#[test]
fn names_that_no_device_can_have_are_refused() {
    lodger_only!("naming the JSON pointer");
    for (devices, told) in [
        (
            json!({"a/b": {}}),
            "/linux/netDevices/a~1b: is not the name of a network device",
        ),
        (
            json!({"a": {"name": "sixteen-bytes-xx"}}),
            "/linux/netDevices/a/name: is longer than the 15 bytes",
        ),
        (
            json!({"a": {"name": "lo"}}),
            "/linux/netDevices/a/name: every network namespace has a device \"lo\"",
        ),
        (
            json!({"a": {}, "b": {"name": "a"}}),
            "gets the same name in the container",
        ),
    ] {
        with_devices(devices).run().fails(1, told);
    }
}

/// `features` promises what is done here.
#[test]
fn features_tell_of_devices() {
    lodger_only!("netDevices in features");
    let fixture = Fixture::new();
    let features: Value =
        serde_json::from_str(&spawn(&mut fixture.command(&["features"]), b"").wait().ok()).unwrap();
    assert_eq!(
        features["linux"]["netDevices"]["enabled"],
        true,
        "{}",
        under_test()
    );
}
