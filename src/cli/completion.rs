//! `completion`.

use clap_complete::Shell;

use super::print;
use crate::error::{Error, Result};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  source <(lodger completion bash)
  lodger completion bash >~/.local/share/bash-completion/completions/lodger
  lodger completion zsh >~/.zfunc/_lodger     (with ~/.zfunc in $fpath)
  lodger completion fish >~/.config/fish/completions/lodger.fish")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Does what `completion` asks.
pub(crate) fn completion(args: &Args) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "lodger", &mut script);
    let text = String::from_utf8(script)
        .map_err(|error| Error::new("cannot print the completion script").because(error))?;
    print(&text)?;
    Ok(0)
}
