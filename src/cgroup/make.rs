//! Making a container's cgroup, and putting a process into it.
//!
//! Two levels: the upper one, `top`, is the scope or what stands for it, and has the limits where the container cannot reach
//! them; its child `container` has them again, where the container sees them, as the root of its cgroup namespace.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};

use super::bus::Bus;
use super::bus_error::BusError;
use super::fs::{Dir, join};
use super::limits::controllers_of;
use super::systemd::{Scope, Started};
use super::tree::Removal;
use super::{CgroupRecord, Enforced, EnforcedBy};
use crate::error::{Doing, Error, Result};
use crate::plan::unit_annotations::is_limit;
use crate::plan::{Cgroup, CgroupPlace, Note, UnitProperty, unit_name};

/// The cgroup within a scope that is the container's.
const LEAF: &str = "container";

/// The slice of the caller's systemd where the config names none: as with runc and crun.
const SLICE: &str = "user.slice";

/// What systemd says of a scope where people look (`systemctl --user status`).
pub(super) fn description(id: &str) -> String {
    format!("lodger container {id}")
}

/// How many containers of one id, of different state directories, can have a cgroup at once.
const NAMESAKES: u32 = 100;

/// What it may be called where the config does not say, the best first.
pub(super) fn names(id: &str) -> impl Iterator<Item = String> {
    let more = (2..=NAMESAKES).map(move |number| format!("lodger-{id}.{number}"));
    std::iter::once(format!("lodger-{id}")).chain(more)
}

/// Starts the scope under the first of `names` that is free.
fn start(
    bus: &mut Bus,
    scope: &mut Scope,
    names: &[String],
    noted: impl Fn(&CgroupRecord) -> Result<()>,
) -> Result<Started> {
    let mut taken = None;
    for name in names {
        scope.unit = format!("{name}.scope");
        noted(&CgroupRecord::of_scope(&scope.unit))?;
        match bus.start_scope(scope) {
            Err(error @ BusError::UnitExists { .. }) => taken = Some(error),
            started => return Ok(started?),
        }
    }
    Err(taken.map_or_else(|| Error::new("the scope has no name"), Error::from))
}

/// Who makes the cgroup.
#[derive(Debug)]
pub enum Maker {
    /// The caller's systemd.
    Systemd {
        /// The way to it.
        bus: Box<RefCell<Bus>>,
        /// Where the caller's rights begin, as /proc/PID/cgroup has it, if that is known.
        boundary: Option<String>,
    },
    /// This process, beneath this cgroup of the caller's.
    Cgroupfs(String),
}

/// A cgroup that was made.
#[derive(Debug)]
pub struct Made {
    /// What to remember of it.
    pub record: CgroupRecord,
    /// What of it is not as asked.
    pub notes: Vec<Note>,
    leaf: Dir,
    /// Locked, where this process has made it, until init is in there.
    _top: Dir,
}

impl Made {
    /// The directory that clone3(2) can put a process into.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.leaf.as_fd()
    }

    /// Puts a process into it.
    pub fn admit(&self, pid: i32) -> Result<()> {
        self.leaf.join(pid)
    }
}

impl Maker {
    /// Makes the cgroup before there is a process, where this process makes it; `None`: it is made around a process.
    /// `noted` is told of it before anything is made.
    pub fn make_first(
        &self,
        plan: &Cgroup,
        id: &str,
        noted: impl Fn(&CgroupRecord) -> Result<()>,
    ) -> Result<Option<Made>> {
        let (Self::Cgroupfs(own), CgroupPlace::Cgroupfs { path }) = (self, &plan.place) else {
            return Ok(None);
        };
        let (top, mut record) = Self::top_of(plan, own, path.as_deref(), id, noted)?;
        let mut notes = Vec::new();
        let made = top.id().and_then(|id| {
            let (leaf, enforced) = Self::leaf_of(&top, plan, &mut notes)?;
            Ok((id, leaf, enforced))
        });
        match made {
            Ok((id, leaf, enforced)) => {
                record.enforced = enforced;
                record.id = Some(id);
                Ok(Some(Made {
                    record,
                    notes,
                    leaf,
                    _top: top,
                }))
            }
            Err(error) => Err(match top.remove_all() {
                Ok(Removal::Gone) => error,
                Ok(Removal::Denied(left)) => error.hint(left.to_string()),
                Err(left) => error.hint(left.message()),
            }),
        }
    }

