//! Standard streams and terminals over a checkpoint: what the container had of the caller's, the restore gives it anew.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::checkpoint_lab::{Lab, checkpoints_or_skip, criu, path_with};
use crate::harness::{Fixture, Running, read_lossy, spawn, wait_for};
use crate::pty::{PROMPT, Pty};
use crate::sockets::{Receiver, expect};

/// A program that writes a line to each of its streams whenever /ask is there.
const TELLER: &str = "i=0; touch /begun
    while :; do
        if [ -e /ask ]; then i=$((i+1)); echo out $i; echo err $i >&2; rm /ask; fi
        sleep 0.01
    done";

fn teller() -> Lab {
    let mut lab = Lab::of(Fixture::with_own_root());
    lab.fixture.sh(TELLER);
    lab.fixture.write_config();
    lab
}

/// Has the program write one line more.
fn ask(lab: &Lab) {
    let begun = lab.fixture.rootfs().join("begun");
    wait_for("the program", || begun.exists().then_some(()));
    let question = lab.fixture.rootfs().join("ask");
    fs::write(&question, "").unwrap();
    wait_for("the program's answer", || {
        (!question.exists()).then_some(())
    });
}

/// Runs lodger from a shell that knows it as `"$@"`, in the background.
fn from_shell(lab: &Lab, script: &str, args: &[&str]) -> Running {
    let lodger = lab.command(args);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script, "sh"]).arg(lodger.get_program());
    shell
        .args(lodger.get_args())
        .current_dir(lab.fixture.path(""));
    shell.env("PATH", path_with(&criu().unwrap()));
    let bundle = lab.fixture.bundle();
    spawn(shell.env("BUNDLE", bundle), b"")
}

/// As [`from_shell`]; what is written comes through a pipe to the file `name`.
fn through_a_pipe(lab: &Lab, name: &str, args: &[&str]) -> Running {
    let script = format!("cd bundle; \"$@\" 2>&1 </dev/null | cat >../{name}");
    from_shell(lab, &script, args)
}

/// `restore -d` of the directory `ck` in the bundle, with the streams that the script gives it.
#[track_caller]
fn restored(lab: &Lab, streams: &str) {
    let images = lab.word("ck");
    let script = format!("cd bundle; exec \"$@\" {streams}");
    let words = ["restore", "--image-path", &images, "-d", "c"];
    let ran = from_shell(lab, &script, &words).wait();
    let said = ["second", "second.err"].map(|name| lines(&lab.fixture.path(name)));
    assert_eq!(ran.code, 0, "{said:?}");
}

fn lines(path: &Path) -> String {
    if path.exists() {
        read_lossy(path)
    } else {
        String::new()
    }
}

#[test]
fn output_goes_on_in_the_files_that_the_restore_has() {
    checkpoints_or_skip!();
    let lab = teller();
    let script = "cd bundle; exec \"$@\" >../first.out 2>../first.err </dev/null";
    from_shell(&lab, script, &["run", "-d", "c"]).wait().ok();
    ask(&lab);
    lab.checkpoint(&[]).ok();
    restored(&lab, ">../second.out 2>../second.err </dev/null");
    ask(&lab);
    assert_eq!(lines(&lab.fixture.path("first.out")), "out 1\n");
    assert_eq!(lines(&lab.fixture.path("first.err")), "err 1\n");
    assert_eq!(lines(&lab.fixture.path("second.out")), "out 2\n");
    assert_eq!(lines(&lab.fixture.path("second.err")), "err 2\n");
}

#[test]
fn output_goes_on_in_the_pipe_that_the_restore_has() {
    checkpoints_or_skip!();
    let lab = teller();
    let first = through_a_pipe(&lab, "first", &["run", "-d", "c"]);
    ask(&lab);
    wait_for("the first lines", || {
        (lines(&lab.fixture.path("first")) == "out 1\nerr 1\n").then_some(())
    });
    lab.checkpoint(&[]).ok();
    // Nobody has the other end any more.
    first.wait().ok();
    let images = lab.word("ck");
    let restore = ["restore", "--image-path", &images, "-d", "c"];
    let second = through_a_pipe(&lab, "second", &restore);
    ask(&lab);
    wait_for("the second lines", || {
        (lines(&lab.fixture.path("second")) == "out 2\nerr 2\n").then_some(())
    });
    lab.fixture.bare(&["delete", "-f", "c"]).ok();
    second.wait().ok();
    assert_eq!(lines(&lab.fixture.path("first")), "out 1\nerr 1\n");
}

/// What the container had as a pipe may be a file the next time, and the other way around.
#[test]
fn a_stream_may_be_something_else_after_the_restore() {
    checkpoints_or_skip!();
    let lab = teller();
    let first = through_a_pipe(&lab, "first", &["run", "-d", "c"]);
    ask(&lab);
    lab.checkpoint(&[]).ok();
    first.wait().ok();
    restored(&lab, ">../second 2>&1 </dev/null");
    ask(&lab);
    let seen = lines(&lab.fixture.path("second"));
    assert!(
        seen.contains("out 2\n") && seen.contains("err 2\n"),
        "{seen:?}"
    );
}

