//! Every property of the runtime specification, what lodger does with it, and the test that proves it.
//!
//! `tests/properties/every.json` has each property once; `tests/properties/table.tsv` says for each what is done and names
//! the tests. What peers do is told by the tests themselves, which run against them too. `contrib/properties.md` and the
//! table in README.md are made from both: `LODGER_BLESS=1 cargo test --test properties` writes them anew.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: it reads this repository's own files"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

/// Objects whose members have names of the user's choice.
const MAPS: &[&str] = &[
    "/annotations",
    "/linux/sysctl",
    "/linux/netDevices",
    "/linux/timeOffsets",
    "/linux/resources/rdma",
    "/linux/resources/unified",
];

/// Lists in which each element, or each type of element, is a matter of its own.
const BY_NAME: &[&str] = &["/mounts/*/options", "/linux/namespaces", "/linux/devices"];

/// The peers that the tests run against, as Debian 12 has them.
const PEERS: [(&str, &str); 2] = [("crun", "crun 1.8.1"), ("runc", "runc 1.1.5")];

/// A line of the table.
struct Row {
    /// What it belongs to, in README.md.
    group: String,
    /// The pointer; `*` stands for any element or member.
    property: String,
    /// `yes`, `noted` or `refused`, and more about it.
    lodger: String,
    /// `file::function`.
    tests: Vec<String>,
}

/// What a test says of itself.
#[derive(Default)]
struct Told {
    /// By peer: how it differs.
    differs: BTreeMap<String, String>,
    /// Whether it runs with lodger alone.
    own: bool,
}

fn package() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and tests/run set it"))
}

fn read(path: &str) -> String {
    fs::read_to_string(package().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn table() -> Vec<Row> {
    read("tests/properties/table.tsv")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            assert_eq!(fields.len(), 4, "four fields, tabs between them: {line:?}");
            Row {
                group: fields[0].to_owned(),
                property: fields[1].to_owned(),
                lodger: fields[2].to_owned(),
                tests: fields[3].split(' ').map(str::to_owned).collect(),
            }
        })
        .collect()
}

