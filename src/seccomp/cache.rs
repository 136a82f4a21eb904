//! Compiled programs, kept by content: `.seccomp` in the state directory, which no container's id can be.
//!
//! A file's name is a hash of what the program depends on, and the file repeats it in full: a program is used only for
//! exactly the profile, architecture, libseccomp and lodger that it was made for. A file that is not whole, not ours, or
//! that others may write to, is as good as none. Nothing here is an error: without the cache the profile is compiled.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::LONGEST;
use crate::bundle::Problem;
use crate::plan::Seccomp;
use crate::sys;
use crate::sys::seccomp::{INSTRUCTION_SIZE, Instruction, from_bytes, to_bytes};

/// Beneath the state directory.
const DIRECTORY: &str = ".seccomp";

/// What a file begins with: name and version of its form.
const MAGIC: &[u8; 16] = b"lodger seccomp 1";

/// How many files there are at most.
const MOST_FILES: usize = 32;

/// The largest file, in bytes: what is larger is not kept.
const LARGEST: usize = 256 << 10;

/// The program for `plan`, from the cache or made by `make` and put there.
pub(super) fn find_or_make(
    store: &OwnedFd,
    plan: &Seccomp,
    make: impl FnOnce() -> Result<Vec<Instruction>, Vec<Problem>>,
) -> Result<Vec<Instruction>, Vec<Problem>> {
    let Some(key) = key(plan) else {
        return make();
    };
    let name = format!("{:016x}", hash(&key));
    let directory = open(store, &name);
    if let Some(found) = directory.as_ref().and_then(|d| read(d, &name, &key)) {
        tracing::debug!(name, "the seccomp filter was compiled before");
        return Ok(found);
    }
    let made = make()?;
    if let Some(directory) = &directory {
        let written = write(directory, &name, &content(&key, &made));
        tracing::debug!(name, ?written, "keeping the compiled seccomp filter");
    }
    Ok(made)
}

/// All that a program depends on. The agent is no part of it.
fn key(plan: &Seccomp) -> Option<Vec<u8>> {
    let rules = Seccomp {
        listener: None,
        flags: Vec::new(),
        ..plan.clone()
    };
    let what = (
        env!("CARGO_PKG_VERSION"),
        sys::seccomp::version(),
        std::env::consts::ARCH,
        rules,
    );
    serde_json::to_vec(&what).ok()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// The directory, made where it is missing, if it is one that only we can write to.
fn open(store: &OwnedFd, name: &str) -> Option<OwnedFd> {
    match rustix::fs::mkdirat(store, DIRECTORY, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => {
            tracing::debug!(name, %error, "no place for compiled seccomp filters");
            return None;
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(store, DIRECTORY, flags, Mode::empty()).ok()?;
    is_ours(&directory, store, FileType::Directory).then_some(directory)
}

/// Whether `fd` has the owner of `like` and nobody else may write to it.
fn is_ours(fd: &OwnedFd, like: &OwnedFd, kind: FileType) -> bool {
    let (Ok(stat), Ok(like)) = (rustix::fs::fstat(fd), rustix::fs::fstat(like)) else {
        return false;
    };
    FileType::from_raw_mode(stat.st_mode) == kind
        && stat.st_uid == like.st_uid
        && stat.st_mode & 0o022 == 0
}

fn read(directory: &OwnedFd, name: &str, key: &[u8]) -> Option<Vec<Instruction>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?;
    if !is_ours(&file, directory, FileType::RegularFile) {
        return None;
    }
    let bytes = sys::path::read_limited(file, Path::new(name), LARGEST).ok()?;
    parse(&bytes, key)
}

/// Magic, length of the key, key, program, and a checksum of all that.
fn content(key: &[u8], program: &[Instruction]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((key.len() as u64).to_le_bytes());
    bytes.extend(key);
    bytes.extend(to_bytes(program));
    let sum = hash(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// The program, if the content is whole and was made for `key`.
fn parse(bytes: &[u8], key: &[u8]) -> Option<Vec<Instruction>> {
    let (all, sum) = bytes.split_last_chunk::<8>()?;
    let (magic, rest) = all.split_first_chunk::<16>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (found, program) = rest.split_at_checked(length)?;
    let whole = program.len() % INSTRUCTION_SIZE == 0
        && (1..=LONGEST).contains(&(program.len() / INSTRUCTION_SIZE));
    let right = magic == MAGIC && found == key && u64::from_le_bytes(*sum) == hash(all);
    (whole && right).then(|| from_bytes(program))
}

/// Writes the file beside its place first: whoever is killed here leaves nothing under a name that is looked for.
fn write(directory: &OwnedFd, name: &str, content: &[u8]) -> sys::Result<()> {
    if content.len() > LARGEST {
        return Ok(());
    }
    make_room(directory)?;
    let draft = format!("{name}.{}", sys::process::own_pid());
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::openat(directory, &draft, flags, mode)
        .map_err(|e| sys::Error::new("openat", format!("{draft:?}, O_CREAT"), e))?;
    let written = sys::path::write_all(file, content, Path::new(&draft)).and_then(|()| {
        rustix::fs::renameat(directory, &draft, directory, name)
            .map_err(|e| sys::Error::new("renameat", format!("{draft:?}, {name:?}"), e))
    });
    if written.is_err() {
        let _first_error_counts = rustix::fs::unlinkat(directory, &draft, AtFlags::empty());
    }
    written
}

/// Removes the oldest files, drafts that were left among them, until there is room for one more.
fn make_room(directory: &OwnedFd) -> sys::Result<()> {
    let error = |e| sys::Error::new("getdents64", format!("{DIRECTORY:?}"), e);
    let mut files = Vec::new();
    for item in rustix::fs::Dir::read_from(directory).map_err(error)? {
        let item = item.map_err(error)?;
        let name = item.file_name().to_owned();
        if name.to_bytes().starts_with(b".") {
            continue;
        }
        let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW);
        files.extend(
            stat.ok()
                .map(|stat| ((stat.st_mtime, stat.st_mtime_nsec), name)),
        );
    }
    files.sort();
    let surplus = (files.len() + 1).saturating_sub(MOST_FILES);
    for (_, name) in files.iter().take(surplus) {
        let _another_may_have = rustix::fs::unlinkat(directory, name, AtFlags::empty());
    }
    Ok(())
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
