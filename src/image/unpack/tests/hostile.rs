use super::*;

/// The neighbour of the destination is as it was.
#[track_caller]
fn assert_untouched(made: &Made) {
    let outside = made.dir.path().join("outside");
    let names: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["canary"], "{}", made.error());
    assert_eq!(
        fs::read_to_string(outside.join("canary")).unwrap(),
        "canary"
    );
    let stat = fs::metadata(outside.join("canary")).unwrap();
    assert_eq!((stat.nlink(), stat.mode() & 0o7000), (1, 0));
    let names = fs::read_dir(made.dir.path()).unwrap().count();
    assert_eq!(names, 2);
}

#[test]
fn names_that_lead_out_are_refused() {
    for path in [
        "..",
        "../x",
        "a/../../x",
        "/../x",
        "a/..",
        "./../outside/canary",
        "",
        "a\0b",
    ] {
        for made in [
            file(path, "x"),
            directory(path),
            symlink(path, "y"),
            hard_link(path, "y"),
        ] {
            let made = Made::upper(&[made]);
            assert!(made.outcome.is_err(), "{path:?}");
            assert_untouched(&made);
            assert_eq!(made.tree(), [""; 0], "{path:?}");
        }
    }
    let made = Made::upper(&[file("f", ""), hard_link("x", "../outside/canary")]);
    assert!(made.error().contains("`..`"));
}

#[test]
fn names_that_lead_nowhere_else_are_taken() {
    for path in ["/etc/x", "./etc/x", "//etc///x", "etc/./x", "etc/x/."] {
        assert_eq!(
            Made::upper(&[file(path, "x")]).tree(),
            ["d etc", "f etc/x x"],
            "{path:?}"
        );
    }
}

#[test]
fn the_root_is_a_directory() {
    for path in [".", "./", "/", "/.", "././/"] {
        for made in [
            file(path, "x"),
            symlink(path, "/tmp"),
            hard_link(path, "f"),
            entry(Kind::Fifo, path),
        ] {
            let made = Made::upper(&[file("f", ""), made]);
            assert!(
                made.error().contains("can only be a directory"),
                "{path:?}: {}",
                made.error()
            );
        }
    }
    let made = Made::upper(&[hard_link("x", "/")]);
    assert!(made.error().contains("hard link to the root"));
}

#[test]
fn nothing_is_written_through_a_link() {
    let outside = "../outside/canary";
    for brought in [
        vec![symlink("x", outside), file("x", "bad")],
        vec![symlink("x", outside), file("x", "bad").mode(0o4777)],
        vec![
            file("f", ""),
            symlink("x", outside),
            hard_link("y", "f"),
            file("x", "bad"),
        ],
        vec![symlink("d", "../outside"), directory("d").mode(0o777)],
        vec![symlink("d", "../outside"), file("d/canary", "bad")],
        vec![symlink("d", "../outside"), file("d/new/sub", "bad")],
        vec![symlink("d", "../outside"), file("d/.wh.canary", "")],
        vec![symlink("d", "../outside"), file("d/.wh..wh..opq", "")],
        vec![
            symlink("d", ".."),
            symlink("d/outside", "x"),
            file("d/outside/canary", "bad"),
        ],
        vec![
            symlink("d", "../outside"),
            hard_link("x", "d/canary"),
            file("x", "bad"),
        ],
    ] {
        let made = Made::upper(&brought);
        assert_untouched(&made);
        let absolute: Vec<Brought> = brought
            .into_iter()
            .map(|mut brought| {
                let target = String::from_utf8(brought.0.link.clone()).unwrap();
                if target.starts_with("..") && brought.0.kind == Kind::Symlink {
                    let target = made.dir.path().join("root").join(target);
                    brought.0.link = target.to_str().unwrap().into();
                }
                brought
            })
            .collect();
        assert_untouched(&Made::upper(&absolute));
        assert_untouched(&made);
    }
}