/// The pointers of everything in `value` that has no members.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for item in items {
                let name = item.get("type").unwrap_or(item).as_str();
                let step = name.filter(|_| BY_NAME.contains(&at)).unwrap_or("*");
                leaves(item, &format!("{at}/{step}"), found);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let step = if MAPS.contains(&at) { "*" } else { name };
                leaves(member, &format!("{at}/{step}"), found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

fn covers(row: &str, leaf: &str) -> bool {
    leaf.strip_prefix(row)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The tests of the black box: `file::function`, and what each says of peers.
fn told_by_tests() -> BTreeMap<String, Told> {
    let mut found = BTreeMap::new();
    let mut files = Vec::new();
    for directory in ["tests/blackbox", "tests/engines"] {
        let entries = fs::read_dir(package().join(directory))
            .into_iter()
            .flatten();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.retain(|path| path.extension().is_some_and(|e| e == "rs"));
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let file = path.file_stem().unwrap().to_str().unwrap();
        for part in text.split("#[test]").skip(1) {
            let Some((_, rest)) = part.split_once("fn ") else {
                continue;
            };
            let name = rest.split('(').next().unwrap();
            let body = rest.split("\n}\n").next().unwrap();
            found.insert(format!("{file}::{name}"), told(body));
        }
    }
    found
}

fn told(body: &str) -> Told {
    let mut told = Told {
        own: body.contains("lodger_only!("),
        ..Told::default()
    };
    for part in body.split("peer_differs!(").skip(1) {
        let mut texts = part.split('"').skip(1).step_by(2);
        let (peer, how) = (texts.next().unwrap(), texts.next().unwrap());
        // A long text goes on after a backslash at the end of the line.
        let how: Vec<&str> = how
            .split_whitespace()
            .filter(|word| *word != "\\")
            .collect();
        told.differs.insert(peer.to_owned(), how.join(" "));
    }
    told
}

/// What a peer does with the property of `row`, as far as its tests tell.
fn peer(name: &str, row: &Row, told: &BTreeMap<String, Told>) -> String {
    let tests = row.tests.iter().filter_map(|test| told.get(test));
    let mut differences = BTreeSet::new();
    let mut asked = false;
    for test in tests {
        differences.extend(test.differs.get(name).cloned());
        asked |= !test.own;
    }
    if !differences.is_empty() {
        return differences.into_iter().collect::<Vec<_>>().join("; ");
    }
    let answer = if asked { "the same" } else { "not asked" };
    answer.to_owned()
}

#[test]
fn every_property_has_one_row_and_no_row_is_about_nothing() {
    let every: Value = serde_json::from_str(&read("tests/properties/every.json")).unwrap();
    let mut properties = Vec::new();
    leaves(&every, "", &mut properties);
    let rows = table();
    let mut seen = BTreeSet::new();
    for row in &rows {
        assert!(seen.insert(&row.property), "twice: {}", row.property);
        let used = properties.iter().any(|leaf| covers(&row.property, leaf));
        assert!(used, "not in every.json: {}", row.property);
        let word = row.lodger.split([' ', ',', ':', ';']).next().unwrap();
        assert!(
            ["yes", "noted", "refused"].contains(&word),
            "{}: {word}",
            row.property
        );
        assert!(
            word == "yes" || row.lodger.len() > word.len(),
            "{}: why?",
            row.property
        );
    }
    for leaf in &properties {
        let found = rows.iter().any(|row| covers(&row.property, leaf));
        assert!(found, "no row: {leaf}");
    }
}

/// A name that is written wrong would be lost on the way.
#[test]
fn the_names_are_those_of_the_specification() {
    let mut every: Value = serde_json::from_str(&read("tests/properties/every.json")).unwrap();
    let members = every.as_object_mut().unwrap();
    // Of other platforms, and older than the types.
    for name in ["windows", "solaris", "zos", "freebsd", "vm"] {
        members.remove(name);
    }
    // The types have other names for these than config.md: `bundle` translates the one, and refuses what has the others.
    every["process"]["scheduler"]["flags"][0] = "SCHED_RESET_ON_FORK".into();
    for name in ["enableCMT", "enableMBM"] {
        every["linux"]["intelRdt"]
            .as_object_mut()
            .unwrap()
            .remove(name);
    }
    let spec: oci_spec::runtime::Spec = serde_json::from_value(every.clone()).unwrap();
    let again = serde_json::to_value(&spec).unwrap();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    leaves(&every, "", &mut before);
    leaves(&again, "", &mut after);
    let lost: Vec<&String> = before.iter().filter(|leaf| !after.contains(leaf)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn every_row_names_tests_that_exist() {
    let told = told_by_tests();
    assert!(told.len() > 300, "{}", told.len());
    for row in table() {
        for test in &row.tests {
            assert!(
                told.contains_key(test),
                "{}: no test {test:?}",
                row.property
            );
        }
    }
}

#[test]
fn the_documents_are_made_from_the_table() {
    let (rows, told) = (table(), told_by_tests());
    let readme = read("README.md");
    let (before, rest) = readme.split_once(BEGIN).expect(BEGIN);
    let (_, after) = rest.split_once(END).expect(END);
    let readme_now = format!("{before}{BEGIN}\n{}{END}{after}", summary(&rows, &told));
    for (path, text) in [
        ("contrib/properties.md", document(&rows, &told)),
        ("README.md", readme_now),
    ] {
        if std::env::var_os("LODGER_BLESS").is_some() {
            fs::write(package().join(path), &text).unwrap();
        }
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let (now, then) = (
            lines(&text),
            lines(&fs::read_to_string(package().join(path)).unwrap_or_default()),
        );
        let first = now.iter().zip(&then).find(|(now, then)| now != then);
        assert!(
            now == then,
            "{path} is not what the table and the tests make of it: {first:?}"
        );
    }
}

const BEGIN: &str = "<!-- made from tests/properties/table.tsv -->";
const END: &str = "<!-- end -->";

/// The table of README.md: how many properties of each group are done, and in how many the peers differ.
fn summary(rows: &[Row], told: &BTreeMap<String, Told>) -> String {
    let mut groups: Vec<&str> = Vec::new();
    for row in rows {
        if !groups.contains(&row.group.as_str()) {
            groups.push(&row.group);
        }
    }
    let mut text = String::from(
        "| properties | | done | adapted | refused | crun 1.8.1 differs | runc 1.1.5 differs |\n|---|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut line = |name: &str, of: &[&Row]| {
        let number = |word: &str| of.iter().filter(|row| row.lodger.starts_with(word)).count();
        let differing = |peer_name: &str| {
            let same = |row: &&&Row| {
                ["the same", "not asked"].contains(&peer(peer_name, row, told).as_str())
            };
            of.iter().filter(|row| !same(row)).count()
        };
        let numbers = [
            of.len(),
            number("yes"),
            number("noted"),
            number("refused"),
            differing("crun"),
            differing("runc"),
        ];
        let numbers: Vec<String> = numbers
            .iter()
            .map(|n| {
                if *n == 0 {
                    String::new()
                } else {
                    n.to_string()
                }
            })
            .collect();
        let _infallible = writeln!(text, "| {name} | {} |", numbers.join(" | "));
    };
    for group in groups {
        let of: Vec<&Row> = rows.iter().filter(|row| row.group == group).collect();
        line(group, &of);
    }
    line("**all**", &rows.iter().collect::<Vec<_>>());
    text
}

/// `contrib/properties.md`.
fn document(rows: &[Row], told: &BTreeMap<String, Told>) -> String {
    let mut text = String::from(HEAD);
    let cell = |words: &str| words.replace('|', "\\|");
    for row in rows {
        let _infallible = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            row.property,
            cell(&row.lodger),
            cell(&peer(PEERS[0].0, row, told)),
            cell(&peer(PEERS[1].0, row, told)),
            row.tests
                .iter()
                .map(|test| format!("`{test}`"))
                .collect::<Vec<_>>()
                .join(" "),
        );
    }
    text.push_str(DIFFERENCES);
    for (test, told) in told {
        for (peer, how) in &told.differs {
            let name = PEERS
                .iter()
                .find(|(name, _)| name == peer)
                .map_or(peer.as_str(), |(_, full)| full);
            let _infallible = writeln!(text, "| `{test}` | {name} | {} |", cell(how));
        }
    }
    text
}

const HEAD: &str = "\
# The properties of the runtime specification 1.3

Made from `tests/properties/table.tsv` and the tests by `LODGER_BLESS=1 cargo test --test properties`; do not edit.

What an ordinary user gets. `yes`: it is applied. `noted`: it is adapted, with a note on stderr that names the property, the
reason and a remedy. `refused`: an error says why, before anything is made. The last columns tell what the same tests found
with crun 1.8.1 and runc 1.1.5 of Debian 12, run by the same user: `the same` means that they pass, `not asked` that the test
is about lodger's own words or verbs. `*` stands for any element.

| property | lodger | crun 1.8.1 | runc 1.1.5 | tests |
|---|---|---|---|---|
";

const DIFFERENCES: &str = "
## Where the others differ

All that the tests know, of whatever subject (`LODGER_UNDER_TEST=crun tests/run` runs them; these are counted as skipped).

| test | runtime | what it does |
|---|---|---|
";

#[test]
fn a_pointer_covers_itself_and_what_is_beneath() {
    assert!(covers("/linux/seccomp", "/linux/seccomp/flags/*"));
    assert!(covers("/hostname", "/hostname"));
    assert!(!covers("/linux/seccomp", "/linux/seccompX"));
    assert!(!covers("/linux/seccomp/flags", "/linux/seccomp"));
}
