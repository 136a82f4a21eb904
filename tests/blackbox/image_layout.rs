//! Sources of images: every form that is taken, and layouts whose maker means harm.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use lodger::image::Digest;
use serde_json::{Value, json};

use crate::base::tidy;
use crate::harness::{Fixture, Ran, lodger_only, spawn};
use crate::weak::{Outcome, held_by};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout in a directory, a store, and what is imported.
struct Layout {
    fixture: Fixture,
}

impl Layout {
    /// With an image of one layer, whose one file is `etc/name`.
    fn new() -> Layout {
        let layout = Layout {
            fixture: Fixture::new(),
        };
        fs::create_dir_all(layout.path("blobs/sha256")).unwrap();
        fs::write(
            layout.path("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        fs::create_dir_all(layout.fixture.path("tree/etc")).unwrap();
        fs::write(layout.fixture.path("tree/etc/name"), "from the layer").unwrap();
        layout.tar("tree", &["etc"], "layer.tar");
        layout.index(&[layout.manifest(&json!({}))]);
        layout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.fixture.path("layout").join(name)
    }

    /// `names` in `directory` as an archive.
    fn tar(&self, directory: &str, names: &[&str], archive: &str) -> PathBuf {
        let archive = self.fixture.path(archive);
        let mut command = Command::new("tar");
        command.args(["--owner=0", "--group=0", "--sort=name", "-c", "-C"]);
        command
            .arg(self.fixture.path(directory))
            .arg("-f")
            .arg(&archive)
            .args(names);
        spawn(&mut command, b"").wait().ok();
        archive
    }

    fn layer(&self) -> Vec<u8> {
        fs::read(self.fixture.path("layer.tar")).unwrap()
    }

    fn blob_path(&self, descriptor: &Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap();
        self.path(&format!("blobs/{}", digest.replace(':', "/")))
    }

    /// Adds a blob; its descriptor.
    fn blob(&self, media_type: &str, content: &[u8]) -> Value {
        let digest = Digest::of(content).to_string();
        let descriptor =
            json!({ "mediaType": media_type, "digest": digest, "size": content.len() });
        fs::write(self.blob_path(&descriptor), content).unwrap();
        descriptor
    }

    fn document(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// Adds a manifest, with the members of `change` in place of the usual ones.
    fn manifest(&self, change: &Value) -> Value {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.config(&Digest::of(&self.layer())),
            "layers": [self.blob(LAYER, &self.layer())],
        });
        for (key, value) in change.as_object().unwrap() {
            manifest[key] = value.clone();
        }
        self.document(MANIFEST, &manifest)
    }

    fn config(&self, diff_id: &Digest) -> Value {
        let architecture = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            _ => "amd64",
        };
        let config = json!({
            "os": "linux", "architecture": architecture,
            "config": { "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
        });
        self.document(CONFIG, &config)
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.path("index.json"), index.to_string()).unwrap();
    }

    fn store(&self) -> PathBuf {
        self.fixture.path("store")
    }

    fn lodger(&self, args: &[&OsStr]) -> Ran {
        let store = self.store();
        let mut all = vec!["--store", store.to_str().unwrap()];
        all.extend(args.iter().map(|arg| arg.to_str().unwrap()));
        self.fixture.bare(&all)
    }

    fn import(&self, transport: &str, path: &Path, more: &[&str]) -> Ran {
        let source = format!("{transport}:{}", path.display());
        let mut args = vec![OsStr::new("image"), OsStr::new("import")];
        args.extend(more.iter().map(OsStr::new));
        args.extend([OsStr::new(&source), OsStr::new("it")]);
        self.lodger(&args)
    }

    /// Imports the layout's only image.
    fn try_import(&self) -> Ran {
        self.import("oci", &self.path(""), &[])
    }

    /// What `etc/name` is in each of the store's layers.
    fn imported(&self) -> Vec<String> {
        let Ok(layers) = fs::read_dir(self.store().join("layers")) else {
            return Vec::new();
        };
        let name = |layer: fs::DirEntry| layer.path().join("root/etc/name");
        let name = |layer: std::io::Result<fs::DirEntry>| fs::read_to_string(name(layer.unwrap()));
        layers.map(|layer| name(layer).unwrap()).collect()
    }

    /// Fails unless the import does, for a reason with `part` in it, and leaves nothing.
    #[track_caller]
    fn assert_refused(&self, part: &str) {
        self.try_import().fails(1, part);
        assert_eq!(self.imported(), Vec::<String>::new(), "{part}");
        for directory in ["images", "blobs/sha256", "tmp"] {
            let left = fs::read_dir(self.store().join(directory))
                .into_iter()
                .flatten();
            let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "{part}: {left:?}");
        }
    }
}

