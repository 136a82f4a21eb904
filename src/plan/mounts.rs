//! Mounts: what is mounted, with which attributes, and what a user namespace allows instead.

use std::path::{Component, Path, PathBuf};

use super::options::{self, Options};
use super::{
    Attribute, Ids, JoinedNamespace, Mount, MountSource, Namespace, Note, PropagationKind,
};
use crate::bundle::Problem;
use crate::sys::defence::{Defence, is_on};

/// Files of procfs that may be covered, as a cgroup-aware lxcfs(1) does; all else there is refused (CVE-2019-16884).
const COVERABLE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Filesystems a user namespace may mount, given a kernel that is new enough, and this program does not yet.
const LATER: [&str; 5] = ["overlay", "fuse", "ramfs", "binfmt_misc", "bpf"];

/// What the mounts depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    /// The bundle's directory: relative sources start here.
    pub directory: &'a Path,
    /// The namespaces that belong to the container's user namespace.
    pub namespaces: &'a [Namespace],
    /// The namespaces that are joined.
    pub joined: &'a [JoinedNamespace],
    /// The container's ids.
    pub ids: Ids<'a>,
}

/// Plans all mounts, in their order.
pub(super) fn mounts(
    asked: &[oci_spec::runtime::Mount],
    context: Context<'_>,
    notes: &mut Vec<Note>,
    problems: &mut Vec<Problem>,
) -> Vec<Mount> {
    let mut planned = Vec::new();
    for (index, spec) in asked.iter().enumerate() {
        let mut planner = Planner {
            spec,
            context,
            property: format!("/mounts/{index}"),
            options: options::sort(spec.options().as_deref().unwrap_or_default()),
            notes,
            problems,
        };
        planned.extend(planner.plan());
    }
    planned
}

/// Whether `mounts` put the host's own /dev onto /dev: then it has devices and links already.
pub(super) fn has_host_dev(mounts: &[Mount]) -> bool {
    let last = mounts.iter().rfind(|m| m.destination == Path::new("/dev"));
    last.is_some_and(|m| match &m.source {
        MountSource::Bind { source, .. } => clean(source) == Path::new("/dev"),
        MountSource::Filesystem { .. } => false,
    })
}

/// `path` as an absolute path without `.` and `..`; `..` does not climb above `/`.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

struct Planner<'a> {
    spec: &'a oci_spec::runtime::Mount,
    context: Context<'a>,
    property: String,
    options: Options,
    notes: &'a mut Vec<Note>,
    problems: &'a mut Vec<Problem>,
}

