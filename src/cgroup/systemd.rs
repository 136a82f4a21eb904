//! What is asked of the caller's systemd: scopes for containers, and limits for scopes (org.freedesktop.systemd1(5)).

use zbus::wire::Signature;
use zbus::{Array, Message, ObjectPath, Variant};

use super::bus::{Bus, MANAGER, MANAGER_PATH, Refusal, SYSTEMD, call, call_manager, get, serial};
use super::bus_error::BusError;
use super::wire::Limit;
use crate::plan::{PropertyValue, UnitProperty};

/// The interface of a scope.
const SCOPE: &str = "org.freedesktop.systemd1.Scope";
/// The interface of any unit.
const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// A scope to be started.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Its name, with its suffix.
    pub unit: String,
    /// The slice, with its suffix; `None`: the manager's default one.
    pub slice: Option<String>,
    /// What people read in `systemctl status`.
    pub description: String,
    /// What it is to have besides. One that lodger sets itself takes the place of lodger's.
    pub properties: Vec<UnitProperty>,
    /// The process that is moved there. It must be a child that is not waited for, so that its pid cannot become another's.
    pub pid: u32,
}

/// A scope that has been started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Its cgroup, beneath the root of the hierarchy as systemd sees it, with `/` at its begin.
    pub cgroup: String,
    /// The version of systemd; 0 if it is not to be understood.
    pub version: u32,
    /// The names of the properties that this systemd does not have.
    pub lacking: Vec<String>,
}

type Pair<'a> = (&'a str, Variant<'a>);

impl Bus {
    /// Starts the scope with its process in it, and waits until it is.
    ///
    /// Mode `fail`: a job that somebody else has for the unit is not to be replaced. A scope of this name that has failed or
    /// ended and is still loaded is forgotten, and it is tried once more; so it is where somebody who meant the scope that had the
    /// name before stops this one. A property that this systemd refuses to know is left out, and named.
    pub fn start_scope(&mut self, scope: &Scope) -> Result<Started, BusError> {
        let version = self.version()?;
        let limit = self.limit("the scope's start");
        let (mut wanted, mut lacking) = for_version(&scope.properties, version);
        let (mut retried, mut canceled) = (false, false);
        let result = loop {
            match self.try_start(scope, &wanted, limit)? {
                Ok(job) => {
                    let result = self.wait_for_job(&job, limit)?;
                    if result != "canceled" || canceled {
                        break result;
                    }
                    canceled = true;
                }
                Err(refusal) if refusal.is("UnitExists") && retried => {
                    // Somebody else was faster, and has the name now: another one will do.
                    return Err(BusError::UnitExists {
                        unit: scope.unit.clone(),
                        state: "active".to_owned(),
                    });
                }
                Err(refusal) if refusal.is("UnitExists") => {
                    self.forget_ended(&scope.unit, limit)?;
                    retried = true;
                }
                Err(refusal) => match unknown_property(&refusal, &wanted) {
                    Some(index) => lacking.push(wanted.remove(index).name.clone()),
                    None => return Err(refusal.of("StartTransientUnit", &scope.unit)),
                },
            }
        };
        if result != "done" {
            return Err(BusError::JobFailed {
                unit: scope.unit.clone(),
                result,
            });
        }
        Ok(Started {
            cgroup: self.property_of(&scope.unit, SCOPE, "ControlGroup", limit)?,
            version,
            lacking,
        })
    }

