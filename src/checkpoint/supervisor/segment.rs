//! Shared memory of System V: a copy of a segment, for CRIU, which asks it for the parts that were never written.
//!
//! How much of a segment there is, is the container's choice: what is not there must not be made by looking.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::MemfdFlags;

use super::task::Container;
use crate::sys::buffer::Buffer;
use crate::sys::segment::Segment;
use crate::sys::{self, memory, process, remote};

/// The largest segment that is looked through, written or not: 256 GiB.
const LARGEST: u64 = 1 << 38;

/// At most so much may be made of what was never written, where it cannot be told from what is swapped out: 64 MiB.
const MADE: u64 = 64 << 20;

/// Pages that are asked about at once, and bytes that are copied at once.
const PAGES: u64 = 1 << 16;
const PIECE: usize = 1 << 20;

/// /proc/sysvipc/shm: a line of at most 300 bytes for each of 32768 segments (IPCMNI).
const LIST_LIMIT: usize = 10 << 20;

/// The segments of the container.
#[derive(Debug, Default)]
pub(super) struct Segments {
    /// Whether this process is in their namespace.
    joined: bool,
}

impl Segments {
    /// A copy of segment `id`, which is to have `size` bytes: with holes where it has no pages. The error number when there is none.
    pub(super) fn copy(
        &mut self,
        container: &Container,
        id: u64,
        size: u64,
    ) -> Result<OwnedFd, i32> {
        let id = i32::try_from(id).map_err(|_| libc::EINVAL)?;
        if size > LARGEST {
            return Err(libc::EFBIG);
        }
        self.join(container).map_err(|e| e.errno)?;
        let amount = amount(id).ok_or(libc::ENOENT)?;
        let segment = Segment::attach(id).map_err(|e| e.errno)?;
        if segment.size().map_err(|e| e.errno)? != size {
            return Err(libc::EINVAL);
        }
        let errno = |e: rustix::io::Errno| e.raw_os_error();
        let file = rustix::fs::memfd_create("segment", MemfdFlags::CLOEXEC).map_err(errno)?;
        rustix::fs::ftruncate(&file, size).map_err(errno)?;
        let copied = copy_resident(&segment, &file, size)?;
        if copied >= amount {
            return Ok(file);
        }
        // Some of it is swapped out.
        if size.saturating_sub(amount) > MADE {
            return Err(libc::ENOMEM);
        }
        copy_piece(&segment, &file, 0, size)?;
        Ok(file)
    }

    /// Joins their namespace, for good: nothing else that this process does has to do with one.
    fn join(&mut self, container: &Container) -> sys::Result<()> {
        if self.joined {
            return Ok(());
        }
        let theirs = container.ipc_namespace()?;
        let own = sys::path::open_magic(Path::new("/proc/thread-self/ns/ipc"))?;
        if sys::ns::identity(&theirs)? != sys::ns::identity(own)? {
            sys::ns::join(theirs, libc::CLONE_NEWIPC.cast_unsigned())?;
        }
        self.joined = true;
        Ok(())
    }
}

/// How many bytes of segment `id` there are, in memory and swapped out.
pub(super) fn amount(id: i32) -> Option<u64> {
    let list = sys::path::read_regular(Path::new("/proc/sysvipc/shm"), LIST_LIMIT).ok()?;
    parse(&String::from_utf8_lossy(&list), id)
}

/// A heading, then a line of numbers for each segment: the second is its id, the last two what there is of it.
fn parse(list: &str, id: i32) -> Option<u64> {
    let id = id.to_string();
    let line = list
        .lines()
        .skip(1)
        .find(|line| line.split_whitespace().nth(1) == Some(&id))?;
    let mut fields = line.split_whitespace().skip(14);
    let resident: u64 = fields.next()?.parse().ok()?;
    let swapped: u64 = fields.next()?.parse().ok()?;
    resident.checked_add(swapped)
}

/// Copies the pages that are in memory; returns their bytes.
fn copy_resident(segment: &Segment, file: &OwnedFd, size: u64) -> Result<u64, i32> {
    let page = memory::proc_units().1;
    let mut states = vec![0; usize::try_from(PAGES).unwrap_or(0)];
    let (mut at, mut copied) = (0, 0);
    while at < size {
        let count = PAGES.min((size - at) / page);
        let states = &mut states[..usize::try_from(count).unwrap_or(0)];
        segment.in_memory(at, states).map_err(|e| e.errno)?;
        for run in states.chunk_by(|a, b| a & 1 == b & 1) {
            let length = run.len() as u64 * page;
            if run[0] & 1 != 0 {
                copy_piece(segment, file, at, length)?;
                copied += length;
            }
            at += length;
        }
    }
    Ok(copied)
}

fn copy_piece(segment: &Segment, file: &OwnedFd, at: u64, length: u64) -> Result<(), i32> {
    let own = process::own_pid();
    let mut buffer = Buffer::new(usize::try_from(length).map_or(PIECE, |length| length.min(PIECE)));
    let mut done = 0;
    while done < length {
        let size = usize::try_from(length - done).map_or(PIECE, |left| left.min(PIECE));
        let piece = &mut buffer[..size];
        if remote::read(own, segment.address() + at + done, piece) != size {
            return Err(libc::EFAULT);
        }
        let written = rustix::io::pwrite(file, piece, at + done).map_err(|e| e.raw_os_error())?;
        done += written as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_of_a_segment_is_in_its_line() {
        let list = "       key      shmid perms       size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime        rss       swap\n\
                    4        1  1600  10485760  3  3 1 0 0 0 0 17 0 17  8192  4096\n\
                    0    32769  1600  4096  1  3 1 0 0 0 0 17 0 17  4096  0\n";
        assert_eq!(parse(list, 1), Some(12288));
        assert_eq!(parse(list, 32769), Some(4096));
        for id in [0, 4, 2, 1600] {
            assert_eq!(parse(list, id), None, "{id}");
        }
        assert_eq!(parse("", 1), None);
        assert_eq!(parse("heading\n0 1 1600\n", 1), None);
    }
}
