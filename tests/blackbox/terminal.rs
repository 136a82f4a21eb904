//! Containers on a terminal, the caller's being a real one.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::harness::{Fixture, lodger_only, peer, peer_differs, read_lossy, spawn, wait_for};
use crate::pty::{Instead, PROMPT, Pty};

/// A bundle whose program is a shell with a prompt, on a terminal.
fn shell() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.config["process"]["terminal"] = true.into();
    let env = json!([
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM=xterm",
        format!("PS1={PROMPT}")
    ]);
    fixture.config["process"]["env"] = env;
    fixture.args(&["/bin/sh", "-i"]);
    fixture.write_config();
    fixture
}

/// `run` of [`shell`], at its prompt.
fn at_prompt(fixture: &Fixture) -> Pty {
    let mut pty = Pty::spawn(&fixture.command(&["run", "c"]));
    pty.expect(PROMPT);
    pty
}

/// Runs `cat` in the shell, in the foreground.
fn run_cat(pty: &mut Pty) {
    pty.line("echo cat ''begins; cat");
    pty.expect("cat begins\r\n");
    pty.answered("typed");
}

#[test]
fn the_program_has_a_terminal_of_the_containers_own() {
    let fixture = shell();
    let mut pty = at_prompt(&fixture);
    assert_eq!(pty.ask("tty"), "/dev/pts/0\r\n");
    // The controlling terminal, the console and the standard streams are one and the same.
    let devices = pty.ask("stat -c %t:%T /dev/console /dev/pts/0 | uniq | wc -l");
    assert_eq!(devices, "1\r\n");
    let seen = pty.ask("echo to the terminal >/dev/tty; echo to the console >/dev/console");
    assert_eq!(seen, "to the terminal\r\nto the console\r\n");
    let seen = pty.ask("read x s p g S t rest </proc/$$/stat; echo t$t session $S pid $$");
    assert!(!seen.contains("t0 "), "a controlling terminal: {seen:?}");
    assert!(seen.contains("session 1 pid 1\r\n"), "{seen:?}");
    pty.line("exit 7");
    assert_eq!(pty.wait().0, 7);
    assert!(pty.is_cooked());
}

#[test]
fn the_option_gives_a_terminal() {
    lodger_only!("run -t");
    let mut fixture = Fixture::new();
    fixture.args(&["tty"]).write_config();
    let mut pty = Pty::spawn(&fixture.command(&["run", "c"]));
    let (code, seen) = pty.wait();
    assert_ne!((code, seen.contains("/dev/pts/0")), (0, true), "{seen:?}");
    let mut pty = Pty::spawn(&fixture.command(&["run", "-t", "c"]));
    let (code, seen) = pty.wait();
    assert_eq!((code, seen.as_str()), (0, "/dev/pts/0\r\n"));
}

#[test]
fn keys_are_the_containers_and_not_the_runtimes() {
    let fixture = shell();
    let mut pty = at_prompt(&fixture);
    pty.ask("trap 'echo interrupted' INT");
    run_cat(&mut pty);
    pty.type_keys("\u{3}");
    pty.expect("interrupted");
    pty.expect(PROMPT);
    pty.type_keys("\u{4}");
    pty.wait();
    assert!(pty.is_cooked());
}

#[test]
fn jobs_are_stopped_and_go_on_in_the_container() {
    let fixture = shell();
    let mut pty = at_prompt(&fixture);
    // One process, which has run its program: stopped while it forks, a shell as a job could wait for its child for ever.
    run_cat(&mut pty);
    pty.type_keys("\u{1a}");
    pty.expect(PROMPT);
    let jobs = pty.ask("jobs");
    assert!(jobs.contains("topped"), "{jobs:?}");
    pty.line("fg");
    pty.expect("cat\r\n");
    pty.answered("typed again");
    pty.type_keys("\u{3}");
    pty.expect(PROMPT);
    pty.line("exit 0");
    assert_eq!(pty.wait().0, 0);
}

#[test]
fn the_size_follows_the_callers_terminal() {
    peer_differs!("crun", "1.8 begins with no size");
    let fixture = shell();
    let mut pty = at_prompt(&fixture);
    assert_eq!(pty.ask("stty size"), "24 80\r\n");
    let told = "trap 'echo size chan''ged; exit' WINCH; echo wai''ts; while :; do sleep 0.05; done";
    pty.line(&format!("({told})"));
    pty.expect("waits\r\n");
    pty.resize(50, 132);
    pty.expect("size changed\r\n");
    pty.expect(PROMPT);
    assert_eq!(pty.ask("stty size"), "50 132\r\n");
}

