//! The images that `tests/images/make` makes, a store of the test's own, and what others make of the same image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::base::tidy;
use crate::harness::{LIMIT, Ran, runtime_binary, spawn};

/// The OCI layout with the images; `None` where they could not be made.
pub(crate) fn layout() -> Option<PathBuf> {
    std::env::var_os("LODGER_TEST_IMAGES").map(|directory| PathBuf::from(directory).join("oci"))
}

/// An [`Images`], or leaves the test where there are no images.
macro_rules! images_or_skip {
    () => {{
        $crate::harness::lodger_only!("the store of images");
        match $crate::image_lab::layout() {
            Some(layout) => $crate::image_lab::Images::new(layout),
            None => $crate::harness::skip!("the images of the tests could not be made here"),
        }
    }};
}
pub(crate) use images_or_skip;

/// What is in a directory: tests/images/listing.py, by path.
pub(crate) type Listing = BTreeMap<String, Value>;

/// A store of its own, and the images of the tests.
pub(crate) struct Images {
    directory: TempDir,
    pub(crate) layout: PathBuf,
}

impl Images {
    pub(crate) fn new(layout: PathBuf) -> Images {
        let root = rustix::process::geteuid().is_root();
        assert!(!root, "the runtime is not tested as root: use tests/run");
        let directory = tempfile::Builder::new().prefix("images").tempdir().unwrap();
        Images { directory, layout }
    }

    /// A path in the test's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A path in the test's directory, for a command line.
    pub(crate) fn word(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// An image of the tests, as lodger, skopeo and umoci name it.
    pub(crate) fn made(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.layout.display())
    }

    /// lodger with this store.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(runtime_binary());
        command
            .arg("--root")
            .arg(self.path("state"))
            .args(args)
            .env("LODGER_STORE", self.path("store"))
            .current_dir(self.path(""));
        command
    }

    /// lodger with this store, to its end.
    pub(crate) fn lodger(&self, args: &[&str]) -> Ran {
        spawn(&mut self.command(args), b"").wait()
    }

    #[track_caller]
    pub(crate) fn import(&self, source: &str, name: &str) {
        self.lodger(&["image", "import", source, name]).ok();
    }

    /// The directories of an image's layers, bottom first.
    pub(crate) fn layers(&self, name: &str) -> Vec<PathBuf> {
        let record = fs::read(self.path(&format!("store/images/{name}.json"))).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let names = record["layers"].as_array().unwrap();
        let root = |name: &Value| format!("store/layers/{}/root", name.as_str().unwrap());
        names.iter().map(|name| self.path(&root(name))).collect()
    }

    /// What the kernel makes of an image's layers: as containers see them.
    pub(crate) fn merged(&self, name: &str) -> Listing {
        let mut layers = self.layers(name);
        layers.reverse();
        // An overlay without an upper directory wants two lower ones.
        layers.push(self.path("below"));
        let layers: Vec<&str> = layers.iter().map(|path| path.to_str().unwrap()).collect();
        let script = "mkdir -p \"$1/merged\" \"$1/below\"; chmod 755 \"$1/below\"
            mount -t overlay -o \"ro,userxattr,lowerdir=$2\" overlay \"$1/merged\"
            exec \"$3\" \"$1/merged\"";
        let own = self.word("");
        within(&[
            "sh",
            "-euc",
            script,
            "sh",
            &own,
            &layers.join(":"),
            &listing_program(),
        ])
        .listing()
    }

    /// What is in a directory of the test's.
    pub(crate) fn listed(&self, directory: &str) -> Listing {
        within(&[&listing_program(), &self.word(directory)]).listing()
    }

    /// What umoci makes of an image of the tests.
    pub(crate) fn by_umoci(&self, tag: &str) -> Listing {
        let image = format!("{}:{tag}", self.layout.display());
        let bundle = self.word(&format!("umoci-{tag}"));
        // Directories that are links below stay links, as they do in an overlay: Debian's /lib.
        let unpack = [
            "umoci",
            "unpack",
            "--keep-dirlinks",
            "--image",
            &image,
            &bundle,
        ];
        within(&unpack).ok();
        within(&[&listing_program(), &format!("{bundle}/rootfs")]).listing()
    }

    /// What GNU tar makes of all layers of an image of the tests, one upon the other.
    pub(crate) fn by_tar(&self, tag: &str) -> Listing {
        let directory = self.word(&format!("tar-{tag}"));
        fs::create_dir(&directory).unwrap();
        let script = "cd \"$0\"; for layer; do
            gzip -dc \"$layer\" | tar -x --numeric-owner --xattrs --xattrs-include='*'; done";
        let blobs = self.layer_blobs(tag);
        let mut words = vec!["sh", "-euc", script, &directory];
        words.extend(blobs.iter().map(String::as_str));
        within(&words).ok();
        within(&[&listing_program(), &directory]).listing()
    }

    /// The compressed layers of an image of the tests, bottom first.
    pub(crate) fn layer_blobs(&self, tag: &str) -> Vec<String> {
        const NAME: &str = "org.opencontainers.image.ref.name";
        let read = |path: &Path| -> Value {
            let text = fs::read(self.layout.join(path)).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            Path::new("blobs").join(digest.replace(':', "/"))
        };
        let index = read(Path::new("index.json"));
        let manifests = index["manifests"].as_array().unwrap();
        let found = manifests
            .iter()
            .find(|manifest| manifest["annotations"][NAME] == tag)
            .unwrap();
        let manifest = read(&blob(found));
        let layers = manifest["layers"].as_array().unwrap();
        let path = |layer| self.layout.join(blob(layer)).to_str().unwrap().to_owned();
        layers.iter().map(path).collect()
    }

    /// What the store takes on the disk, in KiB.
    pub(crate) fn disk_use(&self) -> u64 {
        let out = within(&["du", "-sk", &self.word("store")]).ok();
        out.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Copies with skopeo.
    #[track_caller]
    pub(crate) fn skopeo(&self, args: &[&str]) {
        let mut skopeo = Command::new("/usr/bin/skopeo");
        skopeo
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(args);
        spawn(skopeo.current_dir(self.path("")), b"").wait().ok();
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        // What is in a layer belongs to subordinate ids.
        tidy(|| drop(within(&["sh", "-c", "rm -rf \"$0\"/*", &self.word("")])));
    }
}

