//! Kernel parameters, written through a procfs that nobody can have covered.

use std::path::Path;

use rustix::fs::{OFlags, ResolveFlags};

use crate::error::{Doing, Result};
use crate::plan::Sysctl;
use crate::sys;

/// Writes every parameter. The procfs is our own, detached instance: what the config mounts over /proc cannot
/// redirect a write (CVE-2025-52881).
pub(super) fn write_all(parameters: &[Sysctl]) -> Result<()> {
    if parameters.is_empty() {
        return Ok(());
    }
    let proc = sys::mount::FsContext::open("proc")
        .and_then(|context| context.mount(0))
        .doing(|| "cannot make a procfs to set /linux/sysctl".to_owned())
        .map_err(|e| {
            e.hint("this needs an own pid namespace, and a host /proc without mounts over it")
        })?;
    for parameter in parameters {
        write(&proc, parameter)
            .doing(|| format!("cannot set /linux/sysctl/{}", parameter.key))
            .map_err(|e| e.hint("the value must be valid, and every id in it mapped in the container's user namespace"))?;
    }
    Ok(())
}

fn write(proc: &std::os::fd::OwnedFd, parameter: &Sysctl) -> sys::Result<()> {
    let path = Path::new("sys").join(&parameter.path);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let fd = sys::path::open_beneath(proc, &path, OFlags::WRONLY, resolve)?;
    sys::path::write_once(fd, parameter.value.as_bytes(), &path)
}
