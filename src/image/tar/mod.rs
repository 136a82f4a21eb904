//! The reader of a layer's tar: what an archive says, entry by entry, in one pass and in bounded memory.
//!
//! It knows the old headers, ustar, GNU tar's and pax's (pax(1); tar(5) of libarchive; GNU tar's manual). Where programs differ in
//! what an archive means, so that one can be shown what another does not see, it refuses: two names for one entry, a malformed
//! record, a single block of zeros with more behind it. The size in an extended header always counts (CVE-2025-62518,
//! CVE-2026-33055), and what an extended header says is for the next entry itself, never for another extension before it
//! (RUSTSEC-2026-0112). Of the crate `tar` only the layout of headers is used.
#![forbid(unsafe_code)]

use std::io::{self, Read};

use super::Limits;
use crate::sys::defence::{Defence, is_on};

mod data;
mod entry;
mod error;
mod header;
#[cfg(test)]
mod hostile_tests;
pub mod pax;
mod source;
mod sparse;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;

pub use data::Data;
pub use entry::{Entry, Extent, Kind, Time};
pub use error::{Limit, Problem, TarError};
use header::{BLOCK, Fields};
use pax::{Records, Scope};
use source::Source;
use sparse::{MapReader, Sparse};

/// Reads an archive from `R`.
#[derive(Debug)]
pub struct Reader<R> {
    source: Source<R>,
    limits: Limits,
    block: [u8; BLOCK],
    /// Whether `block` is the next one, looked at already.
    ahead: bool,
    ended: bool,
    /// What holds for all later entries.
    global: Records,
    entries: u64,
    /// The sizes of all files so far.
    total: u64,
    /// The entry whose content is next.
    name: Vec<u8>,
    /// What of its content was not read yet, and what fills the last block.
    left: u64,
    padding: u64,
}

/// What extended headers say of the entry that follows them.
#[derive(Debug, Default)]
struct Pending {
    records: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.records.is_none() && self.name.is_none() && self.link.is_none()
    }
}

impl<R: Read> Reader<R> {
    /// A reader at the beginning of an archive.
    pub fn new(source: R, limits: Limits) -> Self {
        Self {
            source: Source::new(source),
            limits,
            block: [0; BLOCK],
            ahead: false,
            ended: false,
            global: Records::default(),
            entries: 0,
            total: 0,
            name: Vec::new(),
            left: 0,
            padding: 0,
        }
    }

