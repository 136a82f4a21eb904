//! The store of images: what an import puts there, what is shared, and what is left by those that were killed or found no room.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use lodger::image::Digest;
use serde_json::{Value, json};

use crate::harness::{Fixture, Ran, lodger_only, skip, spawn};
use crate::tracing::{Call, Fate, calls, inject, under_strace, works};
use crate::weak;

/// A store of its own, and places to make images in.
struct Lab {
    fixture: Fixture,
}

impl Lab {
    fn new() -> Lab {
        Lab {
            fixture: Fixture::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.fixture.path(name)
    }

    fn word(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let store = self.word("store");
        let mut all = vec!["--store", &store, "image"];
        all.extend(args);
        self.fixture.command(&all)
    }

    fn image(&self, args: &[&str]) -> Ran {
        spawn(&mut self.command(args), b"").wait()
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["--format", "json"]);
        let text = self.image(&all).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A tar of these files and their contents; as many owners as there are files.
    fn tar(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
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
    fn layout(&self, name: &str, layers: &[PathBuf]) -> String {
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
    fn two_layers(&self, word: &str) -> String {
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
    fn names(&self, directory: &str) -> Vec<String> {
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
    fn assert_empty(&self, when: &str) {
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
    fn assert_gc_leaves_nothing(&self, when: &str) {
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
        for name in self.names("images") {
            let _ = fs::remove_file(self.path("store/images").join(name));
        }
        self.image(&["gc"]);
    }
}

fn find(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            find(&path, found);
        }
        found.push(path);
    }
}

#[test]
fn an_image_is_imported_listed_shown_and_removed() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    assert_eq!(lab.json(&["list"]), json!([]));
    let source = lab.two_layers("one");
    let ran = lab
        .image(&["import", &source, "docker.io/a/one:1"])
        .exits(0);
    let (digest, name) = ran.out.trim_end().split_once(' ').unwrap();
    assert_eq!(name, "docker.io/a/one:1");
    assert!(ran.err.contains("layer 1 of 2: 48 files, "), "{ran:?}");
    assert!(ran.err.contains("layer 2 of 2: "), "{ran:?}");
    let quiet = lab.image(&["import", "-q", &source, "two"]).exits(0);
    assert_eq!(
        (&*quiet.err, &*quiet.out),
        ("", &*format!("{digest} two\n"))
    );
    assert_eq!(lab.names("layers").len(), 2, "one layer is one directory");

    let images = lab.json(&["list"]);
    assert_eq!(images[0]["name"], name);
    assert_eq!(images[0]["manifest"], digest);
    assert_eq!(images[0]["source"], source);
    assert_eq!(images[1]["layers"], images[0]["layers"]);
    let table = lab.image(&["list"]).ok();
    let (header, rows) = table.split_once('\n').unwrap();
    assert!(
        header.starts_with("NAME") && header.ends_with("STORE"),
        "{table}"
    );
    assert!(
        rows.starts_with(name) && rows.contains(&digest[7..19]),
        "{table}"
    );
    assert_eq!(lab.image(&["list", "-q"]).ok(), format!("{name}\ntwo\n"));

    let shown = lab.json(&["show", "two"]);
    assert_eq!(shown["config"]["config"]["Cmd"], json!(["/bin/prog"]));
    assert_eq!(shown["records"].as_array().unwrap().len(), 2);
    let text = lab.image(&["show", "two"]).ok();
    for line in [
        "Digest:      sha256:",
        "Platform:    linux/amd64\n",
        "Environment: A=1\n",
        "Labels:      k=v\n",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert!(!text.contains('\u{1b}'), "{text:?}");

    whiteout_is_there(&lab, &shown);
    remove_one_after_the_other(&lab, name, &shown["layers"]);
}

/// What the second layer hides, the kernel's overlay is told.
fn whiteout_is_there(lab: &Lab, shown: &Value) {
    let layers = shown["layers"].as_array().unwrap();
    let top = lab
        .path("store/layers")
        .join(layers[1].as_str().unwrap())
        .join("root");
    let whiteout = top.join("usr/1/file-1").symlink_metadata().unwrap();
    assert_eq!(
        (whiteout.mode() & 0o170_000, whiteout.rdev()),
        (0o020_000, 0)
    );
    assert_eq!(fs::read_to_string(top.join("etc/word")).unwrap(), "one");
}

fn remove_one_after_the_other(lab: &Lab, name: &str, layers: &Value) {
    lab.image(&["remove", "two", "none"])
        .fails(1, "\"none\" does not exist");
    assert_eq!(lab.image(&["list", "-q"]).ok(), format!("{name}\n"));
    assert_eq!(lab.image(&["gc"]).ok(), "there is nothing to remove\n");
    lab.image(&["remove", name]).ok();
    let would = lab.json(&["gc", "--dry-run"]);
    assert_eq!(
        (&would["removed"], would["layers"].as_array().unwrap().len()),
        (&json!(false), 2)
    );
    assert!(would["bytes"].as_u64().unwrap() > 10_000, "{would}");
    assert_eq!(lab.names("layers").len(), 2);
    let gone = lab.image(&["gc"]).ok();
    assert!(
        gone.contains(&format!("layer {}\n", layers[0].as_str().unwrap())),
        "{gone}"
    );
    assert!(
        gone.contains("blob sha256:") && gone.ends_with(" are free\n"),
        "{gone}"
    );
    lab.assert_empty("after gc");
    lab.image(&["show", "two"])
        .fails(1, "image \"two\" does not exist");
}

#[test]
fn a_root_filesystem_gets_a_config_and_a_name_of_its_own() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    let tar = lab.tar("small.tar", &[("bin/sh", "#"), ("etc/x", "y")]);
    let ran = lab.image(&["import", &format!("rootfs:{}", tar.display())]);
    assert!(ran.ok().ends_with(" small\n"));
    let shown = lab.json(&["show", "small"]);
    let diff = Digest::of(&fs::read(&tar).unwrap()).to_string();
    assert_eq!(shown["records"][0]["diff_id"], diff);
    assert_eq!(shown["config"]["rootfs"]["diff_ids"], json!([diff]));
    assert_eq!(shown["layers"][0].as_str().unwrap(), &diff[7..]);
    lab.image(&["verify"]).ok();
    // The second time it is found to be there when all of it was read.
    lab.image(&["import", &format!("rootfs:{}", tar.display()), "again"])
        .ok();
    assert_eq!(lab.names("layers").len(), 1);
    assert_eq!(lab.names("tmp"), Vec::<String>::new());
}

#[test]
fn a_directory_becomes_a_layer() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/file"), "content").unwrap();
    fs::hard_link(tree.join("a/file"), tree.join("a/b/second")).unwrap();
    symlink("/etc/passwd", tree.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let source = format!("rootfs:{}", tree.display());
    let ran = lab.image(&["import", &source]).exits(0);
    assert!(ran.out.ends_with(" tree\n"), "{ran:?}");
    assert!(
        ran.err.contains("1 file is a socket, and left out: "),
        "{ran:?}"
    );
    let shown = lab.json(&["show", "tree"]);
    let root = lab
        .path("store/layers")
        .join(shown["layers"][0].as_str().unwrap())
        .join("root");
    assert_eq!(
        fs::read_to_string(root.join("a/b/second")).unwrap(),
        "content"
    );
    let inode = |path: &str| root.join(path).metadata().unwrap().ino();
    assert_eq!(inode("a/file"), inode("a/b/second"));
    assert_eq!(
        fs::read_link(root.join("link")).unwrap(),
        Path::new("/etc/passwd")
    );
    // What is the same is one layer; what is not, is not.
    lab.image(&["import", &source, "again"]).ok();
    assert_eq!(lab.names("layers").len(), 1);
    let time = tree.join("a/file").metadata().unwrap().modified().unwrap();
    fs::write(tree.join("a/file"), "CONTENT").unwrap();
    let opened = fs::OpenOptions::new()
        .write(true)
        .open(tree.join("a/file"))
        .unwrap();
    opened.set_modified(time).unwrap();
    lab.image(&["import", &source, "changed"]).ok();
    assert_eq!(lab.names("layers").len(), 2);
    lab.image(&["verify"]).ok();
}

#[test]
fn a_name_goes_to_the_new_image_and_that_is_said() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    lab.image(&["import", &lab.two_layers("one"), "name"]).ok();
    let before = lab.json(&["list"])[0]["manifest"]
        .as_str()
        .unwrap()
        .to_owned();
    let ran = lab
        .image(&["import", &lab.two_layers("two"), "name"])
        .exits(0);
    assert!(
        ran.err.contains(&format!(
            "another image had this name, and has none now: {before}"
        )),
        "{ran:?}"
    );
    assert!(
        ran.err.contains("layer 1 of 2: is there already"),
        "{ran:?}"
    );
    assert_eq!(lab.names("layers").len(), 3);
    lab.image(&["gc"]).ok();
    assert_eq!(lab.names("layers").len(), 2);
    let ran = lab
        .image(&["import", "-q", &lab.two_layers("two"), "name"])
        .exits(0);
    assert_eq!(ran.err, "", "it is the same image");
    for name in ["", "..", "/x", "a b", "-x"] {
        let ran = lab.image(&["import", &lab.two_layers("two"), "--", name]);
        assert_eq!(ran.code, 1, "{ran:?}");
    }
    for name in ["", "..", "/x", "a b"] {
        lab.image(&["show", name])
            .fails(1, "invalid name of an image");
    }
}

#[test]
fn everything_in_the_store_is_hers_alone() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    lab.image(&["import", &lab.two_layers("one"), "one"]).ok();
    let store = lab.path("store");
    let mut found = vec![store.clone()];
    find(&store, &mut found);
    let uid = rustix::process::getuid().as_raw();
    assert!(found.len() > 60, "{}", found.len());
    for path in found {
        let metadata = path.symlink_metadata().unwrap();
        assert_eq!(metadata.uid(), uid, "{path:?}");
        let beneath = path
            .strip_prefix(store.join("layers"))
            .unwrap_or(Path::new(""));
        // A layer's tree is as the layer says, in a directory that is hers alone.
        if beneath.components().count() < 2 || beneath.ends_with("layer.json") {
            let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(metadata.mode() & 0o7777, expected, "{path:?}");
        }
    }
}

#[test]
fn a_store_that_is_not_hers_alone_is_refused() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    let source = lab.two_layers("one");
    lab.image(&["import", &source, "one"]).ok();
    let set =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (name, word) in [
        ("store", "as the image store"),
        ("store/layers", "of the image store"),
    ] {
        set(&lab.path(name), 0o770);
        for args in [&["import", &source, "two"][..], &["gc"], &["list"]] {
            // Listing has no need of the layers.
            if args[0] != "list" || name == "store" {
                let ran = lab
                    .image(args)
                    .fails(1, "others may write to it (mode 0770)");
                assert!(ran.err.contains(word), "{ran:?}");
            }
        }
        set(&lab.path(name), 0o700);
    }
    fs::rename(lab.path("store/images"), lab.path("elsewhere")).unwrap();
    symlink(lab.path("elsewhere"), lab.path("store/images")).unwrap();
    lab.image(&["list"])
        .fails(1, "it is a symbolic link or not a directory");
    fs::remove_file(lab.path("store/images")).unwrap();
    fs::rename(lab.path("elsewhere"), lab.path("store/images")).unwrap();
    symlink(lab.path("store"), lab.path("link")).unwrap();
    let link = lab.word("link");
    let run = |args: &[&str]| spawn(&mut lab.fixture.command(args), b"").wait();
    run(&["--store", &link, "image", "list"]).fails(1, "it is a symbolic link");
    run(&["--store", "/etc", "image", "import", &source, "one"]).fails(1, "it belongs to uid 0");
    // Somebody else's is read, if only its owner can write to it.
    run(&[
        "--store",
        &lab.word("none"),
        "--store-ro",
        "/tmp",
        "image",
        "list",
    ])
    .fails(1, "others may write to it");
}

