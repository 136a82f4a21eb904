//! User namespaces as such (user_namespaces(7)).

use super::{Found, Row, set_parameter};
use crate::doctor::finding::{Area, Weight, Who};
use crate::doctor::readings::{Caller, Failed, Kernel, Readings, Trial};
use crate::doctor::step::Step;

/// What a user namespace's own limit is before anybody sets it (INT_MAX).
const NEVER_SET: u64 = i32::MAX as u64;

const NOTHING_RUNS: &str = "no container can be made";

const STEPS: &[Step] = &[Step::UserNamespace, Step::IdMap];

const fn row(code: &'static str, who: Who, look: fn(&Readings) -> Option<Found>) -> Row {
    Row::new(code, Area::UserNamespace, who, STEPS, look)
}

pub(super) const ROWS: [Row; 10] = [
    row("LDG-USERNS-KERNEL", Who::Administrator, not_built_in),
    row("LDG-USERNS-ZERO", Who::Administrator, zero),
    row("LDG-USERNS-CLONE", Who::Administrator, clone_switch),
    row("LDG-USERNS-UNMAPPED", Who::Surroundings, unmapped),
    row("LDG-USERNS-SECCOMP", Who::Surroundings, seccomp),
    Row {
        // The namespace is made, and then has no power.
        steps: &[
            Step::UserNamespace,
            Step::IdMap,
            Step::Mount,
            Step::MountProc,
            Step::MountSys,
            Step::MountOverlay,
        ],
        ..row("LDG-USERNS-APPARMOR", Who::Administrator, apparmor)
    },
    row("LDG-USERNS-SELINUX", Who::Administrator, selinux),
    row("LDG-USERNS-DEPTH", Who::Surroundings, depth),
    row("LDG-USERNS-LIMIT", Who::Administrator, limit),
    row("LDG-USERNS-CHROOT", Who::Surroundings, chroot),
];

/// Why no user namespace can be had at all.
fn refused(readings: &Readings) -> Option<&Failed> {
    if readings.user_namespace_works() {
        return None;
    }
    let failed = readings.failed(&[Trial::SingleId, Trial::Outer])?;
    (failed.step != Some(Step::IdHelper)).then_some(failed)
}

/// The two that all rows here look at.
fn both(readings: &Readings) -> Option<(&Kernel, &Caller)> {
    readings.kernel.as_ref().zip(readings.caller.as_ref())
}

fn not_built_in(readings: &Readings) -> Option<Found> {
    let kernel = readings.kernel.as_ref()?;
    if kernel.user_namespaces != Some(false) {
        return None;
    }
    Found::new(
        Weight::Blocks,
        format!(
            "Linux {} was built without user namespaces (there is no /proc/self/ns/user)",
            kernel.release
        ),
        NOTHING_RUNS,
        "boot a kernel with CONFIG_USER_NS=y; this one's: grep CONFIG_USER_NS= \"/boot/config-$(uname -r)\"",
    )
}

fn zero(readings: &Readings) -> Option<Found> {
    let kernel = readings.kernel.as_ref()?;
    if kernel.max_user_namespaces != Some(0) || readings.user_namespace_works() {
        return None;
    }
    Found::new(
        Weight::Blocks,
        "user.max_user_namespaces is 0: user namespaces are switched off",
        NOTHING_RUNS,
        set_parameter("user.max_user_namespaces", 15_000),
    )
}

fn clone_switch(readings: &Readings) -> Option<Found> {
    let kernel = readings.kernel.as_ref()?;
    if kernel.userns_clone != Some(0) || readings.user_namespace_works() {
        return None;
    }
    Found::new(
        Weight::Blocks,
        "kernel.unprivileged_userns_clone is 0: only root may make user namespaces",
        NOTHING_RUNS,
        set_parameter("kernel.unprivileged_userns_clone", 1),
    )
}

fn unmapped(readings: &Readings) -> Option<Found> {
    let caller = readings.caller.as_ref()?;
    if caller.is_mapped || readings.user_namespace_works() {
        return None;
    }
    Found::new(
        Weight::Blocks,
        format!(
            "the user namespace that lodger was called in has no id for uid {} (/proc/self/uid_map)",
            caller.uid
        ),
        NOTHING_RUNS,
        "have the user namespace around made with a map for its user: unshare --user --map-current-user",
    )
}

fn seccomp(readings: &Readings) -> Option<Found> {
    let call = ["unshare", "clone3"].into_iter().find(|call| {
        readings
            .filtered(call)
            .is_some_and(|errno| errno != libc::ENOSYS || *call == "unshare")
    })?;
    refused(readings)?;
    // It answers the wrong call too, which the kernel would call invalid.
    let answer = super::errno_name(readings.filtered(call)?);
    Found::new(
        Weight::Blocks,
        format!(
            "a seccomp filter around this process answers {call}(CLONE_NEWUSER) with {answer}, before the kernel sees it"
        ),
        NOTHING_RUNS,
        "docker run --security-opt seccomp=unconfined …; in a pod: securityContext: {seccompProfile: {type: Unconfined}}",
    )
}

