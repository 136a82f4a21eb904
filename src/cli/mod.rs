//! The command line: what was typed becomes a command, the command's file does the rest.
//!
//! The verbs, flags, strings and exit statuses are runc's, so that every engine that drives runc can drive this.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::error::{Doing, Error, Result, printable};
use crate::log::{Format, Log};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

mod create;
mod delete;
mod exec;
mod kill;
mod protect;
mod show;
mod signal;
mod spec;
mod start;
pub mod user;

/// The version of the runtime specification that is understood.
pub const SPEC_VERSION: &str = "1.3.0";
/// What `--version` prints after the name; engines take the word after `version`.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");

/// Run OCI containers without root.
///
/// Every container gets a user namespace made from your subordinate ids (/etc/subuid, /etc/subgid). What a config asks
/// for is applied, refused with its JSON pointer, or adapted with a note.
#[derive(Debug, Parser)]
#[command(name = "lodger", version = VERSION, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options before the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Keep the state of containers in DIR [default: $XDG_RUNTIME_DIR/lodger, else /run/user/UID/lodger, else /tmp/lodger-UID]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Print what is being done
    #[arg(long)]
    pub(crate) debug: bool,
    /// Append messages to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// How messages look
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(create::RunArgs),
    Create(create::CreateArgs),
    Start(start::Args),
    Exec(exec::Args),
    State(show::StateArgs),
    List(show::ListArgs),
    Kill(kill::Args),
    Delete(delete::Args),
    Spec(spec::SpecArgs),
    Plan(spec::PlanArgs),
}

/// Runs the program: `args` is argv. Returns its exit status.
pub fn main(args: impl Iterator<Item = OsString>) -> u8 {
    let status = prepare().map_or_else(|error| fail(&error), |()| run(args));
    // What is left in the buffer has nowhere else to go.
    let _nowhere_to_report = std::io::stdout().flush();
    status
}

/// What has to be so before anything is opened.
fn prepare() -> Result<()> {
    let what = || "cannot prepare this process".to_owned();
    sys::fd::fill_stdio().doing(what)?;
    // Nothing the caller happens to have open is passed on by accident (CVE-2024-21626).
    if is_on(Defence::CloseFiles) {
        sys::fd::cloexec_from(3).doing(what)?;
    }
    sys::signal::ignore_broken_pipes().doing(what)
}

fn run(args: impl Iterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(answer) => return usage(&answer),
    };
    let log = match Log::open(cli.global.log.as_deref(), cli.global.log_format) {
        Ok(log) => log,
        Err(error) => return fail(&error),
    };
    let traced = if cli.global.debug {
        log.trace_to()
    } else {
        Ok(())
    };
    if let Err(error) = traced {
        return fail(&error);
    }
    match dispatch(&cli.global, cli.command, &log) {
        Ok(status) => status,
        Err(error) => {
            log.error(&error);
            error.exit_status()
        }
    }
}

fn dispatch(global: &Global, command: Command, log: &Log) -> Result<u8> {
    match command {
        Command::Run(args) => create::run(global, args, log),
        Command::Create(args) => create::create(global, args, log),
        Command::Start(args) => start::start(global, &args),
        Command::Exec(args) => exec::exec(global, args),
        Command::State(args) => show::state(global, &args),
        Command::List(args) => show::list(global, &args),
        Command::Kill(args) => kill::kill(global, &args),
        Command::Delete(args) => delete::delete(global, &args),
        Command::Spec(args) => spec::spec(&args),
        Command::Plan(args) => spec::plan(&args),
    }
}

/// Help and version go to stdout and are no failure; a wrong command line is status 1, as with runc.
fn usage(answer: &clap::Error) -> u8 {
    let text = answer.render().to_string();
    if answer.use_stderr() {
        // It repeats what was typed.
        let _nowhere_to_report = std::io::stderr().write_all(printable(&text).as_bytes());
        return Error::FAILURE;
    }
    match print(&text) {
        Ok(()) => 0,
        Err(error) => fail(&error),
    }
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
