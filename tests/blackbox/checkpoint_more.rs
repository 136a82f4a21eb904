//! Files that are in no directory any more, and watches.

use crate::checkpoint_lab::{Lab, checkpoints_or_skip};
use crate::weak::{Outcome, held_by};

/// Checkpoints a program with these things, restores it and uses them up.
#[track_caller]
fn kept(words: &[&str], used: &[(&str, &str)]) {
    let lab = Lab::with(words);
    lab.start();
    lab.survives(&[]);
    lab.survives(&[]);
    lab.consume("c", used);
}

/// Open here or in another process; mapped shared and privately; sealed; two of the same name.
#[test]
fn files_in_memory_that_are_open_and_mapped() {
    checkpoints_or_skip!();
    kept(
        &["twins"],
        &[
            ("twins.shared", "FIRST"),
            ("twins.private", "FIRST"),
            ("twins.read", "MAPPED"),
            ("twins.other", "second"),
            ("twins.child", "goes on"),
        ],
    );
}

#[test]
fn a_deleted_file_that_is_open_and_mapped() {
    checkpoints_or_skip!();
    kept(&["gone"], &[("gone.read", "SHARED..")]);
}

/// A file in memory of the same name is open, too, and found first.
#[test]
fn a_file_in_memory_is_not_taken_for_another_of_its_name() {
    checkpoints_or_skip!();
    held_by(&["MappedInode"], || {
        let lab = Lab::with(&["twins"]);
        lab.start();
        let before = lab.look("c");
        let ran = lab.checkpoint(&[]);
        if ran.code != 0 {
            return Outcome::Succeeded("it could not be dumped".to_owned());
        }
        lab.restore(&["-d"], "c").ok();
        let after = lab.look("c");
        match before.get("twins.other") == after.get("twins.other") {
            true => Outcome::Held("each mapping has its file".to_owned()),
            false => Outcome::Succeeded(format!("{before:?} became {after:?}")),
        }
    });
}

#[test]
fn watches_on_a_file_and_on_a_directory_deep_below() {
    checkpoints_or_skip!();
    kept(
        &["watches"],
        &[("watches.directory", "2"), ("watches.file", "1")],
    );
}

#[test]
fn a_file_whose_name_is_gone_but_one() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["linked"]);
    lab.start();
    let before = lab.look("c");
    lab.checkpoint(&["--link-remap"]).ok();
    lab.restore(&["-d"], "c").ok();
    lab.look("c").goes_on_from(&before);
    lab.consume(
        "c",
        &[
            ("linked.rest", "its other name"),
            ("linked.kept", "BY its other name"),
        ],
    );
}
