//! The session keyring of the container's own.

use std::os::fd::OwnedFd;

use super::{Manner, labels};
use crate::error::{Doing, Result};
use crate::plan::{Note, Process};
use crate::spawn::line::{InitEnd, Report};
use crate::sys;

/// Leaves the caller's session keyring, whose keys are no business of a container. Where there is no room for one more, or
/// something around this session forbids it, the container has the caller's, with a word.
pub(super) fn join_keyring(
    manner: &Manner,
    process: &Process,
    proc: Option<&OwnedFd>,
    line: &InitEnd,
) -> Result<()> {
    use nix::libc::{EACCES, EDQUOT, ENOSYS, EPERM};
    let Some(name) = &manner.keyring else {
        return Ok(());
    };
    labels::apply_to_keyring(&process.attributes, proc)?;
    let what = || "cannot join a session keyring of the container's own".to_owned();
    let (code, remedy) = match sys::keyring::join_session(name) {
        Ok(()) => return Ok(()),
        // A kernel without keys.
        Err(error) if error.is(ENOSYS) => return Ok(()),
        Err(error) if error.is(EDQUOT) => (
            "LDG-KEYRING-QUOTA",
            "your keys are used up: end some containers, ask the administrator for sysctl kernel.keys.maxkeys=2000, or give --no-new-keyring",
        ),
        Err(error) if error.is(EPERM) || error.is(EACCES) => (
            "LDG-KEYRING-SECCOMP",
            "a filter around this session forbids keyctl(2): give --no-new-keyring where that is meant to be so",
        ),
        Err(error) => return Err(error).doing(what),
    };
    let note = Note::new(
        "/process",
        "the container shares the caller's session keyring: it could not get one of its own",
        remedy,
    );
    line.send(&Report::Note(note.code(code))).doing(what)
}