    /// The upper cgroup, under the name that the config gives, or the first that is free and stays so until it is made.
    fn top_of(
        plan: &Cgroup,
        own: &str,
        path: Option<&str>,
        id: &str,
        noted: impl Fn(&CgroupRecord) -> Result<()>,
    ) -> Result<(Dir, CgroupRecord)> {
        let mut tries = 0;
        loop {
            let name =
                path.map_or_else(|| super::free_name(own, id), |path| Ok(path.to_owned()))?;
            let top = join(own, &name);
            let record = CgroupRecord {
                scope: None,
                id: None,
                path: join(&top, LEAF),
                top,
                enforced: Vec::new(),
            };
            noted(&record)?;
            // What is not made here is somebody else's, and stays.
            match super::make_top(own, &name, &plan.settings, plan.required)? {
                Ok((top, _)) => return Ok((top, record)),
                Err(taken) if path.is_some() || tries == NAMESAKES => return Err(taken),
                Err(_) => tries += 1,
            }
        }
    }

    fn leaf_of(top: &Dir, plan: &Cgroup, notes: &mut Vec<Note>) -> Result<(Dir, Vec<Enforced>)> {
        top.enable(&controllers_of(&plan.settings))?;
        share(plan, top);
        let leaf = top.make_beneath(LEAF, &[])?.0;
        let enforced = leaf.apply(&plan.settings, plan.required, notes)?;
        give(&leaf, plan.owner)?;
        Ok((leaf, enforced))
    }

    /// Makes the cgroup around process `pid`, a child of this process that has not been waited for.
    /// `noted` is told of the scope's name before it is started.
    pub fn make_around(
        &self,
        plan: &Cgroup,
        id: &str,
        pid: i32,
        noted: impl Fn(&CgroupRecord) -> Result<()>,
    ) -> Result<Option<Made>> {
        let (Self::Systemd { bus, boundary }, CgroupPlace::Systemd { slice, name }) =
            (self, &plan.place)
        else {
            return Ok(None);
        };
        let mut scope = Scope {
            unit: String::new(),
            slice: Some(slice.clone().unwrap_or_else(|| SLICE.to_owned())),
            description: description(id),
            properties: plan.properties.clone(),
            pid: pid.unsigned_abs(),
        };
        let names = match name {
            Some(name) => vec![name.clone()],
            None => names(id).map(|name| unit_name(&name)).collect(),
        };
        let mut bus = bus.borrow_mut();
        let started = start(&mut bus, &mut scope, &names, noted)?;
        let made = Self::inside(plan, boundary.as_deref(), &scope, started);
        made.map(Some)
            .map_err(|error| match bus.stop_scope(&scope.unit) {
                Ok(()) => error,
                Err(left) => error.hint(left.to_string()),
            })
    }

    /// Makes the container's cgroup in the scope that has been started, and puts its process there.
    fn inside(
        plan: &Cgroup,
        boundary: Option<&str>,
        scope: &Scope,
        started: Started,
    ) -> Result<Made> {
        let top = Dir::open(&started.cgroup)?.ok_or_else(|| gone(&started.cgroup))?;
        let leaf = top.make_beneath(LEAF, &[])?.0;
        // First of all: controllers are not enabled where there are processes.
        leaf.join(scope.pid.cast_signed())?;
        enable_down(boundary, &top, &controllers_of(&plan.settings))?;
        share(plan, &top);
        let mut notes = Vec::new();
        let mut enforced = leaf.apply(&plan.settings, plan.required, &mut notes)?;
        for limit in &mut enforced {
            let kept = plan.properties.iter().any(|property| {
                property.property == limit.property && !started.lacking.contains(&property.name)
            });
            if kept {
                limit.by = EnforcedBy::Systemd;
            } else {
                // Out of the container's reach too; systemd leaves alone what it has no property for.
                top.write(&limit.file, &limit.value)
                    .doing(|| format!("cannot set {}", limit.property))?;
            }
        }
        give(&leaf, plan.owner)?;
        notes.extend(told_of_lacking(plan, &started)?);
        let record = CgroupRecord {
            scope: Some(scope.unit.clone()),
            id: Some(top.id()?),
            path: join(&started.cgroup, LEAF),
            top: started.cgroup,
            enforced,
        };
        Ok(Made {
            record,
            notes,
            leaf,
            _top: top,
        })
    }
}

