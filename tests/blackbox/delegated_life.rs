//! A container's cgroup beneath the caller's own: what holds in it, whose it is, and that it never stays behind.

use std::path::{Path, PathBuf};

use lodger::host::{CALLERS, CgroupReading};
use serde_json::json;

use crate::delegated_pause::{cgroup, unique};
use crate::harness::{Fixture, lodger_only, skip, wait_for};
use crate::scopes::with_own_cgroups;
use crate::tracing::{Fate, run_injected, trace, works};
use crate::weak::{Outcome, held_by};

/// The cgroup that containers' are made in.
fn base() -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    let base = CgroupReading::read(uid, &[]).base.unwrap();
    Path::new("/sys/fs/cgroup").join(base.trim_start_matches('/'))
}

/// What is left of the cgroup of container `id`: nothing, as a rule.
fn left(id: &str) -> Option<PathBuf> {
    Some(base().join(format!("lodger-{id}"))).filter(|path| path.exists())
}

#[test]
fn a_limit_holds_and_the_callers_processes_make_way() {
    lodger_only!("a cgroup without systemd in which limits hold");
    let read = |path: &Path, name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    if !read(&base(), "cgroup.controllers").contains("hugetlb") {
        skip!("no controller is delegated here");
    }
    let mut fixture = Fixture::new();
    fixture.config["linux"]["resources"] =
        json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]});
    // The second one is made by a caller who has made way already.
    for name in ["first", "second"] {
        let id = &unique(name);
        fixture.sleeping(id);
        let own = cgroup(&fixture, id);
        assert_eq!(own, base().join(format!("lodger-{id}/container")));
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(text.trim_end().ends_with(&format!("/{CALLERS}")), "{text}");
        assert_eq!(read(&base(), "cgroup.procs"), "");
        let enforced = &fixture.state(id)["cgroup"]["enforced"][0];
        assert_eq!(
            enforced["property"],
            "/linux/resources/hugepageLimits/0/limit"
        );
        assert_eq!(enforced["value"], "4194304");
        // Also above, where the container cannot change it.
        for place in [own.as_path(), own.parent().unwrap()] {
            assert_eq!(read(place, enforced["file"].as_str().unwrap()), "4194304\n");
        }
    }
}

#[test]
fn a_container_divides_its_cgroup_as_another_user_and_all_of_it_goes() {
    lodger_only!("giving the cgroup to the container");
    let id = &unique("divides");
    let mut fixture = Fixture::new();
    with_own_cgroups(&mut fixture);
    fixture.config["process"]["user"] = json!({"uid": 5, "gid": 5});
    fixture.sh(
        "cd /sys/fs/cgroup && mkdir sub sub/sub && echo 0 >sub/sub/cgroup.procs && cat /proc/self/cgroup &&
         ! echo 1 >cgroup.max.depth && ! echo 1 >sub/../../cgroup.max.depth && echo divided; exec sleep 600",
    );
    let output = fixture.path("output");
    let mut command = fixture.command(&["run", "-d", id]);
    fixture.write_config();
    let file = || {
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&output)
            .unwrap()
    };
    let status = command.stdout(file()).stderr(file()).status().unwrap();
    let said = || crate::harness::read_lossy(&output);
    assert!(status.success(), "{}", said());
    wait_for("the division", || {
        let said = said();
        said.contains("divided").then_some(()).or_else(|| {
            assert_eq!(fixture.status(id), "running", "{said}");
            None
        })
    });
    assert!(said().contains("0::/sub/sub\n"), "{}", said());
    let place = base().join(format!("lodger-{id}/container/sub"));
    assert!(place.join("sub").exists());
    assert!(std::fs::remove_dir(place.join("sub")).is_err());
    // Whoever joins goes where its processes are.
    fixture.bare(&["exec", id, "/bin/true"]).ok();
    fixture.bare(&["delete", "-f", id]).ok();
    assert_eq!(left(id), None);
}

/// The host's tree, bound for want of a cgroup namespace, has the caller's cgroup in it, which is hers to write to.
#[test]
fn cve_2023_25809_cgroups_of_the_caller_stay_out_of_reach() {
    lodger_only!("switching defences off");
    held_by(&["ReadonlyCgroup"], || {
        let mut fixture = Fixture::new();
        fixture.mount(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["rw"]}),
        );
        let taken = base().join(unique("taken"));
        let path = taken.display();
        fixture.sh(&format!(
            "p={path}; ls ${{p%/*}}; mkdir {path} && echo 0 >{path}/cgroup.procs; exit 0"
        ));
        let ran = fixture.run().exits(0);
        assert!(ran.out.contains("cgroup.procs"), "{ran:#?}");
        let evidence = std::fs::remove_dir(&taken).is_ok();
        Outcome::of(evidence.then(|| "a cgroup was made".to_owned()), ran.err)
    });
}

/// In a cgroup for threads there can be none for processes: then there is none, as where nothing is delegated.
#[test]
fn a_caller_in_a_cgroup_for_threads_has_her_container_without_one() {
    lodger_only!("a cgroup without systemd");
    let domain = base().join(unique("domain"));
    let threaded = domain.join("threads");
    std::fs::create_dir_all(&threaded).unwrap();
    std::fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
    let mut fixture = Fixture::new();
    fixture.sh("cat /proc/self/cgroup").write_config();
    let lodger = fixture.command(&["run", "c"]);
    let mut shell = std::process::Command::new("/bin/sh");
    let enter = format!(
        "echo $$ >{}/cgroup.procs; echo $$ >{}/cgroup.threads; exec \"$@\"",
        domain.display(),
        threaded.display()
    );
    shell
        .args(["-c", &enter, "sh"])
        .arg(lodger.get_program())
        .args(lodger.get_args())
        .current_dir(fixture.bundle());
    let ran = crate::harness::spawn(&mut shell, b"").wait();
    for place in [&threaded, &domain] {
        wait_for("the end of all in there", || {
            std::fs::remove_dir(place).ok()
        });
    }
    assert!(ran.ok().contains("/threads\n"));
}

