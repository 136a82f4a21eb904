//! `pause` and `resume`.

use super::Global;
use crate::cgroup::Dir;
use crate::error::{Error, Result};
use crate::state::{Entry, Record, Status, Store};

/// Freeze all processes of a container
///
/// It returns once all of them stand still; none of them notices. `resume` lets them go on. A paused container can be killed and
/// removed as any other; signals but SIGKILL wait until it goes on. A container without a cgroup of its own cannot be paused.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger pause web && tar -c volume >backup.tar; lodger resume web

Exit status:
  0  all processes of the container are frozen
  1  it does not run, is paused already, or has no cgroup of its own")]
pub(crate) struct PauseArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Let the processes of a paused container go on
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger resume web

Exit status:
  0  the processes of the container go on
  1  it is not paused, or something that its cgroup is in was frozen by somebody else")]
pub(crate) struct ResumeArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Does what `pause` asks.
pub(crate) fn pause(global: &Global, args: &PauseArgs) -> Result<u8> {
    let what = |error: Error| error.within(format!("cannot pause container {:?}", args.id));
    let (entry, record) = locked(global, &args.id).map_err(what)?;
    match entry.status(&record) {
        Status::Running | Status::Created => {}
        Status::Paused => {
            return Err(what(
                Error::new("container not running").because("it is paused already"),
            ));
        }
        Status::Stopped | Status::Creating => {
            return Err(what(Error::new("container not running")));
        }
    }
    let top = top(&record, args).map_err(what)?;
    tracing::debug!(cgroup = top.path(), "freezing");
    top.freeze().map_err(what)?;
    Ok(0)
}

/// Does what `resume` asks.
pub(crate) fn resume(global: &Global, args: &ResumeArgs) -> Result<u8> {
    let what = |error: Error| error.within(format!("cannot resume container {:?}", args.id));
    let (entry, record) = locked(global, &args.id).map_err(what)?;
    let status = entry.status(&record);
    let paused = record.cgroup.as_ref().filter(|_| status == Status::Paused);
    let top = match paused.map(crate::cgroup::CgroupRecord::open).transpose() {
        Ok(top) => top.flatten(),
        Err(error) => return Err(what(error)),
    };
    let Some(top) = top else {
        return Err(what(
            Error::new("container not paused").because(format!("it is {status}")),
        ));
    };
    tracing::debug!(cgroup = top.path(), "thawing");
    top.thaw().map_err(what)?;
    Ok(0)
}

/// The container, whose lock is held.
fn locked(global: &Global, id: &str) -> Result<(Entry, Record)> {
    let entry = Store::find_in(global.root.as_deref(), id)?;
    entry.lock()?;
    let record = entry.existing_record()?;
    Ok((entry, record))
}

/// The cgroup that all processes of the container are in.
fn top(record: &Record, args: &PauseArgs) -> Result<Dir> {
    let instead = |error: Error| {
        error.hint(format!(
            "`lodger kill -a {0} STOP` stops its processes one by one, and CONT lets them go on",
            args.id
        ))
    };
    let Some(cgroup) = &record.cgroup else {
        return Err(instead(
            Error::new("it has no cgroup of its own, which is what can be frozen").hint(
                "make it with --cgroup-manager systemd in a session of your systemd, or cgroupfs in a cgroup that is delegated to you",
            ),
        ));
    };
    cgroup.open()?.ok_or_else(|| {
        instead(
            Error::new(format!("its cgroup {} is gone", cgroup.top)).because("somebody removed it"),
        )
    })
}
