//! `stats`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::events::{not_running, summed_note, write_now};
use super::table::aligned;
use super::{Global, duration, print};
use crate::cgroup::stats::{BlkioEntry, NO_LIMIT, Stats, Summed};
use crate::cgroup::watch;
use crate::error::{Error, Result, printable, printable_json};
use crate::log::Log;
use crate::state::{Meter, Status, Store, Usage};
use crate::sys;

/// Show what containers use
///
/// Of all containers that run, or of those named. On a terminal the table is drawn anew each interval until ^C, or until
/// none of them runs any more; elsewhere, and as JSON, it is printed once. CPU % is that of one processor: since the last
/// time the table was drawn, the first time since the container was created. Numbers with a ~ are counted by no cgroup:
/// they are summed over the container's processes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger stats
  lodger stats --interval 1s web db
  lodger stats --no-stream
  lodger stats -f json | jq '.[] | {id, memory: .stats.memory.usage.usage}'

Exit status:
  0  the numbers were shown
  1  a container that was named does not exist or has stopped")]
pub(crate) struct Args {
    /// How to print them
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// How often the table is drawn on a terminal: 500ms, 5s, 1m30s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::positive, allow_hyphen_values = true)]
    interval: Duration,
    /// Print the table once, also on a terminal
    #[arg(long)]
    no_stream: bool,
    /// The containers' ids [default: all that run]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One line a container
    Table,
    /// An array of objects; `stats` is `data` of `lodger events --stats`
    Json,
}

/// A container's line.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    /// Of one processor.
    cpu_percent: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    summed: Summed,
    stats: Stats,
}

/// The processor time that was known of a container, by its first process, and when.
type Samples = BTreeMap<(String, i32, u64), (Instant, u64)>;

/// Does what `stats` asks.
pub(crate) fn stats(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    let mut samples = Samples::new();
    let rows = rows(global, args, true, &mut samples)?;
    if args.format == Format::Json {
        let text = serde_json::to_string_pretty(&rows)
            .map_err(|error| Error::new("cannot print the numbers").because(error))?;
        print(&(printable_json(&text) + "\n"))?;
        tell(&rows, log);
        return Ok(0);
    }
    if args.no_stream || !sys::tty::is_terminal(std::io::stdout()) {
        print(&table(&rows))?;
        tell(&rows, log);
        return Ok(0);
    }
    tell(&rows, log);
    draw(global, args, rows, samples)?;
    Ok(0)
}

/// Draws the table until nothing runs, or nobody looks.
fn draw(global: &Global, args: &Args, mut rows: Vec<Row>, mut samples: Samples) -> Result<()> {
    let mut text = fitting(&table(&rows));
    loop {
        if !write_now(&text)? || rows.is_empty() || !watch::pause(args.interval)? {
            return Ok(());
        }
        let height = text.lines().count();
        rows = self::rows(global, args, false, &mut samples)?;
        // Back to where the table begins: what is above it stays.
        text = format!("\u{1b}[{height}A\u{1b}[J{}", fitting(&table(&rows)));
    }
}

fn tell(rows: &[Row], log: &Log) {
    // One note for all of which the same is said.
    let mut ids: BTreeMap<&Summed, Vec<&str>> = BTreeMap::new();
    for row in rows {
        ids.entry(&row.summed).or_default().push(&row.id);
    }
    let notes: Vec<_> = ids
        .into_iter()
        .filter_map(|(summed, ids)| summed_note(&ids.join(", "), summed))
        .collect();
    log.notes(&notes);
}

/// What each container uses that was asked for. `all`: that one which was named does not run is an error.
fn rows(global: &Global, args: &Args, all: bool, samples: &mut Samples) -> Result<Vec<Row>> {
    let Some(store) = Store::open(global.root.as_deref())? else {
        return args.ids.first().map_or(Ok(Vec::new()), |id| {
            let entry = Store::find_in(global.root.as_deref(), id);
            entry.map(|_| Vec::new()).map_err(|e| e.within(what(id)))
        });
    };
    let named = !args.ids.is_empty();
    let ids = if named {
        args.ids.clone()
    } else {
        store.ids()?
    };
    let mut rows = Vec::new();
    for id in ids {
        match row(&store, &id, samples) {
            Ok(Some(row)) => rows.push(row),
            Ok(None) if named && all => return Err(not_running(&id).within(what(&id))),
            // One that was not asked for may be damaged, or be deleted just now.
            Err(error) if named && all => return Err(error.within(what(&id))),
            Ok(None) | Err(_) => {}
        }
    }
    Ok(rows)
}

fn what(id: &str) -> String {
    format!("cannot tell what container {id:?} uses")
}

/// `None`: the container does not run.
fn row(store: &Store, id: &str, samples: &mut Samples) -> Result<Option<Row>> {
    let (Some(record), status) = store.find(id)?.examine()? else {
        return Ok(None);
    };
    if status == Status::Stopped {
        return Ok(None);
    }
    let process = record.process;
    let meter = Meter::new(record);
    let Some(Usage { stats, summed }) = meter.read()? else {
        return Ok(None);
    };
    let now = (Instant::now(), stats.cpu.usage.total);
    let key = (id.to_owned(), process.pid, process.start_time);
    let (used, passed) = match samples.insert(key, now) {
        Some((then, known)) => {
            let passed = now.0.duration_since(then).as_nanos();
            (now.1.saturating_sub(known), passed)
        }
        None => (now.1, u128::from(meter.age()?)),
    };
    Ok(Some(Row {
        id: id.to_owned(),
        cpu_percent: percent(used, u64::try_from(passed).unwrap_or(u64::MAX)),
        summed,
        stats,
    }))
}

