//! What lodger remembers: one directory a container, beneath a directory that only the caller can enter.
//!
//! A container's directory holds `config.json` (the snapshot of create, runtime.md), `checkpoint` (what a later one has to
//! know, `checkpoint::saved`), `state.json` (written to a temporary name, then renamed) and, until `start`, the socket
//! `start.sock` on which init waits. Whoever changes anything holds the directory's lock. All names are resolved from
//! directory fds, so that nothing is followed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use crate::error::{Doing, Error, Result};
use crate::plan::Note;
use crate::sys;

mod cgroup;
mod directory;
mod full;
mod group;
mod holder;
mod kept;
mod lock;
mod members;
mod notify;
pub(crate) mod place;
mod process;
mod record;
mod report;
mod status;
mod usage;

pub(crate) use directory::{Purpose, make_parents, open_foreign, open_or_make_own, open_own};
use full::because_full;
pub(crate) use full::{because_full_of, lacking};

pub use members::{Member, Members};
pub use process::{ProcessIdentity, boot_id, is_this_boot, once_visible};
pub use record::{ImageUse, NamespaceMark, OuterRecord, Record, UserNamespaceRecord};
pub use report::ContainerState;
pub use status::Status;
#[cfg(fuzzing)]
pub(crate) use status::status;
pub use usage::{Meter, Usage};

/// The socket on which a created container's init waits for `start`.
pub const GATE: &str = "start.sock";
const RECORD: &str = "state.json";
const RECORD_DRAFT: &str = "state.json.new";
const CONFIG: &str = "config.json";
/// A config of 16 MiB fits (bundle/), and so does what is derived from it.
const MAX_FILE: usize = 32 << 20;

/// The directory with one directory for each container.
#[derive(Debug)]
pub struct Store {
    fd: OwnedFd,
    path: PathBuf,
}

/// One container's directory.
#[derive(Debug)]
pub struct Entry {
    fd: OwnedFd,
    id: String,
}

/// Refuses an id that is not `[A-Za-z0-9_+-][A-Za-z0-9_+.-]*` or longer than 128 bytes.
pub fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    let well_formed = !id.is_empty() && !id.starts_with('.') && id.chars().all(allowed);
    if well_formed && id.len() <= 128 {
        return Ok(());
    }
    Err(Error::new(format!("invalid container ID format: {id:?}")).hint(
        "an id has letters, digits and _ + - . only, does not begin with a dot, and has 128 characters at most",
    ))
}

/// What became of the directory of a container that is to be.
enum Taken {
    /// It is locked, and empty.
    Ours(Entry),
    /// There is a container, or somebody makes one.
    Others,
    /// It was removed meanwhile.
    Removed,
}

fn missing() -> Error {
    Error::new("container does not exist")
}

impl Store {
    /// Opens the store at `root`, or at the caller's usual place; makes it if it is not there.
    pub fn open_or_make(root: Option<&Path>) -> Result<Self> {
        directory::open_or_make(root).map(|(fd, path)| Self { fd, path })
    }

    /// Opens the store if it is there.
    pub fn open(root: Option<&Path>) -> Result<Option<Self>> {
        let found = directory::open(root)?;
        tracing::debug!(state = ?found.as_ref().map(|(_, path)| path), "looking for containers");
        Ok(found.map(|(fd, path)| Self { fd, path }))
    }

    /// Opens the store at `root` that has container `id`; where nobody says which, and the usual one has it not, another of the
    /// usual places that has it.
    pub fn open_with(root: Option<&Path>, id: &str) -> Result<Option<Self>> {
        check_id(id)?;
        let store = Self::open(root)?;
        let has = |store: &Self| store.find_if_there(id).map(|entry| entry.is_some());
        let Some(first) = store else {
            return Ok(None);
        };
        if root.is_some() || has(&first)? {
            return Ok(Some(first));
        }
        let others = place::others(Some(&first.path)).map(|(fd, path)| Self { fd, path });
        for other in others {
            if has(&other)? {
                return Ok(Some(other));
            }
        }
        Ok(Some(first))
    }

    /// Opens the directory of container `id` in the store at `root`.
    pub fn find_in(root: Option<&Path>, id: &str) -> Result<Entry> {
        Self::open_with(root, id)?.ok_or_else(missing)?.find(id)
    }

    /// Whether there is a place for the store, or could be.
    ///
    /// # Errors
    /// There is none, or what is there is not the caller's alone.
    pub fn look_for_place(root: Option<&Path>) -> Result<()> {
        Self::open(root)?;
        match root {
            Some(_) => Ok(()),
            None => place::usual().map(|_| ()),
        }
    }

