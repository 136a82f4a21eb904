//! Removing a container's cgroup, with all that is in it.

use std::time::Duration;

use super::bus::Bus;
use super::bus_error::BusError;
use super::fs::Dir;
use super::make::description;
use super::record::CgroupRecord;
use super::top::lock;
use super::tree::Removal;
use crate::doctor::Step;
use crate::error::{Error, Result};
use crate::host::SessionReading;
use crate::sys;

/// How long the processes of a runtime that was killed may take to be gone.
const DYING: Duration = Duration::from_secs(2);

/// Ends whatever is left in the container's cgroup and removes it; its scope is no longer loaded then. One that is not there is no
/// failure. `with_power` clears the cgroup for one who may not do so herself: what the container made belongs to its ids.
pub fn remove(
    record: &CgroupRecord,
    with_power: impl FnOnce(&Dir) -> Result<Removal>,
) -> Result<()> {
    // A scope whose cgroup is gone has ended, and its name may be another's by now.
    let Some(top) = record.open()? else {
        return Ok(());
    };
    end(record, &top)?;
    let removal = match top.clear()? {
        Removal::Denied(_) => with_power(&top)?,
        gone @ Removal::Gone => gone,
    };
    if let Removal::Denied(cause) = removal {
        return Err(denied(record, cause));
    }
    let ended = record
        .scope
        .as_deref()
        .map_or(Ok(()), |scope| end_scope(scope, record));
    // systemd removes the cgroup of a scope that has ended, and the next one of the name may be there already.
    let Some(top) = record.open()? else {
        return Ok(());
    };
    // Without its cgroup a scope ends also when systemd cannot be asked, as soon as it looks.
    match top.remove_all() {
        Ok(Removal::Gone) => Ok(()),
        Ok(Removal::Denied(cause)) => ended.and(Err(denied(record, cause))),
        Err(error) => ended.and(Err(error)),
    }
}

/// Stops the scope that a killed runtime was about to start for container `id`, if it is that, and nobody is in it: systemd may have
/// missed that its process ended (`CgroupRecord::of_scope`).
pub fn remove_abandoned(scope: &str, id: &str) -> Result<()> {
    let mut bus = match Bus::begin(&SessionReading::of_caller()) {
        // Its scopes went with it.
        Err(BusError::NoSession { .. }) => return Ok(()),
        begun => begun?,
    };
    let Some((said, cgroup)) = bus.look_at_scope(scope)? else {
        return Ok(());
    };
    if said != description(id) {
        return Ok(());
    }
    // Another container's by now, if somebody stays in it.
    if let Some(top) = Dir::open(&cgroup)?
        && !top.wait_empty(DYING)?
    {
        return Ok(());
    }
    Ok(bus.stop_scope(scope)?)
}

/// Ends the processes that are left.
fn end(record: &CgroupRecord, top: &Dir) -> Result<()> {
    if record.id.is_some() {
        return top.kill();
    }
    // Known by its path alone, it may be another container's by now, or one that is about to have somebody in there.
    let error = || Error::new(format!("cannot remove the cgroup {}", record.top));
    if !lock(top)? {
        return Err(error()
            .because("another container is being made in it")
            .hint("try again later"));
    }
    if top.wait_empty(DYING)? {
        return Ok(());
    }
    Err(error()
        .because(format!(
            "processes {:?} are in it, and may be another container's",
            top.processes(true)?
        ))
        .hint("look at them, and end them with kill(1) if they are this container's"))
}

/// Stops the scope of the container, unless systemd has done so: it does when nobody is left in it, and the name may be another
/// container's a moment later, which would be killed.
fn end_scope(scope: &str, record: &CgroupRecord) -> Result<()> {
    let mut bus = Bus::begin(&SessionReading::of_caller())?;
    // Whatever takes its time comes before the look.
    bus.version()?;
    if record.open()?.is_some() {
        bus.stop_scope(scope)?;
    }
    Ok(())
}

fn denied(record: &CgroupRecord, cause: sys::Error) -> Error {
    Error::new(format!("cannot remove the cgroup {}", record.top))
        .because_of(&cause).step(Step::Cgroup)
        .hint("cgroups in it belong to ids that are not yours any more: have them back in /etc/subuid and /etc/subgid, or ask root to remove it")
}
