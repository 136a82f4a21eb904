//! Layouts: what is found, and what is refused.

use super::*;

#[test]
fn the_only_image_needs_no_name() {
    let made = Made::new();
    let (first, second) = (tar("a", b"1"), tar("b", b"2"));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
        "config": made.document(DOCKER_CONFIG, &config(&[&first, &second])),
        "layers": [
            made.blob("application/vnd.docker.image.rootfs.diff.tar.gzip", &gzip(&first)),
            made.blob("application/vnd.docker.image.rootfs.diff.tar", &second),
        ],
    });
    let manifest = made.document(DOCKER_MANIFEST, &manifest);
    made.index(&[named(manifest.clone(), "quay.io/a/b:1")]);
    let image = made.image("").unwrap();
    assert_eq!(image.suggested_name.as_deref(), Some("quay.io/a/b:1"));
    assert_eq!(
        json!(Digest::of(&image.manifest.unwrap())),
        manifest["digest"]
    );
    let limits = Limits::default();
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| read(layer, &limits).unwrap())
        .collect();
    assert_eq!(layers, [first, second]);
    assert!(made.image(":quay.io/a/b:1").is_ok());
    let digest = manifest["digest"].as_str().unwrap();
    assert!(made.image(&format!("@{digest}")).is_ok());
}

#[test]
fn several_images_want_a_name_or_a_digest() {
    let made = Made::new();
    let one = made.manifest(&json!({}));
    let two = made.manifest(&json!({ "annotations": { "x": "y" } }));
    let inner = made.manifest(&json!({ "annotations": { "x": "z" } }));
    let nested = made.document(
        OCI_INDEX,
        &json!({ "schemaVersion": 2, "manifests": [inner] }),
    );
    made.index(&[named(one.clone(), "one"), named(two, "two"), nested]);
    assert_refused(made.image(""), ":one, :two, @sha256:");
    assert_refused(made.image(":three"), "it has one, two");
    let other = format!("@{}", Digest::of(b"other"));
    assert_refused(made.image(&other), "no image with the digest");
    for selector in [
        ":one".to_owned(),
        format!("@{}", inner["digest"].as_str().unwrap()),
    ] {
        let image = made.image(&selector).unwrap();
        assert!(
            selector.starts_with(':')
                || Digest::of(&image.manifest.unwrap()).to_string() == selector[1..]
        );
    }
    // The same image under two names is one image.
    made.index(&[named(one.clone(), "one"), named(one, "also")]);
    assert!(made.image("").is_ok());
}

#[test]
fn the_platform_chooses_among_the_images_of_an_index() {
    let made = Made::new();
    let manifests: Vec<Value> = [
        ("amd64", None),
        ("arm64", Some("v8")),
        ("arm", Some("v6")),
        ("arm", Some("v7")),
    ]
    .into_iter()
    .map(|(architecture, variant)| {
        let platform = json!({ "os": "linux", "architecture": architecture, "variant": variant });
        let mut descriptor = made.manifest_for(&platform);
        descriptor["platform"] = platform;
        descriptor
    })
    .collect();
    let mut attestation = made.manifest(&json!({ "annotations": {} }));
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    let mut all = manifests.clone();
    all.push(attestation);
    let list = json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": all });
    let list = made.document(DOCKER_LIST, &list);
    made.index(&[named(list, "tag")]);
    for (platform, expected) in [
        ("linux/amd64", Some(0)),
        ("linux/arm64", Some(1)),
        ("linux/arm64/v8", Some(1)),
        ("linux/arm/v7", Some(3)),
        ("linux/arm/v6", Some(2)),
        ("linux/riscv64", None),
    ] {
        let image = made.image_for(":tag", platform);
        let Some(expected) = expected else {
            assert_refused(
                image,
                "for linux/riscv64, but for linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64/v8",
            );
            continue;
        };
        let digest = json!(Digest::of(&image.unwrap().manifest.unwrap()));
        assert_eq!(digest, manifests[expected]["digest"], "{platform}");
    }
    // An index without platforms leaves it to the config.
    made.index(&[made.manifest_for(&json!({ "architecture": "s390x" }))]);
    assert_refused(
        made.image(""),
        "is not for linux/amd64, but for linux/s390x",
    );
    assert!(made.image_for("", "linux/s390x").is_ok());
}

/// Each change to a sound manifest, with a part of what is said about it.
#[track_caller]
fn refuse(changes: &[(Value, &str)]) {
    for (change, part) in changes {
        let made = Made::new();
        let manifest = made.manifest(change);
        made.index(&[manifest]);
        assert_refused(made.image(""), part);
    }
}

