//! The network namespace that the caller is in, and which devices are in it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::HostFacts;
use crate::sys;

/// CAP_NET_ADMIN (capabilities(7)).
const NET_ADMIN: u64 = 1 << 12;

/// What the caller may do with network devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetReading {
    /// Why she cannot move a device out of her network namespace, if she cannot.
    pub refusal: Option<String>,
    /// Those of the devices she names that are there, sorted.
    pub devices: Vec<String>,
}

/// Looks for the devices `names`, and whether the caller may move them.
pub fn present<'a>(names: impl Iterator<Item = &'a String>, facts: &HostFacts) -> NetReading {
    let mut devices: Vec<String> = names
        .filter(|name| sys::netlink::exists(name))
        .cloned()
        .collect();
    devices.sort();
    NetReading {
        refusal: refusal(facts),
        devices,
    }
}

fn refusal(facts: &HostFacts) -> Option<String> {
    let open = |name: &str| sys::path::open_magic(Path::new(&format!("/proc/self/ns/{name}")));
    let owner = || {
        use std::os::fd::AsFd;
        let owner = sys::ns::owning(open("net")?.as_fd())?;
        Ok::<_, sys::Error>(sys::ns::identity(owner)? == sys::ns::identity(open("user")?)?)
    };
    let whose = match (owner(), facts.in_user_namespace) {
        (Ok(true), true) if facts.sys_admin && sys::cred::effective_set() & NET_ADMIN != 0 => {
            return None;
        }
        (Ok(true), false) => "the initial user namespace",
        (Ok(true), true) => "your user namespace, in which you have no CAP_NET_ADMIN",
        (_, _) => "a user namespace around yours",
    };
    Some(format!(
        "the devices of this host belong to a network namespace of {whose}: moving one needs CAP_NET_ADMIN there. Call \
         lodger from a network namespace of your own (rootlesskit, unshare -rn), or ask the administrator to move it: \
         ip link set DEVICE netns PID"
    ))
}
