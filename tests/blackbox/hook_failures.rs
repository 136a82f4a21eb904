//! Hooks that fail, that do not end, that read nothing, and commands that end while one runs: what is left, and what is said.

use std::path::Path;

use serde_json::json;

use crate::harness::{
    Fixture, Ran, lodger_only, peer, peer_differs, send_signal, skip, spawn, wait_for,
};
use crate::hooks::{KINDS, add, add_hook, fixture, log, log_of, shell};
use crate::kills::{assert_no_process, processes_with, state_entries};
use crate::tracing::{under_strace, works};

/// A number that is in the command line of this test's processes alone, and in no other such number.
fn word(number: u32) -> String {
    format!("9{:07}{number:02}", std::process::id())
}

fn assert_gone(word: &str, what: &str) {
    wait_for(&format!("the processes of {what} to end"), || {
        processes_with(word).is_empty().then_some(())
    });
}

/// The commands by which a container's hooks of this kind are run, until one fails.
fn run_until(fixture: &Fixture, commands: &[&[&str]]) -> Ran {
    fixture.write_config();
    let (last, before) = commands.split_last().unwrap();
    for command in before {
        fixture.bare(command).ok();
    }
    fixture.bare(last)
}

const RUN: &[&[&str]] = &[&["run", "c"]];
const DETACHED: &[&[&str]] = &[&["run", "-d", "c"]];
const CREATE: &[&[&str]] = &[&["create", "c"]];
const START: &[&[&str]] = &[&["create", "c"], &["start", "c"]];

/// The ways to a hook of this kind.
fn ways(kind: &str) -> [&'static [&'static [&'static str]]; 3] {
    match kind {
        "startContainer" | "poststart" => [RUN, DETACHED, START],
        _ => [RUN, DETACHED, CREATE],
    }
}

/// The program is never seen, the container is removed, and its poststop hooks have run.
#[test]
fn a_hook_that_fails_is_the_end_of_its_container() {
    peer_differs!(
        "runc",
        "1.1.5 succeeds with `start` and `run -d` although a startContainer hook fails, and the container stays"
    );
    peer_differs!(
        "crun",
        "1.8.1 runs no poststop hooks where one of create fails, and succeeds with `start` although one of startContainer or poststart does"
    );
    for (number, kind) in (0..).zip(&KINDS[..5]) {
        for commands in ways(kind) {
            let mut fixture = fixture();
            let word = word(number);
            add(
                &mut fixture,
                kind,
                "echo out loud; echo it is so >&2; exit 7",
            );
            add(&mut fixture, kind, "echo after >>$LOG/after");
            add(&mut fixture, "poststop", "cat >>$LOG/poststop");
            fixture.args(&["/bin/sleep", &word]);
            let what = format!("{kind}, {commands:?}");
            let ran = run_until(&fixture, commands).fails(1, &format!("/hooks/{kind}/0"));
            if !peer() {
                for text in ["exit status 7", "it is so", "cannot"] {
                    assert!(ran.err.contains(text), "{what}: {ran:?}");
                }
            }
            assert_eq!(state_entries(&fixture), 0, "{what}");
            assert_gone(&word, &what);
            assert_no_process(&fixture);
            let told = log(&fixture, "poststop");
            assert!(told.contains("\"stopped\""), "{what}: {told:?}");
            assert_eq!(told.matches("\"stopped\"").count(), 1, "{what}: {told:?}");
            assert_eq!(log(&fixture, "after"), "", "{what}");
        }
    }
}

/// In the host's pid namespace the kernel ends nobody with the first process.
#[test]
fn a_program_in_the_host_s_pid_namespace_ends_with_its_children_when_a_hook_fails() {
    lodger_only!("ending what is left in the host's pid namespace");
    for (number, commands) in [(70, RUN), (71, DETACHED), (72, START)] {
        let mut fixture = fixture();
        let word = word(number);
        fixture.without_namespace("pid").unmount("/proc");
        add(
            &mut fixture,
            "poststart",
            "until [ -e $LOG/forked ]; do :; done; exit 1",
        );
        fixture.sh(&format!(
            "sleep {word} & echo >/log/forked; exec sleep {word}"
        ));
        run_until(&fixture, commands).fails(1, "/hooks/poststart/0");
        assert_gone(&word, "the program");
        assert_eq!(state_entries(&fixture), 0);
    }
}

/// Also where it is no hook that fails.
#[test]
fn a_container_that_cannot_be_made_has_its_poststop_hooks_run() {
    peer_differs!("crun", "1.8.1 runs no poststop hooks where create fails");
    for verb in ["create", "run"] {
        let mut fixture = fixture();
        add(&mut fixture, "createRuntime", "echo made >>$LOG/network");
        add(&mut fixture, "poststop", "echo removed >>$LOG/network");
        fixture.args(&["/no/such/program"]);
        fixture.runtime(&[verb, "c"]).fails(1, "/no/such/program");
        assert_eq!(log(&fixture, "network"), "made\nremoved\n");
        assert_eq!(state_entries(&fixture), 0);
    }
}

#[test]
fn what_a_hook_that_cannot_be_run_lacks_is_said() {
    let cases = [
        (json!({"path": "/no/such/hook"}), "ENOENT"),
        (json!({"path": "/etc/passwd"}), "EACCES"),
        (
            json!({"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $$"]}),
            "SIGKILL",
        ),
    ];
    for kind in &KINDS[..5] {
        for (hook, text) in &cases {
            let mut fixture = fixture();
            add_hook(&mut fixture, kind, hook.clone());
            if under_test_passes_over(kind) {
                continue;
            }
            let ran = fixture.run().fails(1, &format!("/hooks/{kind}/0"));
            assert!(peer() || ran.err.contains(text), "{kind}: {ran:?}");
        }
    }
}

