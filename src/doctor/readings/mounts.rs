//! /proc and /sys as this process sees them: the kernel makes new ones only for who sees as much already.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::{MountLine, Revealing, too_revealing};

/// Both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounts {
    /// /proc.
    pub proc: Seen,
    /// /sys.
    pub sys: Seen,
}

/// How much of a filesystem is to be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// All of it.
    Whole,
    /// What is not beneath these mounts.
    Covered(Vec<PathBuf>),
    /// All of it, to be read alone.
    ReadOnly,
    /// It is mounted nowhere, or a part of it.
    Nowhere,
}

impl Mounts {
    /// Looks at the mount table; where there is none, /proc is not there.
    pub(super) fn read() -> Self {
        let mounts = super::kernel::mounts();
        Self {
            proc: seen(&mounts, "proc", "/proc"),
            sys: seen(&mounts, "sysfs", "/sys"),
        }
    }
}

fn seen(mounts: &[MountLine], fstype: &str, place: &str) -> Seen {
    let whole = |m: &&MountLine| m.mount_point == Path::new(place) && m.fstype == fstype;
    match too_revealing(mounts, fstype) {
        Revealing::Nothing => Seen::Whole,
        Revealing::Covered(places) => Seen::Covered(places),
        Revealing::Readonly => Seen::ReadOnly,
        Revealing::NoneVisible if mounts.iter().rev().find(whole).is_some_and(|m| m.readonly) => {
            Seen::ReadOnly
        }
        Revealing::NoneVisible => Seen::Nowhere,
    }
}
