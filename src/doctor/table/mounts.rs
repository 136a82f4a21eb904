//! Mounts, /proc and /sys.

use std::path::PathBuf;

use super::{Found, Row, errno_name};
use crate::doctor::finding::{Area, Weight, Who};
use crate::doctor::readings::{Failed, Kernel, Readings, Seen, Trial};
use crate::doctor::step::Step;

/// What every container is given.
const NEEDED: [Trial; 3] = [Trial::Propagation, Trial::Tmpfs, Trial::Bind];

/// Since which Linux a user namespace may mount an overlay.
const OVERLAY_SINCE: (u32, u32) = (5, 11);

const ANY: &[Step] = &[
    Step::Mount,
    Step::MountProc,
    Step::MountSys,
    Step::MountOverlay,
];

const fn row(
    code: &'static str,
    who: Who,
    steps: &'static [Step],
    look: fn(&Readings) -> Option<Found>,
) -> Row {
    Row::new(code, Area::Mounts, who, steps, look)
}

const PROC: &[Step] = &[
    Step::UserNamespace,
    Step::IdHelper,
    Step::IdMap,
    Step::MountProc,
];

const SYS: &[Step] = &[Step::MountSys];

pub(super) const ROWS: [Row; 11] = [
    row("LDG-PROC-NONE", Who::Surroundings, PROC, proc_none),
    row("LDG-PROC-READONLY", Who::Surroundings, PROC, proc_read_only),
    row("LDG-MOUNT-SECCOMP", Who::Surroundings, ANY, seccomp),
    row("LDG-MOUNT-LSM", Who::Administrator, ANY, security_module),
    row(
        "LDG-PROC-MASKED",
        Who::Surroundings,
        &[Step::MountProc],
        proc_masked,
    ),
    row("LDG-SYS-MASKED", Who::Surroundings, SYS, sys_masked),
    row("LDG-SYS-READONLY", Who::Surroundings, SYS, sys_read_only),
    row("LDG-SYS-NONE", Who::Surroundings, SYS, sys_none),
    row("LDG-SYS-NETNS", Who::You, &[Step::MountSys], sys_network),
    row(
        "LDG-OVERLAY-KERNEL",
        Who::Administrator,
        &[Step::MountOverlay],
        overlay_kernel,
    ),
    row(
        "LDG-OVERLAY-STORE",
        Who::You,
        &[Step::MountOverlay],
        overlay_store,
    ),
];

/// Why a mount that every container needs failed; where one failed that only some need, why that did.
fn refused(readings: &Readings) -> Option<&Failed> {
    readings.failed(&NEEDED)
}

fn seccomp(readings: &Readings) -> Option<Found> {
    let answer = readings
        .filtered("mount")
        .filter(|errno| *errno != libc::EACCES)?;
    refused(readings)?;
    // One that stops all namespaces is told of as such.
    if readings.filtered("unshare").is_some() && !readings.user_namespace_works() {
        return None;
    }
    Found::new(
        Weight::Blocks,
        format!(
            "a seccomp filter around this process answers mount(2) with {}, before the kernel sees it",
            errno_name(answer)
        ),
        "no container can be made: its root filesystem cannot be put together",
        "docker run --security-opt seccomp=FILE with mount, umount2, pivot_root and the fs… calls allowed; \
         in a pod: seccompProfile: {type: Localhost, localhostProfile: FILE}",
    )
}

fn security_module(readings: &Readings) -> Option<Found> {
    let failed = refused(readings)?;
    let kernel = readings.kernel.as_ref()?;
    let confined = kernel.has_security_module() && failed.errno() == libc::EPERM;
    let unfiltered = readings
        .filtered("mount")
        .is_none_or(|errno| errno == libc::EACCES);
    if !unfiltered || (failed.errno() != libc::EACCES && !confined) {
        return None;
    }
    if kernel.apparmor_restricts == Some(1) {
        // The table has a row of its own for that.
        return None;
    }
    let (module, remedy) = module(kernel);
    Found::new(
        Weight::Blocks,
        format!(
            "a security module refuses mounts in a user namespace with {}{module}",
            errno_name(failed.errno())
        ),
        "no container can be made: nothing may be mounted for it",
        remedy,
    )
}

