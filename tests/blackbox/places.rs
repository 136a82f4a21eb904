//! Where state and images are kept when the usual places cannot be written to, or are not the caller's.

use crate::harness::{Fixture, lodger_only, skip};
use crate::ladder::{on_the_ladder, usable};

/// Leaves the test where the places cannot be played.
macro_rules! need_the_ladder {
    () => {
        lodger_only!("the usual places");
        if !usable() {
            skip!("unshare(1) has no --map-auto, or the runtime lies in /tmp or /run");
        }
    };
}

#[test]
fn a_place_that_is_read_only_is_passed_over() {
    need_the_ladder!();
    let fixture = Fixture::with_own_root();
    for (readonly, place) in [
        ("mount -o remount,ro /tmp", "/var/tmp/lodger-$HOST_UID"),
        (
            "mkdir -m 700 /tmp/lodger-$HOST_UID; mount -o remount,ro /tmp",
            "/var/tmp/lodger-$HOST_UID",
        ),
        (
            "mkdir -m 700 /run/s; mount -t tmpfs -o mode=700,ro none /run/s; export XDG_RUNTIME_DIR=/run/s",
            "/tmp/lodger-$HOST_UID",
        ),
    ] {
        let id = format!("places-{}", std::process::id());
        let script = format!(
            "{readonly}\n\"$0\" create {id} </dev/null; test -d {place}/{id}; \"$0\" state {id} >/dev/null; \
             \"$0\" delete -f {id}; test ! -e {place}/{id}"
        );
        let ran = on_the_ladder(&fixture, &script, &["list", "-q"]);
        assert_eq!(ran.exits(0).err, "", "{readonly}");
    }
}

/// Another session has another place: what was made in one is found in the next.
#[test]
fn a_container_is_found_where_another_session_has_put_it() {
    need_the_ladder!();
    let fixture = Fixture::with_own_root();
    let session = "mkdir -m 700 /run/session; export XDG_RUNTIME_DIR=/run/session";
    for used in ["", "mkdir -m 700 /run/session/lodger"] {
        let script = format!(
            "\"$0\" create c </dev/null; test -d /tmp/lodger-$HOST_UID/c; {session}; {used}\n\
             \"$0\" state c | grep -q created; \"$0\" start c"
        );
        let ran = on_the_ladder(&fixture, &script, &["delete", "-f", "c"]);
        assert_eq!(ran.exits(0).err, "", "{used:?}");
    }
    // What somebody else has prepared is no place for it.
    let script = format!(
        "mkdir -m 700 /tmp/lodger-$HOST_UID; mkdir -m 700 /tmp/lodger-$HOST_UID/c; \
         chown -R 5:5 /tmp/lodger-$HOST_UID; {session}"
    );
    on_the_ladder(&fixture, &script, &["state", "c"]).fails(1, "container does not exist");
}

#[test]
fn without_any_place_the_option_is_named() {
    need_the_ladder!();
    let fixture = Fixture::with_own_root();
    // The bundle and the runtime may lie in one of them.
    let readonly = "mount --rbind / /mnt; mount -o remount,bind,ro /mnt; mount -t tmpfs -o ro none /mnt/dev/shm; \
                    mount -t tmpfs -o ro none /mnt/tmp; mount -t tmpfs -o ro none /mnt/var/tmp; \
                    cp \"$0\" /run/lodger; mount -t tmpfs none /mnt/run; cp /run/lodger /mnt/run/lodger";
    let inside = |words: &str| {
        let script = format!("{readonly}; exec chroot /mnt /run/lodger {words}");
        on_the_ladder(&fixture, &script, &["list"])
    };
    let ran = inside("create c").fails(1, "cannot find a place for the state of containers");
    for sign in ["EROFS", "--root DIR", "  code: LDG-STATE-PLACE\n"] {
        assert!(ran.err.contains(sign), "{sign}: {ran:#?}");
    }
    assert_eq!(inside("list -q").exits(0).err, "");
}

#[test]
fn a_home_that_is_none_is_said_or_the_accounts_taken() {
    need_the_ladder!();
    let fixture = Fixture::with_own_root();
    let hide = "home=$(getent passwd $HOST_UID | cut -d: -f6); mount -t tmpfs -o ro none \"$home\"";
    let import = ["--strict", "image", "import", "-q", "rootfs:rootfs", "i"];
    for (home, code) in [
        ("HOME=$home", "LDG-HOME-READONLY"),
        ("HOME=/nowhere", "LDG-HOME-MISSING"),
        (
            "mkdir -m 777 /tmp/h; chown 5:5 /tmp/h; HOME=/tmp/h",
            "LDG-HOME-FOREIGN",
        ),
    ] {
        let script = format!("{hide}; {home}; export HOME; unset XDG_DATA_HOME LODGER_STORE");
        let ran = on_the_ladder(&fixture, &script, &import).fails(1, "/var/tmp/lodger-store-");
        for sign in ["--store DIR", "LODGER_STORE", &format!("  code: {code}\n")] {
            assert!(ran.err.contains(sign), "{sign}: {ran:#?}");
        }
    }
    // $HOME of somebody else, and an account that has a home.
    let own =
        "home=$(getent passwd $HOST_UID | cut -d: -f6); mount -t tmpfs -o mode=700 none \"$home\"";
    let script = format!("{own}; export HOME=/nowhere; unset XDG_DATA_HOME LODGER_STORE");
    on_the_ladder(&fixture, &script, &import).exits(0);
}