fn apparmor(readings: &Readings) -> Option<Found> {
    let kernel = readings.kernel.as_ref()?;
    if kernel.apparmor_restricts != Some(1) {
        return None;
    }
    let profile = kernel.apparmor_profile.as_deref().unwrap_or("unconfined");
    let failed = refused(readings).or_else(|| {
        let within = [Trial::Inner, Trial::Maps, Trial::Propagation, Trial::Tmpfs];
        readings.failed(&within)
    })?;
    if !failed.is_denied() || readings.filtered("unshare").is_some() {
        return None;
    }
    Found::new(
        Weight::Blocks,
        format!(
            "AppArmor takes the power of user namespaces from programs without a profile that allows them \
             (kernel.apparmor_restrict_unprivileged_userns = 1; lodger runs as {profile:?})"
        ),
        NOTHING_RUNS,
        "sudo install -m 644 contrib/apparmor/lodger /etc/apparmor.d/lodger && sudo apparmor_parser -r /etc/apparmor.d/lodger",
    )
}

fn selinux(readings: &Readings) -> Option<Found> {
    let kernel = readings.kernel.as_ref()?;
    if kernel.selinux_enforces != Some(true) || kernel.userns_clone == Some(0) {
        return None;
    }
    let failed = refused(readings)?;
    // EPERM is never its answer (avc_has_perm() of the kernel).
    if failed.errno() != libc::EACCES || readings.filtered("unshare").is_some() {
        return None;
    }
    let context = kernel.selinux_context.as_deref().unwrap_or("unknown");
    Found::new(
        Weight::Blocks,
        format!("SELinux enforces a policy that forbids user namespaces to {context}"),
        NOTHING_RUNS,
        "sudo ausearch -c lodger -m AVC -ts recent | audit2allow -m lodger, which shows what lodger alone would have to be allowed",
    )
}

/// ENOSPC has two meanings since Linux 4.9; EUSERS had this one before.
fn is_deep(readings: &Readings, failed: &Failed) -> bool {
    let Some((kernel, caller)) = both(readings) else {
        return false;
    };
    let limit_says_nothing = kernel
        .max_user_namespaces
        .is_none_or(|limit| limit >= NEVER_SET);
    let nested = caller.in_user_namespace && limit_says_nothing;
    failed.errno() == libc::EUSERS || (failed.errno() == libc::ENOSPC && nested)
}

fn depth(readings: &Readings) -> Option<Found> {
    let failed = refused(readings).or_else(|| readings.failed(&[Trial::Inner]))?;
    if !is_deep(readings, failed) {
        return None;
    }
    Found::new(
        Weight::Blocks,
        "lodger was called in a user namespace that nobody has set a limit for: the kernel refuses another level, as it has 32 at \
         most, or a limit further out is reached",
        "no container can be made here; further out it may",
        "call lodger further out: with fewer `unshare --user`, podman or lodger around it",
    )
}

fn limit(readings: &Readings) -> Option<Found> {
    let at_all = refused(readings);
    let failed = at_all.or_else(|| readings.failed(&[Trial::Inner]))?;
    let limit = readings
        .kernel
        .as_ref()
        .and_then(|kernel| kernel.max_user_namespaces);
    if failed.errno() != libc::ENOSPC || limit == Some(0) || is_deep(readings, failed) {
        return None;
    }
    let shown = limit.map_or_else(|| "unknown".to_owned(), |limit| limit.to_string());
    let more = limit
        .unwrap_or(0)
        .saturating_mul(2)
        .clamp(30_000, NEVER_SET);
    let remedy = set_parameter("user.max_user_namespaces", more);
    if at_all.is_none() && limit == Some(1) {
        return Found::new(
            Weight::Reduces,
            "user.max_user_namespaces is 1: there can be one user namespace, and none in it",
            "a container has one user namespace instead of two: one at a time, and none can share another's",
            remedy,
        );
    }
    Found::new(
        Weight::Blocks,
        format!(
            "the limit user.max_user_namespaces = {shown} is reached, also after a moment: so many are in use, or not gone yet"
        ),
        "no container can be made until others have ended",
        remedy,
    )
}

fn chroot(readings: &Readings) -> Option<Found> {
    let (kernel, caller) = both(readings)?;
    let failed = refused(readings)?;
    // Whatever else gives EPERM is excluded by what was read: the kernel's own reason that remains. SELinux gives EACCES.
    let excluded = kernel.userns_clone != Some(0)
        && caller.is_mapped
        && !kernel.has_apparmor()
        && readings.calls.get("unshare") == Some(&None);
    if failed.errno() != libc::EPERM || !excluded || failed.step == Some(Step::IdMap) {
        return None;
    }
    let seen = match caller.root_is_hidden {
        true => "no mount is at / (/proc/self/mountinfo)",
        false => "no filter, no security module and no parameter refuses them",
    };
    Found::new(
        Weight::Blocks,
        format!("this is a chroot, in which the kernel refuses user namespaces: {seen}"),
        NOTHING_RUNS,
        "enter the tree with pivot_root(2) instead: sudo systemd-nspawn -D DIR, or bwrap --bind DIR /",
    )
}
