//! Control groups: who makes the container's, and what of its limits nobody can keep.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::Path;

use oci_spec::runtime::{LinuxResources, Spec};

use super::cgroups_path;
use super::resources::{self, Converted};
use super::unit_annotations::{is_limit, unit_annotations};
use super::{
    Cgroup, CgroupManager, CgroupOptions, CgroupPlace, CgroupPolicy, IdMapping, Ids, Note, Setting,
    UnitProperty,
};
use crate::bundle::Problem;
use crate::host::{CGROUP_MOUNT, CgroupKind, CgroupReading, HostFacts};

/// What is read for the decision, and where what was found goes.
pub(super) struct Deciding<'a> {
    pub(super) spec: &'a Spec,
    pub(super) facts: &'a HostFacts,
    pub(super) options: CgroupOptions,
    pub(super) notes: &'a mut Vec<Note>,
    pub(super) problems: &'a mut Vec<Problem>,
}

/// A cgroup of the caller's in which others are made, and what it has for them.
#[derive(Clone, Copy)]
struct Boundary<'a> {
    path: &'a str,
    controllers: &'a [String],
}

/// Who can make the cgroup, or why nobody can.
enum Maker<'a> {
    Systemd(Option<Boundary<'a>>),
    Cgroupfs(Boundary<'a>),
    Nobody {
        /// Why, as a clause.
        why: String,
        /// What to do about it.
        remedy: String,
        /// The code of that, if it is not the caller's own wish.
        code: Option<&'static str>,
    },
}

impl Deciding<'_> {
    /// The container's cgroup; `None`: it stays in its caller's. `ids`: those of a container that sees it as the root of a cgroup
    /// namespace of its own, if it has one.
    pub(super) fn decide(&mut self, ids: Option<Ids<'_>>) -> Option<Cgroup> {
        let spec = self.spec;
        let linux = spec.linux().as_ref();
        let path = linux.and_then(|l| l.cgroups_path().as_ref());
        let path = path.map(|p| p.to_string_lossy()).unwrap_or_default();
        let converted = self.convert(linux.and_then(|l| l.resources().as_ref()));
        let facts = self.facts;
        let maker = maker(self.options.manager, &path, facts);
        let managed = matches!(maker, Maker::Systemd(_));
        let asked = self.annotations(managed);
        let boundary = match maker {
            Maker::Systemd(boundary) => boundary,
            Maker::Cgroupfs(boundary) => Some(boundary),
            Maker::Nobody { why, remedy, code } => {
                self.without(&converted.settings, &path, (&why, &remedy, code));
                return None;
            }
        };
        let place = match self.place(&path, managed) {
            Ok(place) => place,
            Err(problem) => {
                self.problems.push(problem);
                return None;
            }
        };
        let settings = self.enforceable(converted.settings, boundary, managed);
        let limited = settings.iter().any(|setting| !setting.is_usual())
            || asked.iter().any(|property| is_limit(&property.name));
        let required = match self.options.policy {
            Some(CgroupPolicy::BestEffort) => false,
            Some(CgroupPolicy::Strict) => true,
            None => limited,
        };
        let kept =
            |property: &UnitProperty| settings.iter().any(|s| s.property == property.property);
        let mut properties: Vec<_> = converted.properties.into_iter().filter(kept).collect();
        match managed {
            true => self.add(asked, &mut properties),
            false => properties.clear(),
        }
        Some(Cgroup {
            place,
            settings,
            properties,
            owner: ids.and_then(|ids| owner(spec, ids)),
            divisible: ids.is_some() && divisible(spec),
            required,
        })
    }

    fn convert(&mut self, resources: Option<&LinuxResources>) -> Converted {
        let Some(resources) = resources else {
            return Converted::default();
        };
        let mut converted = resources::convert(resources, self.spec.version(), "/linux/resources");
        self.notes.append(&mut converted.notes);
        self.problems.append(&mut converted.problems);
        converted
    }

    /// What annotations ask of the scope.
    fn annotations(&mut self, managed: bool) -> Vec<UnitProperty> {
        let annotations = self.spec.annotations().iter().flatten();
        let annotations = annotations.map(|(k, v)| (k.clone(), v.clone())).collect();
        let converted = unit_annotations(&annotations, managed);
        self.notes.extend(converted.notes);
        self.problems.extend(converted.problems);
        converted.properties
    }

    /// Adds what annotations ask for to the properties `of_limits`: none takes the place of a limit.
    fn add(&mut self, asked: Vec<UnitProperty>, of_limits: &mut Vec<UnitProperty>) {
        for property in asked {
            match of_limits.iter().find(|limit| limit.name == property.name) {
                None => of_limits.push(property),
                Some(limit) if limit.value == property.value => {}
                Some(limit) => self.problems.push(Problem::new(
                    property.property,
                    format!(
                        "is another value than {} asks for: leave out the one or the other",
                        limit.property
                    ),
                )),
            }
        }
    }

    /// Tells what becomes of what was asked of a cgroup that is not made.
    fn without(
        &mut self,
        settings: &[Setting],
        path: &str,
        (why, remedy, code): (&str, &str, Option<&str>),
    ) {
        let best_effort = self.options.policy == Some(CgroupPolicy::BestEffort);
        let mut limits = settings.iter().filter(|s| !s.is_usual()).peekable();
        let limited = limits.peek().is_some();
        for setting in limits {
            let message =
                format!("nobody can keep this limit, as the container gets no cgroup: {why}");
            self.unkept(&setting.property, (&message, remedy, code), best_effort);
        }
        if self.options.policy == Some(CgroupPolicy::Strict) && !limited {
            let problem = Problem::new(
                "/linux/cgroupsPath",
                format!(
                    "the container gets no cgroup, which --cgroup-policy strict asks for: {why}; {remedy}"
                ),
            );
            self.problems.push(Problem {
                code: code.map(str::to_owned),
                ..problem
            });
        }
        let named = match self.options.manager {
            CgroupManager::Systemd => Some("--cgroup-manager systemd"),
            CgroupManager::Cgroupfs => Some("--cgroup-manager cgroupfs"),
            CgroupManager::Auto | CgroupManager::Disabled => None,
        };
        let asked = match (path, named) {
            ("", None) => return,
            ("", Some(named)) => format!("no cgroup is made for {named}"),
            (path, _) => format!("{path:?} is not made"),
        };
        let note = Note::new(
            "/linux/cgroupsPath",
            format!("{asked}, and the container stays in its caller's cgroup: {why}"),
            remedy,
        );
        self.notes.push(Note {
            code: code.map(str::to_owned),
            ..note
        });
    }

    fn unkept(
        &mut self,
        property: &str,
        (message, remedy, code): (&str, &str, Option<&str>),
        best_effort: bool,
    ) {
        let code = code.map(str::to_owned);
        if best_effort {
            let note = Note::new(property, message, remedy);
            self.notes.push(Note { code, ..note });
        } else {
            let more = "or take it out, or let it go with --cgroup-policy best-effort";
            let message = format!("{message}; {remedy}; {more}");
            let problem = Problem::new(property, message);
            self.problems.push(Problem { code, ..problem });
        }
    }

    /// The settings whose controllers the caller has.
    fn enforceable(
        &mut self,
        settings: Vec<Setting>,
        boundary: Option<Boundary<'_>>,
        managed: bool,
    ) -> Vec<Setting> {
        let Some(boundary) = boundary else {
            return settings;
        };
        let best_effort = self.options.policy == Some(CgroupPolicy::BestEffort);
        let has =
            |s: &Setting| s.controller.is_empty() || boundary.controllers.contains(&s.controller);
        let (kept, lacking): (Vec<_>, Vec<_>) = settings.into_iter().partition(has);
        // What every cgroup has anyway needs no controller.
        for setting in lacking.into_iter().filter(|s| !s.is_usual()) {
            let (message, remedy) = lacking_controller(&setting.controller, boundary, managed);
            let said = (
                message.as_str(),
                remedy.as_str(),
                Some("LDG-CGROUP-CONTROLLER"),
            );
            self.unkept(&setting.property, said, best_effort);
        }
        kept
    }

    fn place(&mut self, path: &str, managed: bool) -> Result<CgroupPlace, Problem> {
        let named = self.options.manager != CgroupManager::Auto;
        let fits = path.is_empty() || cgroups_path::is_for_systemd(path) == managed;
        if !fits && !named {
            self.otherwise(
                path,
                match managed {
                    true => "a path, and systemd makes it: a scope has the form slice:prefix:name",
                    false => "the name of a scope, and there is no systemd to make one",
                },
            );
        }
        let path = if fits || named { path } else { "" };
        match managed {
            true => cgroups_path::in_systemd(path),
            false => cgroups_path::in_cgroupfs(path),
        }
    }

    fn otherwise(&mut self, asked: &str, why: &str) {
        self.notes.push(Note::new(
            "/linux/cgroupsPath",
            format!("the container's cgroup is named after its id, as {asked:?} is {why}"),
            "give the form that the manager has, or none",
        ));
    }
}

