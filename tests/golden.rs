//! Golden plans: each directory of tests/plans holds a config.json and a host.json, and the plan.json or error.txt they lead to;
//! in some a file `proc` has the word of `--proc`.
//!
//! `LODGER_BLESS=1 cargo test --test golden` writes the expected files anew: read the difference before you commit it.
#![expect(
    clippy::disallowed_methods,
    reason = "the fixtures are this repository's own files"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be read fails the test"
)]

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use lodger::bundle::{Bundle, BundleError, Problem};
use lodger::host::HostFacts;
use lodger::plan::{Choices, Plan, ProcMode};

/// What a case leads to: the name of the expected file and its text.
fn outcome(case: &Path) -> (&'static str, String) {
    let config = fs::read(case.join("config.json")).unwrap();
    let host = fs::read_to_string(case.join("host.json")).unwrap();
    let facts: HostFacts = serde_json::from_str(&host).unwrap();
    let lines = |problems: &[Problem]| problems.iter().map(|p| format!("{p}\n")).collect();
    let bundle = match Bundle::parse(PathBuf::from("/bundle"), config) {
        Ok(bundle) => bundle,
        Err(BundleError::Invalid(problems)) => return ("error.txt", lines(&problems)),
        Err(error) => return ("error.txt", format!("{error}\n")),
    };
    let proc = fs::read_to_string(case.join("proc")).ok();
    let choices = Choices {
        proc: proc.map_or(ProcMode::New, |word| {
            ProcMode::from_str(word.trim(), false).unwrap()
        }),
        ..Choices::default()
    };
    let compute = || Plan::compute_with(&bundle, &facts, choices);
    let first = compute();
    assert_eq!(first, compute(), "not deterministic");
    match first {
        Ok(plan) => {
            let text = serde_json::to_string_pretty(&plan).unwrap() + "\n";
            let again: Plan = serde_json::from_str(&text).unwrap();
            assert_eq!(plan, again, "the plan does not survive JSON");
            ("plan.json", text)
        }
        Err(problems) => ("error.txt", lines(&problems)),
    }
}

fn cases() -> Vec<PathBuf> {
    // At run time: the tree may have been copied to where the tests may read it.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and tests/run set it");
    let directory = Path::new(&package).join("tests/plans");
    let entries = fs::read_dir(directory).unwrap();
    let mut cases: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    cases.sort();
    cases
}

#[test]
fn plans_are_as_written_down() {
    let bless = std::env::var_os("LODGER_BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let (name, text) = outcome(&case);
        let other = if name == "plan.json" {
            "error.txt"
        } else {
            "plan.json"
        };
        if bless {
            fs::write(case.join(name), &text).unwrap();
            if case.join(other).exists() {
                fs::remove_file(case.join(other)).unwrap();
            }
        }
        assert!(
            !case.join(other).exists(),
            "{case:?} leads to {name}:\n{text}"
        );
        let expected = fs::read_to_string(case.join(name)).unwrap_or_default();
        if text != expected {
            wrong.push(format!("{}: now\n{text}", case.join(name).display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_at_least_twenty_five_cases() {
    assert!(cases().len() >= 25);
}
