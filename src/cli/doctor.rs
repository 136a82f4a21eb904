//! `doctor`: what this host lets lodger do, what it does not, why, and what helps.

use serde_json::{Map, Value, json};

use super::{Global, print};
use crate::doctor::Diagnosis;
use crate::error::{Error, Result};

/// Tell what this host allows, what it does not, why, and what helps
///
/// What containers need is tried, in child processes that end: nothing on this host is changed. Each thing that fails has a
/// code (LDG-…) that stays the same in later versions, its cause as it was found here, what you go without, and one line that
/// helps, for you or for the administrator. Failures of other verbs name the same codes.
///
/// At the end is the mode that this host gives you:
///
/// full       containers with all of your subordinate ids
///
/// reduced    containers that lack something, most often all ids but your own
///
/// none       no container can be made
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger doctor                              a page for people
  lodger doctor --json                       the same, for programs, and to send with a report
  lodger doctor --json | jq -r '.findings[].code'
  lodger --store /scratch/me doctor          with another place for images

Exit status:
  0  the mode is full
  1  the mode is reduced
  2  the mode is none")]
pub(crate) struct Args {
    /// Print JSON: mode, exit, kernel, user, works, findings, trials, calls, readings
    #[arg(long)]
    json: bool,
}

/// Does what `doctor` asks.
pub(crate) fn doctor(global: &Global, args: &Args) -> Result<u8> {
    let diagnosis = Diagnosis::make(global.store(), global.root.as_deref());
    let text = match args.json {
        true => document(&diagnosis)?,
        false => diagnosis.page(),
    };
    print(&text)?;
    Ok(diagnosis.mode.exit_status())
}

fn document(diagnosis: &Diagnosis) -> Result<String> {
    let cannot = |error| Error::new("cannot print the diagnosis").because(error);
    let mut readings = serde_json::to_value(&diagnosis.readings).map_err(cannot)?;
    let mut taken = |key| {
        let object = readings.as_object_mut();
        let value = object.and_then(|object| object.remove(key));
        value.unwrap_or_else(|| Value::Object(Map::new()))
    };
    let (trials, calls) = (taken("trials"), taken("calls"));
    let kernel = diagnosis.readings.kernel.as_ref();
    let document = json!({
        "mode": diagnosis.mode,
        "exit": diagnosis.mode.exit_status(),
        "kernel": kernel.map(|kernel| &kernel.release),
        "user": diagnosis.readings.name(),
        "works": diagnosis.works,
        "findings": diagnosis.findings,
        "trials": trials,
        "calls": calls,
        "readings": readings,
    });
    let text = serde_json::to_string_pretty(&document).map_err(cannot)?;
    Ok(crate::error::printable_json(&text) + "\n")
}
