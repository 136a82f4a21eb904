//! The namespaces of a container, as `run` makes them: the outer user namespace, and in it the container's own.

use std::os::fd::OwnedFd;

use super::{Report, mounts, storage};
use crate::doctor::readings::Trial;
use crate::doctor::step::Step;
use crate::error::{Doing, Result};
use crate::host::{HostFacts, IdRange};
use crate::plan::idmap::usual_maps;
use crate::plan::{IdMapping, Outer};
use crate::sys::ns::flag;
use crate::sys::process::Cloned;
use crate::{sys, userns};

/// What a container has of its own, besides a user namespace.
const OTHERS: u32 = flag::MOUNT | flag::PID | flag::IPC | flag::UTS | flag::NETWORK | flag::CGROUP;

/// Enters `outer` and tries all that can be tried there. `file` is one of the caller's in the store's filesystem.
pub(super) fn try_all(
    outer: &Outer,
    facts: &HostFacts,
    file: Option<&OwnedFd>,
    report: &mut Report,
) {
    let entered = enter(outer);
    if report
        .trial(super::trial_of(outer), Step::UserNamespace, entered)
        .is_none()
    {
        return;
    }
    if let (Some(file), Outer::Helpers { uids, gids, .. }) = (file, outer)
        && let (Some(uid), Some(gid)) = (uids.get(1), gids.get(1))
    {
        storage::try_owner(file, uid.start, gid.start, report);
    }
    let maps = maps(outer, facts);
    let many = maps.0.iter().map(|line| line.size).max() > Some(1) || maps.0.len() > 1;
    let made = in_new(flag::USER | OTHERS, report, |report| {
        mounts::try_all(many, report)
    });
    let what = || "cannot make the namespaces of a container".to_owned();
    match made.doing(what) {
        Ok(waiting) => {
            report.trial(Trial::Inner, Step::UserNamespace, Ok(()));
            let setgroups = match outer {
                Outer::SingleId { .. } => false,
                Outer::Current => facts.setgroups_allowed,
                Outer::Helpers { .. } => true,
                Outer::OneLevel { helpers } => helpers.is_some(),
            };
            let maps = (&maps.0[..], &maps.1[..]);
            let written = userns::map_container(outer, waiting.child.pid, maps, setgroups);
            if report.trial(Trial::Maps, Step::IdMap, written).is_some() {
                waiting.go();
            }
        }
        Err(error) => {
            report.trial::<()>(Trial::Inner, Step::UserNamespace, Err(error));
            let made = in_new(OTHERS, report, |report| mounts::try_all(false, report));
            if let Some(waiting) =
                report.trial(Trial::Namespaces, Step::UserNamespace, made.doing(what))
            {
                waiting.go();
            }
        }
    }
}

fn enter(outer: &Outer) -> Result<()> {
    let entering = userns::begin_new(outer)?;
    let finished = entering.finish().map_err(|error| match outer {
        Outer::Helpers { .. } => error.step(Step::IdHelper),
        _ => error,
    });
    finished?;
    // Whoever gains capabilities loses this.
    sys::cred::die_with_parent(true).doing(|| "cannot be ended with the parent".to_owned())
}

/// The maps of a container in `outer`: its ids from 0 on.
fn maps(outer: &Outer, facts: &HostFacts) -> (Vec<IdMapping>, Vec<IdMapping>) {
    let one = |id| {
        vec![IdRange {
            start: id,
            count: 1,
        }]
    };
    match outer {
        Outer::Current | Outer::OneLevel { .. } => usual_maps(facts),
        Outer::SingleId { uid, gid } => (laid_over(&one(*uid)), laid_over(&one(*gid))),
        Outer::Helpers { uids, gids, .. } => (laid_over(uids), laid_over(gids)),
    }
}

fn laid_over(ids: &[IdRange]) -> Vec<IdMapping> {
    let mut next = 0u32;
    let lines = ids.iter().map(|range| {
        let container_id = next;
        next = next.saturating_add(range.count);
        IdMapping {
            container_id,
            host_id: range.start,
            size: range.count,
        }
    });
    lines.collect()
}

/// A child in new namespaces, who waits to be told that its ids are there.
struct Waiting {
    child: sys::process::Child,
    line: OwnedFd,
}

impl Waiting {
    /// Tells it, and waits for its end.
    fn go(self) {
        let _it_has_ended = rustix::io::write(&self.line, b"!");
        let _it_has_said_all = sys::process::wait(&self.child);
    }
}

/// Makes a child in new namespaces of the kinds in `flags`; it does `work` when it is told to go, and ends where nobody tells it.
fn in_new(flags: u32, report: &mut Report, work: impl FnOnce(&mut Report)) -> sys::Result<Waiting> {
    let (wait, line) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))?;
    match sys::process::clone(flags)? {
        Cloned::Parent(child) => Ok(Waiting { child, line }),
        Cloned::Child => {
            // Our copy would keep us waiting for ever.
            drop(line);
            let mut byte = [0u8; 1];
            let told = rustix::io::read(&wait, &mut byte).is_ok_and(|size| size == 1);
            if told && sys::cred::die_with_parent(true).is_ok() {
                work(report);
            }
            sys::process::exit_now(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_container_begin_with_0() {
        let range = |start, count| IdRange { start, count };
        let line = |container_id, host_id, size| IdMapping {
            container_id,
            host_id,
            size,
        };
        let map = laid_over(&[range(1000, 1), range(100_000, 65_536)]);
        assert_eq!(map, [line(0, 1000, 1), line(1, 100_000, 65_536)]);
    }
}
