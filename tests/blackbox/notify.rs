//! NOTIFY_SOCKET (sd_notify(3)): the program tells the caller's service manager that it is ready, and who starts it and leaves
//! waits for that.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::{Receiver, channel};

use serde_json::json;

use crate::harness::{Fixture, LIMIT, Running, lodger_only, peer_differs, spawn, wait_for};

/// A service manager that reads all the time, and what its services get as NOTIFY_SOCKET.
pub(crate) struct Manager {
    messages: Receiver<String>,
    address: String,
    own: SocketAddr,
}

impl Manager {
    pub(crate) fn new(fixture: &Fixture) -> Manager {
        let path = fixture.path("manager");
        let own = SocketAddr::from_pathname(&path).unwrap();
        Manager::at(own, path.to_str().unwrap())
    }

    /// At an abstract address.
    fn abstract_one() -> Manager {
        let name = format!("lodger-test-{}", std::process::id());
        let own = SocketAddr::from_abstract_name(&name).unwrap();
        Manager::at(own, &format!("@{name}"))
    }

    fn at(own: SocketAddr, address: &str) -> Manager {
        let socket = UnixDatagram::bind_addr(&own).unwrap();
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0u8; 8192];
            // The file that comes with a barrier is closed, as it is not taken.
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if text != "BARRIER=1" && sender.send(text).is_err() {
                    break;
                }
            }
        });
        Manager {
            messages,
            address: address.to_owned(),
            own,
        }
    }

    /// The lines of the next message.
    pub(crate) fn hears(&self) -> Vec<String> {
        let text = self.messages.recv_timeout(LIMIT).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Everything else that was sent until now.
    fn heard(&self) -> String {
        let last = "the last one";
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to_addr(last.as_bytes(), &self.own).unwrap();
        let messages = self.messages.iter().take_while(|text| text != last);
        messages.collect::<Vec<_>>().join("\n")
    }
}

/// A fixture whose program sends these words (`probe notify`), and a directory that both sides can write to.
fn telling(words: &[&str]) -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fixture.add_probe();
    fs::create_dir(fixture.path("shared")).unwrap();
    let shared = fixture.path("shared");
    fixture.mount(json!({"destination": "/shared", "type": "bind", "source": shared.to_str().unwrap(), "options": ["bind"]}));
    let mut args = vec!["/probe", "notify"];
    args.extend(words);
    fixture.args(&args);
    fixture
}

fn go(fixture: &Fixture, name: &str) {
    fs::write(fixture.path("shared").join(name), "").unwrap();
}

/// The runtime, as a service of the manager.
pub(crate) fn start(fixture: &Fixture, manager: &Manager, args: &[&str]) -> Running {
    fixture.write_config();
    let mut command = fixture.command(args);
    spawn(command.env("NOTIFY_SOCKET", &manager.address), b"")
}

fn pid_of(fixture: &Fixture) -> String {
    format!("MAINPID={}", fixture.state("c")["pid"])
}

/// What comes with READY=1 and after it until the main process is told.
fn assert_ready(manager: &Manager, main: &str) {
    let mut lines = Vec::new();
    while !lines.iter().any(|line| line == main) {
        lines.extend(manager.hears());
    }
    assert!(lines.contains(&"READY=1".to_owned()), "{lines:?}");
}

#[test]
fn a_detached_run_returns_when_the_program_is_ready() {
    peer_differs!("crun", "1.8.1 tells READY=1 without the pid of the program");
    for manager in [None, Some(Manager::abstract_one())] {
        let words = ["wait:/shared/1", "READY=1", "wait:/shared/2"];
        let fixture = telling(&words);
        let manager = manager.unwrap_or_else(|| Manager::new(&fixture));
        let mut run = start(&fixture, &manager, &["run", "-d", "c"]);
        fixture_runs(&fixture);
        assert!(run.wait_at_most(std::time::Duration::ZERO).is_none());
        go(&fixture, "1");
        run.wait().exits(0);
        assert_ready(&manager, &pid_of(&fixture));
        assert_eq!(fixture.status("c"), "running");
        go(&fixture, "2");
        fixture.wait_status("c", "stopped");
    }
}

