//! An audit of the system calls of `run`, `create` with `start`, and `exec`, by strace(1): once the root's fd is open,
//! no path names anything beneath the root, and no program is run but those that are listed here.
//!
//! The build with switches is traced, with one defence off: strace cannot read the strings of a process that is not
//! dumpable. What it does is otherwise what the release does.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::harness::{Fixture, Running, lodger_only, skip, spawn, write_program};
use crate::tracing::joined;
use crate::weak::without;

mod locked;
mod reading;

use locked::allowed_where_locked;

/// What a traced process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// On the host, before the root is open.
    Outside,
    /// The root's fd is open, the host is still in reach.
    Building,
    /// The container's root is `/`: every path is resolved in it, by a process that holds nothing of the host.
    Inside,
    /// Another program by now.
    Program,
}

/// The nodes of the host that devices and masks are made of, opened right after the root.
const NODES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];

/// Calls with strings that are no paths.
const NO_PATHS: [&str; 14] = [
    "fsopen",
    "fsconfig",
    "sendto",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "read",
    "write",
    "sethostname",
    "setdomainname",
    "prctl",
    "getcwd",
    "memfd_create",
    "getrandom",
];

/// Calls that take a path alone, and what of them is allowed before the root is changed: the change itself.
const PATH_ONLY: [&str; 30] = [
    "open",
    "creat",
    "stat",
    "lstat",
    "access",
    "chdir",
    "mkdir",
    "rmdir",
    "unlink",
    "symlink",
    "link",
    "rename",
    "readlink",
    "chmod",
    "chown",
    "lchown",
    "mount",
    "umount2",
    "pivot_root",
    "execve",
    "statfs",
    "truncate",
    "chroot",
    "mknod",
    "utime",
    "utimes",
    "setxattr",
    "getxattr",
    "listxattr",
    "removexattr",
];

struct Call<'a> {
    name: &'a str,
    args: Vec<&'a str>,
    succeeded: bool,
    line: &'a str,
}

impl<'a> Call<'a> {
    /// A line of strace without the pid; `None` for what is no call.
    fn parse(line: &'a str) -> Option<Call<'a>> {
        let (name, rest) = line.split_once('(')?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return None;
        }
        let (args, result) = rest.rsplit_once(") ").unwrap_or((rest, ""));
        // The end of a call that another process came in between of is not looked for: it may have succeeded.
        let succeeded = !result.contains("= -1");
        Some(Call {
            name,
            args: split(args),
            succeeded,
            line,
        })
    }

    /// The paths with the directory they start from; `None` where that is the process's own.
    fn paths(&self) -> Vec<(Option<&'a str>, &'a str)> {
        let mut found = Vec::new();
        if NO_PATHS.contains(&self.name) {
            return found;
        }
        for (index, arg) in self.args.iter().enumerate() {
            let Some(path) = quoted(arg) else { continue };
            let before = index.checked_sub(1).map(|before| self.args[before]);
            let from = before.filter(|arg| arg.contains('<'));
            if from.is_none() && !PATH_ONLY.contains(&self.name) {
                continue;
            }
            found.push((from.filter(|from| !from.starts_with("AT_FDCWD")), path));
        }
        found
    }

    fn has(&self, word: &str) -> bool {
        self.args
            .iter()
            .any(|arg| quoted(arg).is_none() && arg.contains(word))
    }
}

fn quoted(arg: &str) -> Option<&str> {
    arg.strip_prefix('"')?.strip_suffix('"')
}

