//! Hostile layers: each is refused, or unpacked into its own directory and nowhere else; in little memory, in bounded time, and
//! with nothing left of what was refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Fixture, Ran, lodger_only, probe_binary, spawn};
use crate::tarball::{Header, Tar, docker_archive};
use crate::weak::{Outcome, held_by, off};

/// What an import may need, in KiB.
const MOST_MEMORY: u64 = 64 << 10;

/// No import of these takes a tenth of it.
const MOST_TIME: Duration = Duration::from_secs(120);

/// A store, and beside it what no layer may touch.
struct Victim {
    fixture: Fixture,
}

impl Victim {
    fn new() -> Victim {
        let victim = Victim {
            fixture: Fixture::new(),
        };
        let outside = victim.outside();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("canary"), "canary").unwrap();
        fs::set_permissions(outside.join("canary"), fs::Permissions::from_mode(0o640)).unwrap();
        victim
    }

    fn outside(&self) -> PathBuf {
        self.fixture.path("outside")
    }

    /// The path of the canary, or of its neighbour, as a layer would name it.
    fn target(&self, name: &str) -> String {
        self.outside().join(name).to_str().unwrap().to_owned()
    }

    fn import(&self, kind: &str, archive: &[u8]) -> Ran {
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
    fn layers(&self) -> Vec<PathBuf> {
        let Ok(found) = fs::read_dir(self.fixture.path("store/layers")) else {
            return Vec::new();
        };
        found
            .map(|entry| entry.unwrap().path().join("root"))
            .collect()
    }

    /// What happened to the canary and its directory.
    fn damage(&self) -> Option<String> {
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
    fn outcome(&self, tar: Tar) -> Outcome {
        let ran = self.import("rootfs", &tar.end());
        Outcome::of(self.damage(), ran.err)
    }
}

/// The layer does no damage, and would without these defences and without Landlock.
fn held(defence: &str, layer: impl Fn(&Victim) -> Tar) {
    held_by(&[defence, "Confined"], || {
        let victim = Victim::new();
        victim.outcome(layer(&victim))
    });
}

/// The layer is refused with this message, and nothing happens.
#[track_caller]
fn refused(layer: impl Fn(&Victim) -> Tar, text: &str) {
    let victim = Victim::new();
    let archive = layer(&victim).end();
    victim.import("rootfs", &archive).fails(1, text);
    assert_eq!(victim.damage(), None);
    assert_eq!(victim.layers(), Vec::<PathBuf>::new());
}

/// The layer is taken, with nothing outside touched.
#[track_caller]
fn taken(layer: impl Fn(&Victim) -> Tar) -> Victim {
    let victim = Victim::new();
    let archive = layer(&victim).end();
    victim.import("rootfs", &archive).ok();
    assert_eq!(victim.damage(), None);
    victim
}

/// From the root of a layer that is being unpacked to the directory that the store is in.
const UP: &str = "../../../..";

#[test]
fn cve_2014_9357_names_that_lead_out() {
    lodger_only!("images");
    held("LayerNames", |_| {
        Tar::new().file(&format!("{UP}/outside/new"), "x")
    });
    held("LayerNames", |_| {
        Tar::new()
            .dir("a")
            .file(&format!("a/../{UP}/outside/canary"), "bad")
    });
    for name in ["..", "../x", "a/..", "/../x", "a/../../x"] {
        refused(
            |_| Tar::new().file(name, "x"),
            "`..` in a name leads out of the layer",
        );
    }
    // What is absolute is so within the layer.
    let victim = taken(|victim| Tar::new().file(&victim.target("canary"), "bad"));
    let inside = victim.layers()[0].join(victim.target("canary").trim_start_matches('/'));
    assert_eq!(fs::read_to_string(inside).unwrap(), "bad");
}

#[test]
fn cve_2018_20990_writing_through_a_symbolic_link() {
    lodger_only!("images");
    held("LayerLinks", |victim| {
        Tar::new()
            .symlink("x", &victim.target("canary"))
            .file("x", "bad")
    });
    held("LayerLinks", |_| {
        Tar::new()
            .symlink("x", &format!("{UP}/outside/canary"))
            .file("x", "bad")
    });
    // By way of a hard link to it.
    held("LayerLinks", |victim| {
        Tar::new()
            .symlink("s", &victim.target("canary"))
            .hard_link("x", "s")
            .file("x", "bad")
    });
}

#[test]
fn cve_2014_9356_parents_that_are_links() {
    lodger_only!("images");
    held("LayerLinks", |victim| {
        Tar::new()
            .symlink("d", &victim.target(""))
            .file("d/canary", "bad")
    });
    held("LayerLinks", |victim| {
        Tar::new()
            .symlink("d", &victim.target(""))
            .file("d/new", "bad")
    });
    // A link that is put beneath another one.
    held("LayerLinks", |victim| {
        Tar::new()
            .symlink("a", &victim.target(""))
            .symlink("b", "a")
            .file("b/canary", "bad")
    });
}

#[test]
fn cve_2021_38511_directories_made_through_a_link() {
    lodger_only!("images");
    held("LayerLinks", |victim| {
        Tar::new()
            .symlink("d", &victim.target(""))
            .file("d/new/deeper/x", "bad")
    });
    held("LayerLinks", |victim| {
        Tar::new().symlink("d", &victim.target("")).dir("d/new")
    });
}

#[test]
fn cve_2026_33056_mode_of_a_directory_behind_a_link() {
    lodger_only!("images");
    let attack = |name: &'static str, make: fn(&Victim) -> Tar| {
        held_by(&["LayerLinks", "Confined"], || {
            let victim = Victim::new();
            let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode();
            let before = mode(victim.outside());
            let ran = victim.import("rootfs", &make(&victim).end());
            let after = mode(victim.outside());
            fs::set_permissions(victim.outside(), fs::Permissions::from_mode(before)).unwrap();
            let changed = (after != before).then(|| format!("{name}: {after:o}"));
            Outcome::of(changed.or(victim.damage()), ran.err)
        });
    };
    attack("directory", |victim| {
        let target = victim.target("");
        Tar::new()
            .symlink("d", &target)
            .with_mode(b'5', "d", 0o7777)
    });
}

