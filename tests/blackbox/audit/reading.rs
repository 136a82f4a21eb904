//! What strace(1) writes is read as it is meant.

use super::*;

#[test]
fn the_audit_reads_strace() {
    let trace = "\
1 execve(\"/x/lodger\", [\"/x/lodger\"], 0x1 /* 2 vars */) = 0
2 open_tree(AT_FDCWD</t>, \"/r\", OPEN_TREE_CLOEXEC) = 3</r>
2 openat2(12</r>, \"a/b\", {flags=O_PATH, resolve=RESOLVE_NO_MAGICLINKS|RESOLVE_IN_ROOT}, 24) = 4</r/a/b>
2 move_mount(5</>, \"\", 4</r/a/b>, \"\", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH) = 0
2 symlinkat(\"/proc/self/fd\", 4</r/dev>, \"fd\") = 0
2 openat(4</r>, \"new\", O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW, 0644) = 5</r/new>
";
    assert_eq!(audit(trace, "/r").violations, [""; 0]);
    for wrong in [
        "2 mkdirat(12</r>, \"a/b\", 0755) = 0",
        "2 openat2(12</r>, \"a\", {flags=O_PATH, resolve=0}, 24) = 4</r/a>",
        "2 openat(12</r>, \"new\", O_WRONLY|O_CREAT, 0644) = 5</r/new>",
        "2 mount(\"/a\", \"/r/b\", NULL, MS_BIND, NULL) = 0",
        "2 newfstatat(AT_FDCWD</t>, \"/r/etc\", {st_mode=0}, 0) = 0",
        "2 chmod(\"/r/etc\", 0755 <unfinished ...>",
        "2 some_new_call(\"/r/etc\") = 0",
        "2 open_tree(AT_FDCWD</t>, \"/r/dev/null\", OPEN_TREE_CLOEXEC) = 3</r/dev/null>",
        "2 symlinkat(\"/proc/self/fd\", 12</r>, \"dev/fd\") = 0",
        "3 openat(AT_FDCWD</t>, \"/r/etc/passwd\", O_RDONLY) = 3</r/etc/passwd>",
        "3 connect(4<socket:[1]>, {sa_family=AF_UNIX, sun_path=@\"x\"}, 4) = 0",
    ] {
        let found = audit(&format!("{trace}{wrong}\n"), "/r");
        assert_eq!(found.violations.len(), 1, "{wrong}: {found:?}");
    }
}