#[test]
fn input_goes_on_from_what_the_restore_has() {
    checkpoints_or_skip!();
    let mut lab = teller();
    lab.fixture
        .sh(&TELLER.replace("echo out $i", "read x; echo got $x"));
    lab.fixture.write_config();
    fs::write(lab.fixture.path("one"), "one\nnever\n").unwrap();
    let script = "cd bundle; exec \"$@\" >../first 2>/dev/null <../one";
    from_shell(&lab, script, &["run", "-d", "c"]).wait().ok();
    ask(&lab);
    assert_eq!(lines(&lab.fixture.path("first")), "got one\n");
    lab.checkpoint(&[]).ok();
    fs::write(lab.fixture.path("two"), "two\nthree\n").unwrap();
    restored(&lab, ">../second 2>/dev/null <../two");
    ask(&lab);
    ask(&lab);
    assert_eq!(lines(&lab.fixture.path("second")), "got two\ngot three\n");
}

/// A bundle whose program is a shell with a prompt, on a terminal.
fn shell() -> Lab {
    let mut fixture = Fixture::new();
    fixture.config["process"]["terminal"] = true.into();
    fixture.config["process"]["env"] = json!([
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM=xterm",
        format!("PS1={PROMPT}")
    ]);
    fixture.args(&["/bin/sh", "-i"]);
    fixture.write_config();
    Lab::of(fixture)
}

fn on_terminal(lab: &Lab, args: &[&str]) -> Pty {
    let lodger = lab.command(args);
    let mut command = Command::new("/usr/bin/env");
    let mut path = std::ffi::OsString::from("PATH=");
    path.push(path_with(&criu().unwrap()));
    command
        .arg(path)
        .arg(lodger.get_program())
        .args(lodger.get_args());
    command.current_dir(lab.fixture.bundle());
    Pty::spawn(&command)
}

#[test]
fn a_terminal_in_the_foreground() {
    checkpoints_or_skip!();
    let lab = shell();
    let mut first = on_terminal(&lab, &["run", "c"]);
    first.expect(PROMPT);
    first.ask("kept=17; stty -echoctl; cd /tmp");
    let modes = first.ask("stty -g");
    lab.checkpoint(&[]).ok();
    let (code, _) = first.wait();
    assert_eq!(code, 128 + 9);
    assert!(first.is_cooked(), "the caller's terminal is as it was");
    let (images, pid) = (lab.word("ck"), lab.word("pid"));
    let words = ["restore", "--image-path", &images, "--pid-file", &pid, "c"];
    let mut second = on_terminal(&lab, &words);
    // Until then the keys are the runtime's, or are lost with the terminal as it was before.
    wait_for("the terminal to be the container's", || {
        let restored = lab.fixture.path("pid").exists();
        (restored && !second.is_cooked()).then_some(())
    });
    second.type_keys("\r");
    second.expect(PROMPT);
    assert_eq!(
        second.ask("echo $kept $PWD; tty"),
        "17 /tmp\r\n/dev/pts/0\r\n"
    );
    assert_eq!(second.ask("stty -g"), modes);
    // Its size is the one of the terminal that it is on now, and job control works.
    second.resize(31, 91);
    let size = second.ask("until [ \"$(stty size)\" = '31 91' ]; do sleep 0.01; done; stty size");
    assert_eq!(size, "31 91\r\n");
    second.line("echo cat ''begins; cat");
    second.expect("cat begins\r\n");
    second.answered("typed");
    second.type_keys("\u{1a}");
    second.expect(PROMPT);
    let jobs = second.ask("jobs");
    assert!(jobs.contains("Stopped"), "{jobs:?}");
    second.line("fg");
    second.expect("cat\r\n");
    second.answered("again");
    second.type_keys("\u{4}");
    second.expect(PROMPT);
    second.line("exit 9");
    assert_eq!(second.wait().0, 9);
    assert!(second.is_cooked());
}

#[test]
fn a_terminal_that_is_handed_over() {
    checkpoints_or_skip!();
    let lab = shell();
    let receiver = Receiver::new(lab.fixture.path("s"));
    lab.lodger(&["run", "-d", "--console-socket", receiver.path(), "c"])
        .ok();
    let mut first = fs::File::from(receiver.receive().1);
    expect(&mut first, PROMPT);
    first.write_all(b"kept=17\r").unwrap();
    expect(&mut first, PROMPT);
    // Hung up, it would end the shell.
    let mut terminals = vec![first];
    for _ in 0..2 {
        lab.checkpoint(&[]).ok();
        lab.restore(&["-d", "--console-socket", receiver.path()], "c")
            .ok();
        let mut terminal = fs::File::from(receiver.receive().1);
        terminal
            .write_all(b"echo $kept, $((kept + 1)), $(tty)\r")
            .unwrap();
        expect(&mut terminal, "17, 18, /dev/pts/0");
        terminals.push(terminal);
    }
}

#[test]
fn a_terminal_needs_a_socket_where_the_restore_detaches() {
    checkpoints_or_skip!();
    let lab = shell();
    let receiver = Receiver::new(lab.fixture.path("s"));
    lab.lodger(&["run", "-d", "--console-socket", receiver.path(), "c"])
        .ok();
    let mut terminal = fs::File::from(receiver.receive().1);
    expect(&mut terminal, PROMPT);
    lab.checkpoint(&[]).ok();
    lab.restore(&["-d"], "c").fails(
        1,
        "cannot allocate tty if lodger will detach without setting console socket",
    );
    assert_eq!(lab.ids(), [""; 0]);
}