#[test]
fn cve_2021_32760_no_metadata_goes_through_a_link() {
    lodger_only!("images");
    // The times and owner of a link are its own: with the defence off, the canary gets them.
    held_by(&["LayerLinks", "Confined"], || {
        let victim = Victim::new();
        let canary = victim.outside().join("canary");
        let before = fs::metadata(&canary).unwrap().mtime();
        let tar = Tar::new().symlink("x", &victim.target("canary"));
        let ran = victim.import("rootfs", &tar.end());
        let after = fs::metadata(&canary).unwrap().mtime();
        let changed = (before != after).then(|| format!("the canary's time is {after}"));
        Outcome::of(changed.or(victim.damage()), ran.err)
    });
}

#[test]
fn cve_2021_29136_the_root_is_a_directory() {
    lodger_only!("images");
    let text = "the root of a layer can only be a directory";
    for name in [".", "./", "/", "/.", "././."] {
        refused(|victim| Tar::new().symlink(name, &victim.target("")), text);
        refused(|_| Tar::new().file("f", "").hard_link(name, "f"), text);
        // In old archives, what ends with a slash is a directory.
        if !name.ends_with('/') {
            refused(|_| Tar::new().file(name, "x"), text);
        }
    }
    // The layer after it would have been written where the link leads.
    let victim = Victim::new();
    let first = Tar::new().symlink("./", &victim.target("")).end();
    let second = Tar::new().file("new", "bad").end();
    victim
        .import("docker-archive", &docker_archive(&[first, second]))
        .fails(1, text);
    assert_eq!(victim.damage(), None);
}

#[test]
fn cve_2026_50163_hard_links_lead_nowhere_outside() {
    lodger_only!("images");
    held("LayerNames", |_| {
        Tar::new().hard_link("x", &format!("{UP}/outside/canary"))
    });
    // Neither to the working directory nor to the root of the host.
    refused(
        |_| Tar::new().hard_link("x", "canary"),
        "it is a hard link to \"canary\", which is not there",
    );
    refused(
        |victim| Tar::new().hard_link("x", &victim.target("canary")),
        "which is not there",
    );
    refused(
        |victim| {
            Tar::new()
                .symlink("d", &victim.target(""))
                .hard_link("x", "d/canary")
        },
        "which is not there",
    );
    refused(
        |_| Tar::new().dir("d").hard_link("x", "d"),
        "no regular file",
    );
    refused(
        |_| Tar::new().file("f", "").hard_link("x", "."),
        "hard link to the root",
    );
}

#[test]
fn links_of_one_layer_lead_nowhere_in_the_next() {
    lodger_only!("images");
    for second in [
        |tar: Tar| tar.file("d/canary", "bad"),
        |tar: Tar| tar.file("d/new/x", "bad"),
        |tar: Tar| tar.with_mode(b'5', "d", 0o7777),
        |tar: Tar| tar.file("d/.wh.canary", ""),
        |tar: Tar| tar.file("d/.wh..wh..opq", ""),
        |tar: Tar| tar.hard_link("x", "d/canary"),
    ] {
        let victim = Victim::new();
        let first = Tar::new().symlink("d", &victim.target("")).end();
        let ran = victim.import(
            "docker-archive",
            &docker_archive(&[first, second(Tar::new()).end()]),
        );
        assert_eq!(victim.damage(), None, "{ran:?}");
    }
}

