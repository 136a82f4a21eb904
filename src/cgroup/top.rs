//! A container's cgroup without systemd: beneath the caller's own.

use rustix::fs::FlockOperation;

use super::fs::Dir;
use super::limits::controllers_of;
use super::make::names;
use super::record::Enforced;
use super::tree::Removal;
use crate::doctor::Step;
use crate::error::{Error, Result};
use crate::plan::Setting;
use crate::sys;

/// How often processes may come into the caller's cgroup between its evacuation and its division.
const TRIES: u32 = 8;

/// What helps where a cgroup is somebody else's.
const ANOTHER: &str =
    "another container has this cgroup: give this one another id or another /linux/cgroupsPath";

/// Makes a container's cgroup `path` beneath `base`, the caller's own ([`crate::host::CgroupReading::base`]), and sets in it what
/// `settings` say. Where controllers are needed, the caller's processes move to a leaf first. It is locked (flock(2)) for as long as what is returned is kept. Nothing is left of it on failure, but the cgroups between.
///
/// `required`: a limit that cannot be set is an error, and not left out. The inner error is that somebody else has the cgroup.
pub fn make(
    base: &str,
    path: &str,
    settings: &[Setting],
    required: bool,
) -> Result<Result<(Dir, Vec<Enforced>)>> {
    let top = open(base)?;
    let controllers = controllers_of(settings);
    let (dir, is_new) = divide(&top, path, &controllers)?;
    // First, as whoever has it may have nobody in there yet, or have taken it for what a killed lodger left.
    let is_ours = lock(&dir)? && is_there(&top, path, &dir)?;
    if !is_ours {
        let what = "container's cgroup is in use: another container is being made in it";
        let because = format!("it is {}", dir.path());
        return Ok(Err(Error::new(what).because(because).hint(ANOTHER)));
    }
    if !is_new && let Err(taken) = check_fitness(&dir) {
        return Ok(Err(taken));
    }
    // The container's own cgroup, which gets the same, tells of it.
    let mut left_out = Vec::new();
    match dir.apply(settings, required, &mut left_out) {
        Ok(enforced) => Ok(Ok((dir, enforced))),
        Err(error) => {
            if is_new {
                let _first_error_counts = dir.remove_all();
            }
            Err(error)
        }
    }
}

/// The first of lodger-ID, lodger-ID.2, … beneath `base` that no other container has; one that a killed lodger has left there
/// is removed.
pub fn free_name(base: &str, id: &str) -> Result<String> {
    let top = open(base)?;
    for name in names(id) {
        let Some(found) = top.child(&name)? else {
            return Ok(name);
        };
        let is_left = lock(&found)? && !found.is_populated()?;
        if is_left && found.remove_all()? == Removal::Gone {
            return Ok(name);
        }
    }
    Err(
        Error::new(format!("cannot name the cgroup of container {id:?}"))
            .because(format!("{base} has too many of that id"))
            .hint("remove those that nobody is in with rmdir(1)"),
    )
}

/// Whether `dir` still is what `path` beneath `top` names.
fn is_there(top: &Dir, path: &str, dir: &Dir) -> Result<bool> {
    let found = top.child(path.trim_matches('/'))?;
    let found = found.map(|found| found.id()).transpose()?;
    Ok(found == Some(dir.id()?))
}

fn open(base: &str) -> Result<Dir> {
    Dir::open(base)?.ok_or_else(|| {
        Error::new(format!("cannot open the caller's cgroup {base}")).because("it is gone")
    })
}

/// Locks a cgroup against removal by other lodgers while nobody is in it yet; whether nobody else has.
pub(super) fn lock(dir: &Dir) -> Result<bool> {
    match rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(e) => {
            let cause = sys::Error::new("flock", format!("{:?}, LOCK_EX|LOCK_NB", dir.path()), e);
            Err(Error::new(format!("cannot lock the cgroup {}", dir.path()))
                .because_of(&cause)
                .step(Step::Cgroup))
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
        return Err(Error::new(format!(
            "container's cgroup is not empty: {count} process(es) found"
        ))
        .because(format!("in {}", dir.path()))
        .hint(ANOTHER));
    }
    if events.frozen {
        return Err(Error::new("container's cgroup unexpectedly frozen")
            .because(format!("it is {}", dir.path()))
            .hint("write 0 to its cgroup.freeze, and to that of those above it"));
    }
    Ok(())
}