/// Who makes it for this caller.
fn maker<'a>(wanted: CgroupManager, path: &str, facts: &'a HostFacts) -> Maker<'a> {
    if wanted == CgroupManager::Disabled {
        return nobody("--cgroup-manager disabled asks for that", "leave it out");
    }
    let Some(reading) = facts.cgroup.as_ref() else {
        let why = "the control groups of this machine were not looked at";
        return nobody(why, "take the option or the property out");
    };
    if let Some(why) = unusable(reading) {
        let (why, code) = why;
        return coded(
            code,
            why,
            "ask the administrator for a system with version 2 alone (systemd.unified_cgroup_hierarchy=1)",
        );
    }
    // Systemd could make a scope, and nobody the container's cgroup in it.
    if reading.read_only {
        return coded(
            "LDG-CGROUP-READONLY",
            format!("{CGROUP_MOUNT} is mounted read-only"),
            "have it mounted writable; in a container, that is for its runtime to do",
        );
    }
    let manager = reading.manager.as_ref().map(|manager| Boundary {
        path: &manager.path,
        controllers: &manager.controllers,
    });
    let systemd = match facts.session.as_ref() {
        Some(session) if !session.sockets.is_empty() => Ok(Maker::Systemd(manager)),
        Some(session) => Err(session.why_none()),
        None => Err("there is no systemd of the caller's".to_owned()),
    };
    let cgroupfs = match (&reading.base, &reading.obstacle) {
        (Some(base), None) => Ok(Maker::Cgroupfs(Boundary {
            path: base,
            controllers: &reading.controllers,
        })),
        (_, obstacle) => Err(obstacle.clone().unwrap_or_default()),
    };
    let is_path = !path.is_empty() && !cgroups_path::is_for_systemd(path);
    match wanted {
        CgroupManager::Systemd => systemd.unwrap_or_else(no_session),
        CgroupManager::Cgroupfs => cgroupfs.unwrap_or_else(not_hers),
        CgroupManager::Auto | CgroupManager::Disabled => match (systemd, cgroupfs) {
            // A path is one beneath a cgroup of the caller's; only a scope has a slice.
            (_, Ok(cgroupfs)) if is_path => cgroupfs,
            (Ok(systemd), _) => systemd,
            (Err(_), Ok(cgroupfs)) => cgroupfs,
            (Err(why), Err(obstacle)) => no_session(format!("{why}, and {obstacle}")),
        },
    }
}

