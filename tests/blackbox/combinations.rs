//! What each works alone, together: hooks, joined namespaces, filters and their agents, service managers, clocks.

use std::fs;

use serde_json::json;

use crate::harness::{Fixture, lodger_only, wait_for};
use crate::hook_calls::call;
use crate::hooks::{KINDS, add, fixture, log};
use crate::namespaces::{first, join, list, namespace, seconds, sleepers};
use crate::notify::{Manager, start};
use crate::seccomp_notify::{Agent, notifying};

/// Gives `fixture` a directory that hooks and containers write to, as [`crate::hooks::fixture`] has one.
fn with_log(fixture: &mut Fixture) {
    fs::create_dir(fixture.path("log")).unwrap();
    let log = fixture.path("log");
    fixture.mount(json!({"destination": "/log", "type": "bind", "source": log.to_str().unwrap(), "options": ["bind", "rw"]}));
}

/// Puts the pid of the state that a hook reads into the variable `pid`.
const READ_PID: &str = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/' | tr -d '\\n')";

#[test]
fn hooks_of_a_container_in_a_pod_know_its_process() {
    lodger_only!("all kinds of namespaces joined at once");
    let mut fixture = first();
    with_log(&mut fixture);
    join(&mut fixture, "a", &["user", "pid", "network", "ipc", "uts"]);
    for kind in KINDS {
        add(
            &mut fixture,
            kind,
            &format!("{READ_PID}; echo $pid >$LOG/{kind}"),
        );
    }
    fixture.sh("echo $$ >/log/program; exec /bin/sleep 600");
    fixture.runtime(&["create", "b"]).ok();
    let outside = fixture.state("b")["pid"].to_string();
    fixture.bare(&["start", "b"]).ok();
    let inside = wait_for("the program", || {
        let text = log(&fixture, "program");
        text.ends_with('\n').then_some(text)
    });
    assert_ne!(inside.trim(), "1");
    for kind in ["prestart", "createRuntime", "poststart"] {
        assert_eq!(log(&fixture, kind).trim(), outside, "{kind}");
    }
    for kind in ["createContainer", "startContainer"] {
        assert_eq!(log(&fixture, kind), inside, "{kind}");
    }
    fixture.bare(&["delete", "-f", "b"]).ok();
    assert!(!log(&fixture, "poststop").contains("pid"));
    assert_eq!(fixture.status("a"), "running");
}

/// CVE-2016-9962: while hooks run that look into init, its root is the host's still. Whoever shares its pid namespace must not
/// look into it as well.
#[test]
fn nobody_in_a_joined_pid_namespace_sees_the_host_while_hooks_run() {
    lodger_only!("all kinds of namespaces joined at once");
    let mut fixture = first();
    with_log(&mut fixture);
    join(&mut fixture, "a", &["user", "pid"]);
    fixture.config["hostname"] = json!(null);
    let secret = fixture.path("log");
    let look = format!(
        "exec --cap CAP_SYS_PTRACE a /bin/sh -c 'for p in /proc/[0-9]*; do test -e $p/root{} && echo seen; done; echo looked'",
        secret.display()
    );
    let look = call(&fixture, &look);
    add(
        &mut fixture,
        "createRuntime",
        &format!("{look} >$LOG/told 2>&1"),
    );
    fixture.args(&["/bin/true"]);
    let ran = fixture.runtime(&["run", "b"]).exits(0);
    assert_eq!(log(&fixture, "told"), "looked\n");
    assert!(
        ran.err
            .contains("/hooks/createRuntime/0: hooks before the start cannot open"),
        "{ran:#?}"
    );
    // Alone in its pid namespace it is seen by those outside only.
    list(&mut fixture, "pid", None);
    fixture.config["hooks"] = json!({});
    let net = format!("{READ_PID}; readlink /proc/$pid/ns/net >$LOG/net");
    add(&mut fixture, "createRuntime", &net);
    add(
        &mut fixture,
        "createRuntime",
        &format!("{look} >$LOG/told 2>&1"),
    );
    let ran = fixture.runtime(&["run", "b"]).exits(0);
    assert_eq!(log(&fixture, "told"), "looked\n");
    assert_eq!(ran.err, "");
    assert!(log(&fixture, "net").starts_with("net:["));
}

