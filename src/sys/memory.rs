//! One byte that a child keeps telling its parent with, at no cost; and the units of /proc.

use std::sync::atomic::{AtomicU8, Ordering};

use super::{Error, Result};

/// A byte in a page shared across clone.
#[derive(Debug)]
pub struct SharedByte {
    page: *mut AtomicU8,
}

const PAGE: usize = 4096;

/// The units that /proc counts in: clock ticks in a second, and bytes in a page (sysconf(3)).
pub fn proc_units() -> (u64, u64) {
    let ask = |name, usual| {
        // SAFETY: sysconf takes a number and returns one.
        let answer = unsafe { libc::sysconf(name) };
        u64::try_from(answer)
            .ok()
            .filter(|n| *n > 0)
            .unwrap_or(usual)
    };
    (ask(libc::_SC_CLK_TCK, 100), ask(libc::_SC_PAGESIZE, 4096))
}

/// Has all threads allocate from one arena, where the C library would make one for each (mallopt(3), M_ARENA_MAX): they hold on to
/// memory that others could use. To be called before there are threads.
pub fn one_arena() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes two numbers; this process has one thread, so that nobody allocates meanwhile.
        let _no_matter = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

impl SharedByte {
    /// A new shared byte, 0.
    pub fn new() -> Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice; MAP_SHARED makes it common with children.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            let errno = std::io::Error::last_os_error();
            return Err(Error::new("mmap", "NULL, 4096, MAP_SHARED", errno));
        }
        let page = page.cast();
        Ok(Self { page })
    }

    /// Sets the byte.
    pub fn set(&self, value: u8) {
        // SAFETY: the page is mapped until drop, is zeroed (a valid AtomicU8) and is only ever accessed atomically.
        let byte = unsafe { &*self.page };
        byte.store(value, Ordering::Relaxed);
    }

    /// Reads the byte.
    pub fn get(&self) -> u8 {
        // SAFETY: as in `set`.
        let byte = unsafe { &*self.page };
        byte.load(Ordering::Relaxed)
    }
}

impl Drop for SharedByte {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `new` with this length, and no reference to it outlives `self`.
        let answer = unsafe { libc::munmap(self.page.cast(), PAGE) };
        debug_assert_eq!(answer, 0);
    }
}
