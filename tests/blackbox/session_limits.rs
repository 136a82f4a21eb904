//! Scopes, and limits that nobody or not everybody can keep: in a session of systemd that has no controller but hugetlb.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Fixture, Ran, lodger_only, skip, spawn};
use crate::scopes::{
    assert_no_scope, kept_by, leaf, says, scope, scopes, systemctl, with_own_cgroups,
};

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// A container that sleeps, with these `linux.resources`.
fn sleeper(resources: Value) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.config["linux"]["resources"] = resources;
    fixture
}

#[test]
fn a_controller_that_is_not_delegated_is_named_with_the_way_to_it() {
    lodger_only!("its messages");
    let fixture = sleeper(json!({
        "memory": {"limit": 1 << 26}, "cpu": {"quota": 20_000}, "pids": {"limit": 20}, "unified": {"io.weight": "50"}
    }));
    let ran = fixture.runtime(&["run", "-d", "lacking"]);
    for (limit, controller) in [
        ("memory/limit", "memory"),
        ("cpu/quota", "cpu"),
        ("pids/limit", "pids"),
        ("unified/io.weight", "io"),
    ] {
        let uid = uid();
        let why = format!(
            "/linux/resources/{limit}: nobody can keep this limit: the controller {controller:?} is not delegated to \
             /user.slice/user-{uid}.slice/user@{uid}.service, which has: "
        );
        assert!(ran.err.contains(&why), "no {why} in {ran:#?}");
    }
    ran.fails(1, "systemd/user@.service.d/lodger-delegate.conf");
    assert_eq!(scopes("lodger-lacking.scope"), Vec::<String>::new());
    assert!(!fixture.path("state/lacking").exists());
}

#[test]
fn what_nobody_keeps_is_let_go_where_that_is_asked_for() {
    lodger_only!("--cgroup-policy");
    let fixture = sleeper(json!({"memory": {"limit": 1 << 26}, "pids": {"limit": 20}}));
    fixture.write_config();
    let policy = |policy: &str, id: &str| {
        let mut command = fixture.command(&["run", "-d", id]);
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = Command::new(command.get_program());
        command.args(["--cgroup-policy", policy]).args(args);
        spawn(command.current_dir(fixture.bundle()), b"").wait()
    };
    let ran = policy("best-effort", "best").exits(0);
    assert_eq!(ran.err.matches("note: ").count(), 2, "{ran:#?}");
    for limit in ["memory/limit", "pids/limit"] {
        let note = format!("note: /linux/resources/{limit}: nobody can keep this limit");
        assert_eq!(ran.err.matches(&note).count(), 1, "{ran:#?}");
    }
    let state = fixture.state("best");
    assert_eq!(state["cgroup"]["scope"], "lodger-best.scope");
    assert_eq!(state["cgroup"]["enforced"], Value::Null);
    policy("strict", "strict").fails(1, "/linux/resources/memory/limit");
}

/// What only the kernel knows: a size of pages that it has not.
#[test]
fn what_the_kernel_refuses_is_let_go_where_that_is_asked_for() {
    lodger_only!("--cgroup-policy");
    let fixture = sleeper(json!({"unified": {"hugetlb.3MB.max": "0", "cgroup.max.depth": "5"}}));
    fixture.write_config();
    let mut command = Command::new(crate::harness::runtime_binary());
    command.args(["--cgroup-policy", "best-effort", "--root"]);
    command.arg(fixture.path("state")).args(["run", "-d", "c3"]);
    let ran = spawn(command.current_dir(fixture.bundle()), b"")
        .wait()
        .exits(0);
    let note = "note: /linux/resources/unified/hugetlb.3MB.max: not kept: ";
    assert_eq!(ran.err.matches(note).count(), 1, "{ran:#?}");
    let enforced = fixture.state("c3")["cgroup"]["enforced"].clone();
    assert_eq!(enforced.as_array().unwrap().len(), 1, "{enforced}");
    assert_eq!(enforced[0]["file"], "cgroup.max.depth");
    fixture
        .bare(&["run", "-d", "c4"])
        .fails(1, "cannot set /linux/resources/unified/hugetlb.3MB.max");
    fixture.bare(&["delete", "-f", "c3"]).ok();
    assert_eq!(scopes("lodger-c4*"), Vec::<String>::new());
}

