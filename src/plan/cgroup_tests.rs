use serde_json::{Value, json};

use super::*;
use crate::host::{BusSocket, ManagerCgroup, SessionReading};

/// A host with all that a cgroup can be made with; the controllers that were delegated are those two.
fn facts() -> HostFacts {
    let text = include_str!("../../tests/plans/71-cgroup-limits/host.json");
    let mut facts: HostFacts = serde_json::from_str(text).unwrap();
    let controllers = vec!["memory".to_owned(), "pids".to_owned()];
    facts.cgroup = Some(CgroupReading {
        kind: CgroupKind::Unified,
        read_only: false,
        own: Some("/job".to_owned()),
        base: Some("/job".to_owned()),
        obstacle: None,
        controllers: controllers.clone(),
        enabled: Vec::new(),
        manager: Some(ManagerCgroup {
            path: "/user@1000.service".to_owned(),
            controllers,
        }),
    });
    facts.session = Some(SessionReading {
        sockets: vec![BusSocket {
            path: "/run/user/1000/bus".into(),
            direct: false,
        }],
        ..SessionReading::default()
    });
    facts
}

type Decided = (Option<Cgroup>, Vec<Note>, Vec<Problem>);

fn decide(
    linux: &Value,
    annotations: &Value,
    facts: &HostFacts,
    options: CgroupOptions,
) -> Decided {
    let config = json!({"ociVersion": "1.2.0", "linux": linux, "annotations": annotations});
    let spec = serde_json::from_value(config).unwrap();
    let (mut notes, mut problems) = (Vec::new(), Vec::new());
    let cgroup = Deciding {
        spec: &spec,
        facts,
        options,
        notes: &mut notes,
        problems: &mut problems,
    }
    .decide(None);
    (cgroup, notes, problems)
}

fn managed_by(facts: &HostFacts, path: &str, manager: CgroupManager) -> &'static str {
    let options = CgroupOptions {
        manager,
        policy: None,
    };
    let (cgroup, _, problems) = decide(&json!({"cgroupsPath": path}), &json!({}), facts, options);
    assert!(problems.is_empty(), "{problems:?}");
    match cgroup.map(|cgroup| cgroup.place) {
        Some(CgroupPlace::Systemd { .. }) => "systemd",
        Some(CgroupPlace::Cgroupfs { .. }) => "cgroupfs",
        None => "nobody",
    }
}

#[test]
fn who_makes_it() {
    use CgroupManager::{Auto, Cgroupfs, Disabled, Systemd};
    let scope = "a.slice:b:c";
    for (path, manager, expected) in [
        ("", Auto, "systemd"),
        (scope, Auto, "systemd"),
        ("/a/b", Auto, "cgroupfs"),
        ("", Systemd, "systemd"),
        ("/a/b", Cgroupfs, "cgroupfs"),
        ("", Disabled, "nobody"),
    ] {
        assert_eq!(managed_by(&facts(), path, manager), expected, "{path}");
    }
    let mut alone = facts();
    alone.session = None;
    assert_eq!(managed_by(&alone, "", Auto), "cgroupfs");
    assert_eq!(managed_by(&alone, scope, Auto), "cgroupfs");
    assert_eq!(managed_by(&alone, "", Systemd), "nobody");
    // Where nothing can be made in the hierarchy, systemd's scope would be of no use.
    type Change = fn(&mut CgroupReading);
    let useless: [Change; 3] = [
        |reading| reading.read_only = true,
        |reading| reading.kind = CgroupKind::Hybrid,
        |reading| reading.kind = CgroupKind::Absent,
    ];
    for change in useless {
        let mut facts = facts();
        change(facts.cgroup.as_mut().unwrap());
        for manager in [Auto, Systemd, Cgroupfs] {
            assert_eq!(managed_by(&facts, "", manager), "nobody");
        }
    }
}

#[test]
fn only_what_is_lost_without_its_controller_is_refused() {
    let resources = |resources| json!({"resources": resources});
    let best_effort = CgroupOptions {
        policy: Some(CgroupPolicy::BestEffort),
        ..CgroupOptions::default()
    };
    let usual = resources(json!({"cpu": {"shares": 1024, "quota": -1}, "pids": {"limit": 9}}));
    let (cgroup, notes, problems) = decide(&usual, &json!({}), &facts(), CgroupOptions::default());
    assert!(problems.is_empty() && notes.is_empty(), "{problems:?}");
    let cgroup = cgroup.unwrap();
    assert_eq!(cgroup.settings.len(), 1);
    assert!(cgroup.properties.iter().all(|p| p.name == "TasksMax"));
    assert!(cgroup.required);

    let limit = resources(json!({"cpu": {"quota": 1000}}));
    let (_, _, problems) = decide(&limit, &json!({}), &facts(), CgroupOptions::default());
    assert_eq!(problems[0].pointer, "/linux/resources/cpu/quota");
    assert!(problems[0].message.contains("which has: memory pids"));
    let (cgroup, notes, problems) = decide(&limit, &json!({}), &facts(), best_effort);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(notes[0].property, "/linux/resources/cpu/quota");
    assert!(!cgroup.unwrap().required);
}

#[test]
fn no_annotation_takes_the_place_of_a_limit() {
    let linux = json!({"resources": {"memory": {"limit": 1 << 20}}});
    let with = |name: &str, value: &str| {
        let annotations = json!({format!("org.systemd.property.{name}"): value});
        decide(&linux, &annotations, &facts(), CgroupOptions::default())
    };
    let (cgroup, _, problems) = with("MemoryMax", "uint64 1048576");
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(cgroup.unwrap().properties.len(), 1);
    let (cgroup, _, problems) = with("MemoryHigh", "uint64 5");
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(cgroup.unwrap().properties.len(), 2);

    let (_, _, problems) = with("MemoryMax", "uint64 18446744073709551615");
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].pointer,
        "/annotations/org.systemd.property.MemoryMax"
    );
    assert!(
        problems[0]
            .message
            .contains("/linux/resources/memory/limit")
    );
}

#[test]
fn an_annotation_that_limits_is_required_as_a_limit_is() {
    for (name, value, expected) in [
        ("TasksMax", "uint64 5", true),
        ("Description", "'web'", false),
    ] {
        let annotations = json!({format!("org.systemd.property.{name}"): value});
        let options = CgroupOptions::default();
        let (cgroup, _, problems) = decide(&json!({}), &annotations, &facts(), options);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(cgroup.unwrap().required, expected, "{name}");
    }
}
