//! Checkpoints where the caller has a cgroup of her own: limits, the freezer, and what the container sees of its cgroup.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::checkpoint_lab::{Lab, checkpoints_or_skip};
use crate::delegated_pause::{cgroup, unique};
use crate::harness::wait_for;

/// Checkpoints `from` and restores it as `to`.
fn moved(lab: &Lab, from: &str, to: &str) {
    let images = lab.word("images");
    lab.lodger(&["checkpoint", "--image-path", &images, from])
        .ok();
    assert_eq!(lab.ids(), [""; 0]);
    lab.lodger(&["restore", "--image-path", &images, "-d", to])
        .ok();
}

/// The limit of huge pages of a container: the lowest of its cgroup and those above it.
fn limit(own: &Path) -> u64 {
    let names = ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"];
    let files = own
        .ancestors()
        .flat_map(|directory| names.map(|name| directory.join(name)));
    let texts = files.filter_map(|file| fs::read_to_string(file).ok());
    let limits = texts.filter_map(|text| text.trim().parse().ok());
    limits.min().unwrap_or(u64::MAX)
}

#[test]
fn a_restored_container_has_the_limits_of_its_config() {
    checkpoints_or_skip!();
    let (first, second) = (unique("first"), unique("second"));
    let mut lab = Lab::with(&["shared", "threads"]);
    lab.fixture.config["linux"]["resources"] =
        json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]});
    lab.fixture.write_config();
    lab.lodger(&["run", "-d", &first]).ok();
    lab.first_answer();
    let before = lab.look(&first);
    let old = cgroup(&lab.fixture, &first);
    assert_eq!(limit(&old), 4_194_304);
    moved(&lab, &first, &second);
    lab.look(&second).goes_on_from(&before);
    let own = cgroup(&lab.fixture, &second);
    assert_ne!(own, old);
    assert!(!old.exists(), "{old:?}");
    assert_eq!(limit(&own), 4_194_304);
    // Everybody is in it, and pause and resume reach them.
    let procs = fs::read_to_string(own.join("cgroup.procs")).unwrap();
    assert_eq!(procs.lines().count(), 2, "{procs}");
    lab.fixture.bare(&["pause", &second]).ok();
    lab.fixture.bare(&["resume", &second]).ok();
    lab.look(&second).goes_on_from(&before);
}

#[test]
fn a_cgroup_namespace_is_the_containers_again() {
    checkpoints_or_skip!();
    let id = unique("namespace");
    let mut lab = Lab::with(&["shared"]);
    let namespaces = lab.fixture.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap();
    namespaces.push(json!({"type": "cgroup"}));
    lab.fixture.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}));
    lab.fixture.write_config();
    lab.lodger(&["run", "-d", &id]).ok();
    lab.first_answer();
    let before = lab.look(&id);
    let look = || {
        lab.lodger(&[
            "exec",
            &id,
            "sh",
            "-c",
            "cat /proc/1/cgroup; ls /sys/fs/cgroup",
        ])
        .ok()
    };
    let seen = look();
    assert!(
        seen.contains("0::/\n") && seen.contains("cgroup.procs"),
        "{seen}"
    );
    for _ in 0..2 {
        moved(&lab, &id, &id);
        lab.look(&id).goes_on_from(&before);
        assert_eq!(look(), seen);
    }
}

#[test]
fn a_paused_container_is_checkpointed_and_runs_again() {
    checkpoints_or_skip!();
    let id = unique("paused");
    let lab = Lab::with(&["shared", "threads", "pipes"]);
    lab.fixture.write_config();
    lab.lodger(&["run", "-d", &id]).ok();
    lab.first_answer();
    let before = lab.look(&id);
    lab.fixture.bare(&["pause", &id]).ok();
    moved(&lab, &id, &id);
    assert_eq!(lab.fixture.status(&id), "running");
    lab.look(&id).goes_on_from(&before);
    lab.consume(
        &id,
        &[("shared.child", "goes on"), ("pipes.text", "in the pipe!")],
    );
}

#[test]
fn a_paused_container_that_is_left_there_stays_paused() {
    checkpoints_or_skip!();
    let id = unique("left");
    let lab = Lab::with(&["shared"]);
    lab.fixture.write_config();
    lab.lodger(&["run", "-d", &id]).ok();
    lab.first_answer();
    let before = lab.look(&id);
    lab.fixture.bare(&["pause", &id]).ok();
    let images = lab.word("images");
    // Nothing changes in there meanwhile.
    let memory = ["checkpoint", "--pre-dump", "--image-path", &images, &id];
    lab.lodger(&memory).fails(1, "it is paused");
    lab.lodger(&[
        "checkpoint",
        "--leave-running",
        "--image-path",
        &images,
        &id,
    ])
    .ok();
    assert_eq!(lab.fixture.status(&id), "paused");
    lab.fixture.bare(&["resume", &id]).ok();
    lab.look(&id).goes_on_from(&before);
}

#[test]
fn nothing_is_left_of_a_cgroup_after_a_restore_that_fails() {
    checkpoints_or_skip!();
    let id = unique("fails");
    let lab = Lab::with(&["shared", "unix"]);
    lab.fixture.write_config();
    lab.lodger(&["run", "-d", &id]).ok();
    lab.first_answer();
    let directory = cgroup(&lab.fixture, &id);
    let images = lab.word("images");
    lab.lodger(&["checkpoint", "--image-path", &images, &id])
        .ok();
    // CRIU finds what it maps to be another file.
    let patient = lab.fixture.rootfs().join("patient");
    fs::rename(&patient, lab.fixture.path("patient")).unwrap();
    let ran = lab.lodger(&["restore", "--image-path", &images, "-d", &id]);
    assert!(ran.err.contains("restore.log"), "{ran:#?}");
    ran.fails(1, "");
    assert_eq!(lab.ids(), [""; 0]);
    wait_for("the cgroup to go", || (!directory.exists()).then_some(()));
    fs::rename(lab.fixture.path("patient"), &patient).unwrap();
    lab.lodger(&["restore", "--image-path", &images, "-d", &id])
        .ok();
    lab.look(&id);
}
