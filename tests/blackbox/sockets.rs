//! Fds that cross a socket or an execve: the console, a pidfd, and what the caller has open.

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Instant;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::base::patient;
use crate::harness::{
    Fixture, LIMIT, lodger_only, peer, peer_differs, read_lossy, spawn, wait_for,
};

/// A socket on which the test waits for one fd, as an engine does.
pub(crate) struct Receiver {
    listener: UnixListener,
    path: PathBuf,
}

impl Receiver {
    pub(crate) fn new(path: PathBuf) -> Receiver {
        // Bound under a short name: sun_path is short, wherever the socket lies.
        let directory = fs::File::open(path.parent().unwrap()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let short = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        let listener = UnixListener::bind(short).unwrap();
        listener.set_nonblocking(true).unwrap();
        Receiver { listener, path }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// What came: the text and the fd.
    pub(crate) fn receive(&self) -> (String, OwnedFd) {
        let stream = wait_for("a connection", || {
            self.listener.accept().ok().map(|(stream, _)| stream)
        });
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(patient(LIMIT))).unwrap();
        take(&stream)
    }

    fn was_called(&self) -> bool {
        self.listener.accept().is_ok()
    }
}

fn take(stream: &UnixStream) -> (String, OwnedFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0u8; 256];
    let mut data = [IoSliceMut::new(&mut text)];
    let got =
        rustix::net::recvmsg(stream, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds: Vec<OwnedFd> = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = part {
            fds.extend(some);
        }
    }
    assert_eq!(fds.len(), 1, "exactly one fd");
    let text = String::from_utf8_lossy(&text[..got.bytes]).into_owned();
    (text, fds.pop().unwrap())
}

/// Reads from a terminal's first end until `text` has come.
pub(crate) fn expect(terminal: &mut fs::File, text: &str) -> String {
    let begin = Instant::now();
    let mut seen = String::new();
    let mut bytes = [0u8; 1024];
    while !seen.contains(text) {
        assert!(begin.elapsed() < patient(LIMIT), "no {text:?} in {seen:?}");
        match terminal.read(&mut bytes) {
            Ok(count) => seen.push_str(&String::from_utf8_lossy(&bytes[..count])),
            Err(error) => panic!("{error} after {seen:?}"),
        }
    }
    seen
}

fn with_terminal(script: &str) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.config["process"]["terminal"] = true.into();
    fixture.sh(script).write_config();
    fixture
}

#[test]
fn the_console_of_a_created_container_is_handed_over() {
    let fixture = with_terminal("tty; read x; echo got $x");
    let receiver = Receiver::new(fixture.path("s"));
    fixture
        .bare(&["create", "--console-socket", receiver.path(), "c"])
        .ok();
    let (name, master) = receiver.receive();
    assert!(name.starts_with("/dev/p") || peer(), "{name:?}");
    let mut terminal = fs::File::from(master);
    fixture.bare(&["start", "c"]).ok();
    expect(&mut terminal, "/dev/pts/0");
    terminal.write_all(b"this\r").unwrap();
    expect(&mut terminal, "got this");
    fixture.wait_status("c", "stopped");
}

#[test]
fn the_console_of_a_detached_run_and_exec_is_handed_over() {
    let fixture = with_terminal("echo of run; sleep 600");
    let receiver = Receiver::new(fixture.path("s"));
    fixture
        .bare(&["run", "-d", "--console-socket", receiver.path(), "c"])
        .ok();
    let mut terminal = fs::File::from(receiver.receive().1);
    expect(&mut terminal, "of run");
    let exec = [
        "exec",
        "-t",
        "-d",
        "--console-socket",
        receiver.path(),
        "c",
        "/bin/echo",
        "of exec",
    ];
    fixture.bare(&exec).ok();
    let mut terminal = fs::File::from(receiver.receive().1);
    expect(&mut terminal, "of exec");
}

#[test]
fn the_path_of_a_console_socket_may_be_long() {
    peer_differs!("runc", "1.1 takes what fits into sun_path");
    let fixture = with_terminal("echo hello; sleep 600");
    let deep = fixture.path(&["d"; 12].map(|d| d.repeat(20)).join("/"));
    fs::create_dir_all(&deep).unwrap();
    let receiver = Receiver::new(deep.join("console.sock"));
    assert!(receiver.path().len() > 200);
    fixture
        .bare(&["run", "-d", "--console-socket", receiver.path(), "c"])
        .ok();
    expect(&mut fs::File::from(receiver.receive().1), "hello");
}

