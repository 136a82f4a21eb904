//! A checkpoint ends the container: what could not be restored is refused before, and what can be is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use serde_json::json;

use crate::base::subordinate_range;
use crate::checkpoint_lab::{Lab, checkpoints_or_skip, criu, path_with};
use crate::checkpoint_refusals::refused;
use crate::harness::{Fixture, Ran, spawn};
use crate::image_run::Image;

#[test]
fn a_bind_mount_with_others_beneath_its_source() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&[]);
    // What is mounted beneath /sys/kernel differs from machine to machine; control groups are, everywhere.
    lab.fixture.mount(json!({
        "destination": "/theirs", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]
    }));
    lab.start();
    refused(
        &lab,
        lab.checkpoint(&[]),
        &["\"/theirs\"", "\"/theirs/", "beneath"],
    );
}

/// Maps `lines` of container id, host id and size; 0 is the caller, 1 the first of the subordinate ids.
fn map_ids(lab: &mut Lab, lines: &[(u32, Host, u32)]) {
    for (name, file, own) in [
        (
            "uidMappings",
            "/etc/subuid",
            rustix::process::getuid().as_raw(),
        ),
        (
            "gidMappings",
            "/etc/subgid",
            rustix::process::getgid().as_raw(),
        ),
    ] {
        let (first, _) = subordinate_range(file).expect("subordinate ids");
        let line = |(inside, host, size): &(u32, Host, u32)| {
            let host = match host {
                Host::Caller => own,
                Host::Subordinate(number) => first + number,
            };
            json!({"containerID": inside, "hostID": host, "size": size})
        };
        lab.fixture.config["linux"][name] = lines.iter().map(line).collect();
    }
    let namespaces = lab.fixture.config["linux"]["namespaces"].as_array_mut();
    namespaces.unwrap().push(json!({"type": "user"}));
}

#[derive(Clone, Copy)]
enum Host {
    Caller,
    Subordinate(u32),
}

/// Maps of an engine that keeps the caller's id (podman's keep-id): root is a subordinate id.
fn keep_id(lab: &mut Lab) {
    map_ids(
        lab,
        &[
            (0, Host::Subordinate(0), 1000),
            (1000, Host::Caller, 1),
            (1001, Host::Subordinate(1000), 1000),
        ],
    );
}

#[test]
fn the_caller_is_another_user_in_the_container() {
    checkpoints_or_skip!();
    for user in [0, 7, 1000] {
        let words = [
            "threads", "memfd", "unlinked", "sysv", "unix", "shared", "tree",
        ];
        let mut lab = Lab::with(&words);
        lab.open_answers();
        let rootfs = lab.fixture.rootfs();
        fs::set_permissions(rootfs, fs::Permissions::from_mode(0o777)).unwrap();
        keep_id(&mut lab);
        lab.fixture.config["process"]["user"] = json!({"uid": user, "gid": user});
        lab.start();
        // Of the container's root, and of others.
        for (user, name) in [("0:0", "/dev/shm/a"), ("7:1000", "/dev/shm/b")] {
            lab.lodger(&["exec", "-u", user, "c", "busybox", "touch", name])
                .ok();
        }
        let shown = "cd /dev/shm && busybox stat -c '%n %u:%g %a' . a b";
        let owners = ["exec", "-u", "0:0", "c", "sh", "-c", shown];
        let made = lab.lodger(&owners).ok();
        assert!(
            made.contains("a 0:0") && made.contains("b 7:1000"),
            "{made}"
        );
        for _ in 0..2 {
            lab.survives(&[]);
            assert_eq!(lab.lodger(&owners).ok(), made);
        }
        let own = rustix::process::getuid().as_raw();
        for file in fs::read_dir(lab.fixture.path("ck")).unwrap() {
            let file = file.unwrap();
            // What a restore counts is written by the container's root.
            let is_own = file.metadata().unwrap().uid() == own;
            assert!(is_own || file.file_name() == "stats-restore", "{file:?}");
        }
    }
}

