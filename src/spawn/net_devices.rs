//! Network devices of the host that become the container's (config-linux.md, "Network Devices").
//!
//! The runtime sends a device out of its own network namespace, through a socket there, and gives it back its addresses
//! through a socket in the container's. A device is never moved back, but where the container
//! cannot be made: most kinds would end with the container's namespace.

use std::path::Path;

use crate::error::{Doing, Error, Result};
use crate::plan::NetDevice;
use crate::sys;
use crate::sys::netlink::{Address, Rtnetlink};
use crate::sys::ns::flag;
use crate::sys::process::Child;

/// Devices that were moved, and both ends of their way.
#[derive(Debug)]
pub(super) struct Moved {
    outside: Rtnetlink,
    inside: Rtnetlink,
    devices: Vec<Device>,
}

#[derive(Debug)]
struct Device {
    name: String,
    target: String,
    addresses: Vec<Address>,
    was_up: bool,
}

/// Moves `devices` into the network namespace of `child`, an init that waits for its first order. `None`: there are none.
pub(super) fn move_all(devices: &[NetDevice], child: &Child) -> Result<Option<Moved>> {
    if devices.is_empty() {
        return Ok(None);
    }
    let outside = Rtnetlink::open().doing(|| "cannot reach the network devices".to_owned())?;
    let mut moved = Moved {
        outside,
        inside: inside(child)?,
        devices: Vec::new(),
    };
    for device in devices {
        if let Err(error) = moved.take(device, child) {
            return Err(match moved.give_back() {
                Some(lost) => error.hint(lost),
                None => error,
            });
        }
    }
    Ok(Some(moved))
}

/// A socket in the network namespace of `child`. This process goes there for a moment: a device is taken out of there
/// only by whoever has power over both namespaces, and has had it when the socket was made.
fn inside(child: &Child) -> Result<Rtnetlink> {
    let what = || "cannot reach the container's network devices".to_owned();
    let open = |whose: &str| sys::path::open_magic(Path::new(&format!("/proc/{whose}/ns/net")));
    let own = open("self").doing(what)?;
    let other = open(&child.pid.to_string()).doing(what)?;
    sys::ns::join(other, flag::NETWORK).doing(what)?;
    let socket = Rtnetlink::open();
    sys::ns::join(own, flag::NETWORK)
        .doing(|| "cannot return from the container's network".to_owned())?;
    socket.doing(what)
}

impl Moved {
    fn take(&mut self, device: &NetDevice, child: &Child) -> Result<()> {
        let name = &device.name;
        let what = || format!("cannot move the network device {name:?} (/linux/netDevices)");
        let index = self.outside.index(name).doing(what)?;
        let index = index.ok_or_else(|| Error::new(what()).because("it is not there any more"))?;
        let target = self
            .free_name(&device.target)
            .map_err(|e| e.within(what()))?;
        let device = Device {
            name: name.clone(),
            addresses: self.outside.addresses(index).doing(what)?,
            was_up: self.outside.is_up(index).doing(what)?,
            target,
        };
        let sent = self
            .outside
            .send_away(index, child.pid.unsigned_abs(), &device.target);
        sent.doing(what).map_err(|error| {
            error.hint(
                "some devices are bound to their namespace: loopback, bridges with ports, tunnels",
            )
        })?;
        self.devices.push(device);
        self.devices.last().map_or(Ok(()), |device| {
            settle(&self.inside, &device.target, &device.addresses, true).doing(|| {
                format!(
                    "cannot set the network device {name:?} up in the container (/linux/netDevices)"
                )
            })
        })
    }

    /// The name that a device gets in the container: `wanted`, with the first free number for a `%d` in it.
    fn free_name(&self, wanted: &str) -> Result<String> {
        /// As many as the kernel tries.
        const NUMBERS: u32 = 32_768;
        let what = || "cannot look into the container's network namespace".to_owned();
        if !wanted.contains("%d") {
            return match self.inside.index(wanted).doing(what)? {
                None => Ok(wanted.to_owned()),
                Some(_) => Err(Error::new(format!(
                    "the container's network namespace has a device {wanted:?} already"
                ))
                .hint("give it another \"name\", or one with %d in it, which becomes a number that is free")),
            };
        }
        for number in 0..NUMBERS {
            let name = wanted.replacen("%d", &number.to_string(), 1);
            if self.inside.index(&name).doing(what)?.is_none() {
                return Ok(name);
            }
        }
        Err(Error::new(format!(
            "no name is free that is like {wanted:?}"
        )))
    }

    /// Moves the devices back from a container that could not be made. Returns which of them are lost.
    pub(super) fn give_back(&self) -> Option<String> {
        let own = sys::process::own_pid().unsigned_abs();
        let mut lost = Vec::new();
        // Before init is ended, and with it the namespace that they are in.
        for device in self.devices.iter().rev() {
            let moved = || {
                let index = self.inside.index(&device.target)?;
                let index =
                    index.ok_or_else(|| sys::Error::new("ioctl", "SIOCGIFINDEX", libc::ENODEV))?;
                self.inside.send_away(index, own, &device.name)?;
                settle(
                    &self.outside,
                    &device.name,
                    &device.addresses,
                    device.was_up,
                )
            };
            if let Err(why) = moved() {
                lost.push(format!("{:?}: {why}", device.name));
            }
        }
        (!lost.is_empty())
            .then(|| format!("network devices did not come back: {}", lost.join("; ")))
    }
}

/// Gives a device that has just arrived its addresses, and sets it up.
fn settle(net: &Rtnetlink, name: &str, addresses: &[Address], up: bool) -> sys::Result<()> {
    let index = net.index(name)?;
    let index = index.ok_or_else(|| sys::Error::new("ioctl", "SIOCGIFINDEX", libc::ENODEV))?;
    for address in addresses {
        net.add_address(index, address)?;
    }
    if up { net.set_up(index) } else { Ok(()) }
}
