//! Writes the manual pages of lodger and of each of its verbs into a directory, from the command line's own help texts.
//!
//! Usage: man DIR
//!
//! A program of its own, so that lodger does not carry the generator.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: man DIR");
        return ExitCode::FAILURE;
    };
    match write(Path::new(&directory)) {
        Ok(names) => {
            for name in names {
                eprintln!("{name}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("man: cannot write to {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

/// Writes lodger.1 and a page for each verb that is shown, such as lodger-run.1; gives their names.
pub(crate) fn write(directory: &Path) -> io::Result<Vec<String>> {
    let mut lodger = lodger::cli::command().version(env!("CARGO_PKG_VERSION"));
    lodger.build();
    let mut names = vec![page(directory, &lodger, "lodger")?];
    for verb in lodger.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let title = format!("lodger-{}", verb.get_name());
        names.push(page(directory, verb, &title)?);
    }
    Ok(names)
}

fn page(directory: &Path, command: &clap::Command, title: &str) -> io::Result<String> {
    let name = format!("{title}.1");
    #[expect(
        clippy::disallowed_methods,
        reason = "a build tool, which writes where it was told to"
    )]
    let mut file = File::create(directory.join(&name))?;
    clap_mangen::Man::new(command.clone())
        .title(title.to_owned())
        .source(format!("lodger {}", env!("CARGO_PKG_VERSION")))
        .manual("lodger")
        .render(&mut file)?;
    Ok(name)
}
