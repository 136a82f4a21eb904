#![expect(
    clippy::disallowed_methods,
    reason = "test code: it damages files of its own"
)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::state::Store;

fn program(length: u32) -> Program {
    let one = |k| Instruction {
        code: 6,
        jt: 1,
        jf: 2,
        k,
    };
    (0..length).map(one).collect()
}

fn saved() -> Saved {
    Saved {
        streams: vec![Stream {
            number: 1,
            device: 13,
            inode: u64::MAX,
            rdev: 0,
            mode: 0o010_600,
        }],
        externals: vec![External {
            destination: PathBuf::from("/with \"quotes\"\nand \u{fc}"),
            kind: ExternalKind::RecursiveBind,
        }],
        filter_flags: vec![2, 0],
        passing: Some(Passing::Overlay("/o".into())),
    }
}

struct Place {
    directory: tempfile::TempDir,
    entry: Entry,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open_or_make(Some(directory.path())).unwrap();
        let entry = store.create("c").unwrap();
        Self { directory, entry }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("c").join(FILE)
    }
}

#[test]
fn what_is_written_is_read_with_the_filters_in_their_order() {
    let place = Place::new();
    let longest = u32::try_from(LONGEST).unwrap();
    for filters in [
        vec![],
        vec![program(1)],
        vec![program(3), program(2)],
        vec![program(longest), program(longest)],
    ] {
        let given: Vec<&[Instruction]> = filters.iter().map(Vec::as_slice).collect();
        saved().write(&place.entry, &given).unwrap();
        let read = Saved::read(&place.entry).unwrap();
        assert_eq!(read, Some((saved(), filters)));
        let mode = fs::metadata(place.file()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn of_a_container_without_the_file_nothing_is_known() {
    assert_eq!(Saved::read(&Place::new().entry).unwrap(), None);
}

#[test]
fn a_file_that_is_not_whole_is_an_error_and_says_so() {
    let place = Place::new();
    let (first, second) = (program(3), program(2));
    let whole = content(&saved(), &[&first, &second]).unwrap();
    assert!(parse(&whole).is_some());
    for length in 0..whole.len() {
        assert_eq!(parse(&whole[..length]), None, "{length}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        assert_eq!(parse(&changed), None, "{at}");
    }
    fs::write(place.file(), &whole[..whole.len() - 1]).unwrap();
    let error = Saved::read(&place.entry).unwrap_err();
    let message = error.message();
    assert!(message.contains("\"c\""), "{message}");
    assert!(
        message.contains("\"checkpoint\" in its state directory is damaged"),
        "{message}"
    );
    fs::remove_file(place.file()).unwrap();
    std::os::unix::fs::symlink("/dev/zero", place.file()).unwrap();
    assert!(Saved::read(&place.entry).is_err());
}

/// Whole, but not as it is written: with a right checksum.
#[test]
fn lengths_that_lie_are_refused() {
    let sealed = |mut bytes: Vec<u8>| {
        let sum = checksum(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    };
    let told = serde_json::to_vec(&saved()).unwrap();
    let with = |length: u32, behind: &[u8]| {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(&told);
        bytes.extend(behind);
        sealed(bytes)
    };
    let right = u32::try_from(told.len()).unwrap();
    assert!(parse(&with(right, &[])).is_some());
    for length in [0, right - 1, right + 1, u32::MAX] {
        assert_eq!(parse(&with(length, &[])), None, "{length}");
    }
    let one = [1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
    assert!(parse(&with(right, &one)).is_some());
    let three = [one, one, one].concat();
    let long = {
        let count = u32::try_from(LONGEST + 1).unwrap();
        let mut bytes = count.to_le_bytes().to_vec();
        bytes.extend(to_bytes(&program(count)));
        bytes
    };
    for behind in [
        &[0, 0, 0, 0][..],
        &[1, 0, 0][..],
        &[2, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0],
        &[0xff; 12],
        &three,
        &long,
    ] {
        assert_eq!(parse(&with(right, behind)), None);
    }
    let mut other = with(right, &[]);
    other.truncate(other.len() - 8);
    other[15] = b'2';
    assert_eq!(parse(&sealed(other)), None);
}

#[test]
fn external_is_what_the_plan_takes_from_outside() {
    let text = include_str!("../../tests/plans/18-bind-mounts/plan.json");
    let mut plan: Plan = serde_json::from_str(text).unwrap();
    plan.masked_paths = vec![PathBuf::from("/proc/kcore")];
    plan.pass_notify_socket(PathBuf::from("/state/c/notify"));
    let externals = externals(&plan);
    let of = |kind| {
        let some = externals
            .iter()
            .filter(move |external| external.kind == kind);
        some.map(|external| external.destination.as_path())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(ExternalKind::Mask), [Path::new("/proc/kcore")]);
    let devices: Vec<_> = plan.devices.iter().map(|d| d.path.as_path()).collect();
    assert!(devices.contains(&Path::new("/dev/null")));
    assert_eq!(of(ExternalKind::Device), devices);
    let (mut one, mut all) = (Vec::new(), Vec::new());
    for mount in &plan.mounts {
        let text = serde_json::to_value(&mount.source).unwrap();
        match (text["kind"].as_str(), text["recursive"].as_bool()) {
            (Some("bind"), Some(true)) => all.push(mount.destination.as_path()),
            (Some("bind"), Some(false)) => one.push(mount.destination.as_path()),
            _ => {}
        }
    }
    assert!(one.contains(&Path::new("/run/notify")));
    assert_eq!(of(ExternalKind::Bind), one);
    assert!(!all.is_empty());
    assert_eq!(of(ExternalKind::RecursiveBind), all);
}

#[test]
fn a_filesystem_of_the_containers_own_is_not_external() {
    let text = include_str!("../../tests/plans/03-template/plan.json");
    let plan: Plan = serde_json::from_str(text).unwrap();
    assert!(
        plan.mounts
            .iter()
            .any(|mount| mount.destination == Path::new("/proc"))
    );
    let externals = externals(&plan);
    assert_eq!(
        externals.len(),
        plan.devices.len() + plan.masked_paths.len()
    );
    assert!(
        externals
            .iter()
            .all(|one| one.destination != Path::new("/proc"))
    );
}

#[test]
fn with_a_terminal_the_standard_streams_are_not_the_callers() {
    let numbers = |terminal| {
        let streams = streams(terminal, &Preserved::default());
        streams.iter().map(|s| s.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(false), [0, 1, 2]);
    assert!(numbers(true).is_empty());
    let stdin = fs::metadata("/proc/self/fd/0").unwrap();
    let seen = &streams(false, &Preserved::default())[0];
    let expected = Stream {
        number: 0,
        device: stdin.dev(),
        inode: stdin.ino(),
        rdev: stdin.rdev(),
        mode: stdin.mode(),
    };
    assert_eq!(*seen, expected);
}
