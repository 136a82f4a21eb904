//! Control groups (cgroups(7), version 2 alone): a container's is a scope of the caller's own systemd, or beneath the caller's
//! own cgroup.
//!
//! Plans say what is set (`plan::Cgroup`); here it is done. What is remembered of a container's cgroup is [`CgroupRecord`].
#![forbid(unsafe_code)]

mod bus;
mod bus_error;
mod caller;
mod fs;
mod life;
mod limits;
mod make;
mod owner;
#[cfg(test)]
mod played;
mod record;
mod systemd;
mod tree;
mod version;
mod wire;

pub use bus::Bus;
pub use bus_error::BusError;
pub use fs::{Dir, Hierarchy, join};
pub use life::Events;
pub use limits::controllers_of;
pub use make::make;
pub use record::{CgroupRecord, Enforced, EnforcedBy};
pub use systemd::{Scope, Started};
pub use tree::Removal;
pub use version::parse_version;
