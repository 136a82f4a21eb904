//! `exec`.

use std::path::PathBuf;

use super::user::parse_user;
use super::{Global, protect};
use crate::bundle::Bundle;
use crate::error::{Doing, Error, Result};
use crate::host::HostFacts;
use crate::plan::{self, Ids, Process};
use crate::spawn::{PidFile, wait_in_foreground};
use crate::state::{Entry, Record, Status, Store};
use crate::sys;

/// Run another process in a running container
///
/// It gets the environment, capabilities and limits of the container's own process. The exit status is its own, or
/// 255 when it could not be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run as UID or UID:GID of the container
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Return once the process runs
    #[arg(short, long)]
    detach: bool,
    /// Write the pid of the process to FILE
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// The program and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<String>,
}

/// Does what `exec` asks.
pub(crate) fn exec(global: &Global, args: Args) -> Result<u8> {
    let what = format!("cannot exec in container {:?}", args.id);
    try_exec(global, args).map_err(|error| error.within(what).exit(Error::EXEC_FAILURE))
}

fn try_exec(global: &Global, args: Args) -> Result<u8> {
    let entry = Store::find_in(global.root.as_deref(), &args.id)?;
    let record = entry.existing_record()?;
    match entry.status(Some(&record)) {
        Status::Running | Status::Created => {}
        Status::Stopped | Status::Creating => {
            return Err(Error::new("cannot exec in a stopped container"));
        }
    }
    sys::signal::keep_ended_children().doing(|| "cannot wait for children".to_owned())?;
    let facts = HostFacts::probe();
    protect::against_overwriting(&facts)?;
    let process = process(&entry, &record, &facts, &args)?;
    let pid_file = args.pid_file.as_deref().map(PidFile::prepare).transpose()?;
    if !args.detach {
        sys::signal::block_all().doing(|| "cannot block signals".to_owned())?;
    }
    tracing::debug!(
        pid = record.process.pid,
        uid = process.uid,
        "joining the container"
    );
    let child = crate::spawn::exec(&record, &process, pid_file.as_ref())?;
    if args.detach {
        return Ok(0);
    }
    Ok(wait_in_foreground(&child)?.shell_code())
}

/// The container's own process, from the snapshot of its config, changed as the options say.
fn process(entry: &Entry, record: &Record, facts: &HostFacts, args: &Args) -> Result<Process> {
    let bundle = Bundle::parse(record.bundle.clone(), entry.config()?)
        .map_err(|error| super::spec::explain(&error))?;
    let mut wanted = bundle
        .spec
        .process()
        .clone()
        .ok_or_else(|| Error::new("the container's config has no process"))?;
    wanted.set_args(Some(args.command.clone()));
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
    if let Some(user) = &args.user {
        let (uid, gid) = parse_user(user)?;
        let mut changed = wanted.user().clone();
        changed.set_uid(uid);
        changed.set_gid(gid.unwrap_or_else(|| changed.gid()));
        wanted.set_user(changed);
    }
    let own = record.user_namespace.as_ref();
    let ids = Ids {
        maps: own.map(|own| (own.uid_map.as_slice(), own.gid_map.as_slice())),
        setgroups: own.map_or(facts.setgroups_allowed, |own| own.setgroups),
        facts,
    };
    let (process, _) =
        plan::process(&wanted, ids).map_err(|found| super::spec::problems(&found))?;
    Ok(process)
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
