//! `kill`.

use super::{Global, signal};
use crate::error::{Doing, Error, Result};
use crate::state::Store;
use crate::sys;

/// Send a signal to a container's process
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// The signal: TERM, SIGTERM or 15
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    signal: String,
}

/// Does what `kill` asks. It takes no lock: a signal may be wanted while something else waits.
pub(crate) fn kill(global: &Global, args: &Args) -> Result<u8> {
    let what = || format!("cannot kill container {:?}", args.id);
    let number = signal::parse(&args.signal).map_err(|e| e.within(what()))?;
    let entry = Store::find_in(global.root.as_deref(), &args.id).map_err(|e| e.within(what()))?;
    let record = entry.existing_record()?;
    let not_running = || Error::new("container not running: no such process").within(what());
    let pidfd = record
        .process
        .open(&record.boot_id)?
        .ok_or_else(not_running)?;
    tracing::debug!(
        signal = number,
        pid = record.process.pid,
        "sending the signal"
    );
    match sys::process::send_signal(&pidfd, number) {
        Err(error) if error.is(nix::libc::ESRCH) => Err(not_running()),
        sent => sent.doing(what).map(|()| 0),
    }
}