#[test]
fn the_caller_is_nobody_in_the_container() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["threads"]);
    lab.open_answers();
    map_ids(&mut lab, &[(0, Host::Subordinate(0), 1000)]);
    lab.start();
    refused(
        &lab,
        lab.checkpoint(&[]),
        &[
            "your own uid",
            "is nobody's in the container",
            "uidMappings",
        ],
    );
}

#[test]
fn only_one_id() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["threads", "unlinked", "memfd"]);
    map_ids(&mut lab, &[(0, Host::Caller, 1)]);
    lab.start();
    lab.survives(&[]);
}

#[test]
fn only_one_id_by_option() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["threads", "unlinked"]);
    lab.fixture.write_config();
    lab.lodger(&["--single-id", "run", "-d", "c"]).ok();
    lab.first_answer();
    let before = lab.look("c");
    lab.checkpoint(&[]).ok();
    let images = lab.word("ck");
    let ran = lab.lodger(&["--single-id", "restore", "--image-path", &images, "-d", "c"]);
    ran.ok();
    lab.look("c").goes_on_from(&before);
}

#[test]
fn feigned_owners_are_feigned_by_exec_too() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["threads"]);
    lab.fixture.write_config();
    lab.lodger(&["--fake-root=ignore", "run", "-d", "c"]).ok();
    lab.first_answer();
    let before = lab.look("c");
    for _ in 0..2 {
        lab.checkpoint(&[]).ok();
        let images = lab.word("ck");
        let none = lab.lodger(&[
            "--fake-root=none",
            "restore",
            "--image-path",
            &images,
            "-d",
            "c",
        ]);
        none.fails(1, "--fake-root");
        let ran = lab.restore(&["-d"], "c").exits(0);
        assert!(ran.err.contains("succeed without effect"), "{ran:#?}");
        lab.look("c").goes_on_from(&before);
        assert_eq!(lab.fixture.state("c")["fakeRoot"], "ignore");
        let owner = [
            "exec",
            "c",
            "sh",
            "-c",
            "busybox touch /tmp/f && busybox chown 5:6 /tmp/f && busybox stat -c %u:%g /tmp/f",
        ];
        assert_eq!(lab.lodger(&owner).ok(), "0:0\n");
    }
}

#[test]
fn an_overlay_of_directories_outside() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["threads"]);
    let here = lab.fixture.bundle();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(here.join(name)).unwrap();
    }
    let option = |name: &str, place: &str| format!("{name}={}", here.join(place).display());
    lab.fixture.mount(json!({
        "destination": "/data", "type": "overlay", "source": "overlay", "options": [
            option("lowerdir", "lower"), option("upperdir", "upper"), option("workdir", "work")
        ]
    }));
    lab.start();
    refused(&lab, lab.checkpoint(&[]), &["overlay at \"/data\""]);
}

#[test]
fn clocks_of_its_own() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["threads"]);
    let namespaces = lab.fixture.config["linux"]["namespaces"].as_array_mut();
    namespaces.unwrap().push(json!({"type": "time"}));
    lab.fixture.config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1000}});
    lab.start();
    refused(&lab, lab.checkpoint(&[]), &["time namespace"]);
}

/// With lower limits of open files than the container has.
fn under_limit(lab: &Lab, (soft, hard): (u32, u32), options: &[&str]) -> Ran {
    let images = lab.word("ck");
    let args = [&["restore", "--image-path", &images, "-d"], options, &["c"]].concat();
    let command = lab.command(&args);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut limited = Command::new("/bin/sh");
    let script = format!("ulimit -S -n {soft}; ulimit -H -n {hard}; exec \"$@\"");
    limited.args(["-c", &script, "sh"]).args(words);
    limited.current_dir(lab.fixture.bundle());
    limited.env("PATH", path_with(&criu().unwrap()));
    spawn(&mut limited, b"").wait()
}

