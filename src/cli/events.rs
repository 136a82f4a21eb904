//! `events`.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::{Global, duration, print};
use crate::cgroup::stats::{Psi, Stats, Summed};
use crate::cgroup::watch::{Happened, Watch};
use crate::error::{Error, Result, printable_json};
use crate::log::Log;
use crate::plan::Note;
use crate::state::{Meter, Store};

/// Tell what happens to a container, as JSON
///
/// One object a line, until the container ends: `stats` once per interval, `oom` when the kernel has killed one of its
/// processes for want of memory, and `pressure` when its tasks waited for memory or for a processor for more than 150 ms
/// of 2 s. The numbers have the names and units of runc: bytes, and nanoseconds of processor time. Those that no cgroup
/// counts are summed over the container's processes, and a note says which.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger events --stats web | jq .data.memory.usage
  lodger events web | jq -c 'select(.type == \"oom\")'
  lodger events --interval 500ms web

Exit status:
  0  the container has ended, or nobody reads any more; with --stats, the numbers were printed
  1  the container does not exist or has stopped")]
pub(crate) struct Args {
    /// How often the numbers are printed: 500ms, 5s, 1m30s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::positive, allow_hyphen_values = true)]
    interval: Duration,
    /// Print the numbers once, at once
    #[arg(long)]
    stats: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// One line.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Stats(&'a Stats),
    /// None of its keys is one of runc's, whose readers pass it over.
    Pressure {
        resource: &'static str,
        psi: &'a Psi,
    },
}

/// That a container which must run does not, in the words that engines match.
pub(super) fn not_running(id: &str) -> Error {
    Error::new(format!("container with id {id} is not running"))
}

/// Says which numbers of the containers `ids` are sums, if any are.
pub(super) fn summed_note(ids: &str, summed: &Summed) -> Option<Note> {
    let (last, others) = summed.split_last()?;
    let list = match others {
        [] => (*last).to_owned(),
        _ => format!("{} and {last}", others.join(", ")),
    };
    let shared = match summed.contains(&"memory") {
        true => ", where memory that they share is counted once for each",
        false => "",
    };
    Some(Note::new(
        ids,
        format!("no cgroup of its own counts {list}: summed over its processes in /proc{shared}"),
        "create the container where the controllers cpu, memory, pids and io are delegated to you: `systemctl show -p \
         DelegateControllers user@$(id -u)` lists them",
    ))
}

/// Does what `events` asks.
pub(crate) fn events(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    let what = || format!("cannot tell the events of container {:?}", args.id);
    tell(global, args, log).map_err(|e| e.within(what()))?;
    Ok(0)
}

fn tell(global: &Global, args: &Args, log: &Log) -> Result<()> {
    let entry = Store::find_in(global.root.as_deref(), &args.id)?;
    let record = entry.existing_record()?;
    let id = args.id.as_str();
    let Some(pidfd) = record.process.open(&record.boot_id)? else {
        return Err(not_running(id));
    };
    let meter = Meter::new(record);
    if args.stats {
        let usage = meter.read()?.ok_or_else(|| not_running(id))?;
        print(&line("stats", id, Some(Data::Stats(&usage.stats)))?)?;
        log.notes(summed_note(id, &usage.summed).as_slice());
        return Ok(());
    }
    let mut watch = Watch::begin(pidfd, meter.cgroups(), args.interval);
    let mut told: Option<Summed> = None;
    loop {
        for happened in watch.wait()? {
            let line = match happened {
                Happened::Ended | Happened::NobodyReads => return Ok(()),
                Happened::OomKill => line("oom", id, None)?,
                Happened::Pressure { resource, psi } => {
                    let psi = &psi;
                    line("pressure", id, Some(Data::Pressure { resource, psi }))?
                }
                Happened::Interval => {
                    // It ends just now: the watch will say so.
                    let Some(usage) = meter.read()? else { continue };
                    // A controller may be enabled meanwhile, or no more.
                    if told.as_ref() != Some(&usage.summed) {
                        log.notes(summed_note(id, &usage.summed).as_slice());
                        told = Some(usage.summed);
                    }
                    line("stats", id, Some(Data::Stats(&usage.stats)))?
                }
            };
            if !write_now(&line)? {
                return Ok(());
            }
        }
    }
}

fn line(kind: &'static str, id: &str, data: Option<Data<'_>>) -> Result<String> {
    let event = Event { kind, id, data };
    let text = serde_json::to_string(&event)
        .map_err(|error| Error::new("cannot print the event").because(error))?;
    Ok(printable_json(&text) + "\n")
}

/// Writes to stdout what others wait for; `false`: nobody does any more.
pub(super) fn write_now(text: &str) -> Result<bool> {
    let mut stdout = std::io::stdout();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::new("cannot write to standard output").because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_readers_of_runc_understand() {
        assert_eq!(
            line("oom", "c", None).unwrap(),
            "{\"type\":\"oom\",\"id\":\"c\"}\n"
        );
        let stats = line("stats", "c", Some(Data::Stats(&Stats::default()))).unwrap();
        assert!(
            stats.starts_with("{\"type\":\"stats\",\"id\":\"c\",\"data\":{\"cpu\":{\"usage\":{"),
            "{stats}"
        );
        assert_eq!(stats.lines().count(), 1);
        let psi = &Psi::default();
        let data = Data::Pressure {
            resource: "cpu",
            psi,
        };
        let pressure = line("pressure", "c", Some(data)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&pressure).unwrap();
        // Go takes keys in any case: none may be that of a field of runc's.
        let keys: Vec<&String> = value["data"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["psi", "resource"]);
    }

    #[test]
    fn the_note_lists_what_is_summed() {
        assert_eq!(summed_note("c", &vec![]), None);
        for (summed, list) in [
            (vec!["memory"], "counts memory: summed"),
            (vec!["memory", "tasks"], "counts memory and tasks: summed"),
            (vec!["a", "b", "c"], "counts a, b and c: summed"),
        ] {
            let note = summed_note("c", &summed).unwrap();
            assert!(note.reason.contains(list), "{}", note.reason);
        }
    }
}