#[test]
fn hard_links_are_to_regular_files_inside() {
    let made = Made::upper(&[
        symlink("s", "../outside/canary"),
        hard_link("x", "s"),
        file("x", "bad"),
    ]);
    assert!(made.error().contains("no regular file"), "{}", made.error());
    let made = Made::upper(&[directory("d"), hard_link("x", "d")]);
    assert!(made.error().contains("no regular file"));
    let made = Made::bottom(&[hard_link("x", "nowhere")]);
    assert!(made.error().contains("not there"));
    // The other name keeps what it has.
    let made = Made::upper(&[
        file("a", "1"),
        hard_link("b", "a"),
        file("b", "2"),
        hard_link("a", "/a"),
    ]);
    assert_eq!(made.tree(), ["f a 1", "f b 2"]);
}

#[test]
fn malformed_whiteouts_are_refused_in_every_layer() {
    for path in [
        ".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh...", ".wh.a/b",
    ] {
        for bottom in [false, true] {
            let made = Made::of(&[file("b", ""), file(path, "")], &how(bottom));
            assert!(
                made.error().contains("whiteout"),
                "{path}: {}",
                made.error()
            );
            assert_eq!(made.tree(), ["f b "]);
        }
    }
    let made = Made::upper(&[directory("usr"), symlink("l", "usr"), file("l/.wh.x", "")]);
    assert!(
        made.error()
            .contains("which the layer makes a symbolic link"),
        "{}",
        made.error()
    );
}

#[test]
fn names_and_depth_are_limited() {
    let deep = "d/".repeat(1024);
    assert!(Made::upper(&[directory(&deep)]).outcome.is_ok());
    let deeper = format!("{deep}d");
    let error = Made::upper(&[directory(&deeper)]).outcome.unwrap_err();
    assert!(
        error.message().contains("more than 1024 directories deep"),
        "{error}"
    );
    assert!(error.hints().unwrap().contains("--max-depth"));
    let long = format!("{}x", "./".repeat(2048));
    assert!(
        Made::upper(&[file(&long, "")])
            .error()
            .contains("more than 4096 bytes")
    );
    let long = "x".repeat(256);
    assert!(
        Made::upper(&[file(&long, "")])
            .error()
            .contains("ENAMETOOLONG")
    );
}

#[test]
fn a_deep_tree_makes_room_for_a_file() {
    let deep = "d/".repeat(1000);
    let wide = (0..300).map(|n| directory(&format!("d/w{n}/x/y")));
    let mut brought: Vec<_> = wide.collect();
    brought.extend([file(&format!("{deep}f"), ""), file("d", "file")]);
    let made = Made::upper(&brought);
    assert_eq!(made.tree(), ["f d file"], "{}", made.error());
}

#[test]
fn what_is_left_to_the_layers_below_is_limited() {
    let name = "n".repeat(250);
    let links = (0..40_000).map(|n| hard_link(&format!("{n}"), &name));
    let links: Vec<_> = links.collect();
    let error = Made::upper(&links).outcome.unwrap_err();
    assert!(error.message().contains("8 MiB"), "{error}");
}

#[test]
fn content_ends_where_its_size_says() {
    let mut short = file("f", "abc");
    short.0.size = 4;
    assert!(
        Made::upper(&[short])
            .error()
            .contains("ends before its size")
    );
    let mut long = file("f", "abcdef");
    long.0.size = 3;
    assert_eq!(Made::upper(&[long]).tree(), ["f f abc"]);
}

#[test]
fn links_lead_no_deeper_than_names() {
    let steps = "s/".repeat(1000);
    let mut brought = vec![directory(&steps)];
    brought.push(symlink("a", &steps));
    brought.push(symlink(
        &format!("{steps}s"),
        "../".repeat(1000).trim_end_matches('/'),
    ));
    brought.push(file("a/n/x", ""));
    assert!(Made::upper(&brought).outcome.is_ok());
    brought.push(file(&format!("a/{}x", "n/".repeat(30)), ""));
    let made = Made::bottom(&brought);
    assert!(
        made.error().contains("more than 1024 directories deep"),
        "{}",
        made.error()
    );
}
