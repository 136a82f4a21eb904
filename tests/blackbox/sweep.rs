//! kill -9 at every step. Whatever was going on, `delete -f` succeeds afterwards, nothing is left, and the id is free.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::harness::{Fixture, LIMIT, Ran, lodger_only, skip, wait_for};
use crate::tracing::{
    Attached, Call, Fate, Stopped, children, inject, is_in_call, number_of, process_state,
    run_injected, trace, works,
};

/// Everything a killed runtime could leave.
#[derive(Debug)]
pub(crate) struct Leavings {
    files: BTreeSet<PathBuf>,
    mounts: usize,
}

/// A fixture, and what there was before the container.
pub(crate) struct Sweep {
    pub(crate) fixture: Fixture,
    /// What the container's program is called with: a number of seconds that no other program sleeps.
    pub(crate) word: String,
    before: Leavings,
}

impl Sweep {
    /// With a `neighbour` that runs, no helper is called (a warm start).
    pub(crate) fn new(neighbour: bool) -> Sweep {
        let mut fixture = Fixture::new();
        if neighbour {
            fixture.sleeping("neighbour");
        }
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let word = format!("8{:07}{number:02}", std::process::id());
        fixture.args(&["/bin/sleep", &word]);
        fixture.write_config();
        fs::create_dir(fixture.path("pids")).unwrap();
        let before = leavings(&fixture);
        Sweep {
            fixture,
            word,
            before,
        }
    }

    /// Runs the container once, and takes what is kept of that (compiled filters) for what there was before.
    pub(crate) fn warm_up(&mut self) {
        self.fixture.bare(&["run", "c"]).ok();
        self.before = leavings(&self.fixture);
    }

    pub(crate) fn pid_file(&self) -> String {
        self.fixture.path("pids/c").to_str().unwrap().to_owned()
    }

    /// The processes of the container, of the runtime, and of the helpers that the runtime `runtime` called.
    fn processes(&self, runtime: u32) -> Vec<String> {
        let state = self.fixture.path("state").to_str().unwrap().to_owned();
        let target = format!("idmap\0{runtime}\0");
        processes_where(|line| {
            let of_neighbour = line.ends_with("neighbour\0");
            let named = line.contains(&state) || line.contains(&self.word);
            (named && !of_neighbour) || line.contains(&target)
        })
    }

    fn runs_program(&self) -> bool {
        let program = format!("/bin/sleep\0{}\0", self.word);
        !processes_where(|line| line == program).is_empty()
    }

