//! `check`: would it run here, and what would not be as it is asked; nothing is made.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, spawn};
use crate::nested::nested;

/// What `check --json` tells, which exits with this status.
fn told(fixture: &Fixture, status: i32) -> Value {
    let ran = fixture.runtime(&["check", "--json"]).exits(status);
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:#?}"))
}

#[test]
fn what_runs_is_said_to_run_and_nothing_is_made() {
    lodger_only!("check");
    let mut fixture = Fixture::with_own_root();
    fixture.sh("true");
    fixture.write_config();
    let before = fixture.listing();
    let ran = fixture.bare(&["check"]).exits(0);
    assert_eq!(ran.out, "it would run here as it is asked\n");
    assert_eq!(fixture.listing(), before);
    assert_eq!(
        told(&fixture, 0),
        json!({"outcome": "as_asked", "refused": [], "adapted": []})
    );
    fixture.run().exits(0);
}

#[test]
fn what_would_be_adapted_is_told() {
    lodger_only!("check");
    let mut fixture = Fixture::new();
    fixture.config["linux"]["rootfsPropagation"] = json!("shared");
    let found = told(&fixture, 1);
    assert_eq!(found["outcome"], "adapted");
    assert_eq!(found["adapted"][0]["property"], "/linux/rootfsPropagation");
    let ran = fixture.bare(&["check", "--strict"]).exits(2);
    assert!(
        ran.out.contains("adapted: /linux/rootfsPropagation: "),
        "{ran:#?}"
    );
    let ran = fixture.bare(&["check"]).exits(1);
    assert!(
        ran.out
            .ends_with("it would run here, with what is adapted\n"),
        "{ran:#?}"
    );
}

/// Each is refused by `run` too.
#[test]
fn what_would_be_refused_has_its_pointer() {
    lodger_only!("check");
    type Change = fn(&mut Fixture);
    let cases: [(&str, Change); 6] = [
        ("/process/args/0", |f| {
            f.args(&["/no/such/program"]);
        }),
        ("/process/args/0", |f| {
            std::fs::write(f.rootfs().join("bin/plain"), "text").unwrap();
            f.args(&["plain"]);
        }),
        ("/root/path", |f| {
            f.config["root"]["path"] = json!("nowhere")
        }),
        ("/mounts/6/source", |f| {
            f.mount(json!({"destination": "/x", "source": "/no/such", "options": ["bind"]}));
        }),
        ("/hooks/prestart/0/path", |f| {
            f.config["hooks"] = json!({"prestart": [{"path": "/no/such"}]});
        }),
        ("/process/rlimits/0", |f| {
            let most = u64::MAX;
            f.config["process"]["rlimits"] =
                json!([{"type": "RLIMIT_NOFILE", "hard": most, "soft": 1}]);
        }),
    ];
    for (pointer, change) in cases {
        let mut fixture = Fixture::with_own_root();
        change(&mut fixture);
        let found = told(&fixture, 2);
        assert_eq!(found["outcome"], "refused");
        assert_eq!(found["refused"][0]["pointer"], pointer, "{found}");
        let ran = fixture.bare(&["check"]).exits(2);
        assert!(
            ran.out.contains(&format!("refused: {pointer}: ")),
            "{ran:#?}"
        );
        assert_eq!(fixture.run().code, 1, "{pointer}");
    }
    let mut fixture = Fixture::with_own_root();
    fixture.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "hard": u64::MAX, "soft": 1}]);
    assert_eq!(told(&fixture, 2)["refused"][0]["code"], "LDG-RLIMIT");
    fixture.run().fails(1, "  code: LDG-RLIMIT\n");
}

/// The first directory on the way that cannot be entered is named.
#[test]
fn a_root_that_cannot_be_reached_is_told_by_its_directory() {
    lodger_only!("check");
    let mut fixture = Fixture::with_own_root();
    let closed = fixture.path("closed");
    std::fs::create_dir_all(closed.join("deep/rootfs")).unwrap();
    fixture.config["root"]["path"] = json!(closed.join("deep/rootfs"));
    let mode = |mode| std::fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o600);
    let found = told(&fixture, 2);
    mode(0o700);
    let message = found["refused"][0]["message"].as_str().unwrap();
    assert!(
        message.contains(closed.join("deep").to_str().unwrap()),
        "{message}"
    );
    assert_eq!(found["refused"][0]["code"], "LDG-ROOT-REACH");
}

#[test]
fn an_image_is_checked_like_a_bundle() {
    lodger_only!("check");
    let fixture = Fixture::with_own_root();
    let store = fixture.path("store");
    let store = store.to_str().unwrap();
    let source = format!("rootfs:{}", fixture.rootfs().display());
    fixture
        .bare(&["image", "import", "-q", "--store", store, &source, "i"])
        .ok();
    let before = fixture.listing();
    let check = |args: &[&str]| {
        let options = ["check", "--store", store, "--image", "i"];
        fixture.bare(&[&options[..], args].concat())
    };
    let ran = check(&["sh", "-c", "true"]);
    assert!([0, 1].contains(&ran.code), "{ran:#?}");
    let ran = check(&["no-such"]).exits(2);
    assert!(ran.out.contains("refused: /process/args/0: "), "{ran:#?}");
    assert_eq!(fixture.listing(), before);
    fixture
        .bare(&["check", "--store", store, "--image", "other"])
        .fails(1, "image \"other\" does not exist");
}

#[test]
fn the_way_to_proc_counts() {
    lodger_only!("check");
    let mut fixture = Fixture::with_own_root();
    let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
    namespaces.unwrap().push(json!({"type": "user"}));
    let masks = "mount -t tmpfs none /proc/bus";
    let ran = nested(&fixture, &[], masks, &["check", "--proc=auto"]).exits(1);
    assert!(ran.out.contains("  code: LDG-PROC-MASKED\n"), "{ran:#?}");
    for verb in [&["check"][..], &["run", "c"]] {
        let ran = nested(&fixture, &[], masks, verb);
        assert_ne!(ran.code, 0, "{ran:#?}");
        let told = ran.out.clone() + &ran.err;
        assert!(told.contains("  code: LDG-PROC-MASKED\n"), "{ran:#?}");
    }
}

/// Her ids are nobody's in the user namespace around.
#[test]
fn where_nothing_can_run_all_is_refused() {
    lodger_only!("check");
    let mut fixture = Fixture::with_own_root();
    fixture.sh("true");
    fixture.write_config();
    for (verb, status, refused) in [
        (&["check"][..], 2, "refused: config.json: "),
        (&["run", "c"], 1, "error: "),
    ] {
        let inner = fixture.command(verb);
        let mut command = Command::new("/usr/bin/unshare");
        command.arg("--user").arg(inner.get_program());
        command.args(inner.get_args()).current_dir(fixture.bundle());
        let ran = spawn(&mut command, b"").wait().exits(status);
        let told = ran.out.clone() + &ran.err;
        assert!(told.starts_with(refused), "{ran:#?}");
        assert!(told.contains("  code: LDG-USERNS-UNMAPPED\n"), "{ran:#?}");
    }
}
