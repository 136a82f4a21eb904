//! `create` and `run`.

use std::path::PathBuf;

use super::cgroups::{self, Cgroups};
use super::exit_file::ExitFile;
use super::filter::{agent, filter};
use super::image_options::ImageRun;
use super::image_run::{self, FromImage};
use super::io::{Front, Io};
use super::no_pivot::without_pivot;
use super::remnants;
use super::restore::Restore;
use super::{Global, protect};
use crate::bundle::Bundle;
use crate::error::{Doing, Error, Result};
use crate::host::HostFacts;
use crate::init::{Manner, Preserved};
use crate::log::Log;
use crate::plan::{self, Plan};
use crate::seccomp::{Agent, Filter};
use crate::spawn::notify::{self, Notifier};
use crate::spawn::{Creation, Made, Poststop, Restoring, Runner, Until, wait_in_foreground};
use crate::state::{Entry, Store, check_id};
use crate::{sys, userns};

/// Create a container: everything is set up, and the program waits for `start`
///
/// What the config asks for and cannot be had is an error now, not at `start`; so is a program that is not there. A
/// container with a terminal needs --console-socket, as lodger does not stay.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger create web   the bundle is the working directory
  lodger create -b /srv/web --pid-file p web && lodger start web
  lodger create --image debian web sleep inf

Exit status:
  0  the container is set up
  1  it could not be made, and nothing of it is left")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    common: Common,
}

/// Create and start a container, and stay with it until it ends
///
/// Signals are passed on, and the exit status is the container's: 128 + n when signal n ended it, 1 when it could not be
/// run. Its state is removed at the end. With a terminal (process.terminal or -t), yours becomes raw as long as it runs, and
/// the container's follows its size.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger run web                        the bundle is the working directory
  lodger run -t web                     with a terminal, whatever the config says
  lodger run -d --pid-file web.pid web  returns once the program runs
  lodger run --image debian -t d bash   of an image; see `lodger help image`

Exit status:
  that of the container's first process; 128 + n when signal n ended it
  1  also when the container could not be run, with an error on stderr")]
pub(crate) struct RunArgs {
    /// Return once the program runs
    ///
    /// With NOTIFY_SOCKET in the environment: once the program has said that it is ready (sd_notify(3)), or has ended.
    #[arg(short, long)]
    detach: bool,
    /// Keep the state once the container has ended, until `delete`
    #[arg(long)]
    keep: bool,
    /// Write how the container ended to FILE, as JSON
    ///
    /// An object with `code` (null after a signal), `signal` (null after an exit) and `rusage` (getrusage(2) of the
    /// program and the children it waited for: times in microseconds, max_rss in KiB). lodger has to stay for it.
    #[arg(long, value_name = "FILE", conflicts_with = "detach")]
    exit_file: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// The bundle: a directory with config.json and, most often, the root filesystem
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Read FILE instead of the bundle's config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Give the program a terminal, whatever the config says
    #[arg(short, long)]
    pub(super) tty: bool,
    #[command(flatten)]
    io: Io,
    /// Change the root without pivot_root(2), which a host with an initramfs for its root refuses
    ///
    /// The container's root is moved over the host's, which stays beneath it: a container that has CAP_SYS_ADMIN could take
    /// its root away again and see the host's files with your rights, and is refused.
    #[arg(long)]
    no_pivot: bool,
    /// Let the container share your session keyring, instead of a new one
    #[arg(long)]
    no_new_keyring: bool,
    /// Accepted for runc's callers: lodger never makes itself a subreaper
    #[arg(long)]
    no_subreaper: bool,
    /// What the container is restored from, if it is.
    #[arg(skip)]
    pub(super) restore: Option<Restore>,
    // The last of the options, as the heading is for all that follow.
    #[command(flatten, next_help_heading = "Options for images")]
    pub(super) image: ImageRun,
    /// The container's id: letters, digits and any of `_+-.`; with --image then what is in place of the image's arguments
    ///
    /// With --image everything after the id belongs to the program, whatever it begins with.
    #[arg(
        value_names = ["ID", "ARGS"],
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        help_heading = None::<&str>,
    )]
    words: Vec<String>,
}

