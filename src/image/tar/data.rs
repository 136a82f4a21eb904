//! The content of an entry.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, ErrorKind, Read};

use super::Reader;
use super::error::Problem;

/// The content of an entry. Large reads go straight from the source to the caller.
///
/// Its errors are the source's own; if the archive is too short, a [`super::TarError`] is in them.
#[derive(Debug)]
pub struct Data<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<'a, R: Read> Data<'a, R> {
    pub(super) fn of(reader: &'a mut Reader<R>) -> Self {
        Self { reader }
    }

    fn check_end(&self, count: usize) -> io::Result<()> {
        if count == 0 {
            let position = self.reader.position();
            let error = Problem::Truncated.at(position, &self.reader.name);
            return Err(io::Error::new(ErrorKind::UnexpectedEof, error));
        }
        Ok(())
    }
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.reader.left)
            .unwrap_or(usize::MAX)
            .min(into.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.source.read(&mut into[..most])?;
        self.check_end(count)?;
        self.reader.left -= count as u64;
        Ok(count)
    }
}

/// Lends what was read ahead: a small file needs no buffer of the caller's.
impl<R: Read> BufRead for Data<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let left = usize::try_from(self.reader.left).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(&[]);
        }
        let count = self.reader.source.fill()?.len();
        self.check_end(count)?;
        let ready = self.reader.source.fill()?;
        Ok(&ready[..left.min(ready.len())])
    }

    fn consume(&mut self, count: usize) {
        self.reader.source.consume(count);
        self.reader.left = self.reader.left.saturating_sub(count as u64);
    }
}
