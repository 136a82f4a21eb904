//! A container that would have another file taken for one that it has mapped.

use std::fs;

use crate::checkpoint_lab::{Lab, checkpoints_or_skip};
use crate::harness::copy_program;
use crate::weak::{Outcome, held_by};

/// The program's file is mapped; over its path another one is mounted. With the wrong file in the image the container would be
/// restored with what the mapping never was.
#[test]
fn a_file_in_the_place_of_a_mapped_one_is_not_taken_for_it() {
    checkpoints_or_skip!();
    held_by(&["MappedInode"], || {
        let lab = Lab::with(&[]);
        let root = lab.fixture.rootfs();
        copy_program(&root.join("patient"), &root.join("decoy"));
        lab.start();
        let cover = ["/bin/busybox", "mount", "--bind", "/decoy", "/patient"];
        let exec = [&["exec", "--cap", "CAP_SYS_ADMIN", "c"], &cover[..]].concat();
        lab.lodger(&exec).ok();
        let ran = lab.checkpoint(&[]);
        if fs::exists(lab.fixture.path("ck/lodger.json")).unwrap() {
            return Outcome::Succeeded("there is a checkpoint, with the decoy".to_owned());
        }
        assert_eq!(lab.fixture.status("c"), "running");
        assert!(ran.err.contains("\"/patient\""), "{ran:#?}");
        ran.fails(1, "");
        Outcome::Held("the checkpoint was refused".to_owned())
    });
}
