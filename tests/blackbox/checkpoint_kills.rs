//! kill -9 at any moment of a checkpoint, of whoever works on it: afterwards the container lives, or the checkpoint is whole.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::checkpoint_lab::{Answer, Lab, checkpoints_or_skip};
use crate::harness::{LIMIT, Running, lives, spawn, wait_for};
use crate::kills::processes_with;
use crate::tracing::{process_state, signal_if_there};

/// At how many points of a dump each of them is killed.
const POINTS: u64 = 20;

/// At how many of these a process may be lost with CRIU though none of its code was seen there any more, or yet: between two looks.
const UNLUCKY: usize = 3;

/// Who is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Lodger,
    Supervisor,
    Criu,
}

/// A process: its pid, its parent and its name.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    name: String,
}

fn process(pid: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = text.rsplit_once(')')?;
    let (_, name) = name.split_once('(')?;
    let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
    let name = name.to_owned();
    Some(Process { pid, parent, name })
}

/// The descendants of a process, each after its parent.
pub(crate) fn descendants(of: u32) -> Vec<Process> {
    let all: Vec<Process> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?))
        .collect();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|process| process.parent == parent) {
            parents.push(child.pid);
            found.push(child.clone());
        }
    }
    found
}

/// Whether it is CRIU, which its own loader may have started.
pub(crate) fn is_criu(process: &Process) -> bool {
    process.name.starts_with("criu") || process.name.starts_with("ld-linux")
}

impl Victim {
    /// Who it is, of those who work on this checkpoint.
    fn pid(self, checkpoint: &Running, workers: &[Process]) -> Option<u32> {
        let criu = workers.iter().find(|process| is_criu(process));
        match self {
            Victim::Lodger => Some(checkpoint.pid()),
            Victim::Criu => criu.map(|process| process.pid),
            Victim::Supervisor => criu
                .map(|process| process.parent)
                .filter(|parent| *parent != checkpoint.pid()),
        }
    }
}

/// Where CRIU's log is while it works, and afterwards.
fn logs(lab: &Lab) -> [PathBuf; 2] {
    ["ck/.new/dump.log", "ck/dump.log"].map(|name| lab.fixture.path(name))
}

/// How far a dump is: the length of CRIU's log.
fn progress(lab: &Lab) -> u64 {
    let length = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    logs(lab).iter().map(length).max().unwrap()
}

/// Between two looks at how far a dump is. Whoever sleeps has the processor before those who compute, and does not take it from the
/// dump either.
pub(crate) const LOOK: Duration = Duration::from_micros(100);

/// What a kill met.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Met {
    /// All was done already.
    Nobody,
    /// The victim.
    Somebody,
    /// CRIU while it had code of its own in a process. Whoever is traced goes on with what the tracer has put there when that is killed
    /// (ptrace(2)), and nobody else can take it away: that process may be lost.
    Within,
}

/// Whether a process of the container whose first one is `init` has CRIU's code, which has this name there; or stands where CRIU
/// puts the few bytes that make a call for it, at the beginning of the first mapping that is executable.
fn has_code_of_criu(init: u32) -> bool {
    let inside = descendants(init).into_iter().map(|process| process.pid);
    inside.chain([init]).any(|pid| {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let first = maps.lines().find(|line| line.contains("xp "));
        let begin = first.and_then(|line| hexadecimal(line.split('-').next()?));
        let within = |at: u64| begin.is_some_and(|begin| (begin..begin + 64).contains(&at));
        maps.contains("CRIUMFD") || instructions(pid).into_iter().any(within)
    })
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

/// Where the threads of a process are that do not run (the last field of `/proc/PID/task/TID/syscall`, proc_pid_syscall(5)).
fn instructions(pid: u32) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let call = |task: fs::DirEntry| fs::read_to_string(task.path().join("syscall")).ok();
    let texts = tasks.flatten().filter_map(call);
    texts
        .filter_map(|text| hexadecimal(text.split_whitespace().next_back()?))
        .collect()
}

