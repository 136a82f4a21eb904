use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Instant;

use super::super::played::{
    LONG, SHORT, Server, greet, hang, refuse, reply, say, session, systemd,
};
use super::super::wire::tests::{next_message, read_handshake};
use super::*;
use crate::error::Error;

/// What a server does instead of what it should, and what is said then.
type Hostile = (&'static str, &'static str, fn(UnixStream));

fn refused(cases: &[Hostile]) {
    for (what, said, serve) in cases {
        let server = Server::new(*serve);
        let begin = Instant::now();
        let silent = said.starts_with("kept");
        let mut bus = server.bus(if silent { SHORT } else { LONG });
        let error = Error::from(bus.version().unwrap_err()).to_string();
        assert!(error.contains(said), "{what}: {error}");
        assert!(error.contains(server.path().to_str().unwrap()), "{error}");
        assert!(error.contains("hint:"), "{what}: {error}");
        // Only against a hang.
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
    }
}

#[test]
fn a_server_that_fails_the_handshake_is_an_error_that_names_it() {
    refused(&[
        ("says nothing", "kept lodger waiting", hang),
        ("closes at once", "closed the connection", drop),
        (
            "closes in the middle",
            "closed the connection",
            |mut stream| {
                read_handshake(&mut stream);
                let _ = stream.write_all(b"DATA\r\nOK 0123");
            },
        ),
        ("rejects", "does not take the caller", |mut stream| {
            read_handshake(&mut stream);
            let _ = stream.write_all(b"REJECTED EXTERNAL\r\n");
            hang(stream);
        }),
        (
            "begins with an empty line",
            "does not speak D-Bus",
            |mut stream| {
                let _ = stream.write_all(b"\r\n\r\n");
                hang(stream);
            },
        ),
        ("speaks HTTP", "does not speak D-Bus", |mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            hang(stream);
        }),
        (
            "has an endless line",
            "does not speak D-Bus",
            |mut stream| {
                while stream.write_all(&[b'a'; 1000]).is_ok() {}
            },
        ),
        ("has endless lines", "kept lodger waiting", |mut stream| {
            while stream.write_all(b"DATA\r\n").is_ok() {}
        }),
    ]);
}

#[test]
fn a_server_that_does_not_answer_is_an_error_that_names_it() {
    refused(&[
        ("says nothing", "kept lodger waiting", |mut stream| {
            greet(&mut stream);
            hang(stream);
        }),
        ("closes", "closed the connection", |mut stream| {
            greet(&mut stream);
        }),
        (
            "answers what was not asked",
            "that was not made",
            |mut stream| {
                greet(&mut stream);
                let call = next_message(&mut stream).unwrap();
                let other = call.primary_header().serial_num().saturating_add(1000);
                let answer = Message::method_return(&call.header()).reply_serial(Some(other));
                say(&mut stream, &answer.build(&()).unwrap());
                hang(stream);
            },
        ),
        ("answers twice", "that was not made", |mut stream| {
            greet(&mut stream);
            let call = next_message(&mut stream).unwrap();
            reply(&mut stream, &call, &":1.1");
            reply(&mut stream, &call, &":1.1");
            hang(stream);
        }),
        ("talks without end", "kept lodger waiting", |mut stream| {
            greet(&mut stream);
            let signal = Message::signal("/a", "a.b", "C").build(&()).unwrap();
            while stream.write_all(signal.data()).is_ok() {}
        }),
        (
            "has a version that is none",
            "for a string",
            |mut stream| {
                greet(&mut stream);
                while let Some(call) = next_message(&mut stream) {
                    reply(&mut stream, &call, &Variant::from(252u32));
                }
            },
        ),
        (
            "has no systemd",
            "there is no systemd on the bus",
            |mut stream| {
                greet(&mut stream);
                while let Some(call) = next_message(&mut stream) {
                    if call.header().member().unwrap() == "Hello" {
                        reply(&mut stream, &call, &":1.1");
                    } else {
                        let error = "org.freedesktop.DBus.Error.ServiceUnknown";
                        refuse(
                            &mut stream,
                            &call,
                            error,
                            "not provided by any .service files",
                        );
                    }
                }
            },
        ),
    ]);
}

#[test]
fn a_server_that_sends_no_message_is_an_error_that_names_it() {
    refused(&[
        ("sends noise", "does not speak D-Bus", |mut stream| {
            greet(&mut stream);
            let _ = stream.write_all(&[b'n'; 64]);
            hang(stream);
        }),
        (
            "sends a message of noise",
            "does not speak D-Bus",
            |mut stream| {
                greet(&mut stream);
                let mut noise = vec![0xff; 48];
                noise[..16].copy_from_slice(b"l\x02\x00\x01\x08\0\0\0\x01\0\0\0\x10\0\0\0");
                let _ = stream.write_all(&noise);
                hang(stream);
            },
        ),
        (
            "sends a huge message",
            "sends a message of",
            |mut stream| {
                greet(&mut stream);
                let _ = stream.write_all(b"l\x02\x00\x01\0\0\0\x07\x01\0\0\0\x08\0\0\0");
                while stream.write_all(&[0; 4096]).is_ok() {}
            },
        ),
        (
            "stops within a message",
            "closed the connection",
            |mut stream| {
                greet(&mut stream);
                let _ = stream.write_all(b"l\x02\x00\x01\x08\0\0\0\x01\0\0\0\x10\0\0\0");
            },
        ),
    ]);
}

#[test]
fn nobody_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let _listener = UnixListener::bind(&path).unwrap();
    // std listens with a backlog that is full at some time.
    let mut waiting = Vec::new();
    let error = loop {
        match Bus::begin_with(&session(&[&path]), SHORT) {
            Ok(bus) => waiting.push(bus),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BusError::Silent { .. }), "{error:?}");
}

#[test]
fn the_next_socket_is_tried() {
    let closes = Server::new(drop);
    let rejects = Server::new(|mut stream| {
        read_handshake(&mut stream);
        let _ = stream.write_all(b"REJECTED\r\n");
    });
    let good = systemd("254", Box::new(|_, _, _| None));
    let gone = closes.directory.path().join("gone");
    let all = [&gone, &closes.path(), &rejects.path(), &good.path()];
    let mut bus = Bus::begin_with(&session(&all.map(PathBuf::as_path)), LONG).unwrap();
    assert_eq!(bus.version(), Ok(254));
    assert_eq!(bus.socket(), good.path());

    let none = Bus::begin_with(&session(&[&gone, &gone]), LONG).unwrap_err();
    assert!(matches!(none, BusError::NoneAnswers { ref tried } if tried.len() == 2));
    let nothing = Bus::begin(&SessionReading {
        passed_over: vec!["\"/x\" belongs to uid 7".to_owned()],
        ..SessionReading::default()
    });
    let error = Error::from(nothing.unwrap_err()).to_string();
    for text in [
        "belongs to uid 7",
        "enable-linger",
        "machinectl shell",
        "dbus-user-session",
    ] {
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn who_serves_the_socket_is_asked_of_the_kernel() {
    let server = Server::new(hang);
    let own = sys::cred::uid();
    let error = Wire::open(&server.path(), own + 1, LONG.connect).unwrap_err();
    let expected = BusError::Stranger {
        socket: server.path(),
        peer: own,
        uid: own + 1,
    };
    assert_eq!(error, expected);
}
