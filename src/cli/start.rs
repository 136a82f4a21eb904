//! `start`.

use super::Global;
use crate::error::{Error, Result};
use crate::log::Log;
use crate::spawn::hook::Told;
use crate::spawn::notify::{self, Notifier};
use crate::spawn::{NotStarted, Runner};
use crate::state::{Entry, Record, Status, Store};

/// Run the program of a created container
///
/// It returns once the program runs and its poststart hooks have ended. A container is started once: when it has ended it can
/// only be deleted; one of which a hook fails is removed. With NOTIFY_SOCKET in the environment, here and at `create`, it
/// returns once the program has said that it is ready (sd_notify(3)).
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
pub(crate) fn start(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    let what = format!("cannot start container {:?}", args.id);
    let missing = || Error::new("container does not exist").within(&what);
    let store = Store::open_with(global.root.as_deref(), &args.id);
    let store = store.map_err(|e| e.within(&what))?.ok_or_else(missing)?;
    let entry = store.find(&args.id).map_err(|e| e.within(&what))?;
    entry.lock().map_err(|e| e.within(&what))?;
    let record = entry.existing_record()?;
    tracing::debug!(
        pid = record.process.pid,
        "letting the container's process go on"
    );
    let refusal = match entry.status(&record) {
        Status::Created => {
            let started = run(&store, &entry, &record, log);
            return started.map(|()| 0).map_err(|e| e.within(what));
        }
        Status::Running => "cannot start an already running container",
        Status::Paused => "cannot start a container in the paused state",
        Status::Stopped | Status::Creating => "cannot start a container that has stopped",
    };
    Err(Error::new(refusal).within(what))
}

/// Runs the program and the `poststart` hooks; a container of which a hook fails is removed (runtime.md, "Lifecycle").
fn run(store: &Store, entry: &Entry, record: &Record, log: &Log) -> Result<()> {
    let notifier = (record.notify && notify::is_wanted()).then(|| Notifier::begin(entry));
    let notifier = notifier.transpose()?;
    let pidfd = match &notifier {
        Some(_) => record.process.open(&record.boot_id)?,
        None => None,
    };
    let started = crate::spawn::start(entry, record);
    let failed = match started.map_err(|NotStarted { error, by_hook }| (error, by_hook)) {
        Ok(()) => match run_poststart(entry, record) {
            Ok(()) => {
                if let Some((notifier, pidfd)) = notifier.zip(pidfd) {
                    // Whoever waits for what may never come keeps nobody from the container.
                    entry.unlock()?;
                    let note = notifier.wait_ready(record.process.pid, &pidfd)?;
                    log.notes(note.as_slice());
                }
                return Ok(());
            }
            Err(error) => error,
        },
        Err((error, true)) => error,
        Err((error, false)) => return Err(error),
    };
    Err(super::delete::destroyed(store, entry, record, failed))
}

fn run_poststart(entry: &Entry, record: &Record) -> Result<()> {
    if record.hooks.poststart.is_empty() {
        return Ok(());
    }
    let told = Told::of(entry.id(), record);
    let state = told.text(Status::Running, Some(record.process.pid))?;
    Runner::begin()?.run(&record.hooks.poststart, &state, &record.bundle)
}
