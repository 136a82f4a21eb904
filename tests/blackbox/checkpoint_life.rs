//! The life of a container around a checkpoint and after a restore: every command must find it as it was.

use std::fs;

use serde_json::{Value, json};

use crate::checkpoint_lab::{Lab, checkpointable, checkpoints_or_skip};
use crate::harness::{Fixture, lives, read_lossy, skip, wait_for};
use crate::hooks;
use crate::seccomp_profile::{installed_podmans, long_profile};

#[test]
fn a_container_that_is_left_running_goes_on_and_its_image_runs_beside_it() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["shared", "threads", "events", "sysv"]);
    lab.start();
    let before = lab.look("c");
    let pid = lab.pid("c");
    lab.checkpoint(&["--leave-running"]).ok();
    assert_eq!(lab.fixture.status("c"), "running");
    assert_eq!(lab.pid("c"), pid, "the same process");
    let after = lab.look("c");
    after.goes_on_from(&before);
    lab.restore(&["-d"], "copy").ok();
    assert_ne!(lab.pid("copy"), pid);
    // Whoever is asked answers; the other one does not.
    lab.look("copy").goes_on_from(&before);
    lab.consume(
        "c",
        &[("shared.child", "goes on"), ("sysv.message", "message2")],
    );
    lab.fixture.bare(&["delete", "-f", "c"]).ok();
    // Nothing of it was the other one's.
    lab.consume(
        "copy",
        &[("shared.child", "goes on"), ("sysv.message", "message2")],
    );
}

#[test]
fn every_command_works_on_a_restored_container() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["threads"]);
    lab.start();
    let created = lab.fixture.state("c");
    let mounts = |lab: &Lab| {
        let out = lab
            .lodger(&["exec", "c", "cat", "/proc/self/mountinfo"])
            .ok();
        // Without the numbers and the peers.
        let mut lines: Vec<String> = out
            .lines()
            .map(|line| {
                let (mount, filesystem) = line.split_once(" - ").unwrap();
                let words: Vec<&str> = mount.split(' ').collect();
                format!("{} {} {} {filesystem}", words[3], words[4], words[5])
            })
            .collect();
        lines.sort();
        lines
    };
    let before = mounts(&lab);
    let hostname = lab.lodger(&["exec", "c", "hostname"]).ok();
    let pid_file = lab.word("pid");
    lab.checkpoint(&[]).ok();
    lab.restore(&["-d", "--pid-file", &pid_file], "c").ok();
    let state = lab.fixture.state("c");
    let pid = lab.pid("c");
    assert_eq!(read_lossy(&lab.fixture.path("pid")).trim(), pid.to_string());
    assert_eq!(
        (&state["id"], &state["bundle"]),
        (&created["id"], &created["bundle"])
    );
    assert_eq!(state["status"], "running");
    assert_eq!(mounts(&lab), before);
    assert_eq!(lab.lodger(&["exec", "c", "hostname"]).ok(), hostname);
    // A process that joins has what the config says.
    let status = lab
        .lodger(&[
            "exec",
            "c",
            "grep",
            "-E",
            "^(NoNewPrivs|CapEff|Seccomp):",
            "/proc/self/status",
        ])
        .ok();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let ps: Vec<u32> =
        serde_json::from_str(&lab.fixture.bare(&["ps", "-f", "json", "c"]).ok()).unwrap();
    assert!(ps.contains(&pid), "{ps:?}");
    lab.fixture
        .bare(&["start", "c"])
        .fails(1, "cannot start an already running container");
    lab.fixture
        .bare(&["delete", "c"])
        .fails(1, "container still running");
    lab.fixture.bare(&["kill", "c", "KILL"]).ok();
    lab.fixture.wait_status("c", "stopped");
    lab.fixture.bare(&["delete", "c"]).ok();
    assert!(!lives(pid));
    assert_eq!(lab.ids(), [""; 0]);
}

