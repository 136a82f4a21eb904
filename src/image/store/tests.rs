#![expect(
    clippy::disallowed_methods,
    reason = "what the store is made to find is put there by path"
)]

use std::os::unix::fs::{PermissionsExt, symlink};

use std::sync::atomic::AtomicBool;

use super::*;
use crate::image::unpack::Report;
use crate::image::{Owners, containers};

static GO: AtomicBool = AtomicBool::new(false);

fn owners() -> Owners {
    Owners::Squashed { uid: 1, gid: 2 }
}

fn layer_record(work: &Work, chain: &Digest) -> LayerRecord {
    let listing = tree::list(work.root(), false).unwrap();
    LayerRecord {
        diff_id: chain.clone(),
        chain: chain.clone(),
        tar_size: listing.bytes,
        owners: owners(),
        boot_id: "b".into(),
        listing,
        report: Report::default(),
    }
}

/// A layer with one file.
fn add_layer(store: &ImageStore, word: &str) -> LayerId {
    let chain = Digest::of(word.as_bytes());
    let Claim::Ours(work) = store.claim(&chain, &owners(), &GO).unwrap() else {
        panic!("{word} is there");
    };
    std::fs::write(path_of(work.root()).join(word), word).unwrap();
    let record = layer_record(&work, &chain);
    store.publish(work, &record).unwrap()
}

fn path_of(fd: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
}

fn add_image(store: &ImageStore, name: &str, layers: &[LayerId]) -> ImageRecord {
    let config = format!("{{\"of\":{name:?}}}");
    let digest = Digest::of(config.as_bytes());
    store.keep_blob(&digest, config.as_bytes()).unwrap();
    let image = ImageRecord {
        name: name.into(),
        manifest: digest.clone(),
        config: digest,
        layers: layers.to_vec(),
        owners: owners(),
        source: "oci:x".into(),
        imported: "2026-01-01T00:00:00Z".into(),
        size: 1,
        notes: Vec::new(),
    };
    store.name_image(&image).unwrap();
    image
}

fn new_store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open_or_make(&directory.path().join("a/store")).unwrap();
    (directory, store)
}

