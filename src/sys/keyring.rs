//! Session keyrings (session-keyring(7)).

use std::ffi::CString;

use super::{Error, Result};

// linux/keyctl.h
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
const KEYCTL_SETPERM: libc::c_int = 5;
/// Whoever has the keyring may do everything with it (KEY_POS_ALL); processes with the owner's uid may find it by its name
/// (KEY_USR_SEARCH), so that `exec` joins the container's.
const PERMISSIONS: u32 = 0x3f00_0000 | 0x0008_0000;

/// Leaves the present session keyring for the one with this name in this user namespace, which is made where it is missing.
///
/// EDQUOT: the user has no room for another key (/proc/sys/kernel/keys/maxkeys). ENOSYS: a kernel without keys.
pub fn join_session(name: &str) -> Result<()> {
    let text = CString::new(name).map_err(|_| Error::new("keyctl", name, libc::EINVAL))?;
    let args = || format!("KEYCTL_JOIN_SESSION_KEYRING, {name:?}");
    // SAFETY: the name is NUL-terminated and outlives the call.
    let serial =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, text.as_ptr()) };
    if serial < 0 {
        return Err(Error::new(
            "keyctl",
            args(),
            std::io::Error::last_os_error(),
        ));
    }
    // SAFETY: KEYCTL_SETPERM takes plain integers.
    let answer = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, PERMISSIONS) };
    if answer == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error();
    // One that was there already and belongs to another uid of the container.
    if errno.raw_os_error() == Some(libc::EACCES) {
        return Ok(());
    }
    let args = format!("KEYCTL_SETPERM, {serial}, {PERMISSIONS:#x}");
    Err(Error::new("keyctl", args, errno))
}
