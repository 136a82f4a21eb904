//! A container of an image, whose root is an overlay of the store: what it has changed stays for its checkpoint.

use std::path::Path;

use serde_json::{Value, json};

use crate::checkpoint_lab::{checkpoints_or_skip, criu, path_with};
use crate::harness::{Ran, spawn, wait_for};
use crate::image_run::Image;

/// What its program does: it changes its root, and counts in there.
const PROGRAM: &str = "echo changed >/etc/passwd; echo mine >/mine; n=0; while :; do n=$((n + 1)); echo $n >/count.new; mv /count.new /count; sleep 0.02; done";

fn lodger(image: &Image, args: &[&str]) -> Ran {
    let mut command = image.command(args);
    command.env("PATH", path_with(&criu().unwrap()));
    spawn(&mut command, b"").wait()
}

fn seen(image: &Image, id: &str, path: &str) -> String {
    lodger(image, &["exec", id, "/bin/cat", path]).ok()
}

/// The number that the program is at; 0 as long as it has written none.
fn count(image: &Image, id: &str) -> u64 {
    let ran = lodger(image, &["exec", id, "/bin/cat", "/count"]);
    ran.out.trim().parse().unwrap_or(0)
}

fn goes_on(image: &Image, id: &str, after: u64) -> u64 {
    wait_for("the program to go on", || {
        Some(count(image, id)).filter(|now| *now > after)
    })
}

#[test]
fn what_a_container_of_an_image_has_changed_stays_for_its_checkpoint() {
    checkpoints_or_skip!();
    let image = Image::new(&json!({}), |_| {});
    let program = ["run", "-d", "--image", "i", "c", "/bin/sh", "-c", PROGRAM];
    image.command(&program).status().unwrap();
    let before = goes_on(&image, "c", 1);
    let state: Value = serde_json::from_str(&lodger(&image, &["state", "c"]).ok()).unwrap();
    let bundle = state["bundle"].as_str().unwrap().to_owned();
    let name = Path::new(&bundle).file_name().unwrap().to_str().unwrap();
    let images = image.fixture.path("ck");
    let images = images.to_str().unwrap();
    let ran = lodger(&image, &["checkpoint", "--image-path", images, "c"]);
    assert!(ran.err.contains("image remove --changes"), "{ran:#?}");
    ran.ok();
    assert_eq!(lodger(&image, &["list", "-q"]).ok(), "");
    lodger(&image, &["image", "gc"]).ok();
    for id in ["d", "e"] {
        let restore = ["restore", "-d", "--image-path", images, "-b", &bundle, id];
        lodger(&image, &restore).ok();
        assert_eq!(seen(&image, id, "/etc/passwd"), "changed\n");
        assert_eq!(seen(&image, id, "/mine"), "mine\n");
        assert!(goes_on(&image, id, before) > before);
        // Two cannot have one directory.
        let again = ["restore", "-d", "--image-path", images, "-b", &bundle, "f"];
        lodger(&image, &again).fails(1, "cannot restore container \"f\"");
        lodger(&image, &["delete", "-f", id]).ok();
    }
    assert!(Path::new(&bundle).exists());
    lodger(&image, &["image", "remove", "--changes", name]).ok();
    assert!(!Path::new(&bundle).exists());
}
