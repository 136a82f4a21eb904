//! Memory that files are read into.

use std::ops::{Deref, DerefMut, Range};

/// A large allocation of glibc begins 16 bytes after the begin of a page. Where the page cache has a file begins with a page, and from
/// there AMD's Zen 3 copies to just after the begin of another (`rep movsb`, with FSRM) at a quarter of the speed that it has to here.
const ALIGNMENT: usize = 64;

/// Bytes, zero at first, that begin where the kernel copies to them fast.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    range: Range<usize>,
}

impl Buffer {
    /// One of `size` bytes.
    pub fn new(size: usize) -> Self {
        let bytes = vec![0; size + ALIGNMENT].into_boxed_slice();
        // A pointer may have no such offset, for all that is said of it: any other will do.
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self {
            bytes,
            range: start..start + size,
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_its_size_and_begins_at_its_alignment() {
        for size in [0, 1, 63, 64, 4096, 256 << 10] {
            let mut buffer = Buffer::new(size);
            assert_eq!(buffer.len(), size);
            assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
            buffer.fill(7);
            assert!(buffer.iter().all(|byte| *byte == 7));
        }
    }
}
