//! Bundles of images, where crun runs too: it wants control groups of version 2 alone.

use std::process::Command;

use crate::harness::{spawn, which};
use crate::image_bundle::set_program;
use crate::image_lab::images_or_skip;

#[test]
fn crun_runs_the_bundle_of_an_image() {
    let images = images_or_skip!();
    images.import(&images.made("debian"), "debian");
    images.lodger(&["image", "bundle", "debian", "b"]).ok();
    set_program(&images, "b", &["cat", "/etc/os-release"]);
    let (root, bundle) = (images.word("crun"), images.word("b"));
    let mut crun = Command::new(which("crun"));
    crun.args([
        "--cgroup-manager=cgroupfs",
        "--root",
        &root,
        "run",
        "--bundle",
        &bundle,
        "c",
    ]);
    let out = spawn(&mut crun, b"").wait().ok();
    assert!(out.contains("ID=debian\n"), "{out}");
}
