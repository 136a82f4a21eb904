#![expect(clippy::disallowed_methods, reason = "images to work on are made")]

use std::fs;

use proptest::prelude::*;

use super::*;

const UIDS: [IdMapping; 2] = [line(0, 1001, 1), line(1, 100_000, 65_535)];
const GIDS: [IdMapping; 2] = [line(0, 1002, 1), line(1, 200_000, 65_535)];

const IDS: Ids<'static> = Ids {
    uids: &UIDS,
    gids: &GIDS,
};

const fn line(container_id: u32, host_id: u32, size: u32) -> IdMapping {
    IdMapping {
        container_id,
        host_id,
        size,
    }
}

/// A `mnt_entry`, with a field that is not known.
fn entry(fstype: u8, mountpoint: &str, options: &str, more: &[u8]) -> Vec<u8> {
    let mut entry = vec![8, fstype, 0x10, 82];
    entry.extend(wire::bytes_field(7, mountpoint.as_bytes()));
    entry.extend(wire::bytes_field(9, options.as_bytes()));
    entry.extend(more);
    entry.extend([0xe5, 0x7d, 1, 2, 3, 4]);
    entry
}

#[test]
fn ids_become_the_containers() {
    let external = wire::bytes_field(18, b"/dev/null");
    let is_external = [0x68, 1];
    for (fstype, mountpoint, old, new, more) in [
        (
            5,
            "/t",
            "size=4k,uid=1001,gid=1002,mode=755",
            "size=4k,uid=0,gid=0,mode=755",
            &[][..],
        ),
        (5, "/t", "uid=100999", "uid=1000", &[]),
        (
            6,
            "/dev/pts",
            "gid=200004,mode=620,ptmxmode=666",
            "gid=5,mode=620,ptmxmode=666",
            &[],
        ),
        (
            1,
            "/proc",
            "hidepid=invisible,gid=200009",
            "hidepid=invisible,gid=10",
            &[],
        ),
        (5, "/t", "", "", &[]),
        (5, "/t", "xuid=1,uid,nouid=7", "xuid=1,uid,nouid=7", &[]),
        // It is given these, whatever they say.
        (5, "/e", "uid=5", "uid=5", &external),
        (5, "/e", "uid=5", "uid=5", &is_external),
        (5, "/", "uid=5", "uid=5", &[]),
        // Of a filesystem that is not made anew.
        (3, "/dev/null", "uid=5", "uid=5", &[]),
    ] {
        let found = mount(&entry(fstype, mountpoint, old, more), IDS);
        assert_eq!(found, Ok(entry(fstype, mountpoint, new, more)), "{old}");
    }
}

#[test]
fn an_id_that_is_not_the_containers_is_told() {
    for option in [
        "uid=5",
        "gid=1001",
        "uid=165535",
        "uid=",
        "uid=x",
        "uid=-1",
        "gid=4294967296",
    ] {
        let Err(Problem::Id(why)) = mount(&entry(5, "/t", option, &[]), IDS) else {
            panic!("{option}");
        };
        assert!(why.contains("\"/t\"") && why.contains(option), "{why}");
    }
}

#[test]
fn images_are_rewritten_whole() {
    let place = tempfile::tempdir().unwrap();
    let directory = fs::File::open(place.path()).unwrap();
    let path = place.path().join("mountpoints-11.img");
    let image = |options| {
        wire::image(
            MOUNTS,
            &[entry(5, "/a", options, &[]), entry(5, "/b", "", &[])],
        )
    };
    fs::write(&path, image("uid=1001").unwrap()).unwrap();
    fs::write(place.path().join(DRAFT), "left").unwrap();
    translate(&directory, IDS).unwrap();
    assert_eq!(fs::read(&path).unwrap(), image("uid=0").unwrap());
    let error = translate(&directory, IDS).unwrap_err();
    assert!(error.message().contains("\"uid=0\""), "{error}");
    fs::write(&path, "CVT").unwrap();
    let error = translate(&directory, IDS).unwrap_err();
    assert!(error.message().contains("is broken"), "{error}");
    assert!(error.hints().is_some());
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(translate(&directory, IDS).is_err());
    assert_eq!(
        sys::path::names(&directory).unwrap(),
        ["mountpoints-11.img"]
    );
}

#[test]
fn the_death_signal_goes_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let directory = fs::File::open(place.path()).unwrap();
    let path = place.path().join("core-1.img");
    let core = |signal: &[u8]| {
        let thread = [&[8, 0, 0x10, 24][..], signal, &[0x58, 2, 0x60, 1]].concat();
        let entry = [&[8, 1, 0x42, 1, 9][..], &wire::bytes_field(5, &thread)].concat();
        wire::image(CORE, &[entry]).unwrap()
    };
    for signal in [&[0x40, 9][..], &[]] {
        fs::write(&path, core(signal)).unwrap();
        clear_death_signal(&directory).unwrap();
        assert_eq!(fs::read(&path).unwrap(), core(&[]));
    }
    fs::write(&path, &core(&[])[..20]).unwrap();
    assert!(clear_death_signal(&directory).is_err());
    fs::remove_file(&path).unwrap();
    assert!(clear_death_signal(&directory).is_err());
}

#[test]
fn maps_are_followed_to_the_initial_namespace() {
    let whole = [MapLine {
        inside: 0,
        outside: 0,
        count: u32::MAX,
    }];
    assert_eq!(to_initial(&UIDS, &whole).unwrap(), UIDS);
    let own = [
        MapLine {
            inside: 0,
            outside: 1000,
            count: 1,
        },
        MapLine {
            inside: 1,
            outside: 100_000,
            count: 10,
        },
        MapLine {
            inside: 11,
            outside: 500_000,
            count: 10,
        },
    ];
    let found = to_initial(&[line(0, 0, 1), line(1, 6, 10)], &own).unwrap();
    let expected = [line(0, 1000, 1), line(1, 100_005, 5), line(6, 500_000, 5)];
    assert_eq!(found, expected);
    assert!(to_initial(&[line(0, 20, 2)], &own).is_err());
    assert!(to_initial(&[line(0, u32::MAX, 2)], &whole).is_err());
}

proptest! {
    #[test]
    fn the_same_ids_are_the_same_image(
        options in proptest::collection::vec("(uid|gid|size)=[1-9][0-9]{0,8}|ro|mode=[0-7]{3}", 0..6),
        fstype in 0u8..24,
    ) {
        let same = [line(0, 0, u32::MAX)];
        let ids = Ids { uids: &same, gids: &same };
        let content = wire::image(MOUNTS, &[entry(fstype, "/m", &options.join(","), &[])]).unwrap();
        prop_assert_eq!(mounts(&content, ids).unwrap(), content);
    }

    #[test]
    fn bytes_of_any_kind_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _any = mount(&bytes, IDS);
        let _any = without_death_signal(&bytes);
        let _any = mounts(&bytes, IDS);
    }
}