#[test]
fn a_store_of_others_is_read_and_not_touched() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    lab.image(&["import", &lab.two_layers("one"), "one"]).ok();
    let mut before = Vec::new();
    find(&lab.path("store"), &mut before);
    let (own, site) = (lab.word("own"), lab.word("store"));
    let run = |args: &[&str]| {
        let mut all = vec!["--store", &own, "--store-ro", &site, "image"];
        all.extend(args);
        spawn(&mut lab.fixture.command(&all), b"").wait()
    };
    assert_eq!(run(&["list", "-q"]).ok(), "one\n");
    let listed: Value = serde_json::from_str(&run(&["list", "-f", "json"]).ok()).unwrap();
    assert_eq!(
        (&listed[0]["readonly"], &listed[0]["store"]),
        (&json!(true), &json!(site))
    );
    assert!(run(&["show", "one"]).ok().contains("Name:        one\n"));
    assert!(run(&["verify"]).ok().contains("one config"), "verify");
    run(&["remove", "one"]).fails(1, "does not exist");
    assert_eq!(run(&["gc"]).ok(), "there is nothing to remove\n");
    let mut after = Vec::new();
    find(&lab.path("store"), &mut after);
    assert_eq!(before, after);
    // By the environment, too.
    let mut command = lab
        .fixture
        .command(&["--store", &own, "image", "list", "-q"]);
    command.env("LODGER_STORE_RO", &site);
    assert_eq!(spawn(&mut command, b"").wait().ok(), "one\n");
    let mut command = lab.fixture.command(&["image", "list", "-q"]);
    command.env("LODGER_STORE", &site);
    assert_eq!(spawn(&mut command, b"").wait().ok(), "one\n");
}

