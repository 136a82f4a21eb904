//! `create` and `run`.

use std::path::PathBuf;

use super::cgroups::{self, Cgroups};
use super::exit_file::ExitFile;
use super::image_options::ImageRun;
use super::image_run::{self, FromImage};
use super::io::{Front, Io};
use super::{Global, protect};
use crate::error::{Doing, Error, Result};
use crate::host::HostFacts;
use crate::init::{Manner, Preserved};
use crate::log::Log;
use crate::plan::{self, CapabilitySet, FakeRoot, Note, Plan, Process, Seccomp};
use crate::seccomp::{self, Agent, Filter};
use crate::spawn::notify::{self, Notifier};
use crate::spawn::{Creation, Made, Poststop, Runner, Until, wait_in_foreground};
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
        let making = make(global, &args.common, Until::Detached)?;
        log.notes(&making.made.notes);
        if let Some(notifier) = making.notifier {
            // Whoever waits for what may never come keeps nobody from the container.
            making.entry.unlock()?;
            let child = &making.made.child;
            log.notes(notifier.wait_ready(child.pid, &child.pidfd)?.as_slice());
        }
        return Ok(0);
    }
    let exit_file = args.exit_file.as_deref().map(ExitFile::prepare);
    let exit_file = exit_file.transpose()?;
    sys::signal::block_all().doing(|| "cannot block signals".to_owned())?;
    let Making {
        made,
        store,
        entry,
        front,
        after,
        notifier,
    } = make(global, &args.common, Until::Foreground)?;
    let after = after.filter(|_| !args.keep);
    let mut notes = made.notes;
    notes.extend(notifier.as_ref().and_then(Notifier::complaint));
    log.notes(&notes);
    log.all_told();
    entry.unlock()?;
    let relay = front.show(made.console)?;
    let ended = wait_in_foreground(&made.child, relay, notifier.as_ref())?;
    let told = exit_file.map_or(Ok(()), |file| file.write(ended));
    match clean_up(&store, &entry, made.may_leave_others, args.keep) {
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

/// Removes what is left of a container whose first process has ended; whether it is gone by this.
fn clean_up(store: &Store, entry: &Entry, may_leave_others: bool, keep: bool) -> Result<bool> {
    // Somebody else's `delete` may have been faster.
    if (keep && !may_leave_others) || !entry.lock_if_there()? {
        return Ok(false);
    }
    if may_leave_others {
        super::delete::end_others(entry)?;
    }
    if keep {
        return Ok(false);
    }
    if let Some(record) = entry.record()? {
        super::remnants::remove(store, &record)?;
    }
    store.remove(entry)?;
    Ok(true)
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
    let preserved = common.io.preserved()?;
    let facts = global.facts()?;
    // It may begin anew: nothing is made before.
    protect::against_overwriting(&facts, preserved.count)?;
    let image = image_run::prepare(global, common, &facts, until == Until::Foreground)?;
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
    let outlets = common
        .io
        .outlets(plan.process.terminal.is_some(), detached)?;
    let front = Front::prepare(plan.process.terminal.as_mut(), detached)?;
    let filter = filter(plan.seccomp.as_ref(), plan.fake_root, Some(&store))?;
    let agent = agent(&plan, until)?;
    let entry = store
        .create(common.id())
        .map_err(|e| e.within(format!("cannot create container {:?}", common.id())))?;
    let notifier = match prepare_notify(global, (&store, &entry), &mut plan, until) {
        Ok(notifier) => notifier,
        Err(error) => return Err(undone(&store, &entry, None, error)),
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
        notify: notify::is_wanted(),
        runner: runner.as_ref(),
        cgroups: maker.as_ref(),
        image: image.map(FromImage::used),
    };
    let poststop = match Poststop::new(&plan.hooks.poststop, creation.told()) {
        Ok(poststop) => poststop,
        Err(error) => return Err(undone(&store, &entry, None, error)),
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
        Err(error) => Err(undone(&store, &entry, after, error)),
    }
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
        .map_err(|e| e.within(format!("cannot create container {:?}", common.id())))
}

/// Gives the program a socket to tell of itself on, if the caller's manager wants to know (NOTIFY_SOCKET). `start` listens on
/// that of a container that it is to start.
fn prepare_notify(
    global: &Global,
    (store, entry): (&Store, &Entry),
    plan: &mut Plan,
    until: Until,
) -> Result<Option<Notifier>> {
    if !notify::is_wanted() {
        return Ok(None);
    }
    plan.pass_notify_socket(store.make_notify_directory(entry)?);
    match until {
        Until::Created => Ok(None),
        Until::Foreground | Until::Detached => {
            let notifier = Notifier::begin(entry)?;
            global.allow(notifier.complaint().as_slice())?;
            Ok(Some(notifier))
        }
    }
}

/// The system call filter of the plan, compiled, and that which feigns.
pub(super) fn filter(
    seccomp: Option<&Seccomp>,
    fake_root: FakeRoot,
    store: Option<&Store>,
) -> Result<Option<Filter>> {
    let compiled = seccomp.map(|s| seccomp::prepare(s, store.map(Store::directory)));
    let compiled = compiled.transpose();
    let filter = compiled.map_err(|found| super::spec::problems(&found))?;
    Ok(match fake_root {
        FakeRoot::None => filter,
        FakeRoot::Ignore => Some(seccomp::with_fake_root(filter)),
    })
}

/// The seccomp agent, if the filter notifies one: reached where the program is run, looked for where `start` will.
fn agent(plan: &Plan, until: Until) -> Result<Option<Agent>> {
    let listener = plan.seccomp.as_ref().and_then(|s| s.listener.as_ref());
    match (listener, until) {
        (None, _) => Ok(None),
        (Some(listener), Until::Created) => Agent::require(listener).map(|()| None),
        (Some(listener), _) => Agent::connect(listener).map(Some),
    }
}

/// Whether the program may get CAP_SYS_ADMIN, with which it could take a root away that was only moved over the host's.
pub(super) fn could_unmount_root(process: &Process) -> bool {
    let admin = CapabilitySet::number("CAP_SYS_ADMIN");
    admin.is_some_and(|number| process.capabilities.bounding.has(number))
}

/// The note on a root that was not pivoted, or why it cannot be done.
fn without_pivot(plan: &Plan) -> Result<Note> {
    if could_unmount_root(&plan.process) {
        return Err(Error::new("cannot change the root without pivot_root(2)")
            .because("the container has CAP_SYS_ADMIN, and could take its root away and reach the host's")
            .hint("take CAP_SYS_ADMIN out of /process/capabilities, or do without --no-pivot"));
    }
    Ok(Note::new(
        "/root",
        "the host's root stays mounted beneath the container's, out of reach of its processes (--no-pivot)",
        "do without --no-pivot where pivot_root(2) works",
    ))
}

/// Removes the state of a container that could not be made; a second failure is part of the one error.
fn undone(store: &Store, entry: &Entry, after: Option<After>, error: Error) -> Error {
    let error = error.within(format!("cannot create container {:?}", entry.id()));
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