#[test]
fn hooks_and_an_agent_over_create_start_and_delete() {
    lodger_only!("the order of hooks and agent");
    let mut fixture = notifying(&["mkdirat"]);
    with_log(&mut fixture);
    for kind in KINDS {
        let script = format!("/bin/mkdir $LOG/{kind}; echo {kind} >>$LOG/order");
        add(&mut fixture, kind, &script);
    }
    let agent = Agent::serve(&fixture, "value=7");
    fixture.runtime(&["create", "c"]).ok();
    assert_eq!(agent.states(), 0);
    fixture.bare(&["start", "c"]).ok();
    fixture.wait_status("c", "stopped");
    assert_eq!(agent.states(), 1);
    fixture.bare(&["delete", "c"]).ok();
    // The hooks are under no filter: nobody answered in place of the kernel.
    for kind in KINDS {
        assert!(fixture.path("log").join(kind).is_dir(), "{kind}");
    }
    assert_eq!(log(&fixture, "order").lines().count(), KINDS.len());
    assert_eq!(agent.calls().lines().count(), 1, "{}", agent.calls());
}

#[test]
fn a_poststart_hook_that_fails_ends_a_container_with_an_agent() {
    lodger_only!("a poststart hook that fails");
    for (commands, verb) in [
        (&[&["run", "c"][..]][..], "create"),
        (&[&["run", "-d", "c"][..]], "create"),
        (&[&["create", "c"][..], &["start", "c"]], "start"),
    ] {
        let mut fixture = notifying(&["mkdirat"]);
        with_log(&mut fixture);
        add(&mut fixture, "poststart", "exit 3");
        add(&mut fixture, "poststop", "echo ran >$LOG/poststop");
        fixture.args(&["/bin/sleep", "600"]);
        let agent = Agent::serve(&fixture, "value=7");
        for (index, command) in commands.iter().enumerate() {
            let ran = fixture.runtime(command);
            if index + 1 == commands.len() {
                let ran = ran.exits(1);
                assert!(
                    ran.err.contains(&format!("cannot {verb} container")),
                    "{ran:#?}"
                );
                assert!(ran.err.contains("/hooks/poststart/0"), "{ran:#?}");
            } else {
                ran.ok();
            }
        }
        assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
        assert_eq!(log(&fixture, "poststop"), "ran\n");
        // What was sent to it may be on its way.
        wait_for("the state", || (agent.states() > 0).then_some(()));
        assert_eq!(agent.states(), 1);
    }
}

/// The manager, hooks, a terminal and a joined user namespace.
#[test]
fn a_program_in_a_pod_tells_its_manager_that_it_is_ready() {
    lodger_only!("a socket of the program's own");
    let mut fixture = Fixture::with_own_root();
    fixture.add_probe();
    list(&mut fixture, "user", None);
    fixture.sleeping("a");
    with_log(&mut fixture);
    join(&mut fixture, "a", &["user", "network", "ipc"]);
    add(&mut fixture, "poststart", "echo poststart >>$LOG/order");
    add(
        &mut fixture,
        "startContainer",
        "echo startContainer >>$LOG/order",
    );
    fixture.args(&["/probe", "notify", "READY=1"]);
    for uid in [0, 33] {
        fixture.config["process"]["user"] = json!({"uid": uid, "gid": uid});
        if uid == 33 {
            fixture.config["hooks"] = json!({});
        }
        let manager = Manager::new(&fixture);
        let running = start(&fixture, &manager, &["run", "-d", "b"]);
        let mut lines = Vec::new();
        while !lines
            .iter()
            .any(|line: &String| line.starts_with("MAINPID="))
        {
            lines.extend(manager.hears());
        }
        assert!(lines.contains(&"READY=1".to_owned()), "{lines:?}");
        running.wait().exits(0);
        fixture.bare(&["delete", "-f", "b"]).ok();
        fs::remove_file(fixture.path("manager")).unwrap();
    }
    assert_eq!(log(&fixture, "order"), "startContainer\npoststart\n");
}

