//! linux.seccomp: what a filter does to the container's processes, and what of a filter is refused.

use std::path::PathBuf;
use std::process::Command;

use nix::libc;
use serde_json::{Value, json};

use crate::harness::{
    Fixture, copy_program, lodger_only, peer, peer_differs, probe_binary, spawn, under_test,
};
use crate::weak::{Outcome, held_by};

/// What a process is ended with that a filter kills: SIGSYS, as a shell tells it.
const KILLED: i32 = 128 + libc::SIGSYS;

/// The static helper for both ends of a filter (helpers/agent.rs).
pub(crate) fn agent_binary() -> PathBuf {
    probe_binary().with_file_name("agent")
}

/// A container with the helper at /agent, and this filter.
pub(crate) fn filtered(seccomp: Value) -> Fixture {
    let mut fixture = Fixture::with_own_root();
    copy_program(&agent_binary(), &fixture.rootfs().join("agent"));
    fixture.config["linux"]["seccomp"] = seccomp;
    fixture
}

/// All calls are allowed but these, which get `action`.
pub(crate) fn blocking(names: &[&str], action: &str) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": names, "action": action}],
    })
}

/// Makes a directory, as `call` of the helper.
pub(crate) fn mkdirat() -> Vec<String> {
    let number = libc::SYS_mkdirat.to_string();
    let at = libc::AT_FDCWD.to_string();
    ["/agent", "call", &number, &at, "/tmp/made", "493"]
        .map(str::to_owned)
        .to_vec()
}

/// The command with the debug log.
pub(crate) fn debug(fixture: &Fixture, args: &[&str]) -> Command {
    let plain = fixture.command(args);
    let mut command = Command::new(plain.get_program());
    command.arg("--debug").args(plain.get_args());
    command.current_dir(fixture.bundle());
    command
}

fn set_args(fixture: &mut Fixture, args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    fixture.args(&args);
}

/// What the first process of a container with this filter is told when it makes a directory, or how it ended.
fn told(seccomp: Value) -> String {
    let mut fixture = filtered(seccomp);
    set_args(&mut fixture, &mkdirat());
    let ran = fixture.run();
    let made = fixture.rootfs().join("tmp/made").exists();
    assert_eq!(made, ran.out == "value 0\n", "{ran:#?}");
    match ran.code {
        0 => ran.out.trim_end().to_owned(),
        code => format!("exit {code}"),
    }
}

#[test]
fn every_action_does_what_it_says() {
    let killed = format!("exit {KILLED}");
    for (action, expected) in [
        ("SCMP_ACT_ALLOW", "value 0"),
        ("SCMP_ACT_LOG", "value 0"),
        ("SCMP_ACT_ERRNO", "errno 1"),
        // Nobody traces it.
        ("SCMP_ACT_TRACE", "errno 38"),
        ("SCMP_ACT_TRAP", &killed),
        ("SCMP_ACT_KILL", &killed),
        ("SCMP_ACT_KILL_THREAD", &killed),
        ("SCMP_ACT_KILL_PROCESS", &killed),
    ] {
        assert_eq!(told(blocking(&["mkdirat"], action)), expected, "{action}");
    }
}

#[test]
fn an_action_without_a_rule_is_the_default() {
    let mut seccomp = blocking(&["read", "write"], "SCMP_ACT_ALLOW");
    seccomp["defaultAction"] = json!("SCMP_ACT_LOG");
    assert_eq!(told(seccomp), "value 0");
}

#[test]
fn an_errno_is_the_one_of_the_rule() {
    let mut seccomp = blocking(&["mkdirat"], "SCMP_ACT_ERRNO");
    seccomp["syscalls"][0]["errnoRet"] = json!(5);
    assert_eq!(told(seccomp.clone()), "errno 5");
    // Success, without having been done.
    seccomp["syscalls"][0]["errnoRet"] = json!(0);
    let mut fixture = filtered(seccomp);
    set_args(&mut fixture, &mkdirat());
    assert_eq!(fixture.run().ok(), "value 0\n");
    assert!(!fixture.rootfs().join("tmp/made").exists());
}