#[test]
fn a_console_socket_that_does_not_fit_is_an_error() {
    lodger_only!("the wording");
    let mut fixture = with_terminal("true");
    let receiver = Receiver::new(fixture.path("s"));
    let without = "cannot allocate tty if lodger will detach without setting console socket";
    let useless = "cannot use console socket if lodger will not detach or allocate tty";
    fixture.bare(&["create", "c"]).fails(1, without);
    fixture.bare(&["run", "-d", "c"]).fails(1, without);
    fixture
        .bare(&["run", "--console-socket", receiver.path(), "c"])
        .fails(1, useless);
    fixture.config["process"]["terminal"] = false.into();
    fixture.write_config();
    for verb in [&["create"][..], &["run", "-d"], &["run"]] {
        let args = [verb, &["--console-socket", receiver.path(), "c"]].concat();
        fixture.bare(&args).fails(1, useless);
    }
    assert!(!receiver.was_called());
    fixture.sleeping("d");
    fixture
        .bare(&["exec", "-t", "-d", "d", "true"])
        .fails(255, without);
    fixture
        .bare(&[
            "exec",
            "-d",
            "--console-socket",
            receiver.path(),
            "d",
            "true",
        ])
        .fails(255, useless);
}

#[test]
fn a_console_socket_that_nobody_listens_on_stops_the_start() {
    let fixture = with_terminal("true");
    let nobody = fixture.path("nobody");
    let dead = fixture.path("dead");
    drop(UnixListener::bind(&dead).unwrap());
    let file = fixture.path("file");
    fs::write(&file, "").unwrap();
    for path in [nobody, dead, file] {
        let path = path.to_str().unwrap();
        fixture
            .bare(&["create", "--console-socket", path, "c"])
            .fails(1, "cannot use --console-socket");
        assert_ne!(fixture.bare(&["state", "c"]).code, 0);
    }
}

#[test]
fn a_pidfd_is_handed_over() {
    peer_differs!("crun", "1.8 has no --pidfd-socket");
    peer_differs!("runc", "1.1 has no --pidfd-socket");
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]).write_config();
    let receiver = Receiver::new(fixture.path("s"));
    let pid_of = |pidfd: &OwnedFd| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("Pid:"))
            .unwrap();
        line.trim().to_owned()
    };
    for args in [&["create"][..], &["run", "-d"]] {
        let args = [args, &["--pidfd-socket", receiver.path(), "c"]].concat();
        fixture.bare(&args).ok();
        let (_, pidfd) = receiver.receive();
        assert_eq!(pid_of(&pidfd), fixture.state("c")["pid"].to_string());
        if args[0] == "create" {
            fixture.bare(&["delete", "-f", "c"]).ok();
        }
    }
    let pid_file = fixture.path("pid");
    let exec = [
        "exec",
        "-d",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "--pidfd-socket",
        receiver.path(),
        "c",
        "/bin/sleep",
        "600",
    ];
    fixture.bare(&exec).ok();
    let (_, pidfd) = receiver.receive();
    assert_eq!(pid_of(&pidfd), read_lossy(&pid_file));
}

/// Runs the shell script `outer` on the host, in which `"$@"` is the runtime with `args`.
fn around(fixture: &Fixture, outer: &str, args: &[&str]) -> crate::harness::Ran {
    let inner = fixture.command(args);
    around_program(fixture, outer, inner.get_program().to_str().unwrap(), args)
}

fn around_program(
    fixture: &Fixture,
    outer: &str,
    program: &str,
    args: &[&str],
) -> crate::harness::Ran {
    let inner = fixture.command(args);
    let mut shell = std::process::Command::new("/bin/bash");
    shell
        .args(["-c", outer, "bash", program])
        .args(inner.get_args())
        .current_dir(fixture.bundle());
    spawn(&mut shell, b"").wait()
}

const OPEN_TWO: &str = "exec 3<<<three 4<<<four 5<<<five; \"$@\"";
const READ_TWO: &str =
    "cat <&3; cat <&4; ls /proc/self/fd | wc -l; cat <&5 2>/dev/null || echo no five";

#[test]
fn preserved_files_keep_their_numbers() {
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/bash", "-c", READ_TWO]).write_config();
    let expected = "three\nfour\n6\nno five\n";
    let ran = around(&fixture, OPEN_TWO, &["run", "--preserve-fds", "2", "c"]);
    assert_eq!(ran.ok(), expected);
    let ran = around(&fixture, OPEN_TWO, &["run", "c"]);
    assert!(ran.err.contains("3: Bad file descriptor"), "{ran:?}");
    fixture.sleeping("d");
    let exec = ["exec", "--preserve-fds=2", "d", "/bin/bash", "-c", READ_TWO];
    assert_eq!(around(&fixture, OPEN_TWO, &exec).ok(), expected);
}

