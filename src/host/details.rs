//! Readings that only few configs need: made once the config is known, so that the others do not wait for them.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::StatVfsMountFlags;
use serde::{Deserialize, Serialize};

use super::{HostFacts, Revealing, parse_mountinfo, too_revealing};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::path::read_regular;

/// The most that is read of one file, in bytes: one of sysfs says that it has a page.
const MAX_FILE: usize = 16 << 20;

/// SELINUX_MAGIC (statfs(2)).
const SELINUX_MAGIC: rustix::fs::FsWord = 0xf97c_ff8c;

/// What is known only where the config asks for something that depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
    /// Whether SELinux is enabled, and its filesystem there to be used.
    pub selinux: bool,
    /// The kernel's resource control.
    pub resctrl: Resctrl,
    /// The caller's nice value (sched(7)).
    pub own_nice: i32,
    /// The caller's real-time priority; 0 where its policy is no real-time one.
    pub own_priority: u64,
    /// What keeps the kernel from making a new procfs. It is read only where the caller allows another ([`HostFacts::learn_whole`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proc: Option<Revealing>,
    /// Likewise of sysfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys: Option<Revealing>,
}

/// The state of the kernel's resource control (Documentation/filesystems/resctrl.rst).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resctrl {
    /// The kernel has no such filesystem: it is built without, or the CPU has nothing to control.
    #[default]
    Unknown,
    /// It is mounted nowhere.
    NotMounted,
    /// It is mounted there.
    Mounted(PathBuf),
}

impl Details {
    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl HostFacts {
    /// Reads what the decisions about `spec` depend on and [`HostFacts::probe`] did not read.
    pub fn learn(&mut self, spec: &Spec) {
        let process = spec.process().as_ref();
        let linux = spec.linux().as_ref();
        let asked = |text: Option<&String>| text.is_some_and(|text| !text.is_empty());
        if asked(process.and_then(|p| p.apparmor_profile().as_ref())) {
            self.details.apparmor = apparmor();
        }
        if asked(process.and_then(|p| p.selinux_label().as_ref()))
            || asked(linux.and_then(|l| l.mount_label().as_ref()))
        {
            self.details.selinux = selinux();
        }
        if linux.is_some_and(|l| l.intel_rdt().is_some()) {
            self.details.resctrl = resctrl();
        }
        if process.is_some_and(|p| p.scheduler().is_some()) {
            self.learn_scheduling();
        }
    }

    /// Reads whether a new procfs and a new sysfs could be made here, as far as the mounts tell.
    pub fn learn_whole(&mut self) {
        let table = read_regular(Path::new("/proc/self/mountinfo"), MAX_FILE);
        let mounts = parse_mountinfo(&table.unwrap_or_default());
        self.details.proc = Some(too_revealing(&mounts, "proc"));
        self.details.sys = Some(too_revealing(&mounts, "sysfs"));
    }

    /// A child of this process begins with these, but where they are not to be inherited.
    fn learn_scheduling(&mut self) {
        const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
        let Ok(own) = sys::sched::scheduling() else {
            return;
        };
        let reset = own.flags & SCHED_FLAG_RESET_ON_FORK != 0;
        self.details.own_nice = if reset { own.nice.max(0) } else { own.nice };
        self.details.own_priority = if reset { 0 } else { u64::from(own.priority) };
    }
}

fn apparmor() -> bool {
    if !is_on(Defence::KnownModules) {
        return true;
    }
    let enabled = read_regular(
        Path::new("/sys/module/apparmor/parameters/enabled"),
        MAX_FILE,
    );
    enabled.is_ok_and(|text| text.starts_with(b"Y"))
}

/// A selinuxfs that is read-only is what a container is shown to say that SELinux is no business of its.
fn selinux() -> bool {
    if !is_on(Defence::KnownModules) {
        return true;
    }
    let path = "/sys/fs/selinux";
    let there = rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == SELINUX_MAGIC);
    let readonly = |flags: StatVfsMountFlags| flags.contains(StatVfsMountFlags::RDONLY);
    there && rustix::fs::statvfs(path).is_ok_and(|fs| !readonly(fs.f_flag))
}

fn resctrl() -> Resctrl {
    let known = read_regular(Path::new("/proc/filesystems"), MAX_FILE).unwrap_or_default();
    if !knows_resctrl(&String::from_utf8_lossy(&known)) {
        return Resctrl::Unknown;
    }
    let mounts = read_regular(Path::new("/proc/self/mountinfo"), MAX_FILE).unwrap_or_default();
    let mounts = parse_mountinfo(&mounts);
    let found = mounts.into_iter().find(|mount| mount.fstype == "resctrl");
    found.map_or(Resctrl::NotMounted, |mount| {
        Resctrl::Mounted(mount.mount_point)
    })
}

/// Whether /proc/filesystems lists it (proc_filesystems(5)).
fn knows_resctrl(filesystems: &str) -> bool {
    filesystems
        .lines()
        .any(|line| line.split_whitespace().last() == Some("resctrl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems() {
        assert!(knows_resctrl("nodev\tsysfs\nnodev\tresctrl\n\text4\n"));
        assert!(!knows_resctrl("nodev\tsysfs\nnodev\tresctrl2\n"));
    }
}
