//! The capabilities of an image's program.

use serde_json::{Value, json};

use super::Asked;
use crate::error::{Error, Result};
use crate::plan::{CapabilitySet, Note};

/// What podman gives by default: enough for a package manager and for a server that changes its user.
const DEFAULT: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The word for all capabilities.
const ALL: &str = "ALL";

/// `process.capabilities`. Another user than root has none at first: the bounding set is what its set-user-id programs and
/// file capabilities may give. The inheritable set is always empty (CVE-2022-29162).
pub(super) fn sets(asked: &Asked, uid: u32, notes: &mut Vec<Note>) -> Result<Value> {
    let names: Vec<&str> = set(asked)?.names().collect();
    if uid == 0 {
        return Ok(json!({"bounding": names, "effective": names, "permitted": names}));
    }
    if !asked.cap_add.is_empty() {
        notes.push(Note::new(
            "/process/capabilities",
            format!("the program is uid {uid}, and has no capability by itself: --cap-add is for what it gains by set-user-id programs and file capabilities"),
            "run it as root (-u 0) if it needs them at once",
        ));
    }
    Ok(json!({"bounding": names}))
}

fn set(asked: &Asked) -> Result<CapabilitySet> {
    let added = Words::read("--cap-add", &asked.cap_add)?;
    let dropped = Words::read("--cap-drop", &asked.cap_drop)?;
    let both = CapabilitySet(added.set.0 & dropped.set.0);
    if let Some(name) = both.names().next() {
        return Err(
            Error::new(format!("{name} is both added and dropped")).hint("take out one of the two")
        );
    }
    let mut base = CapabilitySet::default();
    if !dropped.all {
        for number in DEFAULT
            .iter()
            .filter_map(|name| CapabilitySet::number(name))
        {
            base.add(number);
        }
    }
    if added.all {
        base = all();
    }
    Ok(CapabilitySet((base.0 | added.set.0) & !dropped.set.0))
}

/// Every capability that has a name.
fn all() -> CapabilitySet {
    let every = CapabilitySet(u64::MAX);
    every.names().filter_map(CapabilitySet::number).fold(
        CapabilitySet::default(),
        |mut set, number| {
            set.add(number);
            set
        },
    )
}

#[derive(Default)]
struct Words {
    all: bool,
    set: CapabilitySet,
}

impl Words {
    fn read(option: &str, words: &[String]) -> Result<Self> {
        let mut read = Self::default();
        for word in words.iter().flat_map(|words| words.split(',')) {
            let upper = word.to_ascii_uppercase();
            let number = CapabilitySet::number(&upper)
                .or_else(|| CapabilitySet::number(&format!("CAP_{upper}")));
            match number {
                Some(number) => read.set.add(number),
                None if upper == ALL => read.all = true,
                None => {
                    return Err(
                        Error::new(format!("{option}: there is no capability {word:?}"))
                            .hint("capabilities(7) has their names; ALL is for all of them"),
                    );
                }
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounding(add: &[&str], drop: &[&str], uid: u32) -> Result<(Vec<String>, Value)> {
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
        let asked = Asked {
            cap_add: words(add),
            cap_drop: words(drop),
            ..Asked::default()
        };
        let sets = sets(&asked, uid, &mut Vec::new())?;
        let names = serde_json::from_value(sets["bounding"].clone()).unwrap();
        Ok((names, sets))
    }

    #[test]
    fn names_are_added_and_dropped() {
        let mut default: Vec<&str> = DEFAULT.to_vec();
        default.sort_unstable();
        let sorted = |add: &[&str], drop: &[&str]| {
            let (mut names, _) = bounding(add, drop, 0).unwrap();
            names.sort_unstable();
            names
        };
        assert_eq!(sorted(&[], &[]), default);
        assert_eq!(sorted(&["kill"], &[]), default);
        assert_eq!(sorted(&["net_raw,CAP_SYS_NICE"], &[]).len(), 13);
        assert_eq!(sorted(&[], &["ALL"]), [""; 0]);
        assert_eq!(sorted(&["NET_RAW"], &["all"]), ["CAP_NET_RAW"]);
        assert_eq!(sorted(&["ALL"], &[]).len(), 41);
        assert_eq!(sorted(&["ALL"], &["SYS_ADMIN"]).len(), 40);
        assert_eq!(sorted(&[], &["CHOWN"]).len(), 10);
    }

    #[test]
    fn only_root_has_them_at_once() {
        let (names, sets) = bounding(&[], &[], 0).unwrap();
        assert_eq!(sets["effective"], json!(names));
        assert_eq!(sets["permitted"], json!(names));
        assert!(sets.get("inheritable").is_none() && sets.get("ambient").is_none());
        let (_, sets) = bounding(&[], &[], 1).unwrap();
        assert_eq!(sets.as_object().unwrap().len(), 1);
        let mut notes = Vec::new();
        let asked = Asked {
            cap_add: vec!["NET_RAW".to_owned()],
            ..Asked::default()
        };
        super::sets(&asked, 7, &mut notes).unwrap();
        assert!(notes[0].reason.contains("uid 7"), "{notes:?}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let told = |add: &[&str], drop: &[&str]| bounding(add, drop, 0).unwrap_err().message();
        assert!(told(&["NO"], &[]).contains("--cap-add: there is no capability \"NO\""));
        assert!(told(&[], &[""]).contains("--cap-drop: there is no capability \"\""));
        assert!(told(&["KILL"], &["CAP_KILL"]).contains("CAP_KILL is both"));
    }
}
