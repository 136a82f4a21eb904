//! helpers/lodger-admin: the ranges that it gives.

use crate::admin_lab::{Files, PASSWD, System, apart, ranges};
use crate::harness::lodger_only;

/// Files of /etc, what is asked for, and what /etc/subuid and /etc/subgid have more of then.
struct Case {
    what: &'static str,
    files: Files<'static>,
    args: &'static [&'static str],
    subuid: &'static str,
    subgid: &'static str,
}

const ANN: &[&str] = &["ann"];

const CASES: &[Case] = &[
    Case {
        what: "no files",
        files: &[],
        args: ANN,
        subuid: "ann:100000:65536\n",
        subgid: "ann:100000:65536\n",
    },
    Case {
        what: "after the ranges of others, of either kind, by name and by number",
        files: &[
            ("etc/subuid", "eve:100000:65536\n"),
            ("etc/subgid", "1700:165536:65536\n"),
        ],
        args: ANN,
        subuid: "ann:231072:65536\n",
        subgid: "ann:231072:65536\n",
    },
    Case {
        what: "in a hole that is large enough, not in one that lacks an id",
        files: &[
            (
                "etc/subuid",
                "eve:100000:10\nfay:165545:10\ngus:231091:10\n",
            ),
            ("etc/subgid", ""),
        ],
        args: ANN,
        subuid: "ann:165555:65536\n",
        subgid: "ann:165555:65536\n",
    },
    Case {
        what: "beside a real user and a real group",
        files: &[
            ("etc/passwd", "ann:x:1001:1::/:\nhigh:x:100005:1::/:\n"),
            ("etc/group", "many:x:165541:\n"),
        ],
        args: ANN,
        subuid: "ann:165542:65536\n",
        subgid: "ann:165542:65536\n",
    },
    Case {
        what: "where login.defs says",
        files: &[(
            "etc/login.defs",
            "# SUB_UID_MIN 7\nSUB_UID_MIN 300000\nSUB_UID_MAX\t900000\nSUB_GID_MIN 400000\nSUB_GID_MAX 800000\n",
        )],
        args: ANN,
        subuid: "ann:400000:65536\n",
        subgid: "ann:400000:65536\n",
    },
    Case {
        what: "where the caller says, of another size",
        files: &[("etc/login.defs", "SUB_UID_MAX 200000\n")],
        args: &[
            "--min", "500000", "--max", "500999", "--size", "1000", "ann",
        ],
        subuid: "ann:500000:1000\n",
        subgid: "ann:500000:1000\n",
    },
    Case {
        what: "the same number for the kind that lacks",
        files: &[("etc/subgid", "eve:100000:65536\nann:300000:65536\n")],
        args: ANN,
        subuid: "ann:300000:65536\n",
        subgid: "",
    },
    Case {
        what: "another number, where that is taken",
        files: &[
            ("etc/subuid", "ann:300000:65536\n"),
            ("etc/subgid", "eve:365535:1\n"),
        ],
        args: ANN,
        subuid: "",
        subgid: "ann:100000:65536\n",
    },
    Case {
        what: "a range by number is hers",
        files: &[
            ("etc/subuid", "1001:100000:65536\n"),
            ("etc/subgid", "1001:200000:65536\n"),
        ],
        args: ANN,
        subuid: "",
        subgid: "",
    },
    Case {
        what: "a small range is not enough, two halves are",
        files: &[
            ("etc/subuid", "ann:100000:1000\n"),
            ("etc/subgid", "ann:100000:32768\n1001:200000:32768\n"),
        ],
        args: ANN,
        subuid: "ann:132768:65536\n",
        subgid: "",
    },
    Case {
        what: "lines that are no ranges stay, and count for nothing",
        files: &[
            (
                "etc/subuid",
                "# ann:100000:65536\n\nann\nann:x:65536\nann:4294967295:65536\nann:100000:0\nann:1:2:3",
            ),
            ("etc/subgid", "ann:99999999999:65536\n"),
        ],
        args: ANN,
        subuid: "\nann:100000:65536\n",
        subgid: "ann:100000:65536\n",
    },
    Case {
        what: "up to the last id there is, which is none",
        files: &[("etc/login.defs", "SUB_UID_MIN 4294901759\n")],
        args: &["--min", "4294901759", "--max", "4294967295", "ann"],
        subuid: "ann:4294901759:65536\n",
        subgid: "ann:4294901759:65536\n",
    },
    Case {
        what: "a group: who is listed, and who has it as her own; root needs none",
        files: &[("etc/subuid", "bob:100000:65536\n")],
        args: &["--group", "students"],
        subuid: "ann:165536:65536\ncid:231072:65536\n",
        subgid: "ann:165536:65536\ncid:231072:65536\n",
    },
    Case {
        what: "who is named twice gets one",
        files: &[],
        args: &["ann", "--group=students", "ann"],
        subuid: "ann:100000:65536\ncid:165536:65536\n",
        subgid: "ann:100000:65536\ncid:165536:65536\n",
    },
];

#[test]
fn ranges_meet_nothing_that_is_there() {
    lodger_only!("lodger-admin");
    for case in CASES {
        let system = System::new(case.files);
        let (uid, gid) = (system.read("etc/subuid"), system.read("etc/subgid"));
        let args = [&["--yes", "subids"], case.args].concat();
        let ran = system.admin(&args);
        let what = case.what;
        assert_eq!(ran.code, 0, "{what}: {ran:#?}");
        assert_eq!(
            system.read("etc/subuid"),
            uid + case.subuid,
            "{what}: {ran:#?}"
        );
        assert_eq!(
            system.read("etc/subgid"),
            gid + case.subgid,
            "{what}: {ran:#?}"
        );
        let tree = system.tree();
        assert!(
            system.admin(&args).ok().contains("nothing to do"),
            "{what}: twice"
        );
        assert_eq!(system.tree(), tree, "{what}: twice");
    }
}

/// Layouts that nobody has thought of: numbers that look random, and are the same each time.
#[test]
fn ranges_meet_nothing_in_crowded_files() {
    lodger_only!("lodger-admin");
    let mut seed: u64 = 7;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    for _ in 0..25 {
        let mut files = [String::new(), String::new()];
        for file in &mut files {
            let mut next = 100_000;
            for number in 0..random(12) {
                next += random(3) * random(200);
                let count = 1 + random(400);
                file.insert_str(0, &format!("u{number}:{next}:{count}\n"));
                next += count;
            }
        }
        let real = format!("{PASSWD}high:x:{}:1::/:\n", 100_000 + random(2000));
        let system = System::new(&[
            ("etc/subuid", &files[0]),
            ("etc/subgid", &files[1]),
            ("etc/passwd", &real),
        ]);
        let ran = system.admin(&["-y", "-s", "100", "subids", "ann", "bob", "cid"]);
        ran.ok();
        for kind in ["etc/subuid", "etc/subgid"] {
            let text = system.read(kind);
            apart(&text);
            let high: u64 = real
                .rsplit(':')
                .nth(4)
                .and_then(|uid| uid.parse().ok())
                .unwrap();
            for (owner, start, count) in ranges(&text) {
                let given = !owner.starts_with('u');
                assert!(
                    !given || !(start..start + count).contains(&high) || kind == "etc/subgid",
                    "{text} {real}"
                );
                assert!(!given || count == 100, "{text}");
            }
            assert_eq!(
                ranges(&text).len(),
                ranges(&files[usize::from(kind == "etc/subgid")]).len() + 3
            );
        }
    }
}
