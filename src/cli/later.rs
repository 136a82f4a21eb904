//! Verbs of runc that need what is not there yet: a clear refusal instead of "unrecognized subcommand".

use std::ffi::OsString;

use crate::error::{Error, Result};

/// Not supported yet
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What was asked
    #[arg(
        value_name = "ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    _asked: Vec<OsString>,
}

/// Refuses `verb`, which needs CRIU.
pub(crate) fn needs_criu(verb: &str) -> Result<u8> {
    Err(
        Error::new(format!("`{verb}` is not supported yet: it needs CRIU"))
            .hint("`lodger features` and README.md tell what is supported"),
    )
}
