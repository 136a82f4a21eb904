//! Containers with the caller's own id alone: by wish, and by themselves where there is nothing else to be had.

use std::process::Command;

use serde_json::{Value, json};

use crate::base::subordinate_range;
use crate::harness::{Fixture, Ran, lodger_only, peer, skip, spawn};
use crate::image_run::Image;

/// What every note on a single id says.
const OUTCOME: &str = "only the caller's own uid and gid are mapped";

/// The caller's uid.
fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// The words of a line, as the kernel pads them.
fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// lodger's command, run by `wrapper`.
fn under(wrapper: &[&str], fixture: &Fixture, args: &[&str]) -> Ran {
    fixture.write_config();
    let plain = fixture.command(args);
    let mut command = Command::new(wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(fixture.bundle());
    spawn(&mut command, b"").wait()
}

/// Leaves the test where there are no subordinate ids: they are what it is about.
macro_rules! ranges_or_skip {
    () => {
        lodger_only!("the choice of ids");
        if subordinate_range("/etc/subuid").is_none() || subordinate_range("/etc/subgid").is_none()
        {
            skip!("the caller has no subordinate ids");
        }
    };
}

#[test]
fn a_wish_is_granted_and_said_once() {
    ranges_or_skip!();
    let mut fixture = Fixture::with_own_root();
    fixture.sh("cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups");
    let ran = fixture.runtime(&["run", "--single-id", "c"]).exits(0);
    let own = uid().to_string();
    let gid = rustix::process::getgid().as_raw().to_string();
    assert_eq!(
        words(&ran.out),
        ["0", &own, "1", "0", &gid, "1", "deny"],
        "{ran:#?}"
    );
    assert_eq!(ran.err.matches(OUTCOME).count(), 1, "{ran:#?}");
    assert!(ran.err.contains("--single-id asks for it"), "{ran:#?}");
    // Without it, all of them.
    let ran = fixture.run().exits(0);
    assert!(!ran.err.contains(OUTCOME), "{ran:#?}");
    assert!(words(&ran.out).len() > 7, "{ran:#?}");
}

#[test]
fn create_exec_and_delete_of_one_follow_it() {
    ranges_or_skip!();
    let mut fixture = Fixture::with_own_root();
    fixture.args(&["/bin/sleep", "600"]);
    let ran = fixture.runtime(&["create", "--single-id", "c"]).exits(0);
    assert!(ran.err.contains(OUTCOME), "{ran:#?}");
    fixture.bare(&["start", "c"]).ok();
    let map = fixture
        .bare(&["exec", "c", "cat", "/proc/self/uid_map"])
        .ok();
    assert_eq!(words(&map), ["0", &uid().to_string(), "1"]);
    let refused = fixture.bare(&["exec", "--user", "7", "c", "true"]);
    refused.fails(255, "uid 7 is not mapped");
    fixture.bare(&["delete", "--force", "c"]).ok();
}

#[test]
fn the_two_wishes_exclude_each_other() {
    lodger_only!("the choice of ids");
    let fixture = Fixture::new();
    for args in [
        ["--single-id", "--require-subids", "run", "c"],
        ["run", "--require-subids", "--single-id", "c"],
    ] {
        let ran = fixture.runtime(&args).exits(1);
        assert!(ran.err.contains("cannot be used with"), "{ran:#?}");
    }
}

/// Without privilege to gain, newuidmap does nothing: that is read, and the container has one id.
#[test]
fn no_new_privileges_is_a_single_id_with_its_own_words() {
    ranges_or_skip!();
    let mut fixture = Fixture::with_own_root();
    fixture.sh("cat /proc/self/uid_map");
    let wrapper = ["/usr/bin/setpriv", "--no-new-privs"];
    let ran = under(&wrapper, &fixture, &["run", "c"]).exits(0);
    assert_eq!(words(&ran.out), ["0", &uid().to_string(), "1"]);
    assert_eq!(ran.err.matches(OUTCOME).count(), 1, "{ran:#?}");
    assert!(ran.err.contains("no_new_privs"), "{ran:#?}");
    assert!(ran.err.contains("allowPrivilegeEscalation"), "{ran:#?}");
    let plan = under(&wrapper, &fixture, &["plan"]).ok();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["notes"][0]["code"], "LDG-HELPER-NNP", "{plan:#}");
}