    /// What there is to say of where the store is.
    pub fn note(&self) -> Option<Note> {
        place::note(&self.path)
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory of a new container and locks it. What a killed `create` left under the id is taken over.
    pub fn create(&self, id: &str) -> Result<Entry> {
        check_id(id)?;
        loop {
            let made = self.make_directory(id)?;
            match self.take(id, made) {
                Ok(Taken::Removed) => {}
                Ok(Taken::Ours(entry)) => return Ok(entry),
                // Also when the directory was made here: it may be yet another one by now.
                Ok(Taken::Others) => {
                    return Err(Error::new("container with given ID already exists"));
                }
                Err(error) => {
                    if made {
                        // Empty still, or somebody else's by now and then not removed.
                        let _first_error_counts =
                            rustix::fs::unlinkat(&self.fd, id, AtFlags::REMOVEDIR);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Locks the directory of a container that is to be.
    fn take(&self, id: &str, made: bool) -> Result<Taken> {
        let Some(entry) = self.find_if_there(id)? else {
            return Ok(Taken::Removed);
        };
        if made {
            // Somebody may have taken a directory this new for a leftover: she has it then.
            entry.flock(FlockOperation::LockExclusive)?;
        } else if !entry.try_lock()? {
            return Ok(Taken::Others);
        }
        if entry.is_removed()? {
            return Ok(Taken::Removed);
        }
        if entry.has(RECORD)? {
            return Ok(Taken::Others);
        }
        self.clear(&entry)?;
        Ok(Taken::Ours(entry))
    }

    /// Whether the directory is new.
    fn make_directory(&self, id: &str) -> Result<bool> {
        match rustix::fs::mkdirat(&self.fd, id, Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(e) => {
                let cause = sys::Error::new("mkdirat", format!("{:?}", self.path.join(id)), e);
                let error = Error::new("cannot make the state directory");
                Err(because_full(&self.fd, error, cause))
            }
        }
    }

    /// Opens the directory of container `id`.
    pub fn find(&self, id: &str) -> Result<Entry> {
        self.find_if_there(id)?.ok_or_else(missing)
    }

    /// As [`Store::find`]; `None` when there is no such container.
    pub fn find_if_there(&self, id: &str) -> Result<Option<Entry>> {
        check_id(id)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, id, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Entry {
                fd,
                id: id.to_owned(),
            })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => {
                let cause = sys::Error::new("openat", format!("{:?}", self.path.join(id)), e);
                Err(Error::new(format!("cannot open the state of container {id:?}")).because(cause))
            }
        }
    }

    /// The store's directory.
    pub fn directory(&self) -> &OwnedFd {
        &self.fd
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for name in sys::path::names(&self.fd)
            .doing(|| format!("cannot list the state directory {:?}", self.path))?
        {
            if check_id(&name).is_ok() {
                ids.push(name);
            }
        }
        ids.sort();
        Ok(ids)
    }

    fn clear(&self, entry: &Entry) -> Result<()> {
        let what = || format!("cannot clear the state of container {:?}", entry.id);
        for name in sys::path::names(&entry.fd).doing(what)? {
            notify::remove(&entry.fd, &name).doing(what)?;
        }
        Ok(())
    }

    /// Removes the directory of a container, whose lock the caller holds.
    pub fn remove(&self, entry: &Entry) -> Result<()> {
        let what = || format!("cannot remove the state of container {:?}", entry.id);
        self.clear(entry)?;
        rustix::fs::unlinkat(&self.fd, &entry.id, AtFlags::REMOVEDIR)
            .map_err(|e| sys::Error::new("rmdir", format!("{:?}", self.path.join(&entry.id)), e))
            .doing(what)
    }
}

fn unlink(dir: impl AsFd, name: &str) -> sys::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(sys::Error::new("unlinkat", format!("{name:?}"), e)),
    }
}

impl Entry {
    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The directory's fd.
    pub fn directory(&self) -> impl AsFd + '_ {
        &self.fd
    }

    fn has(&self, name: &str) -> Result<bool> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(e) => Err(sys::Error::new("fstatat", format!("{name:?}"), e))
                .doing(|| format!("cannot examine the state of container {:?}", self.id)),
        }
    }

    /// The record, if `create` came that far, and the container's status now.
    pub fn examine(&self) -> Result<(Option<Record>, Status)> {
        let missing =
            || missing().within(format!("cannot read the state of container {:?}", self.id));
        let mut record = self.record()?;
        if record.is_none() {
            if self.is_removed()? {
                return Err(missing());
            }
            if self.is_locked()? {
                return Ok((None, Status::Creating));
            }
            // Whoever worked on it until a moment ago has come to an end: with a container, or without.
            record = self.record()?;
            if record.is_none() && self.is_removed()? {
                return Err(missing());
            }
        }
        let status = record.as_ref().map_or(Status::Stopped, |r| self.status(r));
        Ok((record, status))
    }

    /// The record, if `create` came that far.
    pub fn record(&self) -> Result<Option<Record>> {
        let what = || format!("cannot read the state of container {:?}", self.id);
        let text = match sys::path::read_regular_at(&self.fd, Path::new(RECORD), MAX_FILE) {
            Err(e) if e.is(libc::ENOENT) => return Ok(None),
            read => read.doing(what)?,
        };
        match serde_json::from_slice(&text) {
            Ok(record) => Ok(Some(record)),
            Err(error) => Err(Error::new(what())
                .because(format!("{RECORD}: {error}"))
                .hint(format!(
                    "the file is damaged: `lodger delete -f {}` removes what is left of the container",
                    self.id
                ))),
        }
    }

    /// The record that `create` has written but not published, as far as it came: its container is not complete.
    pub fn draft(&self) -> Option<Record> {
        let text = sys::path::read_regular_at(&self.fd, Path::new(RECORD_DRAFT), MAX_FILE).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The container's init, if it is alive and a record that cannot be read still tells of it. As in [`Entry::record`],
    /// pid, start time and boot must be its own.
    pub fn salvage(&self) -> Option<OwnedFd> {
        let text = sys::path::read_regular_at(&self.fd, Path::new(RECORD), MAX_FILE).ok()?;
        let (process, boot_id) = record::salvage(&text)?;
        process.open(&boot_id).ok()?
    }

    /// The record of a container that must have one.
    pub fn existing_record(&self) -> Result<Record> {
        self.examine()?.0.ok_or_else(|| {
            Error::new(format!("container {:?} was never completely created", self.id)).hint(
                format!(
                    "its `create` still runs, or was killed: `lodger delete -f {}` removes what it left",
                    self.id
                ),
            )
        })
    }

    /// Writes the record beside its place: it counts once it is published.
    pub fn draft_record(&self, record: &Record) -> Result<()> {
        let what = || format!("cannot write the state of container {:?}", self.id);
        let text = serde_json::to_vec(record).map_err(|e| Error::new(what()).because(e))?;
        self.write(RECORD_DRAFT, &text)
            .map_err(|e| because_full(&self.fd, Error::new(what()), e))
    }

    /// Gives the draft its place. No fsync: after a crash of the machine there is no container either.
    pub fn publish_record(&self) -> Result<()> {
        rustix::fs::renameat(&self.fd, RECORD_DRAFT, &self.fd, RECORD)
            .map_err(|e| sys::Error::new("renameat", format!("{RECORD_DRAFT:?}, {RECORD:?}"), e))
            .map_err(|cause| {
                let what = format!("cannot write the state of container {:?}", self.id);
                because_full(&self.fd, Error::new(what), cause)
            })
    }

    /// Keeps the snapshot of config.json.
    pub fn write_config(&self, config: &[u8]) -> Result<()> {
        self.write(CONFIG, config).map_err(|cause| {
            let what = format!("cannot keep the config of container {:?}", self.id);
            because_full(&self.fd, Error::new(what), cause)
        })
    }

    /// Makes the gate, the socket on which init waits for `start`.
    pub fn make_gate(&self) -> Result<OwnedFd> {
        sys::socket::listen(&self.fd, GATE).map_err(|cause| {
            let what = "cannot make the socket on which start will arrive";
            because_full(&self.fd, Error::new(what), cause)
        })
    }

    /// The snapshot of config.json.
    pub fn config(&self) -> Result<Vec<u8>> {
        sys::path::read_regular_at(&self.fd, Path::new(CONFIG), MAX_FILE)
            .doing(|| format!("cannot read the config of container {:?}", self.id))
    }

    /// Whether init waits for `start`. The name alone says too little: a `start` that is killed after init has become
    /// the program does not remove it.
    pub fn has_gate(&self) -> bool {
        self.has(GATE).unwrap_or(true) && sys::socket::is_bound(&self.fd, GATE).unwrap_or(true)
    }

    /// Removes the gate once the container runs.
    pub fn remove_gate(&self) -> Result<()> {
        unlink(&self.fd, GATE).doing(|| format!("cannot mark container {:?} as started", self.id))
    }

    /// The status now of the container with this record.
    pub fn status(&self, record: &Record) -> Status {
        let alive = record.process.is_alive(&record.boot_id);
        status::status(alive, self.has_gate(), || group::is_frozen(record))
    }

    fn write(&self, name: &str, content: &[u8]) -> sys::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| sys::Error::new("openat", format!("{name:?}, O_CREAT"), e))?;
        sys::path::write_all(fd, content, Path::new(name))
    }
}
