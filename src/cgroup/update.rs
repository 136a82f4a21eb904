//! New limits for a container that is there: all of them hold afterwards, or the old ones.

use super::bus::Bus;
use super::fs::Dir;
use super::limits::controllers_of;
use super::make::enable_down;
use super::record::{CgroupRecord, Enforced, EnforcedBy};
use crate::error::{Doing, Error, Result};
use crate::host::CgroupReading;
use crate::plan::{FileWrite, Setting, UnitProperty, resources};

/// Limits that hold now, and how it was before.
#[derive(Debug)]
pub struct Changed {
    /// What is to be remembered of them.
    pub enforced: Vec<Enforced>,
    undo: Undo,
}

/// How it was, in the order in which it was changed.
#[derive(Debug, Default)]
struct Undo {
    /// The cgroups whose files were written.
    dirs: Vec<Dir>,
    /// Which of them, and what it had.
    files: Vec<(usize, FileWrite)>,
    /// The scope and what it had.
    scope: Option<(String, Vec<UnitProperty>)>,
}

/// Sets `settings` in the container's cgroup, and `properties` of its scope. `bus` is needed for a scope alone.
///
/// # Errors
/// Something cannot be set. All is as it was then, or the error says what is not.
pub fn change(
    record: &CgroupRecord,
    settings: &[Setting],
    properties: &[UnitProperty],
    bus: &mut Option<Bus>,
) -> Result<Changed> {
    let leaf = open(&record.path)?;
    hand_down(record, &leaf, settings)?;
    let mut undo = Undo::default();
    // Where systemd keeps no limits above the container, this process does.
    if record.scope.is_none() && record.top != record.path {
        undo.dirs.push(open(&record.top)?);
    }
    undo.dirs.push(leaf);
    let changed = undo.write(settings).and_then(|mut enforced| {
        undo.tell_systemd(record, settings, properties, bus, &mut enforced)?;
        Ok(enforced)
    });
    match changed {
        Ok(enforced) => Ok(Changed { enforced, undo }),
        Err(error) => Err(undo.all(bus, error)),
    }
}

impl Changed {
    /// Takes the change back, because of `error`, which says how that went.
    pub fn take_back(self, bus: &mut Option<Bus>, error: Error) -> Error {
        self.undo.all(bus, error)
    }

    /// `before`, with what holds now in the place of what was said of the same.
    pub fn merged(&self, before: &[Enforced]) -> Vec<Enforced> {
        let kept = before.iter().filter(|old| {
            let mut now = self.enforced.iter();
            now.all(|new| new.file != old.file || about(new) != about(old))
        });
        let kept = kept.cloned();
        kept.chain(self.enforced.iter().cloned()).collect()
    }
}

fn open(path: &str) -> Result<Dir> {
    Dir::open(path)?.ok_or_else(|| {
        Error::new(format!("the container's cgroup {path:?} is gone"))
            .because("somebody removed it, or stopped its scope")
            .hint("`lodger delete -f` removes the container")
    })
}

/// Lets the container's cgroup have the controllers that it needs, where those above have them.
fn hand_down(record: &CgroupRecord, leaf: &Dir, settings: &[Setting]) -> Result<()> {
    let missing: Vec<Setting> = settings
        .iter()
        .filter(|setting| !setting.is_usual() && chosen(leaf, setting).is_none())
        .cloned()
        .collect();
    let controllers = controllers_of(&missing);
    if controllers.is_empty() {
        return Ok(());
    }
    let top = open(&record.top)?;
    if record.scope.is_some() {
        let manager = CgroupReading::of_caller().manager.map(|m| m.path);
        return enable_down(manager.as_deref(), &top, &controllers);
    }
    let above = record.top.rsplit_once('/').map_or("", |(above, _)| above);
    open(if above.is_empty() { "/" } else { above })?.enable(&controllers)?;
    if record.top != record.path {
        top.enable(&controllers)?;
    }
    Ok(())
}

/// What of `setting` is written to `dir`: for the first file that is there.
fn chosen<'a>(dir: &Dir, setting: &'a Setting) -> Option<&'a FileWrite> {
    setting.writes.iter().find(|write| dir.has(&write.file))
}

