//! SOCK_SEQPACKET sockets: one message a packet, in order, between two processes; handing over an fd; and datagrams (unix(7)).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

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

/// Sends one packet, or the bytes of a stream, and with it a copy of `fd` (SCM_RIGHTS).
pub fn send_with(socket: impl AsFd, packet: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    // One fd fits the space made for one.
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let data = [IoSlice::new(packet)];
    rustix::net::sendmsg(socket, &data, &mut control, SendFlags::NOSIGNAL)
        .map(|_| ())
        .map_err(|e| Error::new("sendmsg", format!("fd, {packet:?}, SCM_RIGHTS"), e))
}

/// Sends all of `bytes` over a stream, and with the first of them a copy of `fd`.
pub fn send_all_with(socket: impl AsFd, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let error = |e| {
        Error::new(
            "sendmsg",
            format!("fd, {} bytes, SCM_RIGHTS", bytes.len()),
            e,
        )
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let mut sent = 0;
    while sent < bytes.len() {
        let data = [IoSlice::new(&bytes[sent..])];
        match rustix::net::sendmsg(&socket, &data, &mut control, SendFlags::NOSIGNAL) {
            Ok(count) => {
                sent += count;
                control.clear();
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(error(e)),
        }
    }
    Ok(())
}

/// A packet that arrived, and the fd that came with it.
#[derive(Debug)]
pub struct Packet {
    /// What it says.
    pub content: Vec<u8>,
    /// The fd, close-on-exec; of several, the last.
    pub fd: Option<OwnedFd>,
}

/// Receives one packet; `None` when the other side has closed.
pub fn receive(socket: impl AsFd) -> Result<Option<Packet>> {
    let mut content = vec![0u8; MAX_PACKET];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut content)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Ok(message) if message.bytes == 0 => return Ok(None),
            Ok(message) => {
                content.truncate(message.bytes);
                let fd = control.drain().fold(None, |found, part| match part {
                    RecvAncillaryMessage::ScmRights(fds) => fds.last().or(found),
                    _ => found,
                });
                return Ok(Some(Packet { content, fd }));
            }
            // A peer that closed without reading everything: said once, before what it had sent.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            Err(e) => return Err(Error::new("recvmsg", "fd", e)),
        }
    }
}

/// How long whoever listens on a stream socket may take to accept, and to read what is sent.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Connects to the stream socket that listens at `path`, however long the path is: only its last name must fit sun_path. EAGAIN,
/// now and where something is sent, when the other side has done nothing for [`PATIENCE`].
pub fn connect_stream(path: &Path) -> Result<OwnedFd> {
    connect_stream_within(path, PATIENCE)
}

/// As [`connect_stream`], with `patience` instead of [`PATIENCE`].
pub fn connect_stream_within(path: &Path, patience: std::time::Duration) -> Result<OwnedFd> {
    let error = |e| Error::new("connect", format!("{path:?}"), e);
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| Error::new("socket", "AF_UNIX, SOCK_STREAM", e))?;
    limit_sending(&socket, patience)?;
    let address = match SocketAddrUnix::new(path) {
        Ok(address) => address,
        Err(_) => return connect_beside(&socket, path).map(|()| socket),
    };
    rustix::net::connect(&socket, &address).map_err(error)?;
    Ok(socket)
}

fn connect_beside(socket: &OwnedFd, path: &Path) -> Result<()> {
    let error = |e| Error::new("connect", format!("{path:?}"), e);
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path
        .file_name()
        .ok_or_else(|| error(rustix::io::Errno::INVAL))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty()).map_err(error)?;
    let mut short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    short.push(name);
    let address = SocketAddrUnix::new(&short).map_err(error)?;
    rustix::net::connect(socket, &address).map_err(error)
}

