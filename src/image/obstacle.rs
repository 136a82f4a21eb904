//! Why an overlay cannot be had, found out before one is mounted.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::probe::{self, Abilities};
use crate::error::{Doing, Result};
use crate::sys;

/// What was found, beside the store's directories: it is true of one kernel and one filesystem.
const CACHE: &str = "abilities.json";
/// The most that is read of it, in bytes.
const CACHE_LIMIT: usize = 64 << 10;
/// Since which Linux a user namespace may mount an overlay.
const OVERLAY_SINCE: (u32, u32) = (5, 11);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    kernel: String,
    device: u64,
    abilities: Abilities,
}

/// What keeps the filesystem of the store, which is open as `store`, from having the upper directory of an overlay; `None`:
/// nothing does.
///
/// # Errors
/// The store cannot be written to.
pub fn of_upper(store: &OwnedFd) -> Result<Option<String>> {
    let abilities = abilities(store)?;
    Ok((!abilities.upper)
        .then(|| format!("the store cannot hold it: {}", abilities.why.join(", "))))
}

/// What keeps the kernel from mounting an overlay in a user namespace; `None`: nothing that is known beforehand.
pub fn of_kernel() -> Option<String> {
    let release = release();
    let old = number(&release).is_some_and(|version| version < OVERLAY_SINCE);
    old.then(|| format!("Linux {release} mounts none in a user namespace, as 5.11 does"))
}

/// What the store's filesystem can do, tried once for each kernel.
fn abilities(store: &OwnedFd) -> Result<Abilities> {
    let what = || "cannot examine the image store".to_owned();
    let device = rustix::fs::fstat(store)
        .map_err(|e| sys::Error::new("fstat", "image store", e))
        .doing(what)?
        .st_dev;
    let kernel = release();
    let known = sys::path::read_regular_at(store, Path::new(CACHE), CACHE_LIMIT).ok();
    let known = known.and_then(|text| serde_json::from_slice::<Known>(&text).ok());
    if let Some(known) = known.filter(|known| known.kernel == kernel && known.device == device) {
        return Ok(known.abilities);
    }
    // What is left there by one who is killed goes with the next gc.
    let place = sys::path::open_directory(store, "tmp").doing(what)?;
    let abilities = probe::probe(&place)?;
    let known = Known {
        kernel,
        device,
        abilities,
    };
    remember(store, &known);
    Ok(known.abilities)
}

/// Whoever cannot write it asks again. Half of one is none.
fn remember(store: &OwnedFd, known: &Known) {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(store, CACHE, flags, Mode::RUSR | Mode::WUSR);
    if let (Ok(file), Ok(text)) = (file, serde_json::to_vec(known)) {
        let _asked_again = sys::path::write_all(file, &text, Path::new(CACHE));
    }
}

fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// The first two numbers of a kernel's release.
fn number(release: &str) -> Option<(u32, u32)> {
    let digits = |text: &str| {
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        text.get(..end)?.parse().ok()
    };
    let (major, rest) = release.split_once('.')?;
    Some((digits(major)?, digits(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_known_by_their_release() {
        for (release, expected) in [
            ("5.10.0-28-amd64", Some((5, 10))),
            ("6.1.0", Some((6, 1))),
            ("4.18.0-477.el8.x86_64", Some((4, 18))),
            ("6.18-rc1", Some((6, 18))),
            ("x", None),
        ] {
            assert_eq!(number(release), expected, "{release}");
        }
    }
}