#[test]
fn a_scope_can_be_insisted_on() {
    lodger_only!("--cgroup-policy");
    let fixture = sleeper(json!({}));
    fixture.write_config();
    let mut command = Command::new(crate::harness::runtime_binary());
    command.args(["--cgroup-policy", "strict", "--root"]);
    command
        .arg(fixture.path("state"))
        .args(["run", "-d", "insisted"]);
    command.current_dir(fixture.bundle());
    spawn(&mut command, b"").wait().ok();
    assert_eq!(scopes("lodger-insisted.scope"), ["lodger-insisted.scope"]);
    fixture.bare(&["delete", "-f", "insisted"]).ok();
    assert_eq!(scopes("lodger-insisted.scope"), Vec::<String>::new());
    // Nobody makes one here.
    let mut command = Command::new(command.get_program());
    command.args([
        "--cgroup-policy",
        "strict",
        "--cgroup-manager",
        "disabled",
        "--root",
    ]);
    command
        .arg(fixture.path("state"))
        .args(["run", "-d", "insisted"]);
    command.current_dir(fixture.bundle());
    spawn(&mut command, b"").wait().fails(
        1,
        "the container gets no cgroup, which --cgroup-policy strict asks for",
    );
}

/// systemd has no property for huge pages: the file of the container's own cgroup keeps the limit.
#[test]
fn huge_pages_are_limited() {
    lodger_only!("a leaf in the scope");
    let size = 2 << 20;
    let limits = [
        (
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": size}]}),
            "hugepageLimits/0/limit",
            "hugetlb.2MB.rsvd.max",
        ),
        (
            json!({"unified": {"hugetlb.2MB.max": size.to_string()}}),
            "unified/hugetlb.2MB.max",
            "hugetlb.2MB.max",
        ),
    ];
    for (resources, property, file) in limits {
        let mut fixture = sleeper(resources);
        with_own_cgroups(&mut fixture);
        let ran = fixture.runtime(&["run", "-d", "huge"]);
        if ran.code != 0 && ran.err.contains("\"hugetlb\" is not delegated") {
            skip!("no controller hugetlb is to be had here");
        }
        assert_eq!(ran.err, "");
        ran.ok();
        let leaf = leaf(&fixture, "huge");
        assert_eq!(says(&leaf, file), size.to_string());
        let path = format!("/sys/fs/cgroup/{file}");
        let seen = fixture.bare(&["exec", "huge", "cat", &path]).ok();
        assert_eq!(seen.trim_end(), size.to_string());
        assert_eq!(kept_by(&fixture.state("huge"), property), "cgroupfs");
        // daemon-reexec takes the manager off the bus for a moment, which other tests meet: it is for the machine.
        systemctl(&["daemon-reload"]);
        assert_eq!(says(&leaf, file), size.to_string());
        assert_eq!(scopes("lodger-huge.scope"), ["lodger-huge.scope"]);
    }
}

#[test]
fn fifty_at_once() {
    let fixture = sleeper(json!({}));
    fixture.write_config();
    let ids: Vec<String> = (0..50).map(|n| format!("many{n}")).collect();
    let all = |args: &[&str]| {
        let started = ids.iter().map(|id| {
            let args = [args, &[id.as_str()]].concat();
            spawn(&mut fixture.command(&args), b"")
        });
        let started: Vec<_> = started.collect();
        for running in started {
            running.wait().ok();
        }
    };
    let pattern = match crate::harness::peer() {
        true => format!("{}-many*.scope", crate::harness::under_test()),
        false => "lodger-many*.scope".to_owned(),
    };
    all(&["run", "-d"]);
    assert_eq!(scopes(&pattern).len(), 50);
    let mut leaves: Vec<_> = ids.iter().map(|id| leaf(&fixture, id)).collect();
    leaves.sort();
    leaves.dedup();
    assert_eq!(leaves.len(), 50);
    all(&["delete", "-f"]);
    assert_no_scope(&pattern);
    assert!(leaves.iter().all(|leaf| !leaf.exists()));
}

/// `run` and `delete` with an environment that is not that of a login.
fn elsewhere(fixture: &Fixture, args: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = fixture.command(args);
    command.env_clear().env("PATH", "/usr/bin:/bin");
    spawn(command.envs(environment.iter().copied()), b"").wait()
}

