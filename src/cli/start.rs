//! `start`.

use super::Global;
use crate::error::{Error, Result};
use crate::state::{Status, Store};

/// Run the program of a created container
///
/// It returns once the program runs. A container is started once: when it has ended it can only be deleted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger create web && lodger start web

Exit status:
  0  the program runs
  1  it could not be run, or the container is not in the status `created`")]
pub(crate) struct Args {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Does what `start` asks.
pub(crate) fn start(global: &Global, args: &Args) -> Result<u8> {
    let what = format!("cannot start container {:?}", args.id);
    let entry = Store::find_in(global.root.as_deref(), &args.id).map_err(|e| e.within(&what))?;
    entry.lock().map_err(|e| e.within(&what))?;
    let record = entry.existing_record()?;
    tracing::debug!(
        pid = record.process.pid,
        "letting the container's process go on"
    );
    let refusal = match entry.status(&record) {
        Status::Created => {
            crate::spawn::start(&entry, &record).map_err(|e| e.within(what))?;
            return Ok(0);
        }
        Status::Running => "cannot start an already running container",
        Status::Stopped | Status::Creating => "cannot start a container that has stopped",
    };
    Err(Error::new(refusal).within(what))
}
