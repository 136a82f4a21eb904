//! Why a user namespace was refused, as far as it can be read.

use std::path::Path;

use crate::doctor::Step;
use crate::error::Error;
use crate::sys;

const SMALL: usize = 4096;

/// Switches that refuse user namespaces: file, the value that does, what to say.
const SWITCHES: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "this host restricts unprivileged user namespaces (kernel.apparmor_restrict_unprivileged_userns = 1); \
         ask the administrator for an AppArmor profile with `userns,` for this program",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "this host forbids unprivileged user namespaces; ask the administrator: sysctl kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "this host allows no user namespaces; ask the administrator: sysctl user.max_user_namespaces=10000",
    ),
];

/// The error of a clone or unshare with CLONE_NEWUSER that the kernel refused.
pub fn explain(cause: sys::Error) -> Error {
    let hint = SWITCHES
        .iter()
        .find(|(file, value, _)| reads(file, value))
        .map(|(_, _, hint)| (*hint).to_owned())
        .unwrap_or_else(|| by_errno(&cause));
    Error::new("user namespace refused")
        .because_of(&cause)
        .step(Step::UserNamespace)
        .hint(hint)
}

fn reads(file: &str, value: &str) -> bool {
    sys::path::read_regular(Path::new(file), SMALL)
        .is_ok_and(|text| String::from_utf8_lossy(&text).trim() == value)
}

fn by_errno(cause: &sys::Error) -> String {
    use nix::errno::Errno;
    match Errno::from_raw(cause.errno) {
        Errno::ENOSPC => {
            "the limit user.max_user_namespaces is reached, or namespaces are nested too deeply; \
             a moment later it may work"
        }
        Errno::EPERM => {
            "a seccomp filter or a security module around this session refuses it \
             (as in a container without --security-opt seccomp=unconfined), or this is a chroot"
        }
        Errno::EUSERS => "user namespaces are nested too deeply (32 levels at most)",
        Errno::EINVAL => {
            "this kernel was built without user namespaces, or without a kind the config asks for"
        }
        _ => "see user_namespaces(7) for what the kernel's answer means",
    }
    .to_owned()
}
