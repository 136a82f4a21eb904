//! The command line: what was typed becomes a command, the command's file does the rest.
//!
//! The verbs, flags, strings and exit statuses are runc's, so that every engine that drives runc can drive this.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write;
use std::sync::OnceLock;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::doctor::consult;
use crate::error::{Doing, Error, Result};
use crate::log::{Format, Level, Log};
use crate::sys;

mod cgroups;
mod check;
mod checkpoint;
mod completion;
mod create;
mod delete;
mod doctor;
mod duration;
mod events;
mod exec;
mod exit_file;
mod features;
mod filter;
mod global;
mod help;
mod image;
mod image_described;
mod image_options;
mod image_run;
mod io;
mod iterative;
mod kill;
mod no_pivot;
mod pause;
mod protect;
mod ps;
mod quick;
mod remnants;
mod restore;
mod runc_words;
mod select;
mod show;
pub(crate) mod signal;
mod size;
mod spec;
mod start;
mod stats;
mod table;
mod update;
pub mod user;
mod wait;

pub(crate) use global::Global;
#[cfg(fuzzing)]
pub(crate) use show::texts;

/// The version of the runtime specification that is understood.
pub const SPEC_VERSION: &str = "1.3.0";
/// The commit this program was built from, if the build knew.
const COMMIT: &str = match option_env!("LODGER_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// What `--version` prints after the name; engines take the word after `version`, and that after `commit:`.
fn version() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let number = env!("CARGO_PKG_VERSION");
        format!("version {number}\ncommit: {COMMIT}\nspec: {SPEC_VERSION}")
    })
}

/// Run OCI containers without root
///
/// Every container gets a user namespace made from your subordinate ids (/etc/subuid, /etc/subgid). What a config asks
/// for is applied, refused with its JSON pointer, or adapted with a note.
#[derive(Debug, Parser)]
#[command(
    name = "lodger",
    version = version(),
    arg_required_else_help = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    override_usage = "lodger [OPTIONS] VERB …",
    max_term_width = 100,
    after_help = "`lodger help VERB` tells about one verb.",
    after_long_help = "\
`lodger help VERB` tells about one verb. The options above come before it.

Examples:
  lodger spec && lodger run web   a shell in ./rootfs
  lodger plan .                   what `run` would do, as JSON
  lodger list                     what runs

Exit status:
  0    done
  1    not done: an error on stderr says what, why, and what helps
  3    there is no such verb
  255  `exec` could not run its program
  `run`, `exec` and `wait` give that of the process, and 128 + n when signal n ended it"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    /// Print the version, the commit, and the version of the runtime specification
    #[arg(short = 'v', visible_short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(create::RunArgs),
    Create(create::CreateArgs),
    Start(start::Args),
    Exec(exec::Args),
    State(show::StateArgs),
    List(show::ListArgs),
    Ps(ps::Args),
    Stats(stats::Args),
    Events(events::Args),
    Kill(kill::Args),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    Wait(wait::Args),
    Checkpoint(checkpoint::Args),
    Restore(restore::Args),
    Update(update::Args),
    Delete(delete::Args),
    Image(image::Args),
    Doctor(doctor::Args),
    Spec(spec::SpecArgs),
    Plan(spec::PlanArgs),
    Check(check::Args),
    Features(features::Args),
    Completion(completion::Args),
    Help(help::Args),
}

/// The verbs that have to do with images.
const OF_IMAGES: [&str; 4] = ["check", "create", "image", "run"];

/// The whole command line, for completion scripts and manual pages too.
pub fn command() -> clap::Command {
    let whole = Cli::command();
    let everywhere: Vec<clap::Arg> = whole
        .get_arguments()
        .filter(|option| option.is_global_set())
        .map(|option| option.clone().hide(true))
        .collect();
    // What may come after any verb is told of where it means something.
    whole.mut_subcommands(|verb| match OF_IMAGES.contains(&verb.get_name()) {
        true => verb,
        false => verb.args(&everywhere),
    })
}

/// Runs the program: `args` is argv. Returns its exit status.
pub fn main(args: impl Iterator<Item = OsString>) -> u8 {
    let status = prepare().map_or_else(|error| fail(&error), |()| run(args.collect()));
    // What is left in the buffer has nowhere else to go.
    let _nowhere_to_report = std::io::stdout().flush();
    status
}

/// What has to be so before anything is opened.
fn prepare() -> Result<()> {
    let what = || "cannot prepare this process".to_owned();
    sys::fd::fill_stdio().doing(what)?;
    // Nothing the caller happens to have open is passed on by accident (CVE-2024-21626).
    sys::fd::inherit().doing(what)?;
    sys::signal::keep_ended_children().doing(what)?;
    sys::signal::ignore_failed_writes().doing(what)
}

