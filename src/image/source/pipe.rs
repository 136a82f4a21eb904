//! A layer as a stream of its tar: read, hashed, decompressed and hashed again by a thread of its own.

use std::fmt;
use std::io::{BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::decompress::{self, Compression};
use super::part::{Part, PartReader};
use crate::error::{Error, Result};
use crate::image::{Digest, Hasher, Limits};
use crate::sys::defence::{Defence, is_on};

/// The bytes of a piece, of which [`AHEAD`] may wait to be read.
const PIECE: usize = 256 << 10;
const AHEAD: usize = 6;
/// What is read of the compressed file at a time.
const READ: usize = 128 << 10;
/// Of the thread; the decoders have their memory elsewhere.
const STACK: usize = 512 << 10;
/// What an entry takes in a tar besides its content, on the safe side.
const PER_ENTRY: u64 = 4096;

/// The tar of a layer, while it is decompressed.
///
/// Dropped before its end, it stops the thread and waits for it.
pub struct LayerStream {
    name: String,
    expected: Expected,
    pieces: Option<Receiver<Piece>>,
    spare: Option<SyncSender<Piece>>,
    worker: Option<JoinHandle<Result<Totals>>>,
    outcome: Option<Result<Totals>>,
    current: Option<Piece>,
    at: usize,
}

/// What the descriptor and the config say of a layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Expected {
    pub(super) digest: Option<Digest>,
    pub(super) size: Option<u64>,
    pub(super) diff_id: Option<Digest>,
}

/// What it was.
#[derive(Debug, Clone)]
struct Totals {
    digest: Digest,
    size: u64,
    diff_id: Digest,
    tar_size: u64,
}

struct Piece {
    buffer: Box<[u8]>,
    length: usize,
}

/// All that the thread needs.
pub(super) struct Work {
    pub(super) part: Part,
    pub(super) compression: Compression,
    pub(super) limits: Limits,
    pub(super) progress: Arc<AtomicU64>,
}

impl LayerStream {
    /// Starts the thread.
    pub(super) fn start(work: Work, expected: Expected) -> Result<Self> {
        let name = work.part.name.clone();
        let (send, pieces) = sync_channel(AHEAD);
        let (spare, spares) = sync_channel(AHEAD);
        let like = expected.clone();
        let worker = std::thread::Builder::new()
            .name("layer".to_owned())
            .stack_size(STACK)
            .spawn(move || work.run(&like, &send, &spares))
            .map_err(|error| {
                Error::new("cannot start a thread to decompress a layer")
                    .because(error)
                    .hint("`ulimit -u` limits them")
            })?;
        Ok(Self {
            name,
            expected,
            pieces: Some(pieces),
            spare: Some(spare),
            worker: Some(worker),
            outcome: None,
            current: None,
            at: 0,
        })
    }

    /// Reads what is left, and tells whether all of it was as it should be: size and digest as the descriptor says, the
    /// tar's digest as the config says. Returns that digest, the diff id.
    ///
    /// # Errors
    /// Damaged data, or other data than the descriptor or the config means.
    pub fn verify(&mut self) -> Result<Digest> {
        while self.next_piece() {}
        let totals = match &self.outcome {
            Some(Ok(totals)) => totals,
            Some(Err(error)) => return Err(error.clone()),
            None => return Err(Error::new(format!("{} was not read", self.name))),
        };
        if is_on(Defence::BlobDigests) {
            self.expected.compare(totals, &self.name)?;
        }
        Ok(totals.diff_id.clone())
    }

    /// The bytes of the tar, once all was read.
    pub fn tar_size(&self) -> Option<u64> {
        match &self.outcome {
            Some(Ok(totals)) => Some(totals.tar_size),
            _ => None,
        }
    }

    /// Why reading failed, with the hints that an error of reading cannot carry.
    pub fn failure(&self) -> Option<Error> {
        self.outcome.as_ref()?.as_ref().err().cloned()
    }

    /// Waits for the next piece; `false` at the end, whose cause is `outcome` then.
    fn next_piece(&mut self) -> bool {
        if let (Some(piece), Some(spare)) = (self.current.take(), &self.spare) {
            // Where there are enough of them, one less is no loss.
            let _full = spare.try_send(piece);
        }
        self.at = 0;
        self.current = self.pieces.as_ref().and_then(|pieces| pieces.recv().ok());
        if self.current.is_none() {
            self.join();
        }
        self.current.is_some()
    }

    /// Ends the thread, if it has not ended.
    fn join(&mut self) {
        self.pieces = None;
        self.spare = None;
        if let Some(worker) = self.worker.take() {
            let died = || Error::new(format!("the thread that read {} died", self.name));
            self.outcome = Some(worker.join().unwrap_or_else(|_| Err(died())));
        }
    }
}