#[test]
fn whoever_requires_subordinate_ids_gets_them_or_nothing() {
    ranges_or_skip!();
    let fixture = Fixture::new();
    fixture.runtime(&["run", "--require-subids", "c"]).ok();
    let before = fixture.listing();
    let wrapper = ["/usr/bin/setpriv", "--no-new-privs"];
    for verb in ["run", "create"] {
        let ran = under(&wrapper, &fixture, &[verb, "--require-subids", "c"]);
        assert!(ran.err.contains("no_new_privs"), "{ran:#?}");
        assert!(ran.err.contains("allowPrivilegeEscalation"), "{ran:#?}");
        ran.fails(1, "--require-subids was given");
    }
    assert_eq!(fixture.listing(), before);
}

/// A user namespace in which one more may be made, and no other: there the container's has none around it.
#[test]
fn one_level_is_enough() {
    if peer() || !std::path::Path::new("/usr/bin/setpriv").exists() {
        skip!("the one level is lodger's own, and is entered with setpriv");
    }
    let script = "echo 1 >/proc/sys/user/max_user_namespaces &&
        exec setpriv --ambient-caps -all --inh-caps -all /bin/sh -c \"$0\" \"$@\"";
    let steps = "\"$@\" run -d a && \"$@\" exec a cat /proc/self/uid_map && echo \"then $(\"$@\" exec a echo in)\"
        \"$@\" run b; echo \"second $?\"; \"$@\" plan; \"$@\" delete -f a; echo \"deleted $?\"";
    let mut fixture = Fixture::with_own_root();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.write_config();
    let plain = fixture.command(&[]);
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args([
            "--user",
            "--map-current-user",
            "--keep-caps",
            "/bin/sh",
            "-c",
            script,
            steps,
        ])
        // The name of the inner script.
        .arg("one-level")
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(fixture.bundle());
    let ran = spawn(&mut command, b"").wait().exits(0);
    let (before, rest) = ran.out.split_once("then in\nsecond 1\n").expect(&ran.out);
    assert_eq!(words(before), ["0", &uid().to_string(), "1"]);
    let (plan, _) = rest.split_once("deleted 0").expect(rest);
    let plan: Value = serde_json::from_str(plan).unwrap();
    assert_eq!(
        plan["user_namespace"]["outer"],
        json!({"kind": "one_level"})
    );
    assert_eq!(plan["notes"][0]["code"], "LDG-USERNS-LIMIT", "{plan:#}");
    assert!(
        ran.err
            .contains("user.max_user_namespaces is 1, and another container"),
        "{ran:#?}"
    );
    assert!(
        ran.err.contains("sysctl -w user.max_user_namespaces=10000"),
        "{ran:#?}"
    );
}

#[test]
fn an_image_with_other_ids_needs_to_be_imported_for_one() {
    ranges_or_skip!();
    let image = Image::new(&json!({"Cmd": ["/bin/true"]}), |_| {});
    image.lodger(&["run", "--image", "i", "c"]).ok();
    let refused = image.lodger(&["run", "--single-id", "--image", "i", "c"]);
    assert!(
        refused.err.contains("--single-id asks for it"),
        "{refused:#?}"
    );
    assert!(
        refused
            .err
            .contains("image import --squash-owners SOURCE i"),
        "{refused:#?}"
    );
    refused.fails(1, "its files belong to subordinate ids");
    // Imported so, it runs with one id and with many.
    let source = format!("oci:{}", image.fixture.path("layout").display());
    image
        .lodger(&["image", "import", "--single-id", &source, "i"])
        .ok();
    for option in ["--single-id", "--require-subids"] {
        image.lodger(&["run", option, "--image", "i", "c"]).ok();
    }
}
