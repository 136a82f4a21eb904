//! Fail closed: a system call that fails, whichever it is, stops the start with one error and leaves nothing behind, or
//! makes no difference to what the container's program sees of itself.

use serde_json::json;

use crate::harness::{Ran, lodger_only, skip};
use crate::sweep::{Sweep, last_map_write, up_to_execve, with_init_traced};
use crate::tracing::{Call, Fate, inject, run_injected, trace, works};

/// What a program can see of the things that protect the host from it, in one text.
const VIEW: &str = r#"
    grep -E '^(Uid|Gid|Groups|Umask|Cap|NoNewPrivs|Seccomp|NSpid|NSsid)' /proc/self/status
    cat /proc/self/limits /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups
    cat /proc/self/oom_score_adj /proc/sys/kernel/hostname /proc/sys/net/core/somaxconn
    while read -r id parent device root point options rest; do
        echo "$root $point $options ${rest#*- }"
    done </proc/self/mountinfo
    for name in /proc/self/fd/[3-9] /proc/self/fd/[1-9][0-9]; do [ -h "$name" ] && echo "$name"; done
    pwd; [ -e /proc/self/cwd/.. ] && ls -d /dev/* / /bin
    for name in pid user mnt net uts ipc cgroup; do
        [ "$(readlink /proc/self/ns/$name)" = "$HOST_$name" ] && echo "$name is the host's"
    done
    :
"#;

/// Calls of init that set up something that protects: none of them may fail without the start failing.
const STEPS: [&str; 24] = [
    "capset",
    "close_range",
    "fchdir",
    "fsconfig",
    "fsmount",
    "fsopen",
    "mkdirat",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "prctl",
    "prlimit64",
    "seccomp",
    "sethostname",
    "setgroups",
    "setresgid",
    "setresuid",
    "setsid",
    "symlinkat",
    "umount2",
    "unshare",
    "write",
];

/// Calls that have no error, or whose error (no memory at the start of a program) is not this program's to handle.
const CANNOT_FAIL: [&str; 17] = [
    "arch_prctl",
    "brk",
    "close",
    "exit_group",
    "getegid",
    "geteuid",
    "getpid",
    "getrandom",
    "mmap",
    "mprotect",
    "munmap",
    "rseq",
    "rt_sigaction",
    "set_robust_list",
    "set_tid_address",
    "setsid",
    "umask",
];

/// A container that asks for one of everything that protects, and prints what came of it.
fn guarded() -> Sweep {
    let mut sweep = Sweep::new(true);
    let config = &mut sweep.fixture.config;
    let process = &mut config["process"];
    process["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7], "umask": 23});
    process["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    process["oomScoreAdj"] = json!(700);
    process["capabilities"]["ambient"] = json!(["CAP_KILL"]);
    process["capabilities"]["inheritable"] = json!(["CAP_KILL"]);
    process["cwd"] = json!("/etc");
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_ERRNO"}],
    });
    config["linux"]["sysctl"] = json!({"net.core.somaxconn": "77"});
    let namespaces = &mut config["linux"]["namespaces"];
    namespaces
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "cgroup"}));
    let mut script = String::new();
    for name in ["pid", "user", "mnt", "net", "uts", "ipc", "cgroup"] {
        let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        script += &format!("HOST_{name}='{}'\n", link.display());
    }
    // ${HOST_pid} and its like, by name.
    script += &VIEW.replace("\"$HOST_$name\"", "\"$(eval echo \\$HOST_$name)\"");
    sweep.fixture.sh(&script);
    sweep.fixture.write_config();
    // The filter is compiled by now, and every run makes the same calls.
    sweep.warm_up();
    sweep
}

/// The errno that a call might really fail with.
fn likely_error(call: &Call) -> &'static str {
    match &*call.name {
        "clone3" => "EAGAIN",
        "accept4" | "fsmount" | "fsopen" | "open_tree" | "openat" | "openat2" | "pidfd_open"
        | "pipe2" | "socket" | "socketpair" => "EMFILE",
        "write" | "mkdirat" | "mkdir" | "renameat" => "ENOSPC",
        _ => "EIO",
    }
}

/// One error, with a cause.
#[track_caller]
fn assert_one_error(ran: &Ran, when: &str) {
    assert_eq!(ran.code, 1, "{when}: {ran:#?}");
    let errors = ran.err.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{when}: {ran:#?}");
    assert!(ran.err.contains("caused by: "), "{when}: {ran:#?}");
}

#[test]
fn a_call_of_init_that_fails_stops_the_start_or_changes_nothing() {
    lodger_only!("how a failure stops the start");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let sweep = guarded();
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let command = || sweep.fixture.command(&["run", "c"]);
    let writes = last_map_write(&trace(&command(), &scratch.join("trace")));
    let (_, ran, calls) = with_init_traced(&command(), scratch, writes, &[]);
    let view = ran.ok();
    assert!(
        view.contains("NoNewPrivs:\t1\nSeccomp:\t2\n")
            && view.contains("CapAmb:\t0000000000000020"),
        "{view}"
    );
    assert!(
        !view.contains("the host's") && view.contains("\n77\n"),
        "{view}"
    );
    let calls = up_to_execve(calls);
    for name in STEPS {
        assert!(
            calls.iter().any(|call| call.name == name),
            "{name} is not among init's calls"
        );
    }
    let (mut stopped, mut harmless) = (0, Vec::new());
    for errno in ["likely", "EPERM"] {
        for (n, call) in calls.iter().enumerate() {
            if CANNOT_FAIL.contains(&&*call.name) {
                continue;
            }
            let is_step = STEPS.contains(&&*call.name) && call.succeeded();
            let errno = match errno {
                "likely" => likely_error(call),
                // Once more for what a kernel or a filter may refuse.
                _ if is_step => errno,
                _ => continue,
            };
            let when = format!("{errno} in init for call {n}, {}", call.line);
            let option = inject(&calls, n, Fate::Error(errno));
            let (runtime, ran, _) = with_init_traced(&command(), scratch, writes, &[&*option]);
            if ran.code == 0 {
                assert_eq!(ran.out, view, "{when}");
                harmless.push(when.clone());
            } else {
                // A program that cannot be examined is none, as with execvp(3).
                let is_lookup = call.line.contains("AT_FDCWD") && call.name.contains("at");
                if is_lookup && ran.err.contains("exec: \"/bin/sh\": ") {
                    ran.fails(1, "");
                } else {
                    assert_one_error(&ran, &when);
                    assert!(ran.err.contains(errno), "{when}: {ran:#?}");
                    assert_eq!(ran.out, "", "{when}");
                }
                stopped += 1;
            }
            sweep.assert_nothing_left(runtime, &when);
        }
    }
    eprintln!("{stopped} failures stopped the start; harmless: {harmless:#?}");
    let is_step = |when: &String| {
        STEPS
            .iter()
            .any(|step| when.contains(&format!(", {step}(")))
    };
    // A procfs of our own for kernel parameters that may not be made has a stand-in, the host's.
    let has_stand_in = |when: &&String| {
        let of_it = ["fsopen", "fsconfig", "fsmount"];
        when.starts_with("EPERM")
            && of_it
                .iter()
                .any(|call| when.contains(&format!(", {call}(")))
    };
    let (stood_in, rest): (Vec<&String>, Vec<&String>) = harmless.iter().partition(has_stand_in);
    assert!(stood_in.len() <= 3, "{stood_in:#?}");
    assert!(!rest.into_iter().any(is_step), "{harmless:#?}");
}

/// The runtime's own calls. Some only find out about the host, and what they do not find out is said in a note.
#[test]
fn a_call_of_the_runtime_that_fails_stops_the_start_or_changes_nothing() {
    lodger_only!("how a failure stops the start");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let sweep = guarded();
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let pid_file = sweep.pid_file();
    let command = || {
        sweep
            .fixture
            .command(&["run", "--pid-file", &pid_file, "c"])
    };
    let calls = trace(&command(), &scratch.join("trace"));
    sweep.assert_nothing_left(0, "no failure");
    let view = sweep.fixture.bare(&["run", "c"]).ok();
    let is_end = |call: &Call| call.line.starts_with("flock(") && call.line.contains("LOCK_UN");
    let running = calls.iter().position(is_end).unwrap();
    // Once init is told to, the program may have run before a failure here ends it.
    let is_order = |call: &Call| call.name.starts_with("send") && call.line.contains("Exec");
    let told = calls.iter().position(is_order).unwrap();
    assert!(told < running, "{told} < {running}");
    let (mut stopped, mut harmless) = (0, 0);
    for (n, call) in calls.iter().enumerate().skip(1) {
        if CANNOT_FAIL.contains(&&*call.name) {
            continue;
        }
        let errno = likely_error(call);
        let when = format!("{errno} in the runtime for call {n}, {}", call.line);
        let (runtime, ran) = run_injected(&command(), scratch, &calls, n, Fate::Error(errno));
        if ran.code == 0 {
            assert_eq!(ran.out, view, "{when}");
            harmless += 1;
        } else {
            assert_one_error(&ran, &when);
            stopped += 1;
        }
        if n >= running && (ran.code != 0 || ran.err.contains("cannot remove container \"c\"")) {
            // The program did run, and what cannot be cleared away by this command can be by the next; the status may be the
            // program's.
            sweep.fixture.bare(&["delete", "-f", "c"]).ok();
        }
        if n <= told && ran.code != 0 {
            assert_eq!(ran.out, "", "{when}");
        }
        assert!(view.starts_with(&ran.out), "{when}: {ran:#?}");
        sweep.assert_nothing_left(runtime, &when);
    }
    eprintln!("{stopped} failures were errors, {harmless} harmless");
    assert!(stopped >= 60, "{stopped}");
}

/// A signal that comes while something is waited for: nothing is lost by it.
#[test]
fn an_interrupted_call_is_made_again() {
    lodger_only!("interrupted calls");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    const WAITS: [&str; 9] = [
        "accept4",
        "flock",
        "poll",
        "read",
        "recvfrom",
        "recvmsg",
        "rt_sigtimedwait",
        "wait4",
        "write",
    ];
    let sweep = Sweep::new(true);
    let scratch = tempfile::tempdir().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let commands: [(&[&[&str]], &[&str]); 5] = [
        (&[], &["create", "c"]),
        (&[&["create", "c"]], &["start", "c"]),
        (&[&["run", "-d", "c"]], &["exec", "c", "/bin/true"]),
        (&[&["run", "-d", "c"]], &["delete", "-f", "c"]),
        (&[&["create", "c"]], &["delete", "c"]),
    ];
    for (prepare, args) in commands {
        let prepared = || {
            sweep.fixture.bare(&["delete", "-f", "c"]).ok();
            for args in prepare {
                sweep.fixture.bare(args).ok();
            }
            sweep.fixture.command(args)
        };
        let calls = trace(&prepared(), &scratch.path().join("trace"));
        for (n, call) in calls.iter().enumerate() {
            // One write(2) is all that a file of /proc takes: it is not made twice.
            let once = call.name == "write" && !call.line.contains("state");
            if !WAITS.contains(&&*call.name) || once {
                continue;
            }
            seen.insert(call.name.clone());
            let fate = Fate::Error("EINTR");
            let (_, ran) = run_injected(&prepared(), scratch.path(), &calls, n, fate);
            assert_eq!((ran.code, &*ran.err), (0, ""), "{args:?}: {}", call.line);
        }
    }
    eprintln!("interrupted: {seen:?}");
    let received = seen.iter().any(|name| name.starts_with("recv"));
    assert!(received && seen.len() >= 4, "{seen:?}");
}
