//! What a name means: `images/NAME.json`.

use std::os::fd::OwnedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{LayerId, MAX_RECORD};
use crate::error::{Doing, Error, Result};
use crate::image::{Digest, Owners};
use crate::plan::Note;
use crate::sys;

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its name.
    pub name: String,
    /// The digest of its manifest, which is a blob: of docker-archive and rootfs, which have none, one that was made for it.
    pub manifest: Digest,
    /// The digest of its config, which is a blob.
    pub config: Digest,
    /// Its layers, bottom first.
    pub layers: Vec<LayerId>,
    /// Whose the files in its layers are.
    pub owners: Owners,
    /// What it was imported from, as that was named.
    pub source: String,
    /// When, RFC 3339 in UTC.
    pub imported: String,
    /// What the files of its layers have together, in bytes.
    pub size: u64,
    /// What was adapted when its layers were unpacked.
    pub notes: Vec<Note>,
}

/// Refuses what is no name of an image: `[A-Za-z0-9][A-Za-z0-9_.:/@+-]*`, 255 bytes at most, as references are written
/// (`docker.io/library/debian:12`).
///
/// # Errors
/// What a name looks like.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:/@+-".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && name.len() <= 255 && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::new(format!("invalid name of an image: {name:?}")).hint(
        "a name has letters, digits and _ . : / @ + - only, begins with a letter or a digit, and has 255 characters at most",
    ))
}

/// The name of the file for the image `name`, which is in order: `/` and `:` as `%2F` and `%3A`; the digest of a name that would
/// be too long for a file's.
pub(super) fn file_name(name: &str) -> String {
    /// Leaves room for the ending, on filesystems that have less than 255 (eCryptfs: 143).
    const LONGEST: usize = 128;
    let escaped = name.replace('/', "%2F").replace(':', "%3A");
    if escaped.len() <= LONGEST {
        return format!("{escaped}.json");
    }
    // No name begins with a percent sign.
    format!("%{}.json", Digest::of(name.as_bytes()).hex())
}

/// Reads the record in the file `file`; `None` where there is none.
pub(super) fn read(images: &OwnedFd, file: &str) -> Result<Option<ImageRecord>> {
    let what = || format!("cannot read the image in {file:?}");
    let text = match sys::path::read_regular_beneath(images, Path::new(file), MAX_RECORD) {
        Err(e) if e.is(libc::ENOENT) => return Ok(None),
        read => read.doing(what)?,
    };
    let hint = "the file is damaged: import the image again under its name, or remove the file";
    let record: ImageRecord = serde_json::from_slice(&text)
        .map_err(|error| Error::new(what()).because(error).hint(hint))?;
    if check_name(&record.name).is_err() || file_name(&record.name) != file {
        return Err(Error::new(what())
            .because(format!("it is of another image, {:?}", record.name))
            .hint(hint));
    }
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_engines_write() {
        for name in [
            "debian",
            "docker.io/library/debian:12",
            "localhost:5000/a/b_c@sha256:0123",
            "1",
            "a..b",
            "A+b-c",
            &"a".repeat(255),
        ] {
            assert!(check_name(name).is_ok(), "{name:?}");
            let file = file_name(name);
            assert!(file.len() <= 143 && !file.contains('/'), "{file}");
        }
        for name in [
            "",
            ".",
            "..",
            "../x",
            "/x",
            "-x",
            ":x",
            "_x",
            "a b",
            "a\n",
            "a%2F",
            "ä",
            "a\\b",
            &"a".repeat(256),
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn no_two_names_have_one_file() {
        let names = ["a/b", "a:b", "a_b", "a-b", "a.b", "a@b", "a+b", "ab", "A/b"];
        let long: Vec<String> = names.iter().map(|n| n.repeat(60)).collect();
        let mut files: Vec<String> = names.iter().map(|name| file_name(name)).collect();
        files.extend(long.iter().map(|name| file_name(name)));
        let count = files.len();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), count);
        assert_eq!(
            file_name("docker.io/library/debian:12"),
            "docker.io%2Flibrary%2Fdebian%3A12.json"
        );
    }
}
