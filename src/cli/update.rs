//! `update`.

use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value};

use super::{Global, size};
use crate::bundle;
use crate::cgroup::{self, Bus, CgroupRecord, Dir};
use crate::error::{Doing, Error, Result};
use crate::host::SessionReading;
use crate::log::Log;
use crate::plan::resources::{self, Converted, RESOURCES, ZERO};
use crate::plan::{Note, Setting};
use crate::state::{Entry, Record, Status, Store};
use crate::sys;

/// The most that is read of what --resources names, in bytes.
const RESOURCES_LIMIT: usize = 1 << 20;

/// Change the limits of a container
///
/// All that is asked for holds afterwards, or all is as it was. What is not mentioned stays. A size is a number of bytes, or one
/// with a unit: 64M, 1.5g; -1 is for no limit, and 0 changes nothing, as with other runtimes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger update --memory 64M --memory-swap 64M web   64 MiB, and no swap
  lodger update --pids-limit -1 web                  no limit any more
  lodger update --cpu-quota 50000 web                half a processor
  echo '{\"pids\": {\"limit\": 20}}' | lodger update -r - web

Exit status:
  0  the limits hold
  1  they do not, and the old ones do: the container does not exist, has stopped or has no cgroup,
     or a limit cannot be set")]
pub(crate) struct Args {
    /// Take the limits from FILE, a JSON object as `linux.resources` in config.json; `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "Limits")]
    resources: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// The limits that have options.
#[derive(Debug, Default, clap::Args)]
struct Limits {
    /// Memory (memory.max)
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    memory: Option<i64>,
    /// Memory that is taken last when the host needs some (memory.low)
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    memory_reservation: Option<i64>,
    /// Memory and swap together; swap itself is the difference (memory.swap.max)
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// Ignored with a note: there is no such limit in version 2 of cgroups
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true, hide = true)]
    kernel_memory: Option<i64>,
    /// Ignored with a note: there is no such limit in version 2 of cgroups
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true, hide = true)]
    kernel_memory_tcp: Option<i64>,
    /// Processes (pids.max)
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Microseconds of processor time in each period (cpu.max)
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// The period, in microseconds (cpu.max)
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Microseconds that may be saved up beyond the quota (cpu.max.burst)
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_burst: Option<u64>,
    /// The share of processor time where there is not enough, as version 1 counts it: 1024 is usual (cpu.weight)
    #[arg(long, value_name = "NUMBER")]
    cpu_share: Option<u64>,
    /// 1: run only where nothing else would (cpu.idle)
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    cpu_idle: Option<i64>,
    /// The processors that may be used, such as 0-2,7 (cpuset.cpus)
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// The memory nodes that may be used (cpuset.mems)
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Refused where it asks for something: there is none in version 2 of cgroups
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<u64>,
    /// Refused where it asks for something: there is none in version 2 of cgroups
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// The share of block I/O, from 10 to 1000 (io.bfq.weight or io.weight)
    #[arg(long, value_name = "NUMBER")]
    blkio_weight: Option<u16>,
    /// Refused: resctrl is root's
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Refused: resctrl is root's
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

/// Does what `update` asks.
pub(crate) fn update(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    let what = format!("cannot update container {:?}", args.id);
    try_update(global, args, log).map_err(|error| error.within(what))?;
    Ok(0)
}

fn try_update(global: &Global, args: &Args, log: &Log) -> Result<()> {
    let entry = Store::find_in(global.root.as_deref(), &args.id)?;
    // Standard input may take its time.
    let asked = args.asked()?;
    entry.lock()?;
    let record = entry.existing_record()?;
    if let Status::Stopped | Status::Creating = entry.status(&record) {
        return Err(Error::new("container not running: no such process"));
    }
    let ignored = args.limits.notes();
    global.allow(&ignored)?;
    log.notes(&ignored);
    let Some(cgroup) = &record.cgroup else {
        return without_cgroup(&asked, &record, (global, log));
    };
    let own = Dir::open(&cgroup.path)?.ok_or_else(|| {
        Error::new(format!("its cgroup {} is gone", cgroup.path)).hint(
            "somebody removed it, or stopped its scope: `lodger delete -f` removes the container",
        )
    })?;
    let read = |file: &str| own.read(file).ok().map(|text| text.trim().to_owned());
    let converted = convert(asked.clone(), &record.oci_version, read)?;
    global.allow(&converted.notes)?;
    log.notes(&converted.notes);
    if asked
        .memory()
        .and_then(|memory| memory.check_before_update())
        == Some(true)
    {
        check_usage(&converted, read)?;
    }
    if converted.settings.is_empty() {
        return Ok(());
    }
    apply(&entry, &record, cgroup, &converted)
}

