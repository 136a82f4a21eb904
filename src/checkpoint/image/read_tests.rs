#![expect(clippy::disallowed_methods, reason = "directories to work on are made")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::super::tests::manifest;
use super::*;

fn with(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut manifest = serde_json::to_value(manifest()).unwrap();
    manifest["files"]["core-1.img"] =
        json!({"size": 1, "digest": crate::checkpoint::image::sum::of(b"x")});
    change(&mut manifest);
    serde_json::to_vec(&manifest).unwrap()
}

/// What is compared with the bundle's config.json at the restore is what was in it at the checkpoint.
#[test]
fn the_config_is_read_back_as_it_was() {
    let config = json!({"annotations": {}, "x": [1.844_674_404_737_095_4e20, 0.1, 1e-300, u64::MAX, i64::MIN, -0.5]});
    let content = with(|m| m["config"] = config.clone());
    assert_eq!(parse(&content, &machine()).unwrap().config, config);
}

#[test]
fn only_a_checkpoint_of_this_format_and_machine_is_restored() {
    let machine = machine();
    assert!(parse(&with(|_| {}), &machine).is_ok());
    for (content, why, remedy) in [
        (Vec::new(), "damaged", "a copy of it"),
        (b"{".to_vec(), "damaged", "a copy of it"),
        (b"{}".to_vec(), "damaged", "a copy of it"),
        (
            with(|m| m["version"] = json!(0)),
            "older",
            "the lodger that made it",
        ),
        (with(|m| m["version"] = json!(2)), "newer", "a newer lodger"),
        (
            with(|m| m["version"] = json!(-1)),
            "damaged",
            "a copy of it",
        ),
        // Whatever else another format has.
        (
            br#"{"version": 7, "images": []}"#.to_vec(),
            "newer",
            "a newer lodger",
        ),
        (
            with(|m| m["machine"] = json!("pdp11")),
            "\"pdp11\"",
            "on a machine",
        ),
        (with(|m| m["id"] = json!(7)), "damaged", "a copy of it"),
        (
            with(|m| m["files"] = json!({})),
            "no images",
            "a copy of it",
        ),
        (
            with(|m| m["files"]["../x.img"] = m["files"]["core-1.img"].clone()),
            "no name of an image",
            "a copy of it",
        ),
        (
            with(|m| m["files"]["core-1.img"]["digest"] = json!("blake3:")),
            "no digest",
            "a copy of it",
        ),
    ] {
        let error = parse(&content, &machine).unwrap_err();
        assert!(error.message().contains(why), "{error}");
        assert!(error.hints().unwrap().contains(remedy), "{error}");
    }
}

#[test]
fn a_directory_without_a_checkpoint_is_told() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let fails = |why: &str, remedy: &str| {
        let error = read(place.path()).unwrap_err();
        assert!(error.message().contains(why), "{error}");
        assert!(error.hints().unwrap().contains(remedy), "{error}");
    };
    let fails_with = |why: &str| {
        let error = read(place.path()).unwrap_err();
        assert!(error.message().contains(why), "{error}");
    };
    fails("there is no lodger.json", "--image-path");
    fs::write(place.path().join("core-1.img"), "x").unwrap();
    fails("there are images, but no lodger.json", "another runtime");
    fs::write(place.path().join(MANIFEST), with(|_| {})).unwrap();
    read(place.path()).unwrap();
    for mode in [0o701, 0o750, 0o777] {
        fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
        fails("others may look into it", "chmod 700");
    }
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::remove_file(place.path().join(MANIFEST)).unwrap();
    std::os::unix::fs::symlink("core-1.img", place.path().join(MANIFEST)).unwrap();
    fails_with("it is no regular file");
    fs::remove_file(place.path().join(MANIFEST)).unwrap();
    fs::write(place.path().join(MANIFEST), with(|_| {})).unwrap();
    let shared = fs::Permissions::from_mode(0o664);
    fs::set_permissions(place.path().join(MANIFEST), shared).unwrap();
    fails_with("others may write to it");
    fs::remove_file(place.path().join(MANIFEST)).unwrap();
    let big = fs::File::create(place.path().join(MANIFEST)).unwrap();
    big.set_len(MAX_MANIFEST as u64 + 1).unwrap();
    assert!(read(place.path()).unwrap_err().message().contains("EFBIG"));
    assert!(
        read(&place.path().join("none"))
            .unwrap_err()
            .message()
            .contains("ENOENT")
    );
}