/// A created container keeps them until it is started.
#[test]
fn preserved_files_wait_for_start() {
    let mut fixture = Fixture::new();
    let source = fixture.path("shared");
    fs::create_dir(&source).unwrap();
    fixture.mount(serde_json::json!({
        "destination": "/tmp", "type": "bind", "source": source.to_str().unwrap(), "options": ["bind"]
    }));
    fixture
        .args(&["/bin/bash", "-c", "cat <&3 >/tmp/got"])
        .write_config();
    around(&fixture, OPEN_TWO, &["create", "--preserve-fds", "1", "c"]).ok();
    fixture.bare(&["start", "c"]).ok();
    wait_for("the file", || {
        let got = fs::read_to_string(source.join("got")).unwrap_or_default();
        (got == "three\n").then_some(())
    });
}

#[test]
fn preserved_files_pass_a_runtime_that_has_to_protect_itself() {
    lodger_only!("running from a sealed copy");
    let mut fixture = Fixture::new();
    let own = fixture.path("lodger");
    crate::harness::copy_program(&crate::harness::runtime_binary(), &own);
    fixture.args(&["/bin/bash", "-c", READ_TWO]).write_config();
    let args = ["run", "--preserve-fds", "2", "c"];
    let ran = around_program(&fixture, OPEN_TWO, own.to_str().unwrap(), &args);
    assert_eq!(ran.ok(), "three\nfour\n6\nno five\n");
}

#[test]
fn files_that_are_not_open_cannot_be_preserved() {
    peer_differs!("runc", "1.1 passes on what it has open itself");
    peer_differs!("crun", "1.8 passes on what it has open itself");
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/true"]).write_config();
    let text = "unable to stat preserved-fd 1 (of 1)";
    fixture
        .bare(&["run", "--preserve-fds", "1", "c"])
        .fails(1, text);
    let log = fixture.path("log");
    let root = fixture.path("state");
    // A file that the runtime itself has open is none of the caller's.
    let mut command = std::process::Command::new(crate::harness::runtime_binary());
    command
        .args([
            "--log",
            log.to_str().unwrap(),
            "--root",
            root.to_str().unwrap(),
        ])
        .args(["run", "--preserve-fds", "1", "c"])
        .current_dir(fixture.bundle());
    spawn(&mut command, b"").wait().fails(1, text);
    let gap = around(
        &fixture,
        "exec 3<&- 4<<<four; \"$@\"",
        &["run", "--preserve-fds", "2", "c"],
    );
    gap.fails(1, "unable to stat preserved-fd 1 (of 2)");
}

/// sd_listen_fds(3): the sockets come first, and the program is told.
#[test]
fn sockets_of_systemd_are_passed_on() {
    peer_differs!("crun", "1.8 does not tell the program how many there are");
    let mut fixture = Fixture::new();
    let script = "echo $LISTEN_FDS:$LISTEN_PID:$$:$LISTEN_FDNAMES; cat <&3; cat <&4";
    fixture.args(&["/bin/bash", "-c", script]).write_config();
    let outer = "export LISTEN_FDS=1 LISTEN_FDNAMES=web; exec 3<<<three 4<<<four; exec /bin/bash -c 'LISTEN_PID=$$ exec \"$@\"' bash \"$@\"";
    let ran = around(&fixture, outer, &["run", "--preserve-fds", "1", "c"]);
    let names = if peer() { "" } else { "web" };
    assert_eq!(ran.ok(), format!("1:1:1:{names}\nthree\nfour\n"));
    if peer() {
        return;
    }
    // Meant for another process: not ours to pass on.
    let outer = outer.replace("LISTEN_PID=$$", "LISTEN_PID=1");
    fixture
        .args(&["/bin/bash", "-c", "echo [$LISTEN_FDS]; cat <&3"])
        .write_config();
    let ran = around(&fixture, &outer, &["run", "--preserve-fds", "1", "c"]);
    assert_eq!(ran.ok(), "[]\nthree\n");
}

/// Whoever listens, and never accepts, keeps nobody waiting for ever.
#[test]
fn a_listener_that_does_not_accept_is_an_error() {
    lodger_only!("a limit of the time to connect");
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    let mut fixture = Fixture::new();
    let path = fixture.path("idle");
    let address = SocketAddrUnix::new(&path).unwrap();
    let socket = || rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let listener = socket();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    // The one for whom there is room.
    let first = socket();
    rustix::net::connect(&first, &address).unwrap();
    let at = path.to_str().unwrap();
    let text = ": EAGAIN (";
    fixture
        .runtime(&["run", "--pidfd-socket", at, "c"])
        .fails(1, text);
    fixture.config["linux"]["seccomp"] = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        "listenerPath": at,
    });
    fixture.runtime(&["create", "c"]).ok();
    fixture.bare(&["start", "c"]).fails(1, text);
    assert_eq!(fixture.status("c"), "created");
    fixture.bare(&["delete", "-f", "c"]).ok();
}
