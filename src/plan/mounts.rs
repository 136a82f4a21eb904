//! Mounts: what is mounted, with which attributes, and what a user namespace allows instead.

use std::path::{Component, Path, PathBuf};

use super::options::{self, Commas, Options};
use super::{
    Ids, JoinedNamespace, Mount, MountIdMap, MountSource, Namespace, Note, ProcMode,
    PropagationKind, mount_ids,
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

/// What the mounts depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    /// The bundle's directory: relative sources start here.
    pub directory: &'a Path,
    /// How it gets its procfs.
    pub proc: ProcMode,
    /// The namespaces that belong to the container's user namespace.
    pub namespaces: &'a [Namespace],
    /// The namespaces that are joined.
    pub joined: &'a [JoinedNamespace],
    /// Whether it has a cgroup and a cgroup namespace of its own, and so is the root of what it sees.
    pub own_cgroup: bool,
    /// The container's ids.
    pub ids: Ids<'a>,
    /// Whether the config asks for a user namespace.
    pub user_namespace: bool,
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
        let commas = match spec.typ().as_deref() {
            Some("overlay") => Commas::Escapable,
            _ => Commas::Separate,
        };
        let mut planner = Planner {
            spec,
            context,
            property: format!("/mounts/{index}"),
            options: options::sort(spec.options().as_deref().unwrap_or_default(), commas),
            notes,
            problems,
        };
        planned.extend(planner.plan());
    }
    planned
}

/// Whether `mounts` put the host's own /dev onto /dev: then it has devices and links already.
pub(super) fn has_host_dev(mounts: &[Mount]) -> bool {
    let present = |m: &Mount| matches!(m.source, MountSource::Present { .. });
    let last = mounts
        .iter()
        .rfind(|m| m.destination == Path::new("/dev") && !present(m));
    last.is_some_and(|m| match &m.source {
        MountSource::Bind { source, .. } => clean(source) == Path::new("/dev"),
        MountSource::Filesystem { .. }
        | MountSource::Overlay { .. }
        | MountSource::Present { .. } => false,
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

pub(super) struct Planner<'a> {
    pub(super) spec: &'a oci_spec::runtime::Mount,
    pub(super) context: Context<'a>,
    pub(super) property: String,
    pub(super) options: Options,
    pub(super) notes: &'a mut Vec<Note>,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Planner<'_> {
    fn plan(&mut self) -> Option<Mount> {
        let destination = self.destination();
        let kind = self.spec.typ().clone().unwrap_or_default();
        let bind = self.options.bind.is_some() || kind == "bind";
        let source = if self.options.remount {
            Some(self.present(bind))
        } else if bind {
            Some(self.bind())
        } else {
            self.filesystem(&kind)
        };
        self.note_lost_options();
        self.note_shared();
        let copy_up = self.copy_up(&kind, source.as_ref());
        let (destination, source) = (destination?, source?);
        let id_map = self.id_map(&source);
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
            id_map,
            copy_up,
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

    fn bind(&mut self) -> MountSource {
        self.refuse_data();
        self.leave_flags_out();
        let source = self.spec.source().clone().unwrap_or_default();
        MountSource::Bind {
            source: self.context.directory.join(source),
            recursive: self.options.bind == Some(true),
        }
    }

    fn leave_flags_out(&mut self) {
        self.options.flags.clear();
        for (index, option) in std::mem::take(&mut self.options.superblock) {
            self.note(
                format!("/options/{index}"),
                format!("{option:?} left out: it belongs to the filesystem, which a bind mount does not change"),
                "take it out",
            );
        }
    }

    fn refuse_data(&mut self) {
        for (index, name, _) in std::mem::take(&mut self.options.data) {
            let message = format!("a bind mount cannot have the option {name:?} of a filesystem");
            self.problem(format!("/options/{index}"), message);
        }
    }

    /// A mount that is there already. With `bind` only the mount changes, and not its filesystem (mount(2)).
    fn present(&mut self, bind: bool) -> MountSource {
        if bind {
            self.refuse_data();
            self.leave_flags_out();
        }
        if let Some((index, _)) = self.options.id_map {
            let message = "the ids of a mount are mapped when it is made, and not by \"remount\"";
            self.problem(format!("/options/{index}"), message);
        }
        MountSource::Present {
            flags: self.flags(),
            options: self.data(),
        }
    }

    pub(super) fn flags(&self) -> Vec<String> {
        self.options.flags.iter().map(|f| (*f).to_owned()).collect()
    }

    pub(super) fn data(&mut self) -> Vec<(String, Option<String>)> {
        let data = std::mem::take(&mut self.options.data);
        let named = data.into_iter().map(|(_, name, value)| (name, value));
        named.collect()
    }

    fn copy_up(&mut self, kind: &str, source: Option<&MountSource>) -> bool {
        let Some(index) = self.options.copy_up else {
            return false;
        };
        let new = matches!(source, Some(MountSource::Filesystem { .. }));
        if kind != "tmpfs" || !new {
            let message = "only a new tmpfs can begin with a copy of what it covers";
            self.problem(format!("/options/{index}"), message);
        }
        true
    }

    fn id_map(&mut self, source: &MountSource) -> Option<MountIdMap> {
        if matches!(source, MountSource::Present { .. }) {
            return None;
        }
        let bind = matches!(source, MountSource::Bind { .. });
        let asked = self.options.id_map;
        match mount_ids::id_map(&self.property, self.spec, asked, bind, self.context) {
            Ok(map) => map,
            Err(problems) => {
                self.problems.extend(problems);
                None
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
                MountSource::Overlay { .. } => false,
                // What is there has been looked at when it was mounted.
                MountSource::Present { .. } => true,
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

    pub(super) fn has_own(&self, namespace: Namespace) -> bool {
        self.context.namespaces.contains(&namespace)
    }

    /// Whether the namespace of this kind is one that is joined.
    pub(super) fn joins(&self, namespace: Namespace) -> bool {
        let mut joined = self.context.joined.iter();
        joined.any(|joined| joined.kind == namespace)
    }

    pub(super) fn note(
        &mut self,
        member: impl AsRef<str>,
        reason: impl AsRef<str>,
        remedy: impl AsRef<str>,
    ) {
        let property = format!("{}{}", self.property, member.as_ref());
        self.notes.push(Note::new(property, reason, remedy));
    }

    pub(super) fn problem(&mut self, member: impl AsRef<str>, message: impl AsRef<str>) {
        let pointer = format!("{}{}", self.property, member.as_ref());
        self.problems.push(Problem::new(pointer, message));
    }
}
