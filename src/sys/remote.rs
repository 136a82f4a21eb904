//! The memory of another process, and what is mapped in this one.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{CWD, Mode, OFlags};

use super::{Error, Result, memory};

/// Reads what process `pid` has from `address` on (process_vm_readv(2)), as far as there is something: the number of bytes.
///
/// If not at once, then page by page, so that what ends shortly before an unmapped page is read, too.
pub fn read(pid: i32, address: u64, buffer: &mut [u8]) -> usize {
    if read_piece(pid, address, buffer) == Some(buffer.len()) {
        return buffer.len();
    }
    let page = memory::proc_units().1;
    let mut done = 0;
    while done < buffer.len() {
        let Some(from) = address.checked_add(done as u64) else {
            break;
        };
        let to_border = usize::try_from(page - from % page).unwrap_or(usize::MAX);
        let end = buffer.len().min(done.saturating_add(to_border));
        let wanted = end - done;
        if read_piece(pid, from, &mut buffer[done..end]) != Some(wanted) {
            break;
        }
        done = end;
    }
    done
}

fn read_piece(pid: i32, address: u64, piece: &mut [u8]) -> Option<usize> {
    let local = libc::iovec {
        iov_base: piece.as_mut_ptr().cast(),
        iov_len: piece.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(usize::try_from(address).ok()?),
        iov_len: piece.len(),
    };
    // SAFETY: the local vector is `piece`, which is ours to write; the remote one is checked by the kernel, and nothing of this
    // process.
    let count =
        unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).ok()
}

/// The memory of a process, open: it stays that one's, whoever gets its number later.
#[derive(Debug)]
pub struct Memory(File);

impl Memory {
    /// Opens the memory of process `pid` (proc_pid_mem(5)) for writing.
    pub fn open(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/mem");
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &path, flags, Mode::empty())
            .map(|fd| Self(fd.into()))
            .map_err(|e| Error::new("openat", format!("{path:?}, O_WRONLY"), e))
    }

    /// Writes `content` at `address`; EFAULT when it cannot be written there as a whole.
    pub fn write(&self, address: u64, content: &[u8]) -> Result<()> {
        let fault = || Error::new("pwrite", format!("mem, {address:#x}"), libc::EFAULT);
        // Beyond, it is a negative offset, with which this file could do something.
        if i64::try_from(address).is_err() {
            return Err(fault());
        }
        self.0
            .write_all_at(content, address)
            .map_err(|_it_is_not_mapped| fault())
    }
}

/// `struct stat`, as stat(2) writes it on this machine, of a regular file with these.
pub fn stat_of(device: (u32, u32), inode: u64, size: u64) -> Vec<u8> {
    // SAFETY: all-zero is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    stat.st_dev = libc::makedev(device.0, device.1);
    stat.st_ino = inode;
    stat.st_mode = libc::S_IFREG | 0o600;
    stat.st_nlink = 1;
    stat.st_size = i64::try_from(size).unwrap_or(i64::MAX);
    let start = (&raw const stat).cast::<u8>();
    // SAFETY: the structure was zeroed with all that is between its fields, lives until the bytes are copied, and has this size.
    unsafe { std::slice::from_raw_parts(start, size_of_val(&stat)) }.to_vec()
}

/// The first page of a file, mapped to be read, for as long as this lives: what /proc/self/maps says of it, it says of every
/// mapping of that file. It is never looked into.
#[derive(Debug)]
pub struct Mapped {
    address: *mut libc::c_void,
    length: usize,
}

impl Mapped {
    /// Maps it (mmap(2)). An empty file has a first page, too.
    pub fn new(file: impl AsFd) -> Result<Self> {
        let length = usize::try_from(memory::proc_units().1).unwrap_or(4096);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            let errno = std::io::Error::last_os_error();
            return Err(Error::new("mmap", "PROT_READ, MAP_PRIVATE, fd", errno));
        }
        Ok(Self { address, length })
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.address.addr() as u64
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new` with this length, and nothing refers to it.
        let answer = unsafe { libc::munmap(self.address, self.length) };
        debug_assert_eq!(answer, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;

    #[test]
    fn what_is_mapped_is_read_and_what_is_not_ends_it() {
        let text = *b"what is to be read";
        let mut buffer = [0; 18];
        let address = text.as_ptr().addr() as u64;
        assert_eq!(read(process::own_pid(), address, &mut buffer), text.len());
        assert_eq!(buffer, text);
        for address in [0, 1, u64::MAX - 3, u64::MAX, 1 << 63] {
            assert_eq!(read(process::own_pid(), address, &mut buffer), 0);
        }
        assert_eq!(read(i32::MAX, address, &mut buffer), 0);
    }

    #[test]
    fn what_is_written_is_there_and_elsewhere_it_is_a_fault() {
        let place = Box::new([0_u8; 4]);
        let memory = Memory::open(process::own_pid()).unwrap();
        let address = place.as_ptr().addr() as u64;
        memory.write(address, b"here").unwrap();
        let mut seen = [0; 4];
        assert_eq!(read(process::own_pid(), address, &mut seen), 4);
        assert_eq!(&seen, b"here");
        for address in [0, 1 << 63, u64::MAX] {
            assert!(memory.write(address, b"x").unwrap_err().is(libc::EFAULT));
        }
        assert!(Memory::open(i32::MAX).is_err());
        drop(place);
    }
}
