//! Tests of the id maps.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

fn range(start: u32, count: u32) -> IdRange {
    IdRange { start, count }
}

fn line(container_id: u32, host_id: u32, size: u32) -> IdMapping {
    IdMapping {
        container_id,
        host_id,
        size,
    }
}

fn facts() -> HostFacts {
    let all = MapLine {
        inside: 0,
        outside: 0,
        count: u32::MAX,
    };
    HostFacts {
        uid: 1000,
        gid: 1000,
        user_name: Some("lodger".to_owned()),
        in_user_namespace: false,
        sys_admin: false,
        uid_map: vec![all],
        gid_map: vec![all],
        setgroups_allowed: true,
        subuid: vec![range(100_000, 65536)],
        subgid: vec![range(100_000, 65536)],
        subid_notes: Vec::new(),
        newuidmap: Some("/usr/bin/newuidmap".into()),
        newgidmap: Some("/usr/bin/newgidmap".into()),
        helper_obstacle: None,
        id_wish: crate::host::IdWish::Any,
        few_user_namespaces: None,
        bounding_set: 0,
        last_capability: 40,
        limits: BTreeMap::new(),
        details: crate::host::Details::default(),
        namespaces: Vec::new(),
        network: None,
        cgroup: None,
        session: None,
    }
}

fn inside() -> HostFacts {
    let line = |inside, outside, count| MapLine {
        inside,
        outside,
        count,
    };
    HostFacts {
        uid: 0,
        gid: 0,
        in_user_namespace: true,
        sys_admin: true,
        uid_map: vec![line(0, 1000, 1), line(1, 100_000, 65536)],
        gid_map: vec![line(0, 1000, 1), line(1, 100_000, 65536)],
        subuid: Vec::new(),
        subgid: Vec::new(),
        ..facts()
    }
}

fn asking(uids: &[IdMapping], gids: &[IdMapping]) -> ConfigMaps {
    ConfigMaps {
        requested: true,
        uids: uids.to_vec(),
        gids: gids.to_vec(),
    }
}

type Parts = (Outer, Vec<IdMapping>, Vec<IdMapping>, bool, Vec<Note>);

fn new(config: ConfigMaps, facts: &HostFacts) -> Parts {
    match user_namespace(config, facts).unwrap() {
        (
            UserNamespace::New {
                outer,
                uid_map,
                gid_map,
                setgroups,
            },
            notes,
        ) => (outer, uid_map, gid_map, setgroups, notes),
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn default_map_of_an_ordinary_user() {
    for config in [ConfigMaps::default(), asking(&[], &[])] {
        let (outer, uids, gids, setgroups, notes) = new(config, &facts());
        assert!(
            matches!(outer, Outer::Helpers { uids, .. } if uids == [range(1000, 1), range(100_000, 65536)])
        );
        assert_eq!(uids, [line(0, 1000, 1), line(1, 100_000, 65536)]);
        assert_eq!(gids, uids);
        assert!(setgroups && notes.is_empty());
    }
}

#[test]
fn map_lines_are_split_at_the_ranges() {
    let facts = HostFacts {
        subuid: vec![range(100_000, 10), range(100_010, 10)],
        ..facts()
    };
    let (_, uids, ..) = new(asking(&[line(0, 100_005, 10)], &[]), &facts);
    assert_eq!(uids, [line(0, 100_005, 5), line(5, 100_010, 5)]);
    assert_eq!(map_text(&uids), "0 100005 5\n5 100010 5\n");
    assert_eq!(to_host(&uids, 7), Some(100_012));
    assert!(!maps_id(&uids, 10));
}

#[test]
fn mappings_that_cannot_be_are_problems() {
    let ok = line(0, 1000, 1);
    for (lines, pointer, part) in [
        (
            vec![ok, line(1, 100_000, 65537)],
            1,
            "hostID 165536 is not the caller's; hers are 1000, 100000-165535",
        ),
        (vec![line(0, 0, 1)], 0, "hostID 0 is not"),
        (vec![line(0, 1000, 0)], 0, "size is 0"),
        (vec![line(u32::MAX, 1000, 1)], 0, "containerID 4294967295"),
        (
            vec![line(0, 100_000, u32::MAX)],
            0,
            "hostID 100000 and size",
        ),
        (
            vec![ok, line(0, 100_000, 2)],
            1,
            "containerID range overlaps",
        ),
        (
            vec![line(5, 100_000, 9), line(0, 100_008, 2)],
            1,
            "hostID range overlaps",
        ),
    ] {
        let problems = user_namespace(asking(&lines, &[]), &facts()).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].pointer, format!("/linux/uidMappings/{pointer}"));
        assert!(problems[0].message.contains(part), "{problems:?}");
    }
    let both = user_namespace(asking(&[line(0, 0, 1)], &[line(0, 0, 1)]), &facts());
    assert_eq!(both.unwrap_err()[1].pointer, "/linux/gidMappings/0");
}