/// Kills the victim, if it has not ended between the look and this: nobody has reaped it but its parent.
fn kill(victim: Victim, pid: u32, init: u32) -> Met {
    let mut met = Met::Somebody;
    if matches!(victim, Victim::Criu) && signal_if_there(pid, "STOP") {
        wait_for("CRIU to stop", || {
            process_state(pid)
                .is_none_or(|state| "TtZX".contains(state))
                .then_some(())
        });
        if has_code_of_criu(init) {
            met = Met::Within;
        }
    }
    signal_if_there(pid, "KILL");
    met
}

/// Begins a checkpoint, kills the victim as soon as the log is this long, and waits until nobody works on it any more.
fn killed_at(lab: &Lab, victim: Victim, length: u64) -> Met {
    let init = lab.pid("c");
    let images = lab.word("ck");
    let mut command = lab.command(&["checkpoint", "--image-path", &images, "c"]);
    let checkpoint = spawn(&mut command, b"");
    let begin = Instant::now();
    let goes_on = || {
        assert!(
            begin.elapsed() < LIMIT,
            "{victim:?}: the dump does not get on"
        );
        lives(checkpoint.pid())
    };
    let await_length = |length: u64| {
        while progress(lab) < length && goes_on() {
            std::thread::sleep(LOOK);
        }
    };
    // Looked for before the moment comes, as that takes longer than a moment; but not before there is a log: lodger has asked a
    // CRIU for its version until then.
    await_length(length.min(1));
    let (mut pid, mut workers) = (None, Vec::new());
    while pid.is_none() && goes_on() {
        workers = descendants(checkpoint.pid());
        pid = victim.pid(&checkpoint, &workers);
    }
    await_length(length);
    let Some(pid) = pid.filter(|pid| lives(*pid)) else {
        checkpoint.wait().ok();
        return Met::Nobody;
    };
    let met = kill(victim, pid, init);
    checkpoint.wait();
    for worker in &workers {
        wait_for(&format!("{worker:?} to end"), || {
            (!lives(worker.pid)).then_some(())
        });
    }
    // Who came later: lodger's own have the directory among their arguments.
    wait_for("all to end who work on it", || {
        processes_with(&images).is_empty().then_some(())
    });
    met
}

/// No process of the container is stopped, traced or frozen.
#[track_caller]
pub(crate) fn assert_free(lab: &Lab) {
    let init = lab.pid("c");
    let mut pids = vec![init];
    pids.extend(descendants(init).iter().map(|process| process.pid));
    for pid in pids {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for task in tasks.flatten() {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            assert!(
                !status.contains("State:\tT") && !status.contains("State:\tt"),
                "{status}"
            );
            assert!(status.contains("TracerPid:\t0"), "{status}");
        }
    }
}

/// Asserts that the container lives, or else restores it: one of the two must be possible.
#[track_caller]
fn assert_lives_or_whole(lab: &Lab, before: &Answer, what: &str) -> &'static str {
    let came = if lab.look_if_it_lives().is_some() {
        "lives"
    } else {
        let manifest = lab.fixture.path("ck/lodger.json");
        assert!(
            manifest.exists(),
            "{what}: neither a container nor a checkpoint"
        );
        let removed = lab.fixture.bare(&["delete", "-f", "c"]);
        assert!(removed.code == 0, "{what}: {removed:#?}");
        lab.restore(&["-d"], "c").ok();
        "is whole"
    };
    assert_free(lab);
    lab.look("c").goes_on_from(before);
    came
}

/// Whether a process of the container was lost with CRIU, before there was a whole checkpoint.
fn is_lost(lab: &Lab, before: &Answer) -> bool {
    match catch_unwind(AssertUnwindSafe(|| lab.look_if_it_lives())) {
        Ok(Some(now)) => !now.has_kept(before),
        Ok(None) => !lab.fixture.path("ck/lodger.json").exists(),
        // It is there, and does not answer.
        Err(_) => true,
    }
}

