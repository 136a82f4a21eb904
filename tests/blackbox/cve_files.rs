//! Attacks by way of open files: descriptors, the working directory, the runtime's own executable.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::harness::{
    Fixture, Ran, Running, lodger_only, runtime_binary, skip, spawn, wait_for, write_program,
};
use crate::tracing::{self, Stopped};
use crate::weak::{Outcome, held_by, off};

fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Runs the runtime with /usr open as descriptor `number`, as a careless caller may have it.
fn leaking(fixture: &Fixture, number: u32, args: &[&str]) -> Ran {
    let inner = fixture.command(args);
    let mut command = Command::new("/bin/bash");
    command
        .args(["-c", &format!("exec {number}</usr; exec \"$@\""), "bash"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(fixture.bundle());
    spawn(&mut command, b"").wait()
}

/// What a program says that finds itself in the host's /usr: no image of these tests has these.
const LOOK: &str = "test -d share && test -d lib && echo escaped; true";

fn escaped(ran: &Ran) -> Option<String> {
    ran.out.contains("escaped").then(|| format!("{ran:?}"))
}

/// The descriptors that runc leaked were 7 and 8; here it is any of them.
#[test]
fn cve_2024_21626_cwd_procfd() {
    lodger_only!("switching defences off");
    held_by(&["CloseFiles", "VerifyCwd", "ResolveInRoot"], || {
        let mut found = Vec::new();
        for number in 3..=11 {
            let mut fixture = Fixture::with_own_root();
            fixture.config["process"]["cwd"] = format!("/proc/self/fd/{number}").into();
            fixture.sh(LOOK);
            fixture.write_config();
            let ran = leaking(&fixture, number, &["run", "c"]);
            if off().is_none() {
                assert_ne!(ran.code, 0, "{ran:?}");
                assert!(ran.err.contains("working directory"), "{ran:?}");
            }
            found.extend(escaped(&ran));
        }
        // With the defences off some numbers are the runtime's own by then, and no directory.
        Outcome::of(found.pop(), "no cwd led outside")
    });
}

#[test]
fn cve_2024_21626_cwd_is_a_link_to_procfd() {
    lodger_only!("switching defences off");
    held_by(&["CloseFiles", "VerifyCwd", "ResolveInRoot"], || {
        let mut fixture = Fixture::with_own_root();
        symlink("/proc/self/fd/9", fixture.rootfs().join("way")).unwrap();
        fixture.config["process"]["cwd"] = "/way".into();
        fixture.sh(LOOK);
        fixture.write_config();
        let ran = leaking(&fixture, 9, &["run", "c"]);
        Outcome::of(escaped(&ran), ran.err)
    });
}

#[test]
fn cve_2024_21626_exec_cwd_procfd() {
    lodger_only!("switching defences off");
    // A runtime of the caller's own runs from a copy, with other numbers.
    held_by(&["VerifyCwd", "SealedCopy"], || {
        let mut fixture = Fixture::with_own_root();
        symlink("/proc/self/fd/9", fixture.rootfs().join("way")).unwrap();
        fixture.sleeping("c");
        let mut found = Vec::new();
        for cwd in (3..=11)
            .map(|number| format!("/proc/self/fd/{number}"))
            .chain(["/way".into()])
        {
            let args = ["exec", "--cwd", &cwd, "c", "/bin/sh", "-c", LOOK];
            let number = cwd.rsplit('/').next().unwrap().parse().unwrap_or(9);
            let ran = leaking(&fixture, number, &args);
            if off().is_none() {
                assert_eq!(ran.code, 255, "{ran:?}");
            }
            found.extend(escaped(&ran));
        }
        Outcome::of(found.pop(), "no cwd led outside")
    });
}

/// A path through a descriptor is looked up before close-on-exec takes effect.
#[test]
fn cve_2024_21626_program_procfd() {
    lodger_only!("switching defences off");
    for joins in [false, true] {
        held_by(&["CloseFiles"], || {
            let mut fixture = Fixture::with_own_root();
            let program = "/proc/self/fd/9/bin/busybox";
            symlink(program, fixture.rootfs().join("bin/linked")).unwrap();
            fixture.args(&[program, "echo", "escaped"]);
            if joins {
                fixture.sleeping("c");
            }
            fixture.write_config();
            let mut found = Vec::new();
            for program in [program, "linked"] {
                let exec = ["exec", "c", program, "echo", "escaped"];
                let args: &[&str] = if joins { &exec } else { &["run", "c"] };
                let ran = leaking(&fixture, 9, args);
                assert!(off().is_some() || ran.code != 0, "{ran:?}");
                found.extend(escaped(&ran));
            }
            Outcome::of(found.pop(), "the host's program was not run")
        });
    }
}

#[test]
fn cve_2024_21626_a_leak_does_not_reach_the_payload() {
    lodger_only!("switching defences off");
    held_by(&["CloseFiles"], || {
        let mut fixture = Fixture::with_own_root();
        fixture.add_probe();
        fixture.args(&["/probe", "report"]);
        fixture.write_config();
        let seen = report(&leaking(&fixture, 9, &["run", "c"]).ok());
        let open = seen["descriptors"].as_object().unwrap();
        Outcome::of((open.len() != 3).then(|| format!("{open:?}")), "0, 1 and 2")
    });
}

/// Linux 5.9 and 5.10 have close_range(2), and not its flag: EINVAL to what the runtime begins with.
#[test]
fn cve_2024_21626_a_leak_does_not_pass_where_the_kernel_does_not_know_the_flag() {
    lodger_only!("the calls that the runtime makes");
    if !tracing::works() {
        skip!("strace is not installed, or may not trace");
    }
    let mut fixture = Fixture::with_own_root();
    fixture.add_probe();
    fixture.args(&["/probe", "report"]);
    fixture.write_config();
    let inner = fixture.command(&["run", "c"]);
    let trace = fixture.path("trace");
    let option = "--inject=close_range:error=EINVAL:when=1";
    let traced = tracing::under_strace(&[option], &trace, &inner);
    let mut command = Command::new("/bin/bash");
    command
        .args(["-c", "exec 9</usr; exec \"$@\"", "bash"])
        .arg(traced.get_program())
        .args(traced.get_args())
        .current_dir(fixture.bundle());
    let seen = report(&spawn(&mut command, b"").wait().ok());
    let refused = fs::read_to_string(&trace).unwrap();
    assert!(
        refused.contains("CLOSE_RANGE_CLOEXEC) = -1 EINVAL"),
        "{refused}"
    );
    let open = seen["descriptors"].as_object().unwrap();
    assert_eq!(open.len(), 3, "{open:?}");
}

/// Init lives on while it waits for `start`: what it keeps open, a process of the container could go through.
#[test]
fn cve_2016_9962_a_created_container_holds_no_file_of_the_host() {
    lodger_only!("switching defences off");
    held_by(&["CloseFiles"], || {
        let mut fixture = Fixture::with_own_root();
        fixture.add_probe();
        fixture.args(&["/bin/true"]);
        fixture.write_config();
        leaking(&fixture, 9, &["create", "c"]).ok();
        let seen = report(&fixture.bare(&["exec", "c", "/probe", "report"]).ok());
        let outside = seen["outside"].as_array().unwrap();
        let pid = fixture.state("c")["pid"].as_u64().unwrap();
        let held: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            // It may close one meanwhile.
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .map(|target| target.display().to_string())
            .filter(|target| target.starts_with("/usr") || target.contains("/state"))
            .collect();
        // With the defence off it holds the lock of its own state, too.
        crate::harness::send_signal(u32::try_from(pid).unwrap(), "KILL");
        let way = !outside.is_empty() || !held.is_empty();
        Outcome::of(
            way.then(|| format!("{outside:?} {held:?}")),
            "nothing of the host is open",
        )
    });
}

/// A process of ours that joins a container still has files of the host open for a moment. strace(1) stops it in that
/// moment; what runs in the container must not get at them.
#[test]
fn cve_2016_9962_a_process_that_joins_cannot_be_looked_into() {
    lodger_only!("switching defences off");
    if !tracing::works() {
        skip!("strace is not installed, or may not trace");
    }
    held_by(&["NotDumpable"], || {
        let mut fixture = Fixture::with_own_root();
        fixture.add_probe();
        fixture.sleeping("c");
        let exec = fixture.command(&["exec", "c", "/bin/true"]);
        // The last thing that it does before it closes files is to give up capabilities.
        let joiner = Stopped::in_exec(&exec, &fixture.path(""), "capset");
        let seen = report(&fixture.bare(&["exec", "c", "/probe", "report"]).ok());
        joiner.go_on();
        joiner.wait().ok();
        // The container's own program, the process that joins, and who looks.
        let processes = seen["processes"].as_array().unwrap();
        assert!(processes.len() >= 3, "it was not seen: {processes:?}");
        let outside = seen["outside"].as_array().unwrap();
        let found = (!outside.is_empty()).then(|| format!("{outside:?}"));
        Outcome::of(found, "nothing was reachable")
    });
}

/// While it is set up, init belongs to nobody but root of the host: its runtime is stopped in the middle.
#[test]
fn cve_2016_9962_init_cannot_be_looked_into_while_it_is_set_up() {
    lodger_only!("switching defences off");
    held_by(&["NotDumpable"], || {
        let Some((_fixture, runtime)) = crate::kills::stopped_create() else {
            panic!("create was never stopped in time");
        };
        let init = crate::kills::init_of(&runtime);
        let looked = fs::read_link(format!("/proc/{init}/exe"));
        runtime.signal("CONT");
        runtime.wait().ok();
        Outcome::of(
            looked.as_ref().ok().map(|exe| format!("{exe:?}")),
            format!("{looked:?}"),
        )
    });
}

/// A copy of the runtime that the caller, and so the container's root, could write to.
struct OwnRuntime {
    path: PathBuf,
    original: Vec<u8>,
}

fn own_runtime(fixture: &Fixture) -> OwnRuntime {
    let path = fixture.path("runtime");
    let original = fs::read(runtime_binary()).unwrap();
    write_program(&path, &original);
    OwnRuntime { path, original }
}

impl OwnRuntime {
    fn start(&self, fixture: &Fixture, args: &[&str]) -> Running {
        let command = fixture.command(args);
        // By a shell: while the attacker writes to the file, nobody can run it.
        let mut own = Command::new("/bin/sh");
        own.args(["-c", "exec \"$0\" \"$@\""])
            .arg(&self.path)
            .args(command.get_args())
            .current_dir(fixture.bundle());
        spawn(&mut own, b"")
    }

    fn is_changed(&self) -> bool {
        fs::read(&self.path).unwrap() != self.original
    }

    fn outcome(&self) -> Outcome {
        let changed = self
            .is_changed()
            .then(|| "the runtime was overwritten".to_owned());
        Outcome::of(changed, "the runtime is as it was")
    }
}

/// The attacker, for longer than any test runs: she is told to stop, or ends with the container.
const OVERWRITE: [&str; 3] = ["/probe", "overwrite", "600"];

/// Starts a container whose program waits for the runtime to come in, and runs `program` in it with the caller's own
/// copy of the runtime, until the attacker is done.
fn overwrite_by_exec(program: &str) -> Outcome {
    let mut fixture = Fixture::with_own_root();
    fixture.add_probe();
    write_program(&fixture.rootfs().join("evil"), b"#!/proc/self/exe\n");
    let own = own_runtime(&fixture);
    fixture.args(&OVERWRITE);
    fixture.write_config();
    // Detached: a runtime that goes on running keeps its file from being written, and hides the fault.
    own.start(&fixture, &["run", "-d", "c"]).wait().ok();
    let attacker = |name: &str| fixture.rootfs().join("tmp").join(name);
    wait_for("the attacker", || {
        attacker("attacking").exists().then_some(())
    });
    // She needs luck, on a busy machine more of it.
    let tries = if off().is_some() { 200 } else { 12 };
    for _ in 0..tries {
        // Its program is the runtime's own file, if the kernel can still find that from inside.
        let _ = own.start(&fixture, &["exec", "c", program]).wait();
        if own.is_changed() {
            break;
        }
    }
    fs::write(attacker("stop"), "").unwrap();
    wait_for("the attacker's end", || {
        attacker("done").exists().then_some(())
    });
    own.outcome()
}

#[test]
fn cve_2019_5736_exec_of_proc_self_exe() {
    lodger_only!("switching defences off");
    held_by(&["SealedCopy"], || overwrite_by_exec("/proc/self/exe"));
}

#[test]
fn cve_2019_5736_entry_point_with_the_interpreter_proc_self_exe() {
    lodger_only!("switching defences off");
    held_by(&["SealedCopy"], || overwrite_by_exec("/evil"));
}

/// Init runs the runtime's program while it waits for `start`: the attacker keeps hold of it until it is free.
#[test]
fn cve_2019_5736_the_runtime_that_waits_in_a_created_container() {
    lodger_only!("switching defences off");
    held_by(&["SealedCopy"], || {
        let mut fixture = Fixture::with_own_root();
        fixture.add_probe();
        let own = own_runtime(&fixture);
        fixture.args(&["/bin/sleep", "600"]);
        fixture.write_config();
        own.start(&fixture, &["create", "c"]).wait().ok();
        let attack = [&["exec", "-d", "c"][..], &OVERWRITE].concat();
        own.start(&fixture, &attack).wait().ok();
        let attacker = |name: &str| fixture.rootfs().join("tmp").join(name);
        wait_for("the attacker", || {
            attacker("attacking").exists().then_some(())
        });
        own.start(&fixture, &["start", "c"]).wait().ok();
        fs::write(attacker("stop"), "").unwrap();
        wait_for("the attacker's end", || {
            attacker("done").exists().then_some(())
        });
        own.outcome()
    });
}

/// The container's own program is the runtime: it must be the sealed copy that runs, not the file.
#[test]
fn cve_2019_5736_args_proc_self_exe() {
    lodger_only!("switching defences off");
    for program in ["/proc/self/exe", "/evil"] {
        held_by(&["SealedCopy"], || {
            let mut fixture = Fixture::with_own_root();
            write_program(&fixture.rootfs().join("evil"), b"#!/proc/self/exe\n");
            let own = own_runtime(&fixture);
            fixture.args(&[program]);
            fixture.write_config();
            own.start(&fixture, &["create", "c"]).wait().ok();
            let pid = fixture.state("c")["pid"].as_u64().unwrap();
            let exe = fs::metadata(format!("/proc/{pid}/exe")).unwrap();
            let file = fs::metadata(&own.path).unwrap();
            let _ = own.start(&fixture, &["start", "c"]).wait();
            assert!(!own.is_changed());
            use std::os::unix::fs::MetadataExt;
            let same = (exe.dev(), exe.ino()) == (file.dev(), file.ino());
            Outcome::of(same.then(|| "it is the file".into()), "a copy in memory")
        });
    }
}

#[test]
fn cve_2019_5736_no_executable_of_ours_is_in_reach() {
    let mut fixture = Fixture::with_own_root();
    fixture.add_probe();
    fixture.sleeping("c");
    let seen = report(&fixture.bare(&["exec", "c", "/probe", "report"]).ok());
    for (pid, executable) in seen["executables"].as_object().unwrap() {
        let target = executable["target"].as_str().unwrap();
        assert!(
            !target.contains("runtime") && !target.contains("lodger"),
            "{pid}: {executable}"
        );
    }
}