#[test]
fn all_of_it_is_the_owners_alone() {
    let (_directory, store) = new_store();
    let layer = add_layer(&store, "one");
    add_image(&store, "docker.io/a:1", std::slice::from_ref(&layer));
    drop(store.lock_exclusive().unwrap());
    let mut left = vec![store.path().to_owned()];
    let mut seen = 0;
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        // The file in the layer is the test's.
        if !path.starts_with(store.layer_root(&layer)) || metadata.is_dir() {
            assert_eq!(mode, expected, "{path:?}");
        }
        seen += 1;
        if metadata.is_dir() {
            left.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn a_store_that_others_can_write_to_is_refused() {
    let (_directory, store) = new_store();
    let path = store.path().to_owned();
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["", "images", "layers", "blobs", "tmp"] {
        let part = path.join(name);
        for mode in [0o770, 0o707, 0o720] {
            set(&part, mode);
            let error = ImageStore::open_or_make(&path).unwrap_err();
            assert!(error.message().contains("others may"), "{name}: {error}");
            if name == "images" {
                let open = ImageStore::open(&path).unwrap().unwrap();
                assert!(open.images().is_err());
                assert!(open.image("x").is_err());
            }
        }
        set(&part, 0o700);
    }
    let moved = path.with_file_name("moved");
    std::fs::rename(path.join("images"), &moved).unwrap();
    symlink(&moved, path.join("images")).unwrap();
    let error = ImageStore::open_or_make(&path).unwrap_err();
    assert!(error.message().contains("symbolic link"), "{error}");
    let link = path.with_file_name("link");
    symlink(&path, &link).unwrap();
    for error in [
        ImageStore::open_or_make(&link).unwrap_err(),
        ImageStore::open(&link).unwrap_err(),
        ImageStore::open_readonly(&link).unwrap_err(),
    ] {
        assert!(error.message().contains("symbolic link"), "{error}");
    }
}

#[test]
fn a_store_that_is_only_read_is_not_touched() {
    let (_directory, store) = new_store();
    let layer = add_layer(&store, "one");
    let image = add_image(&store, "a", std::slice::from_ref(&layer));
    let before = std::fs::metadata(store.path()).unwrap().modified().unwrap();
    let readonly = ImageStore::open_readonly(store.path()).unwrap();
    assert!(readonly.is_readonly());
    drop(readonly.lock_shared().unwrap());
    assert_eq!(readonly.image("a").unwrap().unwrap(), image);
    assert!(readonly.config(&image).unwrap().starts_with(b"{\"of\""));
    assert_eq!(readonly.layer_root(&layer), store.layer_root(&layer));
    for error in [
        readonly.lock_exclusive().unwrap_err(),
        readonly.name_image(&image).unwrap_err(),
        readonly.forget("a").unwrap_err(),
        readonly.keep_blob(&Digest::of(b"x"), b"x").unwrap_err(),
        gc::remove(&readonly, &gc::Garbage::default()).unwrap_err(),
    ] {
        assert!(error.message().contains("only read"), "{error}");
    }
    assert!(!store.path().join("lock").exists());
    let after = std::fs::metadata(store.path()).unwrap().modified().unwrap();
    assert_eq!(before, after);
    // Its owner may hold the lock as long as he likes.
    let _his = store.lock_exclusive().unwrap();
    drop(readonly.lock_shared().unwrap());
}

#[test]
fn a_name_means_the_last_image_that_got_it() {
    let (_directory, store) = new_store();
    assert_eq!(store.image("a").unwrap(), None);
    let one = add_image(&store, "a", &[]);
    let mut two = one.clone();
    two.source = "oci:y".into();
    assert_eq!(store.name_image(&two).unwrap(), Some(one));
    assert_eq!(store.image("a").unwrap(), Some(two.clone()));
    add_image(&store, "b/c:d", &[]);
    std::fs::write(store.path().join("images/x.json"), "{").unwrap();
    let file = std::fs::read(store.path().join("images/a.json")).unwrap();
    std::fs::write(store.path().join("images/y.json"), file).unwrap();
    let (images, damaged) = store.images().unwrap();
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["a", "b/c:d"]);
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    assert!(gc::find(&store).is_err(), "it may need anything");
    assert!(store.forget("a").unwrap());
    assert!(!store.forget("a").unwrap());
    assert!(store.forget("../lock").is_err());
}

#[test]
fn a_changed_blob_is_not_read() {
    let (_directory, store) = new_store();
    let image = add_image(&store, "a", &[]);
    let path = format!("blobs/sha256/{}", image.config.hex());
    std::fs::write(store.path().join(path), "{\"of\":\"b\"}").unwrap();
    let error = store.config(&image).unwrap_err();
    assert!(error.message().contains("another digest"), "{error}");
    let mut known = std::collections::BTreeMap::new();
    let found = verify::image(&store, &image, &mut known);
    assert!(
        matches!(found[0].1, verify::Finding::Damaged(_)),
        "{found:?}"
    );
}

#[test]
fn one_of_two_unpacks_and_the_other_waits_for_it() {
    let (_directory, store) = new_store();
    let chain = Digest::of(b"layer");
    let Claim::Ours(work) = store.claim(&chain, &owners(), &GO).unwrap() else {
        panic!("it is there");
    };
    let waiting = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let claim = store.claim(&chain, &owners(), &GO).unwrap();
            let waited = !waiting.load(std::sync::atomic::Ordering::SeqCst);
            (matches!(claim, Claim::There(..)), waited)
        });
        let record = layer_record(&work, &chain);
        waiting.store(false, std::sync::atomic::Ordering::SeqCst);
        store.publish(work, &record).unwrap();
        assert_eq!(other.join().unwrap(), (true, true));
    });
    // Those who gave up leave it to the next.
    let chain = Digest::of(b"another");
    let Claim::Ours(work) = store.claim(&chain, &owners(), &GO).unwrap() else {
        panic!("it is there");
    };
    std::thread::scope(|scope| {
        let other =
            scope.spawn(|| matches!(store.claim(&chain, &owners(), &GO), Ok(Claim::Ours(_))));
        store.abandon(work).unwrap();
        assert!(other.join().unwrap());
    });
}