#[test]
fn verify_finds_what_was_changed() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    lab.image(&["import", &lab.two_layers("one"), "one"]).ok();
    lab.image(&["import", &lab.two_layers("two"), "two"]).ok();
    let all = lab.json(&["verify"]);
    assert_eq!(all.as_array().unwrap().len(), 8);
    assert!(
        all.as_array()
            .unwrap()
            .iter()
            .all(|told| told["finding"] == "intact"),
        "{all}"
    );
    let top = lab.json(&["show", "one"])["layers"][1]
        .as_str()
        .unwrap()
        .to_owned();
    let file = lab.path("store/layers").join(top).join("root/etc/word");
    let before = file.metadata().unwrap();
    fs::write(&file, "own").unwrap();
    let opened = fs::OpenOptions::new().write(true).open(&file).unwrap();
    opened.set_modified(before.modified().unwrap()).unwrap();
    let ran = lab.image(&["verify", "one"]).exits(1);
    assert!(
        ran.out
            .contains("damaged: some of it was changed after the import"),
        "{ran:?}"
    );
    lab.image(&["verify", "two"]).ok();
    let config = lab.json(&["show", "two"])["config"].to_string();
    let digest = lab.json(&["list"])[1]["config"].as_str().unwrap()[7..].to_owned();
    fs::write(lab.path("store/blobs/sha256").join(digest), config + " ").unwrap();
    let ran = lab.image(&["verify", "two"]).exits(1);
    assert!(
        ran.out.contains("its content has another digest"),
        "{ran:?}"
    );
    lab.image(&["show", "two"])
        .fails(1, "its content has another digest");
}

