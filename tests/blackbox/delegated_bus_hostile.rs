//! A session bus of the caller's own that hangs, lies, floods or goes away: a container that needs no cgroup runs all the same, and is
//! told why it has none; one that is to have a scope fails with one error, in time, and nothing is left of it.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;

use zbus::message::Message;

use crate::harness::{Fixture, Ran, lodger_only, runtime_binary, spawn};
use crate::weak::{Outcome, held_by, off};

/// What a bus does with each connection.
type Serve = fn(UnixStream);

/// A socket in the test's directory where each connection is served so.
fn bus(fixture: &Fixture, serve: Serve) -> PathBuf {
    let path = fixture.path("bus");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    path
}

/// `run` with that bus as the only one.
fn run(fixture: &Fixture, bus: &str, options: &[&str]) -> Ran {
    fixture.write_config();
    let mut command = fixture.command(&["run", "c"]);
    let mut with_options = Command::new(command.get_program());
    with_options
        .args(options)
        .args(command.get_args())
        .current_dir(fixture.bundle())
        .env("DBUS_SESSION_BUS_ADDRESS", bus)
        .env_remove("XDG_RUNTIME_DIR");
    std::mem::swap(&mut command, &mut with_options);
    spawn(&mut command, b"").wait()
}

/// On a host with this bus, a container runs without a scope; where one is asked for, a note says that it is so because of what is
/// `said`, and where a limit needs it, an error.
fn without_scope(serve: Serve, said: &str) {
    let mut fixture = Fixture::new();
    let path = bus(&fixture, serve).to_str().unwrap().to_owned();
    fixture.sh("echo it ran");
    // Whoever has asked for nothing is not told what she does not get.
    assert_eq!(run(&fixture, &address(&path), &[]).ok(), "it ran\n");
    let ran = run(&fixture, &address(&path), &["--cgroup-manager", "systemd"]).exits(0);
    assert_eq!(ran.out, "it ran\n", "{ran:#?}");
    assert!(
        ran.err.contains(said) && ran.err.contains(&path),
        "{ran:#?}"
    );
    fixture.config["linux"]["resources"] = serde_json::json!({"pids": {"limit": 64}});
    refused(&fixture, &path, said);
}

fn address(path: &str) -> String {
    format!("unix:path={path},guid=0123456789abcdef0123456789abcdef")
}

/// A scope is asked for and needed: one error says why there is none, and nothing is left.
fn refused(fixture: &Fixture, path: &str, said: &str) {
    let ran = run(fixture, &address(path), &["--cgroup-manager", "systemd"]);
    let ran = ran.fails(1, said);
    assert!(ran.err.contains(path), "{ran:#?}");
    // Cause and hint are indented.
    let errors = ran.err.lines().filter(|line| !line.starts_with(' '));
    assert_eq!(errors.count(), 1, "{ran:#?}");
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
    let left = fixture
        .listing()
        .into_iter()
        .find(|p| p.ends_with("state/c"));
    assert_eq!(left, None);
}

fn hang(mut stream: UnixStream) {
    while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
}

/// Lets the client in.
fn greet(stream: &mut UnixStream) {
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(b"BEGIN\r\n") && stream.read_exact(&mut byte).is_ok() {
        said.push(byte[0]);
    }
    let _ = stream.write_all(b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n");
}

/// The serial of the next call that comes, and its bytes; only little-endian ones come from this machine.
fn next_call(stream: &mut UnixStream) -> Option<(u32, Vec<u8>)> {
    let mut bytes = vec![0; 16];
    stream.read_exact(&mut bytes).ok()?;
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (body, serial, fields) = (number(4), number(8), number(12));
    let rest = (fields as usize).next_multiple_of(8) + body as usize;
    bytes.resize(16 + rest, 0);
    stream.read_exact(&mut bytes[16..]).ok()?;
    Some((serial, bytes))
}

/// Answers the call of this serial.
fn answer<B>(stream: &mut UnixStream, serial: u32, body: &B)
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    let call = Message::method_call("/a", "B").serial(serial.try_into().unwrap());
    let call = call.build(&()).unwrap();
    let message = Message::method_return(&call.header()).build(body).unwrap();
    let _ = stream.write_all(message.data());
}

fn has(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|w| w == word.as_bytes())
}

/// A systemd that answers all but what makes a scope.
fn systemd_without_scopes(stream: UnixStream) {
    systemd_in("/", stream);
}

fn systemd_in(cgroup: &str, mut stream: UnixStream) {
    greet(&mut stream);
    while let Some((serial, call)) = next_call(&mut stream) {
        if has(&call, "StartTransientUnit") {
            continue;
        }
        if has(&call, "Hello") {
            answer(&mut stream, serial, &":1.7");
        } else if has(&call, "Version") {
            answer(&mut stream, serial, &zbus::Variant::from("252"));
        } else if has(&call, "ControlGroup") {
            answer(&mut stream, serial, &zbus::Variant::from(cgroup));
        } else {
            answer(&mut stream, serial, &());
        }
    }
}

#[test]
fn a_bus_that_says_nothing() {
    lodger_only!("a time limit for the bus");
    without_scope(hang, "kept lodger waiting");
}

#[test]
fn a_bus_that_says_nothing_after_the_handshake() {
    lodger_only!("a time limit for the bus");
    let serve: Serve = |mut stream| {
        greet(&mut stream);
        hang(stream);
    };
    without_scope(serve, "kept lodger waiting");
}