/// The effective uid of whoever listens at the other end, as it was at listen(2) (SO_PEERCRED, unix(7)), in this user namespace.
pub fn peer_uid(socket: impl AsFd) -> Result<u32> {
    rustix::net::sockopt::socket_peercred(socket)
        .map(|credentials| credentials.uid.as_raw())
        .map_err(|e| Error::new("getsockopt", "fd, SO_PEERCRED", e))
}

/// Sends what a stream takes at once; how much that was, `None` when it takes nothing now. EPIPE when the other side is gone.
pub fn send_some(socket: impl AsFd, bytes: &[u8]) -> Result<Option<usize>> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match rustix::net::send(&socket, bytes, flags) {
            Ok(count) => return Ok(Some(count)),
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::new("send", format!("fd, {} bytes", bytes.len()), e)),
        }
    }
}

/// Takes what a stream has now, at most as much as `space` holds; 0 when the other side has closed, `None` when nothing is there.
/// Files that come with it are closed.
pub fn take_some(socket: impl AsFd, space: &mut [u8]) -> Result<Option<usize>> {
    loop {
        match rustix::net::recv(&socket, &mut *space, RecvFlags::DONTWAIT) {
            Ok((count, _)) => return Ok(Some(count)),
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            // Whoever closes without having read everything has closed.
            Err(rustix::io::Errno::CONNRESET) => return Ok(Some(0)),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::new("recv", "fd, MSG_DONTWAIT", e)),
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
    let probe = datagram()?;
    match rustix::net::connect(&probe, &address(&dir, name)?) {
        Ok(()) | Err(rustix::io::Errno::PROTOTYPE) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::new("connect", format!("fd, {name:?}"), e)),
    }
}

/// A datagram socket at `name` in the directory `dir` that everybody who can reach it may send to. What had the name is replaced.
pub fn listen_datagram(dir: impl AsFd, name: &str) -> Result<OwnedFd> {
    let socket = datagram()?;
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(Error::new("unlinkat", format!("fd, {name:?}"), e)),
    }
    rustix::net::bind(&socket, &address(&dir, name)?)
        .map_err(|e| Error::new("bind", format!("fd, {name:?}"), e))?;
    rustix::fs::chmodat(&dir, name, Mode::from_raw_mode(0o777), AtFlags::empty())
        .map_err(|e| Error::new("fchmodat", format!("fd, {name:?}, 0777"), e))?;
    Ok(socket)
}

/// Connects to the datagram socket at `address`: an absolute path, or `@` and an abstract name (unix(7)). Nothing that is sent
/// waits longer than `patience` for a reader.
pub fn connect_datagram(address: &str, patience: std::time::Duration) -> Result<OwnedFd> {
    let error = |e| Error::new("connect", format!("{address:?}"), e);
    let target = match address.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        None if address.starts_with('/') => SocketAddrUnix::new(address),
        None => Err(rustix::io::Errno::AFNOSUPPORT),
    };
    let socket = datagram()?;
    limit_sending(&socket, patience)?;
    rustix::net::connect(&socket, &target.map_err(error)?).map_err(error)?;
    Ok(socket)
}

/// Lets connect(2) and what sends wait no longer than `patience`.
fn limit_sending(socket: &OwnedFd, patience: std::time::Duration) -> Result<()> {
    let limit = rustix::net::sockopt::Timeout::Send;
    rustix::net::sockopt::set_socket_timeout(socket, limit, Some(patience))
        .map_err(|e| Error::new("setsockopt", "fd, SO_SNDTIMEO", e))
}

/// The next datagram that has arrived, if there is one; files that come with it are closed.
pub fn take_datagram(socket: impl AsFd) -> Result<Option<Vec<u8>>> {
    let mut content = vec![0u8; MAX_PACKET];
    loop {
        match rustix::net::recv(&socket, &mut content[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => {
                content.truncate(length);
                return Ok(Some(content));
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::new("recv", "fd, MSG_DONTWAIT", e)),
        }
    }
}

fn datagram() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        .map_err(|e| Error::new("socket", "AF_UNIX, SOCK_DGRAM", e))
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