#[test]
fn malformed_whiteouts() {
    lodger_only!("images");
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh..."] {
        for bottom in [true, false] {
            let victim = Victim::new();
            let mut layers = vec![Tar::new().file(name, "").end()];
            if !bottom {
                layers.insert(0, Tar::new().file("a/low", "").end());
            }
            victim
                .import("docker-archive", &docker_archive(&layers))
                .fails(1, "is malformed");
        }
    }
    // Taken for the directory's own, it hides what the image shows everywhere else.
    held_by(&["Whiteouts"], || {
        let victim = Victim::new();
        let layers = [
            Tar::new().file("a/low", "").end(),
            Tar::new().file("a/.wh.", "").end(),
        ];
        let ran = victim.import("docker-archive", &docker_archive(&layers));
        let hidden = (ran.code == 0).then(|| "a/low is hidden".to_owned());
        Outcome::of(hidden, ran.err)
    });
}

#[test]
fn attributes_that_steer_overlayfs() {
    lodger_only!("images");
    held_by(&["LayerXattrs"], || {
        let victim = Victim::new();
        let record = [("SCHILY.xattr.user.overlay.opaque", "y")];
        let ran = victim.import("rootfs", &Tar::new().pax(&record).dir("d").end());
        let directory = victim.layers()[0].join("d");
        let mut value = [0; 2];
        let set = rustix::fs::getxattr(&directory, "user.overlay.opaque", &mut value[..]).is_ok();
        Outcome::of(
            set.then(|| "the layer set the mark itself".to_owned()),
            ran.err,
        )
    });
    let names = [
        "user.overlay.redirect",
        "user.overlay.metacopy",
        "trusted.overlay.redirect",
        "security.selinux",
    ];
    let victim = taken(|_| {
        let records = names.map(|name| (format!("SCHILY.xattr.{name}"), "/etc".to_owned()));
        let records: Vec<(&str, &str)> = records
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        Tar::new().pax(&records).file("f", "")
    });
    let mut value = [0; 64];
    for name in names {
        let got = rustix::fs::getxattr(victim.layers()[0].join("f"), name, &mut value[..]);
        assert!(got.is_err(), "{name}");
    }
}

#[test]
fn devices_are_empty_files() {
    lodger_only!("images");
    let victim = taken(|_| {
        let mut null = Header::new(b'3', "null");
        null.device = (1, 3);
        let mut whiteout = Header::new(b'3', "whiteout");
        whiteout.mode = 0o600;
        let mut disk = Header::new(b'4', "disk");
        disk.device = (8, 0);
        Tar::new()
            .entry(&null, b"")
            .entry(&whiteout, b"")
            .entry(&disk, b"")
    });
    for name in ["null", "whiteout", "disk"] {
        let stat = fs::symlink_metadata(victim.layers()[0].join(name)).unwrap();
        assert!(stat.is_file() && stat.len() == 0, "{name}");
    }
}

/// Other users cannot reach what has the set-user-id bit (CVE-2021-41091, CVE-2024-25621).
#[test]
fn set_user_id_programs_are_for_the_caller_alone() {
    lodger_only!("images");
    let victim = taken(|_| Tar::new().with_mode(b'0', "su", 0o4755));
    for directory in ["store", "store/layers", "store/tmp"] {
        let mode = fs::metadata(victim.fixture.path(directory))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o700, "{directory}");
    }
}

#[test]
fn sizes_that_contradict_each_other() {
    lodger_only!("images");
    // CVE-2025-62518, CVE-2026-33055: the content holds another archive.
    let inner = Tar::new().file("smuggled", "x").end();
    for ustar in [0, 512] {
        let victim = taken(|_| {
            let mut header = Header::new(b'0', "outer");
            header.size = ustar;
            let size = inner.len().to_string();
            Tar::new().pax(&[("size", &size)]).entry(&header, &inner)
        });
        assert!(!victim.layers()[0].join("smuggled").exists());
        assert_eq!(fs::read(victim.layers()[0].join("outer")).unwrap(), inner);
    }
}

/// What an extended header says is for the file, not for the long name between them (RUSTSEC-2026-0112).
#[test]
fn rustsec_2026_0112_a_size_is_for_the_next_file() {
    lodger_only!("images");
    let inner = Tar::new().file("smuggled", "x").end();
    let victim = Victim::new();
    let mut long = Header::new(b'L', "././@LongLink");
    let name = "n".repeat(120);
    long.size = name.len() as u64 + 1;
    let size = inner.len().to_string();
    let tar = Tar::new()
        .pax(&[("size", &size)])
        .entry(&long, format!("{name}\0").as_bytes())
        .entry(&Header::new(b'0', "short"), &inner);
    let ran = victim.import("rootfs", &tar.end());
    assert_eq!(victim.damage(), None);
    match victim.layers().first() {
        Some(layer) => assert_eq!(fs::read(layer.join(&name)).unwrap(), inner),
        None => drop(ran.fails(1, "cannot read the layer's archive")),
    }
}

