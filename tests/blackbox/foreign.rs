//! State that is not what it seems: other processes, other namespaces, other users' directories, endless files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Fixture, LIMIT, Running, lives, lodger_only, skip, spawn, wait_for};
use crate::weak::{Outcome, held_by};

fn record_path(fixture: &Fixture, id: &str) -> PathBuf {
    fixture.path("state").join(id).join("state.json")
}

fn record(fixture: &Fixture, id: &str) -> Value {
    let text = fs::read_to_string(record_path(fixture, id)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn write_record(fixture: &Fixture, id: &str, record: &Value) {
    fs::write(record_path(fixture, id), record.to_string()).unwrap();
}

/// Field 22 of /proc/PID/stat.
fn start_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(19).unwrap().parse().unwrap()
}

/// A process of the same user that no container has anything to do with.
fn bystander() -> Running {
    spawn(Command::new("/bin/sleep").arg("600"), b"")
}

/// The pid of a container that ended was given to somebody else, in this boot or in a later one.
#[test]
fn a_process_that_only_has_the_pid_is_left_alone() {
    lodger_only!("the record of a container");
    let first = bystander();
    let pid = first.pid();
    let now = start_time(pid);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let cases = [
        (now + 1, boot.trim()),
        (now, "00000000-0000-4000-8000-000000000000"),
    ];
    for (start_time, boot_id) in cases {
        let mut fixture = Fixture::new();
        fixture.sleeping("c");
        let own = record(&fixture, "c");
        let mut changed = own.clone();
        changed["process"] = json!({"pid": pid, "start_time": start_time});
        changed["boot_id"] = boot_id.into();
        write_record(&fixture, "c", &changed);
        assert_eq!(fixture.status("c"), "stopped");
        fixture
            .bare(&["kill", "c", "KILL"])
            .fails(1, "container not running");
        fixture
            .bare(&["exec", "c", "true"])
            .fails(255, "stopped container");
        assert!(lives(pid), "kill: {start_time} {boot_id}");
        fixture.bare(&["delete", "-f", "c"]).ok();
        assert!(lives(pid), "delete: {start_time} {boot_id}");
        crate::harness::send_signal(
            u32::try_from(own["process"]["pid"].as_u64().unwrap()).unwrap(),
            "KILL",
        );
    }
}

/// By the pid alone, the signal would reach whoever has it now.
#[test]
fn pid_reuse_is_seen_by_start_time_and_boot() {
    lodger_only!("switching defences off");
    for key in ["start_time", "boot_id"] {
        held_by(&["ProcessIdentity"], || {
            let mut bystander = bystander();
            let mut fixture = Fixture::new();
            fixture.sleeping("c");
            let own = record(&fixture, "c");
            let mut changed = own.clone();
            changed["process"] =
                json!({"pid": bystander.pid(), "start_time": start_time(bystander.pid())});
            match key {
                "boot_id" => changed["boot_id"] = "00000000-0000-4000-8000-000000000000".into(),
                _ => changed["process"]["start_time"] = 1.into(),
            }
            write_record(&fixture, "c", &changed);
            let ran = fixture.bare(&["kill", "c", "KILL"]);
            // What was sent may take its time to arrive.
            let killed = match ran.code {
                0 => bystander.wait_at_most(LIMIT).is_some(),
                _ => !lives(bystander.pid()),
            };
            write_record(&fixture, "c", &own);
            Outcome::of(killed.then(|| "a bystander was killed".into()), ran.err)
        });
    }
}

/// A record that names the very process is obeyed: so it is the comparison that protected the one above.
#[test]
fn a_process_that_has_the_pid_and_the_start_time_is_the_containers() {
    lodger_only!("the record of a container");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let own = record(&fixture, "c");
    let pid = u32::try_from(own["process"]["pid"].as_u64().unwrap()).unwrap();
    assert_eq!(own["process"]["start_time"], start_time(pid));
    fixture.bare(&["kill", "c", "KILL"]).ok();
    fixture.wait_status("c", "stopped");
}

fn outer(fixture: &Fixture, id: &str) -> Value {
    record(fixture, id)["user_namespace"]["outer"].clone()
}

/// A second container takes the outer user namespace of the first, and only if everything about it is right.
#[test]
fn an_outer_namespace_is_taken_only_if_it_is_the_recorded_one() {
    lodger_only!("the shared outer namespace");
    let mut fixture = Fixture::new();
    fixture.sleeping("first");
    let right = record(&fixture, "first");
    let namespace = outer(&fixture, "first")["inode"].as_u64();
    if namespace.is_none() {
        skip!("this caller has no outer namespace to share");
    }
    fixture.sleeping("same");
    assert_eq!(outer(&fixture, "same")["inode"].as_u64(), namespace);
    fixture.bare(&["delete", "-f", "same"]).ok();
    let count = &right["user_namespace"]["outer"]["uids"][1]["count"];
    let changes = [
        // No number that the kernel could give to a namespace.
        ("/user_namespace/outer/inode", json!(1)),
        ("/user_namespace/outer/device", json!(1)),
        (
            "/user_namespace/outer/uids/1/count",
            json!(count.as_u64().unwrap() - 1),
        ),
        ("/user_namespace/outer/gids/1/start", json!(1)),
        ("/process/start_time", json!(1)),
        ("/boot_id", json!("another boot")),
    ];
    for (pointer, value) in changes {
        let mut wrong = right.clone();
        *wrong.pointer_mut(pointer).unwrap() = value;
        write_record(&fixture, "first", &wrong);
        fixture.sleeping("second");
        let own = outer(&fixture, "second")["inode"].as_u64();
        assert_ne!(own, namespace, "{pointer}: joined");
        let recorded = wrong["user_namespace"]["outer"]["inode"].as_u64();
        assert_ne!(own, recorded, "{pointer}: recorded");
        fixture.bare(&["delete", "-f", "second"]).ok();
        write_record(&fixture, "first", &right);
    }
}

/// What differs from the record is some other namespace, however it came to be there.
#[test]
fn a_foreign_outer_namespace_is_not_joined() {
    lodger_only!("switching defences off");
    for pointer in [
        "/user_namespace/outer/inode",
        "/user_namespace/outer/device",
    ] {
        held_by(&["OuterIdentity"], || {
            let mut fixture = Fixture::new();
            fixture.sleeping("first");
            let right = record(&fixture, "first");
            let mut wrong = right.clone();
            *wrong.pointer_mut(pointer).unwrap() = json!(1);
            write_record(&fixture, "first", &wrong);
            fixture.sleeping("second");
            let taken = outer(&fixture, "second");
            write_record(&fixture, "first", &right);
            let joined = taken == wrong["user_namespace"]["outer"];
            Outcome::of(
                joined.then(|| format!("joined: {taken}")),
                format!("{taken}"),
            )
        });
    }
}

#[test]
fn a_record_that_is_no_file_or_too_large_ends_at_once() {
    lodger_only!("reading the record of a container");
    for kind in ["fifo", "huge", "endless", "directory", "loop"] {
        let mut fixture = Fixture::new();
        fixture.sleeping("c");
        let path = record_path(&fixture, "c");
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        match kind {
            "fifo" => rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap(),
            "huge" => fs::File::create(&path).unwrap().set_len(64 << 20).unwrap(),
            "endless" => symlink("/dev/zero", &path).unwrap(),
            "directory" => fs::create_dir(&path).unwrap(),
            _ => symlink("state.json", &path).unwrap(),
        }
        for args in [
            &["state", "c"][..],
            &["kill", "c"],
            &["start", "c"],
            &["delete", "c"],
        ] {
            fixture
                .bare(args)
                .fails(1, "cannot read the state of container");
        }
        assert_eq!(fixture.bare(&["list", "-q"]).ok(), "", "{kind}");
        // A neighbour like this is nobody else's problem.
        fixture.args(&["/bin/true"]);
        fixture.runtime(&["run", "other"]).ok();
        match kind {
            "directory" => fs::remove_dir(&path).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        fs::write(&path, kept).unwrap();
        assert_eq!(fixture.status("c"), "running", "{kind}");
    }
}

#[test]
fn a_config_over_16_mib_is_refused_at_once() {
    lodger_only!("the limit of config.json");
    let fixture = Fixture::new();
    let path = fixture.bundle().join("config.json");
    fixture.write_config();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for end in [(16 << 20) + 1, 1 << 30] {
        file.set_len(end).unwrap();
        for args in [&["run", "c"][..], &["plan", "."]] {
            fixture.bare(args).fails(1, "16 MiB");
        }
    }
}

/// Runs `list` with another state root.
fn list_in(fixture: &Fixture, root: &Path) -> crate::harness::Ran {
    let mut command = Command::new(crate::harness::runtime_binary());
    command.arg("--root").arg(root).args(["list", "-q"]);
    spawn(command.current_dir(fixture.bundle()), b"").wait()
}

#[test]
fn a_state_root_that_others_can_change_is_refused() {
    lodger_only!("the checks of the state directory");
    let fixture = Fixture::new();
    let root = fixture.path("root");
    fs::create_dir(&root).unwrap();
    for (mode, refused) in [
        (0o700, false),
        (0o755, false),
        (0o720, true),
        (0o702, true),
        (0o1777, true),
    ] {
        fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
        let ran = list_in(&fixture, &root);
        if refused {
            ran.fails(1, "others may write to it");
        } else {
            ran.ok();
        }
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&root, fixture.path("link")).unwrap();
    list_in(&fixture, &fixture.path("link")).fails(1, "symbolic link");
    list_in(&fixture, Path::new("/usr")).fails(1, "it belongs to uid 0");
}

/// State that somebody else could have planted is not looked at.
#[test]
fn state_root_symlink_or_mode_777_is_refused() {
    lodger_only!("switching defences off");
    for hostile in ["link", "mode"] {
        held_by(&["StateDirectory"], || {
            let fixture = Fixture::new();
            let root = fixture.path("root");
            fs::create_dir_all(root.join("planted")).unwrap();
            let mode = if hostile == "mode" { 0o777 } else { 0o700 };
            fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
            symlink(&root, fixture.path("link")).unwrap();
            let ran = list_in(
                &fixture,
                &fixture.path(if hostile == "link" { "link" } else { "root" }),
            );
            Outcome::of(
                ran.out.contains("planted").then(|| ran.out.clone()),
                ran.err,
            )
        });
    }
}

/// Containers that somebody else planted in a runtime directory that is not the caller's alone.
#[test]
fn an_unsafe_runtime_directory_is_passed_over() {
    lodger_only!("the usual places of the state");
    let fixture = Fixture::new();
    let session = fixture.path("session");
    fs::create_dir_all(session.join("lodger/planted")).unwrap();
    fs::set_permissions(session.join("lodger"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&session, fixture.path("link")).unwrap();
    let list = |session: &Path| {
        let mut command = Command::new(crate::harness::runtime_binary());
        command.args(["list", "-q"]).env("XDG_RUNTIME_DIR", session);
        let out = spawn(command.current_dir(fixture.bundle()), b"")
            .wait()
            .ok();
        out.lines().any(|id| id == "planted")
    };
    fs::set_permissions(&session, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(list(&session));
    assert!(!list(&fixture.path("link")), "through a link");
    assert!(!list(Path::new("../session")), "a relative path");
    for mode in [0o770, 0o1777] {
        fs::set_permissions(&session, fs::Permissions::from_mode(mode)).unwrap();
        assert!(!list(&session), "{mode:o}");
    }
}

#[test]
fn an_id_is_short_and_its_control_characters_are_not_printed() {
    lodger_only!("the limit of an id");
    let fixture = Fixture::new();
    fixture.write_config();
    for id in [
        &"a".repeat(129),
        "a\u{1b}[31m",
        "a\u{7}",
        "a\rerror: forged",
        "a\u{9b}1m",
        "a\u{7f}",
    ] {
        for args in [
            &["create", id, "--bundle", "."][..],
            &["state", id],
            &["kill", id],
            &["delete", "-f", id],
        ] {
            let ran = fixture.bare(args).exits(1);
            assert!(ran.err.contains("invalid container ID format"), "{ran:#?}");
            assert!(
                !ran.err.chars().any(|c| c.is_control() && c != '\n'),
                "{ran:?}"
            );
        }
    }
    assert_eq!(fs::read_dir(fixture.path("state")).unwrap().count(), 0);
    let longest = "a".repeat(128);
    fixture.bare(&["create", &longest]).ok();
    wait_for("it", || {
        fixture.path("state").join(&longest).exists().then_some(())
    });
}
