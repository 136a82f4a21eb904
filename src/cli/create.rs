//! `create` and `run`.

use std::path::PathBuf;

use super::{Global, protect};
use crate::error::{Doing, Error, Result};
use crate::host::HostFacts;
use crate::log::Log;
use crate::plan::{self, Plan};
use crate::spawn::{Creation, Made, PidFile, Until, wait_in_foreground};
use crate::state::{Entry, Store, check_id};
use crate::{sys, userns};

/// Create a container: everything is set up, and the program waits for `start`
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    common: Common,
}

/// Create and start a container, and stay with it until it ends
///
/// Signals are passed on, and the exit status is the container's: 128 + n when signal n ended it.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    common: Common,
    /// Return once the program runs
    #[arg(short, long)]
    detach: bool,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The bundle: a directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Write the pid of the container's process to FILE
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// The container's id: letters, digits and _ + - .
    #[arg(value_name = "ID")]
    id: String,
}

/// Does what `create` asks.
pub(crate) fn create(global: &Global, args: CreateArgs, log: &Log) -> Result<u8> {
    let (made, _) = make(global, &args.common, Until::Created)?;
    log.notes(&made.notes);
    Ok(0)
}

/// Does what `run` asks.
pub(crate) fn run(global: &Global, args: RunArgs, log: &Log) -> Result<u8> {
    if args.detach {
        let (made, _) = make(global, &args.common, Until::Detached)?;
        log.notes(&made.notes);
        return Ok(0);
    }
    sys::signal::block_all().doing(|| "cannot block signals".to_owned())?;
    let (made, (store, entry)) = make(global, &args.common, Until::Foreground)?;
    log.notes(&made.notes);
    entry.unlock()?;
    let exit = wait_in_foreground(&made.child)?;
    // Somebody else's `delete` may have been faster.
    if entry.lock().is_ok() {
        if made.may_leave_others {
            super::delete::end_others(&entry)?;
        }
        store.remove(&entry)?;
    }
    Ok(exit.shell_code())
}

fn make(global: &Global, common: &Common, until: Until) -> Result<(Made, (Store, Entry))> {
    check_id(&common.id)?;
    sys::signal::keep_ended_children().doing(|| "cannot wait for children".to_owned())?;
    let pid_file = common
        .pid_file
        .as_deref()
        .map(PidFile::prepare)
        .transpose()?;
    let facts = HostFacts::probe();
    protect::against_overwriting(&facts)?;
    let store = Store::open_or_make(global.root.as_deref())?;
    // The helpers work while the config is read.
    let outer = plan::idmap::outer(&facts);
    tracing::debug!(state = ?store.path(), ?outer, "entering the outer user namespace");
    let entering = userns::begin(&outer, &store)?;
    let bundle = super::spec::open_bundle(&common.bundle)?;
    let plan = Plan::compute(&bundle, &facts).map_err(|p| super::spec::problems(&p))?;
    tracing::debug!(namespaces = ?plan.namespaces, mounts = plan.mounts.len(), "planned");
    let entry = store
        .create(&common.id)
        .map_err(|e| e.within(format!("cannot create container {:?}", common.id)))?;
    let creation = Creation {
        bundle: &bundle,
        plan: &plan,
        owner: facts
            .user_name
            .clone()
            .unwrap_or_else(|| facts.uid.to_string()),
        entry: &entry,
        pid_file,
        until,
    };
    match creation.make(entering) {
        Ok(made) => Ok((made, (store, entry))),
        Err(error) => Err(undone(&store, &entry, error)),
    }
}

/// Removes the state of a container that could not be made; a second failure is part of the one error.
fn undone(store: &Store, entry: &Entry, error: Error) -> Error {
    let error = error.within(format!("cannot create container {:?}", entry.id()));
    match store.remove(entry) {
        Ok(()) => error,
        Err(left) => error.hint(left.message()),
    }
}
