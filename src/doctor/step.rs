//! What was being done when something failed: it says which causes are worth looking for.

use serde::{Deserialize, Serialize};

/// A step that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A new user namespace was asked of the kernel (clone(2), unshare(2)).
    UserNamespace,
    /// newuidmap(1) or newgidmap(1) was at work.
    IdHelper,
    /// uid_map, gid_map or setgroups was written (user_namespaces(7)).
    IdMap,
    /// Propagation was changed, or something mounted that is none of the following.
    Mount,
    /// A new procfs was mounted.
    MountProc,
    /// A new sysfs was mounted.
    MountSys,
    /// An overlay was mounted.
    MountOverlay,
    /// The root filesystem, or the source of a mount, was opened.
    RootPath,
    /// The state directory was looked for, made or written.
    State,
    /// The store of images was looked for, made or written.
    Store,
    /// A control group was made, entered or written.
    Cgroup,
    /// The caller's systemd was spoken to.
    Session,
    /// A device was looked for or bound.
    Device,
    /// A resource limit, the OOM score or a scheduling attribute was set.
    Limit,
    /// A session keyring was joined.
    Keyring,
    /// A kernel parameter was written.
    Sysctl,
    /// A file of another kind was opened, made or written.
    File,
    /// A process was made.
    Process,
    /// The program was run.
    Program,
}
