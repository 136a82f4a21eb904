#![expect(clippy::disallowed_methods, reason = "test trees are made by path")]

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// Layers made of lines, topmost first: `d a/b`, `o a/b` (opaque), `f a CONTENT`, `l a TARGET`, `w a` (whiteout).
fn layers(trees: &[&[&str]]) -> (Merged, Vec<TempDir>) {
    let made: Vec<TempDir> = trees.iter().map(|lines| layer(lines)).collect();
    let fds = made
        .iter()
        .map(|dir| fs::File::open(dir.path()).unwrap().into());
    (Merged::new(fds.collect()), made)
}

fn layer(lines: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for line in lines {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let path = dir.path().join(words[1]);
        match words[0] {
            "d" | "o" => {
                fs::create_dir_all(&path).unwrap();
                if words[0] == "o" {
                    let flags = rustix::fs::XattrFlags::empty();
                    rustix::fs::setxattr(&path, OPAQUE, b"y", flags).unwrap();
                }
            }
            "f" => fs::write(&path, words[2]).unwrap(),
            "l" => symlink(words[2], &path).unwrap(),
            _ => {
                let mode = Mode::empty();
                rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, mode, 0)
                    .unwrap();
            }
        }
    }
    dir
}

fn read(merged: &Merged, path: &str) -> String {
    match merged.read(Path::new(path), 100) {
        Ok(Some(content)) => String::from_utf8(content).unwrap(),
        Ok(None) => "none".into(),
        Err(error) => error.cause().unwrap_or_default(),
    }
}

fn list(merged: &Merged, path: &str) -> Vec<String> {
    let directory = merged.lookup(Path::new(path), true).unwrap().unwrap();
    let names = merged.list(&directory).unwrap();
    names
        .into_iter()
        .map(|name| name.into_string().unwrap())
        .collect()
}

#[test]
fn the_topmost_layer_wins_and_directories_are_merged() {
    let (merged, _dirs) = layers(&[
        &["d etc", "f etc/a top"],
        &["f etc-is-elsewhere x"],
        &["d etc", "f etc/a low", "f etc/b low", "d etc/c"],
    ]);
    assert_eq!(read(&merged, "/etc/a"), "top");
    assert_eq!(read(&merged, "etc//./b"), "low");
    assert_eq!(list(&merged, "etc"), ["a", "b", "c"]);
    assert_eq!(list(&merged, "/"), ["etc", "etc-is-elsewhere"]);
    let etc = merged.lookup(Path::new("etc"), false).unwrap().unwrap();
    assert_eq!((etc.layer, etc.layers()), (0, vec![0, 2]));
    let low = merged.lookup(Path::new("etc/c"), false).unwrap().unwrap();
    assert_eq!((low.layer, low.path), (2, PathBuf::from("etc/c")));
}

#[test]
fn whiteouts_opaque_directories_and_other_files_hide_what_is_below() {
    let (merged, _dirs) = layers(&[
        &["d a", "w a/gone", "o b", "f b/new 1", "f c file", "d e"],
        &[
            "d a",
            "f a/gone 1",
            "f a/stays 1",
            "d b",
            "f b/old 1",
            "d c",
            "f c/x 1",
            "f e file",
        ],
        &[
            "d a",
            "f a/gone 2",
            "d b",
            "f b/older 1",
            "d c",
            "d e",
            "f e/hidden 1",
        ],
    ]);
    assert_eq!(read(&merged, "a/gone"), "none");
    assert_eq!(list(&merged, "a"), ["stays"]);
    assert_eq!(list(&merged, "b"), ["new"]);
    assert_eq!(read(&merged, "b/old"), "none");
    assert_eq!(read(&merged, "c"), "file");
    assert_eq!(read(&merged, "c/x"), "none");
    assert_eq!(list(&merged, "e"), [""; 0]);
    let e = merged.lookup(Path::new("e"), false).unwrap().unwrap();
    assert_eq!(e.layers(), [0]);
}

#[test]
fn links_resolve_inside_and_across_layers() {
    let (merged, _dirs) = layers(&[
        &[
            "l lib usr/lib",
            "l abs /lib/x",
            "l up ../../../../lib/x",
            "l loop loop",
            "l dangling nowhere",
        ],
        &[
            "d usr",
            "d usr/lib",
            "f usr/lib/x found",
            "l usr/back ../lib/x",
            "f passwd mine",
        ],
        &["d lib", "f lib/x hidden", "l out /passwd"],
    ]);
    for path in [
        "lib/x",
        "abs",
        "up",
        "usr/back",
        "usr/../lib/x",
        "../../lib/./x",
    ] {
        assert_eq!(read(&merged, path), "found", "{path}");
    }
    // `..` after a link is that of where it leads.
    assert_eq!(read(&merged, "lib/../back"), "found");
    assert_eq!(read(&merged, "out"), "mine");
    assert_eq!(read(&merged, "dangling"), "none");
    assert!(read(&merged, "loop").contains("ELOOP"));
    assert!(read(&merged, "usr").contains("EISDIR"));
    let link = merged.lookup(Path::new("lib"), false).unwrap().unwrap();
    assert_eq!(link.kind(), FileType::Symlink);
    assert_eq!(link.target().unwrap(), "usr/lib");
    let lib = merged.lookup(Path::new("lib"), true).unwrap().unwrap();
    assert_eq!(lib.path, PathBuf::from("usr/lib"));
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let chain = |count: usize| {
        let mut lines = vec!["f 0 end".to_owned()];
        lines.extend((1..=count).map(|n| format!("l {n} {}", n - 1)));
        lines
    };
    let lines = chain(41);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (merged, _dirs) = layers(&[&lines]);
    assert_eq!(read(&merged, "40"), "end");
    assert!(read(&merged, "41").contains("ELOOP"));
}

/// A link that goes up and down again, deep in a tree: each time up begins at the root.
#[test]
fn going_up_counts_as_the_way_from_the_root() {
    let deep = ["d"; 60].join("/");
    let winding = |times: usize| format!("l link-{times} {deep}{}", "/../d".repeat(times));
    let file = format!("f {deep}/file end");
    let lines = [format!("d {deep}"), file, winding(3), winding(100)];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (merged, _dirs) = layers(&[&lines]);
    assert_eq!(read(&merged, "link-3/file"), "end");
    assert!(read(&merged, "link-100/file").contains("ELOOP"));
}

#[test]
fn what_is_read_is_regular_and_limited() {
    let long = format!("f long {}", "x".repeat(101));
    let (merged, dirs) = layers(&[&[&long, "l passwd /fifo"]]);
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, dirs[0].path().join("fifo"), mode).unwrap();
    assert!(read(&merged, "long").contains("EFBIG"));
    assert!(read(&merged, "passwd").contains("not a regular file"));
}

#[test]
fn no_layers_are_an_empty_tree() {
    let merged = Merged::new(Vec::new());
    assert!(merged.root().unwrap().is_none());
    assert_eq!(read(&merged, "etc/passwd"), "none");
}

#[test]
fn an_opaque_root_hides_nothing_as_the_kernel_has_it() {
    let (merged, _dirs) = layers(&[&["o ."], &["f a below"]]);
    assert_eq!(read(&merged, "a"), "below");
}
