//! `run --exit-file`: how the container ended, for whoever has no other way to know.

use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::spawn::WholeFile;
use crate::sys::process::{Ended, Exit, Usage};

/// The file, whose directory is open already.
#[derive(Debug)]
pub(super) struct ExitFile(WholeFile);

/// What is written.
#[derive(Debug, Serialize)]
struct Report {
    /// The exit status.
    code: Option<i32>,
    /// The number of the signal that ended it.
    signal: Option<i32>,
    /// What it used.
    rusage: Usage,
}

impl ExitFile {
    /// Opens the directory of `path`.
    pub(super) fn prepare(path: &Path) -> Result<Self> {
        WholeFile::prepare("exit file", path).map(Self)
    }

    /// Writes how the container ended.
    pub(super) fn write(&self, ended: Ended) -> Result<()> {
        let text = serde_json::to_string(&Report::from(ended))
            .map_err(|error| Error::new("cannot write the exit file").because(error))?;
        self.0.write(&(text + "\n"))
    }
}

impl From<Ended> for Report {
    fn from(ended: Ended) -> Self {
        let (code, signal) = match ended.exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
        };
        Self {
            code,
            signal,
            rusage: ended.usage,
        }
    }
}
