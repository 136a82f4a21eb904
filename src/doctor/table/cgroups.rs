//! Control groups (cgroups(7)).

use super::{Found, Row};
use crate::doctor::finding::{Area, Weight, Who};
use crate::doctor::readings::Readings;
use crate::doctor::step::Step;
use crate::host::{CgroupKind, CgroupReading};

/// The controllers that limits of config.json are made of.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

const NO_LIMITS: &str = "containers have no limits, statistics or pause; a config that asks for limits is refused, all others run";

const fn row(code: &'static str, who: Who, look: fn(&Readings) -> Option<Found>) -> Row {
    Row::new(code, Area::Cgroups, who, &[Step::Cgroup], look)
}

pub(super) const ROWS: [Row; 6] = [
    row("LDG-CGROUP-ABSENT", Who::Surroundings, absent),
    row("LDG-CGROUP-V1", Who::Administrator, version_1),
    row("LDG-CGROUP-HYBRID", Who::Administrator, hybrid),
    row("LDG-CGROUP-READONLY", Who::Surroundings, read_only),
    row("LDG-CGROUP-UNDELEGATED", Who::Administrator, undelegated),
    row("LDG-CGROUP-CONTROLLER", Who::Administrator, controller),
];

fn cgroup(readings: &Readings, kind: CgroupKind) -> Option<&CgroupReading> {
    readings
        .cgroup
        .as_ref()
        .filter(|cgroup| cgroup.kind == kind)
}

fn absent(readings: &Readings) -> Option<Found> {
    cgroup(readings, CgroupKind::Absent)?;
    Found::new(
        Weight::Costs,
        "no hierarchy of control groups is mounted on /sys/fs/cgroup",
        NO_LIMITS,
        "mount it around lodger: sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup; docker: --cgroupns=private -v /sys/fs/cgroup:/sys/fs/cgroup:rw",
    )
}

fn version_1(readings: &Readings) -> Option<Found> {
    cgroup(readings, CgroupKind::V1)?;
    Found::new(
        Weight::Costs,
        "the control groups of this machine are version 1, which cannot be delegated safely to a user",
        NO_LIMITS,
        "boot with version 2: sudo grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1, \
         or GRUB_CMDLINE_LINUX=\"systemd.unified_cgroup_hierarchy=1\" in /etc/default/grub and sudo update-grub",
    )
}

fn hybrid(readings: &Readings) -> Option<Found> {
    cgroup(readings, CgroupKind::Hybrid)?;
    Found::new(
        Weight::Costs,
        "the control groups of this machine are hybrid: version 1 has the controllers, version 2 is beside it (/sys/fs/cgroup/unified)",
        NO_LIMITS,
        "boot with version 2 alone: kernel command line systemd.unified_cgroup_hierarchy=1 (GRUB_CMDLINE_LINUX in /etc/default/grub, then sudo update-grub)",
    )
}

fn read_only(readings: &Readings) -> Option<Found> {
    let cgroup = cgroup(readings, CgroupKind::Unified)?;
    if !cgroup.read_only || has_manager(readings) {
        return None;
    }
    Found::new(
        Weight::Costs,
        "/sys/fs/cgroup is mounted read-only, as in a container",
        NO_LIMITS,
        "podman run --cgroups=enabled --security-opt unmask=/sys/fs/cgroup …; docker run --cgroupns=private --privileged=false -v /sys/fs/cgroup:/sys/fs/cgroup:rw …",
    )
}

/// Whether the caller's systemd can make cgroups for her.
fn has_manager(readings: &Readings) -> bool {
    let session = readings.session.as_ref();
    session.is_some_and(|session| !session.systemd.sockets.is_empty())
}

fn undelegated(readings: &Readings) -> Option<Found> {
    let cgroup = cgroup(readings, CgroupKind::Unified)?;
    let obstacle = cgroup.obstacle.as_ref()?;
    if cgroup.read_only || has_manager(readings) {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!("no cgroup is delegated to you: {obstacle}"),
        NO_LIMITS,
        "systemd-run --user --scope -p Delegate=yes COMMAND; in a service or job of the system: Delegate=yes in its unit",
    )
}

fn controller(readings: &Readings) -> Option<Found> {
    let cgroup = cgroup(readings, CgroupKind::Unified)?;
    let manager = cgroup.manager.as_ref().filter(|_| has_manager(readings));
    let (place, has) = match manager {
        Some(manager) => (manager.path.as_str(), &manager.controllers),
        None if cgroup.obstacle.is_none() => (cgroup.base.as_deref()?, &cgroup.controllers),
        None => return None,
    };
    let missing = CONTROLLERS
        .into_iter()
        .filter(|name| !has.iter().any(|has| has == name));
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "the controllers {} are not delegated to {place}",
            missing.join(", ")
        ),
        format!(
            "limits of {} cannot be kept: a config that asks for them is refused",
            missing.join(", ")
        ),
        "sudo install -D -m 644 systemd/user@.service.d/lodger-delegate.conf /etc/systemd/system/user@.service.d/lodger-delegate.conf \
         && sudo systemctl daemon-reload; then log in again",
    )
}
