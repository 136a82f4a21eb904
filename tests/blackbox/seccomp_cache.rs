//! Compiled filters are kept in the state directory, and never trusted blindly.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::libc;

use crate::harness::{Fixture, Ran, lodger_only, skip, spawn};
use crate::seccomp::{debug, filtered};
use crate::seccomp_profile::long_profile;
use crate::tracing::{Fate, run_injected, trace, works};

const FOUND: &str = "the seccomp filter was compiled before";

/// A container with a long filter that is told that it may not use keyrings.
fn fixture() -> Fixture {
    let mut fixture = filtered(long_profile());
    fixture.args(&["/agent", "call", &libc::SYS_keyctl.to_string()]);
    fixture.write_config();
    fixture
}

/// Runs it with the debug log. The filter must be there, wherever it came from.
#[track_caller]
fn run(fixture: &Fixture) -> Ran {
    let ran = spawn(&mut debug(fixture, &["run", "c"]), b"")
        .wait()
        .exits(0);
    assert_eq!(ran.out, "errno 1\n", "{ran:#?}");
    ran
}

#[track_caller]
fn assert_found(fixture: &Fixture, expected: bool) {
    let ran = run(fixture);
    assert_eq!(ran.err.contains(FOUND), expected, "{ran:#?}");
}

fn directory(fixture: &Fixture) -> PathBuf {
    fixture.path("state/.seccomp")
}

fn files(fixture: &Fixture) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory(fixture)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_filter_is_compiled_once_for_each_profile() {
    lodger_only!("the cache of compiled filters");
    let mut fixture = fixture();
    assert_found(&fixture, false);
    assert_found(&fixture, true);
    // Another error, another filter.
    fixture.config["linux"]["seccomp"]["defaultErrnoRet"] = 5.into();
    fixture.write_config();
    let ran = spawn(&mut fixture.command(&["run", "c"]), b"").wait();
    assert_eq!(ran.ok(), "errno 5\n");
    assert_eq!(files(&fixture).len(), 2);
    for path in files(&fixture) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let mode = directory(&fixture).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // It is no container.
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
    fixture
        .bare(&["delete", "-f", ".seccomp"])
        .fails(1, "invalid container ID format");
}

#[test]
fn a_config_without_a_filter_makes_no_cache() {
    lodger_only!("the cache of compiled filters");
    let mut fixture = filtered(serde_json::Value::Null);
    fixture.args(&["/bin/true"]);
    fixture.run().ok();
    assert!(!directory(&fixture).exists());
}

#[test]
fn a_damaged_foreign_or_unreadable_filter_is_compiled_again() {
    lodger_only!("the cache of compiled filters");
    let fixture = fixture();
    assert_found(&fixture, false);
    let path = files(&fixture).remove(0);
    let whole = fs::read(&path).unwrap();
    // The last instruction but one would allow everything.
    let mut open = whole.clone();
    let last = open.len() - 8 - 8;
    open[last + 4..last + 8].copy_from_slice(&0x7fff_0000u32.to_ne_bytes());
    for content in [&open[..], &whole[..whole.len() / 2], b"", &[0; 4096]] {
        fs::write(&path, content).unwrap();
        assert_found(&fixture, false);
        assert_eq!(fs::read(&path).unwrap(), whole, "it was replaced");
    }
    assert_found(&fixture, true);
    let set = |path: &PathBuf, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for mode in [0o622, 0o606] {
        set(&path, mode);
        assert_found(&fixture, false);
    }
    set(&directory(&fixture), 0o777);
    assert_found(&fixture, false);
    set(&directory(&fixture), 0);
    run(&fixture);
    set(&directory(&fixture), 0o700);
    assert_found(&fixture, true);
    // Links and things that never end.
    fs::rename(&path, fixture.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(fixture.path("elsewhere"), &path).unwrap();
    assert_found(&fixture, false);
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_found(&fixture, false);
    assert_found(&fixture, true);
}

#[test]
fn a_runtime_that_is_killed_while_it_keeps_a_filter_leaves_none_that_is_not_whole() {
    lodger_only!("the cache of compiled filters");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let fixture = fixture();
    let scratch = tempfile::tempdir().unwrap();
    let command = || fixture.command(&["run", "c"]);
    let calls = trace(&command(), &scratch.path().join("trace"));
    let name = files(&fixture).remove(0);
    let name = name.file_name().unwrap().to_str().unwrap();
    let first = calls
        .iter()
        .position(|call| call.line.contains(name))
        .unwrap();
    let renamed =
        |call: &crate::tracing::Call| call.name.starts_with("rename") && call.line.contains(name);
    let last = calls.iter().position(renamed).unwrap();
    assert!(first + 2 <= last, "{first} {last}");
    for n in first..=last + 1 {
        fs::remove_dir_all(directory(&fixture)).unwrap();
        run_injected(&command(), scratch.path(), &calls, n, Fate::Kill);
        run(&fixture);
        assert_found(&fixture, true);
    }
}