/// Sets what is asked for and remembers it.
fn apply(
    entry: &Entry,
    record: &Record,
    cgroup: &CgroupRecord,
    converted: &Converted,
) -> Result<()> {
    let mut bus = None;
    if cgroup.scope.is_some() && !converted.properties.is_empty() {
        // Whether it answers is known before anything is changed.
        let mut begun = Bus::begin(&SessionReading::of_caller())?;
        begun.version()?;
        bus = Some(begun);
    }
    let changed = cgroup::change(cgroup, &converted.settings, &converted.properties, &mut bus)?;
    let mut record = record.clone();
    if let Some(cgroup) = &mut record.cgroup {
        cgroup.enforced = changed.merged(&cgroup.enforced);
    }
    let remembered = entry
        .draft_record(&record)
        .and_then(|()| entry.publish_record());
    remembered.map_err(|error| changed.take_back(&mut bus, error))
}

/// A container that shares its caller's cgroup has no limits that could be changed.
fn without_cgroup(
    asked: &LinuxResources,
    record: &Record,
    (global, log): (&Global, &Log),
) -> Result<()> {
    let converted = convert(asked.clone(), &record.oci_version, |_| None)?;
    if converted.settings.iter().all(Setting::is_usual) {
        global.allow(&converted.notes)?;
        log.notes(&converted.notes);
        return Ok(());
    }
    Err(Error::new("the container has no cgroup")
        .because("it shares that of whoever created it, which is not to be limited along with it")
        .hint("limits that are given when it is created make it one; `lodger plan` says where that is possible"))
}

/// What is asked for, with what it takes from what holds now, as far as `read` can tell.
fn convert(
    mut asked: LinuxResources,
    oci_version: &str,
    read: impl Fn(&str) -> Option<String>,
) -> Result<Converted> {
    let limit_is_old = complete(&mut asked, read);
    let mut converted = resources::convert(&asked, oci_version, RESOURCES);
    if !converted.problems.is_empty() {
        let error = Error::new("cannot do what is asked for");
        return Err(converted.problems.iter().fold(error, Error::because));
    }
    if limit_is_old {
        let pointer = format!("{RESOURCES}/memory/limit");
        converted
            .settings
            .retain(|setting| setting.property != pointer);
        converted
            .properties
            .retain(|property| property.property != pointer);
    }
    for note in &mut converted.notes {
        if note.reason.starts_with(ZERO) {
            *note = Note::new(
                &note.property,
                "0 is taken for a limit that was not given: what holds stays",
                "none is needed; -1 is for no limit",
            );
        }
    }
    Ok(converted)
}

/// Adds what a limit is counted from: the other number of cpu.max, and the limit of memory where swap is given alone. Whether that
/// limit was added.
fn complete(asked: &mut LinuxResources, read: impl Fn(&str) -> Option<String>) -> bool {
    if let Some(cpu) = asked.cpu_mut() {
        let quota = cpu.quota().filter(|quota| *quota != 0);
        let period = cpu.period().filter(|period| *period != 0);
        let now = read("cpu.max").unwrap_or_default();
        let mut words = now.split_whitespace();
        let old_quota = words.next().and_then(|quota| quota.parse().ok());
        let old_period = words.next().and_then(|period| period.parse().ok());
        match (quota, period) {
            (Some(_), None) => {
                cpu.set_period(old_period);
            }
            (None, Some(_)) => {
                cpu.set_quota(old_quota);
            }
            _ => {}
        }
    }
    let Some(memory) = asked.memory_mut() else {
        return false;
    };
    let given = |value: Option<i64>| value.is_some_and(|value| value != 0);
    if !given(memory.swap()) || given(memory.limit()) {
        return false;
    }
    let limit = match read("memory.max").as_deref() {
        Some("max") => Some(-1),
        number => number.and_then(|number| number.parse().ok()),
    };
    memory.set_limit(limit);
    limit.is_some()
}

