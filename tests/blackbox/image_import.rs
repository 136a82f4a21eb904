//! Imports at once, killed, interrupted, without room or with one id: what each leaves in the store.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use crate::harness::{Ran, lodger_only, skip, spawn};
use crate::image_store_lab::Lab;
use crate::tracing::{Call, Fate, calls, inject, under_strace, works};
use crate::weak;

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
