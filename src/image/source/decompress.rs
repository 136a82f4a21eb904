//! What a layer is compressed with, found by its first bytes, and how it is undone.

use std::io::{BufRead, Error, ErrorKind, Read, Result};

use liblzma::stream::{Action, CONCATENATED, Status, Stream};

use super::part::Part;

/// What the decoder of xz takes beyond the dictionary.
const XZ_OVERHEAD: u64 = 2 << 20;
/// The least and the most that a window may be allowed to have: as powers of two, what zstd's format knows.
const WINDOW_LOGS: (u32, u32) = (10, 31);

/// A compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None: a tar as it is.
    None,
    /// gzip (RFC 1952), of one member or several.
    Gzip,
    /// zstd (RFC 8878), of one frame or several.
    Zstd,
    /// xz, of one stream or several.
    Xz,
}

impl Compression {
    /// That of `part`.
    ///
    /// # Errors
    /// It is one that is not supported.
    pub(super) fn of(part: &Part) -> crate::error::Result<Self> {
        Self::detect(&part.magic()?).map_err(|name| {
            crate::error::Error::new(format!("{} is compressed with {name}", part.name))
                .hint("gzip, zstd and xz are understood, and a tar as it is")
        })
    }

    /// What the first six bytes say. The media type is not asked: writers have put another compression in than it said, which
    /// the digests do not mind.
    ///
    /// # Errors
    /// The name of a compression that is not supported.
    fn detect(magic: &[u8]) -> std::result::Result<Self, &'static str> {
        Ok(match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // Skippable frames may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => return Err("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => return Err("lz4"),
            [b'L', b'Z', b'I', b'P', ..] => return Err("lzip"),
            [0x5d, 0, 0, ..] => return Err("lzma"),
            [0x1f, 0x9d, ..] => return Err("compress"),
            _ => Self::None,
        })
    }
}

/// Reads `source` uncompressed; a decoder may take `window` bytes for what it looks back at.
///
/// The end is that of `source`: whatever follows compressed data must be compressed data again.
pub(super) fn decoder<'a>(
    compression: Compression,
    source: &'a mut (impl BufRead + Send),
    window: u64,
) -> Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => {
            if let Some(needed) = zstd_window(source.fill_buf()?)
                && needed > window
            {
                return Err(needs(needed));
            }
            let mut decoder = zstd::Decoder::with_buffer(source)?;
            decoder.window_log_max(window.max(1).ilog2().clamp(WINDOW_LOGS.0, WINDOW_LOGS.1))?;
            Box::new(decoder)
        }
        Compression::Xz => Box::new(Xz::new(source, window)?),
    })
}

/// Whether a decoder gave up because of the limit of its window.
pub(super) fn wants_window(error: &Error) -> bool {
    // The words are ours, of `needs`, and zstd's, of a frame that is not the first.
    let text = error.to_string();
    text.contains("bytes of memory to look back") || text.contains("too much memory")
}

fn needs(window: u64) -> Error {
    let mib = window.div_ceil(1 << 20);
    Error::other(format!(
        "it needs {mib} MiB, {window} bytes of memory to look back"
    ))
}

/// The window of the zstd frame that begins with `head` (RFC 8878 §3.1.1.1).
fn zstd_window(head: &[u8]) -> Option<u64> {
    let (magic, rest) = head.split_at_checked(4)?;
    if magic != [0x28, 0xb5, 0x2f, 0xfd] {
        return None;
    }
    let (descriptor, rest) = rest.split_first()?;
    if descriptor & 0x20 == 0 {
        let byte = u64::from(*rest.first()?);
        let base = 1_u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // One segment: the window is the content, whose size follows the id of a dictionary.
    let skipped = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (length, extra) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let mut size = [0; 8];
    size[..length].copy_from_slice(rest.get(skipped..skipped + length)?);
    u64::from_le_bytes(size).checked_add(extra)
}

/// As liblzma's reader, which does not tell how much memory is missing.
struct Xz<R> {
    source: R,
    stream: Stream,
    window: u64,
    ended: bool,
}

impl<R: BufRead> Xz<R> {
    fn new(source: R, window: u64) -> Result<Self> {
        let limit = window.saturating_add(XZ_OVERHEAD);
        Ok(Self {
            source,
            stream: Stream::new_stream_decoder(limit, CONCATENATED)?,
            window,
            ended: false,
        })
    }

    /// What `--max-window` would have to be.
    fn needed(&mut self) -> Error {
        let mut window = self.window.max(1).next_power_of_two();
        while self.stream.set_memlimit(window + XZ_OVERHEAD).is_err()
            && window.ilog2() < WINDOW_LOGS.1
        {
            window *= 2;
        }
        needs(window)
    }
}

impl<R: BufRead> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while !self.ended && !buffer.is_empty() {
            let input = self.source.fill_buf()?;
            let action = if input.is_empty() {
                Action::Finish
            } else {
                Action::Run
            };
            let before = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.process(input, buffer, action);
            let consumed = self.stream.total_in() - before.0;
            let produced = self.stream.total_out() - before.1;
            self.source
                .consume(usize::try_from(consumed).unwrap_or(usize::MAX));
            match status {
                Err(liblzma::stream::Error::MemLimit) => return Err(self.needed()),
                Err(error) => return Err(error.into()),
                Ok(Status::StreamEnd) => self.ended = true,
                Ok(_) if consumed == 0 && produced == 0 => {
                    let kind = match action {
                        Action::Finish => ErrorKind::UnexpectedEof,
                        _ => ErrorKind::InvalidData,
                    };
                    return Err(Error::new(kind, "the xz stream is incomplete"));
                }
                Ok(_) => {}
            }
            if produced > 0 {
                return Ok(usize::try_from(produced).unwrap_or(buffer.len()));
            }
        }
        Ok(0)
    }
}
