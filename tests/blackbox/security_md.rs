//! SECURITY.md and the tests say the same: what it names is a test, and no attack is left out of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn package() -> PathBuf {
    PathBuf::from(
        std::env::var_os("CARGO_MANIFEST_DIR").expect("CARGO_MANIFEST_DIR: use tests/run"),
    )
}

/// The text of every source file beneath `directory`, with its path.
fn sources(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

/// The names of the functions that are tests.
fn tests(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split_once('(').map(|(name, _)| name);
            found.extend(name.filter(|_| marked).map(str::to_owned));
            marked = false;
        }
        marked |= line == "#[test]";
    }
    found
}

/// The names of tests in the tables: several words in small letters, in backticks.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |word: &&str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        word.bytes().all(plain) && word.matches('_').count() >= 2
    };
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2))
        .filter(is_name)
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_test_that_security_md_names_exists() {
    let package = package();
    let mut files = sources(&package.join("src"));
    files.extend(sources(&package.join("tests")));
    let all: BTreeSet<String> = files.iter().flat_map(|(_, text)| tests(text)).collect();
    let security = fs::read_to_string(package.join("SECURITY.md")).unwrap();
    let named = named(&security);
    assert!(named.len() > 80, "the tables were not found: {named:?}");
    let missing: Vec<&String> = named.difference(&all).collect();
    assert_eq!(
        missing,
        Vec::<&String>::new(),
        "named in SECURITY.md, and no test"
    );
    // Every row says how it is tested, or why it cannot be yet.
    for row in security
        .lines()
        .filter(|line| line.starts_with("| CVE") || line.starts_with("| GHSA"))
    {
        let last = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        assert!(
            last.contains('`') || last.contains("not met yet: no "),
            "{row}"
        );
    }
}

#[test]
fn every_attack_is_in_security_md() {
    let package = package();
    let named = named(&fs::read_to_string(package.join("SECURITY.md")).unwrap());
    for (path, text) in sources(&package.join("tests/blackbox")) {
        let file = path.file_stem().unwrap().to_str().unwrap();
        if file.starts_with("cve_") || file == "races" {
            let left: Vec<String> = tests(&text).difference(&named).cloned().collect();
            assert_eq!(left, Vec::<String>::new(), "{file}.rs, not in SECURITY.md");
        }
    }
}

/// A defence with a switch is there to be seen failing.
#[test]
fn every_switch_is_used_by_a_test() {
    let package = package();
    let room = fs::read_to_string(package.join("src/sys/defence.rs")).unwrap();
    let (_, list) = room.split_once("pub enum Defence {").unwrap();
    let (list, _) = list.split_once("\n}").unwrap();
    let switches: Vec<&str> = list
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//") && !line.is_empty())
        .map(|line| line.trim_end_matches(','))
        .collect();
    assert!(switches.len() > 20, "{switches:?}");
    let tests = sources(&package.join("tests/blackbox"));
    for switch in switches {
        let quoted = format!("\"{switch}\"");
        assert!(
            tests.iter().any(|(_, text)| text.contains(&quoted)),
            "{switch}"
        );
    }
}
