//! Control groups (cgroups(7), version 2 alone): a container's is a scope of the caller's own systemd, or beneath the caller's
//! own cgroup.
//!
//! Plans say what is set (`plan::Cgroup`); here it is done. What is remembered of a container's cgroup is [`CgroupRecord`].
#![forbid(unsafe_code)]

mod bus;
mod bus_error;
mod caller;
mod enter;
mod fs;
mod life;
mod limits;
mod make;
mod owner;
#[cfg(test)]
mod played;
mod record;
mod remove;
mod schema;
pub mod stats;
pub mod sums;
mod systemd;
mod top;
mod tree;
mod update;
mod version;
pub mod watch;
mod wire;

pub use bus::Bus;
pub use bus_error::BusError;
pub use enter::Entrance;
pub use fs::{Dir, Hierarchy, join};
pub use life::Events;
pub use limits::controllers_of;
pub use make::{Made, Maker};
pub use record::{CgroupRecord, Enforced, EnforcedBy};
pub use remove::{remove, remove_abandoned};
pub use systemd::{Scope, Started};
pub use top::{free_name, make as make_top};
pub use tree::Removal;
pub use update::{Changed, change};
pub use version::{IDLE_WEIGHT, parse_version, since};

use std::path::Path;

use crate::host::parse_own_cgroup;
use crate::sys;

/// The cgroup that a file such as /proc/PID/cgroup names, in the hierarchy of version 2.
fn named_by(file: &str) -> Option<String> {
    let text = sys::path::read_regular(Path::new(file), 64 << 10).ok()?;
    parse_own_cgroup(&String::from_utf8_lossy(&text)).map(str::to_owned)
}