#[test]
fn sixteen_imports_of_one_image_do_the_work_once() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    let source = lab.two_layers("one");
    let running: Vec<_> = (0..16)
        .map(|n| {
            spawn(
                &mut lab.command(&["import", &source, &format!("name-{n}")]),
                b"",
            )
        })
        .collect();
    let ended: Vec<Ran> = running.into_iter().map(|one| one.wait().exits(0)).collect();
    for layer in ["layer 1 of 2: ", "layer 2 of 2: "] {
        let unpacked = ended
            .iter()
            .flat_map(|ran| ran.err.lines())
            .filter(|line| line.starts_with(layer) && line.contains(" files, "));
        assert_eq!(unpacked.count(), 1, "{layer}");
    }
    assert_eq!(lab.names("images").len(), 16);
    assert_eq!(lab.names("layers").len(), 2);
    assert_eq!(lab.names("tmp"), Vec::<String>::new());
    lab.image(&["verify"]).ok();
    lab.assert_gc_leaves_nothing("after all");
}

#[test]
fn sixteen_imports_of_different_images_share_what_is_the_same() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    let sources: Vec<String> = (0..16).map(|n| lab.two_layers(&format!("w{n}"))).collect();
    let running: Vec<_> = sources
        .iter()
        .enumerate()
        .map(|(n, source)| spawn(&mut lab.command(&["import", source, &format!("i{n}")]), b""))
        .collect();
    for one in running {
        one.wait().ok();
    }
    assert_eq!(lab.names("images").len(), 16);
    assert_eq!(lab.names("layers").len(), 17);
    lab.image(&["verify"]).ok();
    lab.assert_gc_leaves_nothing("after all");
}

/// Points of an import, spread over the calls of each of its threads: calls of this sort are few in each, and what is between two
/// of them is in the other threads.
fn points(lab: &Lab, source: &str) -> Vec<(Vec<Call>, usize)> {
    let traces = lab.path("traces");
    fs::create_dir(&traces).unwrap();
    let command = lab.command(&["import", source, "one"]);
    spawn(
        &mut under_strace(&["-ff"], &traces.join("t"), &command),
        b"",
    )
    .wait()
    .ok();
    let mut points = Vec::new();
    for entry in fs::read_dir(&traces).unwrap() {
        let of_thread = calls(&entry.unwrap().path());
        // Before the store is opened there is nothing to leave behind.
        let begin = of_thread
            .iter()
            .position(|call| call.line.contains("\"lock\""))
            .unwrap_or(0);
        let step = ((of_thread.len() - begin) / 20).max(1);
        points.extend(
            (begin..of_thread.len())
                .step_by(step)
                .map(|n| (of_thread.clone(), n)),
        );
    }
    points
}

