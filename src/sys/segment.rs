//! Shared memory of System V, looked at without touching it (shmat(2), mincore(2)).

use super::{Error, Result, memory};

/// A segment, attached to be read.
#[derive(Debug)]
pub struct Segment {
    address: *mut libc::c_void,
    id: i32,
}

impl Segment {
    /// Attaches segment `id` of this process's ipc namespace.
    pub fn attach(id: i32) -> Result<Self> {
        // SAFETY: at an address of the kernel's choice, where nothing else is.
        let address = unsafe { libc::shmat(id, std::ptr::null(), libc::SHM_RDONLY) };
        if address.addr() == usize::MAX {
            let errno = std::io::Error::last_os_error();
            return Err(Error::new(
                "shmat",
                format!("{id}, NULL, SHM_RDONLY"),
                errno,
            ));
        }
        Ok(Self { address, id })
    }

    /// A new segment of `size` bytes, attached to be written to, with a byte at each of these offsets. It is gone when detached.
    #[cfg(test)]
    pub fn make(size: u64, written: &[u64]) -> Result<Self> {
        let error = |call| Error::new(call, format!("{size}"), std::io::Error::last_os_error());
        let flags = libc::IPC_CREAT | libc::SHM_NORESERVE | 0o600;
        // SAFETY: plain numbers.
        let id =
            unsafe { libc::shmget(libc::IPC_PRIVATE, usize::try_from(size).unwrap_or(0), flags) };
        if id < 0 {
            return Err(error("shmget"));
        }
        // SAFETY: at an address of the kernel's choice, where nothing else is.
        let address = unsafe { libc::shmat(id, std::ptr::null(), 0) };
        // SAFETY: without a structure; the segment lives as long as it is attached.
        let removed = unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        if address.addr() == usize::MAX || removed < 0 {
            return Err(error("shmat"));
        }
        let segment = Self { address, id };
        let memory = super::remote::Memory::open(super::process::own_pid())?;
        for offset in written {
            memory.write(segment.address() + offset, &[1])?;
        }
        Ok(segment)
    }

    /// Its number.
    #[cfg(test)]
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Its size in bytes, a multiple of the page's.
    pub fn size(&self) -> Result<u64> {
        // SAFETY: all-zero is a valid shmid_ds, and it outlives the call.
        let mut about: libc::shmid_ds = unsafe { std::mem::zeroed() };
        // SAFETY: as above; the id is that of a segment that is attached, so it is there.
        let answer = unsafe { libc::shmctl(self.id, libc::IPC_STAT, &raw mut about) };
        if answer < 0 {
            let errno = std::io::Error::last_os_error();
            return Err(Error::new(
                "shmctl",
                format!("{}, IPC_STAT", self.id),
                errno,
            ));
        }
        Ok((about.shm_segsz as u64).next_multiple_of(memory::proc_units().1))
    }

    /// Where it is in this process.
    pub fn address(&self) -> u64 {
        self.address.addr() as u64
    }

    /// Which of its pages from byte `offset` on are in memory: bit 0 of a byte for each. What was never written to is not, and is
    /// not made by asking.
    pub fn in_memory(&self, offset: u64, pages: &mut [u8]) -> Result<()> {
        let length = pages.len() as u64 * memory::proc_units().1;
        let within = offset
            .checked_add(length)
            .is_some_and(|end| self.size().is_ok_and(|size| end <= size));
        let args = || format!("{offset:#x}, {length:#x}");
        let (true, Ok(start), Ok(count)) =
            (within, usize::try_from(offset), usize::try_from(length))
        else {
            return Err(Error::new("mincore", args(), libc::ENOMEM));
        };
        // SAFETY: the range is within the segment, and there is a byte for each page of it. The memory itself is not touched.
        let answer = unsafe {
            libc::mincore(
                self.address.wrapping_byte_add(start),
                count,
                pages.as_mut_ptr(),
            )
        };
        match answer {
            0 => Ok(()),
            _ => Err(Error::new(
                "mincore",
                args(),
                std::io::Error::last_os_error(),
            )),
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: it was attached there by `attach`, and nothing refers to it.
        let answer = unsafe { libc::shmdt(self.address) };
        debug_assert_eq!(answer, 0);
    }
}
