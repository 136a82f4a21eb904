//! `image bundle`: the copy of an image that any runtime runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{skip, spawn, which};
use crate::image_lab::{Images, assert_same, images_or_skip};
use crate::tracing::{under_strace, works};

/// Makes the program of a bundle this one.
pub(crate) fn set_program(images: &Images, bundle: &str, args: &[&str]) {
    let path = images.path(bundle).join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["args"] = json!(args);
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn the_copy_is_what_the_kernel_shows_of_the_layers() {
    let images = images_or_skip!();
    images.import(&images.made("small"), "small");
    let said = images.lodger(&["image", "bundle", "small", "small"]).ok();
    assert!(said.contains(" files, "), "{said}");
    let copy = images.listed("small/rootfs");
    assert_same(&copy, &images.merged("small"), &[]);
    assert_eq!(
        fs::metadata(images.path("small")).unwrap().mode() & 0o7777,
        0o700
    );
}

#[test]
fn a_bundle_runs() {
    let images = images_or_skip!();
    images.import(&images.made("debian"), "debian");
    images.lodger(&["image", "bundle", "debian", "b"]).ok();
    set_program(
        &images,
        "b",
        &[
            "sh",
            "-c",
            "cat /etc/os-release; stat -c %u /var/cache/apt/archives/partial",
        ],
    );
    let out = images.lodger(&["run", "--bundle", "b", "t1"]).ok();
    assert!(out.contains("ID=debian\n"), "{out}");
    // That directory is _apt's.
    assert!(out.ends_with("\n42\n"), "{out}");
    // It no longer needs the store.
    images.lodger(&["image", "remove", "debian"]).ok();
    images.lodger(&["image", "gc"]).ok();
    images.lodger(&["run", "--bundle", "b", "t2"]).ok();
}

#[test]
fn runc_runs_it_too() {
    let images = images_or_skip!();
    images.import(&images.made("debian"), "debian");
    images.lodger(&["image", "bundle", "debian", "b"]).ok();
    set_program(&images, "b", &["cat", "/etc/os-release"]);
    let (root, bundle) = (images.word("runc"), images.word("b"));
    let mut runc = Command::new(which("runc"));
    runc.args(["--root", &root, "run", "--bundle", &bundle, "c"]);
    let out = spawn(&mut runc, b"").wait().ok();
    assert!(out.contains("ID=debian\n"), "{out}");
}

#[test]
fn a_directory_with_something_in_it_stays_as_it_is() {
    let images = images_or_skip!();
    images.import(&images.made("small"), "small");
    fs::create_dir(images.path("b")).unwrap();
    fs::write(images.path("b/mine"), "x").unwrap();
    images
        .lodger(&["image", "bundle", "small", "b"])
        .fails(1, "\"b\" is not empty");
    assert_eq!(fs::read_dir(images.path("b")).unwrap().count(), 1);
    images
        .lodger(&["image", "bundle", "none", "c"])
        .fails(1, "image \"none\" does not exist");
    assert!(!images.path("c").exists());
    fs::remove_file(images.path("b/mine")).unwrap();
    images.lodger(&["image", "bundle", "small", "b"]).ok();
    images
        .lodger(&["image", "bundle", "small", "b"])
        .fails(1, "\"b\" is not empty");
    assert!(images.path("b/config.json").exists());
}

#[test]
fn a_failure_leaves_nothing() {
    let images = images_or_skip!();
    images.import(&images.made("debian"), "debian");
    fs::create_dir(images.path("empty")).unwrap();
    // A write that goes beyond this fails, as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    for directory in ["new", "empty"] {
        let command = images.command(&["image", "bundle", "debian", directory]);
        let mut limited = Command::new("sh");
        limited
            .args(["-c", script, "sh"])
            .arg(command.get_program());
        limited.args(command.get_args());
        limited.current_dir(images.path(""));
        limited.env("LODGER_STORE", images.path("store"));
        spawn(&mut limited, b"").wait().fails(1, "EFBIG");
    }
    assert!(!images.path("new").exists());
    assert_eq!(fs::read_dir(images.path("empty")).unwrap().count(), 0);
    assert_eq!(parts(&images), [""; 0]);
}

/// The names of bundles that are not complete.
fn parts(images: &Images) -> Vec<String> {
    let names = fs::read_dir(images.path("")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".part")).collect()
}

#[test]
fn a_bundle_that_is_not_complete_is_not_at_its_place() {
    let images = images_or_skip!();
    if !works() {
        skip!("strace is not installed, or may not trace");
    }
    images.import(&images.made("small"), "small");
    // No setuid helper is called, which would lose its privilege under a tracer.
    let neighbour = ["run", "-d", "--image", "small", "n", "sleep", "600"];
    images.lodger(&neighbour).ok();
    let command = images.command(&["image", "bundle", "small", "b"]);
    let option = "--inject=mkdirat:signal=KILL:when=20";
    let mut traced = under_strace(&["-f", option], &images.path("trace"), &command);
    let ran = spawn(&mut traced, b"").wait();
    let found = (ran.code, images.path("b").exists(), parts(&images));
    images.lodger(&["delete", "-f", "n"]).ok();
    assert_eq!(found, (137, false, vec![".b.part".to_owned()]), "{ran:?}");
    // The next one removes it.
    images.lodger(&["image", "bundle", "small", "b"]).ok();
    assert_eq!(parts(&images), [""; 0]);
    assert_same(&images.listed("b/rootfs"), &images.merged("small"), &[]);
}

#[test]
fn the_program_is_what_comes_after_the_directory() {
    let images = images_or_skip!();
    images.import(&images.made("holes"), "holes");
    let hint = "name one at the end of the command line";
    images
        .lodger(&["image", "bundle", "holes", "b"])
        .fails(1, hint);
    assert!(!images.path("b").exists());
    let args = ["image", "bundle", "holes", "b", "/bin/prog", "-v", "--help"];
    images.lodger(&args).ok();
    let config = fs::read(images.path("b/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["process"]["args"], json!(&args[4..]));
}