/// Refuses a limit below what is in use, where the config wants that to be looked at (config-linux.md, "Memory").
fn check_usage(converted: &Converted, read: impl Fn(&str) -> Option<String>) -> Result<()> {
    let number = |text: &str| text.parse::<u64>().ok();
    let new = |file: &str| {
        let mut writes = converted
            .settings
            .iter()
            .flat_map(|setting| &setting.writes);
        writes
            .rfind(|write| write.file == file)
            .and_then(|write| number(&write.value))
    };
    for (limit, usage) in [
        ("memory.max", "memory.current"),
        ("memory.swap.max", "memory.swap.current"),
    ] {
        let used = read(usage).and_then(|text| number(&text));
        if let Some((new, used)) = new(limit).zip(used).filter(|(new, used)| new < used) {
            return Err(Error::new(format!("the new {limit} is less than what is in use"))
                .because(format!("{new} bytes are to be allowed, and {usage} is {used}"))
                .hint("without memory.checkBeforeUpdate it is set, and the kernel frees what it can and kills for the rest"));
        }
    }
    Ok(())
}

impl Args {
    /// What is to be limited.
    fn asked(&self) -> Result<LinuxResources> {
        let (text, from) = match &self.resources {
            None => (self.limits.text()?, None),
            Some(path) if path == Path::new("-") => (read_stdin()?, Some(path)),
            Some(path) => {
                let what = || format!("cannot read the resources in {path:?}");
                (
                    sys::path::read_regular(path, RESOURCES_LIMIT).doing(what)?,
                    Some(path),
                )
            }
        };
        bundle::parse_resources(&text).map_err(|error| match from {
            None => super::spec::explain(&error),
            Some(path) => Error::new(format!("cannot use the resources in {path:?}"))
                .because(error.to_string().replace("config.json", "the text"))
                .hint("it is to be a JSON object like `linux.resources` of config.json"),
        })
    }
}

fn read_stdin() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let limit = u64::try_from(RESOURCES_LIMIT).unwrap_or(u64::MAX);
    let read = std::io::stdin().take(limit + 1).read_to_end(&mut text);
    read.map_err(|error| {
        Error::new("cannot read the resources from standard input").because(error)
    })?;
    if text.len() > RESOURCES_LIMIT {
        return Err(Error::new("cannot read the resources from standard input")
            .because(format!("it has more than {RESOURCES_LIMIT} bytes")));
    }
    Ok(text)
}

impl Limits {
    /// The options as `linux.resources` would have them.
    fn text(&self) -> Result<Vec<u8>> {
        if self.l3_cache_schema.is_some() || self.mem_bw_schema.is_some() {
            return Err(Error::new("cannot limit caches and memory bandwidth")
                .because("that is done in resctrl, which only root of the host can write to")
                .hint("do without --l3-cache-schema and --mem-bw-schema"));
        }
        let mut all = Map::new();
        let mut add = |of: &str, name: &str, value: Option<Value>| {
            let members = all.entry(of).or_insert_with(|| Value::Object(Map::new()));
            if let Some((members, value)) = members.as_object_mut().zip(value) {
                members.insert(name.to_owned(), value);
            }
        };
        add("memory", "limit", self.memory.map(Value::from));
        add(
            "memory",
            "reservation",
            self.memory_reservation.map(Value::from),
        );
        add("memory", "swap", self.memory_swap.map(Value::from));
        add("cpu", "quota", self.cpu_quota.map(Value::from));
        add("cpu", "period", self.cpu_period.map(Value::from));
        add("cpu", "burst", self.cpu_burst.map(Value::from));
        add("cpu", "shares", self.cpu_share.map(Value::from));
        add("cpu", "idle", self.cpu_idle.map(Value::from));
        add("cpu", "cpus", self.cpuset_cpus.clone().map(Value::from));
        add("cpu", "mems", self.cpuset_mems.clone().map(Value::from));
        add("cpu", "realtimePeriod", self.cpu_rt_period.map(Value::from));
        add(
            "cpu",
            "realtimeRuntime",
            self.cpu_rt_runtime.map(Value::from),
        );
        add("blockIO", "weight", self.blkio_weight.map(Value::from));
        if self.pids_limit.is_some() {
            add("pids", "limit", self.pids_limit.map(Value::from));
        }
        serde_json::to_vec(&all)
            .map_err(|error| Error::new("cannot read the options").because(error))
    }

    /// What is taken for the sake of those that still give it.
    fn notes(&self) -> Vec<Note> {
        let given = [
            ("kernel-memory", self.kernel_memory),
            ("kernel-memory-tcp", self.kernel_memory_tcp),
        ];
        let notes = given.into_iter().filter_map(|(name, value)| {
            value.filter(|value| *value != 0)?;
            Some(Note::new(
                format!("--{name}"),
                "not used: version 2 of cgroups counts it within --memory and cannot limit it by itself",
                "leave it out",
            ))
        });
        notes.collect()
    }
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
