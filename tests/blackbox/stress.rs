//! Many at a time: ids that differ, one id that all want, starts and deletes that race.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::harness::{Fixture, Ran, lodger_only, runtime_binary, spawn};

const AT_A_TIME: usize = 16;

/// What a thread needs to call the runtime.
struct Caller {
    state: PathBuf,
    bundle: PathBuf,
}

impl Caller {
    fn of(fixture: &Fixture) -> Caller {
        Caller {
            state: fixture.path("state"),
            bundle: fixture.bundle(),
        }
    }

    fn call(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(runtime_binary());
        command
            .arg("--root")
            .arg(&self.state)
            .args(args)
            .current_dir(&self.bundle);
        spawn(&mut command, b"").wait()
    }

    /// Creates a container, starts it, sees it run, and deletes it.
    fn life(&self, id: &str) {
        self.call(&["create", id]).ok();
        self.call(&["start", id]).ok();
        let state = self.call(&["state", id]).ok();
        assert!(state.contains("\"running\""), "{state}");
        self.call(&["delete", "-f", id]).ok();
    }

    /// No state, no process of the runtime or of a container, no mount.
    #[track_caller]
    fn assert_nothing_left(&self, word: &str) {
        let left: Vec<_> = fs::read_dir(&self.state).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        let state = self.state.to_str().unwrap();
        crate::harness::wait_for("all processes to end", || {
            let named = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                line.contains(state) || line.contains(word)
            });
            (!named).then_some(())
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.bundle.to_str().unwrap()), "{mounts}");
    }
}

/// A fixture whose program sleeps for a number of seconds that no other program does.
fn sleeper() -> (Fixture, String) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let word = format!("5{:07}{number:02}", std::process::id());
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", &word]);
    fixture.write_config();
    (fixture, word)
}

#[test]
fn a_thousand_containers_sixteen_at_a_time() {
    lodger_only!("what is left of many containers");
    const ROUNDS: usize = 63;
    let (fixture, word) = sleeper();
    let caller = Caller::of(&fixture);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..AT_A_TIME {
            let caller = &caller;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    caller.life(&format!("c{number}-{round}"));
                }
            });
        }
    });
    eprintln!("{} containers in {:?}", ROUNDS * AT_A_TIME, begin.elapsed());
    caller.assert_nothing_left(&word);
}

/// Everybody wants the same few ids: whoever gets one has it alone until she deletes it.
#[test]
fn an_id_that_all_want_has_one_winner() {
    lodger_only!("the words of the losers");
    const ROUNDS: usize = 63;
    const IDS: [&str; 4] = ["a", "b", "c", "d"];
    let (fixture, word) = sleeper();
    let caller = Caller::of(&fixture);
    let ids = IDS.map(|id| (id, AtomicUsize::new(0)));
    let begin = Instant::now();
    let attempts = |number: usize| {
        let wanted = (0..ROUNDS).map(|round| &ids[(number + round) % IDS.len()]);
        wanted
            .filter(|(id, owners)| wins(&caller, id, owners))
            .count()
    };
    let won: usize = std::thread::scope(|scope| {
        let attempts = &attempts;
        let threads: Vec<_> = (0..AT_A_TIME)
            .map(|number| scope.spawn(move || attempts(number)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    eprintln!(
        "{won} of {} won, in {:?}",
        ROUNDS * AT_A_TIME,
        begin.elapsed()
    );
    assert!(won >= IDS.len());
    assert!(won < ROUNDS * AT_A_TIME, "nobody was in anybody's way");
    caller.assert_nothing_left(&word);
}

/// Tries to create a container. Who wins has it alone until she deletes it.
fn wins(caller: &Caller, id: &str, owners: &AtomicUsize) -> bool {
    let created = caller.call(&["create", id]);
    if created.code != 0 {
        created.fails(1, "container with given ID already exists");
        return false;
    }
    assert_eq!(owners.fetch_add(1, Ordering::SeqCst), 0, "{id} twice");
    caller.call(&["start", id]).ok();
    let state = caller.call(&["state", id]).ok();
    assert!(state.contains("\"running\""), "{state}");
    owners.fetch_sub(1, Ordering::SeqCst);
    caller.call(&["delete", "-f", id]).ok();
    true
}

/// Runs the command `AT_A_TIME` times at once.
fn at_once(caller: &Caller, args: &[&str]) -> Vec<Ran> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_A_TIME)
            .map(|_| scope.spawn(|| caller.call(args)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

#[test]
fn starts_and_deletes_that_race_have_one_winner() {
    lodger_only!("the words of the losers");
    let (fixture, word) = sleeper();
    let caller = Caller::of(&fixture);
    for round in 0..12 {
        let created = at_once(&caller, &["create", "c"]);
        assert_eq!(
            created.iter().filter(|ran| ran.code == 0).count(),
            1,
            "{created:#?}"
        );
        for loser in created.into_iter().filter(|ran| ran.code != 0) {
            loser.fails(1, "container with given ID already exists");
        }
        let started = at_once(&caller, &["start", "c"]);
        assert_eq!(
            started.iter().filter(|ran| ran.code == 0).count(),
            1,
            "{started:#?}"
        );
        for loser in started.into_iter().filter(|ran| ran.code != 0) {
            loser.fails(1, "cannot start an already running container");
        }
        if round % 2 == 0 {
            for ran in at_once(&caller, &["delete", "-f", "c"]) {
                ran.ok();
            }
        } else {
            caller.call(&["kill", "c", "KILL"]).ok();
            fixture.wait_status("c", "stopped");
            let deleted = at_once(&caller, &["delete", "c"]);
            assert_eq!(
                deleted.iter().filter(|ran| ran.code == 0).count(),
                1,
                "{deleted:#?}"
            );
            for loser in deleted.into_iter().filter(|ran| ran.code != 0) {
                loser.fails(1, "container does not exist");
            }
        }
        caller.assert_nothing_left(&word);
    }
}

/// `delete -f` while `create` is at work, at once and again: neither leaves anything that the other does not know of.
#[test]
fn a_delete_in_the_middle_of_a_create_loses_nothing() {
    lodger_only!("what is left of many containers");
    let (fixture, word) = sleeper();
    let caller = Caller::of(&fixture);
    let runs = || {
        for _ in 0..40 {
            let ran = caller.call(&["run", "-d", "c"]);
            if ran.code != 0 {
                ran.fails(1, "container with given ID already exists");
            }
        }
    };
    let deletes = || {
        for _ in 0..40 {
            caller.call(&["delete", "-f", "c"]).ok();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(runs);
            scope.spawn(deletes);
        }
    });
    caller.call(&["delete", "-f", "c"]).ok();
    caller.assert_nothing_left(&word);
}