/// As with a kernel before 5.7, or a filter that feigns one: init is moved.
#[test]
fn a_cgroup_is_entered_also_where_clone3_is_refused() {
    lodger_only!("a cgroup without systemd");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    // Under strace a setuid helper has no privilege: the outer user namespace is that of a container in the same state directory.
    let mut neighbour = Fixture::new();
    neighbour.sleeping(&unique("neighbour"));
    let mut fixture = Fixture::new();
    let id = &unique("moved");
    fixture.sh("cat /proc/self/cgroup").write_config();
    let lodger = neighbour.command(&["run", id]);
    let mut traced = std::process::Command::new("/usr/bin/strace");
    traced
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "--inject=clone3:error=ENOSYS",
        ])
        .arg(lodger.get_program())
        .args(lodger.get_args())
        .current_dir(fixture.bundle());
    let out = crate::harness::spawn(&mut traced, b"").wait().ok();
    assert!(out.contains(&format!("/lodger-{id}/container\n")), "{out}");
    assert_eq!(left(id), None);
}

/// A `create` that fails takes nothing away that it has not made, be it as empty as its own would be.
#[test]
fn a_cgroup_of_somebody_else_is_neither_used_nor_removed() {
    lodger_only!("a cgroup without systemd");
    let name = unique("hers");
    let hers = base().join(&name);
    std::fs::create_dir(&hers).unwrap();
    std::fs::write(hers.join("cgroup.freeze"), "1").unwrap();
    let mut fixture = Fixture::new();
    fixture.config["linux"]["cgroupsPath"] = json!(format!("/{name}"));
    let manager = "--cgroup-manager=cgroupfs";
    let ran = fixture.runtime(&[manager, "run", "c"]).exits(1);
    assert!(ran.err.contains("unexpectedly frozen"), "{ran:#?}");
    assert!(hers.exists(), "{ran:#?}");
    std::fs::write(hers.join("cgroup.freeze"), "0").unwrap();
    fixture.sh("echo it ran");
    let ran = fixture.runtime(&[manager, "run", "c"]);
    assert_eq!(ran.ok(), "it ran\n");
    // From now on it was the container's.
    assert!(!hers.exists());
}

/// Kills `args` before each of its calls from the first one with `from` in it on. `delete -f` is all it takes afterwards.
fn kill_at_each(prepare: &[&str], args: &[&str], from: &str, least: usize) {
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let id = args[args.len() - 1];
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]).write_config();
    let prepared = || {
        if !prepare.is_empty() {
            fixture.bare(prepare).ok();
        }
        fixture.command(args)
    };
    let scratch = tempfile::tempdir().unwrap();
    let calls = trace(&prepared(), &scratch.path().join("trace"));
    fixture.bare(&["delete", "-f", id]).ok();
    let first = calls
        .iter()
        .position(|call| call.line.contains(from))
        .unwrap();
    // Two in three are enough, and no other kind is left out for it.
    let points = (first..calls.len()).filter(|n| n % 3 != 0);
    let mut hit = 0;
    for n in points {
        let (_, ran) = run_injected(&prepared(), scratch.path(), &calls, n, Fate::Kill);
        hit += usize::from(ran.code == 128 + 9);
        let when = format!("{args:?} killed before call {n}, {:?}", calls[n].line);
        let deleted = fixture.bare(&["delete", "-f", id]);
        assert_eq!(
            (deleted.code, &*deleted.err),
            (0, ""),
            "{when}: {deleted:#?}"
        );
        assert_eq!(left(id), None, "{when}");
    }
    assert!(hit >= least, "killed at {hit} points only");
}

#[test]
fn a_create_that_is_killed_leaves_a_cgroup_that_delete_removes() {
    lodger_only!("being killed at each step");
    kill_at_each(&[], &["create", &unique("killed")], "cgroup.json", 20);
}

#[test]
fn a_delete_that_is_killed_is_completed_by_another() {
    lodger_only!("being killed at each step");
    let id = &unique("half");
    kill_at_each(&["create", id], &["delete", "-f", id], "/sys/fs/cgroup", 10);
}

#[test]
fn the_cgroup_that_a_killed_create_left_is_taken_over_by_the_next() {
    lodger_only!("the cgroup of a killed create");
    let id = &unique("again");
    let mut fixture = Fixture::new();
    std::fs::create_dir(fixture.path("log")).unwrap();
    crate::hooks::add(&mut fixture, "createRuntime", "touch $LOG/there; sleep 600");
    let create = fixture.background(&["create", id], b"");
    wait_for("the hook", || {
        fixture.path("log/there").exists().then_some(())
    });
    let place = left(id).expect("the cgroup of a container that is being made");
    create.signal("KILL");
    create.wait();
    wait_for("its end", || {
        let events = std::fs::read_to_string(place.join("cgroup.events")).unwrap();
        events.contains("populated 0").then_some(())
    });
    fixture.config["hooks"] = json!({});
    fixture.sleeping(id);
    fixture.bare(&["delete", "-f", id]).ok();
    assert_eq!(left(id), None);
}