/// The call is made with these last two arguments, which the kernel does not look at.
fn told_of_arguments(args: Value, fifth: u64, sixth: u64) -> String {
    let mut seccomp = blocking(&["getppid"], "SCMP_ACT_ERRNO");
    seccomp["syscalls"][0]["args"] = args;
    let mut fixture = filtered(seccomp);
    let numbers = [libc::SYS_getppid.unsigned_abs(), 0, 0, 0, 0, fifth, sixth];
    let mut words = vec!["/agent".to_owned(), "call".to_owned()];
    words.extend(numbers.map(|number| number.to_string()));
    set_args(&mut fixture, &words);
    fixture.run().ok().trim_end().to_owned()
}

#[test]
fn every_operator_compares_an_argument() {
    let big = 5u64 << 32;
    for (op, value, two, holds, not) in [
        ("SCMP_CMP_NE", big, 0, big + 1, big),
        ("SCMP_CMP_LT", big, 0, big - 1, big),
        ("SCMP_CMP_LE", big, 0, big, big + 1),
        ("SCMP_CMP_EQ", big, 0, big, 5),
        ("SCMP_CMP_GE", big, 0, big, big - 1),
        ("SCMP_CMP_GT", big, 0, big + 1, big),
        ("SCMP_CMP_MASKED_EQ", 0xff0, 0x120, 0xf12f, 0x130),
    ] {
        let args = json!([{"index": 5, "value": value, "valueTwo": two, "op": op}]);
        assert_eq!(told_of_arguments(args.clone(), 0, holds), "errno 1", "{op}");
        assert_eq!(told_of_arguments(args, 0, not), "value 0", "{op}");
    }
}

#[test]
fn conditions_on_several_arguments_must_all_hold() {
    let one = |index: u32| json!({"index": index, "value": 7, "op": "SCMP_CMP_EQ"});
    let both = json!([one(4), one(5)]);
    assert_eq!(told_of_arguments(both.clone(), 7, 7), "errno 1");
    assert_eq!(told_of_arguments(both.clone(), 7, 8), "value 0");
    assert_eq!(told_of_arguments(both, 8, 7), "value 0");
}

#[test]
fn conditions_on_one_argument_are_alternatives_and_that_is_said() {
    let one = |value: u32| json!({"index": 5, "value": value, "op": "SCMP_CMP_EQ"});
    let either = json!([one(7), one(8)]);
    assert_eq!(told_of_arguments(either.clone(), 0, 7), "errno 1");
    assert_eq!(told_of_arguments(either.clone(), 0, 8), "errno 1");
    assert_eq!(told_of_arguments(either.clone(), 0, 9), "value 0");
    if peer() {
        return;
    }
    let mut seccomp = blocking(&["getppid"], "SCMP_ACT_ERRNO");
    seccomp["syscalls"][0]["args"] = either;
    let ran = filtered(seccomp).run();
    let note = "/linux/seccomp/syscalls/0/args: two conditions are about the same argument";
    assert!(ran.err.contains(note), "{ran:#?}");
}

#[test]
fn the_first_rule_without_conditions_counts() {
    let mut seccomp = blocking(&["mkdirat"], "SCMP_ACT_ERRNO");
    let rules = seccomp["syscalls"].as_array_mut().unwrap();
    rules.push(json!({"names": ["chroot", "mkdirat"], "action": "SCMP_ACT_KILL"}));
    let mut fixture = filtered(seccomp);
    set_args(&mut fixture, &mkdirat());
    assert_eq!(fixture.run().ok(), "errno 1\n");
    if peer() {
        return;
    }
    std::fs::remove_dir_all(fixture.path("state/.seccomp")).unwrap();
    let ran = spawn(&mut debug(&fixture, &["run", "c"]), b"").wait();
    let text = "overruled: another rule is for every such call";
    assert!(ran.err.contains(text), "{ran:#?}");
}

/// The kernel looks at 32 bits of an ioctl's number, a filter at 64: a rule can leave the upper half out.
#[test]
fn cve_2019_10063_an_ioctl_is_not_let_through_by_its_upper_half() {
    let mut seccomp = blocking(&["ioctl"], "SCMP_ACT_ERRNO");
    let low = u64::from(u32::MAX);
    let mask =
        json!([{"index": 1, "value": low, "valueTwo": libc::TIOCSTI, "op": "SCMP_CMP_MASKED_EQ"}]);
    seccomp["syscalls"][0]["args"] = mask;
    for number in [
        libc::TIOCSTI,
        libc::TIOCSTI | 1 << 32,
        libc::TIOCSTI | 0xabcd << 40,
    ] {
        let mut fixture = filtered(seccomp.clone());
        let (ioctl, number) = (libc::SYS_ioctl.to_string(), number.to_string());
        fixture.args(&["/agent", "call", &ioctl, "99", &number, "x"]);
        assert_eq!(fixture.run().ok(), "errno 1\n", "{number}");
        // Another one comes to the kernel: there is no such file.
        fixture.args(&["/agent", "call", &ioctl, "99", "1", "x"]);
        assert_eq!(fixture.run().ok(), "errno 9\n");
    }
}

