//! What a failing command asks the table.

use std::path::Path;

use super::readings::Readings;
use super::table::{Row, rows};
use super::{Area, Step};
use crate::error::{Error, Origin};
use crate::host::HostFacts;

/// The most lines of advice that are given.
const MAX_HINTS: usize = 3;

/// Says that something failed, and not why: a cause that is found counts more.
const GENERAL: &str = "LDG-HELPER-FAILED";

/// Adds to `error` the code of its cause and what removes it, if the table knows; nothing is read when it does not apply.
///
/// `facts` are those that the command has read, at best before this process changed its namespaces; they count more than what can be
/// read now. `store` and `root` are the places for images and for the state of containers that were named.
#[must_use]
pub fn consult(
    error: Error,
    facts: Option<&HostFacts>,
    (store, root): (Option<&Path>, Option<&Path>),
) -> Error {
    let code = error.cause_code().map(str::to_owned);
    let code = code.as_deref();
    if error.hints().is_some() && code.is_some_and(|code| code != GENERAL) {
        return error;
    }
    let Some(step) = step_of(&error) else {
        return error;
    };
    if code.is_none() && !may_be_the_hosts(step, error.origin()) {
        return error;
    }
    let readings = Readings::after(step, &error, facts, (store, root));
    if let Some(code) = code.filter(|code| *code != GENERAL) {
        let row = rows().find(|row| row.code == code);
        match row.and_then(|row| row.finding(&readings)) {
            Some(finding) if error.hints().is_none() => return error.hint(finding.remedy),
            _ => return error,
        }
    }
    // Why helpers fail was read before they ran, but for what is around them.
    let may_be = |row: &&Row| code.is_none() || row.area == Area::Mounts;
    let candidates = rows().filter(|row| row.steps.contains(&step));
    let mut findings = candidates
        .filter(may_be)
        .filter_map(|row| row.finding(&readings));
    let Some(finding) = findings.next() else {
        return error;
    };
    let hints = [
        finding.what,
        format!("{}{}", finding.who.may(), finding.remedy),
    ];
    let error = error.without_hints().code(finding.code);
    hints.into_iter().take(MAX_HINTS).fold(error, Error::hint)
}

/// Whether the kernel's answer is one that an obstacle of the host gives. A value, a name or a file of the caller's that is wrong gives
/// others; and what lodger itself refuses has no answer.
fn may_be_the_hosts(step: Step, origin: Option<&Origin>) -> bool {
    let Some(origin) = origin else {
        return matches!(step, Step::IdHelper | Step::Session);
    };
    match origin.errno {
        libc::EPERM | libc::EACCES | libc::EROFS | libc::ENOSYS | libc::EOPNOTSUPP => true,
        libc::ENOSPC | libc::EDQUOT | libc::EUSERS | libc::EAGAIN => true,
        libc::EMFILE | libc::ENFILE | libc::ENODEV | libc::ENXIO | libc::ENOENT => true,
        // A kernel that does not know it.
        libc::EINVAL => matches!(step, Step::UserNamespace | Step::MountOverlay),
        _ => false,
    }
}

/// What was being done: as the error says, else as the system call tells, or the code that it has already.
fn step_of(error: &Error) -> Option<Step> {
    let inferred = || error.origin().and_then(infer);
    match error.failed_step() {
        // A path of the config may be a device's.
        Some(Step::RootPath | Step::Mount | Step::File) if inferred() == Some(Step::Device) => {
            Some(Step::Device)
        }
        Some(step) => Some(step),
        None => inferred().or_else(|| {
            let code = error.cause_code()?;
            let row = rows().find(|row| row.code == code)?;
            row.steps.first().copied()
        }),
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
