//! Overlays in `mounts`, as an engine asks for them with a volume `:O`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::{Value, json};

use crate::config::mounted;
use crate::harness::{Fixture, lodger_only, peer, peer_differs, skip};
use crate::sweep::{Sweep, last_map_write, with_init_traced};
use crate::tracing::{Call, Fate, inject, trace, works};
use crate::weak::{off, without};

/// A bundle with the directories of an overlay, and the overlay at /data.
fn with_overlay(options: Value) -> Fixture {
    let mut fixture = Fixture::with_own_root();
    for name in ["lower", "second", "upper", "work"] {
        fs::create_dir(fixture.bundle().join(name)).unwrap();
    }
    fs::write(fixture.bundle().join("lower/file"), "of the lower\n").unwrap();
    fs::write(fixture.bundle().join("lower/gone"), "to be removed\n").unwrap();
    fs::write(fixture.bundle().join("second/more"), "of the second\n").unwrap();
    let mut options = options;
    for option in options.as_array_mut().unwrap() {
        let text = option
            .as_str()
            .unwrap()
            .replace("HERE", fixture.bundle().to_str().unwrap());
        *option = text.into();
    }
    fixture.mount(json!({
        "destination": "/data", "type": "overlay", "source": "overlay", "options": options
    }));
    fixture
}

const CHANGE: &str =
    "cat /data/file; rm /data/gone; echo changed >/data/file; cat /data/file; ls /data";

#[test]
fn changes_go_to_the_upper_directory_and_nowhere_else() {
    let mut fixture = with_overlay(json!([
        "lowerdir=HERE/lower:HERE/second",
        "upperdir=HERE/upper",
        "workdir=HERE/work",
        "private",
        "userxattr"
    ]));
    fixture.sh(CHANGE);
    let ran = fixture.run().exits(0);
    assert_eq!(ran.out, "of the lower\nchanged\nfile\nmore\n");
    let read = |name: &str| fs::read_to_string(fixture.bundle().join(name)).unwrap();
    assert_eq!(read("lower/file"), "of the lower\n");
    assert_eq!(read("lower/gone"), "to be removed\n");
    assert_eq!(read("upper/file"), "changed\n");
    // A whiteout.
    let gone = fs::symlink_metadata(fixture.bundle().join("upper/gone")).unwrap();
    assert_eq!((gone.rdev(), gone.len()), (0, 0));
    // A second container sees the changes.
    fixture.sh("cat /data/file; ls /data");
    assert_eq!(fixture.run().ok(), "changed\nfile\nmore\n");
    assert!(peer() || !ran.err.contains("note:"), "{ran:?}");
}

#[test]
fn without_an_upper_directory_it_is_read_only() {
    let mut fixture = with_overlay(json!(["lowerdir=HERE/lower:HERE/second"]));
    fixture.sh("ls /data; touch /data/new 2>/dev/null && echo WRITABLE; true");
    assert_eq!(fixture.run().ok(), "file\ngone\nmore\n");
}

#[test]
fn read_only_by_its_options() {
    let mut fixture = with_overlay(json!([
        "lowerdir=HERE/lower",
        "upperdir=HERE/upper",
        "workdir=HERE/work",
        "ro",
        "nosuid",
        "noexec"
    ]));
    fixture.sh("touch /data/new 2>/dev/null && echo WRITABLE; cat /proc/self/mountinfo");
    let out = fixture.run().ok();
    let mount = mounted(&out, "/data").unwrap();
    assert!(
        !out.contains("WRITABLE") && mount.fstype == "overlay",
        "{mount:?}"
    );
    for option in ["ro", "nosuid", "noexec"] {
        assert!(
            mount.options.iter().any(|o| o == option),
            "{option}: {mount:?}"
        );
    }
}

#[test]
fn what_a_user_namespace_needs_is_added() {
    lodger_only!("adding userxattr");
    let mut fixture = with_overlay(json!([
        "lowerdir=HERE/lower",
        "upperdir=HERE/upper",
        "workdir=HERE/work"
    ]));
    fs::create_dir(fixture.bundle().join("lower/dir")).unwrap();
    fs::write(fixture.bundle().join("lower/dir/old"), "").unwrap();
    // A directory that is made anew must hide the lower one: that is an extended attribute.
    fixture.sh("rm -r /data/dir; mkdir /data/dir; ls -A /data/dir; cat /proc/self/mountinfo");
    let ran = fixture.run().exits(0);
    let mount = mounted(&ran.out, "/data").unwrap();
    assert!(
        mount.super_options.iter().any(|o| o == "userxattr"),
        "{mount:?}"
    );
    assert!(!ran.out.contains("old"), "{ran:?}");
    assert!(ran.err.contains("\"userxattr\" added"), "{ran:?}");
}

#[test]
fn directories_may_be_relative_and_have_any_name() {
    peer_differs!(
        "runc",
        "1.1 leaves relative directories to the kernel, which begins at its own working directory"
    );
    let mut fixture = with_overlay(json!([
        "lowerdir=lower\\:with\\,all:second",
        "upperdir=up\\,per",
        "workdir=work",
        "userxattr"
    ]));
    fs::rename(
        fixture.bundle().join("lower"),
        fixture.bundle().join("lower:with,all"),
    )
    .unwrap();
    fs::rename(
        fixture.bundle().join("upper"),
        fixture.bundle().join("up,per"),
    )
    .unwrap();
    fixture.sh(CHANGE);
    assert_eq!(fixture.run().ok(), "of the lower\nchanged\nfile\nmore\n");
    assert!(fixture.bundle().join("up,per/file").exists());
}