/// crun 1.8.1 goes on after a poststart hook that fails.
fn under_test_passes_over(kind: &str) -> bool {
    crate::harness::under_test() == "crun" && kind == "poststart"
}

#[test]
fn a_poststop_hook_that_fails_hinders_nothing() {
    peer_differs!("runc", "1.1.5 runs no more of them after one that fails");
    let mut fixture = fixture();
    add(
        &mut fixture,
        "poststop",
        "echo first >>$LOG/order; echo sad >&2; exit 3",
    );
    add(&mut fixture, "poststop", "echo second >>$LOG/order");
    let told = |ran: Ran| {
        let expected = ["/hooks/poststop/0", "exit status 3", "sad"];
        let all = expected.iter().all(|text| ran.err.contains(text));
        assert!(peer() || all, "{ran:?}");
        ran.exits(0);
    };
    told(fixture.run());
    assert_eq!(log(&fixture, "order"), "first\nsecond\n");
    assert_eq!(state_entries(&fixture), 0);
    fixture.runtime(&["create", "c"]).ok();
    told(fixture.bare(&["delete", "c"]));
    assert_eq!(log(&fixture, "order"), "first\nsecond\nfirst\nsecond\n");
    assert_eq!(state_entries(&fixture), 0);
}

/// Its children too, as long as they are of its process group.
#[test]
fn a_hook_that_takes_too_long_is_killed_with_its_children() {
    peer_differs!(
        "runc",
        "1.1.5 kills the hook alone, and waits for its children"
    );
    peer_differs!("crun", "1.8.1 kills the hook alone");
    for (number, kind) in (10..).zip(&KINDS[..5]) {
        let word = word(number);
        // A busy machine may take longer than a second to what is printed.
        let printed = [1, 4, 16].into_iter().any(|timeout| {
            let mut fixture = fixture();
            let mut hook = shell(&format!("sleep {word} & echo ready; sleep {word}"));
            hook["timeout"] = json!(timeout);
            add_hook(&mut fixture, kind, hook);
            let ran = fixture.run().fails(1, &format!("/hooks/{kind}/0"));
            for text in ["took too long", &format!("timeout of {timeout} s")] {
                assert!(peer() || ran.err.contains(text), "{kind}: {ran:?}");
            }
            assert_gone(&word, kind);
            assert_eq!(state_entries(&fixture), 0, "{kind}");
            peer() || ran.err.contains("ready")
        });
        assert!(printed, "{kind}");
    }
}

/// It leads no process group yet: on a machine with much else to do, not even a second is enough for that.
#[test]
fn a_hook_that_has_not_begun_in_its_time_is_killed() {
    lodger_only!("when its process group is made");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    // Under strace a setuid helper has no privilege.
    let mut neighbour = Fixture::new();
    neighbour.sleeping("n");
    let mut fixture = fixture();
    let mut hook = shell("sleep 600");
    hook["timeout"] = json!(1);
    add_hook(&mut fixture, "createRuntime", hook);
    fixture.write_config();
    let mut run = neighbour.command(&["run", "c"]);
    run.current_dir(fixture.bundle());
    let options = ["-f", "--inject=setsid:delay_enter=2500000"];
    let ran = spawn(
        &mut under_strace(&options, Path::new("/dev/null"), &run),
        b"",
    )
    .wait();
    ran.fails(1, "timeout of 1 s");
    assert_eq!(state_entries(&neighbour), 1);
}

