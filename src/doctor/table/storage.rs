//! Where images, containers and their state are kept.

use std::path::Path;

use super::{Found, Row, errno_name};
use crate::doctor::finding::{Area, Weight, Who};
use crate::doctor::readings::{Place, Readings, Trial, Turn};
use crate::doctor::step::Step;
use crate::error::shell_word;

/// Below that there is no room for an image worth the name, in bytes.
const FEW_BYTES: u64 = 256 << 20;

/// Below that there are too few inodes for the files of an image.
const FEW_INODES: u64 = 10_000;

const FILES: &[Step] = &[Step::Store, Step::State, Step::File];

/// What the kernel says where a file cannot be made for want of permission, or of a directory.
const DENIED: [i32; 3] = [libc::EACCES, libc::EPERM, libc::ENOENT];

/// What it says where there is no room.
const FULL: [i32; 2] = [libc::ENOSPC, libc::EDQUOT];

const fn row(code: &'static str, who: Who, look: fn(&Readings) -> Option<Found>) -> Row {
    Row::new(code, Area::Storage, who, FILES, look)
}

pub(super) const ROWS: [Row; 12] = [
    row("LDG-HOME-SILENT", Who::You, silent),
    Row {
        steps: &[Step::RootPath],
        ..row("LDG-ROOT-REACH", Who::You, unreachable)
    },
    row("LDG-STATE-PLACE", Who::You, state_place),
    row("LDG-HOME-MISSING", Who::You, missing),
    row("LDG-HOME-FOREIGN", Who::You, foreign),
    row("LDG-HOME-READONLY", Who::You, read_only),
    row("LDG-HOME-INODES", Who::You, inodes),
    row("LDG-HOME-BYTES", Who::You, bytes),
    Row {
        steps: &[Step::Program],
        ..row("LDG-HOME-NOEXEC", Who::You, noexec)
    },
    row("LDG-HOME-XATTR", Who::You, no_attributes),
    row("LDG-CHOWN", Who::Administrator, chown),
    row("LDG-HOME-NETWORK", Who::You, network),
];

