//! The cgroup filesystem, in a cgroup that is the caller's to divide.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use lodger::cgroup::{Dir, Removal};
use lodger::host::{CALLERS, CgroupKind, CgroupReading};
use lodger::plan::{FileWrite, Setting};

use crate::harness::{lives, lodger_only, skip, wait_for};

/// What this process has of control groups.
fn reading() -> CgroupReading {
    let uid = rustix::process::getuid().as_raw();
    CgroupReading::read(uid, &[])
}

/// A cgroup of one test, which ends with all in it.
struct Place(Dir);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let reading = reading();
        assert_eq!(reading.obstacle, None, "{reading:?}");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fs-{}-{count}", std::process::id());
        let base = Dir::open(&reading.base.unwrap()).unwrap().unwrap();
        let (dir, is_new) = base.make_beneath(&name, &[]).unwrap();
        assert!(is_new);
        Self(dir)
    }

    fn make(&self, name: &str) -> Dir {
        self.0.make_beneath(name, &[]).unwrap().0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ended = self.0.kill();
        let again = Dir::open(self.0.path()).unwrap();
        let removed = again.map(Dir::remove_all);
        if !std::thread::panicking() {
            ended.unwrap();
            assert!(
                matches!(removed, None | Some(Ok(Removal::Gone))),
                "{removed:?}"
            );
        }
    }
}

/// A shell of this script, in `dir`; killed when dropped.
struct Process(Child);

