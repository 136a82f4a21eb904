//! Putting another process into the cgroup of a running container.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Access, OFlags};

use super::bus::Bus;
use super::fs::{Dir, join};
use super::{CgroupRecord, named_by};
use crate::doctor::Step;
use crate::error::{Error, Result};
use crate::host::{HostFacts, SessionReading};
use crate::sys;

const PROCS: &str = "cgroup.procs";

/// Where processes wait that systemd has brought.
const JOINING: &str = "lodger.joining";

/// The way into a container's cgroup, opened while the host's files are in view and this process is outside of the container:
/// the kernel asks whether the opener may move processes there (cgroups(7), "Delegation containment").
#[derive(Debug)]
pub struct Entrance {
    path: String,
    /// For a process from a cgroup that is not the caller's: into the scope first.
    systemd: Option<Attaching>,
    /// The cgroup's own file.
    procs: Option<OwnedFd>,
}

/// What the caller's systemd is asked for.
#[derive(Debug)]
struct Attaching {
    bus: Box<RefCell<Bus>>,
    unit: String,
    beneath: String,
}

impl Entrance {
    /// Opens the cgroup `beneath` that of the container (`exec --cgroup`); without it the container's own, or that which its
    /// first process `init` is in now, should there be cgroups beneath that have taken its place.
    ///
    /// `inside` opens the file of this name of a cgroup that was given to the container.
    ///
    /// # Errors
    /// There is no such cgroup, or nobody may put a process of the caller's into it.
    pub fn open(
        record: &CgroupRecord,
        init: i32,
        beneath: Option<&str>,
        facts: &HostFacts,
        inside: impl FnOnce(&Dir, &str) -> Result<OwnedFd>,
    ) -> Result<Self> {
        let path = match beneath {
            Some(beneath) => beneath_own(record, beneath)?,
            None => usual(record, init)?,
        };
        let cgroup = Dir::open(&path)?.ok_or_else(|| missing(&path))?;
        let (file, is_given) = match cgroup.open_file(PROCS, OFlags::WRONLY) {
            Ok(file) => (file, false),
            Err(cause) if cause.is(libc::EACCES) => (inside(&cgroup, PROCS)?, true),
            Err(cause) => {
                let what = format!("cannot put a process into the cgroup {path}");
                return Err(Error::new(what).because_of(&cause).step(Step::Cgroup));
            }
        };
        let unit = match may_move(&path, facts)? {
            true => None,
            false => unit_of(&path, record, facts),
        };
        let Some((unit, beneath)) = unit else {
            return Ok(Self {
                path,
                systemd: None,
                procs: Some(file),
            });
        };
        // Where systemd has as little to say as the caller, it brings the process half of the way.
        let beneath = match is_given {
            true => waiting_room(record, facts)?,
            false => beneath,
        };
        let session = SessionReading::find(facts.uid, &facts.uid_map);
        let bus = Box::new(RefCell::new(Bus::begin(&session)?));
        Ok(Self {
            path,
            systemd: Some(Attaching { bus, unit, beneath }),
            procs: is_given.then_some(file),
        })
    }

    /// Puts process `pid` into it.
    pub fn admit(&self, pid: i32) -> Result<()> {
        if let Some(asked) = &self.systemd {
            let mut bus = asked.bus.borrow_mut();
            bus.attach(&asked.unit, &asked.beneath, pid.unsigned_abs())?;
        }
        let Some(file) = &self.procs else {
            return Ok(());
        };
        sys::path::write_once(file, pid.to_string().as_bytes(), Path::new(PROCS)).map_err(|cause| {
            Error::new(format!("cannot put process {pid} into the cgroup {}", self.path))
                .because_of(&cause).step(Step::Cgroup)
                .hint("a process of a login session is not yours to move: run lodger in a cgroup of yours, as `systemd-run --user --scope lodger …` does")
        })
    }
}

/// A cgroup beside the container's that is the caller's own, for processes on their way there: its path beneath the unit.
fn waiting_room(record: &CgroupRecord, facts: &HostFacts) -> Result<String> {
    let top = record.open()?.ok_or_else(|| missing(&record.top))?;
    let (room, _) = top.make_beneath(JOINING, &[])?;
    let found = unit_of(room.path(), record, facts);
    found
        .map(|(_, beneath)| beneath)
        .ok_or_else(|| missing(room.path()))
}

