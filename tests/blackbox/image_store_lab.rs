//! A store of images, and images made for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lodger::image::Digest;
use serde_json::{Value, json};

use crate::base::tidy;
use crate::harness::{Fixture, Ran, spawn};

/// A store of its own, and places to make images in.
pub(crate) struct Lab {
    pub(crate) fixture: Fixture,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        Lab {
            fixture: Fixture::new(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.fixture.path(name)
    }

    pub(crate) fn word(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let store = self.word("store");
        let mut all = vec!["--store", &store, "image"];
        all.extend(args);
        self.fixture.command(&all)
    }

    pub(crate) fn image(&self, args: &[&str]) -> Ran {
        spawn(&mut self.command(args), b"").wait()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["--format", "json"]);
        let text = self.image(&all).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A tar of these files and their contents; as many owners as there are files.
    pub(crate) fn tar(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let tree = self.path(&format!("{name}.tree"));
        for (file, content) in files {
            let path = tree.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let tar = self.path(name);
        let mut command = Command::new("tar");
        command.args([
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--mtime=@1000000000",
        ]);
        command.arg("-C").arg(&tree).arg("-cf").arg(&tar).arg(".");
        spawn(&mut command, b"").wait().ok();
        tar
    }

    /// An OCI layout with one image of these layers, each gzipped; returns what names it.
    pub(crate) fn layout(&self, name: &str, layers: &[PathBuf]) -> String {
        let directory = self.path(name);
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let keep = |content: &[u8], kind: &str| {
            let digest = Digest::of(content);
            fs::write(blobs.join(digest.hex()), content).unwrap();
            json!({"mediaType": kind, "digest": digest.to_string(), "size": content.len()})
        };
        let mut diff_ids = Vec::new();
        let mut descriptors = Vec::new();
        for layer in layers {
            diff_ids.push(Digest::of(&fs::read(layer).unwrap()).to_string());
            spawn(
                Command::new("gzip").args(["-n", "-k", "-f"]).arg(layer),
                b"",
            )
            .wait()
            .ok();
            let packed = fs::read(format!("{}.gz", layer.display())).unwrap();
            descriptors.push(keep(&packed, "application/vnd.oci.image.layer.v1.tar+gzip"));
        }
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/prog"], "Env": ["A=1", "B=\u{1b}[2J"], "Labels": {"k": "v"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = keep(
            config.to_string().as_bytes(),
            "application/vnd.oci.image.config.v1+json",
        );
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": descriptors,
        });
        let manifest = keep(
            manifest.to_string().as_bytes(),
            "application/vnd.oci.image.manifest.v1+json",
        );
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
        fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        format!("oci:{}", directory.display())
    }

    /// An image of two layers, of which the second is `word`'s own.
    pub(crate) fn two_layers(&self, word: &str) -> String {
        let below: Vec<(String, String)> = (0..40)
            .map(|n| {
                (
                    format!("usr/{}/file-{n}", n % 7),
                    format!("{n}").repeat(n * 97),
                )
            })
            .collect();
        let below: Vec<(&str, &str)> = below.iter().map(|(a, b)| (&**a, &**b)).collect();
        let below = self.tar("below.tar", &below);
        let files = [
            ("usr/1/.wh.file-1", ""),
            ("usr/2/.wh..wh..opq", ""),
            ("usr/2/new", word),
            ("etc/word", word),
        ];
        let above = self.tar(&format!("{word}.tar"), &files);
        self.layout(&format!("{word}.oci"), &[below, above])
    }

    /// What is in a directory of the store.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let Ok(found) = fs::read_dir(self.path("store").join(directory)) else {
            return Vec::new();
        };
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = found.map(|e| name(e).into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Asserts that nothing is in the store.
    #[track_caller]
    pub(crate) fn assert_empty(&self, when: &str) {
        for directory in ["images", "layers", "tmp", "blobs/sha256", "containers"] {
            assert_eq!(
                self.names(directory),
                Vec::<String>::new(),
                "{when}: {directory}"
            );
        }
    }

    /// Asserts that gc leaves nothing, once the images are removed.
    #[track_caller]
    pub(crate) fn assert_gc_leaves_nothing(&self, when: &str) {
        for name in self.image(&["list", "-q"]).ok().lines() {
            self.image(&["remove", name]).ok();
        }
        self.image(&["gc"]).ok();
        self.assert_empty(when);
    }
}

impl Drop for Lab {
    /// What subordinate ids own is not hers to remove in any other way.
    fn drop(&mut self) {
        tidy(|| {
            for name in self.names("images") {
                let _ = fs::remove_file(self.path("store/images").join(name));
            }
            self.image(&["gc"]);
        });
    }
}

/// All that is in a directory, however deep.
pub(crate) fn find(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            find(&path, found);
        }
        found.push(path);
    }
}
