//! The root filesystem: opening what is mounted from the host, attaching the root, changing into it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::beneath::{RootDir, is_directory};
use super::{devices, overlay_root};
use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::plan::{Mount, MountSource, Plan, Propagation, PropagationKind};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// Everything of the host that the container gets to see, opened before this process takes the container's ids, so
/// that the caller's own rights decide.
#[derive(Debug)]
pub(super) struct Sources {
    root: OwnedFd,
    /// The directories of a root that is an overlay: the lower ones, then the upper and the work directory if there are any.
    layers: Vec<OwnedFd>,
    /// Those of each of the plan's mounts; none for most new filesystems.
    mounts: Vec<Vec<OwnedFd>>,
    /// One for each of the plan's devices, verified.
    devices: Vec<OwnedFd>,
    /// The host's /dev/null, verified: what files are masked with (CVE-2025-31133).
    null: Option<OwnedFd>,
}

impl Sources {
    pub(super) fn open(plan: &Plan) -> Result<Self> {
        let root = open_root(&plan.root.path)?;
        let layers = plan.root.layers.as_ref();
        let layers = layers.map_or_else(|| Ok(Vec::new()), overlay_root::open)?;
        let mounts = plan
            .mounts
            .iter()
            .map(open_sources)
            .collect::<Result<_>>()?;
        let devices = plan
            .devices
            .iter()
            .map(devices::open)
            .collect::<Result<_>>()?;
        let null = if plan.masked_paths.is_empty() {
            None
        } else {
            let null = devices::open_null();
            // What is not done: without /dev/null, nothing is masked.
            if is_on(Defence::VerifyNodes) {
                Some(null?)
            } else {
                null.ok()
            }
        };
        Ok(Self {
            root,
            layers,
            mounts,
            devices,
            null,
        })
    }

    /// What the mount with this number is made of: the source of a bind mount, the directories of an overlay.
    pub(super) fn of(&self, index: usize) -> &[OwnedFd] {
        self.mounts.get(index).map_or(&[], Vec::as_slice)
    }

    pub(super) fn devices(&self) -> &[OwnedFd] {
        &self.devices
    }

    pub(super) fn null(&self) -> Option<&OwnedFd> {
        self.null.as_ref()
    }
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    let what = || format!("cannot open the root filesystem {path:?}");
    let fd = sys::mount::open_path(path).doing(what).map_err(|e| {
        e.hint("every directory above it must be open (x) to you, and root.path in config.json must name it")
            .step(Step::RootPath)
    })?;
    if is_directory(&fd).doing(what)? {
        return Ok(fd);
    }
    Err(Error::new(what()).because("it is not a directory"))
}

fn open_sources(mount: &Mount) -> Result<Vec<OwnedFd>> {
    let open = |path: &PathBuf| open_source(path, &mount.property);
    match &mount.source {
        MountSource::Bind { source, .. } => Ok(vec![open(source)?]),
        MountSource::Overlay { layers, .. } => {
            let upper = layers.upper.iter().flat_map(|(upper, work)| [upper, work]);
            let all = layers.lower.iter().chain(&layers.data).chain(upper);
            all.map(open).collect()
        }
        MountSource::Filesystem { .. } | MountSource::Present { .. } => Ok(Vec::new()),
    }
}

fn open_source(source: &Path, property: &str) -> Result<OwnedFd> {
    sys::mount::open_path(source)
        .doing(|| format!("cannot open the source of {property}"))
        .map_err(|e| {
            e.hint("the source must exist, and be open to you; nothing is created for it")
                .step(Step::RootPath)
        })
}

/// Mounts the root filesystem over itself, which makes it a mount that can become the root.
pub(super) fn attach(plan: &Plan, sources: &Sources) -> Result<RootDir> {
    let path = &plan.root.path;
    if let Some(layers) = &plan.root.layers {
        return overlay_root::attach(layers, &sources.layers, &sources.root, path);
    }
    let what = || format!("cannot mount the root filesystem {path:?}");
    let tree = sys::mount::clone_tree(&sources.root, true, path);
    let attached = tree.and_then(|tree| {
        sys::mount::attach(&tree, &sources.root, path)?;
        Ok(RootDir::new(tree))
    });
    attached.doing(what).map_err(|e| e.step(Step::Mount))
}

/// Makes `root` the root of the mount namespace; the host's tree is gone from it afterwards, or, without pivot_root(2),
/// covered.
pub(super) fn pivot(plan: &Plan, root: &RootDir, no_pivot: bool) -> Result<()> {
    change_root(plan, root, no_pivot).map_err(|e| e.step(Step::Mount))
}

fn change_root(plan: &Plan, root: &RootDir, no_pivot: bool) -> Result<()> {
    let what = || "cannot change the root".to_owned();
    if no_pivot {
        sys::mount::move_root(root.fd()).doing(what)?;
    } else {
        sys::mount::pivot_root(root.fd()).doing(what).map_err(|e| {
            e.hint(
                "on a host whose root is an initramfs pivot_root(2) does not work: give --no-pivot",
            )
        })?;
    }
    if let Some(propagation) = plan.root.propagation {
        set_propagation(root.fd(), propagation)
            .doing(|| "cannot apply /linux/rootfsPropagation".to_owned())?;
    }
    if plan.root.readonly {
        sys::mount::set_attributes(root.fd(), false, sys::mount::MOUNT_ATTR_RDONLY, 0, 0)
            .doing(|| "cannot apply /root/readonly".to_owned())?;
    }
    Ok(())
}

/// Changes the propagation of the mount `mount` is the root of.
pub(super) fn set_propagation(mount: impl AsFd, propagation: Propagation) -> sys::Result<()> {
    let kind = match propagation.kind {
        PropagationKind::Shared => sys::mount::MS_SHARED,
        PropagationKind::Slave => sys::mount::MS_SLAVE,
        PropagationKind::Private => sys::mount::MS_PRIVATE,
        PropagationKind::Unbindable => sys::mount::MS_UNBINDABLE,
    };
    sys::mount::set_attributes(mount, propagation.recursive, 0, 0, kind)
}
