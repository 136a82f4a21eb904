//! The members of a tar file by name: where each begins, and how long it is. None is ever extracted.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::decompress::{self, Compression};
use super::part::Part;
use crate::error::{Doing, Error, Result};
use crate::image::Limits;
use crate::image::tar::{Kind, Reader, TarError};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// How many members an archive may have, and how long a name that anybody could ask for may be.
const MEMBERS: usize = 20_000;
const NAME: usize = 256;
/// How many links lead from one to the next.
const LINKS: usize = 8;
/// A header and the padding of a content are multiples of this.
const BLOCK: u64 = 512;
/// What is copied of a compressed archive at a time.
const COPY: usize = 256 << 10;

/// An archive's table of contents.
#[derive(Debug)]
pub(super) struct Archive {
    part: Part,
    members: HashMap<String, Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    File {
        start: u64,
        length: u64,
    },
    /// To another member, by its name.
    Link(String),
    /// A device, a FIFO, a sparse file.
    Other,
    /// The name is there more than once: which one counts differs from tool to tool.
    Ambiguous,
}

impl Archive {
    /// Reads the headers in `part`. A compressed archive is decompressed first, to a file without a name in `scratch`.
    pub(super) fn index(part: Part, scratch: Option<&OwnedFd>, limits: &Limits) -> Result<Self> {
        let compression = Compression::of(&part)?;
        let part = match compression {
            Compression::None => part,
            _ => decompressed(&part, compression, scratch, limits)?,
        };
        let members = members(&part, limits)?;
        Ok(Self { part, members })
    }

    /// The archive's own name.
    pub(super) fn name(&self) -> &str {
        &self.part.name
    }

    /// The regular file of this name; links to other members are followed.
    pub(super) fn open_linked(&self, name: &str) -> Result<Option<Part>> {
        let wrong = |name: &str, what: &str| {
            Err(Error::new(format!("{name} in {} {what}", self.part.name)))
        };
        let mut at = name.to_owned();
        for _ in 0..=LINKS {
            match self.members.get(&at) {
                None => return Ok(None),
                Some(Member::Link(target)) => target.clone_into(&mut at),
                Some(Member::Other) => return wrong(&at, "is not a plain regular file"),
                Some(Member::Ambiguous) => {
                    return wrong(&at, "is there more than once");
                }
                Some(Member::File { start, length }) => {
                    return Ok(Some(Part {
                        file: self.part.file.clone(),
                        start: self.part.start + start,
                        length: *length,
                        name: name.to_owned(),
                    }));
                }
            }
        }
        wrong(name, "leads from link to link")
    }

    /// As [`Self::open_linked`], where a link is refused.
    pub(super) fn open(&self, name: &str) -> Result<Option<Part>> {
        if let Some(Member::Link(_)) = self.members.get(name) {
            return Err(Error::new(format!(
                "{name} in {} is a link",
                self.part.name
            )));
        }
        self.open_linked(name)
    }
}

/// The table of contents of the tar in `part`.
fn members(part: &Part, limits: &Limits) -> Result<HashMap<String, Member>> {
    /// From this size on, a content is jumped over. Below, the reader has it in its buffer.
    const JUMP: u64 = 1 << 20;
    let mut members = HashMap::new();
    let mut count = 0;
    let mut base = 0;
    let mut reader = Reader::new(part.reader(), *limits);
    loop {
        let failed = |mut error: TarError| {
            if let TarError::Archive { position, .. } = &mut error {
                *position += base;
            }
            Error::from(error).within(format!("cannot read {}", part.name))
        };
        let Some(entry) = reader.next().map_err(failed)? else {
            return Ok(members);
        };
        count += 1;
        if count > MEMBERS {
            return Err(Error::new(format!(
                "{} has more than {MEMBERS} members",
                part.name
            )));
        }
        let start = base + entry.offset;
        if let Some(name) = name(&entry.path) {
            let is_plain = entry.extents.is_none();
            let member = match entry.kind {
                Kind::Directory => None,
                Kind::File if is_plain => Some(Member::File {
                    start,
                    length: entry.size,
                }),
                Kind::Symlink => Some(link(parent(&name), &entry.link)),
                Kind::HardLink => Some(link("", &entry.link)),
                _ => Some(Member::Other),
            };
            if let Some(member) = member {
                members
                    .entry(name)
                    .and_modify(|member| *member = Member::Ambiguous)
                    .or_insert(member);
            }
        }
        if entry.kind == Kind::File && entry.extents.is_none() && entry.size >= JUMP {
            let end = entry
                .size
                .checked_next_multiple_of(BLOCK)
                .and_then(|size| start.checked_add(size));
            let Some(end) = end.filter(|end| *end <= part.length) else {
                return Err(Error::new(format!(
                    "{} is incomplete: its last member ends after it",
                    part.name
                ))
                .hint("the file was copied in part: get it again"));
            };
            base = end;
            reader = Reader::new(part.from(end), *limits);
        }
    }
}