/// The caller's rights decide what may be a layer, and not those of the container's root, who may be somebody else.
#[test]
fn directories_that_only_the_caller_can_reach() {
    lodger_only!("opening the layers with the caller's rights");
    let mut fixture = with_overlay(json!([
        "lowerdir=HERE/closed/lower:HERE/second",
        "userxattr"
    ]));
    crate::base::add_user_namespace(&mut fixture.config);
    let (start, _) = crate::base::subordinate_range("/etc/subuid").unwrap();
    fixture.config["linux"]["uidMappings"] =
        json!([{"containerID": 0, "hostID": start, "size": 100}]);
    fs::create_dir(fixture.rootfs().join("data")).unwrap();
    let closed = fixture.bundle().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::rename(fixture.bundle().join("lower"), closed.join("lower")).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    fixture.sh("cat /data/file /data/more");
    assert_eq!(fixture.run().ok(), "of the lower\nof the second\n");
}

/// What is not done: the directories are looked up once more.
#[test]
fn by_path_it_is_the_same_overlay() {
    lodger_only!("switching defences off");
    without(&["ResolveOnce"], || {
        assert!(off().is_some());
        let mut fixture = with_overlay(json!([
            "lowerdir=lower:second",
            "upperdir=upper",
            "workdir=work",
            "userxattr"
        ]));
        fixture.sh(CHANGE);
        assert_eq!(fixture.run().ok(), "of the lower\nchanged\nfile\nmore\n");
    });
}

/// Before Linux 6.13 fsconfig(2) takes no fds for directories, and of paths at most 255 bytes: mount(2) takes names of fds.
#[test]
fn the_kernel_need_not_take_fds() {
    lodger_only!("what a system call answers");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let mut sweep = Sweep::new(true);
    let long = "long".repeat(50);
    let lower: Vec<String> = ["a", "b"]
        .iter()
        .map(|end| format!("{long}{end}"))
        .collect();
    for name in &lower {
        let directory = sweep.fixture.bundle().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(&name[200..]), "of a layer\n").unwrap();
    }
    sweep.fixture.mount(json!({
        "destination": "/mnt", "type": "overlay", "source": "overlay",
        "options": [format!("lowerdir={}", lower.join(":")), "userxattr"]
    }));
    sweep.fixture.sh("cat /mnt/a /mnt/b");
    sweep.fixture.write_config();
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let command = || sweep.fixture.command(&["run", "c"]);
    let writes = last_map_write(&trace(&command(), &scratch.join("trace")));
    let (_, ran, calls) = with_init_traced(&command(), scratch, writes, &[]);
    assert_eq!(ran.ok(), "of a layer\nof a layer\n");
    let by_fd = |call: &Call| call.line.contains("FSCONFIG_SET_FD");
    let Some(first) = calls.iter().position(by_fd) else {
        // A filter around the test refuses fsconfig(2), and it was mount(2) already.
        assert!(
            std::env::var_os("LODGER_TEST_LOCKED").is_some(),
            "{calls:#?}"
        );
        return;
    };
    let mounts = |calls: &[Call]| calls.iter().filter(|call| call.name == "mount").count();
    let before = mounts(&calls);
    // Linux before 6.13, and before 6.5: there it is mount(2) from the beginning.
    let is_taken = calls[first].succeeded();
    for errno in ["EINVAL", "EBADF", "EOPNOTSUPP"] {
        let option = inject(&calls, first, Fate::Error(errno));
        let (_, ran, calls) = with_init_traced(&command(), scratch, writes, &[&*option]);
        assert_eq!(ran.ok(), "of a layer\nof a layer\n", "{errno}");
        assert!(!is_taken || mounts(&calls) > before, "{errno}: {calls:#?}");
    }
}

#[test]
fn a_layer_that_is_missing_is_named() {
    let fixture = with_overlay(json!([
        "lowerdir=HERE/lower:HERE/no-such",
        "upperdir=HERE/upper",
        "workdir=HERE/work"
    ]));
    let ran = fixture
        .run()
        .fails(1, "cannot open the source of /mounts/6");
    assert!(peer() || ran.err.contains("/no-such\""), "{ran:?}");
}

#[test]
fn what_is_no_overlay_is_told() {
    for (options, problem) in [
        (
            json!(["upperdir=HERE/upper", "workdir=HERE/work"]),
            "/mounts/6/options: an overlay needs \"lowerdir=…\"",
        ),
        (
            json!(["lowerdir=HERE/lower", "upperdir=HERE/upper"]),
            "/mounts/6/options: \"upperdir=…\" and \"workdir=…\" come together",
        ),
        (json!(["lowerdir=HERE/lower:"]), "/mounts/6/options/0"),
        (
            json!(["lowerdir=HERE/lower", "no-such-option"]),
            "no-such-option",
        ),
    ] {
        with_overlay(options).run().fails(1, problem);
    }
}

#[test]
fn what_needs_root_of_the_host_is_told() {
    lodger_only!("the message");
    with_overlay(json!(["lowerdir=HERE/lower", "metacopy=on"]))
        .run()
        .fails(
            1,
            "/mounts/6/options/1: \"metacopy=on\" needs trusted.* extended attributes",
        );
}
