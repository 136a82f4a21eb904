//! The mount table (proc_pid_mountinfo(5)), for what the kernel does not do by fd: which mounts lie beneath another.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::flags::{Flags, of_options};

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) parent: u64,
    /// Where it is, from the process's root.
    pub(super) point: PathBuf,
    /// Its attributes, as mount(2) has them.
    pub(super) flags: Flags,
    /// Whether its filesystem is `lazytime`, which nothing else tells.
    pub(super) lazytime: bool,
}

/// Every line of `text`; `None` when one of them is not understood.
pub(super) fn parse(text: &[u8]) -> Option<Vec<Entry>> {
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter(|line| !line.is_empty()).map(entry).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG…] - TYPE SOURCE SUPER-OPTIONS`
fn entry(line: &[u8]) -> Option<Entry> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let text = |index: usize| std::str::from_utf8(words.get(index)?).ok();
    let tags_end = words.iter().position(|word| *word == b"-")?;
    let of_superblock = String::from_utf8_lossy(words.get(tags_end + 3)?).into_owned();
    Some(Entry {
        id: text(0)?.parse().ok()?,
        parent: text(1)?.parse().ok()?,
        point: PathBuf::from(unescaped(words.get(4)?)),
        flags: of_options(text(5)?),
        lazytime: of_superblock.split(',').any(|option| option == "lazytime"),
    })
}

/// Space, tab, line feed and backslash are there as a backslash and three octal digits.
fn unescaped(word: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// The mounts beneath the one with the id `top` that a path leads to.
///
/// One that another mount of the same tree covers is left out: whoever could uncover it could as well give it other
/// attributes.
pub(super) fn beneath(entries: &[Entry], top: u64) -> Vec<&Entry> {
    let tree = ids_beneath(entries, top);
    let of_tree = || entries.iter().filter(|entry| tree.contains(&entry.id));
    // On top of it, or on a directory that leads to it without being on the way.
    let covers = |other: &Entry, entry: &Entry| match other.point == entry.point {
        true if other.id == entry.id => false,
        true => is_above(entries, entry.id, other),
        false => entry.point.starts_with(&other.point) && !is_above(entries, other.id, entry),
    };
    of_tree()
        .filter(|entry| !of_tree().any(|other| covers(other, entry)))
        .collect()
}

fn ids_beneath(entries: &[Entry], top: u64) -> BTreeSet<u64> {
    let mut found = BTreeSet::from([top]);
    loop {
        let before = found.len();
        for entry in entries {
            if found.contains(&entry.parent) {
                found.insert(entry.id);
            }
        }
        if found.len() == before {
            found.remove(&top);
            return found;
        }
    }
}

/// Whether the mount with the id `id` is one of those that `entry` is mounted on.
fn is_above(entries: &[Entry], id: u64, entry: &Entry) -> bool {
    let mut at = entry;
    for _ in entries {
        if at.parent == id {
            return true;
        }
        match entries.iter().find(|other| other.id == at.parent) {
            Some(parent) => at = parent,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
