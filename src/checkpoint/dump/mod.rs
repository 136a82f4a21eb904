//! Dumping a container: three processes, of which each may be killed at any instant.
//!
//! This one waits. A second one, in the container's user namespace and in no other of it, looks at the container, supervises CRIU
//! and commits the images. The third becomes CRIU (`program`).
//!
//! CRIU says when all images are written, and waits: the container's processes still stand still then. Only when lodger.json is in
//! its place it is told to go on, and ends them. Until then, whichever of the three dies, CRIU or the kernel lets the processes go;
//! from then on the checkpoint is whole. Who is left looks after the container (`aftercare`).

use std::path::PathBuf;
use std::time::Duration;

use super::criu::Criu;
use super::image::{Draft, Options};
use super::saved::Saved;
use crate::error::{Doing, Result};
use crate::host::MapLine;
use crate::plan::Note;
use crate::spawn::line;
use crate::state::Record;
use crate::sys;
use crate::sys::process::Cloned;
use crate::sys::seccomp::Instruction;
use crate::sys::signal::Held;

mod aftercare;
mod hearing;
mod ids;
mod process;
mod program;
mod pulse;
mod watch;

use hearing::Hearing;
use pulse::Pulse;

/// The container that is dumped.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a str,
    /// What is known of it.
    pub record: &'a Record,
    /// Whether it is paused.
    pub paused: bool,
    /// How it was made.
    pub saved: Saved,
    /// The system call filters that it was given, in the order in which they were loaded.
    pub filters: Vec<Vec<Instruction>>,
    /// Its config.json.
    pub config: serde_json::Value,
}

/// What of a container is to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// All, but for the memory that is in the dump whose lodger.json has this digest, in the directory `parent` of the draft.
    Since(String),
    /// Its memory, while it runs; or what has changed of it.
    Memory(Option<String>),
}

impl Extent {
    /// Whether the kernel keeps track of what is written from then on.
    pub fn is_tracked(&self) -> bool {
        *self != Extent::Whole
    }

    /// Whether it is memory alone.
    pub fn is_memory(&self) -> bool {
        matches!(self, Extent::Memory(_))
    }

    /// What it leaves out is in there.
    fn parent(&self) -> Option<&String> {
        match self {
            Extent::Whole | Extent::Memory(None) => None,
            Extent::Since(parent) | Extent::Memory(Some(parent)) => Some(parent),
        }
    }
}

/// What is asked for.
#[derive(Debug)]
pub struct Asked {
    /// What a restore has to do in the same way.
    pub options: Options,
    /// Whether it goes on after the dump.
    pub leave_running: bool,
    /// What is to be saved.
    pub extent: Extent,
    /// Whether deleted files that have another name are linked.
    pub link_remap: bool,
    /// Whether connections that are being made are left out.
    pub tcp_skip_in_flight: bool,
    /// How long CRIU may do nothing that can be seen.
    pub patience: Duration,
    /// A number of an open file that gets a `\0` once the images are whole.
    pub status_fd: Option<std::os::fd::OwnedFd>,
    /// The program.
    pub criu: Criu,
    /// A configuration file of CRIU's.
    pub config_file: Option<String>,
    /// The directory of the images, absolute.
    pub images: PathBuf,
    /// Where the log goes in the end, if not there; absolute.
    pub work: Option<PathBuf>,
    /// Whether the images are to reach the disk before the container is ended.
    pub to_disk: bool,
    /// With `to_disk`, a directory of the filesystem that has what the container changes of its image: its overlay, being volatile,
    /// brings nothing to the disk itself.
    pub changes: Option<std::os::fd::OwnedFd>,
    /// The uid and gid maps of the caller's user namespace.
    pub own_maps: [Vec<MapLine>; 2],
}

/// Dumps the container into `draft`.
///
/// # Errors
/// It cannot be dumped, CRIU failed, or a signal has asked this process to end: then the container goes on as before, and `draft` is as it was but for the log.
pub fn dump(subject: &Subject<'_>, asked: &Asked, draft: Draft) -> Result<Vec<Note>> {
    let what = || "cannot make a process for the dump".to_owned();
    let before = aftercare::Before::of(subject);
    let pulse = Pulse::new()?;
    let (_held, signals) = Held::ending().doing(|| "cannot wait for signals".to_owned())?;
    let (line, theirs) = line::pair().doing(what)?;
    let child = match sys::process::clone(0).doing(what)? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(line);
            process::run((subject, asked), draft, theirs, &pulse)
        }
    };
    drop((theirs, draft));
    let mut notes = Vec::new();
    let told = Hearing::new(&line, &child, &signals, (&pulse, asked.patience)).run(&mut notes);
    match told {
        Ok(()) if asked.leave_running => before.restore().map(|()| notes),
        Ok(()) => Ok(notes),
        Err(error) => Err(before.settle(error)),
    }
}
