//! Writes the manual pages of lodger and of each of its verbs into a directory, from the command line's own help texts.
//!
//! Usage: man DIR
//!
//! A program of its own, so that lodger does not carry the generator.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
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
    let man = clap_mangen::Man::new(command.clone())
        .title(title.to_owned())
        .source(format!("lodger {}", env!("CARGO_PKG_VERSION")))
        .manual("lodger");
    man.render_title(&mut file)?;
    man.render_name_section(&mut file)?;
    man.render_synopsis_section(&mut file)?;
    man.render_description_section(&mut file)?;
    man.render_options_section(&mut file)?;
    if command.get_subcommands().any(|verb| !verb.is_hide_set()) {
        man.render_subcommands_section(&mut file)?;
    }
    if let Some(text) = command.get_after_long_help() {
        file.write_all(sections(&text.to_string()).as_bytes())?;
    }
    Ok(name)
}

/// The end of a help text as sections: a line such as `Examples:` begins one, and indented lines stay as they are.
fn sections(text: &str) -> String {
    let mut page = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let written = line.trim_start().replace('\\', "\\e").replace('-', "\\-");
        let _infallible = match line.strip_suffix(':') {
            Some(title) if !line.starts_with(' ') => {
                writeln!(page, ".SH {}", title.to_uppercase())
            }
            // A control character at the beginning would be a request.
            _ if line.starts_with(' ') => writeln!(page, ".nf\n\\&{written}\n.fi"),
            _ => writeln!(page, ".PP\n\\&{written}"),
        };
    }
    page
}