impl Common {
    /// Of a container that is restored.
    pub(super) fn of_restore(id: String, bundle: PathBuf, io: Io, restore: Restore) -> Self {
        Self {
            bundle,
            config: None,
            tty: false,
            io,
            // CRIU changes the root by itself.
            no_pivot: false,
            no_new_keyring: false,
            no_subreaper: false,
            restore: Some(restore),
            image: ImageRun::default(),
            words: vec![id],
        }
    }

    /// Whether the program has a socket to tell of itself on.
    fn tells_of_itself(&self) -> bool {
        let restore = self.restore.as_ref();
        restore.map_or_else(notify::is_wanted, Restore::tells_of_itself)
    }

    /// What could not be done.
    fn failed(&self) -> String {
        let verb = if self.restore.is_some() {
            "restore"
        } else {
            "create"
        };
        format!("cannot {verb} container {:?}", self.id())
    }

    pub(super) fn id(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// What is in place of the image's arguments.
    pub(super) fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The words from the id on, where those after it can be nothing but options.
    fn misplaced(&self) -> Option<&[String]> {
        let alone = self.image.image().is_none();
        (alone && self.words.len() > 1).then_some(self.words.as_slice())
    }
}

impl CreateArgs {
    /// See [`RunArgs::misplaced`].
    pub(super) fn misplaced(&self) -> Option<&[String]> {
        self.common.misplaced()
    }
}

impl RunArgs {
    /// The words from the id on, if there are more, and they are not an image's arguments.
    pub(super) fn misplaced(&self) -> Option<&[String]> {
        self.common.misplaced()
    }
}

/// Does what `create` asks.
pub(crate) fn create(global: &Global, args: CreateArgs, log: &Log) -> Result<u8> {
    let making = make(global, &args.common, Until::Created)?;
    log.notes(&making.made.notes);
    Ok(0)
}

/// Does what `run` asks.
pub(crate) fn run(global: &Global, args: RunArgs, log: &Log) -> Result<u8> {
    if args.detach {
        return detached(global, &args.common, log);
    }
    let exit_file = args.exit_file.as_deref().map(ExitFile::prepare);
    foreground(
        global,
        &args.common,
        (args.keep, exit_file.transpose()?),
        log,
    )
}

/// Makes the container, and leaves it to itself.
pub(super) fn detached(global: &Global, common: &Common, log: &Log) -> Result<u8> {
    let making = make(global, common, Until::Detached)?;
    log.notes(&making.made.notes);
    if let Some(notifier) = making.notifier {
        // Whoever waits for what may never come keeps nobody from the container.
        making.entry.unlock()?;
        let child = &making.made.child;
        log.notes(notifier.wait_ready(child.pid, &child.pidfd)?.as_slice());
    }
    Ok(0)
}

/// Makes the container, and stays with it until it ends.
pub(super) fn foreground(
    global: &Global,
    common: &Common,
    (keep, exit_file): (bool, Option<ExitFile>),
    log: &Log,
) -> Result<u8> {
    sys::signal::block_all().doing(|| "cannot block signals".to_owned())?;
    let Making {
        made,
        store,
        entry,
        front,
        after,
        notifier,
    } = make(global, common, Until::Foreground)?;
    let after = after.filter(|_| !keep);
    let mut notes = made.notes;
    notes.extend(notifier.as_ref().and_then(Notifier::complaint));
    log.notes(&notes);
    log.all_told();
    entry.unlock()?;
    let relay = front.show(made.console)?;
    let ended = wait_in_foreground(&made.child, relay, notifier.as_ref())?;
    let told = exit_file.map_or(Ok(()), |file| file.write(ended));
    match remnants::clean_up(&store, &entry, made.may_leave_others, keep) {
        Ok(true) => {
            if let Some((runner, poststop)) = after {
                log.notes(&poststop.run(&runner));
            }
        }
        Ok(false) => {}
        // The status stays the program's, which has run.
        Err(error) => {
            let id = entry.id();
            let error = error.within(format!("cannot remove container {id:?}, which has ended"));
            log.error(&error.hint(format!("`lodger delete -f {id}` tries again")));
        }
    }
    told.map(|()| ended.exit.shell_code())
}

/// A container that was made, and what is needed to stay with it.
struct Making {
    made: Made,
    store: Store,
    entry: Entry,
    front: Front,
    after: Option<After>,
    notifier: Option<Notifier>,
}

/// What is to be run once the container is removed, and by whom.
type After = (Runner, Poststop);

fn make(global: &Global, common: &Common, until: Until) -> Result<Making> {
    check_id(common.id())?;
    let preserved = match common.restore {
        None => common.io.preserved()?,
        // It has those that it had.
        Some(_) => Preserved::default(),
    };
    let facts = global.facts()?;
    // It may begin anew: nothing is made before.
    protect::against_overwriting(&facts, preserved.count)?;
    let image = match &common.restore {
        Some(_) => image_run::again(global, (&common.bundle, common.id()))
            .map_err(|e| e.within(common.failed()))?,
        None => image_run::prepare(global, common, &facts, until == Until::Foreground)?,
    };
    let made = make_from(image.as_ref(), (facts, preserved), (global, common), until);
    match image {
        Some(image) => made.map_err(|error| image.discard(global, error)),
        None => made,
    }
}

fn make_from(
    image: Option<&FromImage>,
    (mut facts, preserved): (HostFacts, Preserved),
    (global, common): (&Global, &Common),
    until: Until,
) -> Result<Making> {
    let store = Store::open_or_make(global.root.as_deref())?;
    let mut making = Cgroups::begin(global, &mut facts);
    let config = match image {
        Some(image) => image.config(),
        None => super::spec::read_config(&common.bundle, common.config.as_deref())?,
    };
    // Hooks are run by one who has stayed where the caller is.
    let runner = config.may_have_hooks().then(Runner::begin).transpose()?;
    let (early, joinable) = config.parse_if_it_joins(&mut facts)?.unzip();
    let joinable = joinable.unwrap_or_default();
    let outer = plan::idmap::outer(&facts);
    tracing::debug!(state = ?store.path(), ?outer, "entering the outer user namespace");
    let entering = userns::begin(&outer, &store, &joinable)?;
    // The helpers work while the config is parsed.
    let mut bundle = early.map_or_else(|| config.parse(), Ok)?;
    if common.tty {
        bundle.give_terminal();
    }
    global.learn(&mut facts, &bundle);
    let mut plan = making.plan(&bundle, &mut facts)?;
    let maker = making.maker(&plan, &facts)?;
    let detached = until != Until::Foreground;
    plan.notes.extend(store.note().filter(|_| detached));
    let leaving = detached.then_some(&mut facts);
    complete(&mut plan, image, (global, common), leaving)?;
    tracing::debug!(namespaces = ?plan.namespaces, mounts = plan.mounts.len(), "planned");
    let has_terminal = plan.process.terminal.is_some();
    let outlets = common.io.outlets(has_terminal, detached)?;
    let front = Front::prepare(plan.process.terminal.as_mut(), detached)?;
    let (filter, agent) = filtering(&plan, (common, &store), until)?;
    let entry = store
        .create(common.id())
        .map_err(|e| e.within(common.failed()))?;
    let undone = |after, error| undone((&store, &entry), common, after, error);
    let last = (&mut plan, &bundle);
    let prepared = prepare_last((global, common), (&store, &entry), last, until);
    let (notifier, restoring) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err(undone(None, error)),
    };
    let manner = Manner {
        filter,
        keyring: (!common.no_new_keyring).then(|| format!("_ses.{}", common.id())),
        preserved,
        no_pivot: common.no_pivot,
    };
    let creation = Creation {
        bundle: &bundle,
        plan: &plan,
        joinable: &joinable,
        manner,
        owner: facts
            .user_name
            .clone()
            .unwrap_or_else(|| facts.uid.to_string()),
        entry: &entry,
        outlets,
        until,
        strict: global.is_strict(),
        notify: common.tells_of_itself(),
        runner: runner.as_ref(),
        cgroups: maker.as_ref(),
        image: image.map(FromImage::used),
        restoring: restoring.as_ref(),
    };
    let poststop = match Poststop::new(&plan.hooks.poststop, creation.told()) {
        Ok(poststop) => poststop,
        Err(error) => return Err(undone(None, error)),
    };
    let made = creation.make(entering, agent);
    let after = runner.zip(poststop);
    match made {
        Ok(made) => Ok(Making {
            made,
            store,
            // Who returns leaves them to `delete`.
            after: after.filter(|_| !detached),
            entry,
            front,
            notifier,
        }),
        Err(error) => Err(undone(after, error)),
    }
}

