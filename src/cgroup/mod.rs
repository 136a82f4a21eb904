//! Control groups (cgroups(7), version 2 alone): a container's is a scope of the caller's own systemd, or beneath the caller's
//! own cgroup.
//!
//! Plans say what is set (`plan::Cgroup`); here it is done. What is remembered of a container's cgroup is [`CgroupRecord`].
#![forbid(unsafe_code)]

mod record;
mod schema;
pub mod stats;
pub mod sums;
pub mod watch;

pub use record::{CgroupRecord, Enforced, EnforcedBy};
