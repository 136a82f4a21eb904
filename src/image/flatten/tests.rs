#![expect(clippy::disallowed_methods, reason = "test trees are made by path")]

use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, Timespec, Timestamps, XattrFlags};
use tempfile::TempDir;

use super::super::merged::OPAQUE;
use super::*;
use crate::plan::IdMapping;

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn fd(directory: &TempDir) -> OwnedFd {
    File::open(directory.path()).unwrap().into()
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 100];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 123_456_789,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn time(path: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.mtime(), metadata.mtime_nsec())
}

/// Whose the files of this test are.
fn own_map(size: u32) -> Owners {
    let line = |host_id| IdMapping {
        container_id: 0,
        host_id,
        size,
    };
    Owners::Mapped {
        uid_map: vec![line(rustix::process::geteuid().as_raw())],
        gid_map: vec![line(rustix::process::getegid().as_raw())],
    }
}

#[test]
fn layers_become_one_directory() {
    let (low, top, to) = (directory(), directory(), directory());
    let at = |path: &str| low.path().join(path);
    fs::create_dir_all(at("d/deep")).unwrap();
    fs::write(at("d/gone"), "1").unwrap();
    fs::write(at("d/deep/file"), "low").unwrap();
    fs::create_dir(at("opaque")).unwrap();
    fs::write(at("opaque/old"), "1").unwrap();
    let at = |path: &str| top.path().join(path);
    fs::create_dir_all(at("d/deep")).unwrap();
    rustix::fs::mknodat(
        CWD,
        at("d/gone"),
        FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .unwrap();
    fs::write(at("d/new"), "top").unwrap();
    fs::create_dir(at("opaque")).unwrap();
    set_xattr(&at("opaque"), OPAQUE, b"y");
    fs::write(at("opaque/new"), "12").unwrap();

    let copied = layers(&[fd(&top), fd(&low)], &fd(&to)).unwrap();
    let at = |path: &str| to.path().join(path);
    assert_eq!(fs::read_to_string(at("d/deep/file")).unwrap(), "low");
    assert_eq!(fs::read_to_string(at("d/new")).unwrap(), "top");
    assert!(!at("d/gone").exists() && !at("opaque/old").exists());
    assert!(at("opaque/new").exists());
    assert_eq!(xattr(&at("opaque"), OPAQUE), None);
    assert_eq!((copied.files, copied.bytes), (7, 8));
    assert!(copied.without_xattrs.is_empty() && copied.devices.is_empty());
}

#[test]
fn all_that_a_file_has_is_copied() {
    let (layer, to) = (directory(), directory());
    let at = |path: &str| layer.path().join(path);
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/program"), "x").unwrap();
    fs::hard_link(at("d/program"), at("other")).unwrap();
    fs::hard_link(at("d/program"), at("d/third")).unwrap();
    symlink("/nowhere/at/all", at("link")).unwrap();
    sys::path::make_fifo(fd(&layer), OsStr::new("fifo"), 0o622).unwrap();
    set_xattr(&at("d"), "user.directory", b"1");
    set_xattr(&at("d/program"), "user.file", b"");
    fs::set_permissions(at("d/program"), Permissions::from_mode(0o4711)).unwrap();
    for path in ["d/program", "link", "fifo"] {
        set_time(&at(path), 1_000_000_000);
    }
    fs::set_permissions(at("d"), Permissions::from_mode(0o2750)).unwrap();
    set_time(&at("d"), -5);
    set_time(layer.path(), 77);

    let copied = layers(&[fd(&layer)], &fd(&to)).unwrap();
    let at = |path: &str| to.path().join(path);
    let metadata = |path: &str| fs::symlink_metadata(at(path)).unwrap();
    assert_eq!(metadata("d/program").mode() & 0o7777, 0o4711);
    assert_eq!(metadata("d").mode() & 0o7777, 0o2750);
    assert_eq!(metadata("fifo").mode() & 0o7777, 0o622);
    assert!(metadata("fifo").file_type().is_fifo());
    for path in ["d/program", "link", "fifo"] {
        assert_eq!(time(&at(path)), (1_000_000_000, 123_456_789), "{path}");
    }
    assert_eq!(time(&at("d")), (-5, 123_456_789));
    assert_eq!(time(to.path()), (77, 123_456_789));
    assert_eq!(xattr(&at("d"), "user.directory").unwrap(), b"1");
    assert_eq!(xattr(&at("d/program"), "user.file").unwrap(), b"");
    assert_eq!(
        fs::read_link(at("link")).unwrap(),
        Path::new("/nowhere/at/all")
    );
    for path in ["other", "d/third"] {
        assert_eq!(metadata(path).ino(), metadata("d/program").ino(), "{path}");
    }
    assert_eq!(metadata("other").nlink(), 3);
    assert_eq!((copied.files, copied.bytes), (7, 1));
}

#[test]
fn holes_stay_holes() {
    let (layer, to) = (directory(), directory());
    let mut file = File::create(layer.path().join("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.seek(SeekFrom::Start(32 << 20)).unwrap();
    file.write_all(b"here").unwrap();
    let mut full = File::create(layer.path().join("full")).unwrap();
    full.write_all(&vec![b'y'; 3 << 20]).unwrap();
    layers(&[fd(&layer)], &fd(&to)).unwrap();
    let metadata = fs::metadata(to.path().join("sparse")).unwrap();
    assert_eq!(metadata.len(), 64 << 20);
    assert!(metadata.blocks() < 4096, "{} blocks", metadata.blocks());
    let content = fs::read(to.path().join("sparse")).unwrap();
    assert_eq!(&content[32 << 20..][..4], b"here");
    let full = fs::read(to.path().join("full")).unwrap();
    assert!(full == vec![b'y'; 3 << 20]);
}

#[test]
fn deep_directories_need_few_files() {
    let (layer, to) = (directory(), directory());
    let deep = vec!["d"; 500].join("/");
    let mut at = layer.path().to_owned();
    fs::create_dir_all(layer.path().join(&deep)).unwrap();
    for name in deep.split('/') {
        at.push(name);
    }
    fs::write(at.join("file"), "x").unwrap();
    let copied = layers(&[fd(&layer)], &fd(&to)).unwrap();
    assert_eq!(copied.files, 502);
    assert!(to.path().join(deep).join("file").exists());
}

#[test]
fn a_directory_becomes_a_layer() {
    let (source, to) = (directory(), directory());
    fs::write(source.path().join("file"), "x").unwrap();
    set_xattr(&source.path().join("file"), "user.overlay.opaque", b"y");
    set_xattr(&source.path().join("file"), "user.kept", b"y");
    let _socket = UnixListener::bind(source.path().join("socket")).unwrap();
    let copied = copy_tree(&fd(&source), &fd(&to), &own_map(1)).unwrap();
    assert_eq!((copied.files, copied.squashed), (2, 0));
    assert_eq!(copied.sockets.first, ["socket"]);
    assert!(!to.path().join("socket").exists());
    assert_eq!(xattr(&to.path().join("file"), "user.overlay.opaque"), None);
    assert!(xattr(&to.path().join("file"), "user.kept").is_some());

    let error = copy_tree(&fd(&source), &fd(&to), &own_map(1)).unwrap_err();
    assert!(error.message().contains("\"/file\""), "{error}");
    assert!(error.message().contains("EEXIST"), "{error}");
}

#[test]
fn owners_are_ids_of_the_map_or_all_squashed() {
    let (source, to) = (directory(), directory());
    fs::write(source.path().join("file"), "x").unwrap();
    let error = copy_tree(&fd(&source), &fd(&to), &own_map(0)).unwrap_err();
    assert!(error.message().contains("\"/file\""), "{error}");
    assert!(error.to_string().contains("--squash-owners"), "{error}");
    assert!(!to.path().join("file").exists());
    let (uid, gid) = (u32::MAX - 2, u32::MAX - 2);
    let copied = copy_tree(&fd(&source), &fd(&to), &Owners::Squashed { uid, gid }).unwrap();
    assert_eq!(copied.squashed, 2);
}