#[test]
fn a_hook_within_its_timeout_is_left_alone() {
    let mut fixture = fixture();
    for kind in KINDS {
        let script = format!("cat >/dev/null; echo ran >>{}/ran", log_of(&fixture, kind));
        let mut hook = shell(&script);
        hook["timeout"] = json!(600);
        add_hook(&mut fixture, kind, hook);
    }
    fixture.run().ok();
    assert_eq!(log(&fixture, "ran"), "ran\n".repeat(6));
}

/// Others that hold what it printed to open are waited for by nobody.
#[test]
fn a_hook_that_leaves_a_child_behind_has_ended() {
    peer_differs!(
        "runc",
        "1.1.5 waits until everybody has closed the hook's output"
    );
    peer_differs!(
        "crun",
        "1.8.1 waits for the children that prestart, createRuntime and poststart hooks leave behind"
    );
    for (number, kind) in (20..).zip(KINDS) {
        let mut fixture = fixture();
        let word = word(number);
        add(&mut fixture, kind, &format!("sleep {word} & exit 0"));
        fixture.run().ok();
        if ["createContainer", "startContainer"].contains(&kind) {
            assert_eq!(processes_with(&word), [0; 0], "{kind}");
            continue;
        }
        // One that is on its way to its program has no command line for a moment.
        let left = wait_for(&format!("the one child that {kind} has left"), || {
            let left = processes_with(&word);
            (left.len() == 1).then(|| left[0])
        });
        send_signal(left, "KILL");
        assert_gone(&word, kind);
    }
}

/// More than any pipe holds: nobody waits for a reader, and whoever reads gets all of it.
#[test]
fn a_state_larger_than_a_pipe_reaches_those_who_read_it() {
    peer_differs!(
        "crun",
        "1.8.1 fails where a hook ends before its state is written to it (EPIPE)"
    );
    let large = "x".repeat(1 << 20);
    let mut fixture = fixture();
    fixture.config["annotations"] = json!({"large": large});
    for kind in KINDS {
        // It depends on who is faster: peers get enough of them.
        for _ in 0..if peer() { 20 } else { 1 } {
            add_hook(&mut fixture, kind, json!({"path": "/bin/true"}));
        }
        let count = format!("head -c 2000000 >{}/{kind}", log_of(&fixture, kind));
        add_hook(&mut fixture, kind, shell(&count));
    }
    fixture.run().ok();
    for kind in KINDS {
        let state: serde_json::Value = serde_json::from_str(&log(&fixture, kind)).unwrap();
        assert_eq!(
            state["annotations"]["large"].as_str(),
            Some(large.as_str()),
            "{kind}"
        );
    }
}

/// The end of it is told, where the reason is.
#[test]
fn an_endless_output_is_cut_to_its_end() {
    lodger_only!("the error of a hook");
    for kind in ["createRuntime", "createContainer"] {
        let mut fixture = fixture();
        add(
            &mut fixture,
            kind,
            "head -c 3000000 /dev/zero; echo the reason; exit 1",
        );
        let ran = fixture.run().fails(1, "the reason");
        assert!(ran.err.len() < 20_000, "{}", ran.err.len());
    }
}

/// Whatever the moment: neither the hook nor its children, nor the container, nor a process of ours.
#[test]
fn a_command_that_is_killed_while_a_hook_runs_leaves_nothing() {
    lodger_only!("following the end of the command");
    for (number, kind) in (30..).zip(KINDS) {
        let mut fixture = fixture();
        let word = word(number);
        let program = self::word(number + 10);
        add(
            &mut fixture,
            kind,
            &format!("echo >$LOG/begun; sleep {word} & sleep {word}"),
        );
        fixture.args(&[
            "/bin/sleep",
            if kind == "poststop" { "0" } else { &program },
        ]);
        let run = fixture.background(&["run", "c"], b"");
        wait_for("the hook", || {
            (!log(&fixture, "begun").is_empty()).then_some(())
        });
        run.signal("KILL");
        run.wait().exits(128 + 9);
        assert_gone(&word, kind);
        assert_gone(&program, kind);
        assert_no_process(&fixture);
    }
}

