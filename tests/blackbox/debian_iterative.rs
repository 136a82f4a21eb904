//! Memory that is saved in several dumps, where the kernel keeps track of what is written.

use std::fs;
use std::path::Path;

use crate::checkpoint_kills::{Process, assert_free, descendants, is_criu, until_met};
use crate::checkpoint_lab::{Answer, Lab, checkpoints_or_skip};
use crate::harness::{Ran, lives, send_signal, spawn, wait_for};
use crate::kills::processes_with;
use crate::tracing::signal_if_there;

/// A container with 32 MiB, some of which is written whenever it is used.
fn started() -> Lab {
    let lab = Lab::with(&["written", "threads"]);
    lab.start();
    lab
}

/// `checkpoint` of `c` into the directory `images`.
fn dump(lab: &Lab, options: &[&str], images: &str) -> Ran {
    let images = lab.word(images);
    lab.lodger(&[&["checkpoint", "--image-path", &images], options, &["c"]].concat())
}

fn restore(lab: &Lab, images: &str) -> Ran {
    lab.lodger(&["restore", "-d", "--image-path", &lab.word(images), "c"])
}

/// Writes some more; what there is then.
#[track_caller]
fn written(lab: &Lab, times: u64) -> Answer {
    lab.consume("c", &[("written", &times.to_string())]);
    let now = lab.look("c");
    assert_eq!(now.get("written.wrong"), "0");
    now
}

/// How much memory is in the images of this directory, in bytes; what is in those before it does not count.
fn memory(images: &Path) -> u64 {
    let entries = fs::read_dir(images).unwrap().flatten();
    let pages = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with("pages-"));
    pages.map(|entry| entry.metadata().unwrap().len()).sum()
}

const ALL: u64 = 32 << 20;

/// More than what is written between two dumps: four megabytes, and of huge pages, which are written as a whole, up to twice as much.
const MOST: u64 = ALL / 2;

/// A byte of it.
const MIDDLE: usize = 16 << 20;

/// Twice: after a restore the kernel keeps track of nothing.
#[test]
fn memory_is_saved_while_the_program_runs() {
    checkpoints_or_skip!();
    let lab = started();
    for times in [0, 2] {
        dump(&lab, &["--pre-dump"], "first").ok();
        assert_eq!(lab.fixture.status("c"), "running");
        written(&lab, times + 1);
        dump(&lab, &["--pre-dump", "--parent-path", "../first"], "second").ok();
        let before = written(&lab, times + 2);
        dump(&lab, &["--parent-path", "../second"], "ck").ok();
        assert_eq!(lab.ids(), [""; 0]);
        let sizes = ["first", "second", "ck"].map(|name| memory(&lab.fixture.path(name)));
        assert!(
            sizes[0] > ALL && sizes[1] < MOST && sizes[2] < MOST,
            "{sizes:?}"
        );
        // It is whole by itself.
        for name in ["first", "second"] {
            fs::remove_dir_all(lab.fixture.path(name)).unwrap();
        }
        restore(&lab, "ck").ok();
        let after = lab.look("c");
        after.goes_on_from(&before);
        assert_eq!(after.get("written.wrong"), "0");
        fs::remove_dir_all(lab.fixture.path("ck")).unwrap();
    }
}

/// Each checkpoint is of its moment.
#[test]
fn checkpoints_of_one_that_goes_on_are_since_one_another() {
    checkpoints_or_skip!();
    let lab = started();
    dump(&lab, &["--pre-dump"], "memory").ok();
    let mut before = Vec::new();
    for (n, parent, images) in [(1, "../memory", "ck1"), (2, "../ck1", "ck2")] {
        before.push((written(&lab, n), images));
        dump(&lab, &["--leave-running", "--parent-path", parent], images).ok();
        assert!(memory(&lab.fixture.path(images)) < MOST);
    }
    // One that has all of it changes nothing of that.
    dump(&lab, &["--leave-running"], "whole").ok();
    before.push((written(&lab, 3), "ck3"));
    dump(&lab, &["--parent-path", "../ck2"], "ck3").ok();
    for (before, images) in before {
        restore(&lab, images).ok();
        lab.look("c").goes_on_from(&before);
        lab.fixture.bare(&["delete", "-f", "c"]).ok();
    }
}

