//! Hostile archives: sizes that lie, ends that are missing, bombs; and files of the image that runs read.

use std::fs;
use std::path::PathBuf;

use crate::harness::{lodger_only, spawn};
use crate::image_victim::{MOST_TIME, UP, Victim, refused, taken};
use crate::tarball::{Header, Tar};
use crate::weak::{Outcome, held_by};

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
