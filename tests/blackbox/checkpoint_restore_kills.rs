//! kill -9 at any moment of a restore, of whoever works on it, and signals that ask lodger to end: afterwards the container runs, or
//! nothing of it does, and the images are as they were.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::checkpoint_kills::{LOOK, Process, assert_free, descendants, is_criu, until_met};
use crate::checkpoint_lab::{Answer, Lab, checkpoints_or_skip};
use crate::harness::{LIMIT, Ran, Running, lives, send_signal, spawn, wait_for};
use crate::kills::{processes_with, state_entries};
use crate::tracing::signal_if_there;

/// At how many points of a restore each of them is killed.
const POINTS: u64 = 20;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Lodger,
    /// The process that becomes CRIU.
    Criu,
    /// Who ends the container if lodger is killed.
    Guard,
}

impl Victim {
    fn pid(self, restore: u32, workers: &[Process]) -> Option<u32> {
        let children = workers.iter().filter(|p| p.parent == restore);
        let mut ordered: Vec<&Process> = children.collect();
        ordered.sort_by_key(|process| process.pid);
        let criu = ordered.iter().position(|process| is_criu(process));
        let place = match (self, criu) {
            (Victim::Lodger, _) => return Some(restore),
            (_, None) => return None,
            (Victim::Criu, Some(criu)) => Some(criu),
            (Victim::Guard, Some(criu)) => criu.checked_sub(1),
        };
        place
            .and_then(|n| ordered.get(n))
            .map(|process| process.pid)
    }
}

/// A checkpoint of a container that is gone.
struct Kept {
    lab: Lab,
    before: Answer,
    images: BTreeMap<String, Vec<u8>>,
    /// How long the log of a whole restore is.
    whole: u64,
}

impl Kept {
    fn new() -> Kept {
        let lab = Lab::with(&["shared", "threads", "memfd", "unix", "tree"]);
        lab.start();
        let before = lab.look("c");
        lab.checkpoint(&[]).ok();
        let images = images(&lab);
        let mut kept = Kept {
            lab,
            before,
            images,
            whole: 0,
        };
        kept.restores_again();
        kept.whole = kept.progress();
        assert!(kept.whole > 10_000, "{}", kept.whole);
        kept
    }

    fn progress(&self) -> u64 {
        let log = self.lab.fixture.path("ck/restore.log");
        fs::metadata(log).map_or(0, |metadata| metadata.len())
    }

    /// Begins one, and waits until its log is this long.
    fn begin(&self, options: &[&str], length: u64) -> Running {
        let log = self.lab.fixture.path("ck/restore.log");
        fs::remove_file(log).unwrap_or_default();
        let images = self.lab.word("ck");
        let args = [&["restore", "--image-path", &images], options, &["c"]].concat();
        let restore = spawn(&mut self.lab.command(&args), b"");
        let begin = std::time::Instant::now();
        while self.progress() < length && lives(restore.pid()) {
            assert!(begin.elapsed() < LIMIT, "the restore does not get on");
            std::thread::sleep(LOOK);
        }
        restore
    }

    /// Asserts that the container runs and all works, or that nothing of it is left once it is deleted; whether it runs.
    #[track_caller]
    fn runs_or_is_gone(&self, what: &str) -> bool {
        let lab = &self.lab;
        // The guard, and who becomes CRIU, have lodger's arguments; it may be about to end until they have.
        let word = lab.word("ck");
        wait_for("all to end who work on it", || {
            let works = any_process(|process| works_in(process, &lab.fixture.path("ck")));
            (!works && processes_with(&word).is_empty()).then_some(())
        });
        let state = lab.fixture.bare(&["state", "c"]);
        let runs = state.code == 0 && state.out.contains("\"running\"");
        if runs {
            assert_free(lab);
            lab.look("c").goes_on_from(&self.before);
            lab.lodger(&["exec", "c", "/bin/true"]).ok();
        } else {
            wait_for("all to end", || (!has_processes(lab)).then_some(()));
        }
        if state.code == 0 {
            lab.fixture.bare(&["delete", "-f", "c"]).ok();
        } else {
            // What is left of a lodger that was killed is no container, and in nobody's way.
            let _ = lab.fixture.bare(&["delete", "-f", "c"]);
        }
        assert_eq!(state_entries(&lab.fixture), 0, "{what}");
        wait_for("all to end", || (!has_processes(lab)).then_some(()));
        assert!(images(lab) == self.images, "{what}: images have changed");
        runs
    }

