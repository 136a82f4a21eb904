//! All that `lodger doctor` has to tell.

use std::path::Path;

use super::finding::{Finding, Mode};
use super::readings::{Device, Readings, Trial};
use super::{table, trials};

/// A host and a caller, examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What they give.
    pub mode: Mode,
    /// What works, a line each.
    pub works: Vec<String>,
    /// What does not, the heaviest first.
    pub findings: Vec<Finding>,
    /// What was read and tried.
    pub readings: Readings,
}

impl Diagnosis {
    /// Looks at this host for this caller, and tries what can only be tried, in child processes: it takes some hundredths of a
    /// second, and leaves nothing. `store` and `root` are the places that were named.
    pub fn make(store: Option<&Path>, root: Option<&Path>) -> Self {
        let mut readings = Readings::read(store, root);
        let place = readings
            .places
            .as_ref()
            .and_then(|places| places.store.as_ref());
        let place = place.filter(|place| place.refuses.is_none());
        let place = place.map(|place| place.nearest.clone());
        if let Err(error) = trials::make(&mut readings, place.as_deref()) {
            trials::note_failure(&mut readings, &error);
        }
        Self::of(readings)
    }

    /// What `readings` mean.
    pub fn of(readings: Readings) -> Self {
        let findings = table::examine(&readings);
        Self {
            mode: Mode::of(&findings),
            works: works(&readings),
            findings,
            readings,
        }
    }
}

fn works(readings: &Readings) -> Vec<String> {
    let mut lines = Vec::new();
    let all = |trials: &[Trial]| trials.iter().all(|trial| readings.works(*trial));
    if all(&[Trial::Inner, Trial::Maps]) {
        lines.push("user namespaces, one within another".to_owned());
    } else if readings.user_namespace_works() {
        lines.push("user namespaces".to_owned());
    }
    if readings.works(Trial::Outer) {
        lines.push(ids(readings));
    }
    if all(&[Trial::Propagation, Trial::Tmpfs, Trial::Bind]) {
        lines.push("mounts: tmpfs, bind".to_owned());
    }
    let own = [
        (Trial::Proc, "/proc"),
        (Trial::Sysfs, "/sys"),
        (Trial::Mqueue, "/dev/mqueue"),
        (Trial::Devpts, "/dev/pts"),
    ];
    let own = own.into_iter().filter(|(trial, _)| readings.works(*trial));
    let own: Vec<&str> = own.map(|(_, name)| name).collect();
    if !own.is_empty() {
        lines.push(format!(
            "filesystems of a container's own: {}",
            own.join(", ")
        ));
    }
    for (trial, line) in [
        (
            Trial::Overlay,
            "overlays: containers share the layers of their images",
        ),
        (Trial::Chown, "chown to other ids of a container"),
        (Trial::Keyring, "session keyrings of a container's own"),
    ] {
        if readings.works(trial) {
            lines.push(line.to_owned());
        }
    }
    lines.extend(cgroups(readings));
    lines.extend(places(readings));
    lines.extend(devices(readings));
    lines
}

fn ids(readings: &Readings) -> String {
    let Some(facts) = &readings.facts else {
        return "ids".to_owned();
    };
    if facts.in_user_namespace && facts.sys_admin {
        return "all ids of the user namespace around".to_owned();
    }
    let count = |ranges: &[crate::host::IdRange]| {
        1 + ranges
            .iter()
            .map(|range| u64::from(range.count))
            .sum::<u64>()
    };
    let (uids, gids) = (count(&facts.subuid), count(&facts.subgid));
    match uids == gids {
        true => format!("{uids} uids and gids for containers: yours and your subordinate ones"),
        false => {
            format!("{uids} uids and {gids} gids for containers: yours and your subordinate ones")
        }
    }
}

fn cgroups(readings: &Readings) -> Option<String> {
    let cgroup = readings.cgroup.as_ref()?;
    let sockets = readings
        .session
        .as_ref()
        .map(|session| &session.systemd.sockets);
    if cgroup.kind != crate::host::CgroupKind::Unified {
        return None;
    }
    if let Some(manager) = cgroup
        .manager
        .as_ref()
        .filter(|_| sockets.is_some_and(|s| !s.is_empty()))
    {
        return Some(format!(
            "cgroups by your systemd: {}",
            manager.controllers.join(", ")
        ));
    }
    match (&cgroup.obstacle, &cgroup.base) {
        (None, Some(base)) => Some(format!(
            "cgroups in {base}, which is delegated to you: {}",
            cgroup.controllers.join(", ")
        )),
        _ => None,
    }
}

fn places(readings: &Readings) -> Vec<String> {
    let Some(places) = &readings.places else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    if let Some(state) = places.state.as_ref().filter(|_| places.no_state.is_none()) {
        lines.push(format!("state of containers in {}", state.path.display()));
    }
    if let Some(store) = places
        .store
        .as_ref()
        .filter(|store| store.refuses.is_none())
    {
        let room = store
            .free_bytes
            .map_or_else(String::new, |bytes| format!(", {} MiB left", bytes >> 20));
        lines.push(format!(
            "images in {} ({}{room})",
            store.path.display(),
            store.filesystem
        ));
    }
    lines
}

fn devices(readings: &Readings) -> Option<String> {
    let devices = readings.devices.as_ref()?;
    let all = [
        (devices.tun, "/dev/net/tun"),
        (devices.fuse, "/dev/fuse"),
        (devices.shm, "/dev/shm"),
    ];
    let usable = all
        .into_iter()
        .filter(|(device, _)| *device == Device::Usable);
    let usable: Vec<&str> = usable.map(|(_, name)| name).collect();
    (!usable.is_empty()).then(|| usable.join(", "))
}
