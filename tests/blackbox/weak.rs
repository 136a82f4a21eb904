//! Attacks, each seen failing and succeeding: against the release it must be held, and against a build with the
//! defence switched off (src/sys/defence.rs) it must succeed. A test of a defence that nothing depends on fails here.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;

/// What came of an attack, and how that was seen.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The host, the runtime and the other processes are as they were, and the attacker has nothing.
    Held(String),
    /// The attacker got what she wanted.
    Succeeded(String),
}

use Outcome::{Held, Succeeded};

impl Outcome {
    /// Success if there is evidence of it.
    pub(crate) fn of(evidence: Option<String>, otherwise: impl Into<String>) -> Outcome {
        evidence.map_or_else(|| Held(otherwise.into()), Succeeded)
    }
}

thread_local! {
    static OFF: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The defences that are off for the commands of this thread.
pub(crate) fn off() -> Option<String> {
    OFF.with_borrow(Clone::clone)
}

/// Runs `body` with these defences off.
pub(crate) fn without<T>(defences: &[&str], body: impl FnOnce() -> T) -> T {
    /// Ends it also when the body panics.
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            OFF.set(None);
        }
    }
    OFF.set(Some(defences.join(",")));
    let _restore = Restore;
    body()
}

/// The build with switchable defences.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("LODGER_WEAK_BIN")
        .map(PathBuf::from)
        .expect("LODGER_WEAK_BIN: run the tests with tests/run")
}

/// Gives a command of this thread the switches.
pub(crate) fn apply(command: &mut Command) {
    if let Some(off) = off() {
        command.env("LODGER_DEFENCES_OFF", off);
    }
}

/// Asserts that the attack is held, and that it succeeds without `defences`.
#[track_caller]
#[expect(clippy::print_stdout, reason = "the test runner keeps it")]
pub(crate) fn held_by(defences: &[&str], attack: impl Fn() -> Outcome) {
    let how = match attack() {
        Held(how) => how,
        Succeeded(evidence) => panic!("the attack succeeded: {evidence}"),
    };
    match without(defences, &attack) {
        Succeeded(evidence) => println!("held: {how}\nwithout {defences:?}: {evidence}"),
        Held(still) => panic!("held although {defences:?} is off: {still}; with it: {how}"),
    }
}
