//! Kernel parameters: only those that belong to a namespace of the container (config-linux.md, "Sysctl").

use std::collections::HashMap;
use std::path::PathBuf;

use super::{JoinedNamespace, Namespace, Sysctl};
use crate::bundle::{Problem, pointer_token};
use crate::sys::defence::{Defence, is_on};

/// Where a parameter belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Namespace(Namespace, &'static str),
    User,
}

/// Parameters by the beginning of their path; a whole path unless it ends in `/` or `*` (ipc_namespaces(7), namespaces(7)).
const OWNERS: &[(&str, Owner)] = &[
    ("kernel/msgmax", IPC),
    ("kernel/msgmnb", IPC),
    ("kernel/msgmni", IPC),
    ("kernel/msg_next_id", IPC),
    ("kernel/auto_msgmni", IPC),
    ("kernel/sem", IPC),
    ("kernel/sem_next_id", IPC),
    ("kernel/shmall", IPC),
    ("kernel/shmmax", IPC),
    ("kernel/shmmni", IPC),
    ("kernel/shm_next_id", IPC),
    ("kernel/shm_rmid_forced", IPC),
    ("fs/mqueue/", IPC),
    ("net/", Owner::Namespace(Namespace::Network, "network")),
    ("kernel/domainname", Owner::Namespace(Namespace::Uts, "uts")),
    ("user/", Owner::User),
];
const IPC: Owner = Owner::Namespace(Namespace::Ipc, "ipc");

/// Decides on every parameter, in the order of the keys.
///
/// `namespaces` are those that the container has power over; it may be in others, which it has joined.
pub(super) fn sysctl(
    asked: &HashMap<String, String>,
    namespaces: &[Namespace],
    joined: &[JoinedNamespace],
    new_user_namespace: bool,
    problems: &mut Vec<Problem>,
) -> Vec<Sysctl> {
    let mut keys: Vec<(&String, &String)> = asked.iter().collect();
    keys.sort();
    let mut planned = Vec::new();
    let joined: Vec<Namespace> = joined.iter().map(|joined| joined.kind).collect();
    for (key, value) in keys {
        match parameter(key, value, [namespaces, &joined], new_user_namespace) {
            Ok(parameter) => planned.push(parameter),
            Err(message) => {
                let pointer = format!("/linux/sysctl/{}", pointer_token(key));
                problems.push(Problem::new(pointer, message));
            }
        }
    }
    planned
}

fn parameter(
    key: &str,
    value: &str,
    [namespaces, joined]: [&[Namespace]; 2],
    new_user_namespace: bool,
) -> Result<Sysctl, String> {
    let path = path(key);
    let sound = |part: &str| !matches!(part, "" | "." | "..");
    if !path.split('/').all(sound) {
        return Err("is not the name of a kernel parameter".to_owned());
    }
    if value.contains('\n') {
        return Err("the value has more than one line".to_owned());
    }
    if path == "kernel/hostname" {
        return Err("set /hostname instead".to_owned());
    }
    match owner(&path) {
        _ if !is_on(Defence::SysctlNames) => {}
        None => {
            return Err("is not a parameter of a namespace: it would change the host".to_owned());
        }
        Some(Owner::Namespace(kind, name)) if !namespaces.contains(&kind) => {
            return Err(if joined.contains(&kind) {
                format!(
                    "the {name} namespace that is joined belongs to another user namespace than the container's: join that too"
                )
            } else {
                format!("needs a namespace of type {name:?} in /linux/namespaces")
            });
        }
        Some(Owner::User) if !new_user_namespace => {
            return Err("needs a namespace of type \"user\" in /linux/namespaces".to_owned());
        }
        Some(_) => {}
    }
    Ok(Sysctl {
        key: key.to_owned(),
        path: PathBuf::from(path),
        value: value.to_owned(),
    })
}

/// The path of `key` beneath /proc/sys. As in sysctl(8), whichever of "." and "/" comes first separates,
/// and where that is "/" a "." is part of a name.
fn path(key: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match key.find(['.', '/']) {
        Some(at) if key[at..].starts_with('.') => key.chars().map(swap).collect(),
        _ => key.to_owned(),
    }
}

fn owner(path: &str) -> Option<Owner> {
    let belongs = |name: &str| match name.ends_with('/') {
        true => path.starts_with(name),
        false => path == name,
    };
    let found = OWNERS.iter().find(|(name, _)| belongs(name))?;
    Some(found.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Namespace] = &[Namespace::Ipc, Namespace::Uts, Namespace::Network];

    #[test]
    fn keys_are_read_as_sysctl_reads_them() {
        let cases = [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            (
                "net.ipv4.conf.eth0/1.forwarding",
                "net/ipv4/conf/eth0.1/forwarding",
            ),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                "net/ipv4/conf/eth0.1/forwarding",
            ),
        ];
        for (key, expected) in cases {
            assert_eq!(path(key), expected, "{key}");
        }
    }

    #[test]
    fn paths_that_climb_or_are_empty_are_refused() {
        for key in [
            "net",
            "net.",
            "net...ipv4",
            "net/../kernel/x",
            "/net/x",
            "net/./x",
            ".net.x",
            "net.//.x",
        ] {
            assert!(parameter(key, "1", [ALL, &[]], true).is_err(), "{key}");
        }
    }

    #[test]
    fn owners_are_checked() {
        let cases = [
            ("kernel.shmmax", ALL, true, None),
            (
                "kernel.shmmax",
                &[Namespace::Uts][..],
                true,
                Some("needs a namespace of type \"ipc\" in /linux/namespaces"),
            ),
            (
                "kernel.msgmaxx",
                ALL,
                true,
                Some("is not a parameter of a namespace: it would change the host"),
            ),
            (
                "kernel.panic",
                ALL,
                true,
                Some("is not a parameter of a namespace: it would change the host"),
            ),
            ("kernel.hostname", ALL, true, Some("set /hostname instead")),
            ("kernel.domainname", ALL, true, None),
            ("fs.mqueue.msg_max", ALL, true, None),
            (
                "fs.mqueue",
                ALL,
                true,
                Some("is not a parameter of a namespace: it would change the host"),
            ),
            (
                "net.core.somaxconn",
                &[],
                true,
                Some("needs a namespace of type \"network\" in /linux/namespaces"),
            ),
            ("user.max_user_namespaces", ALL, true, None),
            (
                "user.max_user_namespaces",
                ALL,
                false,
                Some("needs a namespace of type \"user\" in /linux/namespaces"),
            ),
        ];
        for (key, namespaces, user, expected) in cases {
            let result = parameter(key, "1", [namespaces, &[]], user);
            assert_eq!(result.err().as_deref(), expected, "{key}");
        }
    }
}
