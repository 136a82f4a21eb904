//! What hooks find out about their container, and what they may do to it by the runtime's own commands.

use serde_json::Value;

use crate::harness::{Fixture, lodger_only, peer_differs};
use crate::hooks::{add, fixture, log};

/// The command line of a verb on the fixture's containers.
pub(crate) fn call(fixture: &Fixture, words: &str) -> String {
    let runtime = crate::harness::runtime_binary();
    let state = fixture.path("state");
    format!("{} --root {} {words}", runtime.display(), state.display())
}

/// Whoever asks while a hook runs is answered, and what the hook is told is what `state` says.
#[test]
fn state_answers_while_hooks_run() {
    peer_differs!(
        "crun",
        "1.8.1 knows no container before create has returned"
    );
    peer_differs!(
        "runc",
        "1.1.5 knows no container while the hooks of create run"
    );
    let mut fixture = fixture();
    let ask = call(&fixture, "state c");
    for kind in ["prestart", "createRuntime", "createContainer", "poststart"] {
        add(
            &mut fixture,
            kind,
            &format!("cat >$LOG/{kind}.told; {ask} >$LOG/{kind} 2>&1 || true"),
        );
    }
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["create", "c"]).ok();
    fixture.bare(&["start", "c"]).ok();
    for (kind, status) in [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("poststart", "running"),
    ] {
        let text = log(&fixture, kind);
        let state: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{kind}: {text}"));
        assert_eq!(state["status"], status, "{kind}");
        let told: Value = serde_json::from_str(&log(&fixture, &format!("{kind}.told"))).unwrap();
        if kind != "createContainer" {
            assert_eq!(state["pid"], told["pid"], "{kind}");
            assert_ne!(state["pid"], 0, "{kind}");
        }
        assert_eq!(state["bundle"], told["bundle"], "{kind}");
    }
}

/// The network of a container is most often made so.
#[test]
fn a_runtime_hook_can_reach_the_namespaces_of_the_container() {
    peer_differs!(
        "crun",
        "1.8.1 lets no createRuntime hook into the /proc/PID/ns of its init: EACCES"
    );
    let mut fixture = fixture();
    let script = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/' | tr -d '\\n'); for n in net pid mnt; do readlink /proc/$pid/ns/$n; done >$LOG/theirs 2>&1";
    add(&mut fixture, "createRuntime", script);
    fixture.sh("for n in net pid mnt; do readlink /proc/self/ns/$n; done");
    let own = fixture.run().ok();
    assert_eq!(log(&fixture, "theirs"), own);
}

#[test]
fn exec_works_in_a_poststart_hook() {
    let mut fixture = fixture();
    let exec = call(&fixture, "exec c /bin/sh -c 'echo $$ >/log/inside'");
    add(&mut fixture, "poststart", &exec);
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["run", "-d", "c"]).ok();
    let pid: u32 = log(&fixture, "inside").trim().parse().unwrap();
    assert!(pid > 1);
}

/// What would wait for the end of the hook for which it is waited.
#[test]
fn a_hook_that_deletes_its_own_container_is_told_that_it_cannot() {
    lodger_only!("what a hook may do to its own container");
    let mut fixture = fixture();
    let calls =
        ["delete -f c", "start c", "kill c KILL", "exec c true"].map(|words| call(&fixture, words));
    for (number, call) in calls.iter().enumerate() {
        let script = format!("{call} >$LOG/{number} 2>&1; echo $? >>$LOG/{number}");
        add(&mut fixture, "createRuntime", &script);
        if number < 2 {
            add(
                &mut fixture,
                "poststart",
                &format!("{call} >$LOG/post{number} 2>&1; echo $? >>$LOG/post{number}"),
            );
        }
    }
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["run", "-d", "c"]).ok();
    for name in ["0", "1", "post0", "post1"] {
        let said = log(&fixture, name);
        assert!(said.contains("a hook of the container"), "{name}: {said}");
        assert!(said.ends_with("\n1\n"), "{name}: {said}");
    }
    for name in ["2", "3"] {
        let said = log(&fixture, name);
        assert!(said.contains("never completely created"), "{name}: {said}");
    }
    assert_eq!(fixture.status("c"), "running");
}
