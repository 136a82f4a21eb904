//! `exec`.

use std::path::PathBuf;

use super::io::{Front, Io};
use super::user::{parse_groups, parse_user};
use super::{Global, protect};
use crate::bundle::{Bundle, BundleError};
use crate::cgroup::{Dir, Entrance};
use crate::error::{Doing, Error, Result};
use crate::host::HostFacts;
use crate::init::Manner;
use crate::log::Log;
use crate::plan::{self, CapabilitySet, FakeRoot, Ids, Note, Process, Role};
use crate::seccomp::{Agent, Filter};
use crate::spawn::{Joining, wait_in_foreground};
use crate::state::{Entry, Record, Status, Store};
use crate::sys;

/// The largest process file, in bytes.
const PROCESS_LIMIT: usize = 16 << 20;

/// Run another process in a running container
///
/// It gets the environment, user, capabilities and limits of the container's own process, changed by the options, and its
/// standard streams are yours. Options end at the container's id. The exit status is its own, 128 + n when signal n ended it,
/// or 255 when it could not be run.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger exec -t web bash
  lodger exec -u 1000:1000 -e LANG=C.UTF-8 --cwd /tmp web ls -l
  lodger exec --process process.json -d --pid-file p web

Exit status:
  that of the process; 128 + n when signal n ended it
  255  also when it could not be run, with an error on stderr")]