fn in_shell(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

fn store(readings: &Readings) -> Option<&Place> {
    readings.places.as_ref()?.store.as_ref()
}

fn unreachable(readings: &Readings) -> Option<Found> {
    readings.may_be(&[libc::EACCES]).then_some(())?;
    let closed = readings.closed.as_ref()?;
    let directory = closed.directory.display();
    Found::new(
        Weight::Costs,
        format!(
            "{directory} (mode {:04o}) lets nobody else pass to {}",
            closed.mode,
            closed.target.display()
        ),
        "a container whose root is another id than yours (linux.uidMappings) does not get to a root filesystem or volume there",
        format!("chmod o+x {}", in_shell(&closed.directory)),
    )
}

fn silent(readings: &Readings) -> Option<Found> {
    let what = match readings.silent? {
        Turn::Home => "the home directory",
        Turn::Store => "the place of images",
        Turn::State => "the place of the state of containers",
        Turn::Done => return None,
    };
    Found::new(
        Weight::Costs,
        format!(
            "{what} does not answer, as of a file server that is away: it was asked for some seconds"
        ),
        "lodger waits for it, however long that takes, unless it need not look there",
        "HOME=/ lodger --root DIR --store DIR … with directories of yours on this machine, as in /var/tmp",
    )
}

fn state_place(readings: &Readings) -> Option<Found> {
    let places = readings.places.as_ref()?;
    if let (None, Some(state), true) = (&places.no_state, &places.state, places.passing_state) {
        return Found::new(
            Weight::Costs,
            format!(
                "the state of containers has no better place than {}",
                state.path.display()
            ),
            "when you log out it may be emptied (RemoveIPC=, logind.conf(5)), and running containers are lost from view",
            "export XDG_RUNTIME_DIR with a directory that only you can write to; or lodger --root DIR …",
        );
    }
    let why = places.no_state.as_ref()?;
    Found::new(
        Weight::Costs,
        format!("there is no place for the state of containers: {why}"),
        "no container can be made without --root, which names one",
        "lodger --root DIR … with a directory that only you can write to, on a filesystem of this machine",
    )
}

/// That the usual place of the store was passed over for the cause with `code`.
fn passed(readings: &Readings, code: &str) -> Option<Found> {
    let places = readings.places.as_ref()?;
    let passed = places
        .passed
        .as_ref()
        .filter(|passed| passed.code == code)?;
    let costs = match &places.store {
        Some(store) => format!(
            "images, and what containers write, are kept in {}, which may be cleaned; each command that uses it says so",
            store.path.display()
        ),
        None => "images have no place at all; bundles are not concerned".to_owned(),
    };
    Found::new(
        Weight::Costs,
        format!("images cannot be kept in the usual place, {}", passed.why),
        costs,
        match code {
            "LDG-HOME-READONLY" => {
                "export LODGER_STORE=DIR with a directory of yours that can be written to"
            }
            "LDG-HOME-FOREIGN" => "export HOME, or LODGER_STORE, with a directory that is yours",
            _ => "export LODGER_STORE=DIR with a directory that is there",
        },
    )
}

/// Whether it is known why the store is not in its usual place.
fn is_passed(readings: &Readings) -> bool {
    let places = readings.places.as_ref();
    places.is_some_and(|places| places.passed.is_some())
}

fn missing(readings: &Readings) -> Option<Found> {
    readings.may_be(&DENIED).then_some(())?;
    if is_passed(readings) {
        return passed(readings, "LDG-HOME-MISSING");
    }
    let places = readings.places.as_ref()?;
    let what = match &places.home {
        None if places.store.is_none() => {
            "HOME is not set, and nothing else says where images are kept".to_owned()
        }
        Some(home) if !home.is_there() && home.refuses.is_some() => {
            format!("the home directory {} is not there", home.path.display())
        }
        _ => return None,
    };
    if store(readings).is_some_and(|store| store.refuses.is_none()) {
        return None;
    }
    Found::new(
        Weight::Costs,
        what,
        "images have no usual place; bundles are not concerned",
        "export LODGER_STORE=DIR with a directory of yours",
    )
}

fn foreign(readings: &Readings) -> Option<Found> {
    readings.may_be(&DENIED).then_some(())?;
    if is_passed(readings) {
        return passed(readings, "LDG-HOME-FOREIGN");
    }
    let places = readings.places.as_ref()?;
    let uid = readings.caller.as_ref()?.uid;
    let home = places
        .home
        .as_ref()
        .filter(|home| home.is_there() && home.owner != uid)?;
    let store = store(readings)?;
    if !store.path.starts_with(&home.path) || (store.refuses.is_none() && store.owner == uid) {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "HOME is {}, which belongs to uid {}, not to you ({uid})",
            home.path.display(),
            home.owner
        ),
        "images cannot be kept there; bundles are not concerned",
        format!("export HOME=\"$(getent passwd {uid} | cut -d: -f6)\""),
    )
}

fn read_only(readings: &Readings) -> Option<Found> {
    if is_passed(readings) {
        return passed(readings, "LDG-HOME-READONLY");
    }
    let store = store(readings)?;
    if !store.read_only {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "{}, where images are to be kept, is on a read-only mount",
            store.nearest.display()
        ),
        "no image can be imported, and containers of images write to memory",
        "lodger --store DIR … with a directory that can be written to; images of others: --store-ro DIR",
    )
}

/// Whether a command failed for want of room, so that what is left is not asked for being little.
fn is_full(readings: &Readings) -> bool {
    readings.failure.is_some() && readings.may_be(&FULL)
}

fn inodes(readings: &Readings) -> Option<Found> {
    readings.may_be(&FULL).then_some(())?;
    let store = store(readings)?;
    let few = if is_full(readings) {
        FEW_INODES / 100
    } else {
        FEW_INODES
    };
    let free = store.free_inodes.filter(|free| *free < few)?;
    let place = store.nearest.display();
    Found::new(
        Weight::Costs,
        format!("{place} has {free} inodes left, of which every file takes one"),
        "images with many files cannot be unpacked there (ENOSPC, EDQUOT)",
        format!(
            "lodger image gc; du --inodes -d1 {} | sort -n | tail",
            in_shell(&store.nearest)
        ),
    )
}

