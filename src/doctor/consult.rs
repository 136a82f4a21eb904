//! What a failing command asks the table.

use super::Step;
use super::readings::Readings;
use super::table::rows;
use crate::error::{Error, Origin};
use crate::host::HostFacts;

/// The most lines of advice that are given.
const MAX_HINTS: usize = 3;

/// Adds to `error` the code of its cause and what removes it, if the table knows; nothing is read when it does not apply.
///
/// `facts` are those that the command has read, at best before this process changed its namespaces; they count more than what can be
/// read now.
#[must_use]
pub fn consult(error: Error, facts: Option<&HostFacts>) -> Error {
    let Some(step) = step_of(&error) else {
        return error;
    };
    if let Some(code) = error.cause_code() {
        if error.hints().is_some() {
            return error;
        }
        let readings = Readings::after(step, &error, facts);
        let row = rows().find(|row| row.code == code);
        let finding = row.and_then(|row| row.finding(&readings));
        return match finding {
            Some(finding) => error.hint(finding.remedy),
            None => error,
        };
    }
    let readings = Readings::after(step, &error, facts);
    let mut candidates = rows().filter(|row| row.steps.contains(&step));
    let Some(finding) = candidates.find_map(|row| row.finding(&readings)) else {
        return error;
    };
    let hints = [
        finding.what,
        format!("{}{}", finding.who.may(), finding.remedy),
    ];
    let error = error.without_hints().code(finding.code);
    hints.into_iter().take(MAX_HINTS).fold(error, Error::hint)
}

/// What was being done: as the error says, else as the system call tells.
fn step_of(error: &Error) -> Option<Step> {
    error.failed_step().or_else(|| infer(error.origin()?))
}

fn infer(origin: &Origin) -> Option<Step> {
    let says = |word: &str| origin.args.contains(word);
    let full = [libc::ENOSPC, libc::EDQUOT, libc::EROFS].contains(&origin.errno);
    match origin.call.as_str() {
        "unshare" | "clone" | "clone3" if says("CLONE_NEWUSER") => Some(Step::UserNamespace),
        "setns" if says("CLONE_NEWUSER") => Some(Step::UserNamespace),
        "clone" | "clone3" | "fork" | "vfork" => Some(Step::Process),
        "mount" | "fsopen" | "fsconfig" | "fsmount" if says("\"proc\"") => Some(Step::MountProc),
        "mount" | "fsopen" | "fsconfig" | "fsmount" if says("\"sysfs\"") => Some(Step::MountSys),
        "mount" | "fsopen" | "fsconfig" | "fsmount" if says("\"overlay\"") => {
            Some(Step::MountOverlay)
        }
        "mount" | "fsopen" | "fsconfig" | "fsmount" | "move_mount" | "open_tree"
        | "mount_setattr" | "umount2" | "pivot_root" => Some(Step::Mount),
        "keyctl" => Some(Step::Keyring),
        "setrlimit" | "prlimit64" => Some(Step::Limit),
        _ if full => Some(Step::File),
        _ if [libc::EMFILE, libc::ENFILE].contains(&origin.errno) => Some(Step::File),
        _ => None,
    }
}