    #[track_caller]
    fn restores_again(&self) {
        self.lab.restore(&["-d"], "c").ok();
        self.lab.look("c").goes_on_from(&self.before);
        self.lab.fixture.bare(&["delete", "-f", "c"]).ok();
    }
}

/// What is restored from: all but logs and statistics.
fn images(lab: &Lab) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(lab.fixture.path("ck")).unwrap();
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| !name.ends_with(".log") && !name.starts_with("stats-"))
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect()
}

/// Whether a process has a file of this directory open.
fn works_in(process: &Path, directory: &Path) -> bool {
    let files = fs::read_dir(process.join("fd")).into_iter().flatten();
    let mut targets = files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| target.starts_with(directory))
}

/// Whether a process runs the program of this container, or works on its images.
fn has_processes(lab: &Lab) -> bool {
    let program = fs::metadata(lab.fixture.rootfs().join("patient")).unwrap();
    let images = lab.fixture.path("ck");
    any_process(|process| {
        let exe = fs::metadata(process.join("exe"));
        let runs = exe.is_ok_and(|exe| (exe.dev(), exe.ino()) == (program.dev(), program.ino()));
        runs || works_in(process, &images)
    })
}

/// Whether there is such a process (its directory in /proc) beside this one.
fn any_process(is_one: impl Fn(&Path) -> bool) -> bool {
    let own = std::process::id();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| {
            let pid = entry.file_name().to_str().and_then(|n| n.parse().ok());
            pid.is_some_and(|pid: u32| pid != own)
        })
        .any(|entry| is_one(&entry.path()))
}

/// Kills the victim when the log of a restore is this long, and asserts what holds whenever it was: whether the container runs, if there
/// was somebody to kill.
fn killed_at(kept: &Kept, victim: Victim, length: u64) -> Option<bool> {
    let restore = kept.begin(&["-d"], length);
    let mut target = None;
    while target.is_none() && lives(restore.pid()) {
        target = victim.pid(restore.pid(), &descendants(restore.pid()));
    }
    let target = target.filter(|pid| lives(*pid));
    if let Some(pid) = target {
        signal_if_there(pid, "KILL");
    }
    let ran = restore.wait();
    if let Some(pid) = target {
        wait_for("the victim to end", || (!lives(pid)).then_some(()));
    }
    let what = format!("{victim:?} at {length} of {}: {ran:#?}", kept.whole);
    let runs = kept.runs_or_is_gone(&what);
    match (victim, ran.code) {
        // Nobody is left who would tell.
        (Victim::Lodger, _) => {}
        (_, code) => assert_eq!(code == 0, runs, "{what}"),
    }
    kept.restores_again();
    target.map(|_| runs)
}

fn at_every_point(victim: Victim) {
    let kept = Kept::new();
    let came: Vec<Option<bool>> = (0..POINTS)
        .map(|point| until_met(|| killed_at(&kept, victim, kept.whole * point / POINTS)))
        .collect();
    assert!(
        came.iter().flatten().count() * 2 > usize::try_from(POINTS).unwrap(),
        "{victim:?}: {came:?}"
    );
}

#[test]
fn lodger_is_killed_at_any_point() {
    checkpoints_or_skip!();
    at_every_point(Victim::Lodger);
}

#[test]
fn criu_is_killed_at_any_point() {
    checkpoints_or_skip!();
    at_every_point(Victim::Criu);
}

#[test]
fn the_guard_is_killed_at_any_point() {
    checkpoints_or_skip!();
    at_every_point(Victim::Guard);
}

#[test]
fn a_container_ends_with_the_restore_in_the_foreground() {
    checkpoints_or_skip!();
    let kept = Kept::new();
    let restore = kept.begin(&[], 1);
    kept.lab.fixture.wait_status("c", "running");
    kept.lab.look("c").goes_on_from(&kept.before);
    restore.signal("KILL");
    restore.wait().exits(128 + 9);
    assert!(!kept.runs_or_is_gone("killed in the foreground"));
    kept.restores_again();
}

const ENDING: [&str; 3] = ["TERM", "INT", "HUP"];

