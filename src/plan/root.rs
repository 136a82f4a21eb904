//! The root filesystem.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Absolute path on the host.
    pub path: PathBuf,
    /// Whether the root mount becomes read-only.
    pub readonly: bool,
    /// Propagation of the root mount once it is the root (`linux.rootfsPropagation`).
    pub propagation: Option<Propagation>,
    /// What it is made of, where it is an overlay that is mounted at `path` in the container's mount namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<RootLayers>,
}

/// The layers of a root filesystem that is an overlay (kernel, filesystems/overlayfs.rst).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootLayers {
    /// The lower directories, absolute, the topmost first.
    pub lower: Vec<PathBuf>,
    /// What gets the container's changes.
    pub upper: RootUpper,
}

/// Where what a container changes in its root filesystem goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RootUpper {
    /// Nowhere: nothing can be changed.
    None,
    /// To a directory.
    Directory {
        /// The upper directory, absolute.
        upper: PathBuf,
        /// The work directory, absolute, on the same filesystem.
        work: PathBuf,
        /// Whether the changes are lost with the container, so that nothing needs to be brought to the disk (`volatile`).
        passing: bool,
    },
    /// To a tmpfs that is the container's, and ends with it.
    Tmpfs {
        /// Its size, as mount(8) takes it (tmpfs(5)); none: half of the memory.
        size: Option<String>,
        /// The mode of the root directory.
        mode: u32,
    },
}

/// Mount propagation (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// The type.
    pub kind: PropagationKind,
    /// Whether it applies to the mounts beneath too.
    pub recursive: bool,
}

/// The four propagation types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PropagationKind {
    /// MS_SHARED.
    Shared,
    /// MS_SLAVE.
    Slave,
    /// MS_PRIVATE.
    Private,
    /// MS_UNBINDABLE.
    Unbindable,
}
