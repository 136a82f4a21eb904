use super::*;

#[test]
fn directories_without_entry_are_as_below() {
    let low = Made::bottom(&[
        directory("./").mode(0o700).at(1),
        directory("a").mode(0o1777).at(2).xattr("user.note", b"low"),
        directory("a/b").mode(0o750).at(3),
    ]);
    let mut top = Made::upper(&[file("a/b/new", ""), file("own/x", "")]);
    top.settle(&[&low]).unwrap();
    for (path, mode, seconds) in [
        ("", 0o700, 1),
        ("a", 0o1777, 2),
        ("a/b", 0o750, 3),
        ("own", 0o755, 0),
    ] {
        let meta = top.meta(path);
        assert_eq!(
            (meta.mode() & 0o7777, meta.mtime()),
            (mode, seconds),
            "{path}"
        );
    }
    assert_eq!(xattr(&top.path("a"), "user.note").unwrap(), b"low");
}

#[test]
fn what_hides_the_layers_below_does_not_take_after_them() {
    let low = Made::bottom(&[
        directory("a").mode(0o700),
        directory("a/b").mode(0o700),
        file("f", ""),
    ]);
    let mut top = Made::upper(&[file(".wh.a", ""), file("a/b/x", ""), file("f/x", "")]);
    top.settle(&[&low]).unwrap();
    assert_eq!(top.tree(), ["o a", "d a/b", "f a/b/x ", "d f", "f f/x "]);
    for path in ["a", "a/b", "f"] {
        assert_eq!(top.meta(path).mode() & 0o777, 0o755, "{path}");
    }
}

#[test]
fn a_link_below_is_not_hidden_by_what_is_beneath_it() {
    let low = Made::bottom(&[
        directory("usr").mode(0o711).at(1),
        directory("usr/lib").mode(0o750).at(2),
        symlink("lib", "usr/lib"),
    ]);
    let mut top = Made::upper(&[
        file("lib/x", "x"),
        directory("lib/sub").mode(0o700).at(3),
        file("lib/sub/y", "y"),
        file("lib/implied/z", "z"),
        file("lib/.wh.gone", ""),
        directory("usr/lib/sub").mode(0o711).at(4),
        file("usr/lib/sub/own", ""),
    ]);
    top.settle(&[&low]).unwrap();
    assert_eq!(
        top.tree(),
        [
            "d usr",
            "d usr/lib",
            "w usr/lib/gone",
            "d usr/lib/implied",
            "f usr/lib/implied/z z",
            "d usr/lib/sub",
            "f usr/lib/sub/own ",
            "f usr/lib/sub/y y",
            "f usr/lib/x x"
        ]
    );
    for (path, mode, seconds) in [
        ("usr", 0o711, 1),
        ("usr/lib", 0o750, 2),
        ("usr/lib/sub", 0o711, 4),
        ("usr/lib/implied", 0o755, 0),
    ] {
        let meta = top.meta(path);
        assert_eq!(
            (meta.mode() & 0o7777, meta.mtime()),
            (mode, seconds),
            "{path}"
        );
    }
}

#[test]
fn two_files_that_become_one_are_refused() {
    let low = Made::bottom(&[directory("usr/lib"), symlink("lib", "usr/lib")]);
    let mut top = Made::upper(&[file("lib/x", "1"), file("usr/lib/x", "2")]);
    let error = top.settle(&[&low]).unwrap_err().message();
    assert!(error.contains("\"lib/x\" and \"usr/lib/x\""), "{error}");
}

#[test]
fn a_link_below_that_leads_nowhere_is_hidden() {
    let low = Made::bottom(&[
        symlink("a", "nowhere"),
        symlink("b", "b"),
        symlink("c", "c/d"),
        file("f", ""),
        symlink("g", "f"),
    ]);
    let mut top = Made::upper(&[file("a/x", ""), file("c/x", ""), file("g/x", "")]);
    top.settle(&[&low]).unwrap();
    assert_eq!(
        top.tree(),
        ["d a", "f a/x ", "d c", "f c/x ", "d g", "f g/x "]
    );
    // An entry of its own hides it always.
    let low = Made::bottom(&[directory("usr/lib"), symlink("lib", "usr/lib")]);
    let mut top = Made::upper(&[directory("lib"), file("lib/x", "")]);
    top.settle(&[&low]).unwrap();
    assert_eq!(top.tree(), ["d lib", "f lib/x "]);
}

