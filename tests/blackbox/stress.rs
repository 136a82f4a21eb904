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
                    let id = &*format!("c{number}-{round}");
                    caller.call(&["create", id]).ok();
                    caller.call(&["start", id]).ok();
                    if round % 16 == 0 {
                        let state = caller.call(&["state", id]).ok();
                        assert!(state.contains("\"running\""), "{state}");
                    }
                    caller.call(&["delete", "-f", id]).ok();
                }
            });
        }
    });
    eprintln!("{} containers in {:?}", ROUNDS * AT_A_TIME, begin.elapsed());
    assert!(begin.elapsed().as_secs() < 240, "{:?}", begin.elapsed());
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
    let owners: [AtomicUsize; 4] = Default::default();
    let (won, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..AT_A_TIME {
            let (caller, owners, won, lost) = (&caller, &owners, &won, &lost);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let which = (number + round) % IDS.len();
                    let id = IDS[which];
                    let created = caller.call(&["create", id]);
                    if created.code != 0 {
                        created.fails(1, "container with given ID already exists");
                        lost.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    assert_eq!(
                        owners[which].fetch_add(1, Ordering::SeqCst),
                        0,
                        "{id} twice"
                    );
                    won.fetch_add(1, Ordering::Relaxed);
                    caller.call(&["start", id]).ok();
                    let state = caller.call(&["state", id]).ok();
                    assert!(state.contains("\"running\""), "{state}");
                    owners[which].fetch_sub(1, Ordering::SeqCst);
                    caller.call(&["delete", "-f", id]).ok();
                }
            });
        }
    });
    eprintln!("{won:?} won, {lost:?} lost, in {:?}", begin.elapsed());
    assert_eq!(
        won.load(Ordering::Relaxed) + lost.load(Ordering::Relaxed),
        ROUNDS * AT_A_TIME
    );
    assert!(won.load(Ordering::Relaxed) >= IDS.len());
    assert!(
        lost.load(Ordering::Relaxed) > 0,
        "nobody was in anybody's way"
    );
    caller.assert_nothing_left(&word);
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
    std::thread::scope(|scope| {
        for number in 0..8 {
            let caller = &caller;
            scope.spawn(move || {
                for _ in 0..40 {
                    if number % 2 == 0 {
                        let ran = caller.call(&["run", "-d", "c"]);
                        if ran.code != 0 {
                            ran.fails(1, "container with given ID already exists");
                        }
                    } else {
                        caller.call(&["delete", "-f", "c"]).ok();
                    }
                }
            });
        }
    });
    caller.call(&["delete", "-f", "c"]).ok();
    caller.assert_nothing_left(&word);
}
