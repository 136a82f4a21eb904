//! Defences that a test build can switch off one by one, so that the test of each is seen failing without it.
//!
//! Only the feature `switchable-defences` makes them switches, and a build without debug assertions refuses it. In every
//! other build [`is_on`] is the constant `true`: the code behind a switch, and the variable's name, are not in it.

#[cfg(all(feature = "switchable-defences", not(debug_assertions)))]
compile_error!("the feature `switchable-defences` is for tests: no release build has it");

/// One defence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "switchable-defences"), allow(dead_code))]
pub enum Defence {
    /// Inherited files are closed, not only marked (CVE-2024-21626).
    CloseFiles,
    /// The working directory must have a path in the container (CVE-2024-21626).
    VerifyCwd,
    /// Every path is resolved with the container's root as `/` (CVE-2015-3627).
    ResolveInRoot,
    /// What was resolved to an fd is used by that fd, not by its path again (CVE-2021-30465).
    ResolveOnce,
    /// No symbolic link on the way to /proc, /sys, /dev and the devices (CVE-2025-54867, CVE-2026-41579).
    RefuseLinks,
    /// Masks and devices are made of the host's nodes, whatever the image has (CVE-2025-31133).
    HostNodes,
    /// The host's nodes are verified by type and number (CVE-2025-62161).
    VerifyNodes,
    /// Nothing is mounted into procfs (CVE-2019-16884).
    RefuseProcfs,
    /// Kernel parameters are written through an own procfs, labels through the host's (CVE-2025-52881, CVE-2019-16884).
    OwnProcfs,
    /// A label is refused where the security module that it belongs to is not there.
    KnownModules,
    /// Masked and read-only paths are covered (CVE-2015-3630).
    CoverPaths,
    /// A program that the container could write is run from a sealed copy (CVE-2019-5736).
    SealedCopy,
    /// Processes of ours cannot be looked into from the container (CVE-2016-9962).
    NotDumpable,
    /// The capability sets are exactly those of the config (CVE-2022-29162).
    Capabilities,
    /// no_new_privs, where the config asks for it.
    NoNewPrivs,
    /// The program runs under the config's system call filter.
    Seccomp,
    /// The supplementary groups are exactly those of the config (CVE-2022-2990).
    Groups,
    /// A hook has the environment that its config says, and nothing of the caller's.
    HookEnvironment,
    /// Helpers are run from fixed directories, never from PATH.
    HelperPaths,
    /// Only a bus that the caller owns and serves is spoken to (systemd's, for scopes).
    OwnBus,
    /// The state directory must be the caller's alone.
    StateDirectory,
    /// A process is known by pid, start time and boot.
    ProcessIdentity,
    /// An outer user namespace is known by device, inode, owner and maps.
    OuterIdentity,
    /// Files are read without blocking, if regular, up to a limit (CVE-2026-47262).
    BoundedReads,
    /// The program leads a session of its own (CVE-2017-5226).
    OwnSession,
    /// No control character of a foreign string is printed.
    Printable,
    /// Ids are digits only (CVE-2026-30892).
    DigitsOnly,
    /// The control groups are read-only (CVE-2023-25809).
    ReadonlyCgroup,
    /// Only parameters of the container's own namespaces are set (CVE-2022-0811).
    SysctlNames,
    /// Names in a layer lead nowhere but into its directory (CVE-2014-9357).
    LayerNames,
    /// What a layer brings anew is made anew: nothing is written, or changed, through a link (CVE-2018-20990, CVE-2026-33056).
    LayerLinks,
    /// Malformed whiteouts are refused.
    Whiteouts,
    /// Only extended attributes that cannot steer the kernel or another program are taken from a layer.
    LayerXattrs,
    /// A layer's sizes and counts have limits.
    LayerLimits,
    /// Digests and sizes of blobs and layers are what their descriptors say.
    BlobDigests,
    /// The unpacker reaches nothing but its source and its store (Landlock).
    Confined,
    /// CRIU is given the file that is mapped, and none that has taken its place.
    MappedInode,
    /// CRIU can write to nothing of the host but what it is given.
    HostReadonly,
    /// What a restored container sees at a mount's place is what it saw there.
    MountRoots,
    /// No label of an image becomes an annotation that steers a runtime (CVE-2026-53488).
    Labels,
    /// A checkpoint is restored only if its images are those that were written, and the caller's alone.
    Checkpoint,
}

/// Whether the defence is on.
#[cfg(not(feature = "switchable-defences"))]
pub const fn is_on(_: Defence) -> bool {
    true
}

/// Whether the defence is on: `LODGER_DEFENCES_OFF` names those that are not, separated by commas.
#[cfg(feature = "switchable-defences")]
pub fn is_on(defence: Defence) -> bool {
    let off = std::env::var("LODGER_DEFENCES_OFF").unwrap_or_default();
    let name = format!("{defence:?}");
    off.split(',').all(|word| word != name)
}

/// Makes the moment between a check and its use long enough to be hit, where a switched-off defence has one.
#[cfg(feature = "switchable-defences")]
pub fn linger() {
    std::thread::sleep(std::time::Duration::from_millis(1));
}

/// Nothing: with all defences on there is no such moment.
#[cfg(not(feature = "switchable-defences"))]
pub const fn linger() {}
