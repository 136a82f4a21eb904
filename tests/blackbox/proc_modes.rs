//! `--proc`: what becomes of /proc where the host's is masked, as in another container.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Fixture, Ran, lodger_only, spawn};
use crate::nested::nested;
use crate::weak::{Outcome, held_by};

/// Masks as a container has them, on procfs and on sysfs.
const MASKS: &str = "mount --bind /dev/null /proc/version; mount -t tmpfs none /proc/bus; \
                     mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; \
                     mount -t tmpfs none /sys/kernel";

/// A bundle with a user namespace of its own, for a caller in one.
fn bundle(script: &str) -> Fixture {
    let mut fixture = Fixture::with_own_root();
    let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
    namespaces.unwrap().push(json!({"type": "user"}));
    fixture.sh(script);
    fixture
}

/// `run --proc=MODE` under masks.
fn masked(fixture: &Fixture, mode: &str) -> Ran {
    nested(
        fixture,
        &[],
        MASKS,
        &["run", &format!("--proc={mode}"), "c"],
    )
}

#[test]
fn auto_binds_the_hosts_under_masks_and_says_so() {
    lodger_only!("--proc");
    let fixture = bundle(
        "readlink /proc/self/exe; echo x >>/dev/stderr; ls /proc/self/fd | head -n 3 | tr -d '\\n'; echo; \
         readlink /proc/self/ns/pid; head -c 1 /proc/version; \
         echo no >/proc/sys/kernel/hostname || echo kept; echo no >/sys/kernel/x || echo readonly",
    );
    masked(&fixture, "new").fails(1, "--proc=auto");
    let ran = masked(&fixture, "auto").exits(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "/bin/busybox", "{ran:#?}");
    assert_eq!(lines[1], "012", "{ran:#?}");
    assert!(lines[2].starts_with("pid:["), "{ran:#?}");
    assert_eq!(lines[3..], ["kept", "readonly"], "{ran:#?}");
    for sign in [
        "note: /mounts/0/type: the host's /proc is bound",
        "covered by mounts on \"/proc/bus\", \"/proc/sys\", \"/proc/version\"",
        "  code: LDG-PROC-MASKED\n",
        "/type: the host's /sys is bound, read-only",
        "  code: LDG-SYS-MASKED\n",
    ] {
        assert!(ran.err.contains(sign), "{sign}: {ran:#?}");
    }
}

/// The pid namespace stays the container's own: what is seen of others cannot be reached.
#[test]
fn what_is_seen_of_others_is_out_of_reach() {
    lodger_only!("--proc");
    let fixture = bundle(
        "echo $$; pid=$(cat /outside); test -d /proc/$pid && echo seen; \
         kill -0 $pid && echo reached; ls /proc/$pid/root/ && echo entered; \
         cat /proc/$pid/environ && echo read; true",
    );
    let prepare = format!(
        "{MASKS}; echo $$ >{}",
        fixture.rootfs().join("outside").display()
    );
    for mode in ["auto", "bind"] {
        let ran = nested(
            &fixture,
            &[],
            &prepare,
            &["run", &format!("--proc={mode}"), "c"],
        );
        assert_eq!(ran.exits(0).out, "1\nseen\n", "{mode}");
    }
}

/// In its caller's user namespace nothing but the view of them keeps a container from her processes.
#[test]
fn the_callers_processes_are_not_shown_in_her_own_user_namespace() {
    lodger_only!("switching defences off");
    held_by(&["RefuseProcfs"], || {
        let mut fixture = Fixture::with_own_root();
        let secret = fixture.path("secret");
        fs::write(&secret, "of the host").unwrap();
        let caps = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]);
        fixture.config["process"]["capabilities"] =
            json!({"bounding": caps, "effective": caps, "permitted": caps});
        fixture.sh(&format!(
            "cat /proc/$(cat /outside)/root{} 2>&1",
            secret.display()
        ));
        let outside = fixture.rootfs().join("outside");
        let prepare = format!("echo $$ >{}", outside.display());
        let ran = nested(&fixture, &[], &prepare, &["run", "--proc=bind", "c"]);
        let stolen = ran.out.contains("of the host");
        if !stolen {
            assert!(ran.err.contains("/mounts/0/type"), "{ran:#?}");
        }
        Outcome::of(stolen.then_some(ran.out.clone()), ran.err)
    });
}

#[test]
fn auto_is_a_new_one_where_that_can_be_had() {
    lodger_only!("--proc");
    let mut fixture = Fixture::new();
    fixture.sh("set -- /proc/[0-9]*; echo $#");
    let ran = fixture.runtime(&["run", "--proc=auto", "c"]).exits(0);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("1\n", ""));
    let ran = fixture.runtime(&["run", "--proc=bind", "c"]).exits(0);
    assert_ne!(ran.out, "1\n", "{ran:#?}");
    assert!(ran.err.contains("--proc=bind asks for it"), "{ran:#?}");
    assert!(!ran.err.contains("code: "), "{ran:#?}");
}

#[test]
fn none_leaves_it_out() {
    lodger_only!("--proc");
    let mut fixture = Fixture::with_own_root();
    fixture.sh("test ! -e /proc/self && echo none");
    let ran = fixture.runtime(&["run", "--proc=none", "c"]).exits(0);
    assert_eq!(ran.out, "none\n");
    assert!(
        ran.err.contains("note: /mounts/0/type: left out"),
        "{ran:#?}"
    );
    let fixture = bundle("test ! -e /proc/self && echo none");
    assert_eq!(masked(&fixture, "none").exits(0).out, "none\n");
}

#[test]
fn the_environment_is_the_default() {
    lodger_only!("LODGER_PROC");
    let mut fixture = Fixture::with_own_root();
    fixture.sh("test -e /proc/self && echo there; true");
    fixture.write_config();
    let run = |word: &str, args: &[&str]| {
        let mut command = fixture.command(args);
        spawn(command.env("LODGER_PROC", word), b"").wait()
    };
    assert_eq!(run("none", &["run", "c"]).exits(0).out, "");
    assert_eq!(run("", &["run", "c"]).exits(0).out, "there\n");
    let option = ["run", "--proc=new", "c"];
    assert_eq!(run("none", &option).exits(0).out, "there\n");
    run("some", &["run", "c"]).fails(1, "invalid LODGER_PROC: \"some\"");
    let ran = fixture.runtime(&["--proc", "some", "run", "c"]).exits(1);
    assert!(
        ran.err.contains("[possible values: new, auto, bind, none]"),
        "{ran:#?}"
    );
}

#[test]
fn the_plan_shows_it() {
    lodger_only!("plan");
    let fixture = bundle("true");
    let shown = nested(&fixture, &[], MASKS, &["--proc=auto", "plan"]).ok();
    let plan: Value = serde_json::from_str(&shown).unwrap();
    let source = &plan["mounts"][0]["source"];
    assert_eq!(
        source,
        &json!({"kind": "bind", "source": "/proc", "recursive": true})
    );
    assert_eq!(plan["notes"][0]["code"], "LDG-PROC-MASKED");
}

/// Further processes find themselves too.
#[test]
fn exec_works_with_it() {
    lodger_only!("--proc");
    let mut fixture = Fixture::with_own_root();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.runtime(&["run", "-d", "--proc=bind", "c"]).exits(0);
    fixture.wait_status("c", "running");
    let out = fixture
        .bare(&[
            "exec",
            "c",
            "/bin/sh",
            "-c",
            "readlink /proc/self/exe; echo x >>/dev/stderr",
        ])
        .ok();
    assert_eq!(out, "/bin/busybox\n");
}
