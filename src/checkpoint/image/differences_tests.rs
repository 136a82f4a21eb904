use serde_json::json;

use super::*;

/// What the checkpoint was made with.
fn saved() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "hostname": "a",
        "root": {"path": "rootfs", "readonly": true},
        "process": {"args": ["sh"], "env": ["A=1"], "noNewPrivileges": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "/a", "options": ["bind", "ro"]},
        ],
        "hooks": {"prestart": []},
        "annotations": {"a": "b"},
        "linux": {
            "resources": {"pids": {"limit": 5}},
            "cgroupsPath": "/a",
            "uidMappings": [],
            "sysctl": {"net.core.somaxconn": "5", "kernel.msgmax": "5"},
            "maskedPaths": ["/proc/kcore"],
        },
    })
}

#[test]
fn what_is_in_the_images_is_told_and_what_is_applied_anew_is_not() {
    let saved = saved();
    let set = |pointer: &str, value: Value| {
        let mut now = saved.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = now.pointer_mut(parent).unwrap();
        match parent {
            Value::Array(list) => list[name.parse::<usize>().unwrap()] = value,
            parent => parent[name.replace("~1", "/")] = value,
        }
        differences(&saved, &now)
    };
    for (pointer, value) in [
        ("/hostname", json!("b")),
        ("/root/path", json!("/other")),
        ("/hooks", json!({"poststop": [{"path": "/x"}]})),
        ("/annotations", json!({})),
        ("/linux/resources", json!({})),
        ("/linux/cgroupsPath", json!("/b")),
        (
            "/linux/uidMappings",
            json!([{"containerID": 0, "hostID": 1, "size": 1}]),
        ),
        ("/linux/sysctl/net.core.somaxconn", json!("6")),
        ("/linux/sysctl/net~1ipv4~1ip_forward", json!("1")),
        ("/mounts/1/source", json!("/b")),
        // It says nothing.
        ("/process/terminal", json!(false)),
        ("/linux/seccomp", Value::Null),
        ("/linux/readonlyPaths", json!([])),
    ] {
        assert_eq!(set(pointer, value), [], "{pointer}");
    }
    for (pointer, value, told) in [
        ("/process/args", json!(["sh", "-c"]), "/process/args"),
        ("/process/terminal", json!(true), "/process/terminal"),
        (
            "/process/noNewPrivileges",
            json!(false),
            "/process/noNewPrivileges",
        ),
        ("/root/readonly", json!(false), "/root/readonly"),
        ("/domainname", json!("d"), "/domainname"),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW"}),
            "/linux/seccomp/defaultAction",
        ),
        ("/linux/maskedPaths", json!([]), "/linux/maskedPaths"),
        (
            "/linux/sysctl/kernel.msgmax",
            json!("6"),
            "/linux/sysctl/kernel.msgmax",
        ),
        (
            "/linux/sysctl/fs~1mqueue~1msg_max",
            json!("6"),
            "/linux/sysctl/fs~1mqueue~1msg_max",
        ),
        ("/mounts/0/source", json!("x"), "/mounts/0"),
        ("/mounts/1/options", json!(["bind"]), "/mounts/1"),
        ("/mounts/1/destination", json!("/b"), "/mounts/1"),
    ] {
        let notes = set(pointer, value);
        assert_eq!(notes.len(), 1, "{pointer}");
        assert_eq!(notes[0].property, told);
        assert!(notes[0].reason.contains(told) && !notes[0].remedy.is_empty());
    }
    assert_eq!(differences(&Value::Null, &Value::Null), []);
}

#[test]
fn the_list_has_an_end() {
    let config = |count: usize, value: u8| {
        let members = (0..count).map(|n| (format!("m{n:03}"), json!(value)));
        json!({"process": members.collect::<serde_json::Map<_, _>>()})
    };
    let notes = differences(&config(100, 1), &config(100, 2));
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0].reason.contains("/process/m007 and 92 more"),
        "{}",
        notes[0].reason
    );
    let few = differences(&config(8, 1), &config(8, 2));
    assert!(!few[0].reason.contains("more"));
}
