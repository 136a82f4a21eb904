//! The caller's supplementary groups in a container, where an annotation asks for them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::harness::{Fixture, lodger_only, peer, peer_differs, skip};

const KEEP: &str = "run.oci.keep_original_groups";

/// A supplementary group of the caller's that is not mapped in a container.
fn supplementary_group() -> Option<u32> {
    let own = rustix::process::getgid();
    let groups = rustix::process::getgroups().unwrap();
    let group = groups.into_iter().find(|group| *group != own)?;
    Some(group.as_raw())
}

/// A bundle whose program may read /shared by that group alone: it is neither its owner nor the world.
fn sharing(group: u32) -> Fixture {
    let mut fixture = Fixture::with_own_root();
    let path = fixture.rootfs().join("shared");
    fs::write(&path, "for the group\n").unwrap();
    std::os::unix::fs::chown(&path, None, Some(group)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o040)).unwrap();
    fixture.config["process"]["user"] = json!({"uid": 33, "gid": 33});
    fixture.args(&["cat", "/shared"]);
    fixture
}

macro_rules! group_or_skip {
    () => {
        match supplementary_group() {
            Some(group) => group,
            None => skip!("this account has no supplementary group: add it to one"),
        }
    };
}

#[test]
fn a_file_of_the_callers_group_can_be_read_where_the_groups_are_kept() {
    let mut fixture = sharing(group_or_skip!());
    fixture.config["annotations"] = json!({KEEP: "1"});
    assert_eq!(fixture.run().ok(), "for the group\n");
    fixture.args(&["id", "-G"]);
    let ids = fixture.run().ok();
    assert!(ids.split_whitespace().any(|id| id == "65534"), "{ids}");
    // While another container runs, whose outer user namespace is used again.
    fixture.sleeping("other");
    fixture.args(&["cat", "/shared"]);
    assert_eq!(fixture.run().ok(), "for the group\n");
}

#[test]
fn a_file_of_the_callers_group_cannot_be_read_otherwise() {
    peer_differs!("runc", "keeps the caller's groups when rootless");
    let group = group_or_skip!();
    let values = if peer() {
        vec![None]
    } else {
        vec![None, Some("0"), Some("")]
    };
    for value in values {
        let mut fixture = sharing(group);
        if let Some(value) = value {
            fixture.config["annotations"] = json!({KEEP: value});
        }
        let ran = fixture.run().exits(1);
        assert!(ran.err.contains("ermission denied"), "{value:?}: {ran:#?}");
        let told = ran.err.contains("the groups are the config's");
        assert_eq!(told, value.is_some(), "{value:?}: {ran:#?}");
    }
}

#[test]
fn exec_keeps_the_callers_groups_too() {
    let mut fixture = sharing(group_or_skip!());
    fixture.config["annotations"] = json!({KEEP: "1"});
    fixture.sleeping("c");
    let read = ["exec", "-u", "33:33", "c", "cat", "/shared"];
    assert_eq!(fixture.bare(&read).ok(), "for the group\n");
    lodger_only!("refusing what would be lost");
    let adding = ["exec", "-g", "5", "c", "/bin/true"];
    let ran = fixture.bare(&adding);
    ran.fails(255, "cannot add supplementary groups");
}

#[test]
fn groups_of_the_config_give_way_to_those_that_are_kept_with_a_word() {
    let mut fixture = sharing(group_or_skip!());
    fixture.config["annotations"] = json!({KEEP: "1"});
    fixture.config["process"]["user"]["additionalGids"] = json!([5]);
    peer_differs!("runc", "takes no additional groups when rootless");
    let ran = fixture.run().exits(0);
    assert_eq!(ran.out, "for the group\n");
    lodger_only!("saying so");
    let note = "/process/user/additionalGids: left out: the caller's groups are kept instead";
    assert!(ran.err.contains(note), "{ran:#?}");
}

#[test]
fn features_tell_of_the_annotation() {
    lodger_only!("features");
    let text = Fixture::new().bare(&["features"]).ok();
    let features: serde_json::Value = serde_json::from_str(&text).unwrap();
    let unsafe_ones = features["potentiallyUnsafeConfigAnnotations"]
        .as_array()
        .unwrap();
    assert!(unsafe_ones.contains(&json!(KEEP)), "{features:#}");
}
