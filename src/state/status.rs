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
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// `recorded`: state.json is there; `alive`: its process is the same and no zombie; `gate`: `start` has not been
/// there; `locked`: somebody works on the container.
pub(crate) fn status(recorded: bool, alive: bool, gate: bool, locked: bool) -> Status {
    match (recorded, alive, gate, locked) {
        (false, _, _, true) => Status::Creating,
        (true, true, true, _) => Status::Created,
        (true, true, false, _) => Status::Running,
        (false, _, _, false) | (true, false, _, _) => Status::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_directory_has_its_status() {
        let table = [
            ((false, false, false, true), Status::Creating),
            ((false, false, true, true), Status::Creating),
            ((false, false, false, false), Status::Stopped),
            ((false, false, true, false), Status::Stopped),
            ((true, true, true, false), Status::Created),
            ((true, true, true, true), Status::Created),
            ((true, true, false, false), Status::Running),
            ((true, true, false, true), Status::Running),
            ((true, false, true, false), Status::Stopped),
            ((true, false, false, false), Status::Stopped),
        ];
        for ((recorded, alive, gate, locked), expected) in table {
            assert_eq!(status(recorded, alive, gate, locked), expected);
        }
    }
}