/// `part` of `whole` in per cent, with two digits after the point.
#[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    (part as f64 / whole as f64 * 10_000.0).round() / 100.0
}

/// `1.5 GiB`
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // In tenths, so that nothing is lost of a large number.
    let (mut tenths, mut unit) = (u128::from(count) * 10 / 1024, 0);
    while tenths >= 10_240 {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

impl Row {
    fn cells(&self) -> [String; 7] {
        let mark = |what| if self.summed.contains(&what) { "~" } else { "" };
        let memory = &self.stats.memory.usage;
        let is_limited = memory.limit != NO_LIMIT;
        let none = || "-".to_owned();
        let limit = if is_limited {
            bytes(memory.limit)
        } else {
            none()
        };
        let share = if is_limited {
            format!("{:.2}", percent(memory.usage, memory.limit))
        } else {
            none()
        };
        let network = self.stats.network_interfaces.as_ref().map(|interfaces| {
            let sum = |count: fn(&crate::cgroup::stats::NetworkInterface) -> u64| {
                bytes(interfaces.iter().map(count).fold(0, u64::saturating_add))
            };
            format!("{} / {}", sum(|i| i.rx_bytes), sum(|i| i.tx_bytes))
        });
        [
            self.id.clone(),
            format!("{}{:.2}", mark("processor time"), self.cpu_percent),
            format!("{}{} / {limit}", mark("memory"), bytes(memory.usage)),
            share,
            network.unwrap_or_else(none),
            format!(
                "{}{}",
                mark("block I/O"),
                block_io(&self.stats.blkio.io_service_bytes_recursive)
            ),
            format!("{}{}", mark("tasks"), self.stats.pids.current),
        ]
    }
}

/// What was read and written; a dash when nothing is known.
fn block_io(entries: &[BlkioEntry]) -> String {
    let sum = |op| {
        let values = entries
            .iter()
            .filter(|entry| entry.op == op)
            .map(|entry| entry.value);
        bytes(values.fold(0, u64::saturating_add))
    };
    format!("{} / {}", sum("Read"), sum("Write"))
}

fn table(rows: &[Row]) -> String {
    let header = [
        "ID",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET I/O",
        "BLOCK I/O",
        "PIDS",
    ];
    let header = header.map(str::to_owned);
    let lines: Vec<[String; 7]> = std::iter::once(header)
        .chain(rows.iter().map(Row::cells))
        .collect();
    printable(&aligned(&lines))
}

/// As much of each line as the terminal has room for, so that a line of the table is one of the terminal.
fn fitting(table: &str) -> String {
    let columns = sys::tty::size(std::io::stdout()).map_or(0, |size| usize::from(size.columns));
    if columns == 0 {
        return table.to_owned();
    }
    table.lines().fold(String::new(), |text, line| {
        text + &line.chars().take(columns).collect::<String>() + "\n"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::stats::{Cpu, CpuUsage, Memory, MemoryEntry, NetworkInterface, Pids};

    #[test]
    fn numbers_of_bytes() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (32 << 20, "32.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "rounded to two digits")]
    fn parts_in_per_cent() {
        assert_eq!(percent(1, 3), 33.33);
        assert_eq!(percent(5, 2), 250.0);
        assert_eq!(percent(1, 0), 0.0);
        assert_eq!(percent(u64::MAX, u64::MAX), 100.0);
    }

    fn row(id: &str, limit: u64, summed: Summed) -> Row {
        let usage = MemoryEntry {
            limit,
            usage: 16 << 20,
            ..MemoryEntry::default()
        };
        let stats = Stats {
            cpu: Cpu {
                usage: CpuUsage::default(),
                ..Cpu::default()
            },
            memory: Memory {
                usage,
                ..Memory::default()
            },
            pids: Pids {
                current: 3,
                limit: 0,
            },
            ..Stats::default()
        };
        Row {
            id: id.to_owned(),
            cpu_percent: 12.5,
            summed,
            stats,
        }
    }

    #[test]
    fn a_table_of_what_is_counted_and_what_is_summed() {
        assert_eq!(
            table(&[]),
            "ID   CPU %   MEM USAGE / LIMIT   MEM %   NET I/O   BLOCK I/O   PIDS\n"
        );
        let mut counted = row("web", 64 << 20, Vec::new());
        counted.stats.network_interfaces = Some(vec![NetworkInterface {
            rx_bytes: 2048,
            tx_bytes: 10,
            ..NetworkInterface::default()
        }]);
        let entry = |op, value| BlkioEntry {
            op,
            value,
            ..BlkioEntry::default()
        };
        counted.stats.blkio.io_service_bytes_recursive =
            vec![entry("Read", 1024), entry("Write", 1), entry("Read", 1024)];
        let summed = row("b", NO_LIMIT, vec!["memory", "tasks", "block I/O"]);
        assert_eq!(
            table(&[counted, summed]),
            "\
ID    CPU %   MEM USAGE / LIMIT     MEM %   NET I/O          BLOCK I/O       PIDS
web   12.50   16.0 MiB / 64.0 MiB   25.00   2.0 KiB / 10 B   2.0 KiB / 1 B   3
b     12.50   ~16.0 MiB / -         -       -                ~0 B / 0 B      ~3
"
        );
    }
}