/// Asks lodger to end when the log of a restore is this long: whoever does gets one error, and nothing has happened. Whether that was so;
/// she may have come too early, when it ends as any program, or too late.
fn given_up_at(kept: &Kept, length: u64, signal: &str) -> Option<()> {
    let restore = kept.begin(&["-d"], length);
    if lives(restore.pid()) {
        send_signal(restore.pid(), signal);
    }
    let ran = restore.wait();
    let what = format!("{length}: {ran:#?}");
    let begun = kept.progress() > 0;
    let (expected, met) = match ran.code {
        0 => (true, None),
        // Before it has begun, or when all is done.
        129 | 130 | 143 => (begun, None),
        _ => {
            let ran = ran.fails(1, "given up");
            assert!(ran.err.contains("has come"), "{ran:#?}");
            assert_eq!(state_entries(&kept.lab.fixture), 0, "{what}");
            (false, Some(()))
        }
    };
    assert_eq!(kept.runs_or_is_gone(&what), expected, "{what}");
    met
}

#[test]
fn a_restore_that_is_asked_to_end() {
    checkpoints_or_skip!();
    let kept = Kept::new();
    let signals = ENDING.into_iter().cycle();
    let given_up = (1..9)
        .zip(signals)
        .filter_map(|(n, signal)| until_met(|| given_up_at(&kept, kept.whole * n / 10, signal)))
        .count();
    assert!(given_up > 4, "{given_up}");
    // Before it has begun.
    given_up_at(&kept, 0, "TERM");
    kept.restores_again();
}

fn dump_progress(lab: &Lab) -> u64 {
    let lengths = ["ck/.new/dump.log", "ck/dump.log"]
        .map(|name| fs::metadata(lab.fixture.path(name)).map_or(0, |metadata| metadata.len()));
    lengths.into_iter().max().unwrap()
}

fn asked_at(lab: &Lab, length: u64, signal: &str, everybody: bool) -> Ran {
    fs::remove_dir_all(lab.fixture.path("ck")).unwrap_or_default();
    let images = lab.word("ck");
    let args = [
        "checkpoint",
        "--leave-running",
        "--image-path",
        &images,
        "c",
    ];
    let checkpoint = spawn(&mut lab.command(&args), b"");
    let begin = std::time::Instant::now();
    while dump_progress(lab) < length && lives(checkpoint.pid()) {
        assert!(begin.elapsed() < LIMIT, "the dump does not get on");
        std::thread::sleep(LOOK);
    }
    // Until it is in the middle, the signal may end it, as any program.
    if everybody {
        for worker in descendants(checkpoint.pid()) {
            signal_if_there(worker.pid, signal);
        }
    }
    signal_if_there(checkpoint.pid(), signal);
    checkpoint.wait()
}

/// Asks for the end of a checkpoint, as [`given_up_at`] does.
fn checkpoint_given_up_at(
    lab: &Lab,
    before: &Answer,
    length: u64,
    ask: (&str, bool),
) -> Option<()> {
    let ran = asked_at(lab, length, ask.0, ask.1);
    let images = lab.fixture.path("ck");
    assert!(!images.join(".new").exists(), "{length}: {ran:#?}");
    let met = (ran.code == 1).then_some(());
    if met.is_some() {
        let ran = ran.fails(1, "given up");
        for word in ["has come", "is still running"] {
            assert!(ran.err.contains(word), "{length}: {ran:#?}");
        }
        assert!(!images.join("lodger.json").exists(), "{length}");
    } else {
        assert!(images.join("lodger.json").exists(), "{length}: {ran:#?}");
    }
    assert_free(lab);
    lab.look("c").goes_on_from(before);
    met
}

/// As [`a_restore_that_is_asked_to_end`]; a service manager asks CRIU, too.
#[test]
fn a_checkpoint_that_is_asked_to_end() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["shared", "threads", "memfd", "unix", "tree"]);
    lab.start();
    let before = lab.look("c");
    lab.checkpoint(&["--leave-running"]).ok();
    let whole = dump_progress(&lab);
    for everybody in [false, true] {
        let given_up = (0..9)
            .zip(ENDING.into_iter().cycle())
            .filter_map(|(n, signal)| {
                let length = (whole * n / 10).max(1);
                until_met(|| checkpoint_given_up_at(&lab, &before, length, (signal, everybody)))
            })
            .count();
        assert!(given_up > 4, "{everybody}: {given_up}");
    }
    lab.survives(&[]);
}