#[test]
fn hostile_manifests_are_refused() {
    let config = |kind: &str, digest: &str, size: i64| json!({ "config": { "mediaType": kind, "digest": digest, "size": size } });
    let digest = Digest::of(b"x").to_string();
    let traversal = "sha256:../../../../etc/passwd";
    refuse(&[
        (
            json!({ "manifests": [] }),
            "is an index and a manifest at once",
        ),
        (
            json!({ "config": null, "layers": null, "manifests": [] }),
            "is not what its type",
        ),
        (json!({ "mediaType": OCI_INDEX }), "is not what its type"),
        (
            json!({ "Layers": [] }),
            "has a member \"Layers\", which some would take for \"layers\"",
        ),
        (json!({ "schemaVersion": 1 }), "has schemaVersion 1"),
        (json!({ "fsLayers": [] }), "of Docker's schema 1"),
        (
            json!({ "x": vec![0; 60_000] }),
            "has more than 50000 values",
        ),
        (config(OCI_EMPTY, &digest, 2), "its config is empty"),
        (
            config("application/x", &digest, 2),
            "of the type \"application/x\"",
        ),
        (config(OCI_CONFIG, traversal, 2), "hexadecimal digits"),
        (config(OCI_CONFIG, &digest, -1), "the size -1 is negative"),
        (
            config(OCI_CONFIG, &digest, 3 << 30),
            "has 3221225472 bytes, and a document may have 4194304",
        ),
        (config(OCI_CONFIG, &digest, 2), "is missing"),
    ]);
}

#[test]
fn layers_that_are_not_to_be_had_are_refused_by_name() {
    const OCI: &str = "application/vnd.oci.image.layer";
    const DOCKER: &str = "application/vnd.docker.image.rootfs";
    let layer = |kind: String| json!({ "mediaType": kind, "digest": Digest::of(b"x"), "size": 1 });
    let one = |kind: String| json!({ "layers": [layer(kind)] });
    let mut foreign = layer(format!("{OCI}.v1.tar"));
    foreign["urls"] = json!(["https://x"]);
    let unknown = "is not a layer of a root filesystem that is known";
    refuse(&[
        (one(format!("{OCI}.v1.tar+gzip")), "is missing"),
        (
            one(format!("{OCI}.nondistributable.v1.tar+gzip")),
            "is a foreign layer",
        ),
        (
            one(format!("{DOCKER}.foreign.diff.tar.gzip")),
            "is a foreign layer",
        ),
        (json!({ "layers": [foreign] }), "it is a foreign layer"),
        (one(format!("{OCI}.v1.tar+gzip+encrypted")), "is encrypted"),
        (one(format!("{OCI}.v1.tar+bzip2")), unknown),
        (one(format!("{DOCKER}.diff.tar.bz2")), unknown),
        (one(OCI_EMPTY.to_owned()), unknown),
        (
            json!({ "layers": [] }),
            "has 1 diff_ids, and the manifest has 0 layers",
        ),
        (
            json!({ "layers": null }),
            "has 1 diff_ids, and the manifest has 0 layers",
        ),
        (
            json!({ "layers": vec![layer(OCI_TAR.to_owned()); 501] }),
            "501 layers, and the kernel stacks 500",
        ),
    ]);
}

#[test]
fn hostile_configs_are_refused() {
    for (change, part) in [
        (
            json!({ "rootfs": { "type": "rootfs", "diff_ids": [] } }),
            "only \"layers\" is known",
        ),
        (
            json!({ "rootfs": { "type": "layers", "diff_ids": ["sha256:00"] } }),
            "hexadecimal digits",
        ),
        (
            json!({ "rootfs": { "type": "layers", "diff_ids": [] } }),
            "has 0 diff_ids",
        ),
        (json!({ "rootfs": null }), "missing field `rootfs`"),
        (json!({ "os": "windows" }), "but for windows/amd64"),
        (json!({ "Rootfs": {} }), "some would take for \"rootfs\""),
    ] {
        let made = Made::new();
        made.index(&[made.manifest_for(&change)]);
        assert_refused(made.image(""), part);
    }
}

