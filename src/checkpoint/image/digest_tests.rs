#![expect(clippy::disallowed_methods, reason = "images to work on are made")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::super::tests::manifest;
use super::*;

fn of(content: &[u8]) -> File {
    File {
        size: content.len() as u64,
        digest: crate::checkpoint::image::sum::of(content),
    }
}

#[test]
fn what_is_written_meanwhile_is_in_the_digest() {
    let place = tempfile::tempdir().unwrap();
    let directory = fs::File::open(place.path()).unwrap();
    let follower = Follower::begin(&directory).unwrap();
    let piece = vec![7u8; PIECE / 2 + 1];
    let mut pages = fs::File::create(place.path().join("pages-1.img")).unwrap();
    let mut all = Vec::new();
    for _ in 0..9 {
        pages.write_all(&piece).unwrap();
        all.extend(&piece);
        std::thread::yield_now();
    }
    fs::write(place.path().join("core-1.img"), "core").unwrap();
    fs::write(place.path().join("dump.log"), "no image").unwrap();
    let files = follower.finish().unwrap();
    let expected = [
        ("core-1.img".to_owned(), of(b"core")),
        ("pages-1.img".to_owned(), of(&all)),
    ];
    assert_eq!(files, BTreeMap::from(expected));
}

#[test]
fn one_that_was_not_appended_to_is_computed_anew() {
    let place = tempfile::tempdir().unwrap();
    let directory = OwnedFd::from(fs::File::open(place.path()).unwrap());
    let path = place.path().join("pages-1.img");
    let mut buffer = vec![0; 4];
    let mut begun = |path: &Path| {
        fs::write(path, "first").unwrap();
        let mut followed = Vec::new();
        while follow(&directory, &mut followed, &mut buffer) {}
        assert_eq!(followed[0].length, 5);
        followed
            .into_iter()
            .map(|f| (f.name.clone(), f))
            .collect::<BTreeMap<_, _>>()
    };
    let mut followed = begun(&path);
    fs::write(&path, "1st").unwrap();
    let mut buffer = vec![0; 4];
    let file = complete(&directory, "pages-1.img", &mut followed, &mut buffer).unwrap();
    assert_eq!(file, of(b"1st"));
    let mut followed = begun(&path);
    fs::write(place.path().join("x"), "second").unwrap();
    fs::rename(place.path().join("x"), &path).unwrap();
    let file = complete(&directory, "pages-1.img", &mut followed, &mut buffer).unwrap();
    assert_eq!(file, of(b"second"));
    let mut followed = begun(&path);
    let mut appended = fs::OpenOptions::new().append(true).open(&path).unwrap();
    appended.write_all(b" more").unwrap();
    let file = complete(&directory, "pages-1.img", &mut followed, &mut buffer).unwrap();
    assert_eq!(file, of(b"first more"));
}

#[test]
fn only_what_was_written_is_restored() {
    type Change = fn(&Path);
    let cases: [(&str, Change); 12] = [
        ("no part of it", |p| {
            symlink("..", p.join("parent")).unwrap()
        }),
        ("no part of it", |p| fs::write(p.join("b.img"), "").unwrap()),
        ("is missing", |p| fs::remove_file(p.join("a.img")).unwrap()),
        ("has 2 bytes, and had 3", |p| {
            fs::write(p.join("a.img"), "ab").unwrap()
        }),
        ("has 5 bytes", |p| {
            fs::write(p.join("a.img"), "abcde").unwrap()
        }),
        ("another content", |p| {
            fs::write(p.join("a.img"), "abd").unwrap()
        }),
        ("no regular file", |p| {
            fs::rename(p.join("a.img"), p.join("x")).unwrap();
            symlink("x", p.join("a.img")).unwrap();
        }),
        ("no regular file", |p| {
            fs::remove_file(p.join("a.img")).unwrap();
            fs::create_dir(p.join("a.img")).unwrap();
        }),
        ("no regular file", |p| {
            fs::remove_file(p.join("a.img")).unwrap();
            let directory = fs::File::open(p).unwrap();
            assert!(sys::path::make_fifo(directory, "a.img".as_ref(), 0o600).unwrap());
        }),
        ("no regular file", |p| {
            fs::remove_file(p.join("a.img")).unwrap();
            std::os::unix::net::UnixListener::bind(p.join("a.img")).unwrap();
        }),
        ("others may write", |p| {
            let open = fs::Permissions::from_mode(0o620);
            fs::set_permissions(p.join("a.img"), open).unwrap();
        }),
        // Another name of another file of the caller's.
        ("another content", |p| {
            fs::remove_file(p.join("a.img")).unwrap();
            fs::write(p.join("other"), "abd").unwrap();
            fs::hard_link(p.join("other"), p.join("a.img")).unwrap();
        }),
    ];
    for (why, change) in cases {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("a.img"), "abc").unwrap();
        fs::write(place.path().join("dump.log"), "no image").unwrap();
        let directory = fs::File::open(place.path()).unwrap();
        let mut manifest = manifest();
        manifest.files.insert("a.img".to_owned(), of(b"abc"));
        verify(&directory, &manifest).unwrap();
        change(place.path());
        let error = verify(&directory, &manifest).unwrap_err();
        assert!(error.message().contains(why), "{why}: {error}");
    }
}

#[test]
fn what_is_no_file_has_no_digest() {
    let place = tempfile::tempdir().unwrap();
    let directory = fs::File::open(place.path()).unwrap();
    for (name, is_link) in [("pages-1.img", false), ("pages-2.img", true)] {
        let path = place.path().join(name);
        match is_link {
            true => symlink("/etc/passwd", &path).unwrap(),
            false => fs::create_dir(&path).unwrap(),
        }
        let error = Follower::begin(&directory).unwrap().finish().unwrap_err();
        assert!(error.message().contains("no regular file"), "{error}");
        let _one_of_both = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
    }
    let odd = place.path().join("a b.img");
    fs::write(&odd, "").unwrap();
    let error = Follower::begin(&directory).unwrap().finish().unwrap_err();
    assert!(error.message().contains("no name of an image"), "{error}");
}