#[test]
fn too_many_lines_and_too_many_bytes() {
    let map = |lines: u32| {
        (0..lines)
            .map(|i| line(i, 100_000 + 2 * i, 1))
            .collect::<Vec<_>>()
    };
    assert!(user_namespace(asking(&map(200), &[]), &facts()).is_ok());
    let lines = user_namespace(asking(&map(341), &[]), &facts()).unwrap_err();
    assert!(lines[0].message.contains("341 lines"), "{lines:?}");
    let bytes = user_namespace(asking(&map(340), &[]), &facts()).unwrap_err();
    assert!(bytes[0].message.contains("bytes"), "{bytes:?}");
}

#[test]
fn more_ranges_than_a_map_holds_are_left_out_with_a_note() {
    let ranges: Vec<_> = (0..400).map(|i| range(2000 + 2 * i, 1)).collect();
    let facts = HostFacts {
        subuid: ranges,
        ..facts()
    };
    let (_, uids, _, _, notes) = new(ConfigMaps::default(), &facts);
    assert!(uids.len() <= MAX_LINES && uids.len() > 300);
    assert!(map_text(&uids).len() <= MAX_BYTES);
    assert!(notes[0].reason.contains("are not used"), "{notes:?}");
}

#[test]
fn single_id_says_why() {
    let no_gids = HostFacts {
        subgid: Vec::new(),
        ..facts()
    };
    let no_helper = HostFacts {
        newgidmap: None,
        ..facts()
    };
    for (facts, reason, remedy) in [
        (
            no_gids,
            "lodger has no subordinate gids",
            "usermod --add-subgids",
        ),
        (no_helper, "no usable newgidmap", "apt install uidmap"),
    ] {
        let (outer, uids, gids, setgroups, notes) = new(ConfigMaps::default(), &facts);
        assert_eq!(
            outer,
            Outer::SingleId {
                uid: 1000,
                gid: 1000
            }
        );
        assert_eq!(
            (&uids[..], &gids[..]),
            (&[line(0, 1000, 1)][..], &[line(0, 1000, 1)][..])
        );
        assert!(!setgroups);
        assert!(
            notes[0].reason.contains(reason) && notes[0].remedy.contains(remedy),
            "{notes:?}"
        );
        let refused = user_namespace(asking(&[line(0, 100_000, 1)], &[]), &facts).unwrap_err();
        assert!(refused[0].message.contains(remedy), "{refused:?}");
    }
}

#[test]
fn inside_a_user_namespace() {
    let inherited = user_namespace(ConfigMaps::default(), &inside()).unwrap();
    assert_eq!(inherited, (UserNamespace::Inherit, Vec::new()));
    let (outer, uids, _, setgroups, _) = new(asking(&[], &[]), &inside());
    assert_eq!(outer, Outer::Current);
    assert_eq!(uids, [line(0, 0, 1), line(1, 1, 65536)]);
    assert!(setgroups);
    let denied = HostFacts {
        setgroups_allowed: false,
        uid: 5,
        ..inside()
    };
    let mapped = ConfigMaps {
        requested: false,
        ..asking(&[line(0, 0, 10)], &[])
    };
    let (_, uids, _, setgroups, _) = new(mapped, &denied);
    assert!(!setgroups);
    assert_eq!(
        (0..10).map(|id| to_host(&uids, id)).collect::<Vec<_>>(),
        (0..10).map(Some).collect::<Vec<_>>()
    );
}

