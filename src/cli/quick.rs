//! The short way through the command line: the parser of one verb instead of all, which saves 50 µs of the 700 that
//! `state` takes. It is taken only where it succeeds: errors and help come from the whole parser.

use std::ffi::OsString;

use clap::{Args, FromArgMatches};

use super::{Command, Global};
use super::{create, delete, exec, kill, pause, ps, show, start, wait};

/// Adds the arguments of one verb to its parser.
type Augment = fn(clap::Command) -> clap::Command;

/// The verbs that engines call all the time.
const VERBS: [(&str, Augment); 12] = [
    ("create", create::CreateArgs::augment_args),
    ("delete", delete::Args::augment_args),
    ("exec", exec::Args::augment_args),
    ("kill", kill::Args::augment_args),
    ("list", show::ListArgs::augment_args),
    ("pause", pause::PauseArgs::augment_args),
    ("ps", ps::Args::augment_args),
    ("resume", pause::ResumeArgs::augment_args),
    ("run", create::RunArgs::augment_args),
    ("start", start::Args::augment_args),
    ("state", show::StateArgs::augment_args),
    ("wait", wait::Args::augment_args),
];

/// What `args` says, if it is in order and its verb is one of [`VERBS`].
pub(super) fn parse(args: &[OsString]) -> Option<(Global, Command)> {
    // An option's value may have the name of a verb: then the verb after it is not known here, which is no success.
    let (name, augment) = args.iter().skip(1).find_map(|arg| {
        let position =
            VERBS.binary_search_by(|(name, _)| name.as_bytes().cmp(arg.as_encoded_bytes()));
        position.ok().map(|index| VERBS[index])
    })?;
    let verb = augment(clap::Command::new(name));
    let parser = Global::augment_args(clap::Command::new("lodger"))
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(verb);
    let matches = parser.try_get_matches_from(args).ok()?;
    let global = Global::from_arg_matches(&matches).ok()?;
    let command = Command::from_arg_matches(&matches).ok()?;
    Some((global, command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_verbs_are_sorted_and_those_of_the_whole_parser() {
        assert!(VERBS.is_sorted_by_key(|(name, _)| name));
        let whole = super::super::command();
        for (name, augment) in VERBS {
            let verb = whole.find_subcommand(name).unwrap();
            let names = |command: &clap::Command| -> Vec<String> {
                let arguments = command.get_arguments();
                // Those that may come after any verb are the whole's.
                arguments
                    .filter(|argument| !argument.is_global_set())
                    .map(|argument| argument.get_id().to_string())
                    .collect()
            };
            assert_eq!(
                names(verb),
                names(&augment(clap::Command::new(name))),
                "{name}"
            );
        }
    }

    #[test]
    fn what_it_understands_is_what_the_whole_parser_understands() {
        for line in [
            "lodger state c",
            "lodger --root state list -q",
            "lodger --root=/x --debug kill -a c 9",
            "lodger --log list delete -f c",
            "lodger exec c state list",
            "lodger run -d -b state c",
            "lodger list --format json",
            "lodger run --store /s --image i c sh -c x",
            "lodger --store-ro /a state --store-ro /b c",
        ] {
            let whole = super::super::whole(&words(line)).unwrap();
            let quick = parse(&words(line));
            // `--root state list` and the like are left to the whole parser.
            assert!(
                quick.is_none() || format!("{quick:?}") == format!("{:?}", Some(whole)),
                "{line}: {quick:?}"
            );
        }
        assert!(parse(&words("lodger --root /x state c")).is_some());
        assert!(parse(&words("lodger --root state list")).is_none());
    }

    #[test]
    fn help_errors_and_other_verbs_are_left_to_the_whole_parser() {
        for line in [
            "lodger",
            "lodger --help",
            "lodger state",
            "lodger state --help",
            "lodger state c d",
            "lodger help state",
            "lodger plan state",
            "lodger --version state c",
            "lodger no-such state c",
        ] {
            assert!(parse(&words(line)).is_none(), "{line}");
        }
    }
}
