//! Kernel parameters, written through a procfs that nobody can have covered.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{OFlags, ResolveFlags};

use super::beneath::{Links, RootDir};
use crate::doctor::Step;
use crate::error::{Doing, Result};
use crate::plan::Sysctl;
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// Writes every parameter. What the config mounts over /proc cannot redirect a write (CVE-2025-52881): the procfs is our own,
/// detached instance, or the host's where the pid namespace is. That of `root` is used only where the defence is off.
pub(super) fn write_all<'a>(
    parameters: impl IntoIterator<Item = &'a Sysctl>,
    root: &RootDir,
) -> Result<()> {
    let mut parameters = parameters.into_iter().peekable();
    if parameters.peek().is_none() {
        return Ok(());
    }
    let proc = own_procfs(root)
        .doing(|| "cannot make a procfs to set /linux/sysctl".to_owned())
        .map_err(|e| {
            e.step(Step::Sysctl)
                .hint("this needs a host /proc without mounts over it, or at least over /proc/sys")
        })?;
    for parameter in parameters {
        write(&proc, parameter)
            .doing(|| format!("cannot set /linux/sysctl/{}", parameter.key))
            .map_err(|e| e.step(Step::Sysctl).hint("the value must be valid, and every id in it mapped in the container's user namespace"))?;
    }
    Ok(())
}

fn own_procfs(root: &RootDir) -> sys::Result<OwnedFd> {
    if !is_on(Defence::OwnProcfs) {
        return root.open(Path::new("/proc"), Links::InRoot);
    }
    let own = sys::mount::FsContext::open("proc").and_then(|proc| proc.mount(0));
    match own {
        // The pid namespace is not ours to make one for. Which parameters are behind it is the writer's namespaces' to say.
        Err(refused) if refused.is(nix::libc::EPERM) => {
            sys::path::open_procfs(Path::new("/proc")).map_err(|_| refused)
        }
        own => own,
    }
}

fn write(proc: &OwnedFd, parameter: &Sysctl) -> sys::Result<()> {
    let path = Path::new("sys").join(&parameter.path);
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    if !is_on(Defence::OwnProcfs) {
        resolve = ResolveFlags::empty();
    }
    let fd = sys::path::open_beneath(proc, &path, OFlags::WRONLY, resolve)?;
    sys::path::write_once(fd, parameter.value.as_bytes(), &path)
}
