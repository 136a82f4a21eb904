//! What CRIU has not saved of the threads is given back to them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::attributes::{Attributes, TaskAttributes};
use crate::checkpoint::inspect::processes;
use crate::error::Result;
use crate::plan::{Note, NumberSet};
use crate::sys;

/// What did not work, by what it is about: where first and why, and how many more.
#[derive(Default)]
struct Lost(BTreeMap<&'static str, (String, usize)>);

impl Lost {
    fn add(&mut self, what: &'static str, thread: &str, why: impl std::fmt::Display) {
        let (_, more) = self
            .0
            .entry(what)
            .and_modify(|(_, more)| *more += 1)
            .or_insert_with(|| (format!("of {thread}: {why}"), 0));
        tracing::debug!(what, thread, more, "not given back");
    }

    fn notes(self) -> Vec<Note> {
        let note = |(what, (first, more)): (&str, (String, usize))| {
            let more = match more {
                0 => String::new(),
                more => format!(" (and of {more} more)"),
            };
            let remedy = match what {
                CPUS => {
                    "restore it where its CPUs are there and allowed (/sys/devices/system/cpu/online, cpuset(7)), or have its programs choose others"
                }
                _ => "have its programs set it again",
            };
            Note::new(
                "/process",
                format!("{what} cannot be given back as it was {first}{more}"),
                remedy,
            )
        };
        self.0.into_iter().map(note).collect()
    }
}

const CPUS: &str = "the CPU affinity";

impl super::Restored {
    /// Gives its threads back what they had of `saved`; what does not work is told. They must not have changed their ids yet: the
    /// I/O priority of another user's cannot be set.
    ///
    /// # Errors
    /// Its processes cannot be looked at.
    pub(in super::super) fn give_back(&self, saved: &Attributes) -> Result<Vec<Note>> {
        if saved.tasks.is_empty() {
            return Ok(Vec::new());
        }
        let saved: BTreeMap<i32, &TaskAttributes> =
            saved.tasks.iter().map(|task| (task.tid, task)).collect();
        let mut lost = Lost::default();
        for process in processes::tree(self.0)? {
            for task in &process.tasks {
                let Some(saved) = saved.get(&task.inside) else {
                    continue;
                };
                let thread = format!("thread {} ({:?})", task.inside, process.name);
                give_back(task.tid, saved, &mut |what, why| {
                    lost.add(what, &thread, why);
                });
            }
        }
        Ok(lost.notes())
    }
}

fn give_back(tid: i32, saved: &TaskAttributes, lost: &mut dyn FnMut(&'static str, String)) {
    let mut tell = |what, done: sys::Result<()>| {
        if let Err(error) = done {
            lost(what, error.to_string());
        }
    };
    if let Some(value) = saved.io_priority {
        let done = sys::sched::set_io_priority_of(tid, value);
        tell("the I/O priority", done);
    }
    if let Some(slack) = saved.timer_slack {
        let path = format!("/proc/{tid}/timerslack_ns");
        let done = sys::path::write_existing(Path::new(&path), slack.to_string().as_bytes());
        tell("the timer slack", done);
    }
    if saved.slice.is_some() || saved.clamp.is_some() {
        let done = sys::sched::set_share_of(tid, saved.slice, saved.clamp);
        tell("the slice or the utilisation clamp", done);
    }
    if let Some(filter) = saved.core_filter {
        let path = format!("/proc/{tid}/coredump_filter");
        let done = sys::path::write_existing(Path::new(&path), format!("{filter:#x}").as_bytes());
        tell("the filter of core dumps", done);
    }
    if let Some(cpus) = &saved.cpus {
        match restrict(tid, cpus) {
            Err(error) => lost(CPUS, error.to_string()),
            Ok(Some(lacking)) => lost(
                CPUS,
                format!("CPUs {lacking} are not there, or not allowed"),
            ),
            Ok(None) => {}
        }
    }
}

/// The CPUs that it cannot have, which the kernel passes over without a word.
fn restrict(tid: i32, cpus: &NumberSet) -> sys::Result<Option<NumberSet>> {
    match sys::sched::set_cpus_of(tid, cpus.numbers()) {
        // None of them.
        Err(error) if error.is(libc::EINVAL) => return Ok(Some(cpus.clone())),
        set => set?,
    }
    Ok(cpus.without(sys::sched::cpus_of(tid)?))
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "what is set is a thread's, which ends"
)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_told_once() {
        let mut lost = Lost::default();
        lost.add(CPUS, "thread 1 (\"a\")", "no CPU");
        lost.add(CPUS, "thread 2 (\"a\")", "none");
        lost.add("the timer slack", "thread 2 (\"a\")", "EPERM");
        let notes = lost.notes();
        assert_eq!(notes.len(), 2);
        assert_eq!(
            notes[0].reason,
            "the CPU affinity cannot be given back as it was of thread 1 (\"a\"): no CPU (and of 1 more)"
        );
        assert!(notes[1].reason.ends_with("(\"a\"): EPERM"), "{notes:?}");
    }

    #[test]
    fn cpus_that_are_not_there() {
        let none = NumberSet::parse("8000-8001").unwrap();
        std::thread::spawn(move || {
            assert_eq!(restrict(0, &none).unwrap(), Some(none.clone()));
            let may = sys::sched::cpus_of(0).unwrap();
            let one = (0..NumberSet::LIMIT).find(|cpu| may(*cpu)).unwrap();
            let some = NumberSet::parse(&format!("{one},8000-8001")).unwrap();
            assert_eq!(restrict(0, &some).unwrap(), Some(none));
            let one = NumberSet::of(std::iter::once(one)).unwrap();
            assert_eq!(restrict(0, &one).unwrap(), None);
        })
        .join()
        .unwrap();
    }
}
