//! The table against hosts that are files: `whole.json` has everything, each of `hosts.json` is that with something else (as in
//! RFC 7396, where `null` takes away).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::finding::{Finding, Mode};
use super::readings::Readings;
use super::{Diagnosis, codes, consult};
use crate::doctor::Step;
use crate::error::Error;
use crate::sys;

const WHOLE: &str = include_str!("fixtures/whole.json");
const HOSTS: &str = include_str!("fixtures/hosts.json");

/// Codes that only a command's failure can have.
const OF_FAILURES: [&str; 1] = ["LDG-RLIMIT"];

#[derive(Deserialize)]
struct Host {
    mode: Mode,
    codes: BTreeSet<String>,
    readings: Value,
}

fn hosts() -> BTreeMap<String, Host> {
    serde_json::from_str(HOSTS).unwrap()
}

fn merge(target: &mut Value, patch: &Value) {
    let (Value::Object(_), Value::Object(patch)) = (&target, patch) else {
        *target = patch.clone();
        return;
    };
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn diagnosis(patch: &Value) -> Diagnosis {
    let mut readings: Value = serde_json::from_str(WHOLE).unwrap();
    merge(&mut readings, patch);
    // In `calls` null is an answer: the kernel's.
    let whole: Value = serde_json::from_str(WHOLE).unwrap();
    assert!(
        whole["calls"]
            .as_object()
            .unwrap()
            .values()
            .all(Value::is_null)
    );
    Diagnosis::of(serde_json::from_value(readings).unwrap())
}

fn found(findings: &[Finding]) -> BTreeSet<String> {
    findings
        .iter()
        .map(|finding| finding.code.clone())
        .collect()
}

#[test]
fn a_host_that_has_everything_lacks_nothing() {
    let diagnosis = diagnosis(&Value::Object(serde_json::Map::new()));
    assert_eq!(found(&diagnosis.findings), BTreeSet::new());
    assert_eq!(diagnosis.mode, Mode::Full);
    assert!(diagnosis.works.len() > 8, "{:?}", diagnosis.works);
    assert!(
        diagnosis
            .page()
            .trim_end()
            .lines()
            .last()
            .unwrap()
            .contains("Mode: full")
    );
}

#[test]
fn each_host_has_its_mode_and_its_causes_and_no_other() {
    for (name, host) in hosts() {
        let diagnosis = diagnosis(&host.readings);
        assert_eq!(found(&diagnosis.findings), host.codes, "{name}");
        assert_eq!(diagnosis.mode, host.mode, "{name}");
    }
}

#[test]
fn every_code_is_found_on_some_host() {
    let mut known: BTreeSet<String> = codes().map(str::to_owned).collect();
    assert_eq!(known.len(), codes().count(), "a code is there twice");
    assert!(known.iter().all(|code| code.starts_with("LDG-")));
    for host in hosts().values() {
        for code in &host.codes {
            known.remove(code);
        }
    }
    assert_eq!(known.into_iter().collect::<Vec<_>>(), OF_FAILURES);
}

#[test]
fn no_two_causes_have_the_same_text() {
    let mut sentences: BTreeMap<String, String> = BTreeMap::new();
    let mut remedies: BTreeMap<String, String> = BTreeMap::new();
    for host in hosts().values() {
        for finding in diagnosis(&host.readings).findings {
            let of_sentence = sentences
                .entry(finding.what.clone())
                .or_insert_with(|| finding.code.clone());
            assert_eq!(*of_sentence, finding.code, "{}", finding.what);
            let of_remedy = remedies
                .entry(finding.remedy.clone())
                .or_insert_with(|| finding.code.clone());
            let both = [of_remedy.as_str(), finding.code.as_str()];
            // Those who have no range need one, for whatever reason they have none.
            let same = of_remedy == &finding.code
                || both
                    .iter()
                    .all(|code| code.starts_with("LDG-SUB") || code.starts_with("LDG-SYS"));
            assert!(same, "{both:?}: {}", finding.remedy);
        }
    }
}

#[test]
fn findings_are_whole_sentences_for_people() {
    for (name, host) in hosts() {
        let diagnosis = diagnosis(&host.readings);
        for Finding {
            code,
            what,
            costs,
            remedy,
            ..
        } in &diagnosis.findings
        {
            for text in [what, costs, remedy] {
                assert!(
                    !text.is_empty() && !text.ends_with('.') && !text.contains('\n'),
                    "{name}: {code}: {text:?}"
                );
                assert!(!text.contains("  "), "{name}: {code}: {text:?}");
            }
        }
        let page = diagnosis.page();
        for line in page.lines().filter(|line| !line.starts_with("      ")) {
            assert!(line.chars().count() <= 100, "{name}: {line}");
        }
        for finding in &diagnosis.findings {
            assert!(
                page.contains(&format!("  {}: ", finding.code)),
                "{name}: {page}"
            );
        }
        let last = page.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.starts_with("Mode: "), "{name}: {page}");
    }
}