#[test]
fn one_level_has_no_outer_namespace() {
    let few = |facts: HostFacts| HostFacts {
        few_user_namespaces: Some(1),
        ..facts
    };
    let (outer, uids, _, setgroups, notes) = new(ConfigMaps::default(), &few(facts()));
    let helpers = Some(["/usr/bin/newuidmap".into(), "/usr/bin/newgidmap".into()]);
    assert_eq!(outer, Outer::OneLevel { helpers });
    assert_eq!(uids, [line(0, 1000, 1), line(1, 100_000, 65536)]);
    assert!(setgroups);
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].code.as_deref(), Some("LDG-USERNS-LIMIT"));
    let no_helper = HostFacts {
        newuidmap: None,
        ..few(facts())
    };
    let (outer, uids, _, setgroups, notes) = new(ConfigMaps::default(), &no_helper);
    assert_eq!(outer, Outer::OneLevel { helpers: None });
    assert!(!setgroups && !allows_setgroups(&no_helper));
    assert_eq!(uids, [line(0, 1000, 1)]);
    let codes: Vec<_> = notes.iter().filter_map(|n| n.code.as_deref()).collect();
    assert_eq!(codes, ["LDG-USERNS-LIMIT", "LDG-HELPER-MISSING"]);
    // Files are worked on in a namespace of their own, beside which there is no container.
    assert!(matches!(workplace(&few(facts())), Outer::Helpers { .. }));
    assert!(matches!(workplace(&no_helper), Outer::SingleId { .. }));
    // None at all, or one's own already: nothing to do about it here.
    let none = HostFacts {
        few_user_namespaces: Some(0),
        ..facts()
    };
    assert!(matches!(super::outer(&none), Outer::Helpers { .. }));
    assert_eq!(super::outer(&few(inside())), Outer::Current);
}

#[test]
fn a_wish_for_a_single_id_is_kept_everywhere() {
    let wishing = |facts: HostFacts| HostFacts {
        id_wish: IdWish::Single,
        ..facts
    };
    let (outer, uids, _, setgroups, notes) = new(ConfigMaps::default(), &wishing(facts()));
    let (uid, gid) = (1000, 1000);
    assert_eq!(outer, Outer::SingleId { uid, gid });
    assert_eq!(uids, [line(0, 1000, 1)]);
    assert!(!setgroups && notes[0].reason.contains("--single-id asks"));
    // Whoever is in a user namespace already gets one more, with one id.
    let (outer, uids, _, setgroups, notes) = new(ConfigMaps::default(), &wishing(inside()));
    assert_eq!(outer, Outer::Current);
    assert_eq!(uids, [line(0, 0, 1)]);
    assert!(!setgroups && notes[0].reason.contains("--single-id asks"));
    assert_eq!(usual_maps(&wishing(inside())).0, [line(0, 0, 1)]);
}

#[test]
fn subordinate_ids_that_are_required() {
    assert_eq!(single_id_cause(&facts()), None);
    assert_eq!(single_id_cause(&inside()), None);
    let no_gids = HostFacts {
        subgid: Vec::new(),
        ..facts()
    };
    let cause = single_id_cause(&no_gids).unwrap();
    assert_eq!(cause.code, Some("LDG-SUBID-UID-ONLY"));
    let one = MapLine {
        inside: 0,
        outside: 1000,
        count: 1,
    };
    let alone = HostFacts {
        uid_map: vec![one],
        ..inside()
    };
    let cause = single_id_cause(&alone).unwrap();
    assert!(cause.why.contains("only one uid"), "{cause:?}");
}

#[test]
fn real_root_is_treated_as_a_user_with_a_note() {
    let root = HostFacts {
        uid: 0,
        gid: 0,
        sys_admin: true,
        subid_notes: vec!["/etc/subuid line 3 is skipped: x".to_owned()],
        ..facts()
    };
    let (outer, uids, _, _, notes) = new(ConfigMaps::default(), &root);
    assert!(matches!(outer, Outer::Helpers { .. }));
    assert_eq!(uids[0], line(0, 0, 1));
    assert_eq!(notes.len(), 2);
    assert!(notes[0].reason.contains("line 3"));
}

proptest! {
    #[test]
    fn splitting_keeps_every_id(
        gaps in prop::collection::vec((0u32..3, 1u32..20), 1..20),
        host_id in 0u32..200,
        size in 1u32..200,
    ) {
        let mut next = 0;
        let mut owned = Vec::new();
        for (gap, count) in gaps {
            owned.push(range(next + gap, count));
            next += gap + count;
        }
        let has = |id: u32| owned.iter().any(|r| id >= r.start && id - r.start < r.count);
        let whole = line(7, host_id, size);
        match split(&whole, &owned) {
            Err(id) => {
                prop_assert!(!has(id) && id >= host_id && id < host_id + size);
                prop_assert!((host_id..id).all(has));
            }
            Ok(pieces) => {
                for id in 0..size + 20 {
                    prop_assert_eq!(to_host(&pieces, id), to_host(&[whole], id));
                }
                for p in pieces {
                    let within = |r: &IdRange| p.host_id >= r.start && p.host_id + p.size <= r.start + r.count;
                    prop_assert!(owned.iter().any(within));
                }
            }
        }
    }
}