    /// A status must not say that the program is still to be started when it runs, nor the other way round.
    #[track_caller]
    fn assert_status_is_true(&self, when: &str) {
        let mut status = String::new();
        let begin = std::time::Instant::now();
        while begin.elapsed() < LIMIT {
            let ran = self.fixture.bare(&["state", "c"]);
            if ran.code != 0 {
                return assert!(ran.err.contains("does not exist"), "{when}: {ran:#?}");
            }
            let runs = self.runs_program();
            let state: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
            status = state["status"].as_str().unwrap().to_owned();
            if runs == (status == "running") {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{when}: the status is {status:?} for ever");
    }

    /// After the runtime `runtime` was killed.
    #[track_caller]
    fn assert_cleaned(&self, runtime: u32, when: &str) {
        self.assert_status_is_true(when);
        let ran = self.fixture.bare(&["delete", "-f", "c"]);
        assert_eq!((ran.code, &*ran.err), (0, ""), "{when}: {ran:#?}");
        self.assert_nothing_left(runtime, when);
        let again = self.fixture.bare(&["create", "c"]);
        assert_eq!(again.code, 0, "{when}: {again:#?}");
        self.fixture.bare(&["delete", "-f", "c"]).ok();
    }

    #[track_caller]
    pub(crate) fn assert_nothing_left(&self, runtime: u32, when: &str) {
        let begin = std::time::Instant::now();
        let mut left = self.processes(runtime);
        while !left.is_empty() {
            assert!(begin.elapsed() < LIMIT, "{when}: {left:?}");
            std::thread::sleep(std::time::Duration::from_millis(2));
            left = self.processes(runtime);
        }
        let pid_file = self.fixture.path("pids/c");
        // It is the caller's, with its whole content.
        if let Ok(text) = fs::read_to_string(&pid_file) {
            assert!(text.parse::<u32>().is_ok(), "{when}: {text:?}");
            fs::remove_file(pid_file).unwrap();
        }
        let after = leavings(&self.fixture);
        let changed: Vec<_> = after
            .files
            .symmetric_difference(&self.before.files)
            .collect();
        assert_eq!(
            (changed, after.mounts),
            (vec![], self.before.mounts),
            "{when}"
        );
    }

    /// The command, killed before each of its calls in turn. Returns how many points there were.
    fn kill_at_each(&self, prepare: &[&[&str]], args: &[&str]) -> usize {
        // Where something is waited for, a call more or less is made, and one kind may not come to its number. If many do
        // not, it was the trace that they were taken from that was unlike the others.
        for _ in 0..3 {
            let (points, missed) = self.kill_at_each_of_one_trace(prepare, args);
            if missed.len() * 20 <= points {
                return points - missed.len();
            }
            eprintln!("{} of {points} not reached: {missed:#?}", missed.len());
        }
        panic!("{args:?}: too many points were not reached");
    }

    /// How many points there were, and those that were not reached.
    fn kill_at_each_of_one_trace(
        &self,
        prepare: &[&[&str]],
        args: &[&str],
    ) -> (usize, Vec<String>) {
        let scratch = tempfile::tempdir().unwrap();
        let run_prepared = || {
            for args in prepare {
                self.fixture.bare(args).ok();
            }
            self.fixture.command(args)
        };
        let calls = trace(&run_prepared(), &scratch.path().join("trace"));
        self.fixture.bare(&["delete", "-f", "c"]).ok();
        self.assert_nothing_left(0, "not killed");
        let points = points(&calls, self.fixture.path("state").to_str().unwrap());
        let mut missed = Vec::new();
        for n in &points {
            let when = format!("{args:?} killed before call {n}, {:?}", calls[*n].line);
            // A busy machine may pass a point by, as what is waited for comes in another number of pieces.
            let hit = (0..3).any(|_| {
                let command = run_prepared();
                let (pid, ran) = run_injected(&command, scratch.path(), &calls, *n, Fate::Kill);
                self.assert_cleaned(pid, &when);
                ran.code == 128 + 9
            });
            if !hit {
                missed.push(calls[*n].line.clone());
            }
        }
        (points.len(), missed)
    }
}

fn processes_where(is: impl Fn(&str) -> bool) -> Vec<String> {
    let own = std::process::id().to_string();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name() != *own)
        .filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).into_owned())
        })
        .filter(|line| !line.is_empty() && is(line))
        .collect()
}

fn leavings(fixture: &Fixture) -> Leavings {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = fixture.path("");
    Leavings {
        files: fixture.listing().into_iter().collect(),
        mounts: mounts
            .lines()
            .filter(|line| line.contains(own.to_str().unwrap()))
            .count(),
    }
}

/// All calls from the first one that names the state root, and some of those before.
fn points(calls: &[Call], state: &str) -> Vec<usize> {
    let first = calls
        .iter()
        .skip(1)
        .position(|call| call.line.contains(state))
        .map(|place| place + 1)
        .expect("the state root is opened");
    let early = (1..first).step_by(16);
    early.chain(first..calls.len()).collect()
}

/// The whole sweep has at least this many points, in all tests of this file together.
const LEAST: [(&str, usize); 4] = [("create", 80), ("run", 150), ("start", 40), ("exec", 80)];

#[track_caller]
fn assert_enough(verb: &str, points: usize) {
    eprintln!("{verb}: killed at {points} points");
    let (_, least) = LEAST.iter().find(|(name, _)| *name == verb).unwrap();
    assert!(points >= *least, "{verb}: only {points} points");
}

#[test]
fn a_create_that_is_killed_at_each_step_leaves_nothing() {
    lodger_only!("being killed at each step");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    for neighbour in [false, true] {
        let sweep = Sweep::new(neighbour);
        let args = ["create", "--pid-file", &sweep.pid_file(), "c"];
        assert_enough("create", sweep.kill_at_each(&[], &args));
    }
}

