//! This program's own file: who could overwrite it, and a copy that nobody can (CVE-2019-5736).

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use super::{Error, Result, process};

const EXE: &str = "/proc/self/exe";

/// Owner and mode of this program's file.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// The owner's uid as this process sees it.
    pub uid: u32,
    /// The permission bits.
    pub mode: u32,
}

/// Who owns this program's file, and who may write it.
pub fn owner() -> Result<Owner> {
    let stat = rustix::fs::stat(EXE).map_err(|e| Error::new("stat", format!("{EXE:?}"), e))?;
    Ok(Owner {
        uid: stat.st_uid,
        mode: stat.st_mode & 0o7777,
    })
}

/// The seals after which no one can change a memfd's content.
fn seals() -> SealFlags {
    SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

/// Whether this process runs from a sealed memfd.
pub fn is_sealed() -> bool {
    // F_GET_SEALS answers EINVAL for an ordinary file.
    open_self()
        .and_then(|exe| rustix::fs::fcntl_get_seals(&exe).map_err(|e| Error::new("fcntl", EXE, e)))
        .is_ok_and(|found| found.contains(seals()))
}

/// Runs this program again, with the same arguments and environment, from a sealed copy in memory.
/// Returns only on failure.
pub fn run_sealed() -> Error {
    let sealed = match sealed_copy() {
        Ok(sealed) => sealed,
        Err(error) => return error,
    };
    let args = c_strings(std::env::args_os().map(|arg| arg.as_bytes().to_vec()));
    let env = c_strings(std::env::vars_os().map(|(name, value)| {
        let mut entry = name.as_bytes().to_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        entry
    }));
    process::exec_fd(sealed.as_fd(), &args, &env)
}

fn c_strings(strings: impl Iterator<Item = Vec<u8>>) -> Vec<CString> {
    // A string of argv or environ cannot hold a NUL.
    strings.filter_map(|s| CString::new(s).ok()).collect()
}

fn open_self() -> Result<OwnedFd> {
    rustix::fs::open(EXE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::new("open", format!("{EXE:?}, O_RDONLY"), e))
}

fn sealed_copy() -> Result<OwnedFd> {
    let mut exe = File::from(open_self()?);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC says that this one is meant to be run (vm.memfd_noexec); kernels before 6.3 do not know it.
    let memfd = rustix::fs::memfd_create("lodger", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("lodger", flags))
        .map_err(|e| Error::new("memfd_create", "\"lodger\", MFD_ALLOW_SEALING|MFD_EXEC", e))?;
    let mut copy = File::from(memfd);
    std::io::copy(&mut exe, &mut copy).map_err(|e| Error::new("sendfile", "memfd", e))?;
    rustix::fs::fcntl_add_seals(&copy, seals())
        .map_err(|e| Error::new("fcntl", "memfd, F_ADD_SEALS", e))?;
    Ok(copy.into())
}