impl Process {
    fn new(dir: &Dir, script: &str) -> Self {
        // Its first line is read when it is in its cgroup.
        let script = format!("read -r line; {script}");
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        dir.join(child.id().try_into().unwrap()).unwrap();
        drop(child.stdin.take());
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The signal that ended it.
    fn ended_by(mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        wait_for("the end of a process", || self.0.try_wait().unwrap()).signal()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

/// The controller that this place can give on, if it has one with a file to write to.
fn hugetlb(dir: &Dir) -> bool {
    dir.controllers()
        .unwrap()
        .iter()
        .any(|name| name == "hugetlb")
}

fn setting(file: &str, value: &str) -> Setting {
    Setting {
        property: "/linux/resources/hugepageLimits/0".to_owned(),
        controller: "hugetlb".to_owned(),
        writes: vec![FileWrite {
            file: file.to_owned(),
            value: value.to_owned(),
        }],
    }
}

#[test]
fn the_callers_own_cgroup_is_read() {
    lodger_only!("its library");
    let reading = reading();
    assert_eq!(reading.kind, CgroupKind::Unified);
    assert!(
        !reading.read_only && reading.obstacle.is_none(),
        "{reading:?}"
    );
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    assert_eq!(
        format!("0::{}", reading.own.clone().unwrap()),
        own.lines().last().unwrap()
    );
    let base = reading.base.unwrap();
    let own = reading.own.unwrap();
    assert!(
        base == own || format!("{base}/{CALLERS}") == own,
        "{base} {own}"
    );
    // The root of the hierarchy is not hers.
    assert!(
        Dir::open("/")
            .unwrap()
            .unwrap()
            .make_beneath("lodger-none", &[])
            .is_err()
    );
    assert!(Dir::open("/lodger-none").unwrap().is_none());
}

#[test]
fn all_in_a_cgroup_is_frozen_and_thawed() {
    lodger_only!("its library");
    let place = Place::new();
    let inner = place.make("inner");
    let counting = "i=0; while :; do i=$((i + 1)); done";
    let outer_one = Process::new(&place.0, counting);
    let inner_one = Process::new(&inner, counting);
    for _ in 0..3 {
        place.0.freeze().unwrap();
        assert_eq!(
            [place.0.is_frozen().unwrap(), inner.is_frozen().unwrap()],
            [true, true]
        );
        let used = || [outer_one.pid(), inner_one.pid()].map(time_used);
        let before = used();
        // What another process uses meanwhile is time in which these would have used some.
        Command::new("/bin/sh")
            .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done"])
            .status()
            .unwrap();
        assert_eq!(used(), before);
        place.0.thaw().unwrap();
        assert!(!place.0.is_frozen().unwrap() && !inner.is_frozen().unwrap());
        wait_for("both to go on", || {
            (used()[0] > before[0] && used()[1] > before[1]).then_some(())
        });
    }
    // Frozen from above.
    place.0.freeze().unwrap();
    let error = inner.thaw().unwrap_err();
    assert!(
        error
            .message()
            .contains(&format!("{}, which it is in, is frozen", place.0.path())),
        "{error}"
    );
    place.0.thaw().unwrap();
}

/// The time that a process has used, in clock ticks (proc_pid_stat(5), fields 14 and 15).
fn time_used(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn all_in_a_cgroup_is_killed_also_when_it_is_frozen() {
    lodger_only!("its library");
    let place = Place::new();
    for freeze in [false, true] {
        let dir = place.make("a/b/c");
        let processes = [
            Process::new(&place.0, "sleep 600"),
            Process::new(&dir, "trap : TERM INT HUP; while :; do sleep 0.01 & done"),
        ];
        wait_for("children of the second", || {
            (dir.processes(false).unwrap().len() > 2).then_some(())
        });
        let all = place.0.processes(true).unwrap();
        assert!(processes.iter().all(|one| all.contains(&one.pid())));
        assert!(
            !place
                .0
                .processes(false)
                .unwrap()
                .contains(&processes[1].pid())
        );
        if freeze {
            place.0.freeze().unwrap();
        }
        place.0.kill().unwrap();
        assert!(!place.0.is_populated().unwrap());
        assert!(place.0.processes(true).unwrap().is_empty());
        for process in processes {
            assert_eq!(process.ended_by(), Some(nix::libc::SIGKILL));
        }
        place.0.thaw().unwrap();
        assert_eq!(place.0.clear().unwrap(), Removal::Gone);
        assert!(place.0.child("a").unwrap().is_none());
    }
}

#[test]
fn a_cgroup_is_removed_with_all_beneath_it_while_its_processes_leave() {
    lodger_only!("its library");
    let place = Place::new();
    for _ in 0..20 {
        let (top, _) = place.0.make_beneath("top", &[]).unwrap();
        let processes: Vec<Process> = ["", "x", "x/y", "z"]
            .map(|name| Process::new(&place.make(&format!("top/{name}")), "exec sleep 600"))
            .into();
        for process in &processes {
            crate::harness::send_signal(process.pid(), "KILL");
        }
        assert_eq!(top.remove_all().unwrap(), Removal::Gone);
        assert!(place.0.child("top").unwrap().is_none());
        assert!(processes.iter().all(|process| !lives(process.pid())));
    }
}

#[test]
fn a_cgroup_that_has_gone_has_no_processes_and_needs_no_removal() {
    lodger_only!("its library");
    let place = Place::new();
    let gone = place.make("gone");
    assert_eq!(place.make("gone").remove_all().unwrap(), Removal::Gone);
    assert!(!gone.is_populated().unwrap() && !gone.is_frozen().unwrap());
    assert!(gone.processes(true).unwrap().is_empty());
    gone.kill().unwrap();
    let error = gone.join(1).unwrap_err();
    assert!(
        error.hints().unwrap().contains("removed meanwhile"),
        "{error}"
    );
    assert_eq!(gone.remove_all().unwrap(), Removal::Gone);
}

#[test]
fn processes_of_a_cgroup_move_out_of_the_way() {
    lodger_only!("its library");
    let place = Place::new();
    let job = place.make("job");
    let idle = Process::new(&job, "sleep 600");
    let forking = Process::new(&job, "while :; do /bin/true; done");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| job.evacuate().unwrap());
        }
    });
    assert!(job.processes(false).unwrap().is_empty());
    let moved = job
        .child(CALLERS)
        .unwrap()
        .unwrap()
        .processes(false)
        .unwrap();
    for process in [&idle, &forking] {
        assert!(moved.contains(&process.pid()), "{moved:?}");
        assert!(lives(process.pid()));
    }
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", idle.pid())).unwrap();
    assert!(
        cgroup.ends_with(&format!("{}/{CALLERS}\n", job.path())),
        "{cgroup}"
    );
}

