//! Races: an attacker exchanges a directory with a symbolic link to the host, as fast as she can, while containers
//! start. Every start must be refused or stay inside; with paths that are resolved twice, she wins soon.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use serde_json::json;

use crate::harness::{Fixture, lodger_only, spawn};
use crate::weak::{self, Outcome, held_by, off};

/// How often a container is started against the attacker.
const STARTS: u32 = 2000;
/// After this time a tenth of them is enough.
const AT_MOST: Duration = Duration::from_secs(60);
/// With the defence off a win is certain long before, unless the attacker hardly ran in all that time.
const STARTS_UNTIL_WON: u32 = 400;

/// The id of the container that makes the others start fast.
const NEIGHBOUR: &str = "warm";

/// Whether another start is due: how fast the machine is must decide neither that the defence was tried, nor that the
/// attacker had her chance without it.
fn goes_on(weak: bool, started: u32, time: Duration) -> bool {
    if weak {
        return started < STARTS_UNTIL_WON || time < AT_MOST;
    }
    started < STARTS / 10 || (started < STARTS && time < AT_MOST)
}

/// A race: what the attacker exchanges, and what she must not reach.
struct Race {
    fixture: Fixture,
    /// A directory, or a file, of the container's, and a link beside it.
    exchanged: [PathBuf; 2],
    /// A directory of the host, empty.
    outside: PathBuf,
    /// The directory of the container's, whatever its name is now, and what is made in it (whether a directory), deepest first.
    made: (OwnedFd, &'static [(&'static str, bool)]),
}

/// Told to the attacker.
struct Ended(AtomicBool);

/// The attacker ends also when the race panics.
struct StopOnDrop<'a>(&'a Ended);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// A container's program: it tells when the mount `raced` is not in the container.
const LOOK: &str = "while read -r line; do case $line in *raced*) exit 0;; esac; done </proc/self/mountinfo; echo outside";

fn directory_fd(path: &Path) -> OwnedFd {
    rustix::fs::openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .unwrap()
}

impl Race {
    /// `at` is a directory beneath the test's own; the link beside it leads to a directory of the host.
    fn new(at: &str, made: &'static [(&'static str, bool)]) -> Race {
        let fixture = Fixture::with_own_root();
        let outside = fixture.path("outside");
        fs::create_dir(&outside).unwrap();
        let place = fixture.path(at);
        fs::create_dir_all(&place).unwrap();
        let link = place.with_file_name("link");
        symlink(&outside, &link).unwrap();
        let made = (directory_fd(&place), made);
        Race {
            fixture,
            exchanged: [place, link],
            outside,
            made,
        }
    }

    fn clean(&self) {
        for (name, is_directory) in self.made.1 {
            let flags = if *is_directory {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            // What was not made this time is not there.
            let _ = rustix::fs::unlinkat(&self.made.0, *name, flags);
        }
    }

    /// A container that runs all the time, out of the attacker's reach: its outer namespace is there to be taken, and no
    /// start has to run the helpers that map ids.
    fn start_neighbour(&self) {
        let mut bundle = Fixture::new();
        bundle.args(&["/bin/sleep", "600"]).write_config();
        let mut command = self.fixture.command(&["run", "-d", NEIGHBOUR]);
        spawn(command.current_dir(bundle.bundle()), b"").wait().ok();
    }

    /// The containers that are left, but for the neighbour.
    fn left(&self) -> usize {
        let names = fs::read_dir(self.fixture.path("state")).unwrap();
        names
            .filter(|entry| entry.as_ref().unwrap().file_name() != NEIGHBOUR)
            .count()
    }

    /// Starts containers until the attacker wins or the number is reached.
    fn run(mut self, is_won: impl Fn(&Race, &str) -> Option<String>) -> Outcome {
        self.start_neighbour();
        self.fixture.config["root"]["readonly"] = false.into();
        self.fixture.write_config();
        let ended = Ended(AtomicBool::new(false));
        let exchanges = AtomicU64::new(0);
        let weak = off().is_some();
        // One for all starts: the fixture deletes at its end what each command may have made.
        let mut command = self.fixture.command(&["run", "c"]);
        weak::apply(&mut command);
        command.stdin(Stdio::null());
        let mut won = None;
        let (mut started, mut ran) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let [one, other] = &self.exchanged;
                while !ended.0.load(Ordering::Relaxed) {
                    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
                    exchanges.fetch_add(1, Ordering::Relaxed);
                }
            });
            let _ends_in_any_case = StopOnDrop(&ended);
            let begin = Instant::now();
            while won.is_none() && goes_on(weak, started, begin.elapsed()) {
                let output = command.output().unwrap();
                let err = String::from_utf8_lossy(&output.stderr);
                let told = output.status.code() == Some(1) && err.starts_with("error: ");
                assert!(weak || output.status.success() || told, "{output:?}");
                started += 1;
                ran += u32::from(output.status.success());
                let out = String::from_utf8_lossy(&output.stdout);
                won = is_won(&self, &out);
                self.clean();
            }
            let left = self.left();
            assert!(weak || left == 0, "{left} containers are left");
        });
        let told = format!(
            "{started} starts, {ran} of them ran, {} exchanges",
            exchanges.into_inner()
        );
        Outcome::of(won.map(|how| format!("{how}, after {told}")), told)
    }
}