#[test]
fn a_restore_in_the_foreground_ends_with_its_program() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&[]);
    lab.fixture.sh("trap 'echo ended >&2; exit 7' TERM; echo begun; touch /begun; while :; do sleep 0.01; done");
    lab.fixture.write_config();
    let run = crate::harness::spawn(&mut lab.command(&["run", "c"]), b"");
    wait_for("the program", || {
        lab.fixture.rootfs().join("begun").exists().then_some(())
    });
    lab.checkpoint(&[]).ok();
    // Its container was ended by CRIU.
    run.wait().exits(128 + 9);
    let images = lab.word("ck");
    let restore = crate::harness::spawn(
        &mut lab.command(&["restore", "--image-path", &images, "c"]),
        b"",
    );
    wait_for("the container", || {
        let state = lab.fixture.bare(&["state", "c"]);
        (state.code == 0 && state.out.contains("\"running\"")).then_some(())
    });
    lab.fixture.bare(&["kill", "c", "TERM"]).ok();
    let ran = restore.wait().exits(7);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", "ended\n"));
    assert_eq!(lab.ids(), [""; 0]);
}

#[test]
fn hooks_run_around_a_restore_as_around_a_start() {
    checkpoints_or_skip!();
    let mut fixture = hooks::fixture();
    for kind in hooks::KINDS {
        hooks::add(&mut fixture, kind, &format!("echo {kind} >>$LOG/kinds"));
    }
    fixture.sh("touch /begun; while :; do sleep 0.01; done");
    fixture.write_config();
    let lab = Lab::of(fixture);
    lab.lodger(&["run", "-d", "c"]).ok();
    wait_for("the program", || {
        lab.fixture.rootfs().join("begun").exists().then_some(())
    });
    let kinds = || {
        hooks::log(&lab.fixture, "kinds")
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(), hooks::KINDS[..5]);
    lab.checkpoint(&[]).ok();
    lab.restore(&["-d"], "c").ok();
    let after = kinds();
    // What is in the images is not made a second time: its mounts, and its program.
    let restored: Vec<&str> = after[5..]
        .iter()
        .map(String::as_str)
        .filter(|kind| *kind != "poststop")
        .collect();
    assert_eq!(restored, ["prestart", "createRuntime", "poststart"]);
    lab.fixture.bare(&["delete", "-f", "c"]).ok();
    assert_eq!(kinds().last().unwrap(), "poststop");
}

/// A container under this filter.
fn under(profile: Value) -> Lab {
    let mut lab = Lab::with(&["shared", "threads", "memfd", "unix", "signals"]);
    lab.fixture.config["linux"]["seccomp"] = profile;
    lab
}

/// Two generations of it have the filter, and a process that joins has it too.
#[track_caller]
fn stays_filtered(lab: &Lab) {
    let after = lab.survives(&[]);
    assert_eq!(after.get("status.Seccomp"), "2");
    lab.survives(&[]).goes_on_from(&after);
    let words = ["exec", "c", "grep", "Seccomp:", "/proc/self/status"];
    assert_eq!(lab.lodger(&words).ok(), "Seccomp:\t2\n");
}

#[test]
fn a_profile_like_dockers_lets_a_checkpoint_pass() {
    checkpoints_or_skip!();
    let lab = under(long_profile());
    lab.start();
    stays_filtered(&lab);
}

/// It forbids vmsplice(2), as what else there is that forbids it.
#[test]
fn podmans_profile_needs_the_annotation() {
    checkpoints_or_skip!();
    let Some(profile) = installed_podmans(&[]) else {
        skip!("podman's profile is not installed");
    };
    let mut lab = under(profile);
    lab.start();
    let before = lab.look("c");
    lab.checkpoint(&[]).fails(1, "vmsplice");
    lab.look("c").goes_on_from(&before);
    lab.fixture.bare(&["delete", "-f", "c"]).ok();
    for name in ["answer", "socket"] {
        fs::remove_file(lab.fixture.rootfs().join(name)).unwrap();
    }
    checkpointable(&mut lab);
    lab.start();
    stays_filtered(&lab);
}

#[test]
fn mounts_from_outside_are_there_again() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["place"]);
    for (name, options) in [
        ("volume", json!(["rbind", "rw"])),
        ("conf", json!(["bind", "ro"])),
    ] {
        let path = lab.fixture.path(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), name).unwrap();
        lab.fixture.mount(json!({"destination": format!("/{name}"), "type": "bind", "source": path.to_str().unwrap(), "options": options}));
    }
    let file = lab.fixture.path("single");
    fs::write(&file, "single").unwrap();
    lab.fixture.mount(json!({"destination": "/etc/single", "type": "bind", "source": file.to_str().unwrap(), "options": ["bind"]}));
    lab.fixture.mount(json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["mode=750", "size=1m"]}));
    lab.start();
    let script =
        "echo kept >/scratch/x; chmod 640 /scratch/x; mkdir /scratch/d; echo also >/scratch/d/y";
    lab.lodger(&["exec", "c", "sh", "-c", script]).ok();
    lab.survives(&[]);
    let script = "cat /volume/file /conf/file /etc/single /scratch/x /scratch/d/y; stat -c %a /scratch /scratch/x; echo new >/volume/new; touch /conf/new";
    let ran = lab.lodger(&["exec", "c", "sh", "-c", script]);
    assert_eq!(
        ran.out, "volumeconfsinglekept\nalso\n750\n640\n",
        "{ran:#?}"
    );
    assert!(ran.err.contains("Read-only file system"), "{ran:#?}");
    assert_eq!(read_lossy(&lab.fixture.path("volume/new")), "new\n");
}