#[test]
fn a_controller_is_enabled_once_nobody_is_in_the_way() {
    lodger_only!("its library");
    let place = Place::new();
    // Where the test's own process is nobody can divide anything, and so this begins one level lower.
    let base = Dir::open(&reading().base.unwrap()).unwrap().unwrap();
    if !hugetlb(&base) {
        skip!("no controller is delegated here");
    }
    base.evacuate().unwrap();
    base.enable(&["hugetlb"]).unwrap();
    let job = place.make("job");
    let error = job.enable(&["hugetlb"]).unwrap_err();
    assert!(
        error.message().contains("\"hugetlb\" is not available"),
        "{error}"
    );
    assert!(
        error
            .hints()
            .unwrap()
            .starts_with(&format!("{} must enable it", place.0.path())),
        "{error}"
    );
    place.0.enable(&["hugetlb"]).unwrap();

    let process = Process::new(&job, "sleep 600");
    let error = job.make_beneath("web", &["hugetlb"]).unwrap_err();
    assert!(
        error
            .message()
            .contains("subtree_control\", \"+hugetlb\"): EBUSY"),
        "{error}"
    );
    assert!(
        error
            .hints()
            .unwrap()
            .contains("processes are in that cgroup itself"),
        "{error}"
    );
    job.evacuate().unwrap();
    let (web, _) = job.make_beneath("a/web", &["hugetlb"]).unwrap();
    assert!(lives(process.pid()));

    let file = "hugetlb.2MB.max";
    let enforced = web
        .apply(&[setting(file, "4194304")], true, &mut Vec::new())
        .unwrap();
    assert_eq!(enforced[0].value, "4194304");
    assert_eq!(web.read(file).unwrap(), "4194304\n");
    let error = web
        .apply(&[setting(file, "many")], true, &mut Vec::new())
        .unwrap_err();
    assert!(
        error
            .message()
            .contains(&format!("{file}\", \"many\"): EINVAL")),
        "{error}"
    );
    assert!(
        error.hints().unwrap().contains("does not take this value"),
        "{error}"
    );
    let error = job
        .child(CALLERS)
        .unwrap()
        .unwrap()
        .apply(&[setting("hugetlb.3MB.max", "0")], true, &mut Vec::new())
        .unwrap_err();
    assert!(
        error.hints().unwrap().contains("has no such file"),
        "{error}"
    );
}

#[test]
fn the_cgroup_of_a_container_is_made_anew_and_never_shared() {
    lodger_only!("its library");
    let place = Place::new();
    let base = place.0.path();
    let make = |path: &str, settings: &[Setting]| {
        lodger::cgroup::make_top(base, path, settings, true).and_then(|made| made)
    };
    let free = || lodger::cgroup::free_name(base, "c").unwrap();
    assert_eq!(free(), "lodger-c");
    let (dir, enforced) = make("lodger-c", &[]).unwrap();
    assert_eq!(dir.path(), format!("{base}/lodger-c"));
    assert!(enforced.is_empty());
    // Nobody is in it yet, and it is another's all the same.
    assert_eq!(free(), "lodger-c.2");
    let error = make("lodger-c", &[]).unwrap_err();
    assert!(error.message().contains("being made in it"), "{error}");
    // Left by a lodger that was killed.
    dir.write("cgroup.max.depth", "3").unwrap();
    dir.make_beneath("x/y", &[]).unwrap();
    drop(dir);
    assert_eq!(free(), "lodger-c");
    assert!(place.0.child("lodger-c").unwrap().is_none());
    // What the caller has made for it stays as it is.
    let hers = place.make("pods/web");
    hers.write("cgroup.max.depth", "3").unwrap();
    let (web, _) = make("pods/web", &[]).unwrap();
    assert_eq!(web.read("cgroup.max.depth").unwrap(), "3\n");

    let busy = place.make("pods/busy");
    let _process = Process::new(&busy, "sleep 600");
    let error = make("pods/busy", &[]).unwrap_err();
    assert!(
        error
            .message()
            .starts_with("container's cgroup is not empty: "),
        "{error}"
    );
    let thawed = place.make("frozen");
    thawed.freeze().unwrap();
    let error = make("frozen", &[]).unwrap_err();
    assert!(
        error
            .message()
            .starts_with("container's cgroup unexpectedly frozen"),
        "{error}"
    );
    // A limit that cannot be set leaves nothing.
    let mut none = setting("none.max", "1");
    none.controller.clear();
    let error = make("none", &[none]).unwrap_err();
    assert!(
        error
            .hints()
            .unwrap()
            .contains("this kernel has no such file"),
        "{error}"
    );
    assert!(place.0.child("none").unwrap().is_none());
}
