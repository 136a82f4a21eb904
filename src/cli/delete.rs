//! `delete`.

use std::os::fd::OwnedFd;

use super::{Global, select};
use crate::error::{Doing, Error, Result};
use crate::log::Log;
use crate::plan::Note;
use crate::spawn::Poststop;
use crate::state::{Entry, Members, Record, Status, Store};
use crate::sys;

/// How long a killed process may take to be gone, in milliseconds.
const PATIENCE: i32 = 10_000;

/// Remove a container that has stopped
///
/// A container that was created and never started is ended first, and so are processes that outlived the first one in
/// the host's pid namespace. The bundle and its root filesystem stay as they are. In the end the poststop hooks run; one that
/// fails is a note.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger delete web
  lodger delete -f web          whatever its status
  lodger delete -f -r '^test-'  all containers whose id begins with test-

Exit status:
  0  the container is gone; with --force, also if there was none
  1  it runs (without --force), does not exist, or could not be ended")]
pub(crate) struct Args {
    /// Kill it first if it runs; a container that does not exist is no failure
    #[arg(short, long)]
    force: bool,
    /// ID is a regular expression: every container whose id it matches is removed
    #[arg(short, long)]
    regex: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Does what `delete` asks.
pub(crate) fn delete(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    if args.regex {
        return select::each_matching(global, &args.id, "delete", |id| {
            one(global, id, args.force, log)
        });
    }
    one(global, &args.id, args.force, log)?;
    Ok(0)
}

fn one(global: &Global, id: &str, force: bool, log: &Log) -> Result<()> {
    let what = || format!("cannot delete container {id:?}");
    crate::state::check_id(id).map_err(|e| e.within(what()))?;
    let Some((store, entry)) = find(global, id)? else {
        if force {
            return Ok(());
        }
        return Err(Error::new("container does not exist").within(what()));
    };
    let mut notes = Vec::new();
    let mut poststop = None;
    match entry.record() {
        Ok(record) => {
            end(&entry, record.as_ref(), force, &mut notes).map_err(|e| e.within(what()))?;
            // Hooks may have run in a `create` that was killed.
            let last = record.or_else(|| entry.draft());
            match &last {
                Some(last) => super::remnants::remove(&store, last),
                None => super::remnants::remove_noted(&store, &entry),
            }
            .map_err(|e| e.within(what()))?;
            poststop = last.map_or(Ok(None), |record| Poststop::of(id, &record))?;
        }
        // Damaged: with --force the state goes, and with it all we know.
        Err(error) if !force => return Err(error.within(what())),
        Err(error) => end_salvaged(&entry, error, &mut notes).map_err(|e| e.within(what()))?,
    }
    tracing::debug!(id = entry.id(), state = ?store.path(), "removing the state");
    store.remove(&entry)?;
    notes.extend(poststop.map_or_else(Vec::new, |poststop| poststop.run_here()));
    log.notes(&notes);
    Ok(())
}

/// The container's directory, locked; `None` when it does not exist.
fn find(global: &Global, id: &str) -> Result<Option<(Store, Entry)>> {
    let Some(store) = Store::open_with(global.root.as_deref(), id)? else {
        return Ok(None);
    };
    let Some(entry) = store.find_if_there(id)? else {
        return Ok(None);
    };
    // Deleted by somebody else while we waited?
    Ok(entry.lock_if_there()?.then_some((store, entry)))
}

/// Makes sure that the container's processes are gone.
pub(super) fn end(
    entry: &Entry,
    record: Option<&Record>,
    force: bool,
    notes: &mut Vec<Note>,
) -> Result<()> {
    let Some(record) = record else {
        // Whoever made it was killed; init has died with it.
        return match entry.draft() {
            Some(draft) if !draft.ends_with_first() => end_all(&draft, force, notes),
            _ => Ok(()),
        };
    };
    let status = entry.status(record);
    if !force && matches!(status, Status::Running | Status::Paused) {
        let error = Error::new("container still running");
        let error = match status {
            Status::Paused => error.because("it is paused"),
            _ => error,
        };
        return Err(error.hint(format!("`lodger delete -f {}` kills it first", entry.id())));
    }
    // The kernel ends a pid namespace with its first process.
    if record.ends_with_first() {
        return end_first(record);
    }
    end_all(record, force, notes)
}

/// Ends the processes of a container in the host's pid namespace.
fn end_all(record: &Record, force: bool, notes: &mut Vec<Note>) -> Result<()> {
    let members = Members::of(record)?;
    match members.signal(nix::libc::SIGKILL) {
        Err(error) if force && !members.is_certain() => {
            notes.push(Note {
                property: "/linux/namespaces".to_owned(),
                reason: error.message(),
                remedy: error.hints().unwrap_or_default(),
                code: None,
            });
            Ok(())
        }
        ended => ended.map(|_| ()),
    }
}

/// Ends and removes a container of which a hook has failed, and runs its `poststop` hooks; what fails on the way is part of the
/// one error.
pub(super) fn destroyed(store: &Store, entry: &Entry, record: &Record, error: Error) -> Error {
    let mut notes = Vec::new();
    let removed = end(entry, Some(record), true, &mut notes)
        .and_then(|()| super::remnants::remove(store, record))
        .and_then(|()| store.remove(entry));
    match removed.and_then(|()| Poststop::of(entry.id(), record)) {
        Ok(Some(poststop)) => notes.extend(poststop.run_here()),
        Ok(None) => {}
        Err(left) => return error.hint(left.message()),
    }
    notes
        .into_iter()
        .fold(error, |error, note| error.hint(note.reason))
}

/// Ends what the first process of a container, which has ended, has left in a pid namespace that is not its own: processes of
/// the program, or of hooks, which run before there is a record.
pub(super) fn end_others(entry: &Entry) -> Result<()> {
    match entry.record()?.or_else(|| entry.draft()) {
        Some(record) if record.ends_with_first() => Ok(()),
        Some(record) => Members::of(&record)?
            .signal(nix::libc::SIGKILL)
            .map(|_| ())
            .map_err(|e| e.within(format!("cannot end container {:?}", entry.id()))),
        None => Ok(()),
    }
}

/// Ends the process of a container whose record is damaged, as far as that still tells which it is.
fn end_salvaged(entry: &Entry, damage: Error, notes: &mut Vec<Note>) -> Result<()> {
    match entry.salvage() {
        Some(pidfd) => end_process(&pidfd),
        None => {
            notes.push(Note {
                property: "state.json".to_owned(),
                reason: format!(
                    "removed, though its container may run: {}",
                    damage.message()
                ),
                remedy: "look for its processes with ps(1), and end them with kill(1)".to_owned(),
                code: None,
            });
            Ok(())
        }
    }
}

/// Ends the container's first process.
fn end_first(record: &Record) -> Result<()> {
    match record.process.open(&record.boot_id)? {
        Some(pidfd) => end_process(&pidfd),
        None => Ok(()),
    }
}

fn end_process(pidfd: &OwnedFd) -> Result<()> {
    let what = || "cannot end its process".to_owned();
    match sys::process::send_signal(pidfd, nix::libc::SIGKILL) {
        Err(error) if error.is(nix::libc::ESRCH) => return Ok(()),
        sent => sent.doing(what)?,
    }
    if sys::process::wait_ended(pidfd, PATIENCE).doing(what)? {
        return Ok(());
    }
    Err(Error::new(what())
        .because("it is still there 10 seconds after SIGKILL")
        .hint("it waits in the kernel, most often for a device or a network filesystem: try again later"))
}
