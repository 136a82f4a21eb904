//! Files that have no name any more, or never had one (memfd_create(2)), found where somebody in the container has them open.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use super::files::{identity, reopen};
use super::maps::Identity;
use super::task::{Container, Task, as_path};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// The most open files that are looked at, and the most processes: containers that have more are none that anybody dumps.
const MOST: usize = 1 << 20;

/// What /proc/PID/task/TID/children has at most.
const CHILDREN_LIMIT: u64 = 1 << 22;

/// What the kernel puts after the name of a file that is in no directory.
const DELETED: &[u8] = b" (deleted)";

/// Whether this is how the kernel calls a file that is in no directory.
pub(super) fn is_gone(path: &[u8]) -> bool {
    path.ends_with(DELETED)
}

/// Whether this is how the kernel calls a file in memory of memfd_create(2).
pub(super) fn is_memfd(path: &[u8]) -> bool {
    is_gone(path) && path.starts_with(b"/memfd:")
}

/// Where a file is open.
#[derive(Debug)]
struct Place {
    /// The process.
    process: i32,
    /// Beneath its directory in /proc.
    link: String,
    /// Which file it is, once that was looked at; zeros: none that can be given.
    file: Option<Identity>,
}

/// The open files of the container that are in no directory, by what the kernel calls them.
#[derive(Debug)]
pub(super) struct OpenFiles(HashMap<Vec<u8>, Vec<Place>>);

impl OpenFiles {
    /// Those of all processes of `container`, which `tracer` traces.
    pub(super) fn of(container: &Container, tracer: i32) -> Self {
        let mut found = Self(HashMap::new());
        let mut known = BTreeSet::from([container.number()]);
        let mut next = vec![container.number()];
        let mut left = MOST;
        while let Some(process) = next.pop() {
            let Some(task) = container.task(process, tracer) else {
                continue;
            };
            found.add(process, &task, &mut left);
            for child in children(&task) {
                if known.len() < MOST && known.insert(child) {
                    next.push(child);
                }
            }
        }
        found
    }

    fn add(&mut self, process: i32, task: &Task, left: &mut usize) {
        let numbers = task.names("fd").into_iter();
        let links = numbers.map(|number| format!("fd/{number}"));
        for link in links.chain(["exe".to_owned()]) {
            if *left == 0 {
                return;
            }
            *left -= 1;
            if let Some(name) = task.link(&link).filter(|name| is_gone(name)) {
                self.0.entry(name).or_default().push(Place {
                    process,
                    link,
                    file: None,
                });
            }
        }
    }

    /// Opens the file that the kernel calls `name`, and which is `wanted`, to be read. Its names say little: any number of files in
    /// memory can have the same.
    pub(super) fn open(
        &mut self,
        (container, tracer): (&Container, i32),
        name: &[u8],
        wanted: Identity,
    ) -> Option<OwnedFd> {
        for place in self.0.get_mut(name)? {
            if place.file.is_some_and(|file| file != wanted) {
                continue;
            }
            // Each is looked at once.
            let opened = container
                .task(place.process, tracer)
                .and_then(|task| reopen(&task.find(&place.link).ok()?, as_path(name)).ok());
            let file = opened.as_ref().and_then(identity).unwrap_or_default();
            place.file = Some(file);
            if file == wanted || !is_on(Defence::MappedInode) {
                return opened;
            }
        }
        None
    }
}

/// The children of all threads of a process (proc_pid_tid_children(5)).
fn children(task: &Task) -> Vec<i32> {
    let mut found = Vec::new();
    for thread in task.names("task") {
        let Ok(file) = task.read(&format!("task/{thread}/children")) else {
            continue;
        };
        let mut text = String::new();
        if File::from(file)
            .take(CHILDREN_LIMIT)
            .read_to_string(&mut text)
            .is_ok()
        {
            found.extend(
                text.split_ascii_whitespace()
                    .filter_map(|id| id.parse::<i32>().ok()),
            );
        }
    }
    found
}

impl Task {
    /// The names in a directory of its directory.
    fn names(&self, directory: &str) -> Vec<String> {
        let names = self.read(directory).and_then(sys::path::names);
        names.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_traced_is_not_looked_at() {
        let own = sys::process::own_pid();
        let container = Container::of(own).unwrap();
        let memory = sys::memfd::sealed("open", b"x").unwrap();
        let wanted = identity(&memory).unwrap();
        let mut files = OpenFiles::of(&container, own);
        assert!(files.0.is_empty());
        let name = b"/memfd:open (deleted)";
        assert!(files.open((&container, own), name, wanted).is_none());
        // Not even where it is known to be.
        files.0.insert(
            name.to_vec(),
            vec![Place {
                process: own,
                link: "exe".to_owned(),
                file: None,
            }],
        );
        assert!(files.open((&container, own), name, wanted).is_none());
    }

    #[test]
    fn gone_is_what_the_kernel_calls_so() {
        assert!(is_gone(b"/memfd:x (deleted)") && is_gone(b"/tmp/x (deleted)"));
        assert!(!is_gone(b"/tmp/x") && !is_gone(b"/tmp/ (deleted)/x"));
    }
}
