//! Whether a restored container is as closed as it was: what CRIU has not done is found before its processes go on.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags, ResolveFlags, Stat};

use super::bit;
use crate::checkpoint::image::Manifest;
use crate::checkpoint::outside::{Outside, Source};
use crate::error::{Doing, Error, Result};
use crate::host::Joinable;
use crate::plan::{MountSource, Plan, namespace_pointer};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::ns::flag;

mod attributes;
mod mounts;

/// The most that is read of a mount table, in bytes.
const MOUNT_TABLE_LIMIT: usize = 16 << 20;

/// It names groups, processors and memory nodes.
const STATUS_LIMIT: usize = 1 << 20;

/// Namespaces by their names in /proc/PID/ns.
const KINDS: [(u32, &str); 7] = [
    (flag::USER, "user"),
    (flag::MOUNT, "mnt"),
    (flag::PID, "pid"),
    (flag::IPC, "ipc"),
    (flag::UTS, "uts"),
    (flag::NETWORK, "net"),
    (flag::CGROUP, "cgroup"),
];

/// The first process of the container, by its pid. It does nothing yet.
pub(super) struct Restored(pub(super) i32);

impl Restored {
    /// Whether the namespaces in `own` are its own, its ids are mapped as they were, and each mount of `manifest` is there.
    pub(super) fn check_places(&self, manifest: &Manifest, own: u32) -> Result<()> {
        self.check_namespaces(own)?;
        let what = || "cannot see the mounts of the restored container".to_owned();
        let text = self.read("mountinfo", MOUNT_TABLE_LIMIT).doing(what)?;
        let own = sys::path::read_regular(Path::new("/proc/self/mountinfo"), MOUNT_TABLE_LIMIT);
        let own = String::from_utf8_lossy(&own.doing(what)?).into_owned();
        match mounts::difference(manifest, &text, &own) {
            None => Ok(()),
            Some(lost) => Err(not_as_closed(lost)),
        }
    }

    /// Whether the mounts from outside show what `plan` says, wherever their places lead by now.
    pub(super) fn check_sources(
        &self,
        plan: &Plan,
        outside: &[Outside],
        manifest: &Manifest,
    ) -> Result<()> {
        if !is_on(Defence::MountRoots) {
            return Ok(());
        }
        let what = || "cannot see the root of the restored container".to_owned();
        let root = format!("/proc/{}/root", self.0);
        let root = sys::path::open_magic(Path::new(&root)).doing(what)?;
        for (outside, external) in outside.iter().zip(&manifest.externals) {
            let place = &external.mountpoint;
            let what =
                || format!("cannot see what is mounted at {place:?} in the restored container");
            let resolve =
                ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let there = sys::path::open_beneath(&root, place, OFlags::PATH, resolve);
            let there = there.and_then(|file| stat(&file)).doing(what)?;
            let is_it = match outside.source {
                Source::Device(index) => plan
                    .devices
                    .get(index)
                    .is_some_and(|d| is_node(&there, d.block, (d.major, d.minor))),
                Source::Mask => is_node(&there, false, (1, 3)),
                Source::Bind(index) => {
                    let mount = plan.mounts.get(index);
                    let Some(MountSource::Bind { source, .. }) = mount.map(|m| &m.source) else {
                        return Err(Error::new(what()).because("the plan has none there"));
                    };
                    let beneath = outside.beneath.strip_prefix("/");
                    let path = match beneath.unwrap_or(&outside.beneath) {
                        beneath if beneath.as_os_str().is_empty() => source.clone(),
                        beneath => source.join(beneath),
                    };
                    let wanted = sys::mount::open_path(&path).and_then(|file| stat(&file));
                    let wanted = wanted.doing(what)?;
                    (wanted.st_dev, wanted.st_ino) == (there.st_dev, there.st_ino)
                }
            };
            if !is_it {
                return Err(not_as_closed(format!(
                    "at {place:?} is something else than what the config has there"
                )));
            }
        }
        Ok(())
    }

    fn check_namespaces(&self, own: u32) -> Result<()> {
        for (_, name) in KINDS.iter().filter(|(kind, _)| own & kind != 0) {
            let what = || format!("cannot see the {name} namespace of the restored container");
            let identity = |pid: &str| {
                let path = format!("/proc/{pid}/ns/{name}");
                sys::path::open_magic(Path::new(&path)).and_then(sys::ns::identity)
            };
            let theirs = identity(&self.0.to_string()).doing(what)?;
            if theirs == identity("self").doing(what)? {
                return Err(
                    Error::new("the restored container is not as closed as it was")
                        .because(format!("its {name} namespace is that of this process")),
                );
            }
        }
        Ok(())
    }

    /// Whether it is in the namespaces that `plan` joins, held open in `joinable`.
    pub(super) fn check_joined(&self, plan: &Plan, joinable: &Joinable) -> Result<()> {
        for joined in &plan.joined {
            let pointer = namespace_pointer(joined.index);
            let what = || format!("cannot see whether the restored container has joined {pointer}");
            let Some(name) = KINDS.iter().find(|(kind, _)| *kind == bit(joined.kind)) else {
                return Err(Error::new(what()).because("it is of a kind that is not joined"));
            };
            let path = format!("/proc/{}/ns/{}", self.0, name.1);
            let theirs = sys::path::open_magic(Path::new(&path)).and_then(sys::ns::identity);
            let asked = joinable.file(joined.index);
            let asked = asked.ok_or_else(|| Error::new(what()).because("it was not opened"))?;
            if theirs.doing(what)? != sys::ns::identity(asked).doing(what)? {
                return Err(
                    Error::new("the restored container is not as closed as it was").because(
                        format!("it has not joined the {} namespace of {pointer}", name.1),
                    ),
                );
            }
        }
        Ok(())
    }

    /// Whether it is under as many system call filters as it was, and can gain no privileges where it could not.
    pub(super) fn check_restrictions(&self, filters: u32, no_new_privileges: bool) -> Result<()> {
        let what = || "cannot see what the restored container is restricted to".to_owned();
        let text = self.read("status", STATUS_LIMIT).doing(what)?;
        let number = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse::<u32>().ok())
        };
        let error = |lost: String| {
            Err(Error::new("the restored container is not as closed as it was").because(lost))
        };
        // Kernels before Linux 5.9 do not tell.
        if let Some(count) = number("Seccomp_filters:").filter(|count| *count < filters) {
            return error(format!(
                "it is under {count} system call filters, and was under {filters}"
            ));
        }
        if number("Seccomp:") == Some(0) && filters > 0 {
            return error("it is under no system call filter".to_owned());
        }
        if no_new_privileges && number("NoNewPrivs:") == Some(0) {
            return error("it can gain privileges (no_new_privs)".to_owned());
        }
        Ok(())
    }

    fn read(&self, name: &str, limit: usize) -> sys::Result<String> {
        let path = format!("/proc/{}/{name}", self.0);
        let text = sys::path::read_regular(Path::new(&path), limit)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn not_as_closed(why: String) -> Error {
    Error::new("the restored container is not as closed as it was")
        .because(why)
        .hint("restore with the bundle as it was at the checkpoint")
}

fn stat(file: &OwnedFd) -> sys::Result<Stat> {
    rustix::fs::fstat(file).map_err(|e| sys::Error::new("fstat", "mount", e))
}

fn is_node(stat: &Stat, block: bool, (major, minor): (u32, u32)) -> bool {
    let kind = match block {
        true => FileType::BlockDevice,
        false => FileType::CharacterDevice,
    };
    FileType::from_raw_mode(stat.st_mode) == kind
        && stat.st_rdev == rustix::fs::makedev(major, minor)
}
