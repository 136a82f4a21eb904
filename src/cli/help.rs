//! `help`, and what is said about a wrong command line.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::print;
use crate::error::{Error, Result, printable};

/// runc's exit status for a verb that does not exist.
const UNKNOWN_VERB: u8 = 3;

/// Tell about lodger, or about one verb
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The verb, and the verb of that if it has some
    #[arg(value_name = "VERB")]
    verbs: Vec<String>,
}

/// Does what `help` asks.
pub(crate) fn help(args: &Args) -> Result<u8> {
    let mut asked = vec!["lodger"];
    let whole = super::command();
    let mut known = &whole;
    for verb in &args.verbs {
        known = known.find_subcommand(verb).ok_or_else(|| {
            Error::new(format!("No help topic for {verb:?}"))
                .hint("`lodger help` lists the verbs")
                .exit(UNKNOWN_VERB)
        })?;
        asked.push(verb);
    }
    asked.push("--help");
    match super::command().try_get_matches_from(asked) {
        Err(answer) => print(&tidy(&answer.render().to_string()))?,
        Ok(_) => return Err(Error::new("there is no help")),
    }
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
    // The first paragraph says what is wrong; tips and usage follow.
    let first: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
    let first = first.join(" ");
    let words: Vec<&str> = first.split_whitespace().collect();
    let what = match answer.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no verb was given".to_owned(),
        _ => words.join(" ").trim_start_matches("error: ").to_owned(),
    };
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