/// There is one more process then, on the way to a pid namespace that does not end with the container.
#[test]
fn a_create_that_joins_and_is_killed_at_each_step_leaves_nothing() {
    lodger_only!("being killed at each step");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let mut sweep = Sweep::new(true);
    let pid = sweep.fixture.state("neighbour")["pid"].clone();
    let namespaces = sweep.fixture.config["linux"]["namespaces"].as_array_mut();
    let namespaces = namespaces.unwrap();
    namespaces.retain(|namespace| {
        !["pid", "network"]
            .map(Into::into)
            .contains(&namespace["type"])
    });
    for (kind, name) in [("user", "user"), ("pid", "pid"), ("network", "net")] {
        namespaces.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{name}")}));
    }
    sweep.fixture.write_config();
    let args = ["create", "--pid-file", &sweep.pid_file(), "c"];
    assert_enough("create", sweep.kill_at_each(&[], &args));
}

#[test]
fn a_run_that_is_killed_at_each_step_leaves_nothing() {
    lodger_only!("being killed at each step");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let sweep = Sweep::new(true);
    let detached = ["run", "-d", "--pid-file", &sweep.pid_file(), "c"];
    let mut points = sweep.kill_at_each(&[], &detached);
    // To its own end, and so with a program that ends.
    let mut sweep = Sweep::new(true);
    sweep.fixture.args(&["/bin/true"]);
    sweep.fixture.write_config();
    let args = ["run", "--pid-file", &sweep.pid_file(), "c"];
    points += sweep.kill_at_each(&[], &args);
    assert_enough("run", points);
}

#[test]
fn a_start_or_delete_that_is_killed_at_each_step_leaves_nothing() {
    lodger_only!("being killed at each step");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let sweep = Sweep::new(true);
    let mut points = sweep.kill_at_each(&[&["create", "c"]], &["start", "c"]);
    points += sweep.kill_at_each(&[&["create", "c"]], &["delete", "c"]);
    points += sweep.kill_at_each(&[&["run", "-d", "c"]], &["delete", "-f", "c"]);
    assert_enough("start", points);
}

#[test]
fn an_exec_that_is_killed_at_each_step_leaves_nothing() {
    lodger_only!("being killed at each step");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let sweep = Sweep::new(false);
    let pid_file = sweep.pid_file();
    let begin: &[&[&str]] = &[&["run", "-d", "c"]];
    let detached = [
        "exec",
        "-d",
        "--pid-file",
        &pid_file,
        "c",
        "/bin/sleep",
        &format!("{}1", sweep.word),
    ];
    let attached = ["exec", "--pid-file", &pid_file, "c", "/bin/true"];
    let mut points = sweep.kill_at_each(begin, &detached);
    points += sweep.kill_at_each(begin, &attached);
    assert_enough("exec", points);
}

/// The number of the last write(2), the gid map, before init is told to go.
pub(crate) fn last_map_write(calls: &[Call]) -> usize {
    calls
        .iter()
        .take_while(|call| !call.line.contains("\\\"Go\\\""))
        .filter(|call| call.name == "write")
        .count()
}

/// Starts `run -d c`, with init in the hands of a strace with these options from its first order on.
pub(crate) fn with_init_traced(
    command: &Command,
    scratch: &std::path::Path,
    maps_written: usize,
    options: &[&str],
) -> (u32, Ran, Vec<Call>) {
    let stopped = Stopped::after(command, scratch, "write", maps_written);
    let runtime = stopped.runtime;
    let init = *children(runtime).last().expect("init");
    wait_for("init to wait for its first order", || {
        is_in_call(init, nix::libc::SYS_recvmsg).then_some(())
    });
    let attached = Attached::to(init, options, scratch);
    stopped.go_on();
    let ran = stopped.wait();
    (runtime, ran, attached.detach())
}

/// Where init became the program.
pub(crate) fn up_to_execve(mut calls: Vec<Call>) -> Vec<Call> {
    let end = calls.iter().position(|call| call.name == "execve").unwrap();
    calls.truncate(end + 1);
    calls
}

