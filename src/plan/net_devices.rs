//! Network devices that are moved into the container (config-linux.md, "Network Devices").

use oci_spec::runtime::Linux;

use super::NetDevice;
use crate::bundle::{Problem, pointer_token};
use crate::host::HostFacts;

/// The devices to move, in the order of their names. `shared`: the container is in the caller's network namespace.
pub(super) fn net_devices(
    linux: Option<&Linux>,
    shared: bool,
    facts: &HostFacts,
    problems: &mut Vec<Problem>,
) -> Vec<NetDevice> {
    let asked = linux.iter().flat_map(|l| l.net_devices().iter().flatten());
    let mut devices: Vec<NetDevice> = asked
        .map(|(name, device)| NetDevice {
            name: name.clone(),
            target: device
                .name()
                .clone()
                .filter(|n| !n.is_empty())
                .unwrap_or_else(|| name.clone()),
        })
        .collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    if devices.is_empty() {
        return devices;
    }
    let all = "/linux/netDevices";
    let unknown = || "cannot tell which devices there are".to_owned();
    if shared {
        problems.push(Problem::new(
            all,
            "the container is in your own network namespace, where the devices are already: give it one of its own",
        ));
    }
    match &facts.network {
        None => problems.push(Problem::new(all, unknown())),
        Some(network) => {
            problems.extend(network.refusal.iter().map(|why| Problem::new(all, why)));
            let missing = devices
                .iter()
                .filter(|device| !network.devices.contains(&device.name));
            problems.extend(missing.map(|device| {
                let pointer = format!("{all}/{}", pointer_token(&device.name));
                Problem::new(
                    pointer,
                    "there is no such network device here: `ip link` lists them",
                )
            }));
        }
    }
    devices
}