#[test]
fn what_was_left_is_emptied_and_other_owners_get_a_layer_of_their_own() {
    let (_directory, store) = new_store();
    let chain = Digest::of(b"layer");
    let left = store.path().join(format!("tmp/{}-squashed", chain.hex()));
    std::fs::create_dir_all(left.join("root/a/b")).unwrap();
    std::fs::write(left.join("layer.json"), "{").unwrap();
    symlink("/", left.join("root/a/link")).unwrap();
    let Claim::Ours(work) = store.claim(&chain, &owners(), &GO).unwrap() else {
        panic!("it is there");
    };
    assert!(tree::names(work.root()).unwrap().is_empty());
    let record = layer_record(&work, &chain);
    let id = store.publish(work, &record).unwrap();
    let others = Owners::Squashed { uid: 3, gid: 4 };
    let Claim::Ours(work) = store.claim(&chain, &others, &GO).unwrap() else {
        panic!("it is there");
    };
    let mut record = layer_record(&work, &chain);
    record.owners = others.clone();
    let other = store.publish(work, &record).unwrap();
    assert_ne!(id, other);
    match store.claim(&chain, &others, &GO).unwrap() {
        Claim::There(found, _) => assert_eq!(found, other),
        Claim::Ours(_) => panic!("it is not there"),
    }
    // Who learns the chain id at the end may find it there.
    let work = store.begin_unknown().unwrap();
    let record = layer_record(&work, &chain);
    assert_eq!(store.publish(work, &record).unwrap(), id);
    assert!(
        store
            .names(&store.subdirectory(TMP).unwrap(), TMP)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn garbage_is_what_neither_images_nor_containers_have() {
    let (_directory, store) = new_store();
    let kept = add_layer(&store, "kept");
    let used = add_layer(&store, "used");
    let unused = add_layer(&store, "unused");
    let image = add_image(&store, "a", std::slice::from_ref(&kept));
    let blob = Digest::of(b"blob");
    store.keep_blob(&blob, b"blob").unwrap();
    let note = containers::ContainerNote {
        id: "c".into(),
        state: store.path().join("none"),
        image: "b".into(),
        manifest: String::new(),
        layers: vec![used.to_string()],
    };
    let make =
        |keep| containers::Writable::make(store.directory(), store.path(), &note, keep).unwrap();
    // One that is being made is locked; another's is kept; a third one's maker was killed.
    let being_made = make(false);
    drop(make(true));
    drop(make(false));
    std::fs::create_dir(store.path().join("tmp/x")).unwrap();
    std::fs::write(store.path().join("tmp/x/y"), vec![0; 5000]).unwrap();
    std::fs::write(store.path().join("tmp/z"), "").unwrap();
    let garbage = gc::find(&store).unwrap();
    assert_eq!(garbage.layers, [unused]);
    assert_eq!(garbage.blobs, [blob]);
    assert_eq!(garbage.leftovers, ["x", "z"]);
    assert_eq!(garbage.changes, ["containers/c-1"]);
    assert!(gc::usage(&store, &garbage).unwrap() >= 5000);
    gc::remove(&store, &garbage).unwrap();
    assert!(gc::find(&store).unwrap().is_empty());
    let found = verify::image(&store, &image, &mut std::collections::BTreeMap::new());
    assert!(
        found
            .iter()
            .all(|(_, finding)| *finding == verify::Finding::Intact),
        "{found:?}"
    );
    drop(being_made);
    let garbage = gc::find(&store).unwrap();
    assert_eq!(
        (&*garbage.changes, &*garbage.layers),
        (&["containers/c-0".to_owned()][..], &[][..])
    );
}

#[test]
fn a_change_is_seen_even_if_its_time_is_put_back() {
    let (_directory, store) = new_store();
    let id = add_layer(&store, "one");
    assert_eq!(verify::layer(&store, &id), verify::Finding::Intact);
    let file = store.layer_root(&id).join("one");
    let time = std::fs::metadata(&file).unwrap().modified().unwrap();
    // The clock of file times may not have ticked yet.
    loop {
        std::fs::write(&file, "two").unwrap();
        let opened = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        opened.set_modified(time).unwrap();
        match verify::layer(&store, &id) {
            verify::Finding::Damaged(how) => {
                assert!(how.contains("after the import"), "{how}");
                break;
            }
            verify::Finding::Intact => {}
            verify::Finding::Copied => panic!("the directory is older"),
        }
    }
    std::fs::write(&file, "three").unwrap();
    assert!(
        matches!(verify::layer(&store, &id), verify::Finding::Damaged(how) if how.contains("bytes"))
    );
    std::fs::remove_file(&file).unwrap();
    assert!(
        matches!(verify::layer(&store, &id), verify::Finding::Damaged(how) if how.contains("entries"))
    );
}