/// Splits arguments at the commas that lie in no string, structure or name of an fd.
fn split(args: &str) -> Vec<&str> {
    let (mut depth, mut string, mut escaped, mut begin) = (0, false, false, 0);
    let mut found = Vec::new();
    for (at, byte) in args.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            _ if string => {}
            b'{' | b'[' | b'<' => depth += 1,
            b'}' | b']' | b'>' => depth -= 1,
            b',' if depth == 0 => {
                found.push(args[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.push(
        args[begin..]
            .trim()
            .trim_end_matches("<unfinished ...>")
            .trim(),
    );
    found
}

/// What was found in one trace.
#[derive(Debug, Default)]
struct Findings {
    violations: Vec<String>,
    programs: Vec<String>,
    /// How many calls of each phase were looked at: an audit of nothing proves nothing.
    building: usize,
    inside: usize,
}

fn audit(trace: &str, root: &str) -> Findings {
    let mut found = Findings::default();
    let mut phases: BTreeMap<&str, Phase> = BTreeMap::new();
    let mut joined = false;
    for line in trace.lines() {
        let Some((pid, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some(call) = Call::parse(rest.trim_start()) else {
            continue;
        };
        // A child of the process that has joined a container is in it, too.
        let begin = if joined {
            Phase::Inside
        } else {
            Phase::Outside
        };
        let phase = *phases.entry(pid).or_insert(begin);
        if phase == Phase::Program {
            continue;
        }
        found.building += usize::from(phase == Phase::Building && !call.paths().is_empty());
        found.inside += usize::from(phase == Phase::Inside && !call.paths().is_empty());
        if !allowed(&call, phase, root) {
            found.violations.push(format!("{phase:?}: {}", call.line));
        }
        let next = match call.name {
            "open_tree" if call.line.contains(&format!("\"{root}\"")) => Phase::Building,
            "pivot_root" if call.succeeded => Phase::Inside,
            "setns" if call.has("CLONE_NEWNS") => {
                joined = true;
                Phase::Inside
            }
            "execve" | "execveat" if call.succeeded => {
                found.programs.push(call.line.to_owned());
                // The first one is the runtime itself.
                if found.programs.len() == 1 {
                    Phase::Outside
                } else {
                    Phase::Program
                }
            }
            _ => phase,
        };
        phases.insert(pid, next);
    }
    found
}

fn allowed(call: &Call<'_>, phase: Phase, root: &str) -> bool {
    if allowed_where_locked(call, phase, root) {
        return true;
    }
    // Sockets have a name in a directory of the caller's, or none: an abstract name has no owner.
    if call.line.contains("sun_path=@") {
        return false;
    }
    let strings = call
        .args
        .iter()
        .any(|arg| quoted(arg).is_some_and(|text| text.contains('/')));
    if phase == Phase::Building
        && strings
        && call.paths().is_empty()
        && !NO_PATHS.contains(&call.name)
    {
        // The target of a link is content, not a path that is followed.
        return call.name == "symlinkat";
    }
    call.paths().iter().all(|(from, path)| match (phase, from) {
        (Phase::Outside, None) => {
            !path.starts_with(root) || (call.name == "open_tree" && path == &root)
        }
        // Of the state's directory; the root's is not open yet.
        (Phase::Outside, Some(from)) => !from.contains(root),
        (Phase::Building, None) => match call.name {
            "open_tree" => NODES.contains(path),
            "pivot_root" => path == &".",
            _ => false,
        },
        (Phase::Building | Phase::Inside, Some(_)) => beneath(call, path),
        (Phase::Inside, None) => match call.name {
            // The end of the change of root.
            "umount2" => path == &".",
            // The directory of passwd(5), and the working directory, which getcwd(2) is asked about afterwards.
            "open_tree" => path == &"/",
            "chdir" => path.starts_with('/'),
            // The program, as execvp(3) looks for it.
            "newfstatat" | "faccessat2" | "execve" => true,
            _ => false,
        },
        (Phase::Program, _) => true,
    })
}

/// Resolved by the kernel beneath the fd, or a single name that is not followed.
fn beneath(call: &Call<'_>, path: &str) -> bool {
    if path.is_empty() {
        return call.has("EMPTY_PATH");
    }
    let name = !path.contains('/') && path != "..";
    match call.name {
        "openat2" => {
            let all = |words: &[&str]| words.iter().all(|word| call.has(word));
            all(&["RESOLVE_IN_ROOT", "RESOLVE_NO_MAGICLINKS"])
                || all(&["RESOLVE_BENEATH", "RESOLVE_NO_SYMLINKS", "RESOLVE_NO_XDEV"])
        }
        "openat" => name && call.has("O_NOFOLLOW"),
        "newfstatat" => name && call.has("AT_SYMLINK_NOFOLLOW"),
        // These never follow the last name.
        "mkdirat" | "unlinkat" | "symlinkat" | "readlinkat" => name,
        _ => false,
    }
}

/// Off in every trace: strace may not look, and a runtime of the caller's own is copied, and run once more from there.
const UNTRACEABLE: &[&str] = &["NotDumpable", "SealedCopy"];

/// Starts the runtime under strace, with `off` off; the trace is at `trace` in the test's directory.
fn traced(fixture: &Fixture, off: &[&str], args: &[&str]) -> Running {
    without(&[UNTRACEABLE, off].concat(), || {
        let inner = fixture.command(args);
        let mut command = Command::new("/usr/bin/strace");
        command
            .args(["-f", "-y", "-s", "4096", "-o"])
            .arg(fixture.path("trace"))
            .arg(inner.get_program())
            .args(inner.get_args())
            .current_dir(fixture.bundle());
        spawn(&mut command, b"")
    })
}

fn findings(fixture: &Fixture) -> Findings {
    let trace = fs::read_to_string(fixture.path("trace")).unwrap();
    let root = fixture.rootfs();
    let found = audit(&joined(&trace), root.to_str().unwrap());
    assert!(!found.programs.is_empty(), "nothing was traced: {trace}");
    found
}

/// A bundle with one of everything that touches the root: mounts whose places are made, masks, links, a working directory.
fn bundle() -> Fixture {
    let mut fixture = Fixture::with_own_root();
    let root = fixture.rootfs();
    fixture.config["root"]["path"] = root.to_str().unwrap().into();
    fixture.config["process"]["cwd"] = "/made/here".into();
    fixture.config["linux"]["sysctl"] = serde_json::json!({"net.ipv4.ip_forward": "1"});
    for destination in ["/a/b/c", "/etc/deep/tmp"] {
        fixture.mount(
            serde_json::json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}),
        );
    }
    fixture.args(&["/bin/true"]);
    fixture.write_config();
    fixture
}

macro_rules! strace_only {
    () => {
        lodger_only!("the audit of system calls");
        if !std::path::Path::new("/usr/bin/strace").exists() {
            skip!("strace is not installed");
        }
    };
}

fn run(off: &[&str]) -> Findings {
    // A helper does not work under strace, which takes away its setuid bit: the outer namespace is a neighbour's.
    let mut fixture = bundle();
    fixture.sleeping("warm");
    fixture.args(&["/bin/true"]);
    fixture.write_config();
    // What the neighbour made is made again.
    let _ = fs::remove_dir_all(fixture.rootfs().join("a"));
    let _ = fs::remove_dir_all(fixture.rootfs().join("made"));
    let ran = traced(&fixture, off, &["run", "c"]).wait();
    assert!(!off.is_empty() || ran.code == 0, "{ran:?}");
    findings(&fixture)
}

#[track_caller]
fn assert_clean(found: &Findings, programs: &[&str]) {
    assert_eq!(found.violations, [""; 0]);
    let seen: Vec<&str> = found.programs[1..]
        .iter()
        .map(|line| line.split('"').nth(1).unwrap())
        .collect();
    assert_eq!(seen, programs, "{:?}", found.programs);
}

#[test]
fn strace_audit_of_run() {
    strace_only!();
    let found = run(&[]);
    assert_clean(&found, &["/bin/true"]);
    assert!(found.building > 40 && found.inside > 4, "{found:?}");
    // The audit sees what it is for.
    for defence in ["ResolveOnce", "ResolveInRoot"] {
        let found = run(&[defence]);
        assert!(
            !found.violations.is_empty(),
            "{defence} is off and nothing was seen: {found:?}"
        );
    }
}

#[test]
fn strace_audit_of_create_and_start() {
    strace_only!();
    let mut fixture = bundle();
    fixture.sleeping("warm");
    fixture.args(&["/bin/true"]);
    fixture.write_config();
    let create = traced(&fixture, &[], &["create", "c"]);
    crate::harness::wait_for("the container", || {
        fixture.path("state/c/state.json").exists().then_some(())
    });
    fixture.wait_status("c", "created");
    // The container goes on in the first trace.
    let trace = fixture.path("trace");
    fixture.bare(&["start", "c"]).ok();
    create.wait().ok();
    let found = findings(&fixture);
    assert_clean(&found, &["/bin/true"]);
    assert!(found.building > 40 && found.inside > 4, "{found:?}");
    fixture.bare(&["delete", "c"]).ok();
    fixture.bare(&["create", "c"]).ok();
    fs::remove_file(trace).unwrap();
    traced(&fixture, &[], &["start", "c"]).wait().ok();
    assert_clean(&findings(&fixture), &[]);
}

#[test]
fn strace_audit_of_exec() {
    strace_only!();
    let mut fixture = bundle();
    fixture.sleeping("c");
    traced(&fixture, &[], &["exec", "c", "true"]).wait().ok();
    let found = findings(&fixture);
    let program = found.programs[1].split('"').nth(1).unwrap().to_owned();
    assert!(program.ends_with("/true"), "{program}");
    assert_clean(&found, &[&program]);
    assert!(found.inside > 3, "{found:?}");
}

/// The first container needs the helpers; each has its absolute name, and an empty environment (as CVE-2021-4034 had not).
#[test]
fn strace_audit_of_the_helpers() {
    strace_only!();
    let programs = |off: &[&str]| {
        let fixture = bundle();
        let fake = fixture.path("fake");
        fs::create_dir(&fake).unwrap();
        for name in ["newuidmap", "newgidmap"] {
            write_program(&fake.join(name), b"#!/bin/sh\nexit 1\n");
        }
        // Without its setuid bit a helper fails, after it was run.
        let _ = without(&[UNTRACEABLE, off].concat(), || {
            let inner = fixture.command(&["run", "c"]);
            let mut traced = Command::new("/usr/bin/strace");
            traced
                .args(["-f", "-y", "-s", "4096", "-o"])
                .arg(fixture.path("trace"))
                .arg(inner.get_program())
                .args(inner.get_args())
                .env("PATH", format!("{}:/usr/bin:/bin", fake.display()))
                .current_dir(fixture.bundle());
            spawn(&mut traced, b"").wait()
        });
        findings(&fixture).programs.split_off(1)
    };
    let listed = |line: &String| {
        let helper = ["newuidmap", "newgidmap"].iter().any(|name| {
            line.starts_with(&format!(
                "execve(\"/usr/bin/{name}\", [\"/usr/bin/{name}\", "
            ))
        });
        helper && line.contains("/* 0 vars */")
    };
    let nsswitch = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    if nsswitch.lines().any(|line| line.starts_with("subid:")) {
        skip!("this host asks getsubids(1), too");
    }
    let run = programs(&[]);
    assert_eq!(run.len(), 2, "{run:?}");
    assert!(run.iter().all(listed), "{run:?}");
    let hijacked = programs(&["HelperPaths"]);
    assert!(!hijacked.iter().all(listed), "{hijacked:?}");
}