/// What CRIU or lodger would have left in the directory for temporary files of everybody.
fn leftovers() -> Vec<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let owned = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        path.symlink_metadata()
            .is_ok_and(|metadata| metadata.uid() == uid)
    };
    let named = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap_or_default();
        ["criu", ".criu", "crtools", "cr-", "lodger-checkpoint"]
            .iter()
            .any(|word| name.starts_with(word))
    };
    let entries = fs::read_dir("/tmp").unwrap().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| owned(path) && named(path))
        .collect()
}

/// Tries to come in a certain moment until there is somebody to meet. Where other programs have the processors, the moment is over at
/// most looks.
pub(crate) fn until_met<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    (0..8).find_map(|_| attempt())
}

/// A container that is checkpointed again and again, and another when it is lost.
struct Patient {
    lab: Lab,
    before: Answer,
    /// What was lost with CRIU though it had no code in there.
    unlucky: Vec<String>,
}

impl Patient {
    fn new() -> Patient {
        let lab = Lab::with(&["shared", "threads", "memfd", "unix", "sysv", "tree"]);
        lab.start();
        let before = lab.look("c");
        Patient {
            lab,
            before,
            unlucky: Vec::new(),
        }
    }

    /// Kills the victim when the log of a checkpoint is this long; what came of the container, if there was somebody to kill.
    fn survives(&mut self, victim: Victim, length: u64) -> Option<(&'static str, Met)> {
        let lab = &self.lab;
        fs::remove_dir_all(lab.fixture.path("ck")).unwrap_or_default();
        let met = killed_at(lab, victim, length);
        let what = format!("{victim:?} at {length}, met: {met:?}");
        let somebody = met != Met::Nobody;
        if somebody && matches!(victim, Victim::Criu) && is_lost(lab, &self.before) {
            eprintln!("lost a process: {what}");
            let another = Patient::new();
            (self.lab, self.before) = (another.lab, another.before);
            if met == Met::Somebody {
                self.unlucky.push(what);
            }
            return Some(("is lost", met));
        }
        let how = assert_lives_or_whole(lab, &self.before, &what);
        self.before = lab.look("c");
        somebody.then_some((how, met))
    }
}

fn at_every_point(victim: Victim) {
    let mut patient = Patient::new();
    let leftover = leftovers();
    patient.lab.checkpoint(&["--leave-running"]).ok();
    let whole = progress(&patient.lab);
    assert!(whole > 10_000, "{whole}");
    let came: Vec<Option<(&str, Met)>> = (0..POINTS)
        .map(|point| until_met(|| patient.survives(victim, whole * point / POINTS)))
        .collect();
    eprintln!("{victim:?}: {came:?}");
    let Patient { lab, unlucky, .. } = patient;
    assert!(unlucky.len() <= UNLUCKY, "{unlucky:?}");
    // Were it never met, nothing would be shown.
    let told = came.iter().flatten().filter(|(how, _)| *how != "is lost");
    assert!(
        told.count() * 2 > usize::try_from(POINTS).unwrap(),
        "{came:?}"
    );
    // What was left is in nobody's way.
    lab.survives(&[]);
    assert!(!lab.fixture.path("ck/.new").exists());
    assert_eq!(leftovers(), leftover);
    lab.consume("c", &[("shared.child", "goes on"), ("unix.forth", "forth")]);
}

#[test]
fn lodger_is_killed_at_any_point() {
    checkpoints_or_skip!();
    at_every_point(Victim::Lodger);
}

#[test]
fn the_supervisor_is_killed_at_any_point() {
    checkpoints_or_skip!();
    at_every_point(Victim::Supervisor);
}

#[test]
fn criu_is_killed_at_any_point() {
    checkpoints_or_skip!();
    at_every_point(Victim::Criu);
}
