//! An image's config, and its passwd and group files: whatever they say, they name a user of theirs, read nothing of the
//! host's, and steer no runtime (CVE-2016-3697, CVE-2024-40635, CVE-2026-53488).
#![no_main]

use std::path::{Path, PathBuf};

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use lodger::bundle::Bundle;
use lodger::error::{Error, Result};
use lodger::image::config::{Asked, Converted, ImageConfig, ImageFiles, convert};
use lodger::plan::{Note, controls};
use lodger_fuzz::{assert_clean, assert_lines_printable, assert_printable, mutate_json};
use serde_json::Value;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_json(data, size, max_size, seed)
});

/// The two files; one that is no text is a FIFO.
struct Files<'a>(&'a Value);

impl ImageFiles for Files<'_> {
    fn read(&self, path: &Path, _limit: usize) -> Result<Option<Vec<u8>>> {
        let name = path.file_name().unwrap().to_str().unwrap();
        match &self.0[name] {
            Value::String(text) => Ok(Some(text.clone().into_bytes())),
            Value::Null => Ok(None),
            _ => Err(Error::new("it is no regular file")),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    // As it is, for the reader of JSON; and as one of the parts, for all that comes after it.
    drop(parse(data));
    let Ok(parts) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let Some(image) = parse(parts["image"].to_string().as_bytes()) else {
        return;
    };
    for read_only in [false, true] {
        let asked = Asked {
            image: "fuzz".to_owned(),
            user: parts["user"].as_str().map(str::to_owned),
            read_only,
            ..Asked::default()
        };
        match convert(&image, &asked, &Files(&parts)) {
            Ok(converted) => {
                let user = asked.user.as_deref().unwrap_or(&image.config.user);
                check(&converted, &image);
                check_user(&converted.config["process"], user, &parts);
            }
            Err(error) => assert_lines_printable(&error.to_string()),
        }
    }
});

fn parse(text: &[u8]) -> Option<ImageConfig> {
    match ImageConfig::parse(text) {
        Ok(image) => Some(image),
        Err(error) => {
            assert_lines_printable(&error.to_string());
            None
        }
    }
}

fn check(converted: &Converted, image: &ImageConfig) {
    let text = converted.text();
    let bundle = Bundle::parse(PathBuf::from("/bundle"), text.into())
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(bundle.warnings.is_empty(), "{:?}", bundle.warnings);
    for Note {
        property,
        reason,
        remedy,
        ..
    } in &converted.notes
    {
        for text in [property, reason, remedy] {
            assert_printable(text);
            assert!(!text.is_empty());
        }
    }
    for directory in &converted.directories {
        assert_clean(Path::new(directory));
        assert_ne!(directory, "/");
    }
    let annotations = converted.config["annotations"].as_object().unwrap();
    for (key, value) in annotations {
        assert!(!controls(key), "{key:?}");
        let label = image.config.labels.get(key);
        assert!(label.is_none_or(|label| value == label), "{key:?}");
    }
    let told = |key: &String| controls(key) || annotations.contains_key(key);
    assert!(image.config.labels.keys().all(told), "a label is lost");
    let process = &converted.config["process"];
    for entry in process["env"].as_array().unwrap() {
        let entry = entry.as_str().unwrap();
        let default = entry.starts_with("PATH=/usr/local/sbin:");
        assert!(
            default || image.config.env.iter().any(|own| own == entry),
            "{entry:?}"
        );
    }
    let args: Vec<&String> = image
        .config
        .entrypoint
        .iter()
        .chain(&image.config.cmd)
        .collect();
    assert_eq!(process["args"], serde_json::json!(args));
    let sets = process["capabilities"].as_object().unwrap();
    assert_eq!(sets.len(), if process["user"]["uid"] == 0 { 3 } else { 1 });
    let mounts = converted.config["mounts"].as_array().unwrap();
    assert!(
        mounts.iter().all(|mount| mount["type"] != "bind"),
        "a bind of the host's"
    );
}

/// Digits are the id that they say; a name is in a line that has the id.
fn check_user(process: &Value, text: &str, parts: &Value) {
    let user = &process["user"];
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    check_id(&user["uid"], name, &parts["passwd"]);
    match group {
        Some(group) => check_id(&user["gid"], group, &parts["group"]),
        None => assert!(user["gid"] == 0 || is_in(&user["gid"], 3, &parts["passwd"])),
    }
    let named = group.is_none() && !name.bytes().all(|byte| byte.is_ascii_digit());
    for gid in user["additionalGids"].as_array().into_iter().flatten() {
        assert!(named && is_in(gid, 2, &parts["group"]), "{text:?}: {user}");
    }
}

fn check_id(found: &Value, text: &str, file: &Value) {
    let found = found.as_u64().unwrap();
    assert!(found < u64::from(u32::MAX));
    if text.is_empty() {
        assert_eq!(found, 0);
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
        assert_eq!(
            text.trim_start_matches('0').parse().unwrap_or(0),
            found,
            "{text:?}"
        );
    } else {
        let lines = file.as_str().unwrap().split('\n');
        let mut lines = lines.map(|line| line.split(':').collect::<Vec<_>>());
        let said = lines.any(|line| line[0] == text && number(line.get(2)) == Some(found));
        assert!(said, "{text:?} is not {found}");
    }
}

fn is_in(id: &Value, field: usize, file: &Value) -> bool {
    let mut lines = file.as_str().unwrap_or_default().split('\n');
    lines.any(|line| number(line.split(':').nth(field).as_ref()) == id.as_u64())
}

fn number(text: Option<&&str>) -> Option<u64> {
    text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?
        .parse()
        .ok()
}
