//! What `create` saves for a later checkpoint: what cannot be found out from the container any more.
//!
//! It is one file in the container's state directory, beside the config: a name of its form, the length of what is [`Saved`] and that as
//! JSON, then each filter's number of instructions and its instructions as the kernel has them, and a checksum of all that. It is written
//! without ceremony, as it counts only once the container's record is published, which is later.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::init::{Manner, Preserved};
use crate::plan::{MountSource, Plan, RootUpper};
use crate::seccomp::LONGEST;
use crate::state::Entry;
use crate::sys;
use crate::sys::seccomp::{INSTRUCTION_SIZE, Instruction, from_bytes, to_bytes};

/// The file's name.
const FILE: &str = "checkpoint";

/// What the images of a checkpoint have of it.
pub const SAVED: &str = "lodger-saved.img";

/// What it begins with: name and version of its form.
const MAGIC: &[u8; 16] = b"lodger created 1";

/// The largest file that is read, in bytes: what comes of a config of 16 MiB fits.
pub const LARGEST: usize = 32 << 20;

/// How many filters there are at most: that of the config, and that which feigns.
const MOST_FILTERS: usize = 2;

/// A program for the kernel, in instructions.
pub type Program = Vec<Instruction>;

/// How a container was made, as far as a checkpoint has to know; beside it the system call filters as they were loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Files of the caller's that its first process has, by their numbers in it: the standard streams and what was preserved.
    pub streams: Vec<Stream>,
    /// The mounts that came from outside.
    pub externals: Vec<External>,
    /// The flags of seccomp(2) with which each filter was loaded, in the order in which they were loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter_flags: Vec<u64>,
    /// What a restore could not make once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<Passing>,
}

/// What there is of a container only as long as it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passing {
    /// What it changes in its root filesystem, which is in memory.
    Changes,
    /// An overlay that was mounted here, of directories outside of the container.
    Overlay(PathBuf),
}

/// A file that the caller has passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its number in the container's first process.
    pub number: u32,
    /// st_dev (stat(2)).
    pub device: u64,
    /// st_ino.
    pub inode: u64,
    /// st_rdev, of a device node.
    pub rdev: u64,
    /// st_mode, which tells its type.
    pub mode: u32,
}

/// A mount that shows something of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// Where the plan has it, an absolute path in the container: with the links that were followed. It is the key under which CRIU
    /// knows the mount.
    pub destination: PathBuf,
    /// What it is.
    pub kind: ExternalKind,
}

/// What is mounted from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternalKind {
    /// A bind mount of the config's.
    Bind,
    /// A bind mount with all that is mounted beneath its source.
    RecursiveBind,
    /// A device node of the host.
    Device,
    /// The host's /dev/null over a masked path, where that is a file.
    Mask,
}

impl Saved {
    /// What is to be saved of a container that is made from `plan` in this `manner`, by the process whose files it gets.
    pub fn of(plan: &Plan, manner: &Manner) -> Self {
        Self {
            streams: streams(plan.process.terminal.is_some(), &manner.preserved),
            externals: externals(plan),
            filter_flags: manner.loaded_flags(),
            passing: passing(plan),
        }
    }

    /// Writes it for the container of `entry`, with the programs of the filters that its processes are under, in the order in which
    /// they are loaded.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, entry: &Entry, filters: &[&[Instruction]]) -> Result<()> {
        let content = content(self, filters).map_err(|error| {
            let what = format!("cannot keep how container {:?} is made", entry.id());
            Error::new(what).because(error)
        })?;
        entry.keep(FILE, &content)
    }

    /// As it is written, for the images of a checkpoint, with the programs that [`Saved::read`] gave.
    ///
    /// # Errors
    /// It is too long.
    pub fn encode(&self, filters: &[Program]) -> Result<Vec<u8>> {
        let filters: Vec<&[Instruction]> = filters.iter().map(Vec::as_slice).collect();
        content(self, &filters)
            .map_err(|error| Error::new("cannot keep how the container was made").because(error))
    }

    /// The other way round; `None` for what is not whole.
    pub fn decode(bytes: &[u8]) -> Option<(Self, Vec<Program>)> {
        parse(bytes)
    }

    /// What was saved of the container of `entry`, and the programs of its filters: that with index N is what the kernel gives for
    /// PTRACE_SECCOMP_GET_FILTER with the number N. The kernel counts from the one that was loaded first (`get_nth_filter` of
    /// kernel/seccomp.c; ptrace(2) has it the other way round). `None`: the container was made by a lodger that saved nothing.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn read(entry: &Entry) -> Result<Option<(Self, Vec<Program>)>> {
        let Some(bytes) = entry.kept(FILE, LARGEST)? else {
            return Ok(None);
        };
        let parsed = parse(&bytes).ok_or_else(|| {
            Error::new(format!("cannot read how container {:?} was made", entry.id()))
                .because(format!("the file {FILE:?} in its state directory is damaged"))
                .hint("without it the container cannot be checkpointed, but it runs: end it and make it anew")
        });
        parsed.map(Some)
    }
}

