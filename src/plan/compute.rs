//! `Plan::compute`: all decisions about one container, made in one place and from plain values.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxIdMapping, Spec};

use super::idmap::{self, ConfigMaps};
use super::mounts::{self, Context, clean};
use super::namespaces::{self, Namespaces};
use super::net_devices::net_devices;
use super::time_offsets::time_offsets;
use super::{
    Choices, FakeRoot, Hooks, IdMapping, Ids, Namespace, Note, Plan, Propagation, PropagationKind,
    Role, Root, UserNamespace, annotations, attributes, cgroup, devices, labels, process, resctrl,
    sysctl,
};
use crate::bundle::{Bundle, Problem};
use crate::host::HostFacts;

impl Plan {
    /// Decides what will be done for `bundle` on a host with `facts`. Does no I/O; the same arguments give the same plan.
    ///
    /// # Errors
    /// All that the configuration asks and this caller cannot have, each with its JSON pointer.
    pub fn compute(bundle: &Bundle, facts: &HostFacts) -> Result<Self, Vec<Problem>> {
        Self::compute_with(bundle, facts, Choices::default())
    }

    /// As [`Plan::compute`], with what the caller asks besides.
    pub fn compute_with(
        bundle: &Bundle,
        facts: &HostFacts,
        choices: Choices,
    ) -> Result<Self, Vec<Problem>> {
        let spec = &bundle.spec;
        let linux = spec.linux().as_ref();
        let mut problems = Vec::new();
        let (user_namespace, mut notes) = user_namespace(linux, facts)?;
        notes.extend(bundle.warnings.iter().map(warning));
        let mut of_annotations = Vec::new();
        let annotations = annotations::annotations(spec, &mut of_annotations);
        let keep_groups = annotations::keeps_groups(&annotations);
        let ids = ids(&user_namespace, keep_groups, facts);
        let decided =
            namespaces::namespaces(linux, &user_namespace, facts, &mut notes, &mut problems);
        let owned = decided.owned();
        name_problems(spec, &decided, &mut problems);
        let shares_network = decided.shares(Namespace::Network);
        let net_devices = net_devices(linux, shares_network, facts, &mut problems);
        let root = root(bundle, &mut notes);
        let own_cgroups = decided.made.contains(&Namespace::Cgroup);
        let cgroup = cgroup::Deciding {
            spec,
            facts,
            options: choices.cgroups,
            notes: &mut notes,
            problems: &mut problems,
        }
        .decide(own_cgroups.then_some(ids));
        let context = Context {
            own_cgroup: own_cgroups && cgroup.is_some(),
            directory: &bundle.directory,
            proc: choices.proc,
            namespaces: &owned,
            joined: &decided.joined,
            ids,
            user_namespace: namespaces::asks_for_user_namespace(linux),
        };
        let listed = spec.mounts().as_deref().unwrap_or_default();
        let mut mounts = mounts::mounts(listed, context, &mut notes, &mut problems);
        let mount_label = labels::mount_label(spec, facts, &mut problems);
        if let Some(label) = &mount_label {
            labels::label_mounts(&mut mounts, label, &mut notes);
        }
        let new = !matches!(user_namespace, UserNamespace::Inherit);
        let parameters = linux.and_then(|l| l.sysctl().clone()).unwrap_or_default();
        let sysctl = sysctl::sysctl(&parameters, &owned, &decided.joined, new, &mut problems);
        let process = plan_process(spec, ids, &mut notes, &mut problems);
        let seccomp = super::seccomp(spec, &mut notes, &mut problems);
        resctrl::refuse(linux, facts, &mut problems);
        notes.extend(of_annotations);
        let own_dev = !mounts::has_host_dev(&mounts);
        let nodes = devices::nodes(linux, own_dev, ids, &mut problems);
        let mut plan = match process {
            Some(process) if problems.is_empty() => Self {
                root,
                devices: nodes.devices,
                fifos: nodes.fifos,
                links: own_dev.then(devices::links).unwrap_or_default(),
                mounts,
                mount_label,
                masked_paths: paths(linux.and_then(|l| l.masked_paths().as_ref())),
                readonly_paths: paths(linux.and_then(|l| l.readonly_paths().as_ref())),
                sysctl,
                hostname: named(spec.hostname()),
                domainname: named(spec.domainname()),
                process,
                cgroup,
                seccomp,
                fake_root: FakeRoot::None,
                hooks: Hooks::of(spec),
                annotations,
                notes,
                namespaces: decided.made,
                joined: decided.joined,
                time_offsets: time_offsets(linux),
                net_devices,
                user_namespace,
            },
            _ => return Err(problems),
        };
        plan.fit_one_level(facts)?;
        plan.note_hidden_init();
        Ok(plan)
    }
}

impl UserNamespace {
    /// The id maps of one that is not the caller's present one: uids, gids.
    pub fn maps(&self) -> Option<(&[IdMapping], &[IdMapping])> {
        match self {
            Self::Inherit => None,
            Self::New {
                uid_map, gid_map, ..
            }
            | Self::Joined {
                uid_map, gid_map, ..
            } => Some((uid_map, gid_map)),
        }
    }

