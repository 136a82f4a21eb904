//! `wait`.

use super::Global;
use crate::error::{Doing, Error, Result};
use crate::state::{Record, Store};
use crate::sys;
use crate::sys::process::Exit;

/// How long the parent of a process that has ended may take to reap it, in milliseconds.
const PATIENCE: i32 = 1000;

/// Wait for a container to end, and exit as it did
///
/// Nothing is printed. It works for a container that was created or runs, as often as wanted and from anywhere: it takes
/// nothing from whoever else waits. The kernel keeps the exit status only for those who waited when the container
/// ended, so that one that has stopped before is an error.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger run -d job && lodger wait job && lodger delete job

Exit status:
  that of the container's first process; 128 + n when signal n ended it
  1  also when the container does not exist or has stopped already, or before Linux 6.15,
     with an error on stderr")]
pub(crate) struct Args {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Does what `wait` asks.
pub(crate) fn wait(global: &Global, args: &Args) -> Result<u8> {
    let what = || format!("cannot wait for container {:?}", args.id);
    let entry = Store::find_in(global.root.as_deref(), &args.id).map_err(|e| e.within(what()))?;
    let record = entry.existing_record().map_err(|e| e.within(what()))?;
    end_of(&record)
        .map(Exit::shell_code)
        .map_err(|e| e.within(what()))
}

fn end_of(record: &Record) -> Result<Exit> {
    let what = || "cannot ask the kernel".to_owned();
    let Some(pidfd) = record.process.open(&record.boot_id)? else {
        return Err(Error::new("it has stopped already")
            .because("the kernel tells an exit status only to those who waited when the process ended")
            .hint("call `lodger wait` while the container runs, or use `lodger run`, which exits with its status"));
    };
    // Better now than after hours.
    if sys::pidfd::is_stand_in(&pidfd) {
        return Err(Error::new("an exit status is told only to whoever has a pidfd")
            .because("pidfd_open(2) is refused, by a kernel before Linux 5.3 or by a filter around lodger")
            .code("LDG-KERNEL-CALLS")
            .hint("use `lodger run` in the foreground, which exits with the container's status, or allow pidfd_open in the filter"));
    }
    if !sys::pidfd::keeps_exit().doing(what)? {
        return Err(Error::new(
            "this kernel tells an exit status to the parent alone (Linux before 6.15)",
        )
        .hint("use `lodger run` in the foreground, which exits with the container's status"));
    }
    tracing::debug!(pid = record.process.pid, "waiting for the process to end");
    sys::pidfd::wait_ended(&pidfd).doing(what)?;
    let reaped = sys::pidfd::wait_reaped(&pidfd, PATIENCE).doing(what)?;
    let exit = if reaped {
        sys::pidfd::exit(&pidfd).doing(what)?
    } else {
        // Its parent leaves it lying: a process that has ended and was not reaped tells by itself.
        match record.process.unreaped_exit()? {
            // Reaped in between, or just about to be.
            None => {
                sys::pidfd::wait_reaped(&pidfd, PATIENCE).doing(what)?;
                sys::pidfd::exit(&pidfd).doing(what)?
            }
            told => told,
        }
    };
    exit.ok_or_else(|| {
        Error::new("its exit status is not known")
            .because("the kernel gave none")
            .hint("use `lodger run` in the foreground, which exits with the container's status")
    })
}
