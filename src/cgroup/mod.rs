//! Control groups (cgroups(7), version 2 alone): a container's is a scope of the caller's own systemd, or beneath the caller's
//! own cgroup.
//!
//! Plans say what is set (`plan::Cgroup`); here it is done. What is remembered of a container's cgroup is [`CgroupRecord`].
#![forbid(unsafe_code)]

mod caller;
mod fs;
mod life;
mod limits;
mod make;
mod owner;
mod record;
mod tree;

pub use fs::{Dir, Hierarchy, join};
pub use life::Events;
pub use limits::controllers_of;
pub use make::make;
pub use record::{CgroupRecord, Enforced, EnforcedBy};
pub use tree::Removal;