pub(crate) struct Args {
    /// Give it a terminal, shown on yours
    #[arg(short, long)]
    tty: bool,
    /// Return once the process runs
    #[arg(short, long)]
    detach: bool,
    /// Run as UID or UID:GID of the container
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Add a supplementary group of the container
    #[arg(short = 'g', long = "additional-gids", value_name = "GID")]
    additional_gids: Vec<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Add a capability to the bounding, effective and permitted sets
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// Let it gain no privileges by execve(2) (no_new_privs)
    #[arg(long)]
    no_new_privs: bool,
    /// Take the process from FILE: a JSON object as `process` in config.json
    ///
    /// It takes the place of the container's own process; the other options change it.
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    #[command(flatten)]
    io: Io,
    /// Run it although the container is paused: it stops there until `resume`
    #[arg(long)]
    ignore_paused: bool,
    /// Run it in this cgroup beneath the container's own, which has to be there
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Run it with this SELinux context
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Run it under this AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// The container's id, then the program and its arguments
    ///
    /// Everything after the id belongs to the program, whatever it begins with. With --process it may be left out.
    #[arg(value_names = ["ID", "COMMAND"], required = true, num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

impl Args {
    fn id(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

/// Does what `exec` asks.
pub(crate) fn exec(global: &Global, args: Args, log: &Log) -> Result<u8> {
    let what = format!("cannot exec in container {:?}", args.id());
    try_exec(global, &args, log).map_err(|error| error.within(what).exit(Error::EXEC_FAILURE))
}

fn try_exec(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    if args.command().is_empty() && args.process.is_none() {
        return Err(Error::new("there is no program to run")
            .hint("name it after the container's id, or give --process FILE"));
    }
    let entry = Store::find_in(global.root.as_deref(), args.id())?;
    let record = entry.existing_record()?;
    match entry.status(&record) {
        Status::Running | Status::Created => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => {
            return Err(Error::new(
                "cannot exec in a paused container (use --ignore-paused to override)",
            )
            .hint(format!("`lodger resume {}` lets it go on", args.id())));
        }
        Status::Stopped | Status::Creating => {
            return Err(Error::new("cannot exec in a stopped container"));
        }
    }
    let preserved = args.io.preserved()?;
    let mut facts = HostFacts::probe();
    global.remember(&facts);
    protect::against_overwriting(&facts, preserved.count)?;
    let template = template(&entry, &record, args)?;
    let (mut process, notes) = process(&template, &record, &mut facts, args)?;
    global.allow(&notes)?;
    let (filter, agent) = filter(global, &template, record.fake_root)?;
    let outlets = args.io.outlets(process.terminal.is_some(), args.detach)?;
    if !args.detach {
        // Before the terminal has its guard: a key may not end the guard alone.
        sys::signal::block_all().doing(|| "cannot block signals".to_owned())?;
    }
    let front = Front::prepare(process.terminal.as_mut(), args.detach)?;
    let entrance = entrance(&record, &mut facts, args)?;
    tracing::debug!(
        pid = record.process.pid,
        uid = process.uid,
        "joining the container"
    );
    let joining = Joining {
        entrance,
        record: &record,
        process: &process,
        manner: Manner {
            keyring: record.keyring.clone(),
            preserved,
            filter,
            no_pivot: false,
        },
        outlets,
        id: args.id(),
        strict: global.is_strict(),
    };
    let member = crate::spawn::exec(&joining, agent)?;
    log.notes(&[notes, member.notes].concat());
    log.all_told();
    if args.detach {
        return Ok(0);
    }
    let relay = front.show(member.console)?;
    Ok(wait_in_foreground(&member.child, relay, None)?
        .exit
        .shell_code())
}

/// The way into the container's cgroup, or into that which `--cgroup` names.
fn entrance(record: &Record, facts: &mut HostFacts, args: &Args) -> Result<Option<Entrance>> {
    match (&record.cgroup, &args.cgroup) {
        (Some(cgroup), beneath) => {
            let init = record.process.pid;
            let inside = |dir: &Dir, file: &str| {
                let what = || format!("cannot put a process into the cgroup {}", dir.path());
                crate::spawn::open_inside(record, dir, file, what)
            };
            Entrance::open(cgroup, init, beneath.as_deref(), facts, inside).map(Some)
        }
        (None, Some(_)) => Err(Error::new("cannot do what --cgroup asks for")
            .because("the container has no cgroup of its own")
            .hint("do without --cgroup")),
        (None, None) => Ok(None),
    }
}

/// The process to run: the container's own, from the snapshot of its config, or that of the process file; changed as the
/// options say.
///
/// The notes are those on the process file: the container's own process had its when the container was made.
fn process(
    template: &Bundle,
    record: &Record,
    facts: &mut HostFacts,
    args: &Args,
) -> Result<(Process, Vec<Note>)> {
    let mut spec = template.spec.clone();
    let mut wanted = spec
        .process()
        .clone()
        .ok_or_else(|| Error::new("the container's config has no process"))?;
    if !args.command().is_empty() {
        wanted.set_args(Some(args.command().to_vec()));
    }
    let env = wanted.env().clone().unwrap_or_default();
    wanted.set_env(Some(merged(env, &args.env)?));
    if let Some(cwd) = &args.cwd {
        if !cwd.is_absolute() {
            return Err(Error::new(format!(
                "the working directory {cwd:?} is not absolute"
            )));
        }
        wanted.set_cwd(cwd.clone());
    }
    // The terminal of the container's own process, and its size, are not this one's.
    if args.process.is_none() {
        wanted.set_terminal(None);
        wanted.set_console_size(None);
    }
    if args.tty {
        wanted.set_terminal(Some(true));
    }
    if args.no_new_privs {
        wanted.set_no_new_privileges(Some(true));
    }
    change_labels(&mut wanted, args);
    change_user(&mut wanted, args)?;
    let keep_groups = plan::keeps_groups(&record.annotations);
    if keep_groups && !args.additional_gids.is_empty() {
        return Err(Error::new("cannot add supplementary groups")
            .because("the container keeps the caller's (annotation run.oci.keep_original_groups)")
            .hint("do without --additional-gids"));
    }
    spec.set_process(Some(wanted.clone()));
    facts.learn(&spec);
    let facts = &*facts;
    let own = record.user_namespace.as_ref();
    let ids = Ids {
        maps: own.map(|own| (own.uid_map.as_slice(), own.gid_map.as_slice())),
        setgroups: own.map_or(facts.setgroups_allowed, |own| own.setgroups),
        keep_groups,
        facts,
    };
    let mut found = Vec::new();
    let attributes = plan::attributes(&spec, Role::Joining, facts, &mut found);
    let planned = plan::process(&wanted, ids);
    let (process, mut notes) = match planned {
        Ok(planned) if found.is_empty() => planned,
        planned => {
            found.extend(planned.err().unwrap_or_default());
            return Err(about_file(super::spec::problems(&found), args));
        }
    };
    let mut process = Process {
        attributes,
        ..process
    };
    if args.process.is_none() {
        notes.clear();
    }
    add_capabilities(&mut process, &args.cap, facts)?;
    if record.no_pivot && super::no_pivot::could_unmount_root(&process) {
        return Err(Error::new(
            "cannot run a process with CAP_SYS_ADMIN in a container that was made with --no-pivot",
        )
        .because(
            "it could take the container's root away, and let every process there reach the host's",
        )
        .hint("do without CAP_SYS_ADMIN, or make the container without --no-pivot"));
    }
    Ok((process, notes))
}

/// The container's system call filter, which every process in it gets, and the agent that it notifies. To be made before
/// anything of the container is joined.
fn filter(
    global: &Global,
    template: &Bundle,
    fake_root: FakeRoot,
) -> Result<(Option<Filter>, Option<Agent>)> {
    if global.fake_root().is_some_and(|asked| asked != fake_root) {
        return Err(Error::new("cannot do what --fake-root asks for")
            .because("a process has what the container was made with, and that is another")
            .hint("do without --fake-root; `lodger state` shows what the container has"));
    }
    // Its notes were shown when the container was made, which was refused if there was a problem.
    let (mut notes, mut problems) = (Vec::new(), Vec::new());
    let Some(plan) = plan::seccomp(&template.spec, &mut notes, &mut problems) else {
        return Ok((super::filter::filter(None, fake_root, None)?, None));
    };
    let store = Store::open(global.root.as_deref())?;
    let filter = super::filter::filter(Some(&plan), fake_root, store.as_ref())?;
    let agent = plan.listener.as_ref().map(Agent::connect).transpose()?;
    Ok((filter, agent))
}

/// The error, if it is about the process file, with its name.
fn about_file(error: Error, args: &Args) -> Error {
    match &args.process {
        Some(path) => error.within(format!("cannot use the process file {path:?}")),
        None => error,
    }
}

fn template(entry: &Entry, record: &Record, args: &Args) -> Result<Bundle> {
    let config = entry.config()?;
    let directory = record.bundle.clone();
    let Some(path) = &args.process else {
        return Bundle::parse(directory, config).map_err(|error| super::spec::explain(&error));
    };
    let what = || format!("cannot use the process file {path:?}");
    let text = sys::path::read_regular(path, PROCESS_LIMIT).doing(what)?;
    Bundle::parse_with_process(directory, &config, &text).map_err(|error| match error {
        BundleError::Invalid(_) => about_file(super::spec::explain(&error), args),
        // Its words are about a file that is most often config.json.
        other => Error::new(what()).because(other.to_string().replacen("config.json", "it", 1)),
    })
}

fn change_labels(wanted: &mut oci_spec::runtime::Process, args: &Args) {
    if let Some(profile) = &args.apparmor {
        wanted.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &args.process_label {
        wanted.set_selinux_label(Some(label.clone()));
    }
}

fn change_user(wanted: &mut oci_spec::runtime::Process, args: &Args) -> Result<()> {
    let mut user = wanted.user().clone();
    if let Some(text) = &args.user {
        let (uid, gid) = parse_user(text)?;
        user.set_uid(uid);
        user.set_gid(gid.unwrap_or_else(|| user.gid()));
    }
    if !args.additional_gids.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(parse_groups(&args.additional_gids)?);
        user.set_additional_gids(Some(groups));
    }
    wanted.set_user(user);
    Ok(())
}

/// Adds to the bounding, effective and permitted sets, never to the inheritable one (CVE-2022-29162). What the container's
/// bounding set lacks is there all the same: a process that joins begins with every capability.
fn add_capabilities(process: &mut Process, names: &[String], facts: &HostFacts) -> Result<()> {
    for name in names {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        let number = CapabilitySet::number(&full)
            .filter(|number| *number <= facts.last_capability)
            .ok_or_else(|| {
                Error::new(format!("unknown capability {name:?}"))
                    .hint("capabilities(7) lists them: CAP_NET_RAW, for example")
            })?;
        let sets = &mut process.capabilities;
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.add(number);
        }
    }
    Ok(())
}

/// `env` with `added` in it, where a name that is set again loses its old value.
fn merged(mut env: Vec<String>, added: &[String]) -> Result<Vec<String>> {
    for entry in added {
        let name = match entry.split_once('=') {
            Some((name, _)) if !name.is_empty() => format!("{name}="),
            _ => {
                return Err(
                    Error::new(format!("invalid environment variable {entry:?}"))
                        .hint("give NAME=VALUE"),
                );
            }
        };
        env.retain(|old| !old.starts_with(&name));
        env.push(entry.clone());
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_set_again_loses_its_old_value() {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let env = merged(strings(&["A=1", "AB=2"]), &strings(&["A=3", "C=", "A=4"]));
        assert_eq!(env, Ok(strings(&["AB=2", "C=", "A=4"])));
        assert!(merged(Vec::new(), &strings(&["A"])).is_err());
        assert!(merged(Vec::new(), &strings(&["=x"])).is_err());
    }
}