/// The clocks of a new namespace, in a user namespace that is new, and one that is joined, under a filter and with hooks.
#[test]
fn clocks_a_filter_and_hooks_go_together() {
    lodger_only!("timeOffsets");
    for joined in [false, true] {
        let mut fixture = first();
        with_log(&mut fixture);
        fixture.config["hostname"] = json!(null);
        if joined {
            join(&mut fixture, "a", &["user", "pid"]);
        }
        list(&mut fixture, "time", None);
        fixture.config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 3600}});
        fixture.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
        for kind in [
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
        ] {
            add(&mut fixture, kind, &format!("echo {kind} >>$LOG/order"));
        }
        fixture.sh("cat /proc/self/timens_offsets; mkdir /log/new; exec sleep 600");
        fixture.runtime(&["create", "b"]).ok();
        fixture.bare(&["start", "b"]).ok();
        let order = "createRuntime\ncreateContainer\nstartContainer\npoststart\n";
        assert_eq!(log(&fixture, "order"), order, "{joined}");
        let script = "cat /proc/self/timens_offsets; mkdir /log/new 2>&1";
        let ran = fixture.bare(&["exec", "b", "/bin/sh", "-c", script]);
        assert!(ran.out.contains("3600"), "{ran:#?}");
        assert!(ran.out.contains("not supported"), "{ran:#?}");
        assert!(!fixture.path("log/new").exists());
        assert_eq!(
            namespace(&fixture, "b", "user") == namespace(&fixture, "a", "user"),
            joined
        );
    }
}

/// Who comes later is where the first process is, with its filter and on its CPUs.
#[test]
fn an_exec_into_a_pod_has_filter_and_cpus() {
    lodger_only!("execCPUAffinity");
    let mut fixture = first();
    with_log(&mut fixture);
    join(&mut fixture, "a", &["user", "network", "ipc", "uts"]);
    fixture.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
            {"names": ["sched_setaffinity", "setns", "clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    });
    fixture.config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
    fixture.config["process"]["noNewPrivileges"] = json!(false);
    fixture.config["process"]["user"] = json!({"uid": 33, "gid": 33});
    fixture.sleeping("b");
    let script =
        "grep -E 'Cpus_allowed_list|CapPrm|Seccomp:' /proc/self/status; mkdir /log/new 2>&1";
    let ran = fixture.bare(&["exec", "b", "/bin/sh", "-c", script]);
    for told in [
        "Cpus_allowed_list:\t0\n",
        "CapPrm:\t0000000000000000",
        "Seccomp:\t2",
        "not supported",
    ] {
        assert!(ran.out.contains(told), "{told}: {ran:#?}");
    }
}

/// A terminal is handed over while hooks of all kinds run.
#[test]
fn a_terminal_and_hooks_go_together() {
    lodger_only!("-t");
    let mut fixture = fixture();
    for kind in KINDS {
        add(
            &mut fixture,
            kind,
            &format!("test ! -t 0 && echo {kind} >>$LOG/order"),
        );
    }
    fixture.sh("test -t 0 && echo terminal");
    let ran = fixture.runtime(&["run", "-t", "c"]).exits(0);
    assert_eq!(ran.out, "terminal\r\n", "{ran:#?}");
    assert_eq!(log(&fixture, "order").lines().count(), KINDS.len());
}

/// Where no pid namespace of its own ends with the container, what its hooks have left behind is ended all the same.
#[test]
fn what_hooks_have_left_in_a_joined_pid_namespace_ends_with_a_failure() {
    lodger_only!("ending all processes of a container that has no cgroup");
    for kinds in [&["pid"][..], &["user", "pid"]] {
        let mut fixture = first();
        with_log(&mut fixture);
        join(&mut fixture, "a", kinds);
        fixture.config["hostname"] = json!(null);
        fixture.args(&["/bin/true"]);
        let seconds = seconds();
        let leave =
            format!("setsid sleep {seconds} >/dev/null 2>&1 </dev/null & echo left >$LOG/left");
        add(&mut fixture, "createContainer", &leave);
        add(&mut fixture, "createContainer", "exit 3");
        for command in [["run", "b"], ["create", "b"]] {
            let ran = fixture.runtime(&command).exits(1);
            assert!(ran.err.contains("/hooks/createContainer/1"), "{ran:#?}");
            assert_eq!(log(&fixture, "left"), "left\n");
            assert_eq!(sleepers(&seconds), [0u32; 0], "{kinds:?}");
        }
        assert_eq!(fixture.bare(&["list", "-q"]).ok(), "a\n");
        assert_eq!(fixture.status("a"), "running");
    }
}
