//! SCMP_ACT_NOTIFY: the agent gets the listener and the state, and answers for the kernel.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use nix::libc;
use serde_json::{Value, json};

use crate::harness::{Fixture, Running, lodger_only, peer, peer_differs, spawn, wait_for};
use crate::seccomp::{agent_binary, blocking, filtered, mkdirat};

/// A running agent, and what it was told.
pub(crate) struct Agent {
    directory: PathBuf,
    socket: PathBuf,
    running: Running,
}

impl Agent {
    pub(crate) fn serve(fixture: &Fixture, answer: &str) -> Agent {
        Agent::serve_at(fixture, "agent.sock", answer)
    }

    fn serve_at(fixture: &Fixture, socket: &str, answer: &str) -> Agent {
        let directory = fixture.path("agent");
        fs::create_dir_all(&directory).unwrap();
        let socket = fixture.path(socket);
        let parent = socket.parent().unwrap();
        fs::create_dir_all(parent).unwrap();
        // Bound under its short name: sun_path is short.
        let mut command = Command::new(agent_binary());
        command.arg("serve").arg(socket.file_name().unwrap());
        command.arg(&directory).arg(answer).current_dir(parent);
        let running = spawn(&mut command, b"");
        wait_for("the agent", || socket.exists().then_some(()));
        Agent {
            directory,
            socket,
            running,
        }
    }