/// What of its privileges a process sees of itself.
const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";

#[test]
fn the_filter_changes_no_capability_with_and_without_no_new_privs() {
    for uid in [0, 5] {
        for no_new_privs in [true, false] {
            let mut fixture = filtered(Value::Null);
            fixture.sh(STATUS);
            fixture.config["process"]["user"] = json!({"uid": uid, "gid": uid});
            fixture.config["process"]["noNewPrivileges"] = json!(no_new_privs);
            let without = fixture.run().ok();
            fixture.config["linux"]["seccomp"] = blocking(&["mkdirat"], "SCMP_ACT_ERRNO");
            let with = fixture.run().ok();
            assert!(without.contains("Seccomp:\t0"), "{without}");
            let expected = without.replace("Seccomp:\t0", "Seccomp:\t2");
            assert_eq!(with, expected, "uid {uid}, no_new_privs {no_new_privs}");
            let set = format!("NoNewPrivs:\t{}", u8::from(no_new_privs));
            assert!(with.contains(&set), "{with}");
        }
    }
}

#[test]
fn an_exec_has_the_filter_of_the_container() {
    for no_new_privs in [true, false] {
        let mut fixture = filtered(blocking(&["mkdirat"], "SCMP_ACT_ERRNO"));
        fixture.config["process"]["noNewPrivileges"] = json!(no_new_privs);
        fixture.sleeping("c");
        let mkdirat = mkdirat();
        let mut exec = vec!["exec", "c"];
        exec.extend(mkdirat.iter().map(String::as_str));
        assert_eq!(fixture.bare(&exec).ok(), "errno 1\n");
        let status = fixture.bare(&["exec", "c", "/bin/sh", "-c", STATUS]).ok();
        assert!(status.contains("Seccomp:\t2"), "{status}");
        // And with a process of its own.
        let mut process = fixture.config["process"].clone();
        process["args"] = json!(mkdirat);
        let file = fixture.path("process.json");
        std::fs::write(&file, process.to_string()).unwrap();
        let file = file.to_str().unwrap();
        let ran = fixture.bare(&["exec", "--process", file, "c"]);
        assert_eq!(ran.ok(), "errno 1\n");
    }
}

