//! Calls that the kernel, or a filter that feigns an older one, does not have.

use super::{Found, Row, errno_name};
use crate::doctor::finding::{Area, Weight, Who};
use crate::doctor::readings::Readings;
use crate::doctor::step::Step;

/// The mount API by file descriptor, and since when there is all of it (mount_setattr(2) came last).
const MOUNT_API: [&str; 4] = ["fsopen", "open_tree", "move_mount", "mount_setattr"];
const MOUNT_API_SINCE: (u32, u32) = (5, 12);

/// Others, and since when there are all of them (close_range(2) came last).
const CALLS: [&str; 4] = ["clone3", "openat2", "close_range", "pidfd_open"];
const CALLS_SINCE: (u32, u32) = (5, 9);

/// What is answered in the kernel's stead.
const STOPPED: [i32; 3] = [libc::ENOSYS, libc::EPERM, libc::EACCES];

pub(super) const ROWS: [Row; 2] = [
    Row {
        code: "LDG-KERNEL-MOUNT-API",
        area: Area::Kernel,
        who: Who::Surroundings,
        steps: &[Step::Mount],
        look: mount_api,
    },
    Row {
        code: "LDG-KERNEL-CALLS",
        area: Area::Kernel,
        who: Who::Surroundings,
        steps: &[Step::Process, Step::RootPath],
        look: calls,
    },
];

/// Those of `calls` that do not reach the kernel, as `NAME (ERRNO)`.
fn missing(readings: &Readings, calls: &[&str]) -> Vec<String> {
    let answers = calls.iter().filter_map(|call| {
        let errno = readings.filtered(call)?;
        Some(format!("{call} ({})", errno_name(errno)))
    });
    answers.collect()
}

/// Who does not have them.
fn who(readings: &Readings, since: (u32, u32)) -> String {
    let kernel = readings.kernel.as_ref();
    let release = kernel.map_or("", |kernel| kernel.release.as_str());
    let old = super::mounts::number(release).is_some_and(|number| number < since);
    match old {
        true => format!("Linux {release} does not have"),
        false => format!("Linux {release} has, and a seccomp filter around this process refuses,"),
    }
}

fn mount_api(readings: &Readings) -> Option<Found> {
    let missing = missing(readings, &MOUNT_API);
    readings.may_be(&STOPPED).then_some(())?;
    if missing.is_empty() || readings.filtered("mount").is_some() {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!("{} {}", who(readings, MOUNT_API_SINCE), missing.join(", ")),
        "mount(2) is used instead; id-mapped mounts and recursive attributes of mounts are refused",
        "docker, containerd, podman: a newer version, whose seccomp profile has the mount API of Linux 5.12",
    )
}

fn calls(readings: &Readings) -> Option<Found> {
    let missing = missing(readings, &CALLS);
    readings.may_be(&STOPPED).then_some(())?;
    if missing.is_empty() {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!("{} {}", who(readings, CALLS_SINCE), missing.join(", ")),
        "older calls are used instead, which are slower; cgroups cannot be entered at once (CLONE_INTO_CGROUP)",
        "docker, containerd, podman: a newer version, whose seccomp profile knows these calls (libseccomp 2.5)",
    )
}
