//! A connection to a D-Bus server: the socket, who is at its other end, and messages that go and come within a time limit.
//!
//! zbus makes the messages and reads them; the socket is handled here, because every single wait has a limit of time and every
//! message one of size, and because this process must stay single-threaded (clone3(2)). Whoever serves is the caller herself, as
//! SO_PEERCRED says, but what she runs may hang or talk nonsense.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use zbus::Message;
use zbus::connection::socket::ReadHalf;

use super::bus_error::BusError;
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::signal::Signals;

/// The largest message that is taken: systemd's answers have some hundred bytes.
const LARGEST: usize = 1 << 20;

/// The largest line of the handshake (16 KiB in libdbus; the longest that is of use has 40 bytes).
const LONGEST_LINE: usize = 4096;

/// What the first message has to come after: the identity is the one that the socket has (EXTERNAL with an empty authorization
/// identity, D-Bus specification "Authentication mechanisms"), so that it is right in whatever user namespace this process is.
const HANDSHAKE: &[u8] = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";

/// Until when something may take, and what it is, for the message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit<'a> {
    /// The end.
    pub until: Instant,
    /// How long that was when it began.
    pub whole: Duration,
    /// What is waited for.
    pub what: &'a str,
}

impl<'a> Limit<'a> {
    /// From now on.
    pub(super) fn of(whole: Duration, what: &'a str) -> Self {
        Self {
            until: Instant::now() + whole,
            whole,
            what,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    socket: OwnedFd,
    /// Where it was found.
    pub path: PathBuf,
    /// What has arrived and is not understood yet.
    arrived: Vec<u8>,
    authenticated: bool,
    signals: Option<Signals>,
}

impl Wire {
    /// Connects to the socket at `path`, whose server has to be `uid`.
    pub(super) fn open(path: &Path, uid: u32, patience: Duration) -> Result<Self, BusError> {
        let unreachable = |error: sys::Error| {
            if error.is(libc::EAGAIN) {
                return BusError::Silent {
                    socket: path.to_owned(),
                    what: "it to accept".to_owned(),
                    seconds: patience.as_secs(),
                };
            }
            BusError::Unreachable {
                socket: path.to_owned(),
                error,
            }
        };
        let socket = sys::socket::connect_stream_within(path, patience).map_err(unreachable)?;
        let peer = sys::socket::peer_uid(&socket).map_err(unreachable)?;
        if peer != uid && is_on(Defence::OwnBus) {
            return Err(BusError::Stranger {
                socket: path.to_owned(),
                peer,
                uid,
            });
        }
        Ok(Self {
            socket,
            path: path.to_owned(),
            arrived: Vec::new(),
            authenticated: false,
            signals: None,
        })
    }

    /// What goes out before anything else, followed by messages: the server answers in order, and is not waited for.
    pub(super) fn greet(&mut self, messages: &[Message], limit: Limit<'_>) -> Result<(), BusError> {
        let mut bytes = HANDSHAKE.to_vec();
        for message in messages {
            bytes.extend_from_slice(message.data());
        }
        self.send(&bytes, limit)
    }

    /// Sends the messages.
    pub(super) fn send_messages(
        &mut self,
        messages: &[Message],
        limit: Limit<'_>,
    ) -> Result<(), BusError> {
        let bytes: Vec<u8> = messages.iter().flat_map(|m| m.data().to_vec()).collect();
        self.send(&bytes, limit)
    }

    fn send(&mut self, mut bytes: &[u8], limit: Limit<'_>) -> Result<(), BusError> {
        while !bytes.is_empty() {
            match sys::socket::send_some(&self.socket, bytes) {
                Ok(Some(count)) => bytes = &bytes[count.min(bytes.len())..],
                Ok(None) => self.wait(PollFlags::OUT, limit)?,
                // Why it has closed may be in what it has said before.
                Err(error) if error.is(libc::EPIPE) || error.is(libc::ECONNRESET) => return Ok(()),
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    /// The next message.
    pub(super) fn receive(&mut self, limit: Limit<'_>) -> Result<Message, BusError> {
        if !self.authenticated {
            self.finish_handshake(limit)?;
        }
        loop {
            match length(&self.arrived) {
                Err(why) => return Err(self.garbage(limit, why)),
                Ok(Some(length)) if length > LARGEST => {
                    return Err(BusError::Oversized {
                        socket: self.path.clone(),
                        bytes: length,
                        limit: LARGEST,
                    });
                }
                Ok(Some(length)) if length <= self.arrived.len() => {
                    let rest = self.arrived.split_off(length);
                    let message = std::mem::replace(&mut self.arrived, rest);
                    return decode(message).map_err(|e| self.garbage(limit, e.to_string()));
                }
                Ok(_) => self.fill(limit)?,
            }
        }
    }

    /// The answers to [`HANDSHAKE`]: an empty challenge, then consent.
    fn finish_handshake(&mut self, limit: Limit<'_>) -> Result<(), BusError> {
        loop {
            let line = self.line(limit)?;
            match line.split(' ').next() {
                Some("DATA") => {}
                Some("OK") => {
                    self.authenticated = true;
                    return Ok(());
                }
                Some("REJECTED" | "ERROR") => {
                    return Err(BusError::Rejected {
                        socket: self.path.clone(),
                        answer: line,
                    });
                }
                _ => return Err(self.garbage(limit, format!("{line:?} in the handshake"))),
            }
        }
    }

    fn line(&mut self, limit: Limit<'_>) -> Result<String, BusError> {
        loop {
            if let Some(end) = self.arrived.windows(2).position(|two| two == b"\r\n") {
                let rest = self.arrived.split_off(end + 2);
                let line = std::mem::replace(&mut self.arrived, rest);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.arrived.len() > LONGEST_LINE {
                return Err(
                    self.garbage(limit, "a line without an end in the handshake".to_owned())
                );
            }
            self.fill(limit)?;
        }
    }

    /// Waits until more has arrived.
    fn fill(&mut self, limit: Limit<'_>) -> Result<(), BusError> {
        let mut space = [0; 8192];
        loop {
            match sys::socket::take_some(&self.socket, &mut space) {
                Ok(Some(0)) => {
                    return Err(BusError::Closed {
                        socket: self.path.clone(),
                        what: limit.what.to_owned(),
                    });
                }
                Ok(Some(count)) => {
                    self.arrived.extend_from_slice(&space[..count]);
                    // One that talks without end is never waited for.
                    return self.require_time(limit);
                }
                Ok(None) => self.wait(PollFlags::IN, limit)?,
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    /// Waits until the socket is ready. A signal that asks this process to end, which it has blocked, ends the wait.
    fn wait(&mut self, events: PollFlags, limit: Limit<'_>) -> Result<(), BusError> {
        if self.signals.is_none() {
            self.signals = Some(Signals::ending().map_err(|error| self.broken(error))?);
        }
        let Some(signals) = self.signals.as_ref() else {
            return Ok(());
        };
        loop {
            self.require_time(limit)?;
            let left = limit.until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            let mut fds = [
                PollFd::new(&self.socket, events),
                PollFd::new(signals, PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(self.broken(sys::Error::new("poll", "socket, signalfd", e))),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            if let Some(signal) = signals.next().map_err(|error| self.broken(error))? {
                return Err(BusError::Interrupted {
                    signal,
                    what: limit.what.to_owned(),
                });
            }
        }
    }

    fn require_time(&self, limit: Limit<'_>) -> Result<(), BusError> {
        if Instant::now() < limit.until {
            return Ok(());
        }
        Err(BusError::Silent {
            socket: self.path.clone(),
            what: limit.what.to_owned(),
            seconds: limit.whole.as_secs(),
        })
    }

    /// The error of a server that does not keep to the protocol.
    pub(super) fn garbage(&self, limit: Limit<'_>, found: String) -> BusError {
        BusError::Garbage {
            socket: self.path.clone(),
            what: limit.what.to_owned(),
            found,
        }
    }

    fn broken(&self, error: sys::Error) -> BusError {
        BusError::Unreachable {
            socket: self.path.clone(),
            error,
        }
    }
}

/// The bytes of the message that `bytes` begins with (D-Bus specification, "Message Format"); `None`: too few to tell.
fn length(bytes: &[u8]) -> Result<Option<usize>, String> {
    /// The fixed part: byte order, type, flags, version, length of the body, serial, length of the fields.
    const FIXED: usize = 16;
    let Some(fixed) = bytes.get(..FIXED) else {
        return Ok(None);
    };
    let number = |at: usize| -> Option<usize> {
        let four: [u8; 4] = fixed.get(at..at + 4)?.try_into().ok()?;
        let number = match fixed[0] {
            b'l' => u32::from_le_bytes(four),
            b'B' => u32::from_be_bytes(four),
            _ => return None,
        };
        usize::try_from(number).ok()
    };
    match (number(4), number(12)) {
        (Some(body), Some(fields)) => Ok(Some((FIXED + fields).next_multiple_of(8) + body)),
        _ => Err(format!(
            "{:?} where a message begins",
            String::from_utf8_lossy(&fixed[..4])
        )),
    }
}

/// Reads a whole message: zbus takes it from a socket, and here all of it has come already.
fn decode(mut bytes: Vec<u8>) -> zbus::Result<Message> {
    if let Some(first) = sender(&bytes) {
        // On its own socket systemd calls itself org.freedesktop.systemd1, which zbus does not take: a bus gives unique names.
        bytes[first] = b':';
    }
    zbus::block_on(Ended.receive_message(0, &mut bytes, &mut Vec::new()))
}

/// Where the name of the sender begins in a message, if there is one that is well-known and not a bus's own.
///
/// The fields of a header are an array of structures, each aligned to 8: a code, the signature of the value, the value.
fn sender(bytes: &[u8]) -> Option<usize> {
    const SENDER: u8 = 7;
    const BUS: &[u8] = b"org.freedesktop.DBus";
    let number = |at: usize| -> Option<usize> {
        let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        let number = match bytes.first()? {
            b'l' => u32::from_le_bytes(four),
            _ => u32::from_be_bytes(four),
        };
        usize::try_from(number).ok()
    };
    let end = 16 + number(12)?;
    let mut at = 16usize;
    while at < end {
        let (code, kind) = (*bytes.get(at)?, *bytes.get(at + 2)?);
        // Every value is of one type, so that its signature takes three bytes.
        let value = at + 4;
        let after = match kind {
            b's' | b'o' => value + 4 + number(value)? + 1,
            b'g' => value + 1 + usize::from(*bytes.get(value)?) + 1,
            b'u' => value + 4,
            _ => return None,
        };
        if code == SENDER && kind == b's' {
            let name = bytes.get(value + 4..after.checked_sub(1)?)?;
            let well_known = name.first().is_some_and(|first| *first != b':') && name != BUS;
            return well_known.then_some(value + 4);
        }
        at = after.next_multiple_of(8);
    }
    None
}

/// A socket from which nothing comes any more.
#[derive(Debug)]
struct Ended;

#[zbus::export::async_trait::async_trait]
impl ReadHalf for Ended {
    async fn recvmsg(&mut self, _: &mut [u8]) -> std::io::Result<(usize, Vec<OwnedFd>)> {
        Ok((0, Vec::new()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// What a client says before its first message.
    pub(in crate::cgroup) fn read_handshake(stream: &mut UnixStream) -> Vec<u8> {
        let mut said = Vec::new();
        let mut byte = [0];
        while !said.ends_with(b"BEGIN\r\n") && stream.read_exact(&mut byte).is_ok() {
            said.push(byte[0]);
        }
        said
    }

    /// The next message that a client sends.
    pub(in crate::cgroup) fn next_message(stream: &mut UnixStream) -> Option<Message> {
        let mut bytes = vec![0; 16];
        stream.read_exact(&mut bytes).ok()?;
        let length = length(&bytes).unwrap().unwrap();
        bytes.resize(length, 0);
        stream.read_exact(&mut bytes[16..]).ok()?;
        Some(decode(bytes).unwrap())
    }

    type Length = Result<Option<usize>, ()>;

    #[test]
    fn lengths() {
        let cases: &[(&[u8], Length)] = &[
            (b"", Ok(None)),
            (b"l\x01\0\x01\0\0\0\0\x01\0\0\0\0\0\0", Ok(None)),
            (b"l\x01\0\x01\0\0\0\0\x01\0\0\0\0\0\0\0", Ok(Some(16))),
            (
                b"l\x01\0\x01\x05\0\0\0\x01\0\0\0\x01\0\0\0",
                Ok(Some(24 + 5)),
            ),
            (
                b"B\x01\0\x01\0\0\0\x05\0\0\0\x01\0\0\0\x08",
                Ok(Some(24 + 5)),
            ),
            (
                b"l\x01\0\x01\xff\xff\xff\xff\x01\0\0\0\xff\xff\xff\xff",
                Ok(Some(0x1_0000_0010 + 0xffff_ffff)),
            ),
            (b"x\x01\0\x01\0\0\0\0\x01\0\0\0\0\0\0\0", Err(())),
        ];
        for (bytes, expected) in cases {
            assert_eq!(length(bytes).map_err(|_| ()), *expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_sender_that_is_no_unique_name_is_taken() {
        let message = Message::method_call("/a", "B").sender(":1.22");
        let message = message.build(&("text", 7u32)).unwrap().data().to_vec();
        assert_eq!(sender(&message), None);
        let mut bytes = message.clone();
        let at = bytes.windows(5).position(|w| w == b":1.22").unwrap();
        bytes[at..at + 5].copy_from_slice(b"org.s");
        assert_eq!(sender(&bytes), Some(at));
        assert!(decode(bytes.clone()).is_ok());
        // Whatever is cut off or wrong, nothing is found, and nothing panics.
        for end in 0..bytes.len() {
            let _ = sender(&bytes[..end]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut wrong = bytes.clone();
                wrong[at] = value;
                let _ = decode(wrong);
            }
        }
    }
}