#[test]
fn a_systemd_that_does_not_answer_for_the_scope() {
    lodger_only!("a time limit for the bus");
    let mut fixture = Fixture::new();
    fixture.sh("echo it ran");
    let path = bus(&fixture, systemd_without_scopes);
    let said = "kept lodger waiting for the scope's start";
    refused(&fixture, path.to_str().unwrap(), said);
    // Neither has its program run, nor does its process wait.
    assert_eq!(fixture.bare(&["state", "c"]).code, 1);
}

/// As where the bus is handed into a container with a cgroup namespace of its own: a scope would be made out of sight.
#[test]
fn a_systemd_whose_cgroup_is_out_of_sight() {
    lodger_only!("the note");
    let serve: Serve = |stream| systemd_in("/user.slice/elsewhere", stream);
    without_scope(
        serve,
        "its cgroup /user.slice/elsewhere is not beneath /sys/fs/cgroup here",
    );
}

#[test]
fn a_bus_that_talks_without_end() {
    lodger_only!("a time limit for the bus");
    let serve: Serve = |mut stream| {
        greet(&mut stream);
        let signal = Message::signal("/a", "a.b", "C").build(&()).unwrap();
        while stream.write_all(signal.data()).is_ok() {}
    };
    without_scope(serve, "kept lodger waiting");
}

#[test]
fn a_bus_that_closes() {
    lodger_only!("the error's words");
    without_scope(drop, "closed the connection");
    let serve: Serve = |mut stream| greet(&mut stream);
    without_scope(serve, "closed the connection");
}

#[test]
fn a_bus_that_rejects_the_caller() {
    lodger_only!("the error's words");
    let serve: Serve = |mut stream| {
        let _ = stream.write_all(b"REJECTED EXTERNAL\r\n");
        hang(stream);
    };
    without_scope(serve, "does not take the caller");
}

#[test]
fn a_bus_that_talks_nonsense() {
    lodger_only!("the error's words");
    for serve in [
        (|mut stream| {
            let _ = stream.write_all(b"\n\r\n\r\n");
            hang(stream);
        }) as Serve,
        |mut stream| {
            greet(&mut stream);
            let _ = stream.write_all(&[0xff; 256]);
            hang(stream);
        },
        |mut stream| {
            greet(&mut stream);
            while let Some((serial, _)) = next_call(&mut stream) {
                answer(&mut stream, serial + 1000, &());
            }
        },
    ] {
        without_scope(serve, "does not speak D-Bus");
    }
}

#[test]
fn a_bus_that_sends_a_huge_message() {
    lodger_only!("a limit of size");
    let serve: Serve = |mut stream| {
        greet(&mut stream);
        // An answer with a body of 112 MiB, which the specification allows.
        let _ = stream.write_all(b"l\x02\x00\x01\0\0\0\x07\x01\0\0\0\x08\0\0\0");
        while stream.write_all(&[0; 4096]).is_ok() {}
    };
    without_scope(serve, "sends a message of");
}

#[test]
fn a_socket_that_nobody_listens_at() {
    lodger_only!("the error's words");
    let mut fixture = Fixture::new();
    fixture.sh("echo it ran");
    let path = fixture.path("bus");
    drop(UnixListener::bind(&path).unwrap());
    let address = format!("unix:path={}", path.display());
    let ran = run(&fixture, &address, &["--cgroup-manager", "systemd"]).exits(0);
    assert_eq!(ran.out, "it ran\n");
    assert!(ran.err.contains("ECONNREFUSED"), "{ran:#?}");
}

/// Nothing of these is even tried: a program would be run, or somebody else asked.
#[test]
fn an_address_that_is_no_path() {
    lodger_only!("the error's words");
    let mut fixture = Fixture::new();
    fixture.sh("echo it ran");
    let canary = fixture.path("canary");
    let run_it = format!("unixexec:path=/usr/bin/touch,argv1={}", canary.display());
    for address in [
        run_it.as_str(),
        "tcp:host=localhost,port=9",
        "unix:abstract=x",
    ] {
        let ran = run(&fixture, address, &["--cgroup-manager", "systemd"]).exits(0);
        assert_eq!(ran.out, "it ran\n");
        for text in ["DBUS_SESSION_BUS_ADDRESS", "enable-linger"] {
            assert!(ran.err.contains(text), "{ran:#?}");
        }
    }
    assert!(!canary.exists());
}

/// After su(1) the environment may lead to another user's bus: she would learn what is run, and say what it may use.
#[test]
fn another_users_bus_is_not_spoken_to() {
    lodger_only!("switching defences off");
    held_by(&["OwnBus"], || {
        let mut fixture = Fixture::new();
        fixture.sh("echo it ran").write_config();
        let path = fixture.path("bus");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        // A subordinate id plays the other user.
        let mut command = Command::new("/usr/bin/unshare");
        command
            .args(["--user", "--map-root-user", "--map-auto", "/bin/sh", "-ec"])
            .arg("chown 5:5 ../bus; exec \"$0\" --root ../state --cgroup-manager systemd run c")
            .arg(runtime_binary())
            .current_dir(fixture.bundle())
            .env("DBUS_SESSION_BUS_ADDRESS", address(path.to_str().unwrap()))
            .env_remove("XDG_RUNTIME_DIR");
        let ran = spawn(&mut command, b"").wait();
        assert!(
            off().is_some() || ran.err.contains("belongs to uid 5"),
            "{ran:#?}"
        );
        let mut said = Vec::new();
        if let Ok((mut stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.read_to_end(&mut said).unwrap();
        }
        let said = (!said.is_empty()).then(|| String::from_utf8_lossy(&said).into_owned());
        Outcome::of(said, ran.err)
    });
}
