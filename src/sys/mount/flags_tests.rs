use std::os::fd::AsFd;

use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
    MS_NOATIME, MS_NODEV, MS_NODIRATIME, MS_NOEXEC, MS_NOSUID, MS_NOSYMFOLLOW, MS_RDONLY,
    MS_RELATIME, MS_STRICTATIME,
};

use super::*;

#[test]
fn attributes_are_flags() {
    for (attributes, flags) in [
        (0, MS_RELATIME),
        (MOUNT_ATTR_RELATIME, MS_RELATIME),
        (
            MOUNT_ATTR_NOATIME | MOUNT_ATTR_RDONLY,
            MS_NOATIME | MS_RDONLY,
        ),
        (
            MOUNT_ATTR_STRICTATIME | MOUNT_ATTR_NOSUID,
            MS_STRICTATIME | MS_NOSUID,
        ),
        (
            MOUNT_ATTR_NOSYMFOLLOW | MOUNT_ATTR_NOEXEC,
            MS_NOSYMFOLLOW | MS_NOEXEC | MS_RELATIME,
        ),
    ] {
        assert_eq!(of_attributes(attributes), flags, "{attributes:#x}");
    }
}

#[test]
fn what_is_shown_of_a_mount_are_flags() {
    // ST_VALID is no attribute.
    for (shown, options, flags) in [
        (0x20, "rw", MS_STRICTATIME),
        (0x1020, "rw,relatime", MS_RELATIME),
        (
            0x1 | 0x2 | 0x4 | 0x8 | 0x400,
            "ro,nosuid,nodev,noexec,noatime",
            0x1 | 0x2 | 0x4 | 0x8 | MS_NOATIME,
        ),
        (
            0x800 | 0x1000 | 0x2000,
            "rw,nodiratime,relatime,nosymfollow",
            MS_NODIRATIME | MS_NOSYMFOLLOW | MS_RELATIME,
        ),
    ] {
        assert_eq!(of_statfs(shown), flags, "{shown:#x}");
        assert_eq!(of_options(options), flags, "{options}");
    }
}

#[test]
fn what_is_not_named_stays() {
    let present = MS_NOSUID | MS_NODEV | MS_NOATIME | MS_NODIRATIME;
    for (set, clear, after) in [
        (0, 0, present),
        (MOUNT_ATTR_RDONLY, 0, present | MS_RDONLY),
        (
            MOUNT_ATTR_NOEXEC,
            MOUNT_ATTR_NODEV,
            (present & !MS_NODEV) | MS_NOEXEC,
        ),
        // Set and cleared at once: it is set.
        (MOUNT_ATTR_NODEV, MOUNT_ATTR_NODEV, present),
        // Without the mask to be cleared, the access time stays.
        (MOUNT_ATTR_RELATIME, 0, present),
        (
            MOUNT_ATTR_RELATIME,
            MOUNT_ATTR__ATIME,
            (present & !MS_NOATIME) | MS_RELATIME,
        ),
        (
            MOUNT_ATTR_STRICTATIME,
            MOUNT_ATTR__ATIME,
            (present & !MS_NOATIME) | MS_STRICTATIME,
        ),
        (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME, present),
    ] {
        assert_eq!(changed(present, set, clear), after, "{set:#x}, {clear:#x}");
    }
}

fn text<'a>(key: &str, value: &str) -> Parameter<'a> {
    Parameter::Text(key.to_owned(), value.to_owned())
}

#[test]
fn parameters_are_one_string() {
    let given = [
        text("source", "a,b"),
        Parameter::Flag("newinstance".to_owned()),
        text("mode", "755"),
        Parameter::Flag("sync".to_owned()),
        text("context", "u:r:t:s0:c1,c2"),
    ];
    let joined = data("tmpfs", &given, false).unwrap();
    assert_eq!(joined.source.as_deref(), Some("a,b"));
    assert_eq!(joined.flags, libc::MS_SYNCHRONOUS);
    assert_eq!(
        joined.text,
        "newinstance,mode=755,context=\"u:r:t:s0:c1,c2\""
    );
    // What mount(2) takes for a new filesystem alone is left to the filesystem.
    let dirsync = [Parameter::Flag("dirsync".to_owned())];
    assert_eq!(data("tmpfs", &dirsync, true).unwrap().text, "dirsync");
    assert_eq!(
        data("tmpfs", &dirsync, false).unwrap().flags,
        libc::MS_DIRSYNC
    );
}

#[test]
fn what_is_not_to_be_said_is_refused() {
    let error = data("tmpfs", &[text("size", "1k,uid=0")], false).unwrap_err();
    assert!(
        error.is(libc::EINVAL) && error.args.contains("with a comma"),
        "{error}"
    );
    let quoted = data("tmpfs", &[text("context", "\"a,uid=0")], false).unwrap_err();
    assert!(quoted.is(libc::EINVAL), "{quoted}");
    let long = [text("a", &"x".repeat(1 << 16))];
    let error = data("tmpfs", &long, false).unwrap_err();
    assert!(
        error.is(libc::E2BIG) && error.args.contains("bytes of options"),
        "{error}"
    );
}

#[test]
fn layers_are_named_by_fd() {
    let [a, b] = [std::io::stdin(), std::io::stdin()];
    let fd = |key: &str| Parameter::Fd(key.to_owned(), a.as_fd());
    let given = [
        fd("lowerdir+"),
        fd("lowerdir+"),
        Parameter::Fd("datadir+".to_owned(), b.as_fd()),
        fd("upperdir"),
        text("xino", "a,b\\,c"),
    ];
    let joined = data("overlay", &given, false).unwrap();
    let path = "/proc/self/fd/0";
    assert_eq!(
        joined.text,
        format!("lowerdir={path}:{path}::{path},upperdir={path},xino=a\\,b\\,c")
    );
}

#[test]
fn flags_have_names() {
    assert_eq!(described(0), "0");
    assert_eq!(
        described(MS_RDONLY | libc::MS_REMOUNT | libc::MS_BIND),
        "MS_RDONLY|MS_REMOUNT|MS_BIND"
    );
}