fn fixture_runs(fixture: &Fixture) {
    wait_for("the program to run", || {
        let ran = fixture.bare(&["state", "c"]);
        ran.out.contains("\"running\"").then_some(())
    });
}

#[test]
fn a_start_returns_when_the_program_is_ready() {
    peer_differs!("crun", "1.8.1 tells READY=1 without the pid of the program");
    let fixture = telling(&["wait:/shared/1", "READY=1", "wait:/shared/2"]);
    let manager = Manager::new(&fixture);
    start(&fixture, &manager, &["create", "c"]).wait().exits(0);
    assert_eq!(fixture.status("c"), "created");
    let mut run = start(&fixture, &manager, &["start", "c"]);
    fixture_runs(&fixture);
    assert!(run.wait_at_most(std::time::Duration::ZERO).is_none());
    go(&fixture, "1");
    run.wait().exits(0);
    assert_ready(&manager, &pid_of(&fixture));
    fixture.bare(&["delete", "-f", "c"]).ok();
    assert!(!fixture.path("state/c").exists());
}

/// Nobody waits for a message from a program that has ended.
#[test]
fn a_program_that_ends_without_a_word_is_not_waited_for() {
    peer_differs!("runc", "1.1.5 waits for ever with `run -d`");
    let fixture = telling(&[]);
    let manager = Manager::new(&fixture);
    start(&fixture, &manager, &["run", "-d", "c"])
        .wait()
        .exits(0);
    fixture.wait_status("c", "stopped");
    fixture.bare(&["delete", "c"]).ok();
    start(&fixture, &manager, &["create", "c"]).wait().exits(0);
    start(&fixture, &manager, &["start", "c"]).wait().exits(0);
    assert_eq!(manager.heard(), "");
}

/// Who stays is the main process, and passes on all that the program tells of itself.
#[test]
fn a_foreground_run_passes_on_what_the_program_tells() {
    lodger_only!("passing on more than READY=1");
    let message = "STATUS=busy\nMAINPID=1\nFDSTORE=1\nREADY=1";
    let fixture = telling(&[
        "STATUS=hello",
        message,
        "MAINPID=2",
        "WATCHDOG=1",
        "STOPPING=1",
    ]);
    let manager = Manager::new(&fixture);
    let ran = start(&fixture, &manager, &["run", "c"]).wait().exits(0);
    assert_eq!(
        (ran.out.as_str(), ran.err.as_str()),
        ("/run/notify/notify.sock\n", "")
    );
    assert_eq!(manager.hears(), ["STATUS=hello"]);
    assert_eq!(manager.hears(), ["STATUS=busy", "READY=1"]);
    assert_eq!(manager.hears(), ["WATCHDOG=1"]);
    assert_eq!(manager.hears(), ["STOPPING=1"]);
    assert_eq!(manager.heard(), "");
}

/// With a terminal there is something else to wait for as well.
#[test]
fn a_foreground_run_with_a_terminal_passes_it_on_too() {
    lodger_only!("passing on more than READY=1");
    let fixture = telling(&["READY=1", "wait:/shared/1", "STATUS=later"]);
    let manager = Manager::new(&fixture);
    let run = start(&fixture, &manager, &["run", "-t", "c"]);
    assert_eq!(manager.hears(), ["READY=1"]);
    go(&fixture, "1");
    assert_eq!(manager.hears(), ["STATUS=later"]);
    run.wait().exits(0);
}

/// The socket is for every id of the container, and nothing else of the host's is there.
#[test]
fn a_program_of_any_id_reaches_its_socket() {
    peer_differs!(
        "runc",
        "1.1.5 makes the directory of the socket with the caller's umask"
    );
    peer_differs!(
        "crun",
        "1.8.1 makes the directory of the socket for its owner alone"
    );
    let mut fixture = telling(&["READY=1"]);
    fixture.config["process"]["user"] = json!({"uid": 7, "gid": 7});
    fixture.config["process"]["env"] = json!(["PATH=/bin", "NOTIFY_SOCKET=/else/where"]);
    let manager = Manager::new(&fixture);
    let mut run = fixture.command(&["run", "c"]);
    fixture.write_config();
    run.env("NOTIFY_SOCKET", &manager.address);
    spawn(umask(&mut run), b"").wait().exits(0);
    assert_eq!(manager.hears(), ["READY=1"]);
}