#[test]
fn the_size_of_the_config_holds_at_first() {
    lodger_only!("the size of the config against that of the caller's terminal");
    let mut fixture = shell();
    fixture.config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    fixture.args(&["stty", "size"]).write_config();
    let mut pty = Pty::spawn(&fixture.command(&["run", "c"]));
    assert_eq!(pty.wait(), (0, "33 77\r\n".to_owned()));
    // It is that of the container's own terminal, not of another one.
    fixture.args(&["/bin/sleep", "600"]);
    fixture.config["process"]["terminal"] = false.into();
    fixture.sleeping("e");
    let mut pty = Pty::spawn(&fixture.command(&["exec", "-t", "e", "stty", "size"]));
    assert_eq!(pty.wait(), (0, "24 80\r\n".to_owned()));
    // Without a terminal it is ignored (config.md).
    fixture.config["process"]["terminal"] = false.into();
    fixture.args(&["true"]);
    fixture.run().ok();
}

/// However slow the runtime is with its own ends of the terminals: every ioctl of it takes a while here.
#[test]
fn the_size_is_there_when_the_program_begins() {
    lodger_only!("an exec's first size is set after its program began");
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.sleeping("c");
    let exec = fixture.command(&["exec", "-t", "c", "stty", "size"]);
    let mut slow = Command::new("/usr/bin/strace");
    slow.args(["-o", "/dev/null", "-e", "trace=ioctl", "-e"])
        .arg("inject=ioctl:delay_enter=200000")
        .arg(exec.get_program())
        .args(exec.get_args())
        .current_dir(exec.get_current_dir().unwrap());
    let mut pty = Pty::spawn(&slow);
    assert_eq!(pty.wait(), (0, "24 80\r\n".to_owned()));
}

/// Raw while it runs, and as before afterwards, however it ends.
#[test]
fn the_callers_terminal_gets_its_mode_back_on_every_way_out() {
    for signal in ["", "TERM", "HUP", "KILL", "QUIT"] {
        if peer() && signal == "KILL" {
            continue;
        }
        let mut fixture = shell();
        let trap = "trap 'exit 3' TERM HUP QUIT; echo begun; while :; do sleep 0.05; done";
        fixture.sh(trap).write_config();
        let mut pty = Pty::spawn(&fixture.command(&["run", "c"]));
        pty.expect("begun");
        assert!(!pty.is_cooked(), "{signal}");
        if signal.is_empty() {
            fixture.bare(&["kill", "c", "KILL"]).ok();
        } else {
            pty.signal(signal);
        }
        let (code, _) = pty.wait();
        let expected = if ["", "KILL"].contains(&signal) {
            128 + 9
        } else {
            3
        };
        assert_eq!(code, expected, "{signal}");
        wait_for(&format!("the terminal's mode after {signal:?}"), || {
            pty.is_cooked().then_some(())
        });
    }
}

#[test]
fn a_start_that_fails_leaves_the_terminal_as_it_was() {
    let mut fixture = shell();
    fixture.args(&["/no/such/program"]).write_config();
    let mut pty = Pty::spawn(&fixture.command(&["run", "c"]));
    let (code, seen) = pty.wait();
    assert_eq!(code, 1, "{seen}");
    assert!(pty.is_cooked());
    assert!(
        seen.contains("no such file or directory") || peer(),
        "{seen}"
    );
}

/// As a shell of the caller does it: the job is stopped, has the terminal taken away and given back.
#[test]
fn the_runtime_can_be_stopped_and_goes_on() {
    lodger_only!("stopping in the foreground");
    let fixture = shell();
    let mut pty = at_prompt(&fixture);
    let stat = format!("/proc/{}/stat", pty.pid());
    let is = |state: &str| {
        wait_for(&format!("the runtime to be {state}"), || {
            fs::read_to_string(&stat)
                .unwrap()
                .contains(state)
                .then_some(())
        });
    };
    pty.signal("TSTP");
    is(") T ");
    assert!(
        pty.is_cooked(),
        "a stopped job leaves the terminal as it was"
    );
    pty.resize(40, 100);
    pty.signal("CONT");
    wait_for("raw mode", || (!pty.is_cooked()).then_some(()));
    assert_eq!(pty.ask("stty size"), "40 100\r\n");
    pty.line("exit 0");
    assert_eq!(pty.wait().0, 0);
    assert!(pty.is_cooked());
}

