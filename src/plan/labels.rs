//! Labels of the security modules AppArmor and SELinux: refused where the host has no such module.

use oci_spec::runtime::{Process as Asked, Spec};

use super::{Mount, MountSource, Note};
use crate::bundle::Problem;
use crate::host::HostFacts;

/// The filesystems that the kernel lets a user namespace mount with a label (selinux_set_mnt_opts of the kernel); the files
/// of the others have the label that the policy gives them.
const LABELLED: [&str; 4] = ["tmpfs", "devpts", "ramfs", "overlay"];

/// The program's AppArmor profile (config.md, "apparmorProfile").
///
/// `unconfined` asks for nothing where there is no AppArmor: engines write it to say that they want no profile.
pub(super) fn apparmor_profile(
    process: &Asked,
    facts: &HostFacts,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let asked = process.apparmor_profile().clone();
    let profile = asked.filter(|profile| !profile.is_empty())?;
    if facts.details.apparmor {
        return Some(profile);
    }
    if profile != "unconfined" {
        let message = format!(
            "the profile {profile:?} cannot be applied: AppArmor is not enabled on this host \
             (/sys/module/apparmor/parameters/enabled does not say Y); take it out, or ask the administrator to boot \
             with AppArmor (apparmor=1 security=apparmor) and to load the profile"
        );
        problems.push(Problem::new("/process/apparmorProfile", message));
    }
    None
}

/// The program's SELinux context (config.md, "selinuxLabel").
pub(super) fn selinux_label(
    process: &Asked,
    facts: &HostFacts,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let asked = process.selinux_label().clone();
    let label = asked.filter(|label| !label.is_empty())?;
    if !facts.details.selinux {
        problems.push(without_selinux("/process/selinuxLabel", &label));
        return None;
    }
    Some(label)
}

/// `linux.mountLabel`, which new filesystems get.
pub(super) fn mount_label(
    spec: &Spec,
    facts: &HostFacts,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let asked = spec.linux().as_ref()?.mount_label().clone();
    let label = asked.filter(|label| !label.is_empty())?;
    if !facts.details.selinux {
        problems.push(without_selinux("/linux/mountLabel", &label));
        return None;
    }
    Some(label)
}

fn without_selinux(pointer: &str, label: &str) -> Problem {
    let message = format!(
        "the label {label:?} cannot be applied: SELinux is not enabled on this host (no selinuxfs that can be written at \
         /sys/fs/selinux); take it out, or ask the administrator to boot with SELinux (security=selinux selinux=1) and a \
         policy"
    );
    Problem::new(pointer, message)
}

/// Gives new filesystems the label, as one for all of their files (mount(8), "context="). Bound ones keep theirs.
pub(super) fn label_mounts(mounts: &mut [Mount], label: &str, notes: &mut Vec<Note>) {
    for mount in mounts {
        let MountSource::Filesystem {
            fstype, options, ..
        } = &mut mount.source
        else {
            continue;
        };
        if fstype == "mqueue" {
            notes.push(Note::new(
                "/linux/mountLabel",
                "message queues have the label that the policy gives them: the kernel takes none for their filesystem",
                "none is needed",
            ));
        }
        let own = options.iter().any(|(name, _)| name == "context");
        if !own && LABELLED.contains(&fstype.as_str()) {
            options.push(("context".to_owned(), Some(label.to_owned())));
        }
    }
}