fn module(kernel: &Kernel) -> (String, &'static str) {
    match (&kernel.apparmor_profile, &kernel.selinux_context) {
        (Some(profile), _) => (
            format!(" (AppArmor; lodger runs as {profile:?})"),
            "docker run --security-opt apparmor=unconfined …; or add `mount, umount, pivot_root, userns,` to that profile: sudo apparmor_parser -r FILE",
        ),
        (_, Some(context)) => (
            format!(" (SELinux; lodger runs as {context})"),
            "docker run --security-opt label=disable …; or allow it: sudo ausearch -m AVC -ts recent | audit2allow -M lodgermount",
        ),
        _ => (
            " (which one cannot be read here)".to_owned(),
            "docker run --security-opt apparmor=unconfined --security-opt label=disable …; what refused it: sudo dmesg | grep -i denied",
        ),
    }
}

fn proc_none(readings: &Readings) -> Option<Found> {
    let mounts = readings.mounts.as_ref()?;
    let unreadable = readings.kernel.as_ref()?.user_namespaces.is_none();
    if mounts.proc != Seen::Nowhere || !unreadable {
        return None;
    }
    Found::new(
        Weight::Blocks,
        "there is no procfs on /proc: id maps cannot be written, and nothing can be read of this process",
        "no container can be made",
        "mount it before lodger is called, as root of the container or chroot around: mount -t proc proc /proc",
    )
}

fn proc_read_only(readings: &Readings) -> Option<Found> {
    let mounts = readings.mounts.as_ref()?;
    if mounts.proc != Seen::ReadOnly {
        return None;
    }
    let what = "/proc is mounted read-only around this process";
    let remedy = "sudo mount -o remount,rw /proc; or have the container around started with a writable /proc";
    let maps = readings.failed(&[Trial::SingleId, Trial::Outer]);
    if maps.is_some() && !readings.user_namespace_works() {
        let costs = "no container can be made: the id maps of its user namespace are written there";
        return Found::new(Weight::Blocks, what, costs, remedy);
    }
    readings.failed(&[Trial::Proc])?;
    let costs = "containers get no /proc of their own, unless it is read-only too: --proc=auto binds this one";
    Found::new(Weight::Reduces, what, costs, remedy)
}

fn proc_masked(readings: &Readings) -> Option<Found> {
    let mounts = readings.mounts.as_ref()?;
    let Seen::Covered(places) = &mounts.proc else {
        return None;
    };
    readings.failed(&[Trial::Proc])?;
    Found::new(
        Weight::Reduces,
        format!(
            "/proc is mounted over, on {}: the kernel makes no new one that would show what is beneath",
            listed(places)
        ),
        "containers get no /proc of their own: with --proc=auto they have this one, with the processes around them",
        "lodger --proc=auto run …; around it: docker run --security-opt systempaths=unconfined …, podman run --security-opt unmask=ALL …",
    )
}

fn sys_masked(readings: &Readings) -> Option<Found> {
    match &readings.mounts.as_ref()?.sys {
        Seen::Covered(places) => {
            readings.failed(&[Trial::Sysfs])?;
            Found::new(
                Weight::Costs,
                format!(
                    "/sys is mounted over, on {}: the kernel makes no new sysfs in a container",
                    listed(places)
                ),
                "containers have this one, read-only and with a note, and in it the network devices around them",
                "around it: docker run --security-opt systempaths=unconfined …, podman run --security-opt unmask=ALL …",
            )
        }
        _ => None,
    }
}