/// `start` and `delete` run hooks of a container that goes on, or is gone.
#[test]
fn a_start_and_a_delete_that_are_killed_leave_no_hook() {
    lodger_only!("following the end of the command");
    for (number, kind, verb) in [(50, "poststart", "start"), (51, "poststop", "delete")] {
        let mut fixture = fixture();
        let word = word(number);
        add(
            &mut fixture,
            kind,
            &format!("echo >$LOG/begun; sleep {word} & sleep {word}"),
        );
        fixture.args(&["/bin/sleep", "600"]);
        fixture.runtime(&["create", "c"]).ok();
        let command = fixture.background(&[verb, "c"], b"");
        wait_for("the hook", || {
            (!log(&fixture, "begun").is_empty()).then_some(())
        });
        command.signal("KILL");
        command.wait().exits(128 + 9);
        assert_gone(&word, kind);
    }
}

/// What a `create` has made by hooks before it was killed is removed by those of `delete`.
#[test]
fn the_delete_of_what_a_killed_create_has_left_runs_poststop_hooks() {
    lodger_only!("what a killed create leaves");
    let mut fixture = fixture();
    add(
        &mut fixture,
        "createRuntime",
        "echo made >>$LOG/network; sleep 600",
    );
    add(&mut fixture, "poststop", "echo removed >>$LOG/network");
    let create = fixture.background(&["create", "c"], b"");
    wait_for("the hook", || {
        (!log(&fixture, "network").is_empty()).then_some(())
    });
    create.signal("KILL");
    create.wait().exits(128 + 9);
    fixture.bare(&["delete", "c"]).ok();
    assert_eq!(log(&fixture, "network"), "made\nremoved\n");
}

/// In the foreground signals are taken in turn: a hook must not make the command deaf to them.
#[test]
fn a_signal_ends_a_foreground_run_that_waits_for_a_hook() {
    lodger_only!("signals while hooks run");
    for (number, kind) in (60..).zip(["createRuntime", "poststart", "poststop"]) {
        for signal in ["INT", "TERM"] {
            let mut fixture = fixture();
            let word = word(number);
            add(
                &mut fixture,
                kind,
                &format!("echo >$LOG/begun; sleep {word}"),
            );
            add(&mut fixture, "poststop", "echo last >>$LOG/last");
            let run = fixture.background(&["run", "c"], b"");
            wait_for("the hook", || {
                (!log(&fixture, "begun").is_empty()).then_some(())
            });
            run.signal(signal);
            let ran = run.wait().exits(i32::from(kind != "poststop"));
            assert!(
                ran.err.contains("a signal has asked for the end"),
                "{kind}: {ran:?}"
            );
            assert_gone(&word, kind);
            assert_eq!(log(&fixture, "last"), "last\n", "{kind} {signal}");
            assert_eq!(state_entries(&fixture), 0);
        }
    }
}

/// One process runs the hooks of a foreground container, as long as there are some to come.
#[test]
fn a_foreground_run_keeps_no_process_that_it_does_not_need() {
    lodger_only!("its processes");
    for (kind, expected) in [("poststart", 1), ("poststop", 2)] {
        let mut fixture = fixture();
        add(&mut fixture, kind, "true");
        fixture.sh("echo ready; exec sleep 600");
        let run = fixture.background(&["run", "c"], b"");
        wait_for("the program", || run.out().contains("ready").then_some(()));
        let root = fixture.path("state").to_str().unwrap().to_owned();
        wait_for("the processes of the run", || {
            (processes_with(&root).len() == expected).then_some(())
        });
        run.signal("KILL");
        run.wait();
        assert_no_process(&fixture);
    }
}

/// With files of the caller's open, no kind of hook has more than its standard streams.
#[test]
fn no_file_is_left_open_to_a_hook() {
    peer_differs!(
        "runc",
        "1.1.5 leaves files of its own open to createContainer hooks"
    );
    let mut fixture = fixture();
    for kind in KINDS {
        let list = if kind == "startContainer" {
            "/bin/ls"
        } else {
            "/usr/bin/ls"
        };
        let script = format!(
            "{list} /proc/self/fd >{}/{kind}; cat >/dev/null",
            log_of(&fixture, kind)
        );
        add_hook(&mut fixture, kind, shell(&script));
    }
    fixture.write_config();
    let run = fixture.command(&["run", "--preserve-fds", "1", "c"]);
    let mut shell = std::process::Command::new("/bin/sh");
    shell
        .args([
            "-c",
            "exec 3</etc/passwd 4</etc/passwd 7</etc/passwd; exec \"$0\" \"$@\"",
        ])
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(fixture.bundle());
    spawn(&mut shell, b"").wait().ok();
    for kind in KINDS {
        let open = log(&fixture, kind);
        // The last one is that of the directory itself.
        assert_eq!(
            open.split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2", "3"],
            "{kind}"
        );
    }
}
