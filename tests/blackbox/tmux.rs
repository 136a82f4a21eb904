//! A person at a terminal, played by tmux: keys typed, the screen read.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Fixture, LIMIT, lodger_only, skip, spawn, wait_for};
use crate::pty::PROMPT;

/// A tmux server of the test's own, which ends with it.
struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    /// Runs `command` in a window of 80 by 24.
    fn start(socket: PathBuf, command: &Command) -> Tmux {
        let tmux = Tmux { socket };
        let mut words: Vec<&str> = vec!["new-session", "-d", "-x", "80", "-y", "24", "-c"];
        words.push(command.get_current_dir().unwrap().to_str().unwrap());
        words.push(command.get_program().to_str().unwrap());
        words.extend(command.get_args().map(|word| word.to_str().unwrap()));
        tmux.ask(&words);
        tmux
    }

    fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new("/usr/bin/tmux");
        command
            .args(["-f", "/dev/null", "-S", self.socket.to_str().unwrap()])
            .args(words)
            .env("TERM", "xterm");
        spawn(&mut command, b"").wait().ok()
    }

    fn keys(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    /// Waits until the screen is as `as_expected` wants it.
    fn screen(&self, what: &str, as_expected: impl Fn(&[&str]) -> bool) -> String {
        let mut last = String::new();
        wait_for(what, || {
            last = self.ask(&["capture-pane", "-p"]);
            let lines: Vec<&str> = last.lines().collect();
            as_expected(&lines).then(|| last.clone())
        })
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut command = Command::new("/usr/bin/tmux");
        command.args(["-S", self.socket.to_str().unwrap(), "kill-server"]);
        // A panic in a drop would end all tests; a server that is not there any more is none to end.
        spawn(&mut command, b"").wait_at_most(LIMIT);
    }
}

/// The line of the screen that is `text`, from 0.
fn place(lines: &[&str], text: &str) -> Option<usize> {
    lines.iter().position(|line| line.trim_end() == text)
}

/// Whether a shell waits at its prompt, below everything else.
fn at_prompt(lines: &[&str]) -> bool {
    let last = lines.iter().rev().find(|line| !line.trim().is_empty());
    last.is_some_and(|line| line.trim_end() == PROMPT.trim_end())
}

/// Whether `cat` has answered `line`: it is there as it was typed and as it was written.
fn is_answered(lines: &[&str], line: &str) -> bool {
    lines.iter().filter(|l| l.trim_end() == line).count() == 2
}

/// What is stopped by its key comes back by a word.
fn stop_and_go_on(tmux: &Tmux) {
    tmux.keys(&["clear; echo cat ''begins; cat", "Enter"]);
    tmux.screen("the command", |lines| place(lines, "cat begins") == Some(0));
    // An answer tells that it is in the foreground.
    tmux.keys(&["typed", "Enter"]);
    tmux.screen("its answer", |lines| is_answered(lines, "typed"));
    tmux.keys(&["C-z"]);
    tmux.screen("the prompt while it is stopped", at_prompt);
    tmux.keys(&["clear; jobs", "Enter"]);
    tmux.screen("the stopped job", |lines| {
        lines[0].contains("Stopped") && at_prompt(lines)
    });
    tmux.keys(&["clear; fg", "Enter"]);
    tmux.screen("the command again", |lines| place(lines, "cat") == Some(0));
    tmux.keys(&["typed again", "Enter"]);
    tmux.screen("its answer", |lines| is_answered(lines, "typed again"));
    tmux.keys(&["C-c"]);
    tmux.screen("the prompt after the job", |lines| {
        lines.iter().filter(|l| l.contains("ready>")).count() == 1 && at_prompt(lines)
    });
}

#[test]
fn an_editor_in_a_shell_in_a_container() {
    if !std::path::Path::new("/usr/bin/tmux").exists() {
        skip!("tmux is not installed");
    }
    lodger_only!("how an editor is shown");
    let mut fixture = Fixture::with_own_root();
    fixture.config["process"]["terminal"] = true.into();
    fixture.config["process"]["env"] =
        serde_json::json!(["PATH=/bin", "TERM=xterm", format!("PS1={PROMPT}")]);
    fixture.args(&["/bin/sh", "-i"]).write_config();
    let tmux = Tmux::start(fixture.path("tmux"), &fixture.command(&["run", "c"]));
    tmux.screen("the prompt", at_prompt);

    // It fills the screen: the text above, a tilde for every line that is not there, its status at the bottom.
    tmux.keys(&["busybox vi /tmp/text", "Enter"]);
    tmux.screen("the editor", |lines| {
        place(lines, "~") == Some(1) && lines[23].contains("/tmp/text")
    });
    tmux.keys(&["i", "first line", "Enter", "second line", "Escape"]);
    tmux.screen("what was typed", |lines| {
        place(lines, "first line") == Some(0) && place(lines, "second line") == Some(1)
    });
    // One line goes, and all below it move up.
    tmux.keys(&["k", "d", "d"]);
    tmux.screen("the redrawn screen", |lines| {
        place(lines, "second line") == Some(0) && place(lines, "first line").is_none()
    });
    // Larger: the editor learns of it and draws more tildes, with its status on the new last line.
    tmux.ask(&["resize-window", "-x", "100", "-y", "40"]);
    tmux.screen("the larger screen", |lines| {
        let tildes = lines.iter().filter(|line| line.trim_end() == "~").count();
        lines.len() == 40 && tildes > 30
    });
    tmux.keys(&[":wq", "Enter"]);
    tmux.screen("the prompt again", at_prompt);
    tmux.keys(&["clear; stty size; cat /tmp/text", "Enter"]);
    tmux.screen("size and text", |lines| {
        place(lines, "40 100").is_some()
            && place(lines, "second line").is_some()
            && at_prompt(lines)
    });
    stop_and_go_on(&tmux);
    tmux.keys(&["exit 0", "Enter"]);
    wait_for("the end of the container", || {
        let entries = fs::read_dir(fixture.path("state")).unwrap();
        (entries.flatten().count() == 0).then_some(())
    });
}
