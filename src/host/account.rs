//! The caller's account, as the system knows it.

use std::path::{Path, PathBuf};

use super::probe::own_uid_map;
use super::programs;
use super::session::host_uid;
use super::text::parse_passwd_home;
use crate::sys;
use crate::sys::path::read_regular;

/// The most that is read of passwd(5), in bytes.
const MAX_FILE: usize = 16 << 20;

/// The caller's home directory by her account, whatever `$HOME` says: a scheduler may run her programs with its own.
pub fn home() -> Option<PathBuf> {
    let uid = sys::cred::uid();
    let uid = host_uid(uid, &own_uid_map()).unwrap_or(uid);
    let local = read_regular(Path::new("/etc/passwd"), MAX_FILE).ok();
    let local = local.and_then(|text| parse_passwd_home(&String::from_utf8_lossy(&text), uid));
    let home = local.or_else(|| {
        let getent = programs::find("getent", false).ok()??;
        let child = programs::start(&getent, &["passwd", &uid.to_string()]).ok()?;
        parse_passwd_home(&programs::answer(child)?, uid)
    });
    home.map(PathBuf::from).filter(|home| home.is_absolute())
}