/// In the background it neither reads the terminal nor changes it, and in the foreground it goes on as ever.
#[test]
fn a_job_in_the_background_leaves_the_terminal_alone() {
    lodger_only!("running in the background of a terminal");
    let fixture = shell();
    let mut pty = Pty::of_shell(&fixture.command(&["run", "c"]), " &");
    pty.expect(PROMPT);
    pty.type_keys("echo by the call''er\r");
    pty.expect("by the caller\r\n");
    pty.expect("$ ");
    pty.type_keys("fg\r");
    pty.expect("run c");
    wait_for("raw mode", || (!pty.is_cooked()).then_some(()));
    pty.type_keys("\r");
    pty.expect(PROMPT);
    let seen = pty.ask("echo by the container $$");
    assert_eq!(seen, "by the container 1\r\n");
    pty.line("exit 5");
    pty.expect("$ ");
    pty.type_keys("echo status $?\r");
    pty.expect("status 5\r\n");
    pty.expect("$ ");
    pty.type_keys("exit\r");
    pty.wait();
}

#[test]
fn a_terminal_that_is_hung_up_hangs_up_the_containers() {
    peer_differs!("runc", "1.1 goes on without the terminal");
    peer_differs!("crun", "1.8 goes on without the terminal");
    let fixture = shell();
    let mut pty = at_prompt(&fixture);
    pty.hang_up();
    pty.wait();
    wait_for("the container to be gone", || {
        (fixture.bare(&["state", "c"]).code != 0).then_some(())
    });
}

#[test]
fn standard_output_may_be_a_file_or_a_pipe() {
    peer_differs!("runc", "1.1 leaves the ends of lines as they are");
    let mut fixture = shell();
    fixture
        .sh("test -t 1 && echo on a terminal; cat")
        .write_config();
    let out = fixture.path("out");
    let instead = Instead {
        stdout: Some(&out),
        ..Instead::default()
    };
    let mut pty = Pty::with(&fixture.command(&["run", "c"]), instead);
    wait_for("the program", || {
        (out.exists() && read_lossy(&out).contains("on a terminal")).then_some(())
    });
    pty.type_keys("typed\r\u{4}");
    assert_eq!(pty.wait(), (0, String::new()));
    assert!(
        read_lossy(&out).ends_with("typed\r\ntyped\r\n"),
        "{}",
        read_lossy(&out)
    );
    assert!(pty.is_cooked());
}

/// The end of a file is the end of what is typed.
#[test]
fn standard_input_may_be_a_file() {
    lodger_only!("the end of input on a terminal");
    let mut fixture = shell();
    // It stays the end, however often and late it is read.
    fixture
        .sh("cat; sleep 0.2; cat; cat; echo end")
        .write_config();
    for text in ["one\ntwo\n", "one\ntwo", ""] {
        let ran = spawn(&mut fixture.command(&["run", "c"]), text.as_bytes()).wait();
        let out = ran.ok();
        assert!(out.ends_with("end\r\n"), "{text:?}: {out:?}");
        assert_eq!(
            out.contains("two"),
            text.contains("two"),
            "{text:?}: {out:?}"
        );
        // Input on the caller's terminal, too, whose size then counts.
        let input = fixture.path("in");
        fs::write(&input, text).unwrap();
        let instead = Instead {
            stdin: Some(&input),
            ..Instead::default()
        };
        let mut pty = Pty::with(&fixture.command(&["run", "c"]), instead);
        let (code, seen) = pty.wait();
        assert_eq!(code, 0, "{seen:?}");
        assert!(seen.contains("end"), "{seen:?}");
    }
}

/// Whatever was written before the end is shown, however fast the end came and however much it was.
#[test]
fn nothing_of_the_output_is_lost() {
    peer_differs!("runc", "wants a terminal of the caller's");
    peer_differs!("crun", "wants standard input to be a terminal");
    let mut fixture = shell();
    fixture
        .sh("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo the last")
        .write_config();
    let out = spawn(&mut fixture.command(&["run", "c"]), b"").wait().ok();
    assert_eq!(
        out.lines().filter(|line| line.starts_with("line ")).count(),
        20_000
    );
    assert!(
        out.ends_with("the last\r\n"),
        "{:?}",
        &out[out.len() - 40..]
    );
    fixture.sh("echo at once").write_config();
    for _ in 0..30 {
        let out = spawn(&mut fixture.command(&["run", "c"]), b"").wait().ok();
        assert_eq!(out, "at once\r\n");
    }
}