#[test]
fn readings_are_the_same_when_they_are_read_again() {
    for host in hosts().values() {
        let readings = diagnosis(&host.readings).readings;
        let text = serde_json::to_string(&readings).unwrap();
        assert_eq!(serde_json::from_str::<Readings>(&text).unwrap(), readings);
    }
}

fn failure(call: &'static str, args: &str, errno: i32) -> Error {
    let cause = sys::Error::new(call, args, errno);
    Error::new("cannot do it").because_of(&cause)
}

#[test]
fn a_failure_without_a_step_stays_as_it_is() {
    let error = Error::new("container does not exist").hint("look");
    assert_eq!(consult(error.clone(), None, (None, None)), error);
    let error = failure("read", "fd", libc::EIO).hint("wait");
    assert_eq!(consult(error.clone(), None, (None, None)), error);
}

#[test]
fn a_failure_with_a_code_and_a_hint_stays_as_it_is() {
    let error = failure("keyctl", "x", libc::EDQUOT)
        .code("LDG-KEYRING-QUOTA")
        .hint("mine");
    assert_eq!(consult(error.clone(), None, (None, None)), error);
    let bare = failure("keyctl", "x", libc::EDQUOT).code("LDG-KEYRING-QUOTA");
    let helped = consult(bare, None, (None, None));
    assert_eq!(helped.cause_code(), Some("LDG-KEYRING-QUOTA"));
    assert!(
        helped.hints().unwrap().contains("kernel.keys.maxkeys"),
        "{helped}"
    );
}

#[test]
fn a_cause_is_not_told_by_the_error_number_alone() {
    // This machine makes user namespaces: whatever refused one is no row's.
    let error = failure("prlimit64", "0, RLIMIT_NOFILE, 5, 5", libc::EINVAL).step(Step::Limit);
    assert_eq!(consult(error, None, (None, None)).cause_code(), None);
    let error = failure("prlimit64", "0, RLIMIT_NOFILE, 5, 5", libc::EPERM).step(Step::Limit);
    assert_eq!(
        consult(error, None, (None, None)).cause_code(),
        Some("LDG-RLIMIT")
    );
    let error = failure("keyctl", "KEYCTL_SETPERM", libc::EACCES);
    assert_eq!(consult(error, None, (None, None)).cause_code(), None);
}

#[test]
fn a_failure_names_the_directory_that_is_closed() {
    use std::os::unix::fs::PermissionsExt;
    // Others get there, whatever TMPDIR is.
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = place.path().join("rootfs");
    std::fs::DirBuilder::new().create(&path).unwrap();
    let closed = std::fs::Permissions::from_mode(0o700);
    #[expect(clippy::disallowed_methods, reason = "a directory to look at is made")]
    std::fs::set_permissions(place.path(), closed).unwrap();
    let error = failure("open_tree", &format!("AT_FDCWD, {path:?}, 0"), libc::EACCES);
    let error = consult(error.hint("general"), None, (None, None));
    assert_eq!(error.cause_code(), Some("LDG-ROOT-REACH"));
    let hints = error.hints().unwrap();
    assert!(
        hints.contains(&format!("chmod o+x {}", place.path().display())),
        "{hints}"
    );
    assert!(!hints.contains("general"), "{hints}");
}

#[test]
fn names_and_paths_are_no_commands() {
    let patch = serde_json::json!({
        "closed": {"target": "/x/y/z", "directory": "/x/$(id >&2)'; id #", "mode": 0o700},
        "caller": {"name": "ann;id"},
        "facts": {"subuid": [], "subgid": []},
        "subids": {"free": null},
    });
    let diagnosis = diagnosis(&patch);
    let remedy = |code: &str| {
        let mut findings = diagnosis.findings.iter();
        findings.find(|f| f.code == code).unwrap().remedy.clone()
    };
    assert_eq!(
        remedy("LDG-ROOT-REACH"),
        r"chmod o+x '/x/$(id >&2)'\''; id #'"
    );
    // A range that is not known to be free is not proposed.
    assert_eq!(
        remedy("LDG-SUBID-NONE"),
        "sudo lodger-admin subids 'ann;id'"
    );
}