#[test]
fn the_children_of_a_program_and_a_created_container_have_it() {
    let mut fixture = filtered(blocking(&["mkdirat"], "SCMP_ACT_ERRNO"));
    let script = format!("sh -c '{} >/tmp/told'; sleep 600", mkdirat().join(" "));
    fixture.sh(&script);
    fixture.runtime(&["create", "c"]).ok();
    fixture.bare(&["start", "c"]).ok();
    let told = fixture.rootfs().join("tmp/told");
    let text = crate::harness::wait_for("the call", || {
        let text = std::fs::read_to_string(&told).ok()?;
        text.ends_with('\n').then_some(text)
    });
    assert_eq!(text, "errno 1\n");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_call_of_another_architecture_is_killed_unless_it_is_listed() {
    let mut fixture = filtered(blocking(&["getppid"], "SCMP_ACT_ERRNO"));
    // getpid and getppid of i386.
    fixture.args(&["/agent", "int80", "20"]);
    fixture.run().exits(KILLED);
    fixture.config["linux"]["seccomp"]["architectures"] =
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    assert_eq!(fixture.run().ok(), "value 1\n");
    fixture.args(&["/agent", "int80", "64"]);
    assert_eq!(fixture.run().ok(), "errno 1\n");
}

#[test]
fn architectures_that_this_machine_cannot_run_are_no_matter() {
    peer_differs!(
        "crun",
        "1.8 fails for architectures of the other byte order, and for those it does not know"
    );
    peer_differs!(
        "runc",
        "1.1 fails for architectures of the other byte order, and for those it does not know"
    );
    let mut seccomp = blocking(&["mkdirat"], "SCMP_ACT_ERRNO");
    seccomp["architectures"] =
        json!(["SCMP_ARCH_S390X", "SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_SHEB"]);
    assert_eq!(told(seccomp), "errno 1");
}

#[test]
fn flags_are_given_to_the_kernel() {
    peer_differs!("runc", "1.1 refuses a filter with flags");
    let mut seccomp = blocking(&["mkdirat"], "SCMP_ACT_ERRNO");
    for flag in [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
    ] {
        seccomp["flags"] = json!([flag]);
        assert_eq!(told(seccomp.clone()), "errno 1", "{flag}");
    }
    // Nobody waits for an agent here.
    seccomp["flags"] = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
    assert_eq!(told(seccomp), "errno 1");
}

/// Calls that a runtime makes between its set-up and the program, and that this program does not need.
const OURS: [&str; 23] = [
    "accept4",
    "bind",
    "capset",
    "chdir",
    "close_range",
    "connect",
    "fchown",
    "getcwd",
    "keyctl",
    "listen",
    "openat2",
    "pidfd_open",
    "pivot_root",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "sendto",
    "setgroups",
    "setresgid",
    "setresuid",
    "setsid",
    "socket",
    "umask",
];

#[test]
fn a_filter_of_our_own_calls_does_not_stop_us() {
    peer_differs!(
        "runc",
        "1.1 makes calls of its own under the filter, unless noNewPrivileges is set"
    );
    peer_differs!(
        "crun",
        "1.8 makes calls of its own under the filter: exec ends by them, and run without noNewPrivileges"
    );
    for no_new_privs in [true, false] {
        let mut fixture = filtered(blocking(&OURS, "SCMP_ACT_KILL_PROCESS"));
        fixture.config["process"]["noNewPrivileges"] = json!(no_new_privs);
        fixture.config["process"]["user"] = json!({"uid": 5, "gid": 5});
        // It has none of its own to set without root.
        if under_test() != "runc" {
            fixture.config["process"]["user"]["additionalGids"] = json!([6]);
        }
        fixture.args(&["/agent", "call", &libc::SYS_getppid.to_string()]);
        assert_eq!(fixture.run().ok(), "value 0\n");
        fixture.args(&["/agent", "call", &libc::SYS_ppoll.to_string()]);
        fixture.runtime(&["create", "c"]).ok();
        fixture.bare(&["start", "c"]).ok();
        fixture.wait_status("c", "running");
        let number = libc::SYS_umask.to_string();
        let exec = ["exec", "c", "/agent", "call", &number];
        fixture.bare(&exec).exits(KILLED);
        let number = libc::SYS_getppid.to_string();
        let exec = ["exec", "c", "/agent", "call", &number];
        assert_eq!(fixture.bare(&exec).ok(), "value 0\n");
    }
}

#[test]
fn a_program_that_cannot_be_run_under_the_filter_says_so() {
    lodger_only!("the wording");
    let mut fixture = filtered(blocking(&["sendto", "mkdirat"], "SCMP_ACT_ERRNO"));
    crate::harness::write_program(&fixture.rootfs().join("script"), b"#!/no/interpreter\n");
    fixture.args(&["/script"]);
    let text = "exec: \"/script\": no such file or directory";
    fixture.run().fails(1, text);
    fixture.runtime(&["create", "d"]).ok();
    fixture.bare(&["start", "d"]).fails(1, text);
    // Without the two calls that could tell of it there is no message, but no success either.
    fixture.config["linux"]["seccomp"] = blocking(&["sendto", "write"], "SCMP_ACT_ERRNO");
    let ran = fixture.run();
    assert_eq!((ran.code, &*ran.out), (1, ""), "{ran:#?}");
}

#[test]
fn a_filter_without_execve_is_refused() {
    let mut fixture = filtered(blocking(&["execve"], "SCMP_ACT_ERRNO"));
    peer_differs!(
        "runc",
        "1.1 hangs where the default action is SCMP_ACT_KILL"
    );
    let text = "/linux/seccomp: the filter forbids execve(2), without which no program can be run";
    fixture.args(&["/bin/true"]);
    fixture.run().fails(1, text);
    if under_test() == "lodger" {
        fixture.bare(&["plan", "."]).fails(1, text);
    }
    fixture.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_KILL"});
    fixture.run().fails(1, text);
}

#[test]
fn what_is_wrong_with_a_filter_is_listed_with_its_pointers() {
    lodger_only!("the wording");
    let mut fixture = filtered(json!({
        "defaultAction": "SCMP_ACT_NOTIFY",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_NONE"],
        "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"],
        "listenerMetadata": "x",
        "syscalls": [
            {"names": [], "action": "SCMP_ACT_ALLOW", "errnoRet": 1},
            {"action": "SCMP_ACT_ERRNO", "errnoRet": 4096},
            {"names": ["read", ""], "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_LIKE"}, {"op": "SCMP_CMP_EQ"}]},
            {"names": ["read"], "action": "SCMP_ACT_NOTIFY"}
        ]
    }));
    fixture.args(&["/bin/true"]);
    let ran = fixture.run();
    for problem in [
        "/linux/seccomp/defaultAction: nobody could be notified",
        "/linux/seccomp/defaultErrnoRet: SCMP_ACT_NOTIFY has no errno",
        "/linux/seccomp/architectures/0: there is no seccomp architecture \"SCMP_ARCH_NONE\"",
        "/linux/seccomp/flags/0: there is no seccomp flag \"SECCOMP_FILTER_FLAG_NEW_LISTENER\"",
        "/linux/seccomp/listenerMetadata: must not be set without listenerPath",
        "/linux/seccomp/syscalls/0/names: must name at least one call",
        "/linux/seccomp/syscalls/0/errnoRet: SCMP_ACT_ALLOW has no errno",
        "/linux/seccomp/syscalls/1/names: is required",
        "/linux/seccomp/syscalls/1/errnoRet: 4096 is more than SCMP_ACT_ERRNO can return: 4095",
        "/linux/seccomp/syscalls/2/action: is required",
        "/linux/seccomp/syscalls/2/names/1: must not be empty",
        "/linux/seccomp/syscalls/2/args/0/index: a system call has the arguments 0 to 5",
        "/linux/seccomp/syscalls/2/args/0/op: there is no seccomp operator \"SCMP_CMP_LIKE\"",
        "/linux/seccomp/syscalls/2/args/1/index: is required",
        "/linux/seccomp/syscalls/2/args/1/value: is required",
        "/linux/seccomp/syscalls/3/action: SCMP_ACT_NOTIFY needs somebody to notify",
    ] {
        assert!(ran.err.contains(problem), "no {problem:?} in {ran:#?}");
    }
    ran.fails(1, "");
    fixture.config["linux"]["seccomp"] = json!({"syscalls": []});
    let text = "/linux/seccomp/defaultAction: is required";
    fixture.run().fails(1, text);
}