/// From cron, from su(1) and with a bus that nobody serves: her systemd is found where it always is.
#[test]
fn a_session_is_found_without_the_environment_of_one() {
    lodger_only!("looking for the session");
    let mut fixture = sleeper(json!({}));
    fixture.write_config();
    let dead = fixture.path("dead");
    drop(UnixListener::bind(&dead).unwrap());
    let dead = format!("unix:path={}", dead.display());
    let environments: [&[(&str, &str)]; 5] = [
        &[],
        &[("HOME", "/"), ("LOGNAME", "lodger"), ("SHELL", "/bin/sh")],
        &[
            ("HOME", "/root"),
            ("XDG_RUNTIME_DIR", "/run/user/0"),
            ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/0/bus"),
        ],
        &[("DBUS_SESSION_BUS_ADDRESS", &dead)],
        &[
            (
                "DBUS_SESSION_BUS_ADDRESS",
                "unixexec:path=/bin/false;tcp:host=::1,port=1;autolaunch:",
            ),
            ("XDG_RUNTIME_DIR", "relative"),
        ],
    ];
    for resources in [json!({}), json!({"unified": {"hugetlb.2MB.max": "0"}})] {
        fixture.config["linux"]["resources"] = resources;
        fixture.write_config();
        for environment in environments {
            let ran = elsewhere(&fixture, &["run", "-d", "found"], environment);
            if ran.err.contains("\"hugetlb\" is not delegated") {
                skip!("no controller hugetlb is to be had here");
            }
            assert_eq!(ran.err, "", "{environment:?}");
            ran.ok();
            assert_eq!(
                fixture.state("found")["cgroup"]["scope"],
                "lodger-found.scope",
                "{environment:?}"
            );
            let cgroup = scope(&fixture, "found");
            elsewhere(&fixture, &["delete", "-f", "found"], environment).ok();
            assert!(!Path::new(&cgroup).exists(), "{environment:?}");
            assert_eq!(scopes("lodger-found.scope"), Vec::<String>::new());
        }
    }
}

/// With an empty directory in place of logind's list: one that is left to itself is told of its end, once.
#[test]
fn a_container_that_ends_at_logout_is_told() {
    lodger_only!("the note");
    let mut fixture = Fixture::new();
    fixture.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    fixture.args(&["/bin/true"]);
    fixture.write_config();
    let told = |hidden: &str, args: &str| {
        let script = format!("{hidden} && exec \"$0\" --root state {args}");
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-current-user", "--mount", "--keep-caps"])
            .args(["sh", "-c", &script])
            .arg(crate::harness::runtime_binary())
            .current_dir(fixture.bundle());
        let ran = spawn(&mut command, b"").wait().exits(0);
        ran.err.matches("ends when you log out").count()
    };
    let off = "mount -t tmpfs none /var/lib/systemd/linger";
    assert_eq!(told(off, "run -d left"), 1);
    assert_eq!(told(off, "delete -f left"), 0);
    assert_eq!(told(off, "create left"), 1);
    assert_eq!(told(off, "delete -f left"), 0);
    assert_eq!(told(off, "run here"), 0);
    assert_eq!(told("true", "run -d left"), 0);
    assert_eq!(told("true", "delete -f left"), 0);
}

/// Two containers with one id, in two places for state: each has a scope, which the other leaves alone.
#[test]
fn a_scope_of_another_is_left_alone() {
    lodger_only!("names of scopes");
    let (first, second) = (sleeper(json!({})), sleeper(json!({})));
    first.runtime(&["run", "-d", "twice"]).ok();
    second.runtime(&["run", "-d", "twice"]).ok();
    let scopes_of = |one: &Fixture| one.state("twice")["cgroup"]["scope"].clone();
    assert_eq!(scopes_of(&first), "lodger-twice.scope");
    assert_eq!(scopes_of(&second), "lodger-twice.2.scope");
    first.bare(&["delete", "-f", "twice"]).ok();
    assert_eq!(second.status("twice"), "running");
    assert_eq!(scopes("lodger-twice*"), ["lodger-twice.2.scope"]);
    second.bare(&["delete", "-f", "twice"]).ok();
    assert_eq!(scopes("lodger-twice*"), Vec::<String>::new());
}

/// Of one id, in places for state of their own: the name of a scope goes from one to the other, and no end is another one's.
#[test]
fn containers_of_one_id_come_and_go_beside_one_another() {
    lodger_only!("names of scopes");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut fixture = Fixture::new();
                fixture.sh("echo ran").write_config();
                for _ in 0..15 {
                    assert_eq!(fixture.bare(&["run", "alike"]).ok(), "ran\n");
                }
            });
        }
    });
    assert_no_scope("lodger-alike*");
}