#[test]
fn an_import_that_is_killed_leaves_nothing_that_gc_does_not_remove() {
    lodger_only!("being killed at many points");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let mut lab = Lab::new();
    // No setuid helper is called, which would lose its privilege under a tracer.
    lab.fixture.sleeping("neighbour");
    let source = lab.two_layers("one");
    let points = points(&lab, &source);
    lab.assert_gc_leaves_nothing("at first");
    let (mut killed, mut unfinished) = (0, 0);
    for (calls, n) in &points {
        let option = inject(calls, *n, Fate::Kill);
        let command = lab.command(&["import", &source, "one"]);
        let trace = lab.path("trace");
        let ran = spawn(&mut under_strace(&["-f", &option], &trace, &command), b"").wait();
        // Which thread makes how many calls differs from one time to the next.
        if ran.code == 137 {
            killed += 1;
        } else {
            assert_eq!(ran.code, 0, "{option}: {ran:?}");
        }
        let names = lab.image(&["list", "-q"]).ok();
        if names == "one\n" {
            lab.image(&["verify"]).ok();
        } else {
            assert_eq!(names, "");
            unfinished += 1;
        }
        for layer in lab.names("layers") {
            assert!(
                lab.path("store/layers")
                    .join(layer)
                    .join("layer.json")
                    .exists(),
                "{option}"
            );
        }
        lab.assert_gc_leaves_nothing(&option);
    }
    assert!(
        killed >= 50 && unfinished >= 40,
        "killed at {killed} points, {unfinished} before the end"
    );
    lab.image(&["import", &source, "one"]).ok();
    lab.image(&["verify"]).ok();
}

/// What is left is taken over, too, without a gc.
#[test]
fn an_import_after_a_killed_one_goes_on_as_if_there_had_been_none() {
    lodger_only!("being killed");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let mut lab = Lab::new();
    lab.fixture.sleeping("neighbour");
    let source = lab.two_layers("one");
    let command = lab.command(&["import", &source, "one"]);
    let option = "--inject=symlinkat,linkat,fchownat,utimensat,mkdirat:signal=KILL:when=12";
    let ran = spawn(
        &mut under_strace(&["-f", option], &lab.path("trace"), &command),
        b"",
    )
    .wait();
    assert_eq!(ran.code, 137, "{ran:?}");
    assert_ne!(lab.names("tmp"), Vec::<String>::new());
    lab.image(&["import", &source, "one"]).ok();
    lab.image(&["verify"]).ok();
    assert_eq!(lab.names("tmp"), Vec::<String>::new());
}

#[test]
fn an_import_that_is_interrupted_removes_what_it_has() {
    lodger_only!("being interrupted");
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    let mut lab = Lab::new();
    lab.fixture.sleeping("neighbour");
    let source = lab.two_layers("one");
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let command = lab.command(&["import", &source, "one"]);
        // It is blocked by then, and is there when the threads begin.
        let option = format!("--inject=signalfd4:signal={signal}:when=1");
        let ran = spawn(
            &mut under_strace(&[&option], &lab.path("trace"), &command),
            b"",
        )
        .wait();
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains("the import was interrupted"), "{ran:?}");
        assert_eq!(lab.names("tmp"), Vec::<String>::new(), "{signal}");
        assert_eq!(lab.names("images"), Vec::<String>::new(), "{signal}");
    }
}

/// Runs a script with a small tmpfs as the store, in a user and a mount namespace of its own.
fn on_small_disk(lab: &Lab, options: &str, source: &str) -> Ran {
    let store = lab.word("disk");
    fs::create_dir_all(&store).unwrap();
    let script = r#"mount -t tmpfs -o "mode=700,$1" none "$2" || exit 99
        shift
        "$2" --store "$1" --root "$4" image import "$3" one
        echo "status $?"
        "$2" --store "$1" --root "$4" image list -q
        find "$1" -mindepth 1 | sed "s|^$1/||" | sort"#;
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script, "sh", options, &store]);
    command.arg(crate::harness::runtime_binary());
    command.arg(source).arg(lab.path("state"));
    spawn(&mut command, b"").wait()
}

