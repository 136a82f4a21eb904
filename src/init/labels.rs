//! Labels of security modules, told to the kernel for the execve(2) to come.
//!
//! They are written through the procfs that the caller has at /proc, opened before anything of the container is in
//! reach: what the config or the image puts over /proc cannot catch the write (CVE-2019-16884, CVE-2025-52881,
//! CVE-2025-62596).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc::{EACCES, EINVAL, ENOENT, EPERM};
use rustix::fs::{OFlags, ResolveFlags};

use crate::error::{Doing, Error, Result};
use crate::plan::ProcessAttributes;
use crate::sys;
use crate::sys::defence::{Defence, is_on};

const UNKNOWN_CONTEXT: &str = "the loaded policy does not know this context";

/// The procfs at /proc, for [`apply`]; `None` where no label is asked for.
pub(crate) fn open_proc(wanted: &ProcessAttributes) -> Result<Option<OwnedFd>> {
    if !wanted.has_label() {
        return Ok(None);
    }
    sys::path::open_procfs(Path::new("/proc"))
        .doing(|| "cannot use the host's /proc, to set a security label".to_owned())
        .map(Some)
}

/// Sets the labels that the program will run with. `proc` is what [`open_proc`] gave to this process, or to its parent.
pub(super) fn apply(wanted: &ProcessAttributes, proc: Option<OwnedFd>) -> Result<()> {
    let Some(proc) = proc else { return Ok(()) };
    if let Some(profile) = &wanted.apparmor_profile {
        let command = format!("exec {profile}");
        // Older kernels have only the file that belongs to whichever module is the first.
        let mut written = write(&proc, "attr/apparmor/exec", &command);
        if matches!(&written, Err((_, error)) if error.is(ENOENT) && error.call == "openat2") {
            written = write(&proc, "attr/exec", &command);
        }
        let what = format!("cannot apply the AppArmor profile {profile:?}");
        told(
            written,
            &what,
            "/process/apparmorProfile",
            |errno| match errno {
                ENOENT => Some(
                    "the profile is not loaded: `apparmor_parser -r FILE` as root loads it, aa-status lists those that are",
                ),
                EACCES | EPERM => {
                    Some("the profile that this session runs under does not allow the change")
                }
                _ => None,
            },
        )?;
    }
    if let Some(label) = &wanted.selinux_label {
        let refused = "the policy does not let this session's context set it (process setexec)";
        let what = format!("cannot apply the SELinux label {label:?}");
        set_context(&proc, "attr/exec", label, &what, refused)?;
    }
    Ok(())
}

/// Lets the session keyring that is made next have the program's SELinux context, without which it could not use it.
pub(super) fn apply_to_keyring(wanted: &ProcessAttributes, proc: Option<&OwnedFd>) -> Result<()> {
    let Some((label, proc)) = wanted.selinux_label.as_ref().zip(proc) else {
        return Ok(());
    };
    let refused = "the policy does not let this session's context set it (process setkeycreate): try --no-new-keyring";
    let what = format!("cannot apply the SELinux label {label:?} to a keyring");
    set_context(proc, "attr/keycreate", label, &what, refused)
}

/// Writes an SELinux context; `refused` is said where the policy does not allow it.
fn set_context(
    proc: &OwnedFd,
    file: &str,
    label: &str,
    what: &str,
    refused: &'static str,
) -> Result<()> {
    let written = write(proc, file, label);
    told(
        written,
        what,
        "/process/selinuxLabel",
        |errno| match errno {
            EINVAL => Some(UNKNOWN_CONTEXT),
            EACCES | EPERM => Some(refused),
            _ => None,
        },
    )
}

/// Writes to a file of this thread's own directory. Returns its path with an error.
fn write(
    proc: &OwnedFd,
    file: &str,
    content: &str,
) -> std::result::Result<(), (PathBuf, sys::Error)> {
    let within = Path::new("thread-self").join(file);
    let path = Path::new("/proc").join(&within);
    if !is_on(Defence::OwnProcfs) {
        // What is not done: through whatever is at /proc by now.
        return sys::path::write_existing(&path, content.as_bytes()).map_err(|error| (path, error));
    }
    // The link `thread-self` is not a magic one: it says which directory it is.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    sys::path::open_beneath(proc.as_fd(), &within, OFlags::WRONLY, resolve)
        .and_then(|fd| sys::path::write_once(fd, content.as_bytes(), &path))
        .map_err(|error| (path, error))
}

/// The error of a write, with the file's name in the quotes that engines look for (podman's `ErrSetSecurityAttribute`).
fn told(
    written: std::result::Result<(), (PathBuf, sys::Error)>,
    what: &str,
    property: &str,
    remedy: impl FnOnce(i32) -> Option<&'static str>,
) -> Result<()> {
    let Err((path, cause)) = written else {
        return Ok(());
    };
    let remedy = remedy(cause.errno);
    let error = Error::new(format!(
        "{what} ({property}): cannot write `{}`",
        path.display()
    ));
    // An engine would take the words of ENOENT for a program that is not there.
    let error = if cause.is(ENOENT) && cause.call == "write" {
        error.because("the kernel has nothing of that name")
    } else {
        error.because(cause)
    };
    Err(match remedy {
        Some(remedy) => error.hint(remedy),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_opened_where_no_label_is_asked_for() {
        assert!(open_proc(&ProcessAttributes::default()).unwrap().is_none());
    }

    #[test]
    fn an_error_names_the_file_as_engines_expect_it() {
        // No module knows such a label, and without one the kernel refuses any.
        let wanted = ProcessAttributes {
            selinux_label: Some("no such label".to_owned()),
            ..ProcessAttributes::default()
        };
        let proc = open_proc(&wanted).unwrap();
        let error = apply(&wanted, proc).unwrap_err();
        let text = error.message();
        assert!(text.contains("`/proc/thread-self/attr/exec`: "), "{text}");
        assert!(text.contains("/process/selinuxLabel"), "{text}");
    }
}
