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

/// What was being done: as the error says, else as the system call or the message tells.
fn step_of(error: &Error) -> Option<Step> {
    let inferred = || match error.origin() {
        Some(origin) => infer(origin),
        None => by_message(&error.message()),
    };
    match error.failed_step() {
        // A path of the config may be a device's.
        Some(Step::RootPath | Step::Mount | Step::File) if inferred() == Some(Step::Device) => {
            Some(Step::Device)
        }
        Some(step) => Some(step),
        None => inferred(),
    }
}

fn infer(origin: &Origin) -> Option<Step> {
    let says = |word: &str| origin.args.contains(word);
    let is = |errnos: &[i32]| errnos.contains(&origin.errno);
    let place = |word: &str| says(&format!("\"{word}"));
    match origin.call.as_str() {
        "unshare" | "clone" | "clone3" if says("CLONE_NEWUSER") => Some(Step::UserNamespace),
        "setns" if says("CLONE_NEWUSER") => Some(Step::UserNamespace),
        "unshare" | "clone" | "clone3" | "fork" | "vfork" => Some(Step::Process),
        // What has no procfs has not what is in it.
        _ if place("/proc/") && is(&[libc::ENOENT, libc::EROFS]) => Some(Step::MountProc),
        "open_tree" | "openat" | "openat2" if place("/dev/") => Some(Step::Device),
        "open_tree" | "openat" | "openat2" | "stat" | "chdir" if is(&[libc::EACCES]) => {
            Some(Step::RootPath)
        }
        "mount" | "fsopen" | "fsconfig" | "fsmount" => Some(match () {
            () if says("\"proc\"") => Step::MountProc,
            () if says("\"sysfs\"") => Step::MountSys,
            () if says("\"overlay\"") => Step::MountOverlay,
            () => Step::Mount,
        }),
        "move_mount" | "open_tree" | "mount_setattr" | "umount2" | "pivot_root" => {
            Some(Step::Mount)
        }
        "keyctl" => Some(Step::Keyring),
        "setrlimit" | "prlimit64" => Some(Step::Limit),
        _ if is(&[libc::ENOSPC, libc::EDQUOT, libc::EROFS]) => Some(Step::File),
        _ if is(&[libc::EMFILE, libc::ENFILE]) => Some(Step::File),
        _ => None,
    }
}

/// Where only the message tells: a config asks for what `plan` refuses, or a call is in the cause.
fn by_message(message: &str) -> Option<Step> {
    match message {
        _ if message.contains("(\"/proc/") && message.contains("ENOENT") => Some(Step::MountProc),
        _ if message.contains("nobody can keep this limit") => Some(Step::Cgroup),
        _ if message.contains("/process/rlimits/") && message.contains("cannot be raised") => {
            Some(Step::Limit)
        }
        _ => None,
    }
}