impl Undo {
    /// Writes to every cgroup; what holds in the last, the container's own.
    fn write(&mut self, settings: &[Setting]) -> Result<Vec<Enforced>> {
        let mut enforced = Vec::new();
        for at in 0..self.dirs.len() {
            enforced.clear();
            for setting in ordered(&self.dirs[at], settings) {
                enforced.extend(self.write_one(at, setting)?);
            }
        }
        Ok(enforced)
    }

    /// Writes `setting` to the cgroup `at`; `None` where that has no file for it, and needs none.
    fn write_one(&mut self, at: usize, setting: &Setting) -> Result<Option<Enforced>> {
        let dir = &self.dirs[at];
        let had = match chosen(dir, setting) {
            None if setting.is_usual() => return Ok(None),
            None => Vec::new(),
            Some(write) => before(dir, write)?,
        };
        let enforced = dir.set(setting)?;
        self.files.extend(had.into_iter().map(|had| (at, had)));
        Ok(Some(enforced))
    }

    /// Sets the scope's properties; `enforced` learns what systemd keeps.
    fn tell_systemd(
        &mut self,
        record: &CgroupRecord,
        settings: &[Setting],
        properties: &[UnitProperty],
        bus: &mut Option<Bus>,
        enforced: &mut [Enforced],
    ) -> Result<()> {
        let Some((scope, bus)) = record.scope.as_ref().zip(bus.as_mut()) else {
            return Ok(());
        };
        if properties.is_empty() {
            return Ok(());
        }
        let had = properties_before(&open(&record.top)?, settings)?;
        let had = had
            .into_iter()
            .filter(|old| properties.iter().any(|new| new.name == old.name));
        self.scope = Some((scope.clone(), had.collect()));
        let lacking = bus.set_properties(scope, properties)?;
        for limit in enforced {
            let mut kept = properties.iter().filter(|p| !lacking.contains(&p.name));
            if kept.any(|property| property.property == limit.property) {
                limit.by = EnforcedBy::Systemd;
            }
        }
        Ok(())
    }

    /// Puts everything back, the last first; `error` says why, and learns how it went.
    fn all(&self, bus: &mut Option<Bus>, error: Error) -> Error {
        let mut failures = Vec::new();
        if let Some(((scope, properties), bus)) = self.scope.as_ref().zip(bus.as_mut())
            && let Err(failure) = bus.set_properties(scope, properties)
        {
            failures.push(failure.to_string());
        }
        for (at, had) in self.files.iter().rev() {
            if let Err(failure) = self.dirs[*at].write(&had.file, &had.value) {
                failures.push(failure.to_string());
            }
        }
        if failures.is_empty() {
            return error.hint("nothing was changed: the limits are what they were");
        }
        let error = error.because("and some limits could not be set back to what they were");
        failures.into_iter().fold(error, Error::because)
    }
}

/// `settings` as the kernel takes them one after the other for a cgroup that has limits already.
fn ordered<'a>(dir: &Dir, settings: &'a [Setting]) -> Vec<&'a Setting> {
    let mut ordered: Vec<_> = settings.iter().collect();
    let place = |file: &str, list: &[&Setting]| {
        let has = |setting: &&Setting| setting.writes.iter().any(|write| write.file == file);
        list.iter().position(has)
    };
    // Room to swap to comes before the need for it.
    if let (Some(max), Some(swap)) = (
        place("memory.max", &ordered),
        place("memory.swap.max", &ordered),
    ) && max < swap
    {
        ordered.swap(max, swap);
    }
    // A burst is at no time above the quota.
    if let (Some(max), Some(burst)) = (place("cpu.max", &ordered), place("cpu.max.burst", &ordered))
    {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let now = dir.read("cpu.max.burst").ok();
        let now = now.and_then(|text| number(&text)).unwrap_or(0);
        let new = ordered[burst].writes.first();
        let less = new
            .and_then(|write| number(&write.value))
            .is_some_and(|new| new < now);
        if less == (max < burst) {
            ordered.swap(max, burst);
        }
    }
    ordered
}

