//! Real images: what is imported equals what umoci and GNU tar make of the same image, whatever it was packed as.

use std::fs;
use std::process::Command;

use crate::harness::{spawn, which};
use crate::image_lab::{Excuse, Listing, assert_same, images_or_skip, program};

/// Where umoci's tree is another one.
const EXCUSES: &[Excuse] = &[
    Excuse {
        path: "var",
        property: "mtime",
        why: "umoci gives it the time of the unpacking, as it makes a directory in it that has no entry",
    },
    Excuse {
        path: "srv/odd-pax/attributes/without-value",
        property: "xattrs",
        why: "Go's reader takes an attribute without a value for none",
    },
    // What is linked in one layer gets a link in the next one: an overlay can only have both names that the next layer knows
    // as one file. podman and docker refuse such a layer.
    Excuse {
        path: "srv/first",
        property: "linked",
        why: "to srv/third alone",
    },
    Excuse {
        path: "srv/second",
        property: "linked",
        why: "its file stays the one of its layer",
    },
    Excuse {
        path: "srv/third",
        property: "linked",
        why: "to srv/first alone",
    },
];

/// Where an entry makes no directory, there is no time to compare.
fn without_implied(mut listing: Listing) -> Listing {
    for path in ["var/cache", "var/cache/implied", "var/cache/implied/deeply"] {
        let entry = listing.get_mut(path).unwrap().as_object_mut().unwrap();
        entry.remove("mtime").unwrap();
    }
    listing
}

/// All that archives hold: modes, owners, times, names, attributes, links; whiteouts, opaque directories, hard links across
/// layers, other types in the same place, parents that are links.
#[test]
fn the_tree_is_the_one_that_umoci_makes() {
    let images = images_or_skip!();
    images.import(&images.made("small"), "small");
    let merged = without_implied(images.merged("small"));
    assert_same(&merged, &without_implied(images.by_umoci("small")), EXCUSES);

    // What there is to be compared, and the time that umoci does not keep: it is of 2001.
    assert_eq!(merged["var"]["mtime"], 981_173_106_123_456_789_i64);
    let is = |path: &str, property: &str, value: &str| {
        assert_eq!(merged[path][property], value, "{path}");
    };
    is("usr/lib/of-the-third-layer.so", "kind", "file");
    is("lib", "target", "usr/lib");
    is("srv/odd-pax/modes/0000", "mode", "0000");
    is("srv/odd-pax/modes/closed", "mode", "0000");
    is("srv/odd-pax/modes/4755", "mode", "4755");
    is("srv/odd-pax/modes/sticky", "mode", "1777");
    is("srv/odd-pax/modes/fifo", "kind", "fifo");
    is("srv/directory-to-link", "target", "whole");
    let owner = |path: &str| merged[path]["owner"].to_string();
    assert_eq!(owner("srv/odd-gnu/owners/33:33"), "[33,33]");
    assert_eq!(owner("srv/odd-gnu/owners/link-65535:1"), "[65535,1]");
    let xattrs = &merged["srv/odd-pax/attributes/file"]["xattrs"];
    assert_eq!(xattrs["user.binary"], "000aff3d0a00", "{xattrs}");
    let empty = &merged["srv/odd-pax/attributes/without-value"]["xattrs"];
    assert_eq!(empty["user.empty"], "", "{empty}");
    assert!(merged["srv/odd-pax/attributes/capable"]["xattrs"]["security.capability"].is_string());
    let linked = |path: &str| merged[path]["linked"].as_array().map_or(1, Vec::len);
    assert_eq!(linked("srv/odd-pax/links/a"), 3);
    assert_eq!(linked("srv/whole/own"), 2);
    assert_eq!(linked("srv/third"), 2);
    for gone in [
        "srv/gone",
        "srv/directory-gone",
        "srv/emptied/a",
        "srv/replaced/deep",
    ] {
        assert!(!merged.contains_key(gone), "{gone}");
    }
    assert!(!merged.keys().any(|path| path.contains(".wh.")));
}

/// Debian, and what umoci and buildah make of changes to it.
#[test]
fn debian_is_the_one_that_umoci_makes() {
    let images = images_or_skip!();
    images.import(&images.made("debian"), "debian");
    let merged = images.merged("debian");
    assert!(merged.len() > 5000, "{}", merged.len());
    let mut expected = images.by_umoci("debian");
    // buildah packs the marks that its own overlay made; in another one they would mean something.
    let mark = "user.overlay.impure";
    let marked = |listing: &mut Listing| {
        let attributes = listing
            .values_mut()
            .map(|entry| entry["xattrs"].as_object_mut().unwrap());
        attributes.filter_map(|found| found.remove(mark)).count()
    };
    assert!(marked(&mut expected) > 0);
    assert_same(&merged, &expected, &[]);
    assert!(merged.contains_key("opt/one/new") && !merged.contains_key("opt/one/1"));
    assert_eq!(merged["opt/two/link"]["kind"], "file");
    assert!(!merged.contains_key("usr/share/doc/dpkg"));
}

