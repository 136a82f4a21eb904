//! Removing a container's cgroup, with all that is in it.

use super::CgroupRecord;
use super::bus::Bus;
use super::fs::Dir;
use super::tree::Removal;
use crate::error::{Error, Result};
use crate::host::{HostFacts, SessionReading};

/// Ends whatever is left in the container's cgroup, and removes it; its scope is no longer loaded then. One that is not there is no
/// failure.
pub fn remove(record: &CgroupRecord) -> Result<()> {
    if let Some(top) = Dir::open(&record.top)? {
        top.kill()?;
        let removal = match record.scope {
            // Without its own cgroup a scope would not end.
            Some(_) => top.clear()?,
            None => top.remove_all()?,
        };
        if let Removal::Denied(cause) = removal {
            return Err(
                Error::new(format!("cannot remove the cgroup {}", record.top)).because(cause),
            );
        }
    }
    match &record.scope {
        Some(scope) => end_scope(scope),
        None => Ok(()),
    }
}

fn end_scope(scope: &str) -> Result<()> {
    let facts = HostFacts::probe();
    let session = SessionReading::find(facts.uid, &facts.uid_map);
    Ok(Bus::begin(&session)?.stop_scope(scope)?)
}