#[test]
fn a_hard_link_to_a_file_below_brings_the_file() {
    let low = Made::bottom(&[
        directory("bin").mode(0o711).at(1),
        file("bin/tool", "run")
            .mode(0o4751)
            .at(2)
            .xattr("user.note", b"low")
            .owner(3, 4),
        symlink("sbin", "bin"),
        file("removed", ""),
    ]);
    let mut top = Made::upper(&[
        directory("etc").at(5),
        hard_link("etc/tool", "sbin/tool"),
        hard_link("etc/again", "/etc/tool"),
        hard_link("etc/taken", "bin/tool"),
        file("etc/taken", "own"),
        hard_link("away/gone", "bin/tool"),
        file("away", "own"),
        file(".wh.removed", ""),
        hard_link("removed", "bin/tool"),
    ]);
    top.settle(&[&low]).unwrap();
    assert_eq!(
        top.tree(),
        [
            "f away own",
            "d bin",
            "f bin/tool run",
            "d etc",
            "f etc/again run",
            "f etc/taken own",
            "f etc/tool run",
            "f removed run"
        ]
    );
    let tool = top.meta("bin/tool");
    assert_eq!(
        (tool.nlink(), tool.mode() & 0o7777, tool.mtime()),
        (4, 0o4751, 2)
    );
    assert_eq!(xattr(&top.path("etc/tool"), "user.note").unwrap(), b"low");
    assert_eq!(
        xattr(&top.path("etc/tool"), "user.rootlesscontainers").unwrap(),
        [8, 3, 16, 4]
    );
    assert_eq!((top.meta("etc").mtime(), top.meta("bin").mtime()), (5, 1));
    assert_eq!(top.meta("bin").mode() & 0o777, 0o711);
}

#[test]
fn a_hard_link_to_nothing_below_is_refused_by_name() {
    let low = Made::bottom(&[file("a", ""), symlink("l", "a")]);
    for (brought, why) in [
        (
            vec![hard_link("x", "nowhere")],
            "\"x\": it is a hard link to \"nowhere\", which neither",
        ),
        (vec![hard_link("x", "l")], "no regular file"),
        (vec![hard_link("x", "a"), file(".wh.a", "")], "neither"),
    ] {
        let mut top = Made::upper(&brought);
        let error = top.settle(&[&low]).unwrap_err().message();
        assert!(error.contains(why), "{error}");
    }
}

/// The kernel does not look at the mark of a layer's root.
#[test]
fn an_opaque_root_hides_everything_below() {
    let low = Made::bottom(&[
        file("a", ""),
        directory("both"),
        file("both/low", ""),
        directory("c"),
    ]);
    let mut top = Made::upper(&[file(".wh..wh..opq", ""), directory("both"), file("new", "")]);
    top.settle(&[&low]).unwrap();
    assert_eq!(top.tree(), ["w a", "o both", "w c", "f new "]);
}

#[test]
fn without_attributes_whiteouts_hide_what_is_below() {
    let low = Made::bottom(&[
        directory("d/sub"),
        file("d/sub/low", ""),
        file("d/low", ""),
        file("d/both", ""),
        symlink("d/l", "sub"),
    ]);
    let how = how(false);
    let mut top = Made::upper(&[]);
    let mut unpacker = Unpacker::new(&top.root, &how).unwrap();
    unpacker.fresh.user_xattrs = false;
    for Brought(entry, content) in [
        file("d/.wh..wh..opq", ""),
        file("d/both", "new"),
        file("d/sub/new", ""),
        file("d/l/x", ""),
    ] {
        unpacker.entry(&entry, &mut &content[..]).unwrap();
    }
    let unsettled = unpacker.finish().unwrap().unsettled;
    assert_eq!(unsettled.opaque, [b"d"]);
    top.outcome = Ok(Unpacked {
        report: Report::default(),
        unsettled,
    });
    top.settle(&[&low]).unwrap();
    let tree = top.tree();
    // Where there are attributes after all, a directory in it is marked; elsewhere it has whiteouts too.
    assert_eq!(
        tree,
        [
            "d d",
            "f d/both new",
            "o d/l",
            "f d/l/x ",
            "w d/low",
            "o d/sub",
            "f d/sub/new "
        ]
    );
}