#[test]
fn files_of_another_owner_in_a_tmpfs_are_still_hers() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&[]);
    lab.fixture.mount(json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "uid=5", "gid=6"]}));
    lab.fixture.config["process"]["capabilities"]["bounding"] = json!(["CAP_CHOWN"]);
    lab.start();
    let look = || {
        lab.lodger(&[
            "exec",
            "c",
            "stat",
            "-c",
            "%u:%g %a",
            "/scratch",
            "/dev/pts/ptmx",
        ])
        .ok()
    };
    let before = look();
    assert!(before.starts_with("5:6 755\n"), "{before}");
    // The second generation fails where the first one has shifted ids.
    for _ in 0..2 {
        lab.survives(&[]);
        assert_eq!(look(), before);
    }
}

#[test]
fn namespaces_that_the_container_does_not_have_are_the_callers_again() {
    checkpoints_or_skip!();
    for kind in ["network", "uts", "ipc"] {
        let mut lab = Lab::with(&["shared"]);
        lab.fixture.without_namespace(kind);
        if kind == "ipc" {
            lab.fixture.unmount("/dev/mqueue");
        }
        if kind == "uts" {
            lab.fixture
                .config
                .as_object_mut()
                .unwrap()
                .remove("hostname");
        }
        if kind == "network" {
            lab.fixture.unmount("/sys");
        }
        lab.start();
        lab.survives(&[]);
        let name = match kind {
            "network" => "net",
            other => other,
        };
        let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let theirs = fs::read_link(format!("/proc/{}/ns/{name}", lab.pid("c"))).unwrap();
        assert_eq!(own, theirs, "{kind}");
    }
}

#[test]
fn a_bundle_elsewhere_and_a_directory_of_logs() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["threads"]);
    lab.start();
    let before = lab.look("c");
    let (bundle, images, work) = (lab.fixture.bundle(), lab.word("ck"), lab.word("work"));
    let bundle = bundle.to_str().unwrap();
    let in_root = |args: &[&str]| {
        let mut command = lab.command(args);
        command.current_dir("/");
        crate::harness::spawn(&mut command, b"").wait()
    };
    in_root(&[
        "checkpoint",
        "--image-path",
        &images,
        "--work-path",
        &work,
        "c",
    ])
    .ok();
    assert!(lab.fixture.path("work/dump.log").exists());
    in_root(&[
        "restore",
        "-b",
        bundle,
        "--image-path",
        &images,
        "--work-path",
        &work,
        "-d",
        "c",
    ])
    .ok();
    assert!(lab.fixture.path("work/restore.log").exists());
    lab.look("c").goes_on_from(&before);
}

/// The image is hers alone, and tells what it is of.
#[test]
fn images_are_private_and_whole() {
    use std::os::unix::fs::MetadataExt as _;
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    lab.checkpoint(&[]).ok();
    let directory = lab.fixture.path("ck");
    let metadata = fs::metadata(&directory).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o700);
    let text = read_lossy(&directory.join("lodger.json"));
    let manifest: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["id"], "c");
    let files = manifest["files"].as_object().unwrap();
    for (name, file) in files {
        let metadata = fs::metadata(directory.join(name)).unwrap();
        assert_eq!(json!(metadata.len()), file["size"], "{name}");
        assert_eq!(metadata.uid(), rustix::process::getuid().as_raw(), "{name}");
    }
    let images = fs::read_dir(&directory).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().ends_with(".img")
    });
    assert!(images.count() > 10 && files.len() > 10, "{files:#?}");
    // A restore takes nothing away from it: it can be repeated.
    for id in ["one", "two"] {
        lab.restore(&["-d"], id).ok();
        lab.look(id);
        Fixture::bare(&lab.fixture, &["delete", "-f", id]).ok();
    }
}
