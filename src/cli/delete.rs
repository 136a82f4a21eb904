//! `delete`.

use super::Global;
use crate::error::{Doing, Error, Result};
use crate::state::{Entry, Record, Status, Store};
use crate::sys;

/// How long a killed process may take to be gone, in milliseconds.
const PATIENCE: i32 = 10_000;

/// Remove a container that has stopped
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kill it first if it runs; a container that does not exist is no failure
    #[arg(short, long)]
    force: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Does what `delete` asks.
pub(crate) fn delete(global: &Global, args: &Args) -> Result<u8> {
    let what = || format!("cannot delete container {:?}", args.id);
    crate::state::check_id(&args.id).map_err(|e| e.within(what()))?;
    let Some((store, entry)) = find(global, &args.id)? else {
        if args.force {
            return Ok(0);
        }
        return Err(Error::new("container does not exist").within(what()));
    };
    match entry.record() {
        Ok(record) => end(&entry, record.as_ref(), args.force).map_err(|e| e.within(what()))?,
        // Damaged: with --force the state goes, and with it all we know.
        Err(error) if !args.force => return Err(error.within(what())),
        Err(error) => tracing::debug!("removing the damaged state: {}", error.message()),
    }
    tracing::debug!(id = entry.id(), state = ?store.path(), "removing the state");
    store.remove(&entry)?;
    Ok(0)
}

/// The container's directory, locked; `None` when it does not exist.
fn find(global: &Global, id: &str) -> Result<Option<(Store, Entry)>> {
    let Some(store) = Store::open(global.root.as_deref())? else {
        return Ok(None);
    };
    let Some(entry) = store.find_if_there(id)? else {
        return Ok(None);
    };
    // Deleted by somebody else while we waited?
    Ok(entry.lock_if_there()?.then_some((store, entry)))
}

/// Makes sure that the container's process is gone.
fn end(entry: &Entry, record: Option<&Record>, force: bool) -> Result<()> {
    let status = entry.status(record);
    if status == Status::Running && !force {
        return Err(Error::new("container still running")
            .hint(format!("`lodger delete -f {}` kills it first", entry.id())));
    }
    let Some(record) = record else {
        return Ok(());
    };
    let Some(pidfd) = record.process.open(&record.boot_id)? else {
        return Ok(());
    };
    let what = || "cannot end its process".to_owned();
    match sys::process::send_signal(&pidfd, nix::libc::SIGKILL) {
        Err(error) if error.is(nix::libc::ESRCH) => return Ok(()),
        sent => sent.doing(what)?,
    }
    if sys::process::wait_ended(&pidfd, PATIENCE).doing(what)? {
        return Ok(());
    }
    Err(Error::new(what())
        .because("it is still there 10 seconds after SIGKILL")
        .hint("it waits in the kernel, most often for a device or a network filesystem: try again later"))
}
