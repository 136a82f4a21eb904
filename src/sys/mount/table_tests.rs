use std::path::Path;

use super::*;

const TABLE: &str = "\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:5 / /proc rw,nosuid master:3 - proc proc rw
30 22 0:40 / /proc/tty/ldisc rw,nosuid,nodev,noexec,relatime unbindable - tmpfs tmpfs rw,mode=700
41 30 8:1 /data /proc/tty/ldisc/0 rw,relatime - ext4 /dev/vda rw,lazytime
40 41 0:41 / /proc/tty/ldisc/0/a\\040b ro,noatime - tmpfs t rw
43 40 0:42 / /proc/tty/ldisc/0/a\\040b/c rw,nosymfollow - tmpfs t rw
50 21 0:43 / /proc/tty/ldisc/0x rw - tmpfs t rw
";

fn table(more: &str) -> Vec<Entry> {
    parse(format!("{TABLE}{more}").as_bytes()).unwrap()
}

fn ids(entries: &[Entry], top: u64) -> Vec<u64> {
    beneath(entries, top).iter().map(|entry| entry.id).collect()
}

#[test]
fn lines_are_read() {
    let entries = table("");
    assert_eq!(entries.len(), 7);
    assert_eq!(entries[4].point, Path::new("/proc/tty/ldisc/0/a b"));
    assert_eq!(entries[4].flags, libc::MS_RDONLY | libc::MS_NOATIME);
    assert_eq!((entries[3].lazytime, entries[4].lazytime), (true, false));
    assert_eq!(unescaped(b"a\\134\\011b\\9\\"), "a\\\tb\\9\\");
}

#[test]
fn a_line_that_is_not_understood_is_no_table() {
    for line in [
        "x",
        "21 1 8:1 / / rw",
        "x 1 8:1 / / rw - ext4 a rw",
        "21 1 8:1 / / rw - ext4",
    ] {
        assert_eq!(parse(line.as_bytes()), None, "{line}");
    }
}

#[test]
fn what_is_mounted_beneath_is_found_in_whatever_order() {
    assert_eq!(ids(&table(""), 41), [40, 43]);
    assert_eq!(ids(&table(""), 40), [43]);
    assert!(ids(&table(""), 43).is_empty());
    // Not by the names: what only begins with the same is another's.
    assert!(!ids(&table(""), 30).contains(&50));
}

#[test]
fn what_the_tree_itself_covers_is_left_out() {
    let entries = table(
        "61 41 0:50 / /proc/tty/ldisc/0/d/e rw - tmpfs t rw\n\
         60 41 0:51 / /proc/tty/ldisc/0/d rw - tmpfs t rw\n",
    );
    assert_eq!(
        ids(&entries, 41),
        [40, 43, 60],
        "a later mount on a directory above"
    );
    let entries = table("60 43 0:50 / /proc/tty/ldisc/0/a\\040b/c rw - tmpfs t rw\n");
    assert_eq!(ids(&entries, 41), [40, 60], "a mount on top of another");
    let entries = table("60 41 0:50 / /proc/tty/ldisc/0 rw - tmpfs t rw\n");
    assert_eq!(ids(&entries, 41), [60], "a mount on top of the tree");
    // What another has put over the tree tells nothing of what will be seen once it is moved.
    let entries = table("60 22 0:50 / /proc/tty rw - tmpfs t rw\n");
    assert_eq!(ids(&entries, 41), [40, 43]);
}

#[test]
fn a_table_with_a_circle_has_an_end() {
    let entries = parse(b"2 3 0:1 / /a rw - t t rw\n3 2 0:1 / /a/b rw - t t rw\n").unwrap();
    assert_eq!(ids(&entries, 2), [3]);
    assert!(!is_above(&entries, 9, &entries[0]));
}
