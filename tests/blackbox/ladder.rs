//! The places where the state is kept when nobody says where: each rung, and what somebody else may have put there.

use std::fs;
use std::process::Command;

use crate::harness::{Fixture, Ran, lodger_only, runtime_binary, skip, spawn};

/// Runs lodger without `--root`, as the root of new user and mount namespaces in which /run and /tmp are empty. A
/// subordinate id, 5, plays the other user. `$UID` is the caller's own number, /rung a directory of hers.
pub(crate) fn on_the_ladder(fixture: &Fixture, prepare: &str, args: &[&str]) -> Ran {
    fixture.write_config();
    let uid = rustix::process::getuid().as_raw();
    let script = format!(
        "mount -t tmpfs -o mode=755 none /run; mount -t tmpfs -o mode=1777 none /tmp\n\
         unset XDG_RUNTIME_DIR; HOST_UID={uid}\n{prepare}\nexec \"$0\" \"$@\""
    );
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args([
            "--user",
            "--map-root-user",
            "--map-auto",
            "--mount",
            "/bin/sh",
            "-ec",
            &script,
        ])
        .arg(runtime_binary())
        .args(args)
        .current_dir(fixture.bundle());
    spawn(&mut command, b"").wait()
}

/// Where `create` keeps the state, after `prepare`.
fn place(fixture: &Fixture, prepare: &str) -> Ran {
    let mut ran = on_the_ladder(fixture, prepare, &["--debug", "list", "-q"]);
    // In a log line, a quote is escaped.
    let found = ran
        .err
        .split_once("state=Some(\\\"")
        .and_then(|(_, rest)| rest.split_once('\\'));
    ran.out = found.map_or_else(|| "none".to_owned(), |(path, _)| path.to_owned());
    ran
}

pub(crate) fn usable() -> bool {
    let runtime = runtime_binary();
    let own = Command::new("/usr/bin/unshare")
        .args([
            "--user",
            "--map-root-user",
            "--map-auto",
            "--mount",
            "/bin/true",
        ])
        .status();
    own.is_ok_and(|status| status.success())
        && !runtime.starts_with("/tmp")
        && !runtime.starts_with("/run")
}

/// Each rung is taken when the one above is not to be had.
#[test]
fn the_state_is_on_the_first_rung_that_is_safe() {
    lodger_only!("the usual places of the state");
    if !usable() {
        skip!("unshare(1) has no --map-auto, or the runtime lies in /tmp or /run");
    }
    let fixture = Fixture::with_own_root();
    let session =
        "mkdir -m 700 /run/session /run/session/lodger; export XDG_RUNTIME_DIR=/run/session\n";
    let user =
        "mkdir -p -m 755 /run/user; mkdir -m 700 /run/user/$HOST_UID /run/user/$HOST_UID/lodger\n";
    let tmp = "mkdir -m 700 /tmp/lodger-$HOST_UID\n";
    let uid = rustix::process::getuid().as_raw();
    let [first, second, third] = [
        "/run/session/lodger".to_owned(),
        format!("/run/user/{uid}/lodger"),
        format!("/tmp/lodger-{uid}"),
    ];
    let all = format!("{session}{user}{tmp}");
    let below = format!("{user}{tmp}");
    let cases = [
        (all.clone(), &first),
        (below.clone(), &second),
        (tmp.to_owned(), &third),
        // What is no place for it is passed over.
        (format!("{all}export XDG_RUNTIME_DIR="), &second),
        (
            format!("{all}export XDG_RUNTIME_DIR=session; cd /run"),
            &second,
        ),
        (format!("{all}export XDG_RUNTIME_DIR=/run/nowhere"), &second),
        (
            format!("{all}ln -s session /run/link; export XDG_RUNTIME_DIR=/run/link"),
            &second,
        ),
        (
            format!("{all}touch /run/file; export XDG_RUNTIME_DIR=/run/file"),
            &second,
        ),
        (
            format!("{all}mkfifo /run/fifo; export XDG_RUNTIME_DIR=/run/fifo"),
            &second,
        ),
        (format!("{all}chmod 770 /run/session"), &second),
        (format!("{all}chmod 1777 /run/session"), &second),
        (format!("{all}chown 5:5 /run/session"), &second),
        // The directory above is somebody else's, or anybody's.
        (format!("{all}chown 5:5 /run"), &third),
        (format!("{all}chmod 777 /run"), &third),
        (format!("{all}chmod 1777 /run"), &first),
        (format!("{below}chmod 777 /run/user"), &third),
        (format!("{below}chown 5:5 /run/user/$HOST_UID"), &third),
        (format!("{below}chmod 777 /run/user/$HOST_UID"), &third),
        (
            format!("{tmp}mkdir /run/user; ln -s /tmp /run/user/$HOST_UID"),
            &third,
        ),
        (
            format!("{tmp}mkdir /run/user; mkfifo /run/user/$HOST_UID"),
            &third,
        ),
        (format!("{tmp}touch /run/user"), &third),
    ];
    for (prepare, expected) in cases {
        let ran = place(&fixture, &prepare);
        assert_eq!((ran.code, &ran.out), (0, expected), "{prepare}: {ran:#?}");
    }
}