fn bytes(readings: &Readings) -> Option<Found> {
    readings.may_be(&FULL).then_some(())?;
    let store = store(readings)?;
    let full = is_full(readings);
    if full && inodes(readings).is_some() {
        return None;
    }
    let free = store.free_bytes.filter(|free| *free < FEW_BYTES || full)?;
    let left = match readings.over_quota && free >= FEW_BYTES {
        true => "has room, but your quota on it is used up (EDQUOT)".to_owned(),
        false => format!("has {} MiB left", free >> 20),
    };
    let place = store.nearest.display();
    Found::new(
        Weight::Costs,
        format!("{place} ({}) {left}", store.filesystem),
        "larger images cannot be unpacked there (ENOSPC, EDQUOT)",
        format!(
            "lodger image gc; quota -s; du -sh {}/* | sort -h | tail",
            in_shell(&store.nearest)
        ),
    )
}

fn noexec(readings: &Readings) -> Option<Found> {
    let store = store(readings)?;
    if !store.noexec || !readings.may_be(&[libc::EACCES]) {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "{}, where images are kept, is on a mount with noexec",
            store.nearest.display()
        ),
        "no program of an image or bundle there can be run (EACCES)",
        "export LODGER_STORE=DIR with a directory of yours on a mount without noexec, as in /var/tmp",
    )
}

fn no_attributes(readings: &Readings) -> Option<Found> {
    let of_command = readings.failure.as_ref().filter(|failed| {
        let call = failed.origin.as_ref().map(|origin| origin.call.as_str());
        call.is_some_and(|call| call.contains("setxattr"))
    });
    let failed = readings.failed(&[Trial::Xattr]).or(of_command)?;
    let store = store(readings)?;
    let refused = [libc::EOPNOTSUPP, libc::EPERM, libc::ENOSYS];
    if !refused.contains(&failed.errno()) {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "{} ({}) takes no extended attributes user.*: setxattr gives {}",
            store.nearest.display(),
            store.filesystem,
            errno_name(failed.errno())
        ),
        "layers there can have no overlay: images are copied whole for each container",
        "lodger --store DIR … with a directory on a filesystem with user.* attributes, as ext4 or XFS of this machine",
    )
}

fn chown(readings: &Readings) -> Option<Found> {
    let everywhere = readings.failed(&[Trial::Chown]);
    let of_command = readings.failure.as_ref().filter(|failed| {
        let call = failed.origin.as_ref().map(|origin| origin.call.as_str());
        call.is_some_and(|call| call.contains("chown")) && failed.is_denied()
    });
    let failed = everywhere
        .or_else(|| readings.failed(&[Trial::ChownStore]))
        .or(of_command)?;
    let place = match (everywhere, store(readings)) {
        (None, Some(store)) => format!("{} ({})", store.nearest.display(), store.filesystem),
        _ => "every filesystem, also in memory".to_owned(),
    };
    Found::new(
        Weight::Costs,
        format!(
            "files cannot be given to your subordinate ids on {place}: chown gives {}",
            errno_name(failed.errno())
        ),
        "images are unpacked with all files yours, and packages that chown fail to install",
        "on a server: export without root_squash and with these ids known; else keep images on a local disk: lodger --store DIR …",
    )
}

fn network(readings: &Readings) -> Option<Found> {
    let store = store(readings)?;
    if !store.is_remote
        || !readings.may_be(&[libc::EOPNOTSUPP, libc::EPERM, libc::ENOLCK, libc::ESTALE])
    {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "{}, where images are kept, is on {}, a filesystem of the network",
            store.nearest.display(),
            store.filesystem
        ),
        "owners other than you, whiteouts and locks are the server's to allow, and many small files are slow",
        "export LODGER_STORE=/var/tmp/lodger-$(id -u) (made with: install -d -m 700 /var/tmp/lodger-$(id -u))",
    )
}
