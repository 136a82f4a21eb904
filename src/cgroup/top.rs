//! A container's cgroup without systemd: beneath the caller's own.

use super::fs::Dir;
use super::limits::controllers_of;
use super::record::Enforced;
use super::tree::Removal;
use crate::error::{Error, Result};
use crate::plan::Setting;

/// How often processes may come into the caller's cgroup between its evacuation and its division.
const TRIES: u32 = 8;

/// Makes the cgroup of container `id` beneath `base`, the caller's own ([`crate::host::CgroupReading::base`]), and sets in it what
/// `settings` say. `path`: beneath `base`; `None`: `lodger-ID`. Where controllers are needed, the caller's processes move to a leaf first.
/// Nothing is left of it on failure, but the cgroups between.
pub fn make(
    base: &str,
    path: Option<&str>,
    id: &str,
    settings: &[Setting],
) -> Result<(Dir, Vec<Enforced>)> {
    let top = Dir::open(base)?.ok_or_else(|| {
        Error::new(format!("cannot open the caller's cgroup {base}")).because("it is gone")
    })?;
    let usual = format!("lodger-{id}");
    let controllers = controllers_of(settings);
    let (mut dir, is_new) = divide(&top, path.unwrap_or(&usual), &controllers)?;
    if !is_new {
        check_fitness(&dir)?;
        if path.is_none() {
            // Left by a lodger that was killed, and perhaps with its limits.
            let left = dir.path().to_owned();
            if dir.remove_all()? != Removal::Gone {
                return Err(Error::new(format!(
                    "cannot remove the cgroup {left}, which a killed lodger left"
                ))
                .because("cgroups in it belong to a subordinate id")
                .hint(format!("`lodger delete -f {id}` removes it")));
            }
            dir = divide(&top, &usual, &controllers)?.0;
        }
    }
    match dir.apply(settings) {
        Ok(enforced) => Ok((dir, enforced)),
        Err(error) => {
            if is_new || path.is_none() {
                let _first_error_counts = dir.remove_all();
            }
            Err(error)
        }
    }
}

fn divide(top: &Dir, path: &str, controllers: &[&str]) -> Result<(Dir, bool)> {
    let mut tries = 0;
    loop {
        if !controllers.is_empty() {
            top.evacuate()?;
        }
        let made = top.make_beneath(path, controllers);
        tries += 1;
        // Somebody came into it meanwhile, or that is not it.
        if made.is_ok() || tries == TRIES || top.processes(false)?.is_empty() {
            return made;
        }
    }
}

/// Refuses a cgroup that was there before and is in use (runtime.md, "create": the runtime may check).
fn check_fitness(dir: &Dir) -> Result<()> {
    let events = dir.events()?;
    if events.populated {
        let count = dir.processes(true)?.len();
        return Err(Error::new(format!("container's cgroup is not empty: {count} process(es) found"))
            .because(format!("in {}", dir.path()))
            .hint("another container has this cgroup: give this one another id or another /linux/cgroupsPath"));
    }
    if events.frozen {
        return Err(Error::new("container's cgroup unexpectedly frozen")
            .because(format!("it is {}", dir.path()))
            .hint("write 0 to its cgroup.freeze, and to that of those above it"));
    }
    Ok(())
}