    /// The next entry, `None` at the end. Passes over what was not read of the one before.
    ///
    /// # Errors
    /// What is wrong with the archive, or the source's own. There is no going on after it.
    #[expect(
        clippy::should_implement_trait,
        reason = "an entry's content is read between two calls, and failing is not ending"
    )]
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_content()?;
        let mut pending = Pending::default();
        while !self.ended {
            let position = self.position();
            if !self.next_header(position)? {
                self.ended = true;
                break;
            }
            self.count(position)?;
            let at = |problem: Problem| problem.at(position, &[]);
            let header = header::checked(&mut self.block).map_err(at)?;
            let fields = Fields::read(header).map_err(at)?;
            match fields.typeflag {
                b'x' | b'g' => self.extended_header(&fields, position, &mut pending)?,
                b'L' => {
                    let name = self.long_name(&fields, position)?;
                    once(&mut pending.name, name, position)?;
                }
                b'K' => {
                    let link = self.long_name(&fields, position)?;
                    once(&mut pending.link, link, position)?;
                }
                _ => return self.entry(fields, pending, position).map(Some),
            }
        }
        if pending.is_empty() {
            return Ok(None);
        }
        let problem = Problem::malformed("the entry that an extended header is for is missing");
        Err(problem.at(self.position(), &[]))
    }

    /// The content of the entry that [`Self::next`] gave last, as it is stored: of a sparse file its parts, one after the other.
    pub fn data(&mut self) -> Data<'_, R> {
        Data::of(self)
    }

    /// Reads to the end of the source, whatever is behind the end of the archive, and gives the source back.
    ///
    /// # Errors
    /// The source's own; an archive that ends within the present entry.
    pub fn finish(mut self) -> Result<R, TarError> {
        self.skip_content()?;
        loop {
            match self.source.fill().map(<[u8]>::len) {
                Ok(0) => return Ok(self.source.into_inner()),
                Ok(count) => self.source.consume(count),
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Where the next block begins.
    fn position(&self) -> u64 {
        self.source.position() - if self.ahead { BLOCK as u64 } else { 0 }
    }

    fn failed(&self, error: io::Error) -> TarError {
        TarError::Read {
            position: self.source.position(),
            error,
        }
    }

    /// Reads the next block; false at the end of the source.
    fn next_block(&mut self, name: &[u8]) -> Result<bool, TarError> {
        if std::mem::take(&mut self.ahead) {
            return Ok(true);
        }
        let position = self.source.position();
        match self.source.read_full(&mut self.block) {
            Ok(0) => Ok(false),
            Ok(BLOCK) => Ok(true),
            Ok(_) => Err(Problem::Truncated.at(position, name)),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Reads the next header; false at the end: two blocks of zeros, or the source's own, which GNU tar accepts too.
    fn next_header(&mut self, position: u64) -> Result<bool, TarError> {
        if !self.next_block(&[])? {
            return Ok(false);
        }
        if !header::is_zero(&self.block) {
            return Ok(true);
        }
        if self.next_block(&[])? && !header::is_zero(&self.block) {
            let problem = Problem::malformed(
                "a block of zeros has no second one behind it, but something else: programs differ in whether that ends the archive",
            );
            return Err(problem.at(position, &[]));
        }
        Ok(false)
    }

    /// Counts a header. Global ones count too: there may be any number of them.
    fn count(&mut self, position: u64) -> Result<(), TarError> {
        self.entries += 1;
        within(Limit::Entries, self.entries, self.limits.entries)
            .map_err(|problem| problem.at(position, &[]))
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        match self.source.skip(rest) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Problem::Truncated.at(self.position(), &self.name)),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Reads the content of an extension, of `size` bytes, which are not more than were taken.
    fn extension(&mut self, size: u64, name: &[u8]) -> Result<Vec<u8>, TarError> {
        let position = self.source.position();
        let truncated = || Problem::Truncated.at(position, name);
        let mut content = vec![0; usize::try_from(size).map_err(|_| truncated())?];
        let whole = self.source.read_full(&mut content);
        if whole.map_err(|error| self.failed(error))? < content.len() {
            return Err(truncated());
        }
        match self.source.skip(padding(size)) {
            Ok(true) => Ok(content),
            Ok(false) => Err(truncated()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Reads a header of type x or g.
    fn extended_header(
        &mut self,
        fields: &Fields,
        position: u64,
        pending: &mut Pending,
    ) -> Result<(), TarError> {
        let at = |problem: Problem| problem.at(position, &fields.path);
        within(Limit::Header, fields.size, self.limits.header as u64).map_err(at)?;
        let content = self.extension(fields.size, &fields.path)?;
        if fields.typeflag == b'g' {
            self.global = Records::parse(&self.global, &content, Scope::Later).map_err(at)?;
            return Ok(());
        }
        let records = Records::parse(&self.global, &content, Scope::Next).map_err(at)?;
        once(&mut pending.records, records, position)
    }

    /// Reads a name that GNU tar stored as the content of an entry of its own (types L and K).
    fn long_name(&mut self, fields: &Fields, position: u64) -> Result<Vec<u8>, TarError> {
        let at = |problem: Problem| problem.at(position, &fields.path);
        // One more: a NUL ends it.
        let most = self.limits.name as u64 + 1;
        within(Limit::Name, fields.size, most).map_err(at)?;
        let mut name = self.extension(fields.size, &fields.path)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        if name.contains(&0) {
            return Err(at(Problem::malformed("its long name has a NUL in it")));
        }
        Ok(name)
    }

    /// Makes an entry of its header and of what was said of it before.
    fn entry(
        &mut self,
        fields: Fields,
        pending: Pending,
        position: u64,
    ) -> Result<Entry, TarError> {
        let records = pending.records.unwrap_or_else(|| self.global.clone());
        let told_name = records.sparse.name.clone();
        let name_at = |problem: Problem| problem.at(position, &fields.path);
        let path = name(records.path, pending.name, &fields.path, "names").map_err(name_at)?;
        let link = name(records.link, pending.link, &fields.link, "targets").map_err(name_at)?;
        let path = told_name.unwrap_or(path);
        let at = |problem: Problem| problem.at(position, &path);

        let longest = path.len().max(link.len()) as u64;
        within(Limit::Name, longest, self.limits.name as u64).map_err(name_at)?;
        let kind = header::kind(&fields, &path, &self.block).map_err(at)?;
        let links = matches!(kind, Kind::Symlink | Kind::HardLink);
        if links && link.is_empty() {
            return Err(at(Problem::malformed("it is a link without a target")));
        }
        let uid = id(records.uid, fields.uid, "uid").map_err(at)?;
        let gid = id(records.gid, fields.gid, "gid").map_err(at)?;
        let of_header = Time {
            seconds: fields.mtime,
            nanoseconds: 0,
        };
        let told = records.sparse.resolve().map_err(at)?;
        if told.is_some() && (kind != Kind::File || fields.typeflag == b'S') {
            return Err(at(Problem::malformed(
                "it has a sparse map that does not belong to it",
            )));
        }
        let stored = records.size.unwrap_or(fields.size);
        self.name.clone_from(&path);
        let (size, extents) = match kind {
            Kind::File => self.content(fields.typeflag == b'S', told, stored, position)?,
            _ => {
                self.no_content(stored)?;
                (0, None)
            }
        };
        Ok(Entry {
            kind,
            mode: fields.mode,
            uid,
            gid,
            mtime: records.mtime.unwrap_or(of_header),
            size,
            link: if links { link } else { Vec::new() },
            xattrs: records.xattrs.into_iter().collect(),
            extents,
            offset: self.position(),
            path,
        })
    }

    /// Prepares the content of a file that has `stored` bytes in the archive; its size and its map.
    fn content(
        &mut self,
        old_sparse: bool,
        told: Option<Sparse>,
        stored: u64,
        position: u64,
    ) -> Result<(u64, Option<Vec<Extent>>), TarError> {
        let limits = self.limits;
        let name = self.name.clone();
        let at = |problem: Problem| problem.at(position, &name);
        let size = match &told {
            Some(Sparse::Mapped { size, .. } | Sparse::InContent { size }) => *size,
            None if old_sparse => {
                sparse::old(header::view(&self.block), &mut Vec::new())
                    .map_err(at)?
                    .0
            }
            None => stored,
        };
        within(Limit::File, size.max(stored), limits.file).map_err(at)?;
        self.total = self.total.saturating_add(size);
        within(Limit::Layer, self.total, limits.layer).map_err(at)?;

        let mut left = stored;
        let extents = match told {
            Some(Sparse::Mapped { extents, .. }) => Some(extents),
            Some(Sparse::InContent { .. }) => Some(self.map_in_content(&mut left, &name)?),
            None if old_sparse => Some(self.old_map(&name, position)?),
            None => None,
        };
        if let Some(extents) = &extents {
            sparse::check(extents, size, left).map_err(at)?;
        }
        (self.left, self.padding) = (left, padding(stored));
        Ok((size, extents))
    }

    /// The map of an old GNU sparse file: four parts in its header, the rest in blocks of its own.
    fn old_map(&mut self, name: &[u8], position: u64) -> Result<Vec<Extent>, TarError> {
        let at = |problem: Problem| problem.at(position, name);
        let mut extents = Vec::new();
        let (_, mut more) = sparse::old(header::view(&self.block), &mut extents).map_err(at)?;
        while more {
            if !self.next_block(name)? {
                return Err(Problem::Truncated.at(self.position(), name));
            }
            more = sparse::more(&self.block, &mut extents).map_err(at)?;
        }
        Ok(extents)
    }

    /// The map in the first blocks of the content, which `left` then no longer counts.
    fn map_in_content(&mut self, left: &mut u64, name: &[u8]) -> Result<Vec<Extent>, TarError> {
        let mut map = MapReader::default();
        loop {
            let position = self.position();
            let Some(rest) = left.checked_sub(BLOCK as u64) else {
                let problem = Problem::malformed("its sparse map is longer than its content");
                return Err(problem.at(position, name));
            };
            *left = rest;
            if !self.next_block(name)? {
                return Err(Problem::Truncated.at(position, name));
            }
            if map
                .take(&self.block)
                .map_err(|problem| problem.at(position, name))?
            {
                return Ok(map.extents());
            }
        }
    }

    /// Passes over the content of what is no file, if there is any. A size does not tell: most programs neither write nor read
    /// one, whatever the size; some wrote the file with each of its hard links. If the next block is a header, there is none.
    fn no_content(&mut self, stored: u64) -> Result<(), TarError> {
        if stored == 0 {
            return Ok(());
        }
        let name = self.name.clone();
        if !self.next_block(&name)? {
            return Ok(());
        }
        if header::may_be_next(&self.block) {
            self.ahead = true;
            return Ok(());
        }
        let end = stored.saturating_add(padding(stored));
        (self.left, self.padding) = (end - BLOCK as u64, 0);
        self.skip_content()
    }
}

/// What fills the last block of a content of `size` bytes.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn within(limit: Limit, said: u64, most: u64) -> Result<(), Problem> {
    if said > most && is_on(Defence::LayerLimits) {
        return Err(Problem::Limit { limit, said, most });
    }
    Ok(())
}

/// Keeps `value` for the next entry. Of two, programs take the one or the other.
fn once<T>(place: &mut Option<T>, value: T, position: u64) -> Result<(), TarError> {
    if place.replace(value).is_some() {
        let problem = Problem::malformed("it has two extended headers of the same kind");
        return Err(problem.at(position, &[]));
    }
    Ok(())
}

/// A name by its three sources. GNU tar and Go differ in which of the first two counts: they must be the same.
fn name(
    record: Option<Vec<u8>>,
    long: Option<Vec<u8>>,
    header: &[u8],
    what: &str,
) -> Result<Vec<u8>, Problem> {
    match (record, long) {
        (Some(record), Some(long)) if record != long => {
            let message = format!("its extended headers give it two {what}");
            Err(Problem::malformed(message))
        }
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(header.to_vec()),
    }
}

fn id(record: Option<u32>, header: i64, what: &str) -> Result<u32, Problem> {
    let of_header = || u64::try_from(header).ok().and_then(pax::usable_id);
    let no_id = || Problem::malformed(format!("its {what} {header} is none that the kernel has"));
    record.or_else(of_header).ok_or_else(no_id)
}