/// On the rung that is taken, a directory that somebody has prepared is refused: there is no rung below that she
/// could not prepare as well.
#[test]
fn a_prepared_directory_is_refused_on_every_rung() {
    lodger_only!("the usual places of the state");
    if !usable() {
        skip!("unshare(1) has no --map-auto, or the runtime lies in /tmp or /run");
    }
    let fixture = Fixture::with_own_root();
    let rungs = [
        (
            "mkdir -m 700 /run/session; export XDG_RUNTIME_DIR=/run/session\n",
            "/run/session/lodger",
        ),
        (
            "mkdir /run/user; mkdir -m 700 /run/user/$HOST_UID\n",
            "/run/user/$HOST_UID/lodger",
        ),
        ("", "/tmp/lodger-$HOST_UID"),
    ];
    let hostile = [
        (
            "mkdir -m 700 /run/other; ln -s /run/other PLACE",
            "it is a symbolic link or not a directory",
        ),
        (
            "ln -s /run/nowhere PLACE",
            "it is a symbolic link or not a directory",
        ),
        ("touch PLACE", "it is a symbolic link or not a directory"),
        ("mkfifo PLACE", "it is a symbolic link or not a directory"),
        (
            "mkdir PLACE; chmod 777 PLACE",
            "others may write to it (mode 0777)",
        ),
        (
            "mkdir PLACE; chmod 1777 PLACE",
            "others may write to it (mode 1777)",
        ),
        (
            "mkdir PLACE; chmod 720 PLACE",
            "others may write to it (mode 0720)",
        ),
        (
            "mkdir PLACE; chmod 755 PLACE",
            "others may look into it (mode 0755)",
        ),
        (
            "mkdir -m 700 PLACE; chown 5:5 PLACE",
            "it belongs to uid 5, not to 0",
        ),
    ];
    for (rung, place) in rungs {
        for (attack, why) in hostile {
            let prepare = rung.to_owned() + &attack.replace("PLACE", place);
            for args in [&["list"][..], &["create", "c"], &["delete", "-f", "c"]] {
                let ran = on_the_ladder(&fixture, &prepare, args);
                assert!(
                    ran.err.contains("hint: use --root DIR"),
                    "{prepare}: {ran:#?}"
                );
                ran.fails(1, why);
            }
        }
        // And without an attack it works, and is ours alone.
        let ran = on_the_ladder(
            &fixture,
            &format!(
                "{rung}umask 0; \"$0\" create c; [ \"$(stat -c %a {place})\" = 700 ]; \"$0\" list -q"
            ),
            &["delete", "-f", "c"],
        );
        assert_eq!(ran.ok(), "c\n");
    }
    let prepare = "chmod 777 /tmp; mkdir -m 700 /tmp/lodger-$HOST_UID";
    on_the_ladder(&fixture, prepare, &["list"]).fails(1, "has mode 0777, without the sticky bit");
}

/// A root that the caller names may lie beneath somebody else's directory, but not where anybody could replace it.
#[test]
fn a_root_that_anybody_could_replace_is_refused() {
    lodger_only!("the checks of the state directory");
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    let root = fixture.path("shared/deep/root");
    fs::create_dir_all(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    let list = || {
        let mut command = Command::new(runtime_binary());
        command.arg("--root").arg(&root).args(["list", "-q"]);
        spawn(&mut command, b"").wait()
    };
    for (mode, refused) in [
        (0o755, false),
        (0o775, false),
        (0o777, true),
        (0o1777, false),
    ] {
        fs::set_permissions(fixture.path("shared"), fs::Permissions::from_mode(mode)).unwrap();
        if refused {
            list().fails(1, "others may put another one in its place");
        } else {
            list().ok();
        }
    }
}
