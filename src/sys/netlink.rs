//! Network devices, through rtnetlink(7): the few requests that moving one takes.

use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send,
    socket_with,
};

use super::{Error, Result};

// linux/netlink.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_PID: u16 = 19;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_PERMANENT: u8 = 0x80;
const IFF_UP: u32 = 1;

/// What one reply may have; the kernel never sends more at once.
const BUFFER: usize = 64 << 10;

/// The number of the loopback device, in every network namespace (LOOPBACK_IFINDEX in the kernel's net/flow.h).
pub const LOOPBACK: u32 = 1;

/// Whether the present network namespace has a device of this name.
pub fn exists(name: &str) -> bool {
    Rtnetlink::open().is_ok_and(|net| matches!(net.index(name), Ok(Some(_))))
}

/// A socket to the network devices of the namespace that it was opened in.
#[derive(Debug)]
pub struct Rtnetlink(OwnedFd);

/// A permanent address of global scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Rtnetlink {
    /// A socket in the present network namespace.
    pub fn open() -> Result<Self> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        // NETLINK_ROUTE is 0, the protocol that a socket has without one.
        socket_with(family, kind, SocketFlags::CLOEXEC, None)
            .map(Self)
            .map_err(|e| Error::new("socket", "AF_NETLINK, SOCK_RAW, NETLINK_ROUTE", e))
    }

    /// The number of the device of this name; `None` when there is none.
    pub fn index(&self, name: &str) -> Result<Option<u32>> {
        match netdevice::name_to_index(&self.0, name) {
            Ok(index) => Ok(Some(index)),
            Err(rustix::io::Errno::NODEV) => Ok(None),
            Err(e) => Err(Error::new(
                "ioctl",
                format!("fd, SIOCGIFINDEX, {name:?}"),
                e,
            )),
        }
    }

    /// Whether the device is up.
    pub fn is_up(&self, index: u32) -> Result<bool> {
        let what = || format!("RTM_GETLINK, {index}");
        let replies = self.request(RTM_GETLINK, NLM_F_ACK, &link(index, 0), what)?;
        let flags = replies.first().and_then(|reply| number(reply, 8));
        Ok(flags.is_some_and(|flags| flags & IFF_UP != 0))
    }

    /// The permanent addresses of global scope that the device has.
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        let all = [0; ADDRESS_HEADER];
        let what = || "RTM_GETADDR".to_owned();
        let replies = self.request(RTM_GETADDR, NLM_F_DUMP, &all, what)?;
        Ok(replies
            .iter()
            .filter_map(|reply| address(reply, index))
            .collect())
    }

    /// Moves the device into the network namespace of process `pid`, where it is called `name`. It is down there.
    pub fn send_away(&self, index: u32, pid: u32, name: &str) -> Result<()> {
        let mut body = link(index, 0);
        put(&mut body, IFLA_NET_NS_PID, &pid.to_ne_bytes());
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        put(&mut body, IFLA_IFNAME, &text);
        let what = || format!("RTM_SETLINK, {index}, IFLA_NET_NS_PID {pid}, IFLA_IFNAME {name:?}");
        self.request(RTM_SETLINK, NLM_F_ACK, &body, what)
            .map(|_| ())
    }

    /// Gives the device an address.
    pub fn add_address(&self, index: u32, address: &Address) -> Result<()> {
        let mut body = vec![address.family, address.prefix, IFA_F_PERMANENT, 0];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            put(&mut body, *kind, value);
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let what = || format!("RTM_NEWADDR, {index}");
        self.request(RTM_NEWADDR, flags, &body, what).map(|_| ())
    }

    /// Sets the device up.
    pub fn set_up(&self, index: u32) -> Result<()> {
        let what = || format!("RTM_SETLINK, {index}, IFF_UP");
        self.request(RTM_SETLINK, NLM_F_ACK, &link(index, IFF_UP), what)
            .map(|_| ())
    }

    /// Sends one request and waits for its end. Gives the bodies of the replies.
    fn request(
        &self,
        kind: u16,
        flags: u16,
        body: &[u8],
        what: impl Fn() -> String,
    ) -> Result<Vec<Vec<u8>>> {
        let error = |e| Error::new("rtnetlink", what(), e);
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        // Sequence number and port: one request at a time, from the kernel's own choice of port.
        message.extend([0; 8]);
        message.extend(body);
        send(&self.0, &message, SendFlags::empty()).map_err(error)?;
        let mut replies = Vec::new();
        let mut buffer = vec![0u8; BUFFER];
        loop {
            let (length, _) = match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                received => received.map_err(error)?,
            };
            for (kind, body) in messages(&buffer[..length]) {
                match kind {
                    NLMSG_DONE => return Ok(replies),
                    NLMSG_ERROR => {
                        let errno = number(body, 0).map_or(libc::EIO, |n| -n.cast_signed());
                        return match errno {
                            0 => Ok(replies),
                            _ => Err(Error::new("rtnetlink", what(), errno)),
                        };
                    }
                    _ => replies.push(body.to_vec()),
                }
            }
        }
    }
}

