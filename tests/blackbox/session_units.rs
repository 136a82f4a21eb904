//! The units of systemd/: a container as a service of hers.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::harness::{Fixture, lodger_only, send_signal, spawn, wait_for};
use crate::units::{Service, source};

/// Tells of SIGTERM, and ends with 3.
const OBEDIENT: &str = "trap 'echo term; exit 3' TERM; echo out; echo err >&2; echo pid $$; while :; do sleep 0.05; done";

/// The acceptance command, and what systemd knows then.
#[test]
fn a_container_is_a_service() {
    lodger_only!("a unit");
    let web = Service::new("web", OBEDIENT, "");
    web.does("start").ok();
    assert_eq!(web.property("ActiveState"), "active");
    assert_eq!(web.property("SubState"), "running");
    assert_eq!(web.property("Slice"), "lodger.slice");
    let state = web.state();
    assert_eq!(state["status"], "running");
    assert_eq!(web.property("MainPID"), state["pid"].to_string());

    // All of it is within the cgroup of the service, and none of it elsewhere.
    let cgroup = web.property("ControlGroup");
    let told = state["cgroup"]["path"].as_str().unwrap();
    assert!(told.starts_with(&format!("{cgroup}/")), "{told} {cgroup}");
    let procs = fs::read_to_string(format!("/sys/fs/cgroup{told}/cgroup.procs")).unwrap();
    assert!(
        procs
            .lines()
            .any(|pid| state["pid"] == pid.parse::<u32>().unwrap())
    );
    let own = fs::read_to_string(format!("/sys/fs/cgroup{cgroup}/cgroup.procs")).unwrap();
    assert_eq!(own, "", "no process beside the container");

    for line in ["out", "err", "pid 1"] {
        web.wait_journal(line);
    }
    web.does("stop").ok();
    web.wait_journal("term");
    assert_eq!(web.property("ExecMainStatus"), "3");
    assert_eq!(web.property("Result"), "exit-code");
    web.is_gone();
}

/// She is in a session, whose processes are not hers to move to a cgroup of her manager's: systemd is asked to.
#[test]
fn commands_reach_it_from_a_session() {
    lodger_only!("a unit");
    let service = Service::new("reached", OBEDIENT, "");
    service.does("start").ok();
    // Then it heeds SIGTERM.
    service.wait_journal("out");
    let exec = |args: &[&str]| service.lodger(&[&["exec", "reached"], args].concat());
    let out = exec(&["sed", "-n", "s/^0:://p", "/proc/self/cgroup"]);
    let path = service.state()["cgroup"]["path"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(out.ok(), path + "\n");
    exec(&["sh", "-c", "exit 9"]).exits(9);
    assert!(service.lodger(&["ps", "reached"]).ok().contains("sleep"));
    service.lodger(&["pause", "reached"]).ok();
    assert_eq!(service.state()["status"], "paused");
    service.lodger(&["resume", "reached"]).ok();
    // Whoever ends it behind systemd's back.
    service.lodger(&["kill", "reached", "TERM"]).ok();
    service.wait_journal("term");
}

#[test]
fn it_is_restarted_when_it_fails() {
    lodger_only!("a unit");
    let service = Service::new("restarted", OBEDIENT, "RestartSec=1ms\n");
    service.does("start").ok();
    let first = service.property("MainPID");
    send_signal(first.parse().unwrap(), "KILL");
    service.wait_property("NRestarts", "1");
    service.wait_property("SubState", "running");
    assert_ne!(service.property("MainPID"), first);
    assert_eq!(service.state()["status"], "running");
    service.does("restart").ok();
    assert_eq!(
        service.property("MainPID"),
        service.state()["pid"].to_string()
    );
    service.does("stop").exits(0);
    service.is_gone();
}

/// A status of its own, and no restart after success.
#[test]
fn its_exit_status_is_the_services() {
    lodger_only!("a unit");
    // Its program must not end before systemd has learnt whom it watches.
    let ended = |name: &'static str, code: u8, drop_in: &str| {
        let script = format!("until [ -e /run/go ]; do sleep 0.05; done; exit {code}");
        let service = Service::new(name, &script, drop_in);
        service.does("start").ok();
        // touch(1) may be ended with the container.
        let _code = service.lodger(&["exec", name, "touch", "/run/go"]).code;
        service
    };
    let service = ended("ends", 0, "");
    service.wait_property("ActiveState", "inactive");
    assert_eq!(service.property("Result"), "success");
    assert_eq!(service.property("NRestarts"), "0");
    service.is_gone();

    let failing = ended("fails", 42, "Restart=no\n");
    failing.wait_property("ActiveState", "failed");
    assert_eq!(failing.property("Result"), "exit-code");
    assert_eq!(failing.property("ExecMainStatus"), "42");
    failing.is_gone();
}

/// SIGKILL for all of it, after the time that it is given.
#[test]
fn what_ignores_sigterm_is_killed() {
    lodger_only!("a unit");
    let script = "trap '' TERM; sleep 600 & echo deaf; while :; do sleep 0.05; done";
    // No less than the unit's own time: it is also the time that ExecStopPost= has.
    let service = Service::new("deaf", script, "");
    service.does("start").ok();
    service.wait_journal("deaf");
    service.does("stop").ok();
    assert_eq!(service.property("Result"), "timeout");
    assert_eq!(service.property("ExecMainStatus"), "9");
    service.is_gone();
}

