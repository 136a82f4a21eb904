//! The units of systemd/, where all controllers are delegated.

use std::fs;

use crate::harness::lodger_only;
use crate::units::Service;

/// The limits of the service are the container's, also those that are set while it runs.
#[test]
fn the_limits_of_a_service_hold_for_its_container() {
    lodger_only!("a unit");
    let script = "echo begun; until [ -e /run/go ]; do sleep 0.05; done; tail /dev/zero; echo ended $?; sleep 600";
    let drop_in = "MemoryMax=32M\nMemorySwapMax=0\nTasksMax=20\nRestart=no\nOOMPolicy=continue\n";
    let service = Service::new("limited", script, drop_in);
    service.does("start").ok();
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
    assert_eq!(of("pids.max"), "50\n");

    service
        .lodger(&["exec", "limited", "touch", "/run/go"])
        .ok();
    service.wait_journal("ended 137");
    let events = of("memory.events");
    assert!(!events.contains("oom_kill 0\n"), "{events}");
    service.does("stop").exits(0);
    service.is_gone();
}