/// Files of the store may be hers in a namespace only.
impl Drop for Layout {
    fn drop(&mut self) {
        for args in [&["image", "remove", "it"][..], &["image", "gc"]] {
            tidy(|| drop(self.lodger(&args.iter().map(OsStr::new).collect::<Vec<_>>())));
        }
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn xz(content: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_form_of_a_source_is_taken() {
    lodger_only!("an image");
    let layout = Layout::new();
    let tar = layout.layer();
    let write = |name: &str, content: &[u8]| {
        let path = layout.fixture.path(name);
        fs::write(&path, content).unwrap();
        path
    };
    let archive = layout.tar(
        "layout",
        &["oci-layout", "index.json", "blobs"],
        "image.tar",
    );
    let content = fs::read(&archive).unwrap();
    for (transport, path) in [
        ("oci", layout.path("")),
        ("oci-archive", archive),
        // Decompressed in the store, as a file without a name.
        ("oci-archive", write("image.tar.gz", &gzip(&content))),
        ("oci-archive", write("image.tar.xz", &xz(&content))),
        ("rootfs", layout.fixture.path("layer.tar")),
        ("rootfs", write("layer.tar.gz", &gzip(&tar))),
        (
            "rootfs",
            write("layer.tar.zst", &zstd::encode_all(&tar[..], 1).unwrap()),
        ),
        ("rootfs", write("layer.tar.xz", &xz(&tar))),
        ("rootfs", layout.fixture.path("tree")),
    ] {
        let fresh = layout.import(transport, &path, &[]);
        fresh.ok();
        assert_eq!(
            layout.imported(),
            ["from the layer"],
            "{transport}:{path:?}"
        );
        for args in [&["image", "remove", "it"][..], &["image", "gc"]] {
            layout
                .lodger(&args.iter().map(OsStr::new).collect::<Vec<_>>())
                .ok();
        }
        assert_eq!(layout.imported(), Vec::<String>::new());
    }
    let other = layout
        .fixture
        .bare(&["image", "import", "docker://debian:12"]);
    other.fails(1, "skopeo copy docker://debian:12 oci-archive:FILE");
}

/// What security.md calls lay-*: each layout is refused for its own reason, at once, and nothing of it stays.
#[test]
fn hostile_layouts_are_refused() {
    lodger_only!("an image");
    let layout = Layout::new();
    let digest = Digest::of(b"x").to_string();
    let config = |digest: &str, size: i64| json!({ "config": { "mediaType": CONFIG, "digest": digest, "size": size } });
    for (change, part) in [
        (
            json!({ "manifests": [] }),
            "is an index and a manifest at once",
        ),
        (config(&digest, -1), "the size -1 is negative"),
        (
            config(&digest, 5 << 30),
            "has 5368709120 bytes, and a document may have 4194304",
        ),
        (
            config("sha256:../../../../../../etc/passwd", 100),
            "hexadecimal digits",
        ),
        (config(&digest, 1), "is missing"),
        (
            json!({ "config": layout.config(&Digest::of(b"x")) }),
            "(rootfs.diff_ids)",
        ),
        (
            json!({ "layers": [] }),
            "has 1 diff_ids, and the manifest has 0 layers",
        ),
        (json!({ "mediaType": INDEX }), "says that it is"),
    ] {
        layout.index(&[layout.manifest(&change)]);
        layout.assert_refused(part);
    }
    let twice = r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
    fs::write(layout.path("index.json"), twice).unwrap();
    layout.assert_refused("has the key \"manifests\" twice");
    // An index cannot hold its own digest, only say that another's is its own.
    let mut inner = layout.manifest(&json!({}));
    for _ in 0..5 {
        inner = layout.document(INDEX, &json!({ "schemaVersion": 2, "manifests": [inner] }));
    }
    layout.index(&[inner]);
    layout.assert_refused("more than 4 within each other");
    let index = json!({ "schemaVersion": 2, "manifests": [] });
    let mut own = layout.document(INDEX, &index);
    let inside = json!({ "schemaVersion": 2, "manifests": [own] }).to_string();
    fs::write(layout.blob_path(&own), &inside).unwrap();
    own["size"] = inside.len().into();
    layout.index(&[own]);
    layout.assert_refused("is not what its digest means");
}

#[test]
fn what_is_no_regular_file_is_no_blob() {
    lodger_only!("an image");
    type Change = fn(&Path);
    let changes: [(Change, &str); 4] = [
        (
            |path| {
                let mut command = Command::new("mkfifo");
                spawn(command.arg(path), b"").wait().ok();
            },
            "is not a regular file",
        ),
        (
            |path| symlink("/dev/zero", path).unwrap(),
            "a symbolic link",
        ),
        (
            |path| symlink("/etc/passwd", path).unwrap(),
            "a symbolic link",
        ),
        (
            |path| fs::create_dir(path).unwrap(),
            "is not a regular file",
        ),
    ];
    for (change, part) in changes {
        // A document and a layer.
        for media_type in [MANIFEST, LAYER] {
            let layout = Layout::new();
            let descriptor = match media_type {
                MANIFEST => layout.manifest(&json!({})),
                _ => layout.blob(LAYER, &layout.layer()),
            };
            let path = layout.blob_path(&descriptor);
            fs::remove_file(&path).unwrap();
            change(&path);
            layout.assert_refused(part);
        }
    }
}

#[test]
fn another_layer_than_the_manifest_means() {
    lodger_only!("switching defences off");
    held_by(&["BlobDigests"], || {
        let layout = Layout::new();
        fs::write(layout.fixture.path("tree/etc/name"), "from an attacker").unwrap();
        let meant = layout.blob(LAYER, &layout.layer());
        layout.tar("tree", &["etc"], "layer.tar");
        fs::write(layout.blob_path(&meant), layout.layer()).unwrap();
        let ran = layout.try_import();
        let evidence = layout
            .imported()
            .pop()
            .filter(|name| name.contains("attacker"));
        Outcome::of(evidence, ran.err)
    });
}

/// A few kilobytes of gzip that are eight million zeros behind the end of a tar.
#[test]
fn what_is_behind_a_tar_has_a_limit() {
    lodger_only!("switching defences off");
    held_by(&["LayerLimits"], || {
        let layout = Layout::new();
        let mut tar = layout.layer();
        tar.resize(8 << 20, 0);
        let bomb = layout.fixture.path("bomb.tar.gz");
        fs::write(&bomb, gzip(&tar)).unwrap();
        let limits = ["--max-layer-size", "1M", "--max-entries", "10"];
        let ran = layout.import("rootfs", &bomb, &limits);
        Outcome::of(layout.imported().pop(), ran.err)
    });
}