/// A container that divides its own cgroup, as a systemd in it does: what joins it goes where the first process went.
#[test]
fn a_container_divides_its_own_cgroup() {
    lodger_only!("exec --cgroup");
    for user in [0, 5] {
        let mut fixture = Fixture::new();
        fixture.config["process"]["user"] = json!({"uid": user, "gid": user});
        fixture.config["linux"]["resources"] = json!({"unified": {"hugetlb.2MB.max": "4194304"}});
        with_own_cgroups(&mut fixture);
        fixture.sh(
            "cd /sys/fs/cgroup && mkdir -p init web/deep && echo 1 >init/cgroup.procs && echo +hugetlb >cgroup.subtree_control
             echo done; exec sleep 600",
        );
        let running = fixture.background(&["run", "--keep", "divided"], b"");
        crate::harness::wait_for("it to be done", || {
            running.out().contains("done").then_some(())
        });
        let controllers = fixture
            .bare(&[
                "exec",
                "divided",
                "cat",
                "/sys/fs/cgroup/cgroup.subtree_control",
            ])
            .ok();
        assert_eq!(controllers, "hugetlb\n", "uid {user}");
        let joined = |options: &[&str]| {
            let args = [
                &["exec"],
                options,
                &["divided", "grep", "^0::", "/proc/self/cgroup"],
            ]
            .concat();
            fixture.bare(&args)
        };
        assert_eq!(joined(&[]).ok(), "0::/init\n", "uid {user}");
        assert_eq!(joined(&["--cgroup", "web/deep"]).ok(), "0::/web/deep\n");
        joined(&["--cgroup", "/none"]).fails(255, "the container has no cgroup");
        joined(&["--cgroup", "../.."]).fails(255, "is no path of a cgroup");
        // The files that limit it are not its own.
        let cgroup = fixture.state("divided")["cgroup"].clone();
        let scope = scope(&fixture, "divided");
        let limits = scope.join("container/hugetlb.2MB.max");
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&limits).unwrap());
        assert_eq!(owner, uid(), "{cgroup}");
        let beneath = scope.join("container");
        let divider = std::os::unix::fs::MetadataExt::uid(&fs::metadata(beneath).unwrap());
        assert_eq!(divider == uid(), user == 0);
        fixture.bare(&["delete", "-f", "divided"]).ok();
        assert!(!scope.exists());
        assert_eq!(scopes("lodger-divided.scope"), Vec::<String>::new());
    }
}

#[test]
fn without_a_cgroup_namespace_nothing_can_be_written() {
    lodger_only!("its notes");
    let mut fixture = Fixture::new();
    with_own_cgroups(&mut fixture);
    fixture.without_namespace("cgroup");
    fixture.sh("mkdir /sys/fs/cgroup/x || ls -d /sys/fs/cgroup/user.slice");
    let ran = fixture.runtime(&["run", "shared"]);
    assert_eq!(ran.out, "/sys/fs/cgroup/user.slice\n", "{ran:#?}");
    assert!(ran.err.contains("Read-only file system"), "{ran:#?}");
    assert!(
        ran.err.contains("{\"type\": \"cgroup\"}"),
        "no note: {ran:#?}"
    );
}

/// Whatever of these is killed, and whenever: `delete -f` leaves neither scope nor cgroup, and the id can be had again.
#[test]
fn a_kill_at_any_moment_leaves_no_scope() {
    lodger_only!("what a killed runtime leaves");
    let fixture = sleeper(json!({}));
    fixture.write_config();
    let steps: [(&[&str], &[&str]); 5] = [
        (&[], &["create", "killed"]),
        (&[], &["run", "-d", "killed"]),
        (&["create", "killed"], &["start", "killed"]),
        (&["run", "-d", "killed"], &["exec", "killed", "true"]),
        (&["run", "-d", "killed"], &["delete", "-f", "killed"]),
    ];
    for (before, step) in steps {
        let prepare = || {
            if !before.is_empty() {
                fixture.bare(before).ok();
            }
        };
        prepare();
        let begin = std::time::Instant::now();
        fixture.bare(step).ok();
        let whole = begin.elapsed();
        fixture.bare(&["delete", "-f", "killed"]).ok();
        for part in 0..16 {
            prepare();
            let running = spawn(&mut fixture.command(step), b"");
            std::thread::sleep(whole * part / 16);
            running.signal("KILL");
            running.wait();
            fixture.bare(&["delete", "-f", "killed"]).ok();
            // systemd may not have looked yet at a scope whose processes ended by themselves.
            assert_no_scope("lodger-killed*");
        }
    }
    crate::kills::assert_no_process(&fixture);
}