fn sys_read_only(readings: &Readings) -> Option<Found> {
    let read_only = readings.mounts.as_ref()?.sys == Seen::ReadOnly;
    readings.failed(&[Trial::Sysfs])?;
    let there = read_only.then_some("/sys is mounted read-only")?;
    Found::new(
        // A config that asks for it read-only, as most do, gets it.
        Weight::Costs,
        format!("{there}: the kernel makes no new sysfs in a container that could be written to"),
        "containers whose config mounts sysfs without \"ro\" are refused, or with --proc=auto bind this one, with a note",
        "add \"ro\" to the options of sysfs in config.json",
    )
}

fn sys_none(readings: &Readings) -> Option<Found> {
    let nowhere = readings.mounts.as_ref()?.sys == Seen::Nowhere;
    readings.failed(&[Trial::Sysfs])?;
    let seen = nowhere.then_some("there is no whole sysfs on /sys")?;
    Found::new(
        Weight::Costs,
        format!("{seen}: the kernel makes no new one in a container"),
        "containers whose config mounts sysfs have an empty directory there, with a note",
        "leave the mount of /sys out of config.json, or have it mounted around this process",
    )
}

fn sys_network(readings: &Readings) -> Option<Found> {
    let mounts = readings.mounts.as_ref()?;
    let failed = readings.failed(&[Trial::Sysfs])?;
    if mounts.sys != Seen::Whole || failed.errno() != libc::EPERM || refused(readings).is_some() {
        return None;
    }
    Found::new(
        Weight::Costs,
        "a new sysfs shows the network namespace, and is made only for who owns that",
        "a container that shares the network of others has no sysfs of its own",
        "add {\"type\": \"network\"} to linux.namespaces, or bind /sys with \"rbind\" and \"ro\"",
    )
}

fn overlay_kernel(readings: &Readings) -> Option<Found> {
    let kernel = readings.kernel.as_ref()?;
    // Where the release says so, none is mounted: `run` looks at nothing else.
    let old = number(&kernel.release).is_some_and(|number| number < OVERLAY_SINCE);
    let why = match readings.failed(&[Trial::Overlay]) {
        _ if refused(readings).is_some() => return None,
        _ if old => {
            "is older than 5.11, which mounts the first overlays in user namespaces".to_owned()
        }
        Some(failed) if failed.errno() == libc::ENODEV => "does not have overlayfs".to_owned(),
        Some(failed) if readings.works(Trial::Tmpfs) => {
            format!("refuses an overlay on a tmpfs: {}", failed.message)
        }
        _ => return None,
    };
    Found::new(
        Weight::Costs,
        format!("Linux {} {why}", kernel.release),
        "images are copied whole for each container (--copy), which takes time and room",
        "sudo modprobe overlay; before Linux 5.11 only a newer kernel helps",
    )
}

fn overlay_store(readings: &Readings) -> Option<Found> {
    let failed = readings.failed(&[Trial::Overlay])?;
    let store = readings.places.as_ref()?.store.as_ref()?;
    if readings.works(Trial::Tmpfs) || !readings.trials.contains_key(&Trial::Overlay) {
        return None;
    }
    let not = [libc::EINVAL, libc::EOPNOTSUPP, libc::EIO, libc::ESTALE];
    if !not.contains(&failed.errno()) {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "{}, where the store is ({}), cannot hold the writable layer of an overlay",
            store.filesystem,
            store.nearest.display()
        ),
        "containers of images write to memory, or are copied whole",
        "lodger --store DIR … with a directory on ext4, XFS or Btrfs",
    )
}

/// The first two numbers of a kernel's release.
pub(super) fn number(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A few of `places`, and how many more there are.
fn listed(places: &[PathBuf]) -> String {
    const SHOWN: usize = 6;
    let shown = places
        .iter()
        .take(SHOWN)
        .map(|place| place.display().to_string());
    let shown = shown.collect::<Vec<_>>().join(", ");
    match places.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