/// The four ways to write holes. umoci does not know the first, and fills them.
#[test]
fn holes_are_those_that_gnu_tar_makes() {
    let images = images_or_skip!();
    images.import(&images.made("holes"), "holes");
    let formats = ["gnu", "0.0", "0.1", "1.0"];
    let made_by_entries = |mut listing: Listing| {
        listing.retain(|path, _| path != "." && !formats.contains(&path.as_str()));
        listing
    };
    let expected = made_by_entries(images.by_tar("holes"));
    let merged = made_by_entries(images.merged("holes"));
    assert_same(&merged, &expected, &[]);
    for format in formats {
        for file in ["all", "end", "many"] {
            let entry = &merged[&format!("{format}/holes/{file}")];
            let allocated = entry["allocated"].as_u64().unwrap();
            assert!(allocated <= 200 << 10, "{format}/{file}: {entry}");
            assert!(entry["size"].as_u64().unwrap() > 10 << 20);
        }
    }
}

/// One image in every packing: the layers are the same ones, by their chain ids.
#[test]
fn however_it_is_packed_the_layers_are_the_same() {
    let images = images_or_skip!();
    let made = images.made("small");
    images.import(&made, "small");
    let layers = images.layers("small");
    assert_eq!(layers.len(), 3);
    let docker_save = |kind: &str| {
        let mut save = Command::new(program("docker_save.py"));
        save.arg(&images.layout).args(["small", kind]);
        spawn(save.arg(images.path(&format!("docker-{kind}.tar"))), b"")
            .wait()
            .ok();
    };
    images.skopeo(&[&made, "oci:copied:small"]);
    images.skopeo(&[&made, "oci-archive:archive.tar:small"]);
    images.skopeo(&[&made, "docker-archive:docker.tar:localhost/small:1"]);
    images.skopeo(&["--dest-compress-format", "zstd", &made, "oci:zstd:small"]);
    images.skopeo(&[
        "--dest-compress-format",
        "zstd",
        &made,
        "oci-archive:zstd.tar:small",
    ]);
    images.skopeo(&["--format", "v2s2", &made, "oci:docker-types:small"]);
    docker_save("old");
    docker_save("new");
    let sources = [
        "oci:copied:small",
        "oci:copied",
        "oci-archive:archive.tar:small",
        "oci-archive:archive.tar",
        "docker-archive:docker.tar:localhost/small:1",
        "docker-archive:docker.tar",
        "oci:zstd:small",
        "oci-archive:zstd.tar",
        "oci:docker-types:small",
        "docker-archive:docker-old.tar",
        "docker-archive:docker-new.tar",
    ];
    for (number, source) in sources.into_iter().enumerate() {
        let name = format!("copy-{number}");
        images.import(source, &name);
        assert_eq!(images.layers(&name), layers, "{source}");
        // Unpacked anew, and not only found by its name.
        fs::remove_file(images.path(&format!("store/images/{name}.json"))).unwrap();
    }
}

/// The same in a store of its own for each compression: what a decompressor of ours makes is what is unpacked.
#[test]
fn debian_from_zstd_and_from_an_uncompressed_archive() {
    let images = images_or_skip!();
    images.import(&images.made("debian"), "debian");
    let expected = images.merged("debian");
    images.skopeo(&[
        "--dest-compress-format",
        "zstd",
        &images.made("debian"),
        "oci-archive:zstd.tar:debian",
    ]);
    images.skopeo(&[
        &images.made("debian"),
        "docker-archive:docker.tar:localhost/debian:1",
    ]);
    for source in ["oci-archive:zstd.tar:debian", "docker-archive:docker.tar"] {
        images.lodger(&["image", "remove", "debian"]).ok();
        images.lodger(&["image", "gc"]).ok();
        assert_eq!(
            fs::read_dir(images.path("store/layers")).unwrap().count(),
            0
        );
        images.import(source, "debian");
        assert_same(&images.merged("debian"), &expected, &[]);
    }
}

/// An archive of a root filesystem, in each compression, and the directory that GNU tar makes of it.
#[test]
fn root_filesystems_from_archives_and_directories() {
    let images = images_or_skip!();
    let base = &images.layer_blobs("small")[0];
    let script = "gzip -dc \"$0\" >root.tar; cp \"$0\" root.tar.gz
        zstd -q root.tar; xz -k root.tar; mkdir root; tar -C root -xp --exclude='./dev/?*' <root.tar";
    let mut shell = Command::new(which("sh"));
    shell
        .args(["-euc", script, base])
        .current_dir(images.path(""));
    spawn(&mut shell, b"").wait().ok();
    let archives = ["root.tar", "root.tar.gz", "root.tar.zst", "root.tar.xz"];
    let mut first = None;
    for archive in archives {
        images.import(&format!("rootfs:{archive}"), archive);
        let merged = images.merged(archive);
        assert_eq!(merged["usr/bin/cat"]["target"], "busybox");
        assert_same(&merged, first.get_or_insert(merged.clone()), &[]);
        images.lodger(&["image", "remove", archive]).ok();
        images.lodger(&["image", "gc"]).ok();
    }
    images.import("rootfs:root", "directory");
    let mut expected = first.unwrap();
    expected.retain(|path, _| !path.starts_with("dev/"));
    assert_same(&images.merged("directory"), &expected, &[]);
    let ran = images.lodger(&[
        "run",
        "--image",
        "directory",
        "c",
        "/bin/cat",
        "/etc/os-release",
    ]);
    assert_eq!(ran.ok(), "NAME=small\n");
}