#[test]
fn limits_that_are_lower_by_now() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["threads"]);
    lab.start();
    let before = lab.look("c");
    lab.checkpoint(&[]).ok();
    let limits = (1024, 2048);
    under_limit(&lab, limits, &[]).fails(1, "RLIMIT_NOFILE hard limit");
    assert_eq!(lab.ids(), [""; 0]);
    let ran = under_limit(&lab, limits, &["--allow-lower-rlimits"]).exits(0);
    assert!(ran.err.contains("RLIMIT_NOFILE"), "{ran:#?}");
    let _ = before;
    lab.look("c");
}

#[test]
fn fewer_open_files_than_criu_needs() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["threads"]);
    lab.start();
    let before = lab.look("c");
    lab.checkpoint(&[]).ok();
    for options in [&[][..], &["--allow-lower-rlimits"]] {
        let ran = under_limit(&lab, (100, 100), options);
        assert!(ran.err.contains("limits.conf(5)"), "{ran:#?}");
        ran.fails(1, "CRIU needs 128 at least");
        assert_eq!(lab.ids(), [""; 0]);
        assert!(!lab.fixture.path("ck/restore.log").exists());
    }
    lab.restore(&["-d"], "c").ok();
    lab.look("c").goes_on_from(&before);
}

#[test]
fn restores_with_the_options_that_are_every_commands() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["threads"]);
    lab.start();
    let images = lab.word("ck");
    for option in ["--strict", "--require-subids", "--explain"] {
        let before = lab.look("c");
        lab.checkpoint(&[]).ok();
        let ran = lab.lodger(&[option, "restore", "--image-path", &images, "-d", "c"]);
        ran.ok();
        lab.look("c").goes_on_from(&before);
    }
}

#[test]
fn a_proc_that_is_not_its_own() {
    checkpoints_or_skip!();
    for (option, why) in [
        ("--proc=bind", "is this host's"),
        ("--proc=none", "no /proc"),
    ] {
        let mut fixture = Fixture::with_own_root();
        fixture.args(&["/bin/sleep", "600"]);
        let lab = Lab::of(fixture);
        lab.fixture.write_config();
        lab.lodger(&[option, "run", "-d", "c"]).ok();
        let ran = lab.checkpoint(&[]).fails(1, why);
        assert!(ran.err.contains("--proc"), "{ran:#?}");
        assert_eq!(lab.fixture.status("c"), "running");
        assert!(!lab.fixture.path("ck/lodger.json").exists());
    }
}

/// What it has changed is lost with its mounts.
#[test]
fn changes_of_an_image_in_memory() {
    checkpoints_or_skip!();
    let image = Image::new(&json!({}), |_| {});
    let run = [
        "run",
        "-d",
        "--tmpfs-upper",
        "--image",
        "i",
        "c",
        "/bin/sleep",
        "600",
    ];
    image.command(&run).status().unwrap();
    let images = image.fixture.path("ck");
    let args = ["checkpoint", "--image-path", images.to_str().unwrap(), "c"];
    let mut command = image.command(&args);
    command.env("PATH", path_with(&criu().unwrap()));
    spawn(&mut command, b"").wait().fails(1, "--tmpfs-upper");
    assert!(!images.join("lodger.json").exists());
    assert_eq!(image.fixture.status("c"), "running");
}

#[test]
fn directories_that_cannot_be_had() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["threads"]);
    lab.start();
    let (none, file) = (lab.word("none"), lab.word("file"));
    fs::write(&file, "").unwrap();
    let deeper = format!("{none}/deeper");
    refused(&lab, lab.checkpoint(&["--work-path", &deeper]), &["none"]);
    refused(&lab, lab.checkpoint(&["--work-path", &file]), &["file"]);
    assert!(!lab.fixture.path("ck").exists());
    lab.checkpoint(&[]).ok();
    lab.restore(&["-d", "--work-path", &none], "c")
        .fails(1, "none");
    lab.restore(&["-d", "--work-path", &file], "c")
        .fails(1, "file");
    lab.restore(&["-d", "--work-path", "/proc"], "c")
        .fails(1, "--work-path");
    assert_eq!(lab.ids(), [""; 0]);
    lab.restore(&["-d"], "c").ok();
    lab.look("c");
}
