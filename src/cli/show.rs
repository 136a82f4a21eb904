//! `state` and `list`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::table::aligned;
use super::{Global, print};
use crate::cgroup::CgroupRecord;
use crate::error::{Error, Result, printable, printable_json};
use crate::log::Log;
use crate::plan::{FakeRoot, Note};
use crate::state::{Entry, Record, Status, Store};

/// Print the state of a container as JSON
///
/// The status is `creating`, `created`, `running`, `paused` or `stopped`. The pid is the host's number of the first process, 0
/// when the container has stopped.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger state web
  lodger state web | jq -r .status

Exit status:
  0  the state was printed
  1  there is no such container")]
pub(crate) struct StateArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// List containers
///
/// All containers of the state directory are listed, also those that have stopped. Other users' are not.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger list
  lodger list -q | xargs -n 1 lodger delete -f
  lodger list -f json")]
pub(crate) struct ListArgs {
    /// How to print them
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: ListFormat,
    /// Print the ids alone, one a line
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ListFormat {
    /// One line a container
    Table,
    /// An array of what `state` prints
    Json,
}

/// The state of a container (runtime.md, "State"), with the fields that runc adds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    oci_version: String,
    id: String,
    pid: i32,
    status: &'static str,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
    /// The container's cgroup and the limits that hold in it, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<CgroupRecord>,
    /// What becomes of calls that change owners and ids, if that is not the kernel's to decide.
    #[serde(skip_serializing_if = "FakeRoot::is_none")]
    fake_root: FakeRoot,
}

impl State {
    fn of(entry: &Entry) -> Result<Self> {
        let (record, status) = entry.examine()?;
        // While hooks run there is a process, though no container yet.
        let creating = status == Status::Creating;
        let record = record.or_else(|| creating.then(|| entry.draft())?);
        Ok(Self::new(entry.id(), status, record))
    }

    fn new(id: &str, status: Status, record: Option<Record>) -> Self {
        let id = id.to_owned();
        let Some(record) = record else {
            return Self {
                oci_version: super::SPEC_VERSION.to_owned(),
                id,
                pid: 0,
                status: status.word(),
                bundle: PathBuf::new(),
                rootfs: PathBuf::new(),
                // Engines parse it as a time.
                created: "0001-01-01T00:00:00Z".to_owned(),
                annotations: BTreeMap::new(),
                owner: String::new(),
                cgroup: None,
                fake_root: FakeRoot::None,
            };
        };
        Self {
            oci_version: record.oci_version,
            id,
            pid: if status == Status::Stopped {
                0
            } else {
                record.process.pid
            },
            status: status.word(),
            bundle: record.bundle,
            rootfs: record.rootfs,
            created: record.created,
            annotations: record.annotations,
            owner: record.owner,
            cgroup: record.cgroup,
            fake_root: record.fake_root,
        }
    }
}

/// Does what `state` asks.
pub(crate) fn state(global: &Global, args: &StateArgs) -> Result<u8> {
    let what = || format!("cannot read the state of container {:?}", args.id);
    let entry = Store::find_in(global.root.as_deref(), &args.id).map_err(|e| e.within(what()))?;
    let state = State::of(&entry)?;
    print(&(pretty(&state)? + "\n"))?;
    Ok(0)
}

fn unlisted(id: &str, error: &Error) -> Note {
    Note {
        property: id.to_owned(),
        reason: format!("not listed: {}", error.message()),
        remedy: error.hints().unwrap_or_default(),
        code: None,
    }
}

/// Does what `list` asks. A missing state directory is an empty list.
pub(crate) fn list(global: &Global, args: &ListArgs, log: &Log) -> Result<u8> {
    let mut states = Vec::new();
    let mut notes = Vec::new();
    if let Some(store) = Store::open(global.root.as_deref())? {
        for id in store.ids()? {
            // Deleted since.
            let Some(entry) = store.find_if_there(&id)? else {
                continue;
            };
            match State::of(&entry) {
                Ok(state) => states.push(state),
                Err(_) if store.find_if_there(&id)?.is_none() => {}
                // A container whose state is damaged must not hide the others.
                Err(error) => notes.push(unlisted(&id, &error)),
            }
        }
    }
    log.notes(&notes);
    let text = match (args.quiet, args.format) {
        (true, _) => states
            .iter()
            .fold(String::new(), |text, state| text + &state.id + "\n"),
        (false, ListFormat::Table) => table(&states),
        (false, ListFormat::Json) => pretty(&states)? + "\n",
    };
    print(&text)?;
    Ok(0)
}

/// The JSON of `value`, which may be read on a terminal.
pub(super) fn pretty(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|text| printable_json(&text))
        .map_err(|error| Error::new("cannot print the state").because(error))
}

/// `text` for one line of the table.
fn cell(text: &str) -> String {
    printable(text).replace('\n', "\\n")
}

fn table(states: &[State]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = states.iter().map(|state| {
        [
            state.id.clone(),
            state.pid.to_string(),
            state.status.to_owned(),
            cell(&state.bundle.display().to_string()),
            cell(&state.created),
            cell(&state.owner),
        ]
    });
    let lines: Vec<[String; 6]> = std::iter::once(header).chain(rows).collect();
    aligned(&lines)
}

/// What `state` and `list` print of a container, for tests/fuzz.
#[cfg(fuzzing)]
pub(crate) fn texts(id: &str, status: Status, record: Option<Record>) -> Result<[String; 2]> {
    let state = State::new(id, status, record);
    Ok([pretty(&state)?, table(&[state])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_is_its_header() {
        assert_eq!(table(&[]), "ID   PID   STATUS   BUNDLE   CREATED   OWNER\n");
    }
}