/// The filter and its agent; of a container that is restored, they are in the images.
fn filtering(
    plan: &Plan,
    (common, store): (&Common, &Store),
    until: Until,
) -> Result<(Option<Filter>, Option<Agent>)> {
    if common.restore.is_some() {
        return Ok((None, None));
    }
    let filter = filter(plan.seccomp.as_ref(), plan.fake_root, Some(store))?;
    Ok((filter, agent(plan, until)?))
}

/// Prepares what needs the state directory, and looks whether what is restored fits the plan, of which the last is known now.
fn prepare_last<'a>(
    (global, common): (&Global, &'a Common),
    (store, entry): (&Store, &Entry),
    (plan, bundle): (&mut Plan, &Bundle),
    until: Until,
) -> Result<(Option<Notifier>, Option<Restoring<'a>>)> {
    let notifier = prepare_notify((global, common), (store, entry), plan, until)?;
    let restore = common.restore.as_ref();
    let restoring = restore.map(|restore| restore.fit(global, plan, &bundle.config));
    Ok((notifier, restoring.transpose()?))
}

/// Adds to the plan what the configuration does not say, `leaving` for a container that is left to itself; and refuses its
/// notes, if they are errors.
fn complete(
    plan: &mut Plan,
    image: Option<&FromImage>,
    (global, common): (&Global, &Common),
    leaving: Option<&mut HostFacts>,
) -> Result<()> {
    if let Some(image) = image {
        image.complete(plan);
    }
    if common.no_pivot {
        plan.notes.push(without_pivot(plan)?);
    }
    plan.set_fake_root(global.fake_root().unwrap_or_default());
    if let Some(facts) = leaving {
        plan.notes.extend(cgroups::logout_note(plan, facts));
    }
    global
        .allow(&plan.notes)
        .map_err(|e| e.within(common.failed()))
}