    /// The n-th state that came.
    fn state(&self, n: usize) -> Value {
        let path = self.directory.join(n.to_string());
        let text = wait_for("a state", || fs::read_to_string(&path).ok());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// How many states came.
    pub(crate) fn states(&self) -> usize {
        (0..)
            .take_while(|n| self.directory.join(n.to_string()).exists())
            .count()
    }

    pub(crate) fn calls(&self) -> String {
        fs::read_to_string(self.directory.join("calls")).unwrap_or_default()
    }
}

/// A container whose program makes a directory, of which the agent at `agent.sock` is notified.
pub(crate) fn notifying(names: &[&str]) -> Fixture {
    let mut fixture = filtered(blocking(names, "SCMP_ACT_NOTIFY"));
    let path = fixture.path("agent.sock");
    fixture.config["linux"]["seccomp"]["listenerPath"] = json!(path);
    fixture.config["linux"]["seccomp"]["listenerMetadata"] = json!("for you");
    fixture.config["annotations"] = json!({"org.example": "x"});
    let args = mkdirat();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    fixture.args(&args);
    fixture
}

#[test]
fn the_agent_answers_a_call_in_place_of_the_kernel() {
    for no_new_privs in [true, false] {
        for (answer, told) in [
            ("value=7", "value 7\n"),
            ("errno=123", "errno 123\n"),
            ("continue", "value 0\n"),
        ] {
            let mut fixture = notifying(&["mkdirat"]);
            fixture.config["process"]["noNewPrivileges"] = json!(no_new_privs);
            let agent = Agent::serve(&fixture, answer);
            assert_eq!(fixture.run().ok(), told);
            let made = fixture.rootfs().join("tmp/made").exists();
            assert_eq!(made, answer == "continue", "{answer}");
            let calls = agent.calls();
            assert_eq!(calls.lines().count(), 1, "{calls}");
            assert!(
                calls.starts_with(&format!("{} ", libc::SYS_mkdirat)),
                "{calls}"
            );
            assert_eq!(agent.states(), 1);
        }
    }
}

#[test]
fn the_agent_is_told_of_the_process_and_its_container() {
    let mut fixture = notifying(&["mkdirat"]);
    fixture.args(&["/bin/sleep", "600"]);
    let agent = Agent::serve(&fixture, "value=7");
    fixture.runtime(&["create", "c"]).ok();
    fixture.bare(&["start", "c"]).ok();
    let pid = fixture.state("c")["pid"].clone();
    let told = agent.state(0);
    assert_eq!(told["fds"], json!(["seccompFd"]));
    assert_eq!(told["pid"], pid);
    assert_eq!(told["metadata"], "for you");
    let container = &told["state"];
    assert_eq!(container["id"], "c");
    assert_eq!(container["pid"], pid);
    assert_eq!(container["bundle"], json!(fixture.bundle()));
    assert!(told["ociVersion"].is_string() && container["ociVersion"].is_string());
    if !peer() {
        let closed = agent.directory.join("0.closed");
        let more = wait_for("the end of the connection", || fs::read(&closed).ok());
        assert_eq!(more, b"", "there is one state a connection");
        assert_eq!(told["ociVersion"], "1.3.0");
        assert_eq!(container["ociVersion"], "1.0.2");
        assert_eq!(container["status"], "created");
        assert_eq!(container["annotations"], json!({"org.example": "x"}));
    }
    peer_differs!(
        "runc",
        "1.1 cannot hand over for exec without root (pidfd_getfd is refused)"
    );
    // A process that joins has a filter and a connection of its own.
    let mkdirat = mkdirat();
    let mut exec = vec!["exec", "c"];
    exec.extend(mkdirat.iter().map(String::as_str));
    assert_eq!(fixture.bare(&exec).ok(), "value 7\n");
    let of_exec = agent.state(1);
    assert_eq!(of_exec["fds"], json!(["seccompFd"]));
    assert_ne!(of_exec["pid"], pid);
    assert_eq!(of_exec["metadata"], "for you");
    peer_differs!(
        "crun",
        "1.8 tells the agent of an exec that process and container have the pid 0"
    );
    assert_eq!(of_exec["state"]["pid"], pid);
    assert_eq!(of_exec["state"]["status"], "running");
    assert_eq!(agent.states(), 2);
}

/// The calls of a runtime after its filter is loaded are its own business: this one makes none but execve.
#[test]
fn the_agent_may_be_notified_of_every_call_of_a_runtime() {
    peer_differs!(
        "runc",
        "1.1 refuses to notify of write, and has the agent notified of its own close and futex"
    );
    peer_differs!("crun", "1.8 has the agent notified of its own close");
    let calls = [
        "write", "sendmsg", "recvmsg", "sendto", "recvfrom", "execve", "futex", "prctl", "capset",
        "close", "mkdirat",
    ];
    let fixture = notifying(&calls);
    let agent = Agent::serve(&fixture, "continue");
    assert_eq!(fixture.run().ok(), "value 0\n");
    let execve = format!("{} ", libc::SYS_execve);
    assert!(agent.calls().starts_with(&execve), "{}", agent.calls());
    fixture.runtime(&["create", "d"]).ok();
    fixture.bare(&["start", "d"]).ok();
    fixture.wait_status("d", "stopped");
    assert_eq!(agent.states(), 2);
}

#[test]
fn without_its_agent_there_is_no_container() {
    let fixture = notifying(&["mkdirat"]);
    let text = "cannot reach the seccomp agent at ";
    for verb in ["run", "create"] {
        fixture.runtime(&[verb, "c"]).fails(1, text);
        assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
    }
    // One that was there.
    let agent = Agent::serve(&fixture, "value=0");
    agent.running.signal("KILL");
    agent.running.wait().exits(128 + libc::SIGKILL);
    assert!(agent.socket.exists());
    for verb in ["run", "create"] {
        fixture.runtime(&[verb, "c"]).fails(1, text);
        assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
    }
    assert!(!fixture.rootfs().join("tmp/made").exists());
}

#[test]
fn an_agent_that_goes_before_start_makes_start_fail() {
    peer_differs!("runc", "1.1 hands over at create");
    peer_differs!("crun", "1.8 hands over at create");
    let fixture = notifying(&["mkdirat"]);
    let agent = Agent::serve(&fixture, "value=0");
    fixture.runtime(&["create", "c"]).ok();
    agent.running.signal("KILL");
    agent.running.wait().exits(128 + libc::SIGKILL);
    let text = "cannot reach the seccomp agent at ";
    fixture.bare(&["start", "c"]).fails(1, text);
    // Nothing was done yet: with an agent it can be started.
    assert_eq!(fixture.status("c"), "created");
    fs::remove_file(&agent.socket).unwrap();
    let agent = Agent::serve(&fixture, "value=0");
    fixture.bare(&["start", "c"]).ok();
    fixture.wait_status("c", "stopped");
    assert_eq!(agent.calls().lines().count(), 1);
}

#[test]
fn an_exec_without_the_agent_fails() {
    let mut fixture = notifying(&["mkdirat"]);
    fixture.args(&["/bin/sleep", "600"]);
    let agent = Agent::serve(&fixture, "value=0");
    fixture.runtime(&["run", "-d", "c"]).ok();
    // crun's `run -d` returns before the agent has the listener, and its container ends without.
    agent.state(0);
    agent.running.signal("KILL");
    agent.running.wait().exits(128 + libc::SIGKILL);
    let text = "cannot reach the seccomp agent at ";
    fixture.bare(&["exec", "c", "/bin/true"]).fails(255, text);
    assert_eq!(fixture.status("c"), "running");
}

#[test]
fn after_the_end_of_its_agent_a_call_does_not_exist() {
    let mut fixture = notifying(&["mkdirat"]);
    let call = mkdirat().join(" ");
    let agent = Agent::serve(&fixture, "value=0");
    let fifo = fixture.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fixture.mount(
        json!({"destination": "/fifo", "type": "bind", "source": fifo, "options": ["bind"]}),
    );
    fixture.sh(&format!("read x </fifo; {call}"));
    let running = fixture.background(&["run", "c"], b"");
    // The program is run once the agent has this.
    agent.state(0);
    agent.running.signal("KILL");
    agent.running.wait().exits(128 + libc::SIGKILL);
    // Open both ways, so that nobody has to be there yet.
    let mut both = fs::OpenOptions::new();
    let mut both = both.read(true).write(true).open(&fifo).unwrap();
    both.write_all(b"go\n").unwrap();
    assert_eq!(running.wait().ok(), "errno 38\n");
}

#[test]
fn the_path_of_an_agent_may_be_long() {
    peer_differs!("runc", "1.1 takes what fits into sun_path");
    let mut fixture = notifying(&["mkdirat"]);
    let deep = ["d"; 12].map(|d| d.repeat(20)).join("/") + "/agent.sock";
    let agent = Agent::serve_at(&fixture, &deep, "value=7");
    fixture.config["linux"]["seccomp"]["listenerPath"] = json!(agent.socket);
    assert_eq!(fixture.run().ok(), "value 7\n");
    let args = ["create", "d"];
    fixture.runtime(&args).ok();
}

#[test]
fn a_listener_that_no_rule_notifies_is_ignored() {
    peer_differs!("crun", "1.8 connects to the agent all the same");
    let mut fixture = notifying(&["mkdirat"]);
    fixture.config["linux"]["seccomp"]["syscalls"][0]["action"] = json!("SCMP_ACT_ERRNO");
    assert_eq!(fixture.run().ok(), "errno 1\n");
}

#[test]
fn the_flags_of_a_listener_are_given_to_the_kernel() {
    peer_differs!("runc", "1.1 refuses a filter with flags");
    peer_differs!(
        "crun",
        "1.8 fails with EINVAL where a listener has SECCOMP_FILTER_FLAG_TSYNC"
    );
    let mut fixture = notifying(&["mkdirat"]);
    fixture.config["linux"]["seccomp"]["flags"] = json!([
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_LOG"
    ]);
    let _agent = Agent::serve(&fixture, "value=7");
    assert_eq!(fixture.run().ok(), "value 7\n");
}

#[test]
fn a_large_state_arrives_whole() {
    lodger_only!("a limit of the metadata");
    let mut fixture = notifying(&["mkdirat"]);
    let metadata = "m".repeat(1 << 20);
    fixture.config["linux"]["seccomp"]["listenerMetadata"] = json!(metadata);
    let agent = Agent::serve(&fixture, "value=7");
    assert_eq!(fixture.run().ok(), "value 7\n");
    assert_eq!(agent.state(0)["metadata"], json!(metadata));
}
