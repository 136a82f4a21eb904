//! The archive, byte by byte.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read};

/// What is read ahead: many headers and small files at a time, and small enough for the processor's second cache.
const AHEAD: usize = 64 << 10;
/// A read of this size goes past the buffer, straight to where it is wanted.
const DIRECT: usize = 16 << 10;

/// A source that is read a little ahead and knows how much of it was taken.
#[derive(Debug)]
pub(super) struct Source<R> {
    inner: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    position: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: vec![0; AHEAD].into_boxed_slice(),
            start: 0,
            end: 0,
            position: 0,
        }
    }

    /// How many bytes were taken.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    /// What is next, without taking it; empty at the end.
    pub(super) fn fill(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.end = uninterrupted(&mut self.inner, &mut self.buffer)?.min(self.buffer.len());
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    /// Takes `count` bytes of what [`Self::fill`] gave.
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.end - self.start);
        self.start += count;
        self.position += count as u64;
    }

    /// Reads some bytes; none at the end.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end && into.len() >= DIRECT {
            let count = uninterrupted(&mut self.inner, into)?.min(into.len());
            self.position += count as u64;
            return Ok(count);
        }
        let ready = self.fill()?;
        let count = ready.len().min(into.len());
        into[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }

    /// Fills `into` as far as the source goes, and says how far.
    pub(super) fn read_full(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.read(&mut into[done..])? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    /// Passes over `count` bytes; false if the source ends before.
    pub(super) fn skip(&mut self, mut count: u64) -> io::Result<bool> {
        while count > 0 {
            let ready = self.fill()?.len();
            if ready == 0 {
                return Ok(false);
            }
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(ready);
            self.consume(step);
            count -= step as u64;
        }
        Ok(true)
    }
}

fn uninterrupted(source: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(into) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
