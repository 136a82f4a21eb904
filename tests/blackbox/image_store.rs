//! The store of images: what an import puts there, who may use it, and what is told of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use lodger::image::Digest;
use serde_json::{Value, json};

use crate::harness::{lodger_only, spawn};
use crate::image_store_lab::{Lab, find};

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
