//! A store, beside it what no layer may touch, and imports of hostile layers.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Fixture, Ran, probe_binary, spawn};
use crate::tarball::Tar;
use crate::weak::{Outcome, held_by, off};

const MOST_MEMORY: u64 = 64 << 10;

/// No import of these takes a tenth of it.
pub(crate) const MOST_TIME: Duration = Duration::from_secs(120);

/// A store, and beside it what no layer may touch.
pub(crate) struct Victim {
    pub(crate) fixture: Fixture,
}

impl Victim {
    pub(crate) fn new() -> Victim {
        let victim = Victim {
            fixture: Fixture::new(),
        };
        let outside = victim.outside();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("canary"), "canary").unwrap();
        fs::set_permissions(outside.join("canary"), fs::Permissions::from_mode(0o640)).unwrap();
        victim
    }

    pub(crate) fn outside(&self) -> PathBuf {
        self.fixture.path("outside")
    }

    /// The path of the canary, or of its neighbour, as a layer would name it.
    pub(crate) fn target(&self, name: &str) -> String {
        self.outside().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn import(&self, kind: &str, archive: &[u8]) -> Ran {
        let file = self.fixture.path("image.tar");
        fs::write(&file, archive).unwrap();
        let store = self.fixture.path("store");
        let source = format!("{kind}:{}", file.display());
        let lodger = self.fixture.command(&[
            "--store",
            store.to_str().unwrap(),
            "image",
            "import",
            &source,
            "x",
        ]);
        let mut command = Command::new(probe_binary());
        command
            .arg("measure")
            .arg(lodger.get_program())
            .args(lodger.get_args());
        for (name, value) in lodger.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        // Where a name that is taken for one of the working directory's would be.
        command.current_dir(self.outside());
        let mut running = spawn(&mut command, b"");
        let ran = running.wait_at_most(MOST_TIME);
        let ran = ran.unwrap_or_else(|| panic!("the import does not end"));
        let peak = ran
            .err
            .lines()
            .last()
            .and_then(|line| line.strip_prefix("peak KiB: "));
        let peak: u64 = peak.unwrap_or_else(|| panic!("{ran:?}")).parse().unwrap();
        if off().is_none() {
            assert!(peak <= MOST_MEMORY, "{peak} KiB: {ran:?}");
            assert_eq!(self.left_over(), [""; 0], "{ran:?}");
        }
        ran
    }

    /// What is in the store's tmp/.
    fn left_over(&self) -> Vec<String> {
        let Ok(found) = fs::read_dir(self.fixture.path("store/tmp")) else {
            return Vec::new();
        };
        found
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// The directories of the layers that are in the store.
    pub(crate) fn layers(&self) -> Vec<PathBuf> {
        let Ok(found) = fs::read_dir(self.fixture.path("store/layers")) else {
            return Vec::new();
        };
        found
            .map(|entry| entry.unwrap().path().join("root"))
            .collect()
    }

    /// What happened to the canary and its directory.
    pub(crate) fn damage(&self) -> Option<String> {
        let outside = self.outside();
        let names: Vec<_> = fs::read_dir(&outside)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        if names != ["canary"] {
            return Some(format!("{names:?} is outside"));
        }
        let canary = outside.join("canary");
        let stat = fs::symlink_metadata(&canary).unwrap();
        let content = fs::read_to_string(&canary).unwrap_or_default();
        let mode = stat.permissions().mode() & 0o7777;
        let found = (content.as_str(), mode, stat.nlink());
        (found != ("canary", 0o640, 1)).then(|| format!("the canary is {found:?}"))
    }

    /// Imports one layer.
    pub(crate) fn outcome(&self, tar: Tar) -> Outcome {
        let ran = self.import("rootfs", &tar.end());
        Outcome::of(self.damage(), ran.err)
    }
}

/// The layer does no damage, and would without these defences and without Landlock.
pub(crate) fn held(defence: &str, layer: impl Fn(&Victim) -> Tar) {
    held_by(&[defence, "Confined"], || {
        let victim = Victim::new();
        victim.outcome(layer(&victim))
    });
}

/// The layer is refused with this message, and nothing happens.
#[track_caller]
pub(crate) fn refused(layer: impl Fn(&Victim) -> Tar, text: &str) {
    let victim = Victim::new();
    let archive = layer(&victim).end();
    victim.import("rootfs", &archive).fails(1, text);
    assert_eq!(victim.damage(), None);
    assert_eq!(victim.layers(), Vec::<PathBuf>::new());
}

/// The layer is taken, with nothing outside touched.
#[track_caller]
pub(crate) fn taken(layer: impl Fn(&Victim) -> Tar) -> Victim {
    let victim = Victim::new();
    let archive = layer(&victim).end();
    victim.import("rootfs", &archive).ok();
    assert_eq!(victim.damage(), None);
    victim
}

/// From the root of a layer that is being unpacked to the directory that the store is in.
pub(crate) const UP: &str = "../../../..";