fn nobody<'a>(why: impl Into<String>, remedy: impl Into<String>) -> Maker<'a> {
    Maker::Nobody {
        why: why.into(),
        remedy: remedy.into(),
        code: None,
    }
}

fn coded<'a>(code: &'static str, why: impl Into<String>, remedy: impl Into<String>) -> Maker<'a> {
    Maker::Nobody {
        why: why.into(),
        remedy: remedy.into(),
        code: Some(code),
    }
}

fn no_session<'a>(why: String) -> Maker<'a> {
    coded(
        "LDG-CGROUP-UNDELEGATED",
        why,
        "log in through systemd-logind (ssh, `machinectl shell`), or have `loginctl enable-linger` run for you; or start it in a \
         cgroup that is yours: a service with Delegate=yes",
    )
}

fn not_hers<'a>(why: String) -> Maker<'a> {
    coded(
        "LDG-CGROUP-UNDELEGATED",
        why,
        "start it in a cgroup that is yours to divide: `systemd-run --user --scope -p Delegate=yes …`, a service with Delegate=yes",
    )
}

/// Why no cgroup can be made in this hierarchy, if none can.
fn unusable(reading: &CgroupReading) -> Option<(&'static str, &'static str)> {
    match reading.kind {
        CgroupKind::Unified => None,
        CgroupKind::Hybrid => Some((
            "the control groups of this machine are version 1 and 2 at once, and lodger uses version 2 alone",
            "LDG-CGROUP-HYBRID",
        )),
        CgroupKind::V1 => Some((
            "the control groups of this machine are version 1, and lodger uses version 2",
            "LDG-CGROUP-V1",
        )),
        CgroupKind::Absent => Some((
            "there are no control groups at /sys/fs/cgroup",
            "LDG-CGROUP-ABSENT",
        )),
    }
}

