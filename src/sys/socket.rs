//! SOCK_SEQPACKET sockets: one message a packet, in order, between two processes.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::{Error, Result};

/// The largest packet either side sends or accepts.
pub const MAX_PACKET: usize = 4096;

/// A connected pair.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| Error::new("socketpair", "AF_UNIX, SOCK_SEQPACKET", e))
}

/// Sends one packet. EPIPE when the other side is gone.
pub fn send(socket: impl AsFd, packet: &[u8]) -> Result<()> {
    rustix::net::send(socket, packet, SendFlags::NOSIGNAL)
        .map(|_| ())
        .map_err(|e| Error::new("send", format!("fd, {} bytes", packet.len()), e))
}

/// Receives one packet; `None` when the other side has closed.
pub fn receive(socket: impl AsFd) -> Result<Option<Vec<u8>>> {
    let mut buffer = vec![0u8; MAX_PACKET];
    loop {
        match rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((0, _)) => return Ok(None),
            Ok((count, _)) => {
                buffer.truncate(count);
                return Ok(Some(buffer));
            }
            // A peer that closed without reading everything: said once, before what it had sent.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            Err(e) => return Err(Error::new("recv", "fd", e)),
        }
    }
}

/// A socket that listens at `name` in the directory `dir`.
///
/// The address goes through /proc/self/fd, because sun_path holds 107 bytes only (unix(7)).
pub fn listen(dir: impl AsFd, name: &str) -> Result<OwnedFd> {
    let socket = new_socket()?;
    rustix::net::bind(&socket, &address(&dir, name)?)
        .map_err(|e| Error::new("bind", format!("fd, {name:?}"), e))?;
    rustix::net::listen(&socket, 1).map_err(|e| Error::new("listen", format!("{name:?}"), e))?;
    Ok(socket)
}

/// Connects to the socket that listens at `name` in the directory `dir`. ECONNREFUSED when nobody does.
pub fn connect(dir: impl AsFd, name: &str) -> Result<OwnedFd> {
    let socket = new_socket()?;
    rustix::net::connect(&socket, &address(&dir, name)?)
        .map_err(|e| Error::new("connect", format!("fd, {name:?}"), e))?;
    Ok(socket)
}

/// Whether a socket of this kind is bound at `name` in the directory `dir` and still open somewhere.
///
/// Its owner notices nothing: a datagram socket cannot connect to it, which the kernel says (EPROTOTYPE) once it has
/// found the socket; for a name that nobody holds any more it says ECONNREFUSED.
pub fn is_bound(dir: impl AsFd, name: &str) -> Result<bool> {
    let flags = SocketFlags::CLOEXEC;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        .map_err(|e| Error::new("socket", "AF_UNIX, SOCK_DGRAM", e))?;
    match rustix::net::connect(&probe, &address(&dir, name)?) {
        Ok(()) | Err(rustix::io::Errno::PROTOTYPE) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::new("connect", format!("fd, {name:?}"), e)),
    }
}

/// Takes the next connection of a listening socket.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd> {
    loop {
        match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(socket) => return Ok(socket),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::new("accept4", "fd", e)),
        }
    }
}

fn new_socket() -> Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| Error::new("socket", "AF_UNIX, SOCK_SEQPACKET", e))
}

fn address(dir: impl AsFd, name: &str) -> Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/{name}", dir.as_fd().as_raw_fd());
    SocketAddrUnix::new(&path).map_err(|e| Error::new("bind", format!("{path:?}"), e))
}
