//! Control groups (cgroups(7), version 2 alone): a container's is a scope of the caller's own systemd, or beneath the caller's
//! own cgroup.
//!
//! Plans say what is set (`plan::Cgroup`); here it is done. What is remembered of a container's cgroup is [`CgroupRecord`].
#![forbid(unsafe_code)]

mod bus;
mod caller;
mod fs;
mod life;
mod limits;
mod make;
mod owner;
mod record;
mod schema;
pub mod stats;
pub mod sums;
mod systemd;
mod tree;
mod version;
pub mod watch;
mod wire;

pub use bus::{Bus, BusError};
pub use fs::{Dir, Hierarchy, join};
pub use life::Events;
pub use limits::controllers_of;
pub use make::make;
pub use record::{CgroupRecord, Enforced, EnforcedBy};
pub use systemd::{Scope, Started};
pub use tree::Removal;
pub use version::{IDLE_WEIGHT, parse_version, since};