/// Init itself is killed: the runtime notices, says where, and leaves nothing to be deleted.
#[test]
fn an_init_that_is_killed_at_each_step_is_one_error_and_leaves_nothing() {
    lodger_only!("being killed at each step");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let sweep = Sweep::new(true);
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let command = || sweep.fixture.command(&["run", "-d", "c"]);
    let writes = last_map_write(&trace(&command(), &scratch.join("trace")));
    sweep.fixture.bare(&["delete", "-f", "c"]).ok();
    let (_, ran, calls) = with_init_traced(&command(), scratch, writes, &[]);
    ran.ok();
    sweep.fixture.bare(&["delete", "-f", "c"]).ok();
    let calls = up_to_execve(calls);
    let points: Vec<usize> = (0..calls.len()).step_by(5).collect();
    for n in &points {
        let when = format!("init killed before call {n}, {:?}", calls[*n].line);
        let option = inject(&calls, *n, Fate::Kill);
        let options = [&*option];
        let (runtime, ran, _) = with_init_traced(&command(), scratch, writes, &options);
        if ran.code == 0 {
            // It was told to run the program, and was killed as the program could have been.
            assert!(
                calls[..*n]
                    .iter()
                    .any(|call| call.line.contains("NO_NEW_PRIVS")),
                "{when}"
            );
            wait_for("it to be stopped", || {
                (sweep.fixture.status("c") == "stopped").then_some(())
            });
        } else {
            assert_eq!(ran.code, 1, "{when}: {ran:#?}");
            assert!(
                ran.err.contains("killed by signal 9 (SIGKILL), while "),
                "{when}: {ran:#?}"
            );
            sweep.assert_nothing_left(runtime, &when);
        }
        sweep.assert_cleaned(runtime, &when);
    }
    eprintln!("init: killed at {} points of {}", points.len(), calls.len());
    assert!(points.len() >= 40);
}

/// The id map helpers are killed before they have done anything.
#[test]
fn a_helper_that_is_killed_is_one_error_and_leaves_nothing() {
    lodger_only!("the id map helpers");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let sweep = Sweep::new(false);
    let scratch = tempfile::tempdir().unwrap();
    let command = || sweep.fixture.command(&["create", "c"]);
    let calls = trace(&command(), &scratch.path().join("trace"));
    sweep.fixture.bare(&["delete", "-f", "c"]).ok();
    let Some(unshares) = number_of(&calls, "unshare", "unshare(CLONE_NEWUSER)") else {
        skip!("no helper is called here");
    };
    for (number, name) in [(0, "newuidmap"), (1, "newgidmap")] {
        let stopped = Stopped::after(&command(), scratch.path(), "unshare", unshares);
        let runtime = stopped.runtime;
        let helper = children(runtime)[number];
        crate::harness::send_signal(helper, "KILL");
        wait_for("it to end", || {
            (process_state(helper) == Some('Z')).then_some(())
        });
        stopped.go_on();
        let ran = stopped.wait().fails(1, "killed by signal 9 (SIGKILL)");
        assert!(ran.err.contains(name), "{ran:#?}");
        sweep.assert_nothing_left(runtime, name);
        sweep.assert_cleaned(runtime, name);
    }
}

/// The id map helpers are on their way when the runtime is killed: they end too.
#[test]
fn helpers_do_not_outlive_a_runtime_that_is_killed() {
    lodger_only!("the id map helpers");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let sweep = Sweep::new(false);
    let scratch = tempfile::tempdir().unwrap();
    let command = sweep.fixture.command(&["create", "c"]);
    // The pipe of the second helper; the second clone3 stops before the child is there.
    let stopped = Stopped::after(&command, scratch.path(), "clone3", 2);
    let helpers = children(stopped.runtime);
    assert!(!helpers.is_empty());
    crate::harness::send_signal(stopped.runtime, "KILL");
    let runtime = stopped.runtime;
    stopped.wait().exits(128 + 9);
    for helper in helpers {
        wait_for("the helper to end", || {
            process_state(helper)
                .is_none_or(|state| state == 'Z')
                .then_some(())
        });
    }
    sweep.assert_cleaned(runtime, "waiting helpers");
}