/// The image's users are read in the image, and nothing else is waited for (CVE-2022-4318, CVE-2024-9676).
#[test]
fn users_are_those_of_the_image() {
    lodger_only!("images");
    for passwd in ["link", "relative", "fifo", "directory"] {
        let victim = taken(|victim| {
            let tar = Tar::new().dir("etc").dir("proc").dir("dev").dir("sys");
            match passwd {
                "link" => tar.symlink("etc/passwd", &victim.target("canary")),
                "relative" => {
                    tar.symlink("etc/passwd", &format!("../{UP}/../../../outside/canary"))
                }
                "fifo" => tar.with_mode(b'6', "etc/passwd", 0o644),
                _ => tar.dir("etc/passwd"),
            }
        });
        fs::write(victim.outside().join("canary"), "victim:x:0:0::/:/bin/sh\n").unwrap();
        let store = victim.fixture.path("store");
        let args = [
            "--store",
            store.to_str().unwrap(),
            "run",
            "--image",
            "x",
            "-u",
            "victim",
            "t",
            "/bin/true",
        ];
        let mut running = spawn(&mut victim.fixture.command(&args), b"");
        let ran = running.wait_at_most(MOST_TIME);
        let ran = ran.unwrap_or_else(|| panic!("{passwd}: the start does not end"));
        assert!(
            ran.code != 0 && ran.err.contains("passwd"),
            "{passwd}: {ran:?}"
        );
    }
}

#[test]
fn cve_2026_32766_malformed_extended_headers() {
    lodger_only!("images");
    for text in [
        "12 pathname\n",
        "0 path=x\n",
        "99 path=x\n",
        "-1 path=x\n",
        "x path=x\n",
        "9 path=x",
        "11 path=a\0b\n",
    ] {
        refused(
            |_| Tar::new().pax_text(text).file("f", ""),
            "cannot read the layer's archive",
        );
    }
}

/// Every archive that ends too early is an error, and no import waits for more (CVE-2021-20291).
#[test]
fn archives_that_end_too_early() {
    lodger_only!("images");
    let whole = Tar::new().dir("d").file("d/f", &"x".repeat(2000));
    for missing in [1, 48, 49, 512, 1024, 2047, 2048, 2049, 2500] {
        let victim = Victim::new();
        victim
            .import("rootfs", &whole.clone().cut(missing))
            .exits(1);
        assert_eq!(victim.layers(), Vec::<PathBuf>::new(), "{missing}");
    }
}

#[test]
fn bombs_are_refused_by_their_size() {
    lodger_only!("images");
    let tebibyte = (1_u64 << 40).to_string();
    let mut big = Header::new(b'0', "big");
    big.size = 1 << 40;
    refused(|_| Tar::new().entry(&big, b""), "the bytes of the file");
    refused(
        |_| Tar::new().pax(&[("size", &tebibyte)]).file("big", ""),
        "the bytes of the file",
    );
    let mut header = Header::new(b'x', "pax");
    header.size = 1 << 40;
    refused(|_| Tar::new().entry(&header, b""), "its extended header");
    let sparse = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "big"),
        ("GNU.sparse.realsize", tebibyte.as_str()),
    ];
    refused(
        |_| Tar::new().pax(&sparse).file("big", "0\n"),
        "the bytes of the file",
    );
}

#[test]
fn depth_is_limited() {
    lodger_only!("images");
    held_by(&["LayerLimits"], || {
        let victim = Victim::new();
        let ran = victim.import("rootfs", &Tar::new().dir(&"d/".repeat(1025)).end());
        let made = (ran.code == 0).then(|| "1025 directories".to_owned());
        Outcome::of(made, ran.err)
    });
    refused(
        |_| Tar::new().dir(&"d/".repeat(1025)),
        "more than 1024 directories deep",
    );
    refused(
        |_| Tar::new().symlink("l", "l").file("l/x", ""),
        "more than 40 symbolic links",
    );
}

/// Much that is small: memory does not grow with it.
#[test]
fn many_entries_need_little_memory() {
    lodger_only!("images");
    let victim = taken(|_| {
        let mut tar = Tar::new();
        for n in 0..4_000 {
            tar = tar.dir(&format!("d{n}")).file(&format!("d{n}/f"), "");
        }
        tar
    });
    assert_eq!(fs::read_dir(&victim.layers()[0]).unwrap().count(), 4_000);
}
