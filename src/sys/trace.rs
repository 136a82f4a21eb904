//! ptrace(2), as far as the tests of the supervisor play CRIU.

use super::{Error, Result};

/// Traces process `pid`, without stopping it (PTRACE_SEIZE).
pub fn seize(pid: i32) -> Result<()> {
    request(0x4206, pid, 0, 0).map(|_| ())
}

/// A request with numbers in place of addresses.
pub fn request(request: u32, pid: i32, address: u64, data: u64) -> Result<i64> {
    // SAFETY: the kernel checks addresses; those that it writes to are the caller's to name.
    let answer = unsafe { libc::syscall(libc::SYS_ptrace, request, pid, address, data) };
    if answer >= 0 {
        return Ok(answer);
    }
    let errno = std::io::Error::last_os_error();
    Err(Error::new("ptrace", format!("{request:#x}, {pid}"), errno))
}

/// PTRACE_SECCOMP_GET_FILTER into memory of this process.
pub fn get_filter(pid: i32, index: u64, into: &mut [u8; 1 << 15]) -> Result<i64> {
    request(0x420c, pid, index, into.as_mut_ptr().addr() as u64)
}

/// openat(2) with a path that need be none.
pub fn open_at_address(path: u64) -> Result<i64> {
    // SAFETY: the kernel checks the address, and only reads there.
    let answer = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY) };
    if answer >= 0 {
        return Ok(answer);
    }
    let errno = std::io::Error::last_os_error();
    Err(Error::new("openat", format!("{path:#x}"), errno))
}
