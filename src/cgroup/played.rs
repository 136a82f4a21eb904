//! A systemd that is played, for tests: it answers by a script, or does not keep to any.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use zbus::{Message, Variant};

use super::Bus;
use super::bus::Patience;
use super::wire::tests::{next_message, read_handshake};
use crate::host::{BusSocket, SessionReading};

/// Long enough for a machine with much else to do, where an answer comes; where none comes it is waited for.
pub(super) const SHORT: Patience = Patience {
    connect: Duration::from_millis(300),
    job: Duration::from_millis(300),
};
pub(super) const LONG: Patience = Patience {
    connect: Duration::from_secs(60),
    job: Duration::from_secs(60),
};

/// A directory with a socket in it that `serve` serves, once.
pub(super) struct Server {
    pub(super) directory: tempfile::TempDir,
}

impl Server {
    #[expect(
        clippy::disallowed_methods,
        reason = "test code: the other side of a socket"
    )]
    pub(super) fn new(serve: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("bus")).unwrap();
        std::thread::spawn(move || serve(listener.accept().unwrap().0));
        Self { directory }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("bus")
    }

    pub(super) fn session(&self) -> SessionReading {
        session(&[&self.path()])
    }

    pub(super) fn bus(&self, patience: Patience) -> Bus {
        Bus::begin_with(&self.session(), patience).unwrap()
    }
}

pub(super) fn session(paths: &[&Path]) -> SessionReading {
    let socket = |path: &&Path| BusSocket {
        path: path.to_path_buf(),
        direct: false,
    };
    SessionReading {
        sockets: paths.iter().map(socket).collect(),
        ..SessionReading::default()
    }
}

/// What a played systemd says to a call of this method; `None`: what every one says.
pub(super) type Script = Box<dyn FnMut(&mut UnixStream, &Message, &str) -> Option<()> + Send>;

/// A systemd of this version that follows `script`.
pub(super) fn systemd(version: &'static str, mut script: Script) -> Server {
    Server::new(move |mut stream| {
        greet(&mut stream);
        while let Some(call) = next_message(&mut stream) {
            let method = call.header().member().unwrap().to_string();
            if script(&mut stream, &call, &method).is_some() {
                continue;
            }
            match method.as_str() {
                "Hello" => reply(&mut stream, &call, &":1.7"),
                "Get" => reply(&mut stream, &call, &Variant::from(version)),
                _ => reply(&mut stream, &call, &()),
            }
        }
    })
}

pub(super) fn greet(stream: &mut UnixStream) {
    assert_eq!(
        read_handshake(stream),
        b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"
    );
    stream
        .write_all(b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n")
        .unwrap();
}

pub(super) fn say(stream: &mut UnixStream, message: &Message) {
    // The client may be gone.
    let _ = stream.write_all(message.data());
}

pub(super) fn reply<B: serde::Serialize + zbus::wire::DynamicType>(
    stream: &mut UnixStream,
    call: &Message,
    body: &B,
) {
    say(
        stream,
        &Message::method_return(&call.header()).build(body).unwrap(),
    );
}

pub(super) fn refuse(
    stream: &mut UnixStream,
    call: &Message,
    name: &str,
    text: &str,
) -> Option<()> {
    let message = Message::error(&call.header(), name).build(&text).unwrap();
    say(stream, &message);
    Some(())
}

pub(super) fn hang(mut stream: UnixStream) {
    while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
}