/// Something was made in the host's directory.
fn made_outside(race: &Race, _: &str) -> Option<String> {
    let first = fs::read_dir(&race.outside).unwrap().next()?;
    Some(format!(
        "{:?} was made on the host",
        first.unwrap().file_name()
    ))
}

/// As above, or the mount is not in the container.
fn mounted_outside(race: &Race, out: &str) -> Option<String> {
    let outside = out
        .contains("outside")
        .then(|| "the mount is outside".to_owned());
    outside.or_else(|| made_outside(race, out))
}

fn volume(race: &mut Race) {
    let source = race.fixture.path("volume");
    race.fixture.mount(
        json!({"destination": "/vol", "type": "bind", "source": source, "options": ["rbind"]}),
    );
}

#[test]
fn cve_2024_45310_race_mkdir_in_rootfs() {
    lodger_only!("switching defences off");
    held_by(&["ResolveOnce"], || {
        let mut race = Race::new("bundle/rootfs/a/b", &[("c/new", true), ("c", true)]);
        race.fixture
            .mount(json!({"destination": "/a/b/c/new", "type": "tmpfs", "source": "raced"}));
        race.run(made_outside)
    });
}

#[test]
fn cve_2024_45310_race_mkdir_in_volume() {
    lodger_only!("switching defences off");
    held_by(&["ResolveOnce"], || {
        let mut race = Race::new("volume/b", &[("c/new", true), ("c", true)]);
        volume(&mut race);
        race.fixture
            .mount(json!({"destination": "/vol/b/c/new", "type": "tmpfs", "source": "raced"}));
        race.run(made_outside)
    });
}

#[test]
fn cve_2024_45310_race_touch_in_volume() {
    lodger_only!("switching defences off");
    held_by(&["ResolveOnce"], || {
        let mut race = Race::new("volume/b", &[("new", false)]);
        volume(&mut race);
        race.fixture.mount(json!({"destination": "/vol/b/new", "type": "bind", "source": "/etc/hostname", "options": ["bind"]}));
        race.run(made_outside)
    });
}

/// The mount point is there; what is exchanged decides where the mount goes.
#[test]
fn cve_2021_30465_race_mount_destination() {
    lodger_only!("switching defences off");
    held_by(&["ResolveOnce"], || {
        let mut race = Race::new("volume/b", &[]);
        volume(&mut race);
        race.fixture
            .mount(json!({"destination": "/vol/b", "type": "tmpfs", "source": "raced"}))
            .sh(LOOK);
        race.run(mounted_outside)
    });
}

#[test]
fn cve_2026_41579_race_dev_exchange() {
    lodger_only!("switching defences off");
    held_by(&["ResolveOnce"], || {
        let mut race = Race::new("bundle/rootfs/dev", &[]);
        let mounts = race.fixture.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        race.run(made_outside)
    });
}

/// What is exchanged is the image's /dev/null, of which masks must not be made.
#[test]
fn cve_2025_31133_race_masked() {
    lodger_only!("switching defences off");
    held_by(&["HostNodes"], || {
        let mut race = Race::new("bundle/rootfs/dev/x", &[]);
        let root = race.fixture.rootfs();
        fs::write(root.join("secret"), "hidden").unwrap();
        fs::write(root.join("leak"), "leaked").unwrap();
        fs::write(root.join("dev/null"), "").unwrap();
        symlink("/leak", root.join("dev/other")).unwrap();
        race.exchanged = [root.join("dev/null"), root.join("dev/other")];
        let mounts = race.fixture.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        race.fixture.config["linux"]["maskedPaths"] = json!(["/secret"]);
        race.fixture.args(&["cat", "/secret"]);
        race.run(|_, out| (!out.is_empty()).then(|| format!("{out:?} was read through the mask")))
    });
}

/// What is exchanged decides which mount becomes read-only; the one that should have is left writable.
#[test]
fn ghsa_3q8j_race_readonly() {
    lodger_only!("switching defences off");
    const LOOK: &str = "while read -r a b c d place options e; do case $place in /kept|/link) \
        case ,$options, in *,ro,*) ;; *) echo writable;; esac;; esac; done </proc/self/mountinfo";
    held_by(&["ResolveOnce"], || {
        let mut race = Race::new("bundle/rootfs/kept", &[]);
        fs::remove_file(&race.exchanged[1]).unwrap();
        symlink("/other", &race.exchanged[1]).unwrap();
        race.fixture
            .mount(json!({"destination": "/other", "type": "tmpfs", "source": "tmpfs"}))
            .sh(LOOK);
        race.fixture.config["linux"]["readonlyPaths"] = json!(["/kept"]);
        race.run(|_, out| {
            let writable = out.contains("writable");
            writable.then(|| "the read-only path is writable".to_owned())
        })
    });
}
