//! The units of systemd/, where all controllers are delegated.

use std::fs;

use crate::harness::{lodger_only, wait_for};
use crate::units::Service;

/// The limits of the service are the container's, also those that are set while it runs.
#[test]
fn the_limits_of_a_service_hold_for_its_container() {
    lodger_only!("a unit");
    // While others have all the processes that there may be, it starts none.
    let script =
        "mkfifo /run/go; echo begun; read -r go </run/go; tail /dev/zero; echo ended $?; sleep 600";
    let drop_in = "MemoryMax=32M\nMemorySwapMax=0\nTasksMax=20\nRestart=no\nOOMPolicy=continue\n";
    let service = Service::new("limited", script, drop_in);
    service.does("start").ok();
    service.wait_journal("begun");
    let cgroup = format!("/sys/fs/cgroup{}", service.property("ControlGroup"));
    let of = |file: &str| fs::read_to_string(format!("{cgroup}/{file}")).unwrap();
    assert_eq!(of("memory.max"), "33554432\n");
    assert_eq!(of("pids.max"), "20\n");

    let forks = "for i in $(seq 40); do sleep 600 & done; echo all";
    let ran = service.lodger(&["exec", "limited", "sh", "-c", forks]);
    assert!(ran.err.contains("fork"), "{ran:#?}");
    let peak = of("pids.events");
    assert!(!peak.starts_with("max 0\n"), "{peak}");
    let set = ["set-property", "--runtime", &service.unit(), "TasksMax=50"];
    crate::units::systemctl(&set).ok();
    // It answers first, and writes it then.
    wait_for("the new limit", || (of("pids.max") == "50\n").then_some(()));

    service
        .lodger(&["exec", "limited", "sh", "-c", "echo >/run/go"])
        .ok();
    service.wait_journal("ended 137");
    let events = of("memory.events");
    assert!(!events.contains("oom_kill 0\n"), "{events}");
    service.does("stop").exits(0);
    service.is_gone();
}