#[test]
fn hostile_texts_are_refused() {
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100), "]".repeat(100));
    for (text, part) in [
        (
            r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#,
            "index.json has the key \"manifests\" twice",
        ),
        (
            r#"{"schemaVersion":2,"manifests":[{"size":1,"size":2}]}"#,
            "the key \"size\" twice",
        ),
        (
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
            "is an index and a manifest at once",
        ),
        (
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#,
            "is not what its type",
        ),
        (
            r#"{"schemaVersion":2,"manifests":[]} {}"#,
            "goes on after the end",
        ),
        (r#"{"schemaVersion":2,"manifests":[]}"#, "holds no image"),
        (r#"{"schemaVersion":2,"manifests":null}"#, "holds no image"),
        (
            r#"{"schemaVersion":3,"manifests":[]}"#,
            "has schemaVersion 3",
        ),
        (r#"{"manifests":[]}"#, "missing field `schemaVersion`"),
        ("[]", "is not valid"),
        ("", "index.json is not JSON"),
        (&deep, "is nested deeper than 64 levels"),
        (
            &format!("\"{}\"", "x".repeat(4 << 20)),
            "and a document may have 4194304",
        ),
    ] {
        let made = Made::new();
        fs::write(made.path("index.json"), text).unwrap();
        assert_refused(made.image(""), part);
    }
}

#[test]
fn other_types_in_an_index_are_passed_over_and_named_when_nothing_else_is_there() {
    let made = Made::new();
    let other = made.blob(
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        b"{}",
    );
    made.index(std::slice::from_ref(&other));
    assert_refused(
        made.image(""),
        "of other types: application/vnd.docker.distribution.manifest.v1+prettyjws",
    );
    made.index(&[other, made.manifest(&json!({}))]);
    assert!(made.image("").is_ok());
}

#[test]
fn indexes_end() {
    let made = Made::new();
    let mut inner = made.manifest(&json!({}));
    for depth in 0..6 {
        made.index(std::slice::from_ref(&inner));
        if depth <= 4 {
            assert!(made.image("").is_ok(), "{depth}");
        } else {
            assert_refused(made.image(""), "more than 4 within each other");
        }
        inner = made.document(
            OCI_INDEX,
            &json!({ "schemaVersion": 2, "manifests": [inner, inner] }),
        );
    }
    let many: Vec<Value> = (0..65)
        .map(|n| {
            made.document(
                OCI_INDEX,
                &json!({ "schemaVersion": 2, "manifests": [], "annotations": { "n": n } }),
            )
        })
        .collect();
    made.index(&many);
    assert_refused(made.image(""), "more than 64 indexes");
}

/// Each is done to the manifest's file.
#[test]
fn a_blob_is_a_regular_file_of_its_size_and_digest() {
    type Change = fn(&Path);
    let changes: [(Change, &str); 9] = [
        (
            |path| fs::write(path, b"{}").unwrap(),
            "has 2 bytes, and its descriptor says",
        ),
        (
            |path| {
                let mut content = fs::read(path).unwrap();
                content[0] ^= 1;
                fs::write(path, content).unwrap();
            },
            "is not what its digest means",
        ),
        (
            |path| {
                let file = File::options().write(true).open(path).unwrap();
                file.set_len(3 << 30).unwrap();
            },
            "has 3221225472 bytes",
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                crate::sys::path::make_fifo(rustix::fs::CWD, path.as_os_str(), 0o600).unwrap();
            },
            "is not a regular file",
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                let (kind, mode) = (rustix::fs::FileType::Socket, rustix::fs::Mode::RWXU);
                rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
            },
            "ENXIO",
        ),
        (
            |path| {
                fs::rename(path, path.with_extension("real")).unwrap();
                std::os::unix::fs::symlink(path.with_extension("real"), path).unwrap();
            },
            "is, or is beneath, a symbolic link",
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink("/dev/zero", path).unwrap();
            },
            "is, or is beneath, a symbolic link",
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
            "is not a regular file",
        ),
        (
            |path| {
                let blobs = path.parent().unwrap().parent().unwrap();
                fs::rename(blobs, blobs.with_extension("real")).unwrap();
                std::os::unix::fs::symlink("blobs.real", blobs).unwrap();
            },
            "is, or is beneath, a symbolic link",
        ),
    ];
    for (change, part) in changes {
        let made = Made::new();
        let manifest = made.manifest(&json!({}));
        made.index(std::slice::from_ref(&manifest));
        change(&made.blob_path(&manifest));
        assert_refused(made.image(""), part);
    }
}

#[test]
fn a_directory_without_a_known_layout_is_refused() {
    let made = Made::usual();
    fs::write(made.path("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert_refused(made.image(""), "version \"2.0.0\", and only 1.0.0 is known");
    fs::remove_file(made.path("oci-layout")).unwrap();
    assert_refused(made.image(""), "is no OCI image layout");
    let made = Made::usual();
    fs::remove_file(made.path("index.json")).unwrap();
    assert_refused(made.image(""), "has no index.json");
    let file = made.path("oci-layout");
    assert_refused(
        open(&format!("oci:{}", file.display()), "linux/amd64", None),
        "a file is oci-archive:FILE",
    );
    assert_refused(open("oci:/nonexistent", "linux/amd64", None), "ENOENT");
}
