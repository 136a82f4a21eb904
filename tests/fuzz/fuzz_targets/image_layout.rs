//! The documents of an image layout, each text in every role that it could be given: index, manifest, config, list of `docker save`.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use lodger::fuzzing::{LayoutRole, layout_document};
use lodger_fuzz::{assert_lines_printable, mutate_json};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_json(data, size, max_size, seed)
});

fuzz_target!(|data: &[u8]| {
    let roles = [
        LayoutRole::Index,
        LayoutRole::Manifest,
        LayoutRole::Config,
        LayoutRole::Saved,
    ];
    let taken = roles.map(|role| match layout_document(role, data) {
        Ok(blobs) => {
            blobs
                .iter()
                .for_each(|(path, size)| check(path, *size, data));
            true
        }
        Err(error) => {
            assert_lines_printable(&error.to_string());
            false
        }
    });
    assert!(
        !(taken[0] && taken[1]),
        "an index and a manifest (CVE-2021-41190)"
    );
    if taken.contains(&true) {
        let again: serde_json::Value = serde_json::from_slice(data).expect("taken, and no JSON");
        let text = serde_json::to_vec(&again).unwrap();
        for (role, taken) in roles.into_iter().zip(taken) {
            assert_eq!(layout_document(role, &text).is_ok(), taken, "spaces decide");
        }
    }
});

/// A blob is named by digits that are in the text, and its size is one that Go can tell.
fn check(path: &str, size: u64, data: &[u8]) {
    let (algorithm, digits) = path
        .strip_prefix("blobs/")
        .and_then(|rest| rest.split_once('/'))
        .expect(path);
    let length = match algorithm {
        "sha256" => 64,
        "sha512" => 128,
        _ => panic!("{path}"),
    };
    assert_eq!(digits.len(), length, "{path}");
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    assert!(digits.bytes().all(is_digit), "{path}");
    assert!(i64::try_from(size).is_ok(), "{size}");
    let has_escapes = data.contains(&b'\\');
    let is_there = data.windows(length).any(|text| text == digits.as_bytes());
    assert!(has_escapes || is_there, "{path} is not in the text");
}