/// Its remains are of no harm: the name is free for the next start.
#[test]
fn a_service_starts_on_what_a_crash_has_left() {
    lodger_only!("a unit");
    let service = Service::new("left", OBEDIENT, "");
    let bundle = service.fixture.bundle();
    service.fixture.write_config();
    let bundle = bundle.to_str().unwrap();
    service.lodger(&["create", "--bundle", bundle, "left"]).ok();
    service.does("start").ok();
    assert_eq!(service.state()["status"], "running");
    service.does("stop").exits(0);
    service.is_gone();
}

#[test]
fn a_bundle_that_is_not_there_is_told_in_the_journal() {
    lodger_only!("a unit");
    let drop_in = "Restart=no\nEnvironment=LODGER_BUNDLE=/nowhere\n";
    let service = Service::new("nowhere", "true", drop_in);
    // A process that has ended before the journal asks for its unit has none there: then the next one is waited for.
    wait_for("the error in the journal", || {
        service.does("start").exits(1);
        assert_eq!(service.property("Result"), "exit-code");
        let line = "error: cannot find the bundle \"/nowhere\"";
        let is_there = service.journal_has(line);
        // It may be started as often as is needed.
        service.does("reset-failed").ok();
        is_there.then_some(())
    });
    service.is_gone();
}

/// The variant in the unit's comment: the service has started when the program in the container says so.
#[test]
fn a_program_says_when_it_is_ready() {
    lodger_only!("a unit");
    let text = fs::read_to_string(source().join("lodger@.service")).unwrap();
    let comment = text.lines().skip_while(|line| *line != "#   [Service]");
    let variant = comment.skip(1).map_while(|line| line.strip_prefix("#   "));
    let drop_in = variant.fold(String::new(), |all, line| all + line + "\n");
    assert!(drop_in.contains("Type=notify"), "{drop_in}");
    let mut service = Service::new("notifies", "", &drop_in);
    service.fixture.add_probe();
    let probe = service.fixture.rootfs().join("probe");
    let mount = json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs"});
    service.fixture.unmount("/run").mount(mount);
    let mount = json!({"destination": "/run/probe", "type": "bind", "source": probe, "options": ["bind", "ro"]});
    service.fixture.mount(mount);
    service.fixture.sh(
        "echo begun; until [ -e /run/go ]; do sleep 0.05; done; exec /run/probe notify STATUS=soon READY=1 wait:/run/end",
    );
    service.write();

    systemd_start_without_waiting(&service);
    service.wait_journal("begun");
    assert_eq!(service.property("ActiveState"), "activating");
    service
        .lodger(&["exec", "notifies", "touch", "/run/go"])
        .ok();
    service.wait_property("ActiveState", "active");
    assert_eq!(service.property("StatusText"), "soon");
    service.does("stop").exits(0);
    service.is_gone();
}

fn systemd_start_without_waiting(service: &Service) {
    let unit = service.unit();
    crate::units::systemctl(&["start", "--no-block", &unit]).ok();
}

/// What systemd says of unit files; nothing, if it knows all that is in them.
fn verified(path: &str, args: &[&str]) -> String {
    let mut verify = Command::new("systemd-analyze");
    verify.args(["--man=no", "verify"]).args(args);
    verify.env("SYSTEMD_UNIT_PATH", path);
    let ran = spawn(&mut verify, b"").wait();
    ran.out + &ran.err
}

#[test]
fn the_units_are_understood() {
    lodger_only!("a unit");
    let fixture = Fixture::new();
    let directory = fixture.path("units");
    fs::create_dir(&directory).unwrap();
    let copy = |name: &str, extra: &str| {
        let text = fs::read_to_string(source().join(name)).unwrap();
        fs::write(directory.join(name), text + extra).unwrap();
        directory.join(name).to_str().unwrap().to_owned()
    };
    let path = format!("{}:", directory.display());
    let slice = copy("lodger.slice", "");
    let service = copy("lodger@.service", "");
    assert_eq!(verified(&path, &["--user", &service, &slice]), "");
    let wrong = copy("lodger@.service", "NoSuchKey=1\n");
    assert!(verified(&path, &["--user", &wrong]).contains("NoSuchKey"));

    // The drop-in, with a unit that stands for the system's own.
    let user = directory.join("user@.service");
    fs::write(&user, "[Service]\nExecStart=/bin/true\n").unwrap();
    fs::create_dir(directory.join("user@.service.d")).unwrap();
    let drop_in = "user@.service.d/lodger-delegate.conf";
    copy(drop_in, "");
    let user = user.to_str().unwrap();
    assert_eq!(verified(&path, &[user]), "");
    copy(drop_in, "Delegate=nonsense\n");
    assert!(verified(&path, &[user]).contains("nonsense"));
}

/// Who lacks a controller is told of the drop-in, with what is in it.
#[test]
fn the_drop_in_is_what_an_error_names() {
    lodger_only!("the words of a refused limit");
    let mut fixture = Fixture::new();
    fixture.config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}});
    let ran = fixture.run().exits(1);
    let name = "user@.service.d/lodger-delegate.conf";
    assert!(ran.err.contains(&format!("systemd/{name}")), "{ran:#?}");
    let text = fs::read_to_string(source().join(name)).unwrap();
    let line = text.lines().find(|l| l.starts_with("Delegate=")).unwrap();
    assert!(ran.err.contains(line), "no {line} in {ran:#?}");
    wait_for("its end", || {
        fixture.bare(&["list", "-q"]).out.is_empty().then_some(())
    });
}
