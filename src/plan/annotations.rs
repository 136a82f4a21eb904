//! Annotations: kept for `state`, and a few of them acted upon.

use std::collections::BTreeMap;

use oci_spec::runtime::Spec;

use super::Note;
use crate::bundle::{Problem, pointer_token};
use crate::checkpoint::{CHECKPOINTABLE, CRIU_CONFIG};

/// An annotation that changes what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acting {
    /// Its key; one that ends with a dot is the beginning of keys.
    pub key: &'static str,
    /// What it does.
    pub effect: &'static str,
}

/// The container's processes keep the caller's supplementary groups where this is `1`.
pub(super) const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// Every annotation that is acted upon: `features` tells of them, as a config that others may write should not have them
/// unseen (features.md, "potentiallyUnsafeConfigAnnotations").
pub const ACTING: [Acting; 4] = [
    Acting {
        key: CHECKPOINTABLE,
        effect: "\"true\": the system call filter, if there is one, lets vmsplice(2) pass with the flags that CRIU gives it",
    },
    Acting {
        key: CRIU_CONFIG,
        effect: "a file that CRIU reads at checkpoint and restore, with the caller's rights: it may name programs to run",
    },
    Acting {
        key: KEEP_GROUPS,
        effect: "\"1\": the container's processes keep the caller's supplementary groups",
    },
    Acting {
        key: super::unit_annotations::PREFIX,
        effect: "a property of the container's scope, of a list of harmless ones",
    },
];

/// The beginnings of annotations that change what other runtimes do.
const FOREIGN: [&str; 2] = ["run.oci.", "org.criu."];

/// Other beginnings of annotations that engines, runtimes and their plugins act upon, or take for their own.
const ENGINES: [&str; 21] = [
    "cdi.k8s.io/",
    "com.github.containers.",
    "containerd.io/",
    "cpu-load-balancing.crio.io",
    "cpu-quota.crio.io",
    "dev.gvisor.",
    "dev.lodger.",
    "io.container.manager",
    "io.containerd.",
    "io.containers.",
    "io.crun.",
    "io.katacontainers.",
    "io.kubernetes.container.",
    "io.kubernetes.cri",
    "io.kubernetes.pod.",
    "io.podman.",
    "irq-load-balancing.crio.io",
    "krun.",
    "module.wasm.image/",
    "org.lodger.",
    "org.systemd.",
];

/// What is in the names of further ones, whatever they begin with.
const PLUGINS: [&str; 6] = [
    ".crio.io/",
    ".cri-o.io/",
    ".nri.io/",
    ".alpha.kubernetes.io/",
    ".beta.kubernetes.io/",
    "intel.com/rdt",
];

/// Whether the annotation `key` changes what a runtime, an engine or a plugin of one does: nothing that an image says may
/// become one (CVE-2024-3154, CVE-2026-53488).
pub fn controls(key: &str) -> bool {
    let begins = |list: &[&str]| list.iter().any(|prefix| key.starts_with(prefix));
    acts(key)
        || begins(&FOREIGN)
        || begins(&ENGINES)
        || PLUGINS.iter().any(|part| key.contains(part))
}

/// The annotations of `spec`. What another runtime would act upon and this one does not is noted.
pub(super) fn annotations(spec: &Spec, notes: &mut Vec<Note>) -> BTreeMap<String, String> {
    let annotations = spec.annotations().iter().flatten();
    let annotations: BTreeMap<String, String> =
        annotations.map(|(k, v)| (k.clone(), v.clone())).collect();
    for (key, value) in &annotations {
        if key == KEEP_GROUPS {
            notes.extend((!keeps_groups(&annotations)).then(|| not_one(value)));
        } else if FOREIGN.iter().any(|prefix| key.starts_with(prefix)) && !acts(key) {
            notes.push(foreign(key));
        }
    }
    annotations
}

/// Whether the caller's supplementary groups are to stay.
pub fn keeps_groups(annotations: &BTreeMap<String, String>) -> bool {
    annotations
        .get(KEEP_GROUPS)
        .is_some_and(|value| value == "1")
}

/// Whether the container is to be one that CRIU can dump under a filter that forbids vmsplice(2).
pub(super) fn checkpointable(spec: &Spec, problems: &mut Vec<Problem>) -> bool {
    let annotations = spec.annotations().as_ref();
    match annotations
        .and_then(|all| all.get(CHECKPOINTABLE))
        .map(String::as_str)
    {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let message = format!("{other:?} is neither \"true\" nor \"false\"");
            problems.push(Problem::new(
                format!("/annotations/{CHECKPOINTABLE}"),
                message,
            ));
            false
        }
    }
}

fn acts(key: &str) -> bool {
    let matches = |acting: &Acting| {
        key == acting.key || acting.key.ends_with('.') && key.starts_with(acting.key)
    };
    ACTING.iter().any(matches)
}

fn not_one(value: &str) -> Note {
    Note::new(
        format!("/annotations/{KEEP_GROUPS}"),
        format!("the groups are the config's: {value:?} is not \"1\""),
        "write \"1\", or take it out",
    )
}

fn foreign(key: &str) -> Note {
    Note::new(
        format!("/annotations/{}", pointer_token(key)),
        "kept, but not acted upon: lodger does not do yet what other runtimes do with it",
        "take it out, or use another runtime if it matters",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_anybody_acts_upon_is_known() {
        for key in [
            KEEP_GROUPS,
            "run.oci.hooks.stdout",
            "org.systemd.property.ExecStart",
            "org.criu.config",
            "dev.lodger.checkpointable",
            "dev.lodger.x",
            "io.kubernetes.cri-o.Devices",
            "io.kubernetes.cri.container-type",
            "io.podman.annotations.seccomp",
            "io.containers.autoupdate",
            "io.container.manager",
            "containerd.io/restart.status",
            "com.github.containers.toolbox",
            "module.wasm.image/variant",
            "io.katacontainers.config.hypervisor.path",
            "dev.gvisor.internal.nvproxy",
            "io.crun.x",
            "org.lodger.x",
            "krun.cpus",
            "cdi.k8s.io/gpu",
            "seccomp-profile.kubernetes.cri-o.io/c",
            "cpu-load-balancing.crio.io",
            "container.apparmor.security.beta.kubernetes.io/c",
            "seccomp.security.alpha.kubernetes.io/pod",
        ] {
            assert!(controls(key), "{key}");
        }
        for acting in ACTING {
            assert!(controls(acting.key), "{acting:?}");
        }
    }

    #[test]
    fn what_an_image_says_of_itself_is_harmless() {
        for key in [
            "",
            "maintainer",
            "org.opencontainers.image.stopSignal",
            "org.label-schema.name",
            "io.k8s.display-name",
            "com.example.run.oci.x",
            "runoci",
            "io.buildah.version",
            "com.docker.compose.project",
        ] {
            assert!(!controls(key), "{key}");
        }
    }
}