    /// Asks for the scope once; the path of the job.
    fn try_start(
        &mut self,
        scope: &Scope,
        wanted: &[&UnitProperty],
        limit: Limit<'_>,
    ) -> Result<Result<String, Refusal>, BusError> {
        let properties = scope_properties(scope, wanted)?;
        let none: Vec<(&str, Vec<Pair<'_>>)> = Vec::new();
        let body = (scope.unit.as_str(), "fail", properties, none);
        let start = call_manager("StartTransientUnit", &body)?;
        self.ask_for_job(&scope.unit, start, limit)
    }

    /// Sends a call that makes a job, having asked for the signal of its end; the path of the job.
    fn ask_for_job(
        &mut self,
        unit: &str,
        message: Message,
        limit: Limit<'_>,
    ) -> Result<Result<String, Refusal>, BusError> {
        let number = serial(&message);
        if self.is_direct() {
            self.send(&[message], limit)?;
        } else {
            let bus = "org.freedesktop.DBus";
            let rule = format!(
                "type='signal',sender='{SYSTEMD}',path='{MANAGER_PATH}',interface='{MANAGER}',member='JobRemoved',arg2='{}'",
                unit.replace('\'', "'\\''")
            );
            let add = call([bus, bus], "/org/freedesktop/DBus", "AddMatch", &rule)?;
            let added = serial(&add);
            // In one go: the bus has the rule before systemd has the call.
            self.send(&[add, message], limit)?;
            let answer = self.wait_for(added, limit)?;
            answer.map_err(|refusal| refusal.of("AddMatch", unit))?;
        }
        match self.wait_for(number, limit)? {
            Err(refusal) => Ok(Err(refusal)),
            Ok(answer) => {
                let body = answer.body();
                let job = body.deserialize::<ObjectPath<'_>>();
                let job = job.map_err(|e| self.garbage(limit, e.to_string()))?;
                Ok(Ok(job.as_str().to_owned()))
            }
        }
    }

    /// A unit of this name that does nothing any more is taken out of the manager's memory; one that is active is an error.
    fn forget_ended(&mut self, unit: &str, limit: Limit<'_>) -> Result<(), BusError> {
        let state = self.property_of(unit, UNIT, "ActiveState", limit)?;
        if state != "failed" && state != "inactive" {
            return Err(BusError::UnitExists {
                unit: unit.to_owned(),
                state,
            });
        }
        self.reset_failed(unit, limit)
    }

    /// Takes a failed unit out of the manager's memory. One that is gone by then is what was wanted.
    fn reset_failed(&mut self, unit: &str, limit: Limit<'_>) -> Result<(), BusError> {
        let message = call_manager("ResetFailedUnit", &unit)?;
        match self.ask(message, limit)? {
            Err(refusal) if !refusal.is("NoSuchUnit") => Err(refusal.of("ResetFailedUnit", unit)),
            _ => Ok(()),
        }
    }

    /// Sends one call and waits for its answer.
    fn ask(&mut self, message: Message, limit: Limit<'_>) -> Result<super::bus::Answer, BusError> {
        let number = serial(&message);
        self.send(&[message], limit)?;
        self.wait_for(number, limit)
    }

    /// Sets properties of a unit that runs, for as long as it runs (SetUnitProperties, runtime). The names of those that this
    /// systemd does not have, or not for a unit that runs.
    pub fn set_properties(
        &mut self,
        unit: &str,
        properties: &[UnitProperty],
    ) -> Result<Vec<String>, BusError> {
        let version = self.version()?;
        let limit = self.limit("the scope's new limits");
        let (mut wanted, mut lacking) = for_version(properties, version);
        while !wanted.is_empty() {
            let pairs: Vec<Pair<'_>> = wanted.iter().map(|p| pair(p)).collect::<Result<_, _>>()?;
            let message = call_manager("SetUnitProperties", &(unit, true, pairs))?;
            let Err(refusal) = self.ask(message, limit)? else {
                break;
            };
            match unknown_property(&refusal, &wanted) {
                Some(index) => lacking.push(wanted.remove(index).name.clone()),
                None => return Err(refusal.of("SetUnitProperties", unit)),
            }
        }
        Ok(lacking)
    }

    /// Stops the scope and forgets it; what still runs in it is killed. One that is not loaded is what was wanted.
    pub fn stop_scope(&mut self, unit: &str) -> Result<(), BusError> {
        self.version()?;
        let limit = self.limit("the scope's end");
        // Stopping alone would ask its processes first, and wait for TimeoutStopSec.
        let kill = call_manager("KillUnit", &(unit, "all", 9i32))?;
        let killed = serial(&kill);
        self.send(&[kill], limit)?;
        let stop = call_manager("StopUnit", &(unit, "replace"))?;
        let stopped = self.ask_for_job(unit, stop, limit)?;
        // That there is nothing to kill is as good.
        let _killed = self.wait_for(killed, limit)?;
        match stopped {
            Ok(job) => {
                let result = self.wait_for_job(&job, limit)?;
                if result != "done" {
                    return Err(BusError::JobFailed {
                        unit: unit.to_owned(),
                        result,
                    });
                }
            }
            Err(refusal) if refusal.is("NoSuchUnit") => return Ok(()),
            Err(refusal) => return Err(refusal.of("StopUnit", unit)),
        }
        self.reset_failed(unit, limit)
    }

    /// The description and the cgroup of a scope; `None` when it is not loaded.
    pub fn look_at_scope(&mut self, unit: &str) -> Result<Option<(String, String)>, BusError> {
        self.version()?;
        let limit = self.limit("what it knows of the scope");
        let message = call_manager("GetUnit", &unit)?;
        match self.ask(message, limit)? {
            Err(refusal) if refusal.is("NoSuchUnit") => return Ok(None),
            Err(refusal) => return Err(refusal.of("GetUnit", unit)),
            Ok(_) => {}
        }
        let description = self.property_of(unit, UNIT, "Description", limit)?;
        let cgroup = self.property_of(unit, SCOPE, "ControlGroup", limit)?;
        Ok(Some((description, cgroup)))
    }

    /// Moves a process into a cgroup beneath the unit's, `/` being the unit's own (AttachProcessesToUnit): systemd may where the
    /// caller may not, as out of a session's scope.
    pub fn attach(&mut self, unit: &str, subcgroup: &str, pid: u32) -> Result<(), BusError> {
        self.version()?;
        let limit = self.limit("the process to be moved");
        let message = call_manager("AttachProcessesToUnit", &(unit, subcgroup, vec![pid]))?;
        let answer = self.ask(message, limit)?;
        answer
            .map(|_| ())
            .map_err(|refusal| refusal.of("AttachProcessesToUnit", unit))
    }

    /// The cgroup of the manager itself, beneath the root of the hierarchy as systemd sees it.
    pub fn manager_cgroup(&mut self) -> Result<String, BusError> {
        self.version()?;
        let limit = self.limit("the manager's cgroup");
        let message = get(MANAGER_PATH, MANAGER, "ControlGroup")?;
        let answer = self.ask(message, limit)?;
        let answer = answer.map_err(|refusal| refusal.of("Get", "ControlGroup of the manager"))?;
        self.text_property(&answer, limit)
    }

    fn property_of(
        &mut self,
        unit: &str,
        interface: &str,
        property: &str,
        limit: Limit<'_>,
    ) -> Result<String, BusError> {
        let message = get(&object_path(unit), interface, property)?;
        let answer = self.ask(message, limit)?;
        let answer = answer.map_err(|refusal| refusal.of("Get", unit))?;
        self.text_property(&answer, limit)
    }
}

/// The properties that this version has, and the names of the others. Of an unknown version all are tried.
fn for_version(properties: &[UnitProperty], version: u32) -> (Vec<&UnitProperty>, Vec<String>) {
    let (has, lacks): (Vec<_>, Vec<_>) = properties
        .iter()
        .partition(|property| version == 0 || property.since <= version);
    (has, lacks.into_iter().map(|p| p.name.clone()).collect())
}

/// Which of `wanted` this refusal says that there is none of.
///
/// PropertyReadOnly is what systemd answers for a name it does not know; the name is in the text only.
fn unknown_property(refusal: &Refusal, wanted: &[&UnitProperty]) -> Option<usize> {
    let name = refusal.name.rsplit('.').next()?;
    if !["PropertyReadOnly", "UnknownProperty"].contains(&name) {
        return None;
    }
    let mut words = refusal
        .message
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.find_map(|word| wanted.iter().position(|property| property.name == word))
}

/// All properties of the scope.
///
/// DefaultDependencies is off, as with other runtimes: when the machine goes down, whoever runs the container stops it in the way
/// it wants, and not systemd all containers at once. PIDs will do, and needs no newer systemd as PIDFDs does, because the process
/// is an unreaped child.
fn scope_properties<'a>(
    scope: &'a Scope,
    wanted: &[&'a UnitProperty],
) -> Result<Vec<Pair<'a>>, BusError> {
    let mut pairs: Vec<Pair<'a>> = vec![
        ("Description", Variant::from(scope.description.as_str())),
        ("Delegate", Variant::from(true)),
        ("PIDs", Variant::from(vec![scope.pid])),
        ("MemoryAccounting", Variant::from(true)),
        ("CPUAccounting", Variant::from(true)),
        ("TasksAccounting", Variant::from(true)),
        ("IOAccounting", Variant::from(true)),
        ("DefaultDependencies", Variant::from(false)),
        ("CollectMode", Variant::from("inactive-or-failed")),
    ];
    if let Some(slice) = &scope.slice {
        pairs.push(("Slice", Variant::from(slice.as_str())));
    }
    pairs.retain(|(name, _)| !wanted.iter().any(|property| property.name == *name));
    for property in wanted {
        pairs.push(pair(property)?);
    }
    Ok(pairs)
}

