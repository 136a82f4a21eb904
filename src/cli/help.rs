//! `help`, and what is said about a wrong command line.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::print;
use crate::error::{Error, Result, printable};

/// runc's exit status for a verb that does not exist.
const UNKNOWN_VERB: u8 = 3;

/// Tell about lodger, or about one verb
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The verb
    #[arg(value_name = "VERB")]
    verb: Option<String>,
}

/// Does what `help` asks.
pub(crate) fn help(args: &Args) -> Result<u8> {
    let mut command = super::command();
    // Usage lines have the whole command only once it is built.
    command.build();
    let text = match &args.verb {
        None => command.render_long_help(),
        Some(verb) => match command.find_subcommand_mut(verb) {
            Some(found) => found.render_long_help(),
            None => {
                return Err(Error::new(format!("No help topic for {verb:?}"))
                    .hint("`lodger help` lists the verbs")
                    .exit(UNKNOWN_VERB));
            }
        },
    };
    print(&tidy(&text.to_string()))?;
    Ok(0)
}

/// Help without spaces at the ends of lines, and with one line break at its end.
pub(super) fn tidy(text: &str) -> String {
    text.trim_end()
        .lines()
        .fold(String::with_capacity(text.len()), |tidy, line| {
            tidy + line.trim_end() + "\n"
        })
}

/// A wrong command line as an error, for the log, and as text, for a person.
pub(super) fn wrong(answer: &clap::Error) -> (Error, String) {
    let text = printable(&answer.render().to_string());
    let first = text.lines().next().unwrap_or_default();
    let what = first.strip_prefix("error: ").unwrap_or(first);
    let is_format = matches!(
        answer.get(ContextKind::InvalidArg),
        Some(ContextValue::String(argument)) if argument.starts_with("--log-format ")
    );
    if let (true, Some(ContextValue::String(format))) =
        (is_format, answer.get(ContextKind::InvalidValue))
    {
        // runc's words, then crun's.
        let error = Error::new(format!("invalid log-format: {format:?}"))
            .because("unknown log format type")
            .hint("give text or json");
        let text = format!("error: {error}\n");
        return (error, text);
    }
    let exit = match answer.kind() {
        ErrorKind::InvalidSubcommand => UNKNOWN_VERB,
        _ => Error::FAILURE,
    };
    let error = Error::new(what)
        .hint("`lodger help` tells how it is called")
        .exit(exit);
    (error, text)
}
