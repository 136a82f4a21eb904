//! Limits, scheduling, ids, groups and capabilities of the program, in the one order that works.

use super::scheduling;
use crate::doctor::Step;
use crate::error::{Doing, Result};
use crate::plan::{CapabilitySet, Process};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// Takes everything from this process that the program is not to have.
///
/// Order: limits, by which the kernel grants scheduling, and that next; the bounding set while CAP_SETPCAP is there; ids
/// next, keeping the permitted set across the change of uid; then the sets themselves; no_new_privs last, as it forbids
/// nothing of the above but must not be undone by it (it cannot be).
///
/// `kept`: capabilities that stay permitted all the same, until execve(2) (`super::seccomp`).
pub(super) fn apply(process: &Process, kept: u64) -> Result<()> {
    for limit in &process.rlimits {
        sys::cred::set_limit(limit.resource, limit.soft, limit.hard)
            .doing(|| {
                format!(
                    "cannot set {} to {}:{} (/process/rlimits)",
                    limit.name, limit.soft, limit.hard
                )
            })
            .map_err(|e| e.step(Step::Limit))?;
    }
    scheduling::apply(&process.attributes)?;
    if is_on(Defence::Capabilities) {
        drop_bounding(process.capabilities.bounding)?;
    }
    let what = || "cannot keep capabilities across the change of ids".to_owned();
    sys::cred::keep_capabilities(true).doing(what)?;
    set_ids(process)?;
    sys::cred::keep_capabilities(false).doing(what)?;
    set_capabilities(process, kept)?;
    if process.no_new_privileges && is_on(Defence::NoNewPrivs) {
        sys::cred::set_no_new_privs().doing(|| "cannot set no_new_privs".to_owned())?;
    }
    Ok(())
}

fn drop_bounding(keep: CapabilitySet) -> Result<()> {
    for number in 0..64 {
        if keep.has(number) {
            continue;
        }
        match sys::cred::drop_bounding(number) {
            // The first number the kernel does not know ends the list.
            Err(error) if error.is(nix::libc::EINVAL) => break,
            dropped => dropped.doing(|| "cannot drop the bounding set".to_owned())?,
        }
    }
    Ok(())
}

fn set_ids(process: &Process) -> Result<()> {
    if let Some(groups) = process
        .additional_gids
        .as_ref()
        .filter(|_| is_on(Defence::Groups))
    {
        sys::cred::set_groups(groups)
            .doing(|| format!("cannot set the groups {groups:?} (/process/user/additionalGids)"))?;
    }
    sys::cred::set_gid(process.gid)
        .doing(|| format!("cannot become gid {} (/process/user/gid)", process.gid))?;
    sys::cred::set_uid(process.uid)
        .doing(|| format!("cannot become uid {} (/process/user/uid)", process.uid))
}

fn set_capabilities(process: &Process, kept: u64) -> Result<()> {
    let sets = &process.capabilities;
    let what = || "cannot set the capabilities (/process/capabilities)".to_owned();
    if !is_on(Defence::Capabilities) {
        // What is not done: what may be had is inherited (CVE-2022-29162).
        let permitted = sets.permitted.0;
        return sys::cred::set_capabilities(sets.effective.0, permitted | kept, permitted)
            .doing(what);
    }
    sys::cred::clear_ambient().doing(what)?;
    let permitted = sets.permitted.0 | kept;
    sys::cred::set_capabilities(sets.effective.0, permitted, sets.inheritable.0).doing(what)?;
    for number in (0..64).filter(|number| sets.ambient.has(*number)) {
        sys::cred::raise_ambient(number).doing(what)?;
    }
    Ok(())
}