/// The files that the container's first process gets from this one. One that is not open is not passed on.
fn streams(terminal: bool, preserved: &Preserved) -> Vec<Stream> {
    let first = if terminal { sys::fd::FIRST } else { 0 };
    let numbers = first..sys::fd::FIRST.saturating_add(preserved.count);
    numbers.filter_map(stream).collect()
}

fn stream(number: u32) -> Option<Stream> {
    let stat = sys::fd::stat_of(number)?;
    Some(Stream {
        number,
        device: stat.st_dev,
        inode: stat.st_ino,
        rdev: stat.st_rdev,
        mode: stat.st_mode,
    })
}

/// The mounts of `plan` that come from outside, in the order in which they are made.
fn externals(plan: &Plan) -> Vec<External> {
    let external = |destination: &PathBuf, kind| External {
        destination: destination.clone(),
        kind,
    };
    let mounts = plan.mounts.iter().filter_map(|mount| {
        let kind = match mount.source {
            MountSource::Bind {
                recursive: true, ..
            } => ExternalKind::RecursiveBind,
            MountSource::Bind { .. } => ExternalKind::Bind,
            MountSource::Filesystem { .. }
            | MountSource::Overlay { .. }
            | MountSource::Present { .. } => return None,
        };
        Some(external(&mount.destination, kind))
    });
    let devices = plan.devices.iter();
    let devices = devices.map(|device| external(&device.path, ExternalKind::Device));
    let masks = plan.masked_paths.iter();
    let masks = masks.map(|path| external(path, ExternalKind::Mask));
    mounts.chain(devices).chain(masks).collect()
}

/// What of `plan` is gone with the container.
fn passing(plan: &Plan) -> Option<Passing> {
    let upper = plan.root.layers.as_ref().map(|layers| &layers.upper);
    if matches!(upper, Some(RootUpper::Tmpfs { .. })) {
        return Some(Passing::Changes);
    }
    let mut mounts = plan.mounts.iter();
    mounts.find_map(|mount| match mount.source {
        MountSource::Overlay { .. } => Some(Passing::Overlay(mount.destination.clone())),
        _ => None,
    })
}

fn content(saved: &Saved, filters: &[&[Instruction]]) -> std::result::Result<Vec<u8>, String> {
    let told = serde_json::to_vec(saved).map_err(|error| error.to_string())?;
    let length = |length: usize| u32::try_from(length).map(u32::to_le_bytes);
    let long = |_| "it is too long".to_owned();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(length(told.len()).map_err(long)?);
    bytes.extend(told);
    for filter in filters {
        bytes.extend(length(filter.len()).map_err(long)?);
        bytes.extend(to_bytes(filter));
    }
    let sum = checksum(&bytes);
    bytes.extend(sum.to_le_bytes());
    Ok(bytes)
}

/// The other way round; `None` for what is not whole.
fn parse(bytes: &[u8]) -> Option<(Saved, Vec<Program>)> {
    let (all, sum) = bytes.split_last_chunk::<8>()?;
    let (magic, rest) = all.split_first_chunk::<16>()?;
    if magic != MAGIC || u64::from_le_bytes(*sum) != checksum(all) {
        return None;
    }
    let (size, rest) = length(rest)?;
    let (told, mut rest) = rest.split_at_checked(size)?;
    let saved = serde_json::from_slice(told).ok()?;
    let mut filters = Vec::new();
    while !rest.is_empty() {
        let (count, behind) = length(rest)?;
        if !(1..=LONGEST).contains(&count) || filters.len() == MOST_FILTERS {
            return None;
        }
        let (program, behind) = behind.split_at_checked(count * INSTRUCTION_SIZE)?;
        filters.push(from_bytes(program));
        rest = behind;
    }
    Some((saved, filters))
}

/// A number at the beginning of `bytes`, and what is behind it.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*length)).ok()?, rest))
}

/// FNV-1a with 64 bits: against accidents, and the same in every lodger.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
#[path = "saved_tests.rs"]
mod tests;
