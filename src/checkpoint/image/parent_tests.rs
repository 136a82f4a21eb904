#![expect(clippy::disallowed_methods, reason = "directories to work on are made")]

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::PathBuf;

use super::super::tests::manifest;
use super::super::{Draft, Follower, read};
use super::*;

/// A dump in a directory of this name, since `parent`; of memory alone if it says so.
fn dump(place: &Path, name: &str, parent: Option<&Path>, pre_dump: bool) -> Result<PathBuf> {
    let path = place.join(name);
    let parent = parent.map(Parent::open).transpose()?;
    let mut draft = Draft::open(&path)?;
    if let Some(parent) = &parent {
        parent.link_into(draft.new_files())?;
    }
    fs::write(draft.new_path().join("pages-1.img"), format!("of {name}")).unwrap();
    let files = Follower::begin(draft.new_files())?.finish()?;
    let manifest = Manifest {
        pre_dump,
        parent: parent.map(|parent| parent.digest().to_owned()),
        ..manifest()
    };
    draft.commit(manifest, files, true)?;
    draft.finish()?;
    Ok(path)
}

/// Three of them, each since the one before.
fn three(place: &Path) -> Result<[PathBuf; 3]> {
    let first = dump(place, "first", None, true)?;
    let second = dump(place, "second", Some(&first), true)?;
    let third = dump(place, "third", Some(&second), false)?;
    Ok([first, second, third])
}

fn verified(path: &Path) -> Result<()> {
    let opened = read(path)?;
    digest::verify(&opened.directory, &opened.manifest)
}

#[track_caller]
fn refused<T>(done: Result<T>, why: &str) {
    let message = done.err().map(|error| error.message()).unwrap_or_default();
    assert!(message.contains(why), "{message:?} has no {why:?}");
}

#[test]
fn a_dump_has_all_that_went_before_it() {
    let place = tempfile::tempdir().unwrap();
    let [first, second, third] = three(place.path()).unwrap();
    let innermost = third.join("parent/parent/pages-1.img");
    assert_eq!(fs::read_to_string(&innermost).unwrap(), "of first");
    let original = fs::metadata(first.join("pages-1.img")).unwrap();
    assert_eq!(fs::metadata(&innermost).unwrap().ino(), original.ino());
    refused(read(&second), "it has memory alone");
    fs::remove_dir_all(&first).unwrap();
    fs::remove_dir_all(&second).unwrap();
    verified(&third).unwrap();
    // One in the place of one with a parent leaves none.
    let again = dump(place.path(), "third", None, false).unwrap();
    verified(&again).unwrap();
    assert!(!again.join("parent").exists());
}

#[test]
fn what_went_before_is_as_it_was() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage, &str); 6] = [
        (
            "content",
            |p| fs::write(p.join("parent/pages-1.img"), "of secand").unwrap(),
            "another content",
        ),
        (
            "a file",
            |p| fs::remove_file(p.join("parent/pages-1.img")).unwrap(),
            "is missing",
        ),
        (
            "one more",
            |p| fs::write(p.join("parent/parent/core-1.img"), "").unwrap(),
            "no part of it",
        ),
        (
            "all",
            |p| fs::remove_dir_all(p.join("parent")).unwrap(),
            "\"parent\" is missing",
        ),
        (
            "its list",
            |p| fs::write(p.join("parent/lodger.json"), "{}").unwrap(),
            "another lodger.json",
        ),
        (
            "a list",
            |p| fs::remove_file(p.join("parent/parent/lodger.json")).unwrap(),
            "lodger.json",
        ),
    ];
    for (what, damage, why) in damages {
        let place = tempfile::tempdir().unwrap();
        let [.., third] = three(place.path()).unwrap();
        // What is linked is the same file: another one has its place.
        let pages = third.join("parent/pages-1.img");
        fs::rename(&pages, third.join("old")).unwrap();
        fs::copy(third.join("old"), &pages).unwrap();
        damage(&third);
        refused(verified(&third), why);
        refused(Parent::open(&third), why);
        assert!(verified(&third).is_err(), "{what}");
    }
}

#[test]
fn a_link_in_its_place_is_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let [_, second, third] = three(place.path()).unwrap();
    fs::remove_dir_all(third.join("parent")).unwrap();
    std::os::unix::fs::symlink(&second, third.join("parent")).unwrap();
    refused(verified(&third), "cannot open \"parent\"");
}

#[test]
fn there_is_an_end_to_what_went_before() {
    let place = tempfile::tempdir().unwrap();
    let mut last = dump(place.path(), "0", None, true).unwrap();
    for n in 1..DEEPEST {
        last = dump(place.path(), &n.to_string(), Some(&last), true).unwrap();
    }
    refused(
        dump(place.path(), "more", Some(&last), false),
        "32 dumps are in there",
    );
    // One that somebody has made is not followed without an end either.
    let more = place.path().join("more");
    fs::DirBuilder::new().mode(0o700).create(&more).unwrap();
    fs::rename(&last, more.join(PARENT)).unwrap();
    let content = fs::read(more.join(PARENT).join(MANIFEST)).unwrap();
    let outermost = Manifest {
        parent: Some(sum::of(&content)),
        files: serde_json::from_slice::<Manifest>(&content).unwrap().files,
        ..manifest()
    };
    fs::write(more.join("pages-1.img"), "of 31").unwrap();
    fs::write(more.join(MANIFEST), serde_json::to_vec(&outermost).unwrap()).unwrap();
    refused(read(&more), "more dumps than there may be");
}

#[test]
fn files_are_copied_where_they_cannot_be_linked() {
    let place = tempfile::tempdir().unwrap();
    let path = dump(place.path(), "first", None, true).unwrap();
    let from = fs::File::open(&path).unwrap().into();
    let to = tempfile::tempdir().unwrap();
    let to_directory = fs::File::open(to.path()).unwrap().into();
    copy(&from, &to_directory, "pages-1.img").unwrap();
    assert_eq!(
        fs::read_to_string(to.path().join("pages-1.img")).unwrap(),
        "of first"
    );
    assert!(copy(&from, &to_directory, "pages-1.img").is_err());
    std::os::unix::fs::symlink("/etc/passwd", path.join("odd.img")).unwrap();
    assert!(copy(&from, &to_directory, "odd.img").is_err());
}