/// What is since another dump than the kernel keeps track of would be memory that never was.
#[test]
fn only_the_latest_dump_is_one_to_go_on_from() {
    checkpoints_or_skip!();
    let lab = started();
    let refused = |options: &[&str], why: &str| {
        let ran = dump(&lab, options, "ck").fails(1, why);
        assert!(!lab.fixture.path("ck").exists(), "{ran:#?}");
        assert_eq!(lab.look("c").get("written.wrong"), "0");
    };
    refused(&["--parent-path", "../none"], "No such file or directory");
    dump(&lab, &["--leave-running"], "whole").ok();
    refused(&["--parent-path", "../whole"], "not the latest one");
    for name in ["first", "second"] {
        dump(&lab, &["--pre-dump"], name).ok();
    }
    refused(&["--parent-path", "../first"], "not the latest one");
    dump(&lab, &["--parent-path", "."], "second").fails(1, "the directory of the images itself");
    dump(&lab, &["--auto-dedup", "--parent-path", "../second"], "ck").fails(1, "--auto-dedup");
    restore(&lab, "second").fails(1, "it has memory alone");
    // Another one, of which that is none.
    lab.fixture.bare(&["delete", "-f", "c"]).ok();
    lab.start();
    refused(&["--parent-path", "../second"], "another container's dump");
    dump(&lab, &["--pre-dump"], "second").ok();
    let pages = fs::read_dir(lab.fixture.path("second")).unwrap().flatten();
    let pages = pages.map(|entry| entry.path());
    let pages = pages.filter(|path| path.to_str().unwrap().contains("/pages-"));
    let largest = pages
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut content = fs::read(&largest).unwrap();
    content[MIDDLE] ^= 1;
    fs::write(&largest, &content).unwrap();
    refused(&["--parent-path", "../second"], "has another content");
    content[MIDDLE] ^= 1;
    fs::write(&largest, content).unwrap();
    dump(&lab, &["--parent-path", "../second"], "ck").ok();
    // Its file is that of the checkpoint, too, which tells.
    fs::write(&largest, "").unwrap();
    restore(&lab, "ck").fails(1, "in \"parent\"");
}

/// Whoever was killed on the way, the container goes on, and what was saved before is not taken for what is since.
#[test]
fn after_a_dump_that_was_killed_nothing_is_since_an_earlier_one() {
    checkpoints_or_skip!();
    let lab = started();
    dump(&lab, &["--pre-dump"], "first").ok();
    let before = lab.look("c");
    let images = lab.word("second");
    let args = ["checkpoint", "--pre-dump", "--image-path", &images, "c"];
    let killed = spawn(&mut lab.command(&args), b"");
    let log = lab.fixture.path("second/.new/dump.log");
    // It may be done before that is seen; then the earlier one is as useless.
    wait_for("CRIU to begin", || {
        (log.exists() || !lives(killed.pid())).then_some(())
    });
    if lives(killed.pid()) {
        send_signal(killed.pid(), "KILL");
    }
    killed.wait();
    wait_for("all to end who work on it", || {
        processes_with(&images).is_empty().then_some(())
    });
    lab.look("c").goes_on_from(&before);
    dump(&lab, &["--parent-path", "../first"], "ck").fails(1, "not the latest one");
    dump(&lab, &["--pre-dump"], "second").ok();
    let before = written(&lab, 1);
    dump(&lab, &["--parent-path", "../second"], "ck").ok();
    restore(&lab, "ck").ok();
    lab.look("c").goes_on_from(&before);
}

/// The pids of a CRIU, and of one that is its child.
fn with_child(of: u32) -> Option<[u32; 2]> {
    let workers = descendants(of);
    let all: Vec<&Process> = workers.iter().filter(|p| is_criu(p)).collect();
    let child = all
        .iter()
        .find(|child| all.iter().any(|one| one.pid == child.parent));
    child.map(|child| [child.parent, child.pid])
}

/// Begins to save memory, and kills CRIU once it has a child, which got another signal before: how that ended, if it was met.
fn killed(lab: &Lab, options: &[&str], before: Option<&str>) -> Option<(Ran, u32)> {
    let images = lab.word("first");
    let begin = ["checkpoint", "--pre-dump", "--image-path", &images];
    let dump = spawn(&mut lab.command(&[&begin, options, &["c"]].concat()), b"");
    let mut found = None;
    while found.is_none() && lives(dump.pid()) {
        found = with_child(dump.pid());
    }
    let [criu, child] = found?;
    if let Some(signal) = before {
        signal_if_there(child, signal);
    }
    signal_if_there(criu, "KILL");
    let ran = dump.wait();
    (ran.code != 0).then_some((ran, child))
}

/// CRIU saves memory in a child of its own, which holds the container: without CRIU it ends in order.
#[test]
fn criu_is_killed_while_its_child_saves_memory() {
    checkpoints_or_skip!();
    let lab = started();
    let before = lab.look("c");
    let (ran, child) = until_met(|| killed(&lab, &[], None)).expect("CRIU was never met");
    assert!(ran.err.contains("is still running"), "{ran:#?}");
    assert!(!lives(child));
    assert_free(&lab);
    lab.look("c").goes_on_from(&before);
    assert!(!lab.fixture.path("first/lodger.json").exists());
    dump(&lab, &["--pre-dump"], "first").ok();
    dump(&lab, &["--parent-path", "../first"], "ck").ok();
    restore(&lab, "ck").ok();
    lab.look("c").goes_on_from(&before);
}

/// One that stands still does not stay behind; what it had its code in is lost with it, as with CRIU itself.
#[test]
fn a_child_of_criu_that_stands_still_is_ended() {
    checkpoints_or_skip!();
    let lab = started();
    let stopped = until_met(|| killed(&lab, &["--timeout", "2s"], Some("STOP")));
    let (ran, child) = stopped.expect("CRIU was never met");
    assert!(!lives(child), "{ran:#?}");
}
