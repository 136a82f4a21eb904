//! Hostile layers: each is refused, or unpacked into its own directory and nowhere else; in little memory, in bounded time, and
//! with nothing left of what was refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use crate::harness::lodger_only;
use crate::image_victim::{UP, Victim, held, refused, taken};
use crate::tarball::{Header, Tar, docker_archive};
use crate::weak::{Outcome, held_by};

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