/// What annotations asked of the scope and this systemd does not have; of limits nobody else can keep it.
fn told_of_lacking(plan: &Cgroup, started: &Started) -> Result<Vec<Note>> {
    let of_limits = |property: &UnitProperty| {
        let mut settings = plan.settings.iter();
        settings.any(|setting| setting.property == property.property)
    };
    let lacking = plan
        .properties
        .iter()
        .filter(|property| started.lacking.contains(&property.name) && !of_limits(property));
    let mut notes = Vec::new();
    for property in lacking {
        let why = format!(
            "systemd {} has no property {} of a scope",
            started.version, property.name
        );
        let remedy = "take it out, or have a newer systemd";
        if plan.required && is_limit(&property.name) {
            let error = Error::new(format!("cannot do what {} asks for", property.property));
            return Err(error.because(why).hint(remedy));
        }
        notes.push(Note::new(
            &property.property,
            format!("not set: {why}"),
            remedy,
        ));
    }
    Ok(notes)
}

/// Lets a container that divides its cgroup have whatever `top` has. Nothing that was asked for is lost where that fails.
fn share(plan: &Cgroup, top: &Dir) {
    if !plan.divisible {
        return;
    }
    let shared = top.controllers().and_then(|all| {
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        top.enable(&all)
    });
    if let Err(error) = shared {
        tracing::debug!(cgroup = top.path(), %error, "not all controllers are the container's to use");
    }
}

fn give(leaf: &Dir, owner: Option<(u32, u32)>) -> Result<()> {
    match owner {
        Some((uid, gid)) => leaf.give_to(uid, gid),
        None => Ok(()),
    }
}

/// Lets the cgroups in `top` have `controllers`; those that systemd has not given it are handed down from `boundary`.
pub(super) fn enable_down(boundary: Option<&str>, top: &Dir, controllers: &[&str]) -> Result<()> {
    if controllers.is_empty() {
        return Ok(());
    }
    let given = top.controllers()?;
    let missing: Vec<&str> = controllers
        .iter()
        .copied()
        .filter(|name| !given.iter().any(|given| given == name))
        .collect();
    let above = boundary.filter(|above| top.path().starts_with(&format!("{above}/")));
    if let Some(above) = above.filter(|_| !missing.is_empty()) {
        let mut path = above.to_owned();
        for name in top.path()[above.len()..]
            .split('/')
            .filter(|n| !n.is_empty())
        {
            let dir = Dir::open(&path)?.ok_or_else(|| gone(&path))?;
            dir.enable(&missing)?;
            path = join(&path, name);
        }
    }
    top.enable(controllers)
}

fn gone(path: &str) -> Error {
    Error::new(format!("the container's cgroup {path:?} is not there"))
        .because("its scope has ended, or /sys/fs/cgroup is not the hierarchy that systemd uses")
        .hint("look at `systemctl --user status` and at mount(8)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PropertyValue;

    #[test]
    fn what_systemd_lacks_is_told_or_an_error() {
        let mut plan = Cgroup {
            place: CgroupPlace::Systemd {
                slice: None,
                name: None,
            },
            settings: Vec::new(),
            properties: Vec::new(),
            owner: None,
            divisible: false,
            required: true,
        };
        for name in ["MemoryZSwapWriteback", "Description", "TasksMax"] {
            plan.properties.push(UnitProperty {
                property: format!("/annotations/org.systemd.property.{name}"),
                name: name.to_owned(),
                value: PropertyValue::Bool(true),
                since: 0,
            });
        }
        let mut started = Started {
            cgroup: "/x".to_owned(),
            version: 252,
            lacking: vec!["Description".to_owned()],
        };
        let notes = told_of_lacking(&plan, &started).unwrap();
        assert_eq!(notes.len(), 1);
        assert!(notes[0].property.ends_with("Description"), "{notes:?}");
        started.lacking.push("MemoryZSwapWriteback".to_owned());
        let error = told_of_lacking(&plan, &started).unwrap_err();
        assert!(
            error
                .message()
                .contains("systemd 252 has no property MemoryZSwapWriteback")
        );
        plan.required = false;
        assert_eq!(told_of_lacking(&plan, &started).unwrap().len(), 2);
        // The cgroup's file keeps a limit too.
        plan.settings.push(crate::plan::Setting {
            property: plan.properties[0].property.clone(),
            controller: String::new(),
            writes: Vec::new(),
        });
        assert_eq!(told_of_lacking(&plan, &started).unwrap().len(), 1);
    }
}
