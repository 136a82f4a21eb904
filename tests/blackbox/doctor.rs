//! doctor: what this host allows, whatever that is; it changes nothing, and ends.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Fixture, Ran, lodger_only, spawn};

fn document(ran: Ran) -> Value {
    assert!(ran.err.is_empty(), "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.out))
}

fn codes(document: &Value) -> BTreeSet<String> {
    let findings = document["findings"].as_array().unwrap();
    let codes = findings
        .iter()
        .map(|finding| finding["code"].as_str().unwrap().to_owned());
    codes.collect()
}

/// Where containers run, as here, the mode is never `none`, and the exit status says the same.
#[test]
fn the_document_agrees_with_itself_and_with_the_page() {
    lodger_only!("doctor");
    let fixture = Fixture::new();
    let ran = fixture.bare(&["doctor", "--json"]);
    let code = ran.code;
    let told = document(ran);
    let mode = told["mode"].as_str().unwrap();
    let statuses = ["full", "reduced", "none"];
    assert_eq!(
        statuses.iter().position(|status| *status == mode),
        usize::try_from(code).ok()
    );
    assert_eq!(told["exit"], code);
    assert_eq!(told["mode"], "full", "{told:#}");
    for trial in ["outer", "inner", "maps", "propagation", "tmpfs", "bind"] {
        assert_eq!(told["trials"][trial], "works", "{trial}");
    }
    for finding in told["findings"].as_array().unwrap() {
        for key in ["code", "area", "weight", "what", "costs", "remedy", "who"] {
            assert!(
                finding[key].as_str().is_some_and(|text| !text.is_empty()),
                "{finding}"
            );
        }
        assert_eq!(finding["weight"], "costs", "{finding}");
    }
    let page = fixture.bare(&["doctor"]).exits(code).out;
    for code in codes(&told) {
        assert!(
            page.contains(&format!("  {code}: ")),
            "{code} is not on the page: {page}"
        );
    }
    for line in told["works"].as_array().unwrap() {
        let words: Vec<&str> = line.as_str().unwrap().split_whitespace().take(2).collect();
        assert!(
            page.contains(&words.join(" ")),
            "{line} is not on the page: {page}"
        );
    }
    let last = page.lines().last().unwrap();
    assert!(last.starts_with("Mode: full: "), "{last}");
    assert!(!page.contains('\u{1b}'), "{page}");
}

/// What is in a directory, with all beneath.
fn tree(path: &Path) -> BTreeSet<std::path::PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(tree(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

#[test]
fn nothing_is_left_behind_and_nothing_is_mounted() {
    lodger_only!("doctor");
    let fixture = Fixture::with_own_root();
    let home = fixture.path("home");
    std::fs::create_dir(&home).unwrap();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = (tree(&home), tree(&fixture.bundle()), mounts());
    for _ in 0..3 {
        let mut command = fixture.command(&["doctor", "--json"]);
        command
            .env("HOME", &home)
            .env_remove("XDG_DATA_HOME")
            .env_remove("LODGER_STORE");
        let told = document(spawn(&mut command, b"").wait());
        let store = told["readings"]["places"]["store"]["nearest"]
            .as_str()
            .unwrap();
        assert_eq!(Path::new(store), home);
        assert!(told["trials"]["xattr"].is_string() || told["trials"]["xattr"].is_object());
    }
    assert_eq!((tree(&home), tree(&fixture.bundle()), mounts()), before);
}

/// A home that is closed to everybody else is told of, with the directory.
#[test]
fn what_is_found_is_what_is_there() {
    use std::os::unix::fs::PermissionsExt;
    lodger_only!("doctor");
    let fixture = Fixture::new();
    let home = fixture.path("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o711)).unwrap();
    let doctor = |runtime: Option<&Path>| {
        let mut command = fixture.command(&["doctor", "--json"]);
        command.env("HOME", &home).env_remove("XDG_RUNTIME_DIR");
        if let Some(runtime) = runtime {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        codes(&document(spawn(&mut command, b"").wait()))
    };
    let missing = fixture.path("missing");
    assert!(doctor(None).contains("LDG-XDG-UNSET"));
    let with_missing = doctor(Some(&missing));
    assert!(with_missing.contains("LDG-XDG-MISSING") && !with_missing.contains("LDG-XDG-UNSET"));
    let foreign = doctor(Some(Path::new("/run")));
    assert!(foreign.contains("LDG-XDG-OWNER"), "{foreign:?}");
    assert!(!doctor(Some(&home)).contains("LDG-XDG-OWNER"));
}

/// no_new_privs takes the helpers' privilege: the mode is reduced, for that very cause.
#[test]
fn without_new_privileges_the_mode_is_reduced() {
    lodger_only!("doctor");
    let fixture = Fixture::new();
    let inner = fixture.command(&["doctor", "--json"]);
    let mut command = Command::new("setpriv");
    command
        .arg("--no-new-privs")
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = inner.get_current_dir() {
        command.current_dir(directory);
    }
    let ran = spawn(&mut command, b"").wait();
    assert_eq!(ran.code, 1, "{}", ran.err);
    let told = document(ran);
    assert_eq!(told["mode"], "reduced");
    assert!(codes(&told).contains("LDG-HELPER-NNP"), "{told:#}");
    assert_eq!(told["trials"]["single_id"], "works");
    assert!(
        told["trials"]["outer"]["failed"]["message"]
            .as_str()
            .unwrap()
            .contains("newuidmap")
    );
}

/// Where nobody reads, it ends like any other; where it is killed, its children go with it.
#[test]
fn a_doctor_that_is_killed_leaves_no_process() {
    lodger_only!("doctor");
    let fixture = Fixture::new();
    let mut command = fixture.command(&["doctor"]);
    command.process_group(0);
    let running = spawn(&mut command, b"");
    let group = running.pid().to_string();
    running.signal("KILL");
    running.wait();
    crate::harness::wait_for("the children to be gone", || {
        let listed = Command::new("ps")
            .args(["-e", "-o", "pgid="])
            .output()
            .ok()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let some_left = listed.lines().any(|line| line.trim() == group);
        (!some_left).then_some(())
    });
}
