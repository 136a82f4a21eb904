//! Labels of AppArmor and SELinux: applied where the module is, refused where it is not.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::{Fixture, lodger_only, peer_differs};
use crate::weak::{Outcome, held_by, without};

/// A profile that nobody has loaded.
const PROFILE: &str = "lodger-test-no-such-profile";

fn has_apparmor() -> bool {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|text| text.starts_with('Y'))
}

fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// What is said to a profile that is not there: engines know an error about a label by the name of the file in it.
fn why_not() -> &'static str {
    if has_apparmor() {
        "the kernel has nothing of that name"
    } else {
        "AppArmor is not enabled on this host"
    }
}

#[test]
fn an_apparmor_profile_that_cannot_be_had_is_an_error() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["apparmorProfile"] = json!(PROFILE);
    let ran = fixture.run().fails(1, "/process/apparmorProfile");
    lodger_only!("naming the cause");
    assert!(ran.err.contains(why_not()), "{ran:#?}");
    assert!(ran.err.contains(PROFILE), "{ran:#?}");
    fixture.bare(&["state", "c"]).exits(1);
}

#[test]
fn no_profile_is_asked_for_by_unconfined_and_by_nothing() {
    if !has_apparmor() {
        peer_differs!(
            "crun",
            "1.8.1 fails on any apparmorProfile, \"\" and \"unconfined\" too, where there is no AppArmor"
        );
        peer_differs!(
            "runc",
            "1.1 fails on the apparmorProfile \"unconfined\" where there is no AppArmor"
        );
    }
    for profile in ["", "unconfined"] {
        let mut fixture = Fixture::new();
        fixture.config["process"]["apparmorProfile"] = json!(profile);
        fixture.sh("echo ran");
        assert_eq!(fixture.run().ok(), "ran\n", "{profile:?}");
    }
}

#[test]
fn a_label_of_selinux_that_cannot_be_had_is_an_error() {
    let label = "system_u:system_r:lodger_test_no_such_t:s0";
    let mut fixture = Fixture::new();
    fixture.config["process"]["selinuxLabel"] = json!(label);
    let ran = fixture.run().fails(1, "/process/selinuxLabel");
    lodger_only!("naming the cause");
    let why = if has_selinux() {
        "`/proc/thread-self/attr/exec`"
    } else {
        "SELinux is not enabled on this host"
    };
    assert!(ran.err.contains(why), "{ran:#?}");
    fixture.bare(&["state", "c"]).exits(1);
}

#[test]
fn a_label_of_mounts_without_selinux_is_an_error() {
    if has_selinux() {
        crate::harness::skip!("SELinux is enabled here");
    }
    peer_differs!(
        "crun",
        "1.8.1 passes over mountLabel in silence where there is no SELinux"
    );
    let mut fixture = Fixture::new();
    fixture.config["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0:c1,c2");
    fixture.run().fails(
        1,
        "/linux/mountLabel: the label \"system_u:object_r:container_file_t:s0:c1,c2\" cannot be applied: SELinux is not enabled",
    );
}

#[test]
fn exec_with_a_profile_that_cannot_be_had_is_an_error() {
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let asked = ["exec", "--apparmor", PROFILE, "c", "/bin/echo", "ran"];
    let ran = fixture.bare(&asked).fails(255, "/process/apparmorProfile");
    lodger_only!("naming the cause");
    assert!(ran.err.contains(why_not()), "{ran:#?}");
    let asked = ["exec", "--apparmor", "unconfined", "c", "/bin/true"];
    fixture.bare(&asked).ok();
    // The options change the process file too.
    let mut process = fixture.config["process"].clone();
    process["args"] = json!(["/bin/true"]);
    let path = fixture.path("process.json");
    fs::write(&path, process.to_string()).unwrap();
    let path = path.to_str().unwrap();
    fixture.bare(&["exec", "--process", path, "c"]).ok();
    let ran = fixture.bare(&["exec", "--process", path, "--apparmor", PROFILE, "c"]);
    ran.fails(255, why_not());
}

#[test]
fn exec_with_a_label_of_selinux_that_cannot_be_had_is_an_error() {
    peer_differs!(
        "crun",
        "1.8.1 passes over exec --process-label in silence where there is no SELinux"
    );
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let label = "a_u:a_r:lodger_test_no_such_t:s0";
    let ran = fixture.bare(&["exec", "--process-label", label, "c", "/bin/echo", "ran"]);
    ran.fails(255, "/process/selinuxLabel");
}

/// A root filesystem whose /proc is its own, with files in the place of the kernel's.
fn with_a_feigned_proc() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fixture.unmount("/proc");
    let attributes = fixture.rootfs().join("proc/thread-self/attr");
    fs::create_dir_all(attributes.join("apparmor")).unwrap();
    for name in ["exec", "keycreate", "apparmor/exec"] {
        fs::write(attributes.join(name), "").unwrap();
    }
    fixture.sh("echo ran");
    fixture
}

/// A label that goes to a file of the image is a program that runs without one, and nobody knows.
fn assert_the_label_is_the_kernels(attack: impl Fn() -> Outcome) {
    held_by(&["KnownModules", "OwnProcfs"], &attack);
    // The kernel itself is asked also where the host is not known to lack the module.
    let asked = without(&["KnownModules"], attack);
    let refused = "cannot write `/proc/thread-self/attr/";
    assert!(
        matches!(&asked, Outcome::Held(told) if told.contains(refused)),
        "{asked:?}"
    );
}

/// Whether the program ran.
fn ran(ran: crate::harness::Ran) -> Outcome {
    Outcome::of((ran.out == "ran\n").then(|| ran.out.clone()), ran.err)
}

#[test]
fn cve_2019_16884_a_label_is_not_written_to_a_feigned_proc() {
    lodger_only!("switching defences off");
    for (property, label) in [
        ("selinuxLabel", "a_u:a_r:lodger_test_no_such_t:s0"),
        ("apparmorProfile", PROFILE),
    ] {
        assert_the_label_is_the_kernels(|| {
            let mut fixture = with_a_feigned_proc();
            fixture.config["process"][property] = json!(label);
            ran(fixture.run())
        });
    }
}

#[test]
fn cve_2019_16884_exec_writes_no_label_to_a_feigned_proc() {
    lodger_only!("switching defences off");
    for (option, label) in [
        ("--process-label", "a_u:a_r:lodger_test_no_such_t:s0"),
        ("--apparmor", PROFILE),
    ] {
        assert_the_label_is_the_kernels(|| {
            let mut fixture = with_a_feigned_proc();
            fixture.sleeping("c");
            ran(fixture.bare(&["exec", option, label, "c", "/bin/echo", "ran"]))
        });
    }
}