/// The property as it is sent.
fn pair(property: &UnitProperty) -> Result<Pair<'_>, BusError> {
    let value = match &property.value {
        PropertyValue::Bool(value) => Variant::from(*value),
        PropertyValue::U64(value) => Variant::from(*value),
        PropertyValue::I32(value) => Variant::from(*value),
        PropertyValue::Text(text) => Variant::from(text.as_str()),
        PropertyValue::Bytes(bytes) => Variant::from(bytes.clone()),
        PropertyValue::Texts(texts) => Variant::from(texts.clone()),
        PropertyValue::DeviceNumbers(numbers) => Variant::Array(device_numbers(numbers)?),
    };
    Ok((&property.name, value))
}

fn device_numbers(numbers: &[(String, u64)]) -> Result<Array<'_>, BusError> {
    let error = |why: String| BusError::Unspeakable {
        call: "SetUnitProperties",
        why,
    };
    let element = Signature::try_from("(st)").map_err(|e| error(e.to_string()))?;
    let mut array = Array::new(&element);
    for (path, number) in numbers {
        let pair = Variant::from((path.as_str(), *number));
        array.append(pair).map_err(|e| error(e.to_string()))?;
    }
    Ok(array)
}

/// The object of a unit: every byte of the name that is neither a letter nor a digit is `_` and two hexadecimal digits, and so is a
/// digit at its begin (sd_bus_path_encode(3)).
fn object_path(unit: &str) -> String {
    let mut path = format!("{MANAGER_PATH}/unit/");
    if unit.is_empty() {
        path.push('_');
    }
    for (index, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
#[path = "systemd_tests.rs"]
mod tests;