/// The command with a umask that leaves nothing to others.
fn umask(command: &mut std::process::Command) -> &mut std::process::Command {
    let mut shell = std::process::Command::new("/bin/sh");
    shell
        .args(["-c", "umask 077; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap());
    }
    shell.current_dir(command.get_current_dir().unwrap());
    *command = shell;
    command
}

/// It is set where the caller has it, and then only in the container that was made with it.
#[test]
fn without_a_manager_there_is_no_socket() {
    let mut fixture = telling(&["READY=1"]);
    let ran = fixture.run().exits(1);
    assert_eq!(ran.out, "no NOTIFY_SOCKET\n");
    fixture.write_config();
    let mut run = fixture.command(&["run", "c"]);
    spawn(run.env("NOTIFY_SOCKET", ""), b"").wait().exits(1);
    fixture.args(&["/bin/ls", "/run"]);
    assert_eq!(fixture.run().ok(), "");
}

#[test]
fn a_start_with_a_manager_of_a_container_without_one_starts_it() {
    peer_differs!(
        "runc",
        "1.1.5 fails, as there is no directory for the socket"
    );
    peer_differs!(
        "crun",
        "1.8.1 fails, as there is no directory for the socket"
    );
    let mut fixture = telling(&[]);
    fixture.args(&["/bin/sleep", "600"]);
    let manager = Manager::new(&fixture);
    fixture.runtime(&["create", "c"]).ok();
    start(&fixture, &manager, &["start", "c"]).wait().exits(0);
    assert_eq!(fixture.status("c"), "running");
}

#[test]
fn a_start_without_a_manager_of_a_container_with_one_starts_it() {
    let mut fixture = telling(&[]);
    fixture.args(&["/bin/sleep", "600"]);
    let manager = Manager::new(&fixture);
    start(&fixture, &manager, &["create", "c"]).wait().exits(0);
    fixture.bare(&["start", "c"]).ok();
    assert_eq!(fixture.status("c"), "running");
}

/// It is said, and nobody waits to tell it.
#[test]
fn a_manager_that_cannot_be_reached_is_told_of() {
    lodger_only!("the note");
    for address in ["/no/such/socket", "relative", "vsock:2:1"] {
        for args in [&["run", "-d", "c"][..], &["run", "c"]] {
            let mut fixture = telling(&[]);
            fixture.args(&["/bin/sleep", "0"]).write_config();
            let mut run = fixture.command(args);
            let ran = spawn(run.env("NOTIFY_SOCKET", address), b"")
                .wait()
                .exits(0);
            assert!(ran.err.contains("note: NOTIFY_SOCKET: "), "{ran:?}");
        }
    }
}

/// Others may end a container whose program never says that it is ready.
#[test]
fn a_container_that_is_waited_for_can_be_deleted() {
    peer_differs!("runc", "1.1.5 waits for ever with `run -d`");
    peer_differs!(
        "crun",
        "1.8.1 gives the container's exit status in spite of --detach"
    );
    let mut fixture = telling(&[]);
    fixture.args(&["/bin/sleep", "600"]);
    let manager = Manager::new(&fixture);
    let run = start(&fixture, &manager, &["run", "-d", "c"]);
    fixture_runs(&fixture);
    fixture.bare(&["delete", "-f", "c"]).ok();
    run.wait().exits(0);
    assert!(!fixture.path("state/c").exists());
}

/// A root that has no place for it says so.
#[test]
fn a_root_without_a_place_for_the_socket_is_named() {
    lodger_only!("the error");
    let mut fixture = telling(&[]);
    fs::remove_dir(fixture.rootfs().join("run")).unwrap();
    fs::write(fixture.rootfs().join("run"), "a file").unwrap();
    fixture.args(&["/bin/true"]);
    let manager = Manager::new(&fixture);
    let ran = start(&fixture, &manager, &["run", "c"]).wait();
    let ran = ran.fails(1, "NOTIFY_SOCKET");
    assert!(ran.err.contains("/run/notify"), "{ran:?}");
    assert!(!fixture.path("state/c").exists());
}
