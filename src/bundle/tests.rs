//! Reading a bundle from disk, and reading anything at all without a panic.
#![expect(
    clippy::disallowed_methods,
    reason = "fixtures in a temporary directory"
)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

fn read_error(directory: &Path) -> (i32, Option<&'static str>) {
    match Bundle::open(directory) {
        Err(BundleError::Read(ref e)) => (e.errno, BundleError::Read(e.clone()).hint()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bundle_is_read_and_kept_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("config.json"), template()).unwrap();
    let bundle = Bundle::open(directory.path()).unwrap();
    assert_eq!(bundle.config, template().as_bytes());
    assert_eq!(bundle.directory, directory.path());
}

#[test]
fn a_missing_config_has_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let (errno, hint) = read_error(directory.path());
    assert_eq!(errno, Errno::ENOENT as i32);
    assert!(hint.is_some_and(|h| h.contains("lodger spec")));
}

#[test]
fn fifos_directories_and_endless_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.json");
    mknodat(CWD, &config, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert_eq!(read_error(directory.path()).0, Errno::EINVAL as i32);
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    assert_eq!(read_error(directory.path()).0, Errno::EISDIR as i32);
    fs::remove_dir(&config).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &config).unwrap();
    assert_eq!(read_error(directory.path()).0, Errno::EINVAL as i32);
}

#[test]
fn sixteen_mebibytes_are_read_and_one_byte_more_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.json");
    let mut text = template().as_bytes().to_vec();
    text.resize(CONFIG_LIMIT, b' ');
    fs::write(&config, &text).unwrap();
    assert!(Bundle::open(directory.path()).is_ok());
    text.push(b' ');
    fs::write(&config, &text).unwrap();
    assert_eq!(read_error(directory.path()).0, Errno::EFBIG as i32);
}

#[test]
fn a_relative_bundle_path_is_refused() {
    let error = Bundle::open(Path::new("a\n")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the bundle path \"a\\n\" is not absolute"
    );
}

#[test]
fn terminals_get_no_control_characters() {
    assert_eq!(
        escape("a\u{1b}[2J\"é\\\u{202e}\n"),
        "a\\u{1b}[2J\"é\\\\u{202e}\\n"
    );
}

proptest! {
    #[test]
    fn damaged_configurations_never_panic(at in 0usize..4000, byte: u8, cut in 0usize..4000) {
        let mut text = template().as_bytes().to_vec();
        let at = at % text.len();
        text[at] = byte;
        if cut < text.len() / 2 {
            text.truncate(text.len() - cut);
        }
        let message = match Bundle::parse(PathBuf::from("/b"), text) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        prop_assert!(!message.chars().any(|c| c.is_control() && c != '\n'));
    }
}

#[test]
fn limits_stand_alone_with_the_pointers_of_config_json() {
    let resources = parse_resources(br#"{"pids": {"limit": 7}, "memory": null}"#).unwrap();
    assert_eq!(resources.pids().map(|pids| pids.limit()), Some(7));
    for (text, expected) in [
        (
            r#"{"pids": {}}"#,
            "/linux/resources/pids/limit: is required",
        ),
        (
            r#"{"hugepageLimits": [{"limit": 1}]}"#,
            "/linux/resources/hugepageLimits/0/pageSize: is required",
        ),
        (
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0}]}}"#,
            "/linux/resources/blockIO/throttleReadBpsDevice/0/rate: is required",
        ),
        (
            r#"{"memory": {"limit": "64M"}}"#,
            "/linux/resources/memory/limit: invalid type",
        ),
        (
            r#"{"pids": {"limit": 1}, "pids": {"limit": 2}}"#,
            "the key \"pids\" twice",
        ),
        ("7", "/linux/resources: is not an object"),
        ("[]", "/linux/resources: is not an object"),
    ] {
        let error = parse_resources(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
}