/// A program of `tests/images`.
pub(crate) fn program(name: &str) -> String {
    let package = std::env::var("CARGO_MANIFEST_DIR").expect("tests/run sets it");
    format!("{package}/tests/images/{name}")
}

fn listing_program() -> String {
    program("listing.py")
}

/// Runs a command as root of a user namespace with all of the caller's ids, as a container has them, and with mounts of its own.
pub(crate) fn within(command: &[&str]) -> Ran {
    let mut unshare = Command::new("/usr/bin/unshare");
    unshare
        .args(["--user", "--map-root-user", "--map-auto", "--mount"])
        .args(command);
    let mut running = spawn(&mut unshare, b"");
    running
        .wait_at_most(3 * LIMIT)
        .unwrap_or_else(|| panic!("{command:?} did not end"))
}

impl Ran {
    /// What tests/images/listing.py wrote.
    #[track_caller]
    fn listing(self) -> Listing {
        let mut listing = Listing::new();
        for line in self.ok().lines() {
            let mut entry: Value = serde_json::from_str(line).unwrap();
            let path = entry["path"].take().as_str().unwrap().to_owned();
            listing.insert(path, entry);
        }
        assert!(!listing.is_empty());
        listing
    }
}

/// A difference that is not ours.
#[derive(Debug)]
pub(crate) struct Excuse {
    /// The paths: this one and all beneath it.
    pub(crate) path: &'static str,
    pub(crate) property: &'static str,
    #[expect(dead_code, reason = "for whoever reads the list")]
    pub(crate) why: &'static str,
}

/// Asserts that two listings are equal but for what is excused, and that each excuse is needed. How much is allocated is left
/// out: nobody else leaves holes out of files that were archived with them filled.
#[track_caller]
pub(crate) fn assert_same(found: &Listing, expected: &Listing, excuses: &[Excuse]) {
    let mut different = Vec::new();
    let mut needed = vec![false; excuses.len()];
    let mut paths: Vec<&String> = found.keys().chain(expected.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        for (property, ours, theirs) in differences(found.get(path), expected.get(path)) {
            let excused = excuses
                .iter()
                .position(|excuse| excuse.covers(path, &property));
            match excused {
                Some(index) => needed[index] = true,
                None => different.push(format!("{path:?}: {property} {ours}, not {theirs}")),
            }
        }
    }
    let count = different.len();
    different.truncate(40);
    assert!(different.is_empty(), "{count}:\n{}", different.join("\n"));
    for (excuse, needed) in excuses.iter().zip(needed) {
        assert!(needed, "no longer needed: {excuse:?}");
    }
}

impl Excuse {
    fn covers(&self, path: &str, property: &str) -> bool {
        let rest = path.strip_prefix(self.path);
        self.property == property
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// The properties that two entries of one path do not have in common, and what each has.
fn differences(ours: Option<&Value>, theirs: Option<&Value>) -> Vec<(String, Value, Value)> {
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        let there = |side: Option<&Value>| side.is_some().into();
        return vec![("there".into(), there(ours), there(theirs))];
    };
    let (ours, theirs) = (ours.as_object().unwrap(), theirs.as_object().unwrap());
    let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    names.sort();
    names.dedup();
    let value = |side: &serde_json::Map<String, Value>, name: &str| {
        side.get(name).cloned().unwrap_or_default()
    };
    names
        .into_iter()
        .filter(|name| *name != "allocated")
        .map(|name| (name.clone(), value(ours, name), value(theirs, name)))
        .filter(|(_, ours, theirs)| ours != theirs)
        .collect()
}