#[test]
fn a_full_disk_is_told_apart_and_leaves_nothing() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    let large = "x".repeat(100_000);
    let files: Vec<(String, &str)> = (0..30).map(|n| (format!("f{n}"), &*large)).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, *text)).collect();
    let tar = lab.tar("large.tar", &files);
    let source = lab.layout("large.oci", &[tar]);
    let usual = "blobs\nimages\nlayers\nlock\ntmp\n";
    for (options, word) in [
        ("size=1m", "has no space left"),
        ("nr_inodes=20", "has no inodes left"),
    ] {
        let ran = on_small_disk(&lab, options, &source).exits(0);
        assert_eq!(ran.out, format!("status 1\n{usual}"), "{options}: {ran:?}");
        assert!(ran.err.contains(word), "{options}: {ran:?}");
    }
    let ran = on_small_disk(&lab, "size=20m,nr_inodes=1000", &source).exits(0);
    assert!(ran.out.contains("\nstatus 0\none\n"), "{ran:?}");
}

/// With one id all files are hers.
#[test]
fn squashed_owners_are_counted_and_layers_of_their_own() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    fs::create_dir_all(lab.path("t/d")).unwrap();
    fs::write(lab.path("t/d/f"), "x").unwrap();
    let tar = lab.path("owned.tar");
    let mut command = Command::new("tar");
    command
        .args(["--owner=33", "--group=44", "-C"])
        .arg(lab.path("t"));
    spawn(command.arg("-cf").arg(&tar).arg("d"), b"")
        .wait()
        .ok();
    let source = format!("rootfs:{}", tar.display());
    lab.image(&["import", &source, "mapped"]).ok();
    let ran = lab
        .image(&["import", "--squash-owners", &source, "squashed"])
        .exits(0);
    assert!(
        ran.err
            .contains("2 files have another owner in the image, and yours here"),
        "{ran:?}"
    );
    let layers = lab.names("layers");
    assert_eq!(layers.len(), 2);
    assert_eq!(layers[1], format!("{}-squashed", layers[0]));
    let owner = |layer: &str| {
        let path = lab.path("store/layers").join(layer).join("root/d/f");
        path.metadata().unwrap().uid()
    };
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(owner(&layers[1]), uid);
    assert_ne!(owner(&layers[0]), uid);
    let shown = lab.image(&["show", "squashed"]).ok();
    assert!(
        shown.contains("Owners:      all files are yours\n"),
        "{shown}"
    );
    assert!(
        shown.contains("Note:        2 files have another owner"),
        "{shown}"
    );
    lab.image(&["verify"]).ok();
    lab.assert_gc_leaves_nothing("after all");
}

/// Where the unpacker's own care is taken away, the kernel still keeps it to the store.
#[test]
fn a_layer_that_gets_past_the_unpacker_does_not_get_past_landlock() {
    lodger_only!("the store of images");
    let lab = Lab::new();
    fs::create_dir(lab.path("outside")).unwrap();
    fs::create_dir(lab.path("evil")).unwrap();
    fs::create_dir(lab.path("evil/link")).unwrap();
    fs::write(lab.path("evil/link/canary"), "taken").unwrap();
    let tar = lab.path("evil.tar");
    let run = |command: &mut Command| spawn(command, b"").wait().ok();
    let outside = lab.word("outside");
    symlink(&outside, lab.path("link")).unwrap();
    let top = lab.word("");
    run(Command::new("tar")
        .args(["-C", &top, "-cf"])
        .arg(&tar)
        .arg("link"));
    let evil = lab.word("evil");
    run(Command::new("tar")
        .args(["-C", &evil, "-rf"])
        .arg(&tar)
        .arg("link/canary"));
    let source = format!("rootfs:{}", tar.display());
    let attack = || {
        let _ = fs::remove_file(lab.path("outside/canary"));
        let ran = lab.image(&["import", &source, "evil"]);
        (lab.path("outside/canary").exists(), ran)
    };
    let (taken, ran) = attack();
    assert!(!taken, "{ran:?}");
    let (taken, ran) = weak::without(&["LayerLinks", "LayerNames"], attack);
    assert!(!taken, "{ran:?}");
    let (taken, ran) = weak::without(&["LayerLinks", "LayerNames", "Confined"], attack);
    assert!(taken, "nothing was tried: {ran:?}");
}