/// Where there are cgroups beneath the container's that have controllers, it can have no processes itself.
fn usual(record: &CgroupRecord, init: i32) -> Result<String> {
    let own = Dir::open(&record.path)?.ok_or_else(|| missing(&record.path))?;
    if own.words("cgroup.subtree_control")?.is_empty() {
        return Ok(record.path.clone());
    }
    let now = named_by(&format!("/proc/{init}/cgroup"));
    Ok(now
        .filter(|now| now.starts_with(&format!("{}/", record.path)))
        .unwrap_or_else(|| record.path.clone()))
}

fn beneath_own(record: &CgroupRecord, beneath: &str) -> Result<String> {
    let names = beneath.trim_matches('/');
    let is_path = |name: &str| !["", ".", ".."].contains(&name);
    if !names.is_empty() && !names.split('/').all(is_path) {
        return Err(
            Error::new(format!("--cgroup {beneath:?} is no path of a cgroup"))
                .hint("give one beneath the container's own, such as `init` or `/init/web`"),
        );
    }
    Ok(join(&record.path, names))
}

/// Whether the caller may move a process from her own cgroup to `path`: she must be able to write to cgroup.procs of the lowest
/// that both are in (cgroups(7), "Delegation containment").
fn may_move(path: &str, facts: &HostFacts) -> Result<bool> {
    let own = facts
        .cgroup
        .as_ref()
        .and_then(|reading| reading.own.as_deref());
    let Some(own) = own else { return Ok(true) };
    let mut common = String::from("/");
    for (ours, theirs) in own.split('/').zip(path.split('/')).skip(1) {
        if ours != theirs {
            break;
        }
        common = join(&common, ours);
    }
    let Some(dir) = Dir::open(&common)? else {
        return Ok(false);
    };
    Ok(sys::path::may_use(&dir, PROCS, Access::WRITE_OK))
}

/// The unit of the caller's systemd that the cgroup `path` is in, and the path beneath it: the container's scope, or the service
/// that has started it.
fn unit_of(path: &str, record: &CgroupRecord, facts: &HostFacts) -> Option<(String, String)> {
    if let Some(scope) = &record.scope {
        let sub = path.strip_prefix(&record.top).unwrap_or_default();
        return Some((scope.clone(), sub.to_owned()));
    }
    let manager = facts.cgroup.as_ref()?.manager.as_ref()?;
    beneath_unit(path.strip_prefix(&manager.path)?)
}

/// Splits a path beneath the manager's cgroup behind the first name of a service or scope: before it come slices, and after it
/// the names are the unit's own.
fn beneath_unit(path: &str) -> Option<(String, String)> {
    let mut rest = path.strip_prefix('/')?;
    loop {
        let (name, more) = rest.split_once('/').unwrap_or((rest, ""));
        if name.ends_with(".service") || name.ends_with(".scope") {
            // What could be taken for a file of the kernel's has an underscore in front.
            let unit = name.strip_prefix('_').unwrap_or(name);
            return Some((unit.to_owned(), format!("/{more}")));
        }
        if more.is_empty() || !name.ends_with(".slice") {
            return None;
        }
        rest = more;
    }
}

fn missing(path: &str) -> Error {
    Error::new(format!("the container has no cgroup {path}"))
        .hint("--cgroup names one beneath the container's own, which has to be there already")
}

#[cfg(test)]
mod tests {
    use super::beneath_unit;

    #[test]
    fn the_unit_of_a_cgroup() {
        let cases = [
            (
                "/lodger.slice/lodger@web.service/lodger-web/container",
                Some(("lodger@web.service", "/lodger-web/container")),
            ),
            ("/a.slice/a-b.slice/x.scope", Some(("x.scope", "/"))),
            (
                "/app.slice/_cgroup.service/in/x.service",
                Some(("cgroup.service", "/in/x.service")),
            ),
            ("/app.slice/lodger-web/x.service", None),
            ("/app.slice", None),
            ("", None),
        ];
        for (path, expected) in cases {
            let found = beneath_unit(path);
            let found = found.as_ref().map(|(u, s)| (u.as_str(), s.as_str()));
            assert_eq!(found, expected, "{path}");
        }
    }
}