    /// Whether setgroups(2) is allowed in one that is not the caller's present one.
    pub fn setgroups(&self) -> Option<bool> {
        match self {
            Self::Inherit => None,
            Self::New { setgroups, .. } | Self::Joined { setgroups, .. } => Some(*setgroups),
        }
    }
}

/// The user namespace to make or to join.
fn user_namespace(
    linux: Option<&Linux>,
    facts: &HostFacts,
) -> Result<(UserNamespace, Vec<Note>), Vec<Problem>> {
    let maps = config_maps(linux);
    let mut notes = Vec::new();
    let joined = namespaces::joined_user(linux, [&maps.uids, &maps.gids], facts, &mut notes);
    match joined {
        None => idmap::user_namespace(maps, facts),
        Some(Ok(joined)) => Ok((joined, notes)),
        // What else cannot be joined is said along with it.
        Some(Err(problem)) => {
            let mut problems = namespaces::unusable(linux, facts);
            if !problems.contains(&problem) {
                problems.push(problem);
            }
            Err(problems)
        }
    }
}

/// Names that the kernel would refuse to set.
fn name_problems(spec: &Spec, decided: &Namespaces, problems: &mut Vec<Problem>) {
    let names = [
        ("/hostname", spec.hostname()),
        ("/domainname", spec.domainname()),
    ];
    let given = names.into_iter().filter(|(_, name)| named(name).is_some());
    let message = namespaces::unnameable(decided);
    problems.extend(given.filter_map(|(pointer, _)| Some(Problem::new(pointer, message?))));
}

fn ids<'a>(user_namespace: &'a UserNamespace, keep_groups: bool, facts: &'a HostFacts) -> Ids<'a> {
    Ids {
        maps: user_namespace.maps(),
        setgroups: user_namespace
            .setgroups()
            .unwrap_or(facts.setgroups_allowed),
        keep_groups,
        facts,
    }
}

fn config_maps(linux: Option<&Linux>) -> ConfigMaps {
    let list = |mappings: &Option<Vec<LinuxIdMapping>>| {
        let lines = mappings.iter().flatten().map(|m| IdMapping {
            container_id: m.container_id(),
            host_id: m.host_id(),
            size: m.size(),
        });
        lines.collect()
    };
    ConfigMaps {
        requested: namespaces::asks_for_user_namespace(linux),
        uids: linux.map(|l| list(l.uid_mappings())).unwrap_or_default(),
        gids: linux.map(|l| list(l.gid_mappings())).unwrap_or_default(),
    }
}

fn warning(warning: &Problem) -> Note {
    Note::new(
        &warning.pointer,
        format!("left out: {}", warning.message),
        "correct its name, or take it out",
    )
}

fn root(bundle: &Bundle, notes: &mut Vec<Note>) -> Root {
    let root = bundle.spec.root().clone().unwrap_or_default();
    let linux = bundle.spec.linux().as_ref();
    let propagation = linux.and_then(|l| propagation(l.rootfs_propagation().as_deref()?));
    if propagation.is_some_and(|p| p.kind == PropagationKind::Shared) {
        notes.push(Note::new(
            "/linux/rootfsPropagation",
            "mounts made in the container do not appear on the host: a user namespace cannot propagate them there",
            "use \"rslave\" to receive the host's mounts",
        ));
    }
    Root {
        path: bundle.directory.join(root.path()),
        readonly: root.readonly().unwrap_or(false),
        propagation,
        layers: None,
    }
}

/// `linux.rootfsPropagation`; anything else was refused by `bundle::raw`.
fn propagation(text: &str) -> Option<Propagation> {
    let of = |text: &str| match text {
        "shared" => Some(PropagationKind::Shared),
        "slave" => Some(PropagationKind::Slave),
        "private" => Some(PropagationKind::Private),
        "unbindable" => Some(PropagationKind::Unbindable),
        _ => None,
    };
    let plain = of(text).map(|kind| (kind, false));
    let (kind, recursive) = plain.or_else(|| Some((of(text.strip_prefix('r')?)?, true)))?;
    Some(Propagation { kind, recursive })
}

fn plan_process(
    spec: &Spec,
    ids: Ids<'_>,
    notes: &mut Vec<Note>,
    problems: &mut Vec<Problem>,
) -> Option<super::Process> {
    let attributes = attributes::attributes(spec, Role::Init, ids.facts, problems);
    match process(spec.process().as_ref()?, ids) {
        Ok((process, more)) => {
            notes.extend(more);
            Some(super::Process {
                attributes,
                ..process
            })
        }
        Err(more) => {
            problems.extend(more);
            None
        }
    }
}

fn paths(asked: Option<&Vec<String>>) -> Vec<PathBuf> {
    let asked = asked.into_iter().flatten();
    asked.map(|path| clean(Path::new(path))).collect()
}

fn named(name: &Option<String>) -> Option<String> {
    name.clone().filter(|name| !name.is_empty())
}