fn run(args: Vec<OsString>) -> u8 {
    let parsed = parse(&args);
    let (mut global, command) = match parsed {
        Ok(parsed) => parsed,
        Err(answer) if answer.use_stderr() => return usage(&answer, &args),
        // Help and version go to stdout and are no failure.
        Err(answer) => {
            let printed = print(&help::tidy(&answer.render().to_string()));
            return printed.map_or_else(|error| fail(&error), |()| 0);
        }
    };
    let log = match Log::open(global.log.as_deref(), global.log_format, global.level()) {
        Ok(log) => log.explaining(global.explain),
        Err(error) => return fail(&error),
    };
    let done = log
        .trace()
        .and_then(|()| global.check())
        .and_then(|()| dispatch(&global, command, &log))
        .inspect(|_| log.all_told());
    done.unwrap_or_else(|error| {
        let error = consult(
            error,
            global.known(),
            (global.store(), global.root.as_deref()),
        );
        log.error(&error);
        error.exit_status()
    })
}

fn parse(args: &[OsString]) -> clap::error::Result<(Global, Command)> {
    let parsed = quick::parse(args).map_or_else(|| whole(args), Ok)?;
    match &parsed.1 {
        Command::Run(run) => again(args, run.misplaced()),
        Command::Create(create) => again(args, create.misplaced()),
        _ => None,
    }
    .unwrap_or(Ok(parsed))
}

/// Without an image, options may come after the id too: `words`, the last of `args`, begin with it.
fn again(
    args: &[OsString],
    words: Option<&[String]>,
) -> Option<clap::error::Result<(Global, Command)>> {
    let words = words?;
    let (before, last) = args.split_at(args.len().checked_sub(words.len())?);
    let (id, options) = last.split_first()?;
    let reordered: Vec<OsString> = before.iter().chain(options).chain([id]).cloned().collect();
    let parsed = whole(&reordered);
    let left = match &parsed {
        Ok((_, Command::Run(run))) => run.misplaced(),
        Ok((_, Command::Create(create))) => create.misplaced(),
        _ => None,
    };
    let surplus = left.and_then(<[String]>::first).cloned();
    Some(match surplus {
        None => parsed,
        Some(word) => Err(command().error(
            ErrorKind::UnknownArgument,
            format!("unexpected argument '{word}' found: only a container of an image (--image) takes arguments"),
        )),
    })
}

fn whole(args: &[OsString]) -> clap::error::Result<(Global, Command)> {
    let mut command = command();
    let mut matches = command.try_get_matches_from_mut(runc_words::spelled_out(args))?;
    let cli = Cli::from_arg_matches_mut(&mut matches).map_err(|e| e.format(&mut command))?;
    Ok((cli.global, cli.command))
}

fn dispatch(global: &Global, command: Command, log: &Log) -> Result<u8> {
    match command {
        Command::Run(args) => create::run(global, args, log),
        Command::Create(args) => create::create(global, args, log),
        Command::Start(args) => start::start(global, &args, log),
        Command::Exec(args) => exec::exec(global, args, log),
        Command::State(args) => show::state(global, &args),
        Command::List(args) => show::list(global, &args, log),
        Command::Ps(args) => ps::ps(global, &args),
        Command::Stats(args) => stats::stats(global, &args, log),
        Command::Events(args) => events::events(global, &args, log),
        Command::Kill(args) => kill::kill(global, &args),
        Command::Pause(args) => pause::pause(global, &args),
        Command::Resume(args) => pause::resume(global, &args),
        Command::Wait(args) => wait::wait(global, &args),
        Command::Update(args) => update::update(global, &args, log),
        Command::Delete(args) => delete::delete(global, &args, log),
        Command::Image(args) => image::image(global, &args, log),
        Command::Doctor(args) => doctor::doctor(global, &args),
        Command::Spec(args) => spec::spec(&args),
        Command::Plan(args) => spec::plan(global, &args),
        Command::Check(args) => check::check(global, &args),
        Command::Features(args) => features::features(&args),
        Command::Completion(args) => completion::completion(&args),
        Command::Help(args) => help::help(&args),
        Command::Checkpoint(args) => checkpoint::checkpoint(global, &args, log),
        Command::Restore(args) => restore::restore(global, args, log),
    }
}

/// A wrong command line is status 1, an unknown verb 3, as with runc. It is one object in the log like any other failure.
fn usage(answer: &clap::Error, args: &[OsString]) -> u8 {
    let (error, text) = help::wrong(answer);
    // What could be understood of it says where the log is.
    let understood = Cli::command()
        .ignore_errors(true)
        .try_get_matches_from(args)
        .unwrap_or_default();
    let target: Option<&OsString> = understood.try_get_one("log").ok().flatten();
    let format: Option<&Format> = understood.try_get_one("log_format").ok().flatten();
    let format = format.copied().unwrap_or(Format::Text);
    let target = target.map(OsString::as_os_str);
    match Log::open(target, format, Level::Error) {
        Ok(log) => log.error_saying(&error, &text),
        Err(_) => {
            let _nowhere_to_report = std::io::stderr().write_all(text.as_bytes());
        }
    }
    error.exit_status()
}

/// A failure before there is a log.
fn fail(error: &Error) -> u8 {
    let _nowhere_to_report = writeln!(std::io::stderr(), "error: {error}");
    error.exit_status()
}

/// Writes `text` to stdout; a closed pipe is an error like any other.
fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::new("cannot write to standard output").because(error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
