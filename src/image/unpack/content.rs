//! The content of files.

use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::trouble::{Tried, Trouble};
use crate::image::tar::Extent;
use crate::sys;

/// Copies all of `content`, `size` bytes.
pub(super) fn copy(
    content: &mut dyn Read,
    to: &OwnedFd,
    size: u64,
    buffer: &mut [u8],
) -> Tried<()> {
    let extent = Extent {
        offset: 0,
        length: size,
    };
    copy_extent(content, to, extent, buffer)
}

/// Copies the parts of a sparse file; the rest stays holes.
pub(super) fn copy_sparse(
    content: &mut dyn Read,
    to: &OwnedFd,
    size: u64,
    extents: &[Extent],
    buffer: &mut [u8],
) -> Tried<()> {
    rustix::fs::ftruncate(to, size)
        .map_err(|e| sys::Error::new("ftruncate", format!("fd, {size}"), e))?;
    for extent in extents {
        let end = extent.offset.checked_add(extent.length);
        if end.is_none_or(|end| end > size) {
            return Err(Trouble::malformed(
                "a part of the sparse file is beyond its end",
            ));
        }
        copy_extent(content, to, *extent, buffer)?;
    }
    Ok(())
}

fn copy_extent(content: &mut dyn Read, to: &OwnedFd, at: Extent, buffer: &mut [u8]) -> Tried<()> {
    let mut done = 0;
    while done < at.length {
        let most = usize::try_from(at.length - done)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = match content.read(&mut buffer[..most]) {
            Ok(0) => return Err(Trouble::malformed("its content ends before its size")),
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e.into()),
        };
        write_at(to, &buffer[..count], at.offset + done)
            .map_err(|e| sys::Error::new("pwrite", format!("fd, {count} bytes"), e))?;
        done += count as u64;
    }
    Ok(())
}

/// Writes all of `bytes` at the offset `at`.
pub(super) fn write_at(to: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(to, bytes, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