#[test]
fn an_unknown_call_that_was_to_be_blocked_is_refused() {
    peer_differs!(
        "crun",
        "passes over names it does not know: the call is not blocked"
    );
    peer_differs!(
        "runc",
        "passes over names it does not know: the call is not blocked"
    );
    let seccomp = blocking(&["mkdirat", "no_such_call"], "SCMP_ACT_ERRNO");
    let text = "/linux/seccomp/syscalls/0/names/1: there is no system call \"no_such_call\"";
    filtered(seccomp).run().fails(1, text);
}

#[test]
fn an_unknown_call_that_was_to_be_allowed_is_told_in_the_debug_log() {
    let mut seccomp = blocking(&["mkdirat", "no_such_call"], "SCMP_ACT_ALLOW");
    seccomp["defaultAction"] = json!("SCMP_ACT_LOG");
    let mut fixture = filtered(seccomp);
    set_args(&mut fixture, &mkdirat());
    let ran = fixture.run().exits(0);
    assert_eq!((&*ran.out, &*ran.err), ("value 0\n", ""));
    if peer() {
        return;
    }
    // What was compiled once is not looked at again.
    std::fs::remove_dir_all(fixture.path("state/.seccomp")).unwrap();
    let ran = spawn(&mut debug(&fixture, &["run", "c"]), b"").wait();
    let text = "no such system call is known: passed over";
    assert!(ran.err.contains(text), "{ran:#?}");
}

#[test]
fn what_the_filter_blocks_is_blocked() {
    lodger_only!("a switch for each defence");
    held_by(&["Seccomp"], || {
        let mut fixture = filtered(blocking(&["mkdirat"], "SCMP_ACT_ERRNO"));
        set_args(&mut fixture, &mkdirat());
        let ran = fixture.run().exits(0);
        let made = fixture.rootfs().join("tmp/made").exists();
        Outcome::of(made.then(|| ran.out.clone()), ran.out)
    });
}