/// What `dir` has where `write` goes, as it is to be written to have it again.
fn before(dir: &Dir, write: &FileWrite) -> Result<Vec<FileWrite>> {
    let file = write.file.as_str();
    let read = |file: &str| {
        dir.read(file)
            .doing(|| format!("cannot read {file} of the cgroup {}", dir.path()))
    };
    let had = |file: &str, value: String| FileWrite {
        file: file.to_owned(),
        value,
    };
    // What is written there watches, and is forgotten at once.
    if file.ends_with(".pressure") {
        return Ok(Vec::new());
    }
    let text = read(file)?;
    let mut all = Vec::new();
    // Idleness takes the weight away.
    if file == "cpu.idle" && text.trim() == "0" && dir.has("cpu.weight") {
        all.push(had("cpu.weight", read("cpu.weight")?.trim().to_owned()));
    }
    all.push(had(file, value_before(&text, write)));
    Ok(all)
}

/// The part of a file's `text` that is about the same as `write`.
fn value_before(text: &str, write: &FileWrite) -> String {
    let Some(key) = key(&write.file, &write.value) else {
        // A partition that is none by now says so after its name.
        let value = match write.file.as_str() {
            "cpuset.cpus.partition" => text.split_whitespace().next().unwrap_or_default(),
            _ => text.trim(),
        };
        // Nothing at all would not be written.
        return if value.is_empty() { "\n" } else { value }.to_owned();
    };
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| line.split_whitespace().next() == Some(key));
    match (line, write.file.as_str()) {
        (Some(line), _) => line.to_owned(),
        (None, "io.max") => format!("{key} rbps=max wbps=max riops=max wiops=max"),
        (None, "io.latency") => format!("{key} target=0"),
        (None, _) if key == "default" => "default 100".to_owned(),
        (None, _) => format!("{key} default"),
    }
}

/// What a limit is about, in files that have several: the device, and what of it.
fn about(limit: &Enforced) -> (Option<&str>, Vec<&str>) {
    let of = key(&limit.file, &limit.value);
    let words = limit.value.split_whitespace();
    let names = words.filter_map(|word| word.split_once('=').map(|(name, _)| name));
    (of, names.collect())
}

/// What `value` in `file` is about, in files that have a line for each device.
fn key<'a>(file: &str, value: &'a str) -> Option<&'a str> {
    let by_line = file.starts_with("io.") || ["rdma.max", "misc.max", "dmem.max"].contains(&file);
    let mut words = value.split_whitespace();
    let first = words.next().filter(|_| by_line)?;
    Some(if words.next().is_none() {
        "default"
    } else {
        first
    })
}

/// The properties that stand for what the scope's cgroup `top` has now in the files of `settings`.
fn properties_before(top: &Dir, settings: &[Setting]) -> Result<Vec<UnitProperty>> {
    let mut had = Vec::new();
    for setting in settings {
        let Some(write) = setting.writes.last() else {
            continue;
        };
        let file = match write.file.as_str() {
            "cpu.weight" | "cpu.idle" => {
                let idle = top.read("cpu.idle").is_ok_and(|text| text.trim() == "1");
                if idle { "cpu.idle" } else { "cpu.weight" }
            }
            file => file,
        };
        let write = FileWrite {
            file: file.to_owned(),
            value: write.value.clone(),
        };
        let value = if top.has(file) {
            let text = top
                .read(file)
                .doing(|| format!("cannot read {file} of the cgroup {}", top.path()))?;
            value_before(&text, &write)
        } else {
            without_controller(&write)
        };
        had.push(Setting {
            writes: vec![FileWrite { value, ..write }],
            ..setting.clone()
        });
    }
    Ok(resources::properties(&had))
}

/// What a file would have, were it there.
fn without_controller(write: &FileWrite) -> String {
    match write.file.as_str() {
        "cpu.weight" => "100".to_owned(),
        "cpu.idle" | "memory.min" | "memory.low" => "0".to_owned(),
        "memory.zswap.writeback" => "1".to_owned(),
        "cpuset.cpus" | "cpuset.mems" => "\n".to_owned(),
        file if key(file, &write.value).is_some() => value_before("", write),
        _ => "max".to_owned(),
    }
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