impl Read for LayerStream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let is_used_up = |piece: &Piece| self.at == piece.length;
        if self.current.as_ref().is_none_or(is_used_up) && !self.next_piece() {
            return match &self.outcome {
                Some(Err(error)) => Err(std::io::Error::other(error.message())),
                _ => Ok(0),
            };
        }
        let Some(piece) = &self.current else {
            return Ok(0);
        };
        let rest = &piece.buffer[self.at..piece.length];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl Drop for LayerStream {
    fn drop(&mut self) {
        self.join();
    }
}

impl fmt::Debug for LayerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerStream")
            .field("name", &self.name)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

impl Expected {
    fn compare(&self, totals: &Totals, name: &str) -> Result<()> {
        let damaged = |what: String| {
            Err(Error::new(format!("{name} is not what the image means"))
                .because(what)
                .hint("the file is damaged, or was changed: get it again"))
        };
        if let Some(size) = self.size.filter(|size| *size != totals.size) {
            return damaged(format!(
                "it has {} bytes, its descriptor says {size}",
                totals.size
            ));
        }
        if let Some(digest) = self
            .digest
            .as_ref()
            .filter(|digest| **digest != totals.digest)
        {
            return damaged(format!(
                "its digest is {}, its descriptor says {digest}",
                totals.digest
            ));
        }
        match self.diff_id.as_ref().filter(|id| **id != totals.diff_id) {
            Some(id) => damaged(format!(
                "uncompressed, its digest is {}, and the config says {id} (rootfs.diff_ids)",
                totals.diff_id
            )),
            None => Ok(()),
        }
    }
}

impl Work {
    /// Reads all of the part into `send`. Ends early, as if all were well, when nobody receives any more.
    fn run(
        self,
        like: &Expected,
        send: &SyncSender<Piece>,
        spares: &Receiver<Piece>,
    ) -> Result<Totals> {
        let hasher =
            |digest: &Option<Digest>| digest.as_ref().map_or_else(Hasher::sha256, Hasher::like);
        let is_sha256 =
            |digest: &Option<Digest>| digest.as_ref().is_none_or(|d| d.algorithm() == "sha256");
        // A tar as it is has one digest.
        let is_same = self.compression == Compression::None
            && is_sha256(&like.digest) == is_sha256(&like.diff_id);
        let mut source = BufReader::with_capacity(
            READ,
            Tally {
                reader: self.part.reader(),
                hasher: (!is_same).then(|| hasher(&like.digest)),
                count: 0,
                progress: self.progress.clone(),
            },
        );
        let limit = self
            .limits
            .layer
            .saturating_add(self.limits.entries.saturating_mul(PER_ENTRY));
        let mut diff = hasher(&like.diff_id);
        let mut tar_size = 0;
        let failed = |error| self.failed(&error);
        {
            let mut tar = decompress::decoder(self.compression, &mut source, self.limits.window)
                .map_err(failed)?;
            loop {
                let mut piece = spares.try_recv().unwrap_or_else(|_| Piece {
                    buffer: vec![0; PIECE].into_boxed_slice(),
                    length: 0,
                });
                piece.length = fill(&mut tar, &mut piece.buffer).map_err(failed)?;
                diff.update(&piece.buffer[..piece.length]);
                tar_size += piece.length as u64;
                if tar_size > limit && is_on(Defence::LayerLimits) {
                    return Err(Error::new(format!(
                        "{} is more than {limit} bytes long, uncompressed",
                        self.part.name
                    ))
                    .hint("if that is meant, `--max-layer-size` allows more"));
                }
                if piece.length == 0 || send.send(piece).is_err() {
                    break;
                }
            }
        }
        let tally = source.into_inner();
        let diff_id = diff.finish();
        Ok(Totals {
            digest: tally.hasher.map_or_else(|| diff_id.clone(), Hasher::finish),
            size: tally.count,
            diff_id,
            tar_size,
        })
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        let name = &self.part.name;
        let what = match self.compression {
            Compression::None => format!("cannot read {name}"),
            known => format!("cannot decompress {name} ({known:?})"),
        };
        let failed = Error::new(what).because(error);
        if decompress::wants_window(error) {
            return failed.hint("`--max-window` allows a decoder more memory");
        }
        failed
    }
}

/// Fills `buffer` as far as `source` has something.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Hashes and counts what is read.
struct Tally {
    reader: PartReader,
    hasher: Option<Hasher>,
    count: u64,
    progress: Arc<AtomicU64>,
}

impl Read for Tally {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.count += count as u64;
        self.progress.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
