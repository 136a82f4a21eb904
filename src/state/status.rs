//! A container's status, as a pure function of what is there (runtime.md, "State").
#![forbid(unsafe_code)]

use std::fmt;

/// The statuses of runtime.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// Everything is set up; the program has not been run.
    Created,
    /// The program runs.
    Running,
    /// All of its processes are frozen (an extension that every runtime has).
    Paused,
    /// The process has ended, or `create` was killed before it was complete.
    Stopped,
}

impl Status {
    /// The word of runtime.md.
    pub fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Of a container with a record. `alive`: its process is the same and no zombie; `gate`: `start` has not been there; `frozen`: its
/// cgroup is, asked only of one whose process lives.
pub(crate) fn status(alive: bool, gate: bool, frozen: impl FnOnce() -> bool) -> Status {
    match (alive, gate) {
        (false, _) => Status::Stopped,
        (true, _) if frozen() => Status::Paused,
        (true, true) => Status::Created,
        (true, false) => Status::Running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_directory_has_its_status() {
        let table = [
            ((true, true, false), Status::Created),
            ((true, false, false), Status::Running),
            ((true, true, true), Status::Paused),
            ((true, false, true), Status::Paused),
            ((false, true, false), Status::Stopped),
            ((false, false, true), Status::Stopped),
        ];
        for ((alive, gate, frozen), expected) in table {
            assert_eq!(status(alive, gate, || frozen), expected);
        }
    }
}