/// `struct ifinfomsg` for a device, whose flags in `set` become set.
fn link(index: u32, set: u32) -> Vec<u8> {
    let mut header = vec![0u8; 4];
    header.extend(index.to_ne_bytes());
    header.extend(set.to_ne_bytes());
    header.extend(set.to_ne_bytes());
    debug_assert_eq!(header.len(), LINK_HEADER);
    header
}

/// Appends an attribute.
fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The messages in what was received: type and body.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (number(bytes, 0), short(bytes, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(HEADER..length) else {
            break;
        };
        found.push((kind, body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The address in a reply to RTM_GETADDR, if it is a permanent one of global scope of the device.
fn address(reply: &[u8], device: u32) -> Option<Address> {
    let [family, prefix, flags, scope] = *reply.first_chunk()?;
    let index = number(reply, 4)?;
    if index != device || scope != 0 || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    let mut attributes = Vec::new();
    let mut rest = reply.get(ADDRESS_HEADER..)?;
    while let (Some(length), Some(kind)) = (short(rest, 0), short(rest, 2)) {
        let length = usize::from(length);
        let Some(value) = rest.get(4..length) else {
            break;
        };
        if [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST].contains(&kind) {
            attributes.push((kind, value.to_vec()));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Address {
        family,
        prefix,
        attributes,
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(flags: u8, scope: u8, index: u32) -> Vec<u8> {
        let mut reply = vec![2, 24, flags, scope];
        reply.extend(index.to_ne_bytes());
        put(&mut reply, IFA_LOCAL, &[10, 0, 0, 1]);
        // A label is that of the old name.
        put(&mut reply, 3, b"eth0\0");
        reply
    }

    #[test]
    fn permanent_global_addresses_of_the_device_are_kept() {
        let found = address(&reply(IFA_F_PERMANENT, 0, 7), 7).unwrap();
        assert_eq!((found.family, found.prefix), (2, 24));
        assert_eq!(found.attributes, [(IFA_LOCAL, vec![10, 0, 0, 1])]);
        assert_eq!(address(&reply(0, 0, 7), 7), None);
        assert_eq!(address(&reply(IFA_F_PERMANENT, 253, 7), 7), None);
        assert_eq!(address(&reply(IFA_F_PERMANENT, 0, 8), 7), None);
        for length in 0..reply(0x80, 0, 7).len() {
            // Whatever is cut off, it is no panic.
            let _ = address(&reply(IFA_F_PERMANENT, 0, 7)[..length], 7);
        }
    }

    #[test]
    fn messages_are_taken_apart() {
        let mut bytes = 18u32.to_ne_bytes().to_vec();
        bytes.extend(RTM_NEWADDR.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend([1, 2, 0, 0]);
        let whole = bytes.repeat(2);
        assert_eq!(messages(&whole), [(RTM_NEWADDR, &[1u8, 2][..]); 2]);
        assert_eq!(messages(&whole[..30]).len(), 1);
        assert!(messages(&[0; 40]).is_empty());
    }

    #[test]
    fn this_host_has_a_loopback_device() {
        assert!(exists("lo"));
        assert!(!exists("no-such-device"));
        let net = Rtnetlink::open().unwrap();
        let index = net.index("lo").unwrap().unwrap();
        assert!(net.is_up(index).is_ok());
        // 127.0.0.1 is of host scope.
        assert_eq!(net.addresses(index), Ok(Vec::new()));
    }
}
