#![expect(
    clippy::disallowed_methods,
    reason = "test code: it damages files of its own"
)]

use std::fs;

use super::*;
use crate::plan::{SeccompAction, SeccompRule};

fn plan(name: &str) -> Seccomp {
    Seccomp {
        default_action: SeccompAction::Allow,
        architectures: Vec::new(),
        flags: Vec::new(),
        rules: vec![SeccompRule {
            index: 0,
            names: vec![name.to_owned()],
            action: SeccompAction::Errno(1),
            conditions: Vec::new(),
        }],
        listener: None,
        checkpointable: false,
    }
}

fn instruction(k: u32) -> Instruction {
    Instruction {
        code: 6,
        jt: 0,
        jf: 0,
        k,
    }
}

struct Place {
    directory: tempfile::TempDir,
    store: OwnedFd,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = fs::File::open(directory.path()).unwrap().into();
        Self { directory, store }
    }

    /// What is found for the plan, or made with this number; and whether it was made.
    fn ask(&self, plan: &Seccomp, k: u32) -> (Vec<Instruction>, bool) {
        let mut made = false;
        let make = || {
            made = true;
            Ok(vec![instruction(k)])
        };
        let program = find_or_make(&self.store, plan, make).unwrap();
        (program, made)
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(self.directory.path().join(DIRECTORY)).unwrap();
        entries.map(|e| e.unwrap().path()).collect()
    }
}

#[test]
fn what_was_made_is_found_again_for_exactly_its_profile() {
    let place = Place::new();
    assert_eq!(place.ask(&plan("read"), 1), (vec![instruction(1)], true));
    assert_eq!(place.ask(&plan("read"), 2), (vec![instruction(1)], false));
    assert_eq!(place.ask(&plan("write"), 3), (vec![instruction(3)], true));
    assert_eq!(place.files().len(), 2);
    // Nobody else has the same hash here: the file of another profile under this one's name is not taken.
    let files = place.files();
    fs::copy(&files[0], &files[1]).unwrap();
    let again = [place.ask(&plan("read"), 5), place.ask(&plan("write"), 5)];
    assert_eq!(
        again.iter().filter(|(_, made)| *made).count(),
        1,
        "{again:?}"
    );
}

#[test]
fn a_file_that_is_not_whole_is_made_again() {
    let place = Place::new();
    place.ask(&plan("read"), 1);
    let file = place.files().remove(0);
    let whole = fs::read(&file).unwrap();
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(parse(&whole[..length], &key(&plan("read")).unwrap()).is_none());
    }
    for position in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[position] ^= 0x10;
        assert!(
            parse(&wrong, &key(&plan("read")).unwrap()).is_none(),
            "{position}"
        );
    }
    let (program, made) = place.ask(&plan("read"), 2);
    assert_eq!((program, made), (vec![instruction(2)], true));
    assert_eq!(place.ask(&plan("read"), 3).0, vec![instruction(2)]);
}

#[test]
fn what_others_can_write_to_is_not_used() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let place = Place::new();
    place.ask(&plan("read"), 1);
    let file = place.files().remove(0);
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&file, 0o666);
    assert!(place.ask(&plan("read"), 2).1);
    assert!(!place.ask(&plan("read"), 3).1, "it was replaced");
    let elsewhere = place.directory.path().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert!(place.ask(&plan("read"), 4).1);
    let directory = place.directory.path().join(DIRECTORY);
    mode(&directory, 0o777);
    assert!(place.ask(&plan("read"), 5).1);
    assert!(place.ask(&plan("read"), 6).1, "nothing is written there");
}

#[test]
fn the_oldest_make_room() {
    let place = Place::new();
    for n in 0..u32::try_from(MOST_FILES).unwrap() + 8 {
        assert!(place.ask(&plan(&format!("call{n}")), n).1);
        assert!(place.files().len() <= MOST_FILES, "{n}");
    }
    let last = format!("call{}", MOST_FILES + 7);
    assert!(!place.ask(&plan(&last), 0).1);
    assert!(place.ask(&plan("call0"), 0).1);
}

#[test]
fn where_nothing_can_be_kept_the_filter_is_made() {
    let place = Place::new();
    fs::write(place.directory.path().join(DIRECTORY), "a file").unwrap();
    assert!(place.ask(&plan("read"), 1).1);
    assert!(place.ask(&plan("read"), 2).1);
}

#[test]
fn a_program_without_the_rule_for_criu_is_not_taken_where_it_is_asked_for() {
    let place = Place::new();
    let without = plan("read");
    let with = Seccomp {
        checkpointable: true,
        ..without.clone()
    };
    for (plan, number) in [(&without, 1), (&with, 2)] {
        assert_eq!(place.ask(plan, number), (vec![instruction(number)], true));
        assert_eq!(place.ask(plan, 9), (vec![instruction(number)], false));
    }
}
