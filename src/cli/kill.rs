//! `kill`.

use super::{Global, select, signal};
use crate::error::{Doing, Error, Result};
use crate::image::config::STOP_SIGNAL;
use crate::state::{Members, Record, Store};
use crate::sys;

/// Send a signal to a container
///
/// The signal goes to the container's first process. A container in the host's pid namespace does not end with that
/// process, so SIGKILL goes to all of its processes. Without SIGNAL it is the one that the image asks for, as its config's
/// annotation org.opencontainers.image.stopSignal says, or else SIGTERM.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger kill web               the image's stop signal, or SIGTERM, to the first process
  lodger kill web HUP           by name; SIGHUP and 1 are the same
  lodger kill -a web KILL       every process of the container
  lodger kill -r '^test-' KILL  all containers whose id begins with test-

Exit status:
  0  the signal was sent; with --all, also if the container has stopped
  1  the container does not exist or has stopped, or the signal is unknown")]
pub(crate) struct Args {
    /// Send it to every process of the container; one that has stopped is no failure
    #[arg(short, long)]
    all: bool,
    /// ID is a regular expression: every container whose id it matches gets the signal
    #[arg(short, long)]
    regex: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// The signal, by name or number: TERM, SIGTERM or 15 [default: the image's stop signal, else TERM]
    #[arg(value_name = "SIGNAL")]
    signal: Option<String>,
}

/// Does what `kill` asks. It takes no lock: a signal may be wanted while something else waits.
pub(crate) fn kill(global: &Global, args: &Args) -> Result<u8> {
    let what = |id: &str| format!("cannot kill container {id:?}");
    let number = args.signal.as_deref().map(signal::parse).transpose();
    let number = number.map_err(|e| e.within(what(&args.id)))?;
    if args.regex {
        // What has stopped is no failure here: the expression says which containers, not how they are.
        return select::each_matching(global, &args.id, "kill", |id| {
            one(global, id, number, args.all, true).map_err(|e| e.within(what(id)))
        });
    }
    one(global, &args.id, number, args.all, args.all).map_err(|e| e.within(what(&args.id)))?;
    Ok(0)
}

/// Sends signal `number`, or the container's own, to one container; `stopped_too`: that it has stopped is no failure.
fn one(global: &Global, id: &str, number: Option<i32>, all: bool, stopped_too: bool) -> Result<()> {
    let entry = Store::find_in(global.root.as_deref(), id)?;
    let record = entry.existing_record()?;
    let number = number.unwrap_or_else(|| stop_signal(&record));
    let outlives_first = !record.ends_with_first();
    let sent = if all || (number == nix::libc::SIGKILL && outlives_first) {
        Members::of(&record)?.signal(number)? > 0
    } else {
        first(&record, number)?
    };
    if sent || stopped_too {
        return Ok(());
    }
    Err(Error::new("container not running: no such process"))
}

/// The signal that asks the container to end (image-spec conversion.md); one that there is not is as good as none.
fn stop_signal(record: &Record) -> i32 {
    let asked = record.annotations.get(STOP_SIGNAL);
    let number = asked.and_then(|text| signal::parse(text).ok());
    number.unwrap_or(nix::libc::SIGTERM)
}

/// Sends signal `number` to the container's first process; whether it is there.
fn first(record: &Record, number: i32) -> Result<bool> {
    let Some(pidfd) = record.process.open(&record.boot_id)? else {
        return Ok(false);
    };
    tracing::debug!(
        signal = number,
        pid = record.process.pid,
        "sending the signal"
    );
    match sys::process::send_signal(&pidfd, number) {
        Err(error) if error.is(nix::libc::ESRCH) => Ok(false),
        sent => sent
            .doing(|| "cannot send the signal".to_owned())
            .map(|()| true),
    }
}
