//! Every option of config.md is in the table, and does what it says.

use super::*;

/// runtime-spec config.md, "Linux mount options", all three tables.
const CONFIG_MD: &str = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev \
    nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro rprivate \
    rshared rslave runbindable rw shared silent slave strictatime suid sync unbindable nosymfollow symfollow idmap ridmap \
    ratime rdev rdiratime rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow \
    rrelatime rro rrw rstrictatime rsuid rsymfollow mand nomand tmpcopyup";

fn sorted(options: &str) -> Options {
    let options: Vec<String> = options.split(' ').map(str::to_owned).collect();
    sort(&options, Commas::Separate)
}

#[test]
fn the_table_is_complete_and_has_nothing_else() {
    let mut named: Vec<&str> = CONFIG_MD.split_whitespace().collect();
    let mut rows: Vec<&str> = TABLE.iter().map(|(name, _, _)| *name).collect();
    named.sort_unstable();
    rows.sort_unstable();
    assert_eq!(rows, named);
}

#[test]
fn a_recursive_option_does_to_the_tree_what_the_plain_one_does_to_the_mount() {
    for (name, effect, tree) in TABLE {
        let plain = name.strip_prefix('r').filter(|_| *tree);
        let Some(plain) = plain else { continue };
        let row = TABLE.iter().find(|(n, _, _)| *n == plain).unwrap();
        assert_eq!((row.1, row.2), (*effect, false), "{name}");
    }
}

#[test]
fn of_two_that_contradict_the_later_holds() {
    let options = sorted("ro nosuid rw suid nosuid");
    assert_eq!(options.attributes.set, [Attribute::Nosuid]);
    assert_eq!(options.attributes.clear, [Attribute::Ro]);
    assert_eq!(sorted("sync async dirsync").flags, ["dirsync"]);
}

#[test]
fn access_time_policies_are_chosen_and_taken_back() {
    let cases = [
        ("noatime", Some(Atime::Noatime)),
        ("noatime atime", Some(Atime::Relatime)),
        ("strictatime atime", Some(Atime::Strictatime)),
        ("strictatime nostrictatime", Some(Atime::Relatime)),
        ("noatime nostrictatime", Some(Atime::Noatime)),
        ("relatime norelatime", None),
        ("noatime strictatime", Some(Atime::Strictatime)),
        ("nodiratime", None),
    ];
    for (options, expected) in cases {
        assert_eq!(sorted(options).attributes.atime, expected, "{options}");
    }
}

#[test]
fn the_unknown_is_data() {
    let some = |text: &str| Some(text.to_owned());
    let data: Vec<_> = sorted("mode=1777,size=10m noswap x=a=b").data;
    let expected = [
        (0, "mode".to_owned(), some("1777")),
        (0, "size".to_owned(), some("10m")),
        (1, "noswap".to_owned(), None),
        (2, "x".to_owned(), some("a=b")),
    ];
    assert_eq!(data, expected);
}

#[test]
fn a_comma_behind_a_backslash_is_part_of_a_path() {
    let options = [
        "lowerdir=/a\\,b,x".to_owned(),
        "upperdir=/c\\\\,y".to_owned(),
    ];
    let data: Vec<_> = sort(&options, Commas::Escapable).data;
    let names: Vec<_> = data.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["lowerdir", "x", "upperdir", "y"]);
    assert_eq!(data[0].2.as_deref(), Some("/a\\,b"));
    assert_eq!(data[2].2.as_deref(), Some("/c\\\\"));
    assert_eq!(sort(&options, Commas::Separate).data.len(), 5);
}

#[test]
fn an_id_map_is_recursive_if_one_of_the_options_is() {
    assert_eq!(sorted("ridmap idmap").id_map, Some((1, true)));
    assert_eq!(sorted("ro idmap").id_map, Some((1, false)));
    assert_eq!(sorted("ro").id_map, None);
}
