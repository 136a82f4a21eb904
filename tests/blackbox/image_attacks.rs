//! Attacks on what comes after the import: an image that is copied, a store of somebody else, two commands at once, and a container
//! that leaves what is hard to remove.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::harness::{Fixture, lodger_only, probe_binary, spawn};
use crate::image_run::Image;
use crate::tarball::Tar;
use crate::weak::{Outcome, held_by};

/// The names in a directory.
fn names(directory: &PathBuf) -> Vec<String> {
    let Ok(found) = fs::read_dir(directory) else {
        return Vec::new();
    };
    found
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A volume lies behind a link that leads to nothing in the image, and to a directory on the host.
#[test]
fn a_volume_behind_a_link_makes_no_directory_of_the_host() {
    lodger_only!("switching defences off");
    let outside = tempfile::Builder::new().prefix("outside").tempdir();
    let outside = outside.unwrap();
    let volumes = json!({"/link/made": {}});
    let image = Image::new(&json!({"Volumes": volumes, "Cmd": ["/bin/true"]}), |root| {
        symlink(outside.path(), root.join("link")).unwrap();
    });
    held_by(&["LayerLinks"], || {
        let ran = image.run(&["--copy"], &[]);
        let made = names(&outside.path().to_owned()).pop();
        Outcome::of(made, ran.err)
    });
}

/// Whoever owns a store gives containers his files, and not what the caller can reach.
#[test]
fn a_link_in_a_store_of_others_is_no_layer() {
    lodger_only!("switching defences off");
    held_by(&["StateDirectory"], || {
        let image = Image::new(&json!({"Cmd": ["/bin/cat", "/secret"]}), |_| {});
        let layers = image.fixture.path("store/layers");
        let layer = layers.join(names(&layers).pop().unwrap());
        let elsewhere = image.fixture.path("elsewhere");
        fs::rename(&layer, &elsewhere).unwrap();
        fs::write(elsewhere.join("root/secret"), "the caller's\n").unwrap();
        symlink(&elsewhere, &layer).unwrap();
        let (own, site) = (image.fixture.path("own"), image.fixture.path("store"));
        let mut command = image.fixture.command(&[]);
        command.arg("--store").arg(own).arg("--store-ro").arg(site);
        command.args(["run", "--image", "i", "c"]);
        let ran = spawn(&mut command, b"").wait();
        fs::remove_file(&layer).unwrap();
        fs::remove_file(elsewhere.join("root/secret")).unwrap();
        fs::rename(&elsewhere, &layer).unwrap();
        Outcome::of(ran.out.contains("the caller's").then_some(ran.out), ran.err)
    });
}

/// What somebody else calls a record of an image is read if it is a file, of bounded size, that names layers and nothing else.
#[test]
fn records_of_others_neither_hang_nor_lead_elsewhere() {
    lodger_only!("images");
    let image = Image::new(&json!({"Cmd": ["/bin/true"]}), |_| {});
    let images = image.fixture.path("store/images");
    let good = fs::read_to_string(images.join("i.json")).unwrap();
    mknodat(
        CWD,
        images.join("fifo.json"),
        FileType::Fifo,
        Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    symlink("/etc/passwd", images.join("link.json")).unwrap();
    symlink("/dev/zero", images.join("zero.json")).unwrap();
    fs::write(images.join("deep.json"), "[".repeat(4 << 20)).unwrap();
    let sparse = fs::File::create(images.join("large.json")).unwrap();
    sparse.set_len(3 << 30).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&good).unwrap();
    record["name"] = json!("up");
    record["layers"] = json!(["../../outside"]);
    fs::write(images.join("up.json"), record.to_string()).unwrap();
    for (name, why) in [
        ("fifo", "not a regular file"),
        ("link", "ELOOP"),
        ("zero", "ELOOP"),
        ("deep", "cannot read the image"),
        ("large", "over 4194304 bytes"),
        ("up", "is no layer"),
    ] {
        let ran = image.lodger(&["image", "show", name]);
        assert!(ran.code != 0 && ran.err.contains(why), "{name}: {ran:?}");
        fs::remove_file(images.join(format!("{name}.json"))).unwrap();
    }
}

/// The directory of a running container is not a leftover because the store, or the state directory, has another name today.
#[test]
fn gc_knows_a_running_container_by_any_name_of_the_store() {
    lodger_only!("images");
    let image = Image::new(&json!({"Cmd": ["/bin/sleep", "1000"]}), |_| {});
    let base = image.fixture.path("");
    symlink(&base, base.join("link")).unwrap();
    let lodger = |store: &str, root: &str, args: &[&str]| {
        let mut command = Command::new(image.fixture.command(&[]).get_program());
        let place = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_default();
        command
            .env("XDG_RUNTIME_DIR", place)
            .current_dir(&base)
            .args(["--root", root, "--store", store])
            .args(args);
        spawn(&mut command, b"").wait()
    };
    // As she calls them from her own directory.
    lodger("store", "state", &["run", "-d", "--image", "i", "c"]).ok();
    let containers = image.fixture.path("store/containers");
    let before = names(&containers);
    assert_eq!(before.len(), 1);
    let store = base.join("link/store");
    let mut gc = image.fixture.command(&[]);
    gc.arg("--store").arg(store).args(["image", "gc"]);
    gc.current_dir("/");
    let ran = spawn(&mut gc, b"").wait();
    let after = names(&containers);
    lodger("store", "state", &["delete", "-f", "c"]).ok();
    assert_eq!((after, ran.code), (before, 0), "{}", ran.err);
}

/// Closed directories, control characters, and a tree with more directories in one another than a process may have files open.
#[test]
fn whatever_a_container_leaves_goes_with_it() {
    lodger_only!("images");
    let script = "umask 0; mkdir -p /left; cd /left
        mkdir closed; mkdir closed/in; touch closed/in/file; chmod 0 closed/in closed
        mkdir \"$(printf 'a\\nb\\033[2J')\"; touch \"$(printf 'a\\nb\\033[2J/c\\377')\"
        for round in $(seq 20); do
            p=.deep-0; for i in $(seq 60); do p=$p/d; done
            mkdir -p $p; mkdir up$round; mv .deep-0 up$round/ ; [ $round = 1 ] || mv up$((round - 1)) up$round/$p/
        done
        find up20 -type d | wc -l";
    let image = Image::new(&json!({"Cmd": ["/bin/sh", "-c", script]}), |_| {});
    let ran = image.run(&[], &[]);
    assert_eq!(ran.ok(), "1240\n");
    assert_eq!(
        names(&image.fixture.path("store/containers")),
        Vec::<String>::new()
    );
}

/// Files with very many names in directories with very long paths: what is remembered of each is small.
#[test]
fn a_copy_with_many_hard_links_needs_little_memory() {
    lodger_only!("images");
    let fixture = Fixture::new();
    let long = ["d".repeat(98).as_str(); 40].join("/");
    let mut tar = Tar::new().dir("e").dir(&long).symlink("l", &long);
    for number in 0..20_000 {
        tar = tar.file(&format!("l/{number}"), "");
    }
    for number in 0..20_000 {
        tar = tar.hard_link(&format!("e/{number}"), &format!("l/{number}"));
    }
    let file = fixture.path("links.tar");
    fs::write(&file, tar.end()).unwrap();
    let store = fixture.path("store");
    let source = format!("rootfs:{}", file.display());
    let lodger = |args: &[&str]| {
        let lodger = fixture.command(&[]);
        let mut command = Command::new(probe_binary());
        command.arg("measure").arg(lodger.get_program());
        command.args(lodger.get_args()).arg("--store").arg(&store);
        command.args(args);
        spawn(&mut command, b"").wait()
    };
    let bundle = fixture.path("copy");
    for args in [
        &["image", "import", &source, "x"][..],
        &["image", "bundle", "x", bundle.to_str().unwrap()],
        &["image", "verify", "x"],
    ] {
        let ran = lodger(args).exits(0);
        let peak = ran.err.lines().last().unwrap_or_default();
        let peak: u64 = peak.strip_prefix("peak KiB: ").unwrap().parse().unwrap();
        assert!(peak <= 64 << 10, "{args:?}: {peak} KiB");
    }
}

/// As deep as layers may be, with as many open files as login shells have.
#[test]
fn the_deepest_layer_is_verified_and_removed() {
    lodger_only!("images");
    let fixture = Fixture::new();
    let tar = Tar::new().dir(&["d"; 1024].join("/"));
    let file = fixture.path("deep.tar");
    fs::write(&file, tar.end()).unwrap();
    let store = fixture.path("store");
    let source = format!("rootfs:{}", file.display());
    for args in [
        &["image", "import", &source, "x"][..],
        &["image", "verify", "x"],
        &["image", "remove", "x"],
        &["image", "gc"],
    ] {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -S -n 1024; exec \"$@\"", "sh"]);
        let lodger = fixture.command(&[]);
        command.arg(lodger.get_program()).args(lodger.get_args());
        command.arg("--store").arg(&store).args(args);
        spawn(&mut command, b"").wait().ok();
    }
    assert_eq!(names(&fixture.path("store/layers")), Vec::<String>::new());
}
