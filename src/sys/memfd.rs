//! Text in memory that another process gets as a file.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};

use super::{Error, Result};

/// A file in memory with `content`, which nobody can change (memfd_create(2), F_ADD_SEALS), at its beginning.
pub fn sealed(name: &str, content: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know MFD_NOEXEC_SEAL, without which vm.memfd_noexec=2 refuses it.
    let memfd = rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(name, flags))
        .map_err(|e| Error::new("memfd_create", format!("{name:?}, MFD_ALLOW_SEALING"), e))?;
    let mut file = File::from(memfd);
    file.write_all(content)
        .map_err(|e| Error::new("write", format!("memfd {name:?}"), e))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)
        .map_err(|e| Error::new("fcntl", format!("memfd {name:?}, F_ADD_SEALS"), e))?;
    rewind(&file)?;
    Ok(file.into())
}

/// Goes back to the beginning of the file, for all who share its position.
pub fn rewind(file: impl AsFd) -> Result<()> {
    rustix::fs::seek(file, SeekFrom::Start(0))
        .map(|_| ())
        .map_err(|e| Error::new("lseek", "fd, 0, SEEK_SET", e))
}
