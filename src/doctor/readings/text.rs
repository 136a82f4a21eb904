//! Small files of procfs and sysfs.

use std::path::Path;

use crate::sys;

const SMALL: usize = 64 << 10;

/// The text of the file at `path`, trimmed; `None`: it cannot be read.
pub(super) fn read(path: impl AsRef<Path>) -> Option<String> {
    let bytes = sys::path::read_regular(path.as_ref(), SMALL).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // An attribute of a security module may end with a NUL.
    Some(text.trim_end_matches(['\0', '\n']).trim().to_owned())
}

/// The number that the file at `path` holds.
pub(super) fn number(path: impl AsRef<Path>) -> Option<u64> {
    read(path)?.parse().ok()
}

/// The value of `key` in the text of /proc/PID/status.
pub(super) fn status<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim())
}