/// A member's name as it is asked for, `None` of one that never is.
fn name(path: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(path).ok()?;
    let name = name.strip_prefix("./").unwrap_or(name);
    (name.len() <= NAME).then(|| name.to_owned())
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The member that a link in the directory `from` leads to.
fn link(from: &str, target: &[u8]) -> Member {
    let Some(target) = std::str::from_utf8(target)
        .ok()
        .filter(|target| target.len() <= NAME)
    else {
        return Member::Other;
    };
    let mut names: Vec<&str> = from.split('/').filter(|name| !name.is_empty()).collect();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." if names.pop().is_none() => return Member::Other,
            ".." => {}
            name => names.push(name),
        }
    }
    Member::Link(names.join("/"))
}

/// Writes what `part` is, decompressed, to a file without a name.
fn decompressed(
    part: &Part,
    compression: Compression,
    scratch: Option<&OwnedFd>,
    limits: &Limits,
) -> Result<Part> {
    let name = &part.name;
    let failed = |error: std::io::Error| {
        let hint = decompress::wants_window(&error);
        let failed =
            Error::new(format!("cannot decompress {name} ({compression:?})")).because(error);
        if hint {
            failed.hint("`--max-window` allows a decoder more memory")
        } else {
            failed
        }
    };
    let scratch = scratch.ok_or_else(|| {
        Error::new(format!(
            "{name} is compressed as a whole, and there is no place to decompress it"
        ))
        .hint("decompress it first: gunzip, unzstd or unxz")
    })?;
    let file =
        nameless(scratch).doing(|| format!("cannot make a file for {name}, decompressed"))?;
    let mut file = std::fs::File::from(file);
    let mut source = BufReader::with_capacity(COPY, part.reader());
    let mut tar = decompress::decoder(compression, &mut source, limits.window).map_err(failed)?;
    let mut buffer = vec![0; COPY];
    let mut length = 0;
    loop {
        let count = match tar.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        length += count as u64;
        if length > limits.layer && is_on(Defence::LayerLimits) {
            let limit = limits.layer;
            return Err(Error::new(format!(
                "{name} is more than {limit} bytes long, uncompressed"
            ))
            .hint("if that is meant, `--max-layer-size` allows more"));
        }
        file.write_all(&buffer[..count]).map_err(|error| {
            Error::new(format!("cannot write {name}, decompressed, to the store"))
                .because(sys::Error::new("write", "O_TMPFILE", error))
        })?;
    }
    Ok(Part {
        file: Arc::new(file),
        start: 0,
        length,
        name: name.clone(),
    })
}

/// A file in `directory` that is gone when it is closed.
fn nameless(directory: &OwnedFd) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    let failed = |e| sys::Error::new("openat", "scratch, O_TMPFILE", e);
    match rustix::fs::openat(directory, ".", flags | OFlags::TMPFILE, mode) {
        // NFS has none.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {}
        made => return made.map_err(failed),
    }
    let name = format!("archive-{}", sys::process::own_pid());
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(directory, &name, flags, mode).map_err(failed)?;
    rustix::fs::unlinkat(directory, &name, AtFlags::empty()).map_err(failed)?;
    Ok(fd)
}
