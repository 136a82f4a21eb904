//! What the caller asks of every container, besides its config.
#![forbid(unsafe_code)]

use super::CgroupOptions;

/// The options that have a say in the plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choices {
    /// Of its cgroup.
    pub cgroups: CgroupOptions,
    /// Of its /proc.
    pub proc: ProcMode,
}

/// How a container gets its procfs, where a config has one in a pid namespace of the container's own. The kernel makes a
/// new one only where a whole one can be seen, and in another container, most often, none can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProcMode {
    /// A new one, or an error
    #[default]
    New,
    /// A new one; where the host's is covered or read-only as bind, and so with /sys
    Auto,
    /// The host's, recursively bound: what runs around the container is seen in it
    Bind,
    /// None: the mount is left out
    None,
}
