//! New filesystems: which of them a user namespace may mount, and what stands in for those it may not.

use std::path::PathBuf;

use super::mounts::Planner;
use super::{Attribute, MountSource, Namespace, ProcMode, overlay};
use crate::sys::defence::{Defence, is_on};

/// Filesystem types that only the host's root can mount, or not by a config, and what to do instead.
const UNREACHABLE: [(&str, &str); 3] = [
    (
        "bpf",
        "the kernel lets only the host's root make one: have it mounted on the host, and bind it",
    ),
    (
        "fuse",
        "it needs a server that holds its connection (fd=), and no config can hand that over: start the server on the \
         host and bind its mount, or give the container /dev/fuse in /linux/devices and mount there",
    ),
    (
        "fuseblk",
        "it needs a block device, which only the host's root may mount: mount it on the host and bind it",
    ),
];

impl Planner<'_> {
    pub(super) fn filesystem(&mut self, kind: &str) -> Option<MountSource> {
        match kind {
            "proc" if self.context.proc == ProcMode::None => {
                self.leave_proc_out();
                None
            }
            "proc" if !self.has_own(Namespace::Pid) => Some(self.stand_in("/proc", Namespace::Pid)),
            "proc" => self.own_proc(),
            "sysfs" if !self.has_own(Namespace::Network) => {
                self.options.recursive.set(Attribute::Ro);
                Some(self.stand_in("/sys", Namespace::Network))
            }
            "sysfs" => Some(self.own_sys()),
            "mqueue" if !self.has_own(Namespace::Ipc) => {
                let message = if self.joins(Namespace::Ipc) {
                    "message queues belong to the IPC namespace, and the one that is joined to another user namespace than \
                     the container's: join that one too, or bind /dev/mqueue"
                } else {
                    "message queues belong to the IPC namespace: this needs a namespace of type \"ipc\" in \
                     /linux/namespaces, or a bind mount of /dev/mqueue"
                };
                self.problem("/type", message);
                None
            }
            "cgroup" | "cgroup2" => Some(self.cgroup(kind)),
            "mqueue" => Some(self.new_filesystem(kind)),
            "tmpfs" | "devpts" => {
                self.drop_unmapped_ids();
                Some(self.new_filesystem(kind))
            }
            "ramfs" | "binfmt_misc" => Some(self.new_filesystem(kind)),
            "overlay" => self.overlay(),
            _ => {
                let family = kind.split_once('.').map_or(kind, |(family, _)| family);
                let known = UNREACHABLE.iter().find(|(name, _)| *name == family);
                let why = known.map_or("mount it on the host and bind it", |(_, why)| why);
                let message =
                    format!("a user namespace cannot mount the filesystem type {kind:?}: {why}");
                self.problem("/type", message);
                None
            }
        }
    }

    pub(super) fn new_filesystem(&mut self, fstype: &str) -> MountSource {
        let source = self.spec.source().as_ref();
        let source = source.map_or(fstype.into(), |s| s.to_string_lossy());
        MountSource::Filesystem {
            fstype: fstype.to_owned(),
            source: source.into_owned(),
            flags: self.flags(),
            options: self.data(),
        }
    }

    fn overlay(&mut self) -> Option<MountSource> {
        let data = std::mem::take(&mut self.options.data);
        let overlay = match overlay::sort(data, self.context.directory) {
            Ok(overlay) => overlay,
            Err(problems) => {
                for (member, message) in problems {
                    self.problem(member, message);
                }
                return None;
            }
        };
        if overlay.user_xattr_added {
            self.note(
                "/options",
                "\"userxattr\" added: in a user namespace an overlay keeps its marks in user.overlay.*, and passes over \
                 those that root has left in trusted.overlay.*",
                "add \"userxattr\"",
            );
        }
        let source = self.spec.source().as_ref();
        let source = source.map_or("overlay".into(), |s| s.to_string_lossy());
        Some(MountSource::Overlay {
            layers: overlay.layers,
            source: source.into_owned(),
            flags: self.flags(),
            options: overlay.options,
        })
    }

    /// The host's own tree in place of a filesystem that only the owner of the `namespace` may mount.
    fn stand_in(&mut self, source: &str, kind: Namespace) -> MountSource {
        let namespace = match kind {
            Namespace::Pid => "pid",
            _ => "network",
        };
        let fstype = self.spec.typ().clone().unwrap_or_default();
        let readonly = self.options.recursive.set.contains(&Attribute::Ro);
        let manner = if readonly { ", read-only" } else { "" };
        self.note(
            "/type",
            format!(
                "the host's {source} is bound{manner}: a new {fstype} needs a {namespace} namespace of the container's own"
            ),
            match self.joins(kind) {
                true => format!("join the user namespace that the {namespace} namespace belongs to as well"),
                false => format!("add {{\"type\": {namespace:?}}} to /linux/namespaces"),
            },
        );
        if kind == Namespace::Network
            && let Some(note) = self.notes.last_mut()
        {
            note.code = Some("LDG-SYS-NETNS".to_owned());
        }
        self.drop_filesystem_options(source);
        MountSource::Bind {
            source: PathBuf::from(source),
            recursive: true,
        }
    }

    pub(super) fn drop_filesystem_options(&mut self, source: &str) {
        let mut dropped: Vec<(usize, String)> = std::mem::take(&mut self.options.superblock);
        let data = std::mem::take(&mut self.options.data);
        dropped.extend(data.into_iter().map(|(index, name, _)| (index, name)));
        for (index, option) in dropped {
            self.note(
                format!("/options/{index}"),
                format!("{option:?} left out: the host's {source} is bound instead"),
                "take it out",
            );
        }
    }

    /// A view of the control groups, read-only where they are not the container's alone (CVE-2023-25809).
    fn cgroup(&mut self, kind: &str) -> MountSource {
        let own = self.context.own_cgroup;
        if !own {
            if !self.options.attributes.set.contains(&Attribute::Ro) {
                self.note(
                    "/options",
                    "the control groups are mounted read-only: the container has none of its own",
                    "add \"ro\"",
                );
            }
            if is_on(Defence::ReadonlyCgroup) {
                self.options.attributes.set(Attribute::Ro);
            }
        }
        if self.has_own(Namespace::Cgroup) {
            if kind == "cgroup" {
                self.drop_filesystem_options("cgroup2 tree");
            }
            return self.new_filesystem("cgroup2");
        }
        if is_on(Defence::ReadonlyCgroup) {
            self.options.recursive.set(Attribute::Ro);
        }
        self.note(
            "/type",
            "the host's /sys/fs/cgroup is bound, read-only: a new mount needs a cgroup namespace of the container's own",
            "add {\"type\": \"cgroup\"} to /linux/namespaces",
        );
        self.drop_filesystem_options("/sys/fs/cgroup");
        MountSource::Bind {
            source: PathBuf::from("/sys/fs/cgroup"),
            recursive: true,
        }
    }

    /// The kernel refuses `uid=` and `gid=` with an id the user namespace does not have (EINVAL).
    fn drop_unmapped_ids(&mut self) {
        let ids = self.context.ids;
        let data = std::mem::take(&mut self.options.data);
        let unmapped = |name: &str, value: &Option<String>| {
            let id = value.as_ref().and_then(|v| v.parse().ok());
            match name {
                "uid" => id.filter(|id| !ids.has_uid(*id)),
                "gid" => id.filter(|id| !ids.has_gid(*id)),
                _ => None,
            }
        };
        for (index, name, value) in data {
            match unmapped(&name, &value) {
                None => self.options.data.push((index, name, value)),
                Some(id) => self.note(
                    format!("/options/{index}"),
                    format!("\"{name}={id}\" left out: {name} {id} is not mapped in the container's user namespace"),
                    format!("take it out, or give the account subordinate ids that reach {id}"),
                ),
            }
        }
    }
}