#[test]
fn a_reader_that_goes_away_does_not_hold_up_the_container() {
    peer_differs!("runc", "wants a terminal of the caller's");
    peer_differs!("crun", "wants standard input to be a terminal");
    let mut fixture = shell();
    fixture
        .sh("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 4")
        .write_config();
    let run = fixture.command(&["run", "c"]);
    let mut piped = std::process::Command::new("/bin/bash");
    piped
        .args([
            "-c",
            "\"$@\" </dev/null | head -n 1; echo ${PIPESTATUS[0]}",
            "bash",
        ])
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(fixture.bundle());
    let out = spawn(&mut piped, b"").wait().ok();
    assert_eq!(out, "line 0\r\n4\n");
}

/// Its owner may open it again by name.
#[test]
fn the_terminal_belongs_to_the_user_of_the_program() {
    let mut fixture = shell();
    fixture.config["process"]["user"] = json!({"uid": 5, "gid": 5});
    fixture
        .sh("stat -c %u /dev/pts/0; echo again >/dev/pts/0; echo out >/dev/stdout; echo console >/dev/console")
        .write_config();
    let mut pty = Pty::spawn(&fixture.command(&["run", "c"]));
    let (code, seen) = pty.wait();
    assert_eq!(
        (code, seen.as_str()),
        (0, "5\r\nagain\r\nout\r\nconsole\r\n")
    );
}

/// A program that lets go of the console for a while, as an init system does, is not taken for gone.
#[test]
fn a_terminal_that_is_closed_for_a_while_goes_on() {
    lodger_only!("a console that nobody has open");
    let mut fixture = shell();
    fixture
        .sh("exec <&- >&- 2>&-; sleep 0.3; exec </dev/console >/dev/console 2>&1; echo back again")
        .write_config();
    let mut pty = Pty::spawn(&fixture.command(&["run", "c"]));
    assert_eq!(pty.wait(), (0, "back again\r\n".to_owned()));
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    peer_differs!("crun", "1.8 leaves the terminal of exec to root");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let args = [
        "exec",
        "-t",
        "c",
        "/bin/sh",
        "-c",
        "tty; stty size; read x; echo got $x; exit 6",
    ];
    let mut pty = Pty::spawn(&fixture.command(&args));
    pty.expect("/dev/pts/0\r\n24 80\r\n");
    assert!(!pty.is_cooked());
    let second = ["exec", "-t", "c", "tty"];
    let mut other = Pty::spawn(&fixture.command(&second));
    assert_eq!(other.wait(), (0, "/dev/pts/1\r\n".to_owned()));
    pty.line("this");
    pty.expect("got this");
    assert_eq!(pty.wait().0, 6);
    assert!(pty.is_cooked());
    // As another user, and without a terminal where none is asked for.
    let args = [
        "exec",
        "-t",
        "-u",
        "5:5",
        "c",
        "/bin/sh",
        "-c",
        "stat -c %u /dev/stdin; : >/dev/stdout",
    ];
    let mut pty = Pty::spawn(&fixture.command(&args));
    let (code, seen) = pty.wait();
    assert_eq!(
        (code, seen.as_str()),
        (0, "0\r\n"),
        "the link of /dev is root's"
    );
    let plain = fixture.bare(&["exec", "c", "/bin/sh", "-c", "test -t 0 || echo none"]);
    assert_eq!(plain.ok(), "none\n");
}

/// The terminal of a killed `exec` is given back too, though the guard cannot see into the container.
#[test]
fn exec_gives_the_terminal_back_when_it_is_killed() {
    lodger_only!("giving the terminal back after SIGKILL");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let args = ["exec", "-t", "c", "/bin/sh", "-c", "echo begun; sleep 600"];
    let mut pty = Pty::spawn(&fixture.command(&args));
    pty.expect("begun");
    let inside = fixture.bare(&[
        "exec",
        "c",
        "/bin/sh",
        "-c",
        "for p in /proc/[0-9]*; do cat $p/comm; done",
    ]);
    assert!(
        !inside.ok().contains("lodger"),
        "the guard is not in the container"
    );
    pty.signal("KILL");
    pty.wait();
    wait_for("the terminal's mode", || pty.is_cooked().then_some(()));
}

#[test]
fn a_terminal_needs_a_devpts() {
    lodger_only!("the wording");
    let mut fixture = shell();
    fixture.unmount("/dev/pts");
    let ran = fixture
        .run()
        .fails(1, "cannot make the container's terminal");
    assert!(ran.err.contains("devpts"), "{}", ran.err);
}