/// Why a limit cannot be kept for want of its controller, and what to do about it.
fn lacking_controller(controller: &str, boundary: Boundary<'_>, managed: bool) -> (String, String) {
    let mut have = boundary.controllers.join(" ");
    if have.is_empty() {
        have.push_str("none");
    }
    let mut message = format!(
        "nobody can keep this limit: the controller {controller:?} is not delegated to {}, which has: {have}",
        boundary.path
    );
    if !managed {
        return (
            message,
            format!("ask whoever made that cgroup to delegate {controller:?}"),
        );
    }
    let by_systemd = ["cpu", "cpuset", "io", "memory", "pids"].contains(&controller);
    if !by_systemd {
        let _infallible = write!(message, "; systemd delegates no {controller:?}");
        return (
            message,
            "start it in a cgroup that has the controller, with --cgroup-manager cgroupfs"
                .to_owned(),
        );
    }
    (
        message,
        "ask the administrator to install systemd/user@.service.d/lodger-delegate.conf \
         (Delegate=cpu cpuset io memory pids) in /etc/systemd/system, and log in again"
            .to_owned(),
    )
}

/// Whether the container's view of the control groups can be written to.
fn divisible(spec: &Spec) -> bool {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    mounts.iter().any(|mount| {
        let kind = mount.typ().as_deref();
        let readonly = |option: &String| ["ro", "rro"].contains(&option.as_str());
        matches!(kind, Some("cgroup" | "cgroup2"))
            && mount.destination().as_path() == Path::new("/sys/fs/cgroup")
            && !mount.options().iter().flatten().any(readonly)
    })
}

/// Who may divide the cgroup: the container's process, if there is anything to write to (config-linux.md, "Cgroup ownership").
/// Ids of the caller's own user namespace; `None`: the caller, as whom it runs, or nobody.
fn owner(spec: &Spec, ids: Ids<'_>) -> Option<(u32, u32)> {
    let user = spec.process().as_ref()?.user();
    let (uids, gids) = ids.maps?;
    let uid = outside(uids, user.uid())?;
    let gid = outside(gids, user.gid()).unwrap_or(ids.facts.gid);
    (divisible(spec) && uid != ids.facts.uid).then_some((uid, gid))
}

fn outside(map: &[IdMapping], id: u32) -> Option<u32> {
    let line = map.iter().find(|line| {
        id.checked_sub(line.container_id)
            .is_some_and(|n| n < line.size)
    })?;
    Some(line.host_id + (id - line.container_id))
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
