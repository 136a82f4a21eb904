//! What was tried, fails, and no row knows why.

use crate::doctor::finding::{Area, Finding, Weight, Who};
use crate::doctor::readings::{Failed, Readings, Trial};

pub(super) const CODE: &str = "LDG-UNEXPLAINED";

/// What each failure means, if nothing heavier is known; what comes first stands for what follows from it.
const MEANING: [(Trial, Weight, Area, &str); 12] = [
    (
        Trial::Process,
        Weight::Blocks,
        Area::Limits,
        "no container can be made: it takes processes",
    ),
    (
        Trial::SingleId,
        Weight::Blocks,
        Area::UserNamespace,
        "no container can be made",
    ),
    (
        Trial::Outer,
        Weight::Reduces,
        Area::Ids,
        "containers have your own uid and gid alone",
    ),
    (
        Trial::Namespaces,
        Weight::Blocks,
        Area::UserNamespace,
        "no container can be made: it has no namespaces",
    ),
    (
        Trial::Maps,
        Weight::Blocks,
        Area::UserNamespace,
        "no container can be made: its id maps are refused",
    ),
    (
        Trial::Propagation,
        Weight::Blocks,
        Area::Mounts,
        "no container can be made: its mounts cannot be kept apart",
    ),
    (
        Trial::Tmpfs,
        Weight::Blocks,
        Area::Mounts,
        "no container can be made: it can have no tmpfs",
    ),
    (
        Trial::Bind,
        Weight::Blocks,
        Area::Mounts,
        "no container can be made: nothing can be bound into it",
    ),
    (
        Trial::Proc,
        Weight::Reduces,
        Area::Mounts,
        "containers get no /proc of their own; --proc=auto binds the outer one",
    ),
    (
        Trial::Mqueue,
        Weight::Costs,
        Area::Mounts,
        "containers cannot have /dev/mqueue",
    ),
    (
        Trial::Devpts,
        Weight::Costs,
        Area::Mounts,
        "containers cannot have terminals of their own",
    ),
    (
        Trial::Sysfs,
        Weight::Costs,
        Area::Mounts,
        "containers cannot have a sysfs of their own",
    ),
];

/// The first failure that no finding is heavy enough for.
pub(super) fn look(readings: &Readings, findings: &[Finding]) -> Option<Finding> {
    let explained = |area: Area, weight: Weight| {
        let about = |finding: &Finding| finding.area == area || finding.weight == Weight::Blocks;
        findings
            .iter()
            .any(|finding| about(finding) && finding.weight <= weight)
    };
    MEANING.iter().find_map(|(trial, weight, area, costs)| {
        let failed = readings.failed(&[*trial])?;
        (!explained(*area, *weight)).then(|| Finding {
            code: CODE.to_owned(),
            area: *area,
            weight: *weight,
            what: format!("{}, and no known cause fits: {}", failed.message, excluded(readings, failed)),
            costs: (*costs).to_owned(),
            remedy: "run it by hand and look at what the kernel logs: lodger doctor --json; sudo dmesg | tail".to_owned(),
            who: Who::Administrator,
        })
    })
}

/// What it is not.
fn excluded(readings: &Readings, failed: &Failed) -> String {
    let mut not = Vec::new();
    if let Some(kernel) = &readings.kernel {
        if let Some(limit) = kernel.max_user_namespaces {
            not.push(format!("user.max_user_namespaces is {limit}"));
        }
        match &kernel.apparmor_profile {
            Some(profile) => not.push(format!("AppArmor runs it as {profile:?}")),
            None => not.push("there is no AppArmor".to_owned()),
        }
        if kernel.selinux_enforces != Some(true) {
            not.push("no SELinux enforces".to_owned());
        }
    }
    let call = failed.origin.as_ref().map(|origin| origin.call.as_str());
    if let Some(call) = call.filter(|call| readings.calls.get(*call) == Some(&None)) {
        not.push(format!("no filter stops {call}"));
    }
    not.join(", ")
}