/// Gives the program a socket to tell of itself on, if the caller's manager wants to know (NOTIFY_SOCKET). `start` listens on
/// that of a container that it is to start.
fn prepare_notify(
    (global, common): (&Global, &Common),
    (store, entry): (&Store, &Entry),
    plan: &mut Plan,
    until: Until,
) -> Result<Option<Notifier>> {
    if !common.tells_of_itself() {
        return Ok(None);
    }
    plan.pass_notify_socket(store.make_notify_directory(entry)?);
    // What is restored has said that it is ready.
    if common.restore.is_some() && !(notify::is_wanted() && until == Until::Foreground) {
        return Ok(None);
    }
    match until {
        Until::Created => Ok(None),
        Until::Foreground | Until::Detached => {
            let notifier = Notifier::begin(entry)?;
            global.allow(notifier.complaint().as_slice())?;
            Ok(Some(notifier))
        }
    }
}

/// Removes the state of a container that could not be made; a second failure is part of the one error.
fn undone(
    (store, entry): (&Store, &Entry),
    common: &Common,
    after: Option<After>,
    error: Error,
) -> Error {
    let error = error.within(common.failed());
    // A hook may fail once the program runs, and one may have left something behind.
    let ended = super::delete::end_others(entry);
    // What is recorded can still be deleted, once all of it has ended.
    let is_recorded = entry.record().is_ok_and(|record| record.is_some());
    let removed = match &ended {
        Err(_) if is_recorded => Ok(()),
        _ => store.remove(entry),
    };
    let left = [ended.err(), removed.err()].into_iter().flatten();
    let error = left.fold(error, |error, left| error.hint(left.message()));
    let failed = after.map_or_else(Vec::new, |(runner, poststop)| poststop.run(&runner));
    failed
        .into_iter()
        .fold(error, |error, note| error.hint(note.reason))
}
