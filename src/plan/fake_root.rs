//! What becomes of calls that only root of the whole machine could make.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::{Note, Plan};

/// What becomes of calls that change owners and ids (`--fake-root`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FakeRoot {
    /// The kernel decides
    #[default]
    None,
    /// They succeed without effect: chown(2), setuid(2), setgroups(2) and their like, and mknod(2) of devices
    Ignore,
}

impl FakeRoot {
    /// Whether the kernel decides.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl Plan {
    /// Has the container's processes treated like this, with a note that says so.
    pub fn set_fake_root(&mut self, how: FakeRoot) {
        self.fake_root = how;
        if how.is_none() {
            return;
        }
        let many = self
            .user_namespace
            .maps()
            .is_none_or(|(uids, _)| uids.iter().map(|line| u64::from(line.size)).sum::<u64>() > 1);
        let remedy = if many {
            "do without --fake-root=ignore, which is not needed: the container has more than one id"
        } else {
            "do without --fake-root=ignore where nothing in the container gives files away or drops privilege, or have subordinate ids"
        };
        self.notes.push(Note::new(
            "/linux/seccomp",
            "chown(2), setuid(2), setgid(2), setgroups(2) and their like, and mknod(2) of devices, succeed without effect: files \
             keep their owner, and a program that drops its privilege has it still (--fake-root=ignore)",
            remedy,
        ));
    }
}