impl Planner<'_> {
    fn plan(&mut self) -> Option<Mount> {
        let destination = self.destination();
        if let Some(index) = self.options.remount {
            self.problem(
                format!("/options/{index}"),
                "there is nothing to remount: give the mount its options when it is made",
            );
        }
        let kind = self.spec.typ().clone().unwrap_or_default();
        let source = if self.options.bind.is_some() || kind == "bind" {
            self.bind()
        } else {
            self.filesystem(&kind)
        };
        self.note_lost_options();
        self.note_shared();
        let (destination, source) = (destination?, source?);
        let inside_proc = self.check_proc(&destination, &source)?;
        let special = ["/proc", "/sys", "/dev"].map(Path::new);
        Some(Mount {
            property: self.property.clone(),
            no_symlinks: matches!(kind.as_str(), "proc" | "sysfs")
                || special.contains(&destination.as_path()),
            destination,
            source,
            attributes: std::mem::take(&mut self.options.attributes),
            recursive_attributes: std::mem::take(&mut self.options.recursive),
            propagation: std::mem::take(&mut self.options.propagation),
            inside_proc,
        })
    }

    fn destination(&mut self) -> Option<PathBuf> {
        let asked = self.spec.destination();
        let destination = clean(asked);
        if asked.is_relative() {
            self.note(
                "/destination",
                format!(
                    "{asked:?} is taken as {destination:?}: a relative destination is deprecated"
                ),
                "write an absolute path",
            );
        }
        if destination == Path::new("/") {
            self.problem(
                "/destination",
                "is the root of the container, which /root describes",
            );
            return None;
        }
        Some(destination)
    }

    fn bind(&mut self) -> Option<MountSource> {
        let data = std::mem::take(&mut self.options.data);
        for (index, name, _) in &data {
            let message = format!("a bind mount cannot have the option {name:?} of a filesystem");
            self.problem(format!("/options/{index}"), message);
        }
        for (index, option) in std::mem::take(&mut self.options.superblock) {
            self.note(
                format!("/options/{index}"),
                format!("{option:?} left out: it belongs to the filesystem, which a bind mount does not change"),
                "take it out",
            );
        }
        let source = self.spec.source().clone().unwrap_or_default();
        Some(MountSource::Bind {
            source: self.context.directory.join(source),
            recursive: self.options.bind == Some(true),
        })
    }

    fn filesystem(&mut self, kind: &str) -> Option<MountSource> {
        match kind {
            "proc" if !self.has_own(Namespace::Pid) => Some(self.stand_in("/proc", Namespace::Pid)),
            "sysfs" if !self.has_own(Namespace::Network) => {
                self.options.recursive.set(Attribute::Ro);
                Some(self.stand_in("/sys", Namespace::Network))
            }
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
            "proc" | "sysfs" | "mqueue" => Some(self.new_filesystem(kind)),
            "tmpfs" | "devpts" => {
                self.drop_unmapped_ids();
                Some(self.new_filesystem(kind))
            }
            _ => {
                let message = if LATER.contains(&kind) {
                    format!("filesystem type {kind:?} is not supported yet")
                } else {
                    format!(
                        "a user namespace cannot mount the filesystem type {kind:?}; mount it on the host and bind it"
                    )
                };
                self.problem("/type", message);
                None
            }
        }
    }

    fn new_filesystem(&mut self, fstype: &str) -> MountSource {
        let source = self.spec.source().as_ref();
        let source = source.map_or(fstype.into(), |s| s.to_string_lossy());
        let data = std::mem::take(&mut self.options.data);
        MountSource::Filesystem {
            fstype: fstype.to_owned(),
            source: source.into_owned(),
            flags: self.options.flags.iter().map(|f| (*f).to_owned()).collect(),
            options: data
                .into_iter()
                .map(|(_, name, value)| (name, value))
                .collect(),
        }
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
        self.drop_filesystem_options(source);
        MountSource::Bind {
            source: PathBuf::from(source),
            recursive: true,
        }
    }

    fn drop_filesystem_options(&mut self, source: &str) {
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

    /// A view of the control groups; there is no right to change them yet, so that it is always read-only.
    fn cgroup(&mut self, kind: &str) -> MountSource {
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

    fn note_lost_options(&mut self) {
        for (index, option) in std::mem::take(&mut self.options.lost) {
            self.note(
                format!("/options/{index}"),
                format!(
                    "{option:?} left out: the kernel's mount API (fsconfig(2)) has no such flag"
                ),
                "take it out",
            );
        }
    }

    /// What a less privileged mount namespace receives from the host is a slave of it (mount_namespaces(7)).
    fn note_shared(&mut self) {
        let shared = |p: &super::Propagation| p.kind == PropagationKind::Shared;
        if self.options.propagation.iter().any(shared) {
            self.note(
                "/options",
                "mounts made in the container do not appear on the host: a user namespace cannot propagate them there",
                "use \"rslave\" to receive the host's mounts",
            );
        }
    }

    /// Only procfs may be at /proc, and only files that mean no harm beneath it. Returns `Mount::inside_proc`.
    fn check_proc(&mut self, destination: &Path, source: &MountSource) -> Option<bool> {
        if destination == Path::new("/proc") {
            let procfs = match source {
                MountSource::Bind { source, .. } => clean(source) == Path::new("/proc"),
                MountSource::Filesystem { fstype, .. } => fstype == "proc",
            };
            if !procfs && is_on(Defence::RefuseProcfs) {
                self.problem("/destination", "only procfs may be mounted on /proc");
                return None;
            }
            return Some(false);
        }
        if !destination.starts_with("/proc") {
            return Some(false);
        }
        if COVERABLE.iter().any(|c| destination == Path::new(c)) || !is_on(Defence::RefuseProcfs) {
            return Some(true);
        }
        self.problem(
            "/destination",
            "nothing may be mounted inside /proc, but for a few files that lxcfs(1) provides",
        );
        None
    }

    fn has_own(&self, namespace: Namespace) -> bool {
        self.context.namespaces.contains(&namespace)
    }

    /// Whether the namespace of this kind is one that is joined.
    fn joins(&self, namespace: Namespace) -> bool {
        let mut joined = self.context.joined.iter();
        joined.any(|joined| joined.kind == namespace)
    }

    fn note(&mut self, member: impl AsRef<str>, reason: impl AsRef<str>, remedy: impl AsRef<str>) {
        let property = format!("{}{}", self.property, member.as_ref());
        self.notes.push(Note::new(property, reason, remedy));
    }

    fn problem(&mut self, member: impl AsRef<str>, message: impl AsRef<str>) {
        let pointer = format!("{}{}", self.property, member.as_ref());
        self.problems.push(Problem::new(pointer, message));
    }
}
