//! features: what is promised is done, and what is refused is not promised.

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only};

fn features(fixture: &Fixture) -> Value {
    let text = fixture.bare(&["features"]).ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The plan of the fixture's config, or what was wrong with it.
fn plan(fixture: &Fixture) -> Result<Value, String> {
    fixture.write_config();
    let ran = fixture.bare(&["plan", "."]);
    match ran.code {
        0 => Ok(serde_json::from_str(&ran.out).unwrap()),
        _ => Err(ran.err),
    }
}

fn strings(value: &Value) -> Vec<&str> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"));
    list.iter().map(|item| item.as_str().unwrap()).collect()
}

#[test]
fn the_document_has_what_the_specification_asks_for() {
    lodger_only!("features");
    let features = features(&Fixture::new());
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert_eq!(features["ociVersionMax"], "1.3.0");
    for list in [
        "/hooks",
        "/mountOptions",
        "/linux/namespaces",
        "/linux/capabilities",
        "/linux/memoryPolicy/modes",
        "/linux/memoryPolicy/flags",
        "/potentiallyUnsafeConfigAnnotations",
    ] {
        strings(features.pointer(list).unwrap_or_else(|| panic!("{list}")));
    }
    for flag in [
        "/linux/cgroup/v1",
        "/linux/cgroup/v2",
        "/linux/cgroup/systemd",
        "/linux/cgroup/systemdUser",
        "/linux/cgroup/rdma",
        "/linux/seccomp/enabled",
        "/linux/apparmor/enabled",
        "/linux/selinux/enabled",
        "/linux/intelRdt/enabled",
        "/linux/mountExtensions/idmap/enabled",
        "/linux/netDevices/enabled",
    ] {
        let value = features.pointer(flag);
        assert!(value.is_some_and(Value::is_boolean), "{flag}: {value:?}");
    }
}

/// The typed form of features.md takes the document, and gives back all of it: nothing has a wrong type, value or name.
#[test]
fn the_document_is_of_the_form_of_the_specification() {
    lodger_only!("features");
    let told = features(&Fixture::new());
    let typed: oci_spec::runtime::Features = serde_json::from_value(told.clone()).unwrap();
    let again = serde_json::to_value(&typed).unwrap();
    compare(&told, &again, "");
    let version = told["ociVersionMax"].as_str().unwrap();
    assert!(version.split('.').all(|part| part.parse::<u8>().is_ok()));
}

/// Lists may be in another order.
fn compare(told: &Value, again: &Value, at: &str) {
    match told {
        Value::Object(members) => {
            for (name, member) in members {
                let at = format!("{at}/{name}");
                let found = again.get(name);
                compare(member, found.unwrap_or_else(|| panic!("{at} is lost")), &at);
            }
        }
        Value::Array(_) => {
            let sorted = |list: &Value| {
                let mut items: Vec<String> =
                    strings(list).iter().map(|s| (*s).to_owned()).collect();
                items.sort();
                items
            };
            assert_eq!(sorted(told), sorted(again), "{at}");
        }
        _ => assert_eq!(told, again, "{at}"),
    }
}

#[test]
fn every_mount_option_that_is_promised_is_planned_as_one() {
    lodger_only!("features");
    let mut fixture = Fixture::new();
    let promised = features(&fixture);
    let options = strings(&promised["mountOptions"]);
    assert!(options.len() > 50, "{options:?}");
    // Ids are mapped only from one user namespace to another.
    crate::base::add_user_namespace(&mut fixture.config);
    for option in options {
        let bind = ["bind", "rbind"].contains(&option);
        fixture.mount(if bind {
            json!({"destination": "/mnt-x", "source": "/usr", "options": [option]})
        } else {
            json!({"destination": "/mnt-x", "type": "tmpfs", "source": "x", "options": [option]})
        });
        let plan = plan(&fixture).unwrap_or_else(|error| panic!("{option}: {error}"));
        let mounts = plan["mounts"].as_array().unwrap();
        let mount = mounts
            .iter()
            .find(|mount| mount["destination"] == "/mnt-x")
            .unwrap();
        // What is not known is data for the filesystem, which knows none of these.
        let data = mount
            .pointer("/source/options")
            .cloned()
            .unwrap_or_default();
        assert!(
            !data.to_string().contains(&format!("\"{option}\"")),
            "{option}: {mount}"
        );
        let notes = plan["notes"].to_string();
        assert!(!notes.contains("left out"), "{option}: {notes}");
        fixture.unmount("/mnt-x");
    }
}

#[test]
fn every_namespace_and_capability_that_is_promised_is_planned() {
    lodger_only!("features");
    let mut fixture = Fixture::new();
    let promised = features(&fixture);
    let namespaces: Vec<Value> = strings(&promised["linux"]["namespaces"])
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    assert_eq!(namespaces.len(), 8);
    fixture.config["linux"]["namespaces"] = json!(namespaces);
    let all = promised["linux"]["capabilities"].clone();
    assert_eq!(strings(&all).len(), 41);
    fixture.config["process"]["capabilities"] =
        json!({"bounding": all, "permitted": all, "effective": all});
    crate::base::add_user_namespace(&mut fixture.config);
    fixture.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .pop();
    let plan = plan(&fixture).unwrap();
    // The user namespace is told apart.
    assert_eq!(plan["namespaces"].as_array().unwrap().len(), 7, "{plan}");
}

/// A config that asks for a feature, and where the document tells of it.
#[test]
fn what_the_document_denies_is_refused_and_what_it_promises_is_not() {
    lodger_only!("features");
    let hook = json!([{"path": "/bin/true"}]);
    let promised = features(&Fixture::new());
    let hooks = strings(&promised["hooks"]);
    for name in crate::hooks::KINDS {
        let mut fixture = Fixture::new();
        fixture.config["hooks"] = json!({name: hook});
        assert_eq!(plan(&fixture).is_ok(), hooks.contains(&name), "{name}");
    }
    let cases = [
        (
            "/linux/seccomp/enabled",
            "seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW"}),
        ),
        (
            "/linux/intelRdt/enabled",
            "intelRdt",
            json!({"closID": "x"}),
        ),
    ];
    for (feature, key, value) in cases {
        let mut fixture = Fixture::new();
        fixture.config["linux"][key] = value;
        let told = promised.pointer(feature).and_then(Value::as_bool);
        assert_eq!(Some(plan(&fixture).is_ok()), told, "{feature}");
    }
    // Whether this host can keep it is another matter.
    let mut fixture = Fixture::new();
    fixture.config["linux"]["resources"] = json!({"pids": {"limit": 9}});
    assert_eq!(promised["linux"]["cgroup"]["v2"], true);
    if let Err(why) = plan(&fixture) {
        assert!(why.contains("nobody can keep this limit"), "{why}");
    }
}
