//! Tests of the causes of a single id.

use std::collections::BTreeSet;

use super::*;

/// A host with all that it takes.
fn facts() -> HostFacts {
    let text = include_str!("../../tests/plans/03-template/host.json");
    let facts: HostFacts = serde_json::from_str(text).unwrap();
    assert_eq!(cause(&facts), None);
    facts
}

fn with(obstacle: HelperObstacle) -> HostFacts {
    HostFacts {
        helper_obstacle: Some(obstacle),
        ..facts()
    }
}

fn without_ranges(uids: bool, gids: bool, notes: &[&str]) -> HostFacts {
    let mut facts = facts();
    if uids {
        facts.subuid.clear();
    }
    if gids {
        facts.subgid.clear();
    }
    facts.subid_notes = notes.iter().map(|&note| note.to_owned()).collect();
    facts
}

fn missing_capabilities(missing: &[&str]) -> HostFacts {
    with(HelperObstacle::BoundingSet {
        helper: "/usr/bin/newuidmap".into(),
        missing: missing.iter().map(|&name| name.to_owned()).collect(),
    })
}

#[test]
fn every_lack_has_its_code_its_words_and_its_remedy() {
    let uid_line = "/etc/subuid line 3 is skipped: it goes beyond the last id, 4294967294";
    let gid_line =
        "/etc/subgid line 1 is skipped: it is not NAME:START:COUNT in plain decimal numbers";
    let overlap = "/etc/subuid line 2 is skipped: it overlaps another user's line";
    let not_used = "/usr/bin/newgidmap is not used: its group or everybody can write to it";
    let no_helper = |name: &str, notes: &[&str]| {
        let mut facts = without_ranges(false, false, notes);
        match name {
            "newuidmap" => facts.newuidmap = None,
            _ => facts.newgidmap = None,
        }
        facts
    };
    let table = [
        (
            without_ranges(true, true, &[]),
            "LDG-SUBID-NONE",
            "no subordinate uids and gids",
            "lodger-admin subids ada; without it: usermod --add-subuids FIRST-LAST --add-subgids",
        ),
        (
            without_ranges(true, false, &[gid_line]),
            "LDG-SUBID-GID-ONLY",
            "no subordinate uids",
            "usermod --add-subuids FIRST-LAST ada",
        ),
        (
            without_ranges(false, true, &[uid_line]),
            "LDG-SUBID-UID-ONLY",
            "no subordinate gids",
            "usermod --add-subgids FIRST-LAST ada",
        ),
        (
            without_ranges(true, true, &[uid_line]),
            "LDG-SUBID-OVERFLOW",
            "line 3 is skipped",
            "below 4294967295",
        ),
        (
            without_ranges(false, true, &[gid_line]),
            "LDG-SUBID-MALFORMED",
            "subgid line 1",
            "NAME:START:COUNT",
        ),
        (
            without_ranges(true, false, &[overlap]),
            "LDG-SUBID-OVERLAP",
            "another user's",
            "in no other line",
        ),
        (
            without_ranges(
                true,
                true,
                &["/etc/subuid line 1 is skipped: it holds the caller's own id"],
            ),
            "LDG-SUBID-OWN",
            "own id",
            "take the account's own id out",
        ),
        (
            no_helper("newuidmap", &[]),
            "LDG-HELPER-MISSING",
            "no usable newuidmap",
            "apt install uidmap",
        ),
        (
            no_helper("newgidmap", &[not_used]),
            "LDG-HELPER-UNSAFE",
            "everybody can write",
            "install it anew",
        ),
    ];
    check(&table);
}

#[test]
fn every_obstacle_has_its_code_its_words_and_its_remedy() {
    let helper = || "/usr/bin/newuidmap".into();
    let table = [
        (
            with(HelperObstacle::Unprivileged { helper: helper() }),
            "LDG-HELPER-PRIVILEGE",
            "neither the set-user-id bit",
            "chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap",
        ),
        (
            with(HelperObstacle::NosuidMount {
                helper: helper(),
                mount: "/usr".into(),
            }),
            "LDG-HELPER-NOSUID",
            "/usr is mounted with nosuid",
            "mount -o remount,bind,suid /usr",
        ),
        (
            with(HelperObstacle::NoNewPrivileges),
            "LDG-HELPER-NNP",
            "no_new_privs",
            "allowPrivilegeEscalation: true",
        ),
        (
            missing_capabilities(&["CAP_SETUID", "CAP_SETGID"]),
            "LDG-HELPER-BOUNDING",
            "lacks CAP_SETUID and CAP_SETGID",
            "--cap-add SETUID --cap-add SETGID",
        ),
        (
            missing_capabilities(&["CAP_SYS_ADMIN"]),
            "LDG-HELPER-BOUNDING",
            "CAP_SYS_ADMIN",
            "setcap cap_setuid=ep",
        ),
    ];
    check(&table);
}

/// A host, the code of its cause, a part of its words, a part of its remedy.
type Row<'a> = (HostFacts, &'a str, &'a str, &'a str);

fn check(table: &[Row<'_>]) {
    let mut whys = BTreeSet::new();
    for (facts, code, why, remedy) in table {
        let cause = cause(facts).unwrap();
        assert_eq!(cause.code, Some(*code));
        assert!(cause.why.contains(why), "{cause:?}");
        assert!(cause.remedy.contains(remedy), "{cause:?}");
        let note = cause.note();
        assert_eq!(note.code.as_deref(), Some(*code));
        assert!(note.reason.contains(&cause.why) && note.remedy == cause.remedy);
        assert!(
            whys.insert(cause.why.clone()),
            "the same text twice: {cause:?}"
        );
    }
}

#[test]
fn what_the_cause_says_is_not_said_again() {
    let line = "/etc/subuid line 3 is skipped: it goes beyond the last id, 4294967294";
    let other = "/etc/subgid line 9 is skipped: its count is 0";
    let facts = without_ranges(true, true, &[line, other]);
    let found = cause(&facts);
    let notes = skipped(&facts, found.as_ref());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!(notes[0].code.as_deref(), Some("LDG-SUBID-MALFORMED"));
    assert_eq!(notes[0].property, "/linux/gidMappings");
    // Where the rest is enough, it is a note and nothing more.
    let facts = without_ranges(false, false, &[line]);
    assert_eq!(cause(&facts), None);
    assert_eq!(
        skipped(&facts, None)[0].code.as_deref(),
        Some("LDG-SUBID-OVERFLOW")
    );
}

#[test]
fn an_account_without_a_name_is_its_number() {
    let facts = HostFacts {
        user_name: None,
        uid: 54_321,
        ..without_ranges(true, true, &[])
    };
    let cause = cause(&facts).unwrap();
    assert!(cause.why.starts_with("54321 has no"), "{cause:?}");
    assert!(cause.remedy.contains("--uid 54321 "), "{cause:?}");
    // Its number may have ranges, and no helper gives it them.
    let ranges = HostFacts {
        user_name: None,
        ..self::facts()
    };
    assert_eq!(super::cause(&ranges).unwrap().code, Some("LDG-HELPER-NAME"));
}

#[test]
fn a_wish_comes_before_all_causes() {
    let facts = HostFacts {
        id_wish: IdWish::Single,
        ..without_ranges(true, true, &[])
    };
    let cause = cause(&facts).unwrap();
    assert_eq!(cause.code, None);
    assert!(cause.why.contains("--single-id"), "{cause:?}");
}
