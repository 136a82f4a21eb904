//! Which namespaces are made new.

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::{Namespace, Note};

/// The types of namespaces that a config may list (config-linux.md).
pub const NAMESPACES: [&str; 8] = [
    "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
];

/// The namespaces to make besides the user namespace; those not listed are shared with the host (config-linux.md).
pub(super) fn namespaces(linux: Option<&Linux>, notes: &mut Vec<Note>) -> Vec<Namespace> {
    let listed = linux.iter().flat_map(|l| l.namespaces().iter().flatten());
    let mut made: Vec<Namespace> = listed.filter_map(|n| namespace(n.typ())).collect();
    if !made.contains(&Namespace::Mount) {
        made.push(Namespace::Mount);
        notes.push(Note::new(
            "/linux/namespaces",
            "a mount namespace is made although none is listed: the host's cannot be changed without root",
            "add {\"type\": \"mount\"}",
        ));
    }
    made.sort();
    made
}

/// Whether the configuration asks for a user namespace.
pub(super) fn asks_for_user_namespace(linux: Option<&Linux>) -> bool {
    let mut listed = linux.iter().flat_map(|l| l.namespaces().iter().flatten());
    listed.any(|n| n.typ() == LinuxNamespaceType::User)
}

fn namespace(kind: LinuxNamespaceType) -> Option<Namespace> {
    match kind {
        LinuxNamespaceType::Mount => Some(Namespace::Mount),
        LinuxNamespaceType::Cgroup => Some(Namespace::Cgroup),
        LinuxNamespaceType::Uts => Some(Namespace::Uts),
        LinuxNamespaceType::Ipc => Some(Namespace::Ipc),
        LinuxNamespaceType::User => None,
        LinuxNamespaceType::Pid => Some(Namespace::Pid),
        LinuxNamespaceType::Network => Some(Namespace::Network),
        LinuxNamespaceType::Time => Some(Namespace::Time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_is_named_is_made() {
        for name in NAMESPACES {
            let kind = LinuxNamespaceType::try_from(name).unwrap();
            let is_made = namespace(kind).is_some() || kind == LinuxNamespaceType::User;
            assert!(is_made, "{name}");
        }
    }
}
