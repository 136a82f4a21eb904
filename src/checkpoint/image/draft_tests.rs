#![expect(clippy::disallowed_methods, reason = "directories to work on are made")]

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::super::{Follower, Opened, read};
use super::*;
use crate::checkpoint::image::verify;

/// Names the directory, and the number of steps after which it ends, to a process that is to end in the middle of a commit.
const VICTIM: &str = "LODGER_TEST_VICTIM";

thread_local! {
    /// How many steps are left until this thread stops in the middle of what it does, as if it were killed: after each step
    /// everything there is lies in the directory.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

pub(super) fn moment() -> sys::Result<()> {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    match left {
        0 if std::env::var_os(VICTIM).is_some() => std::process::abort(),
        0 => Err(sys::Error::new("killed", "", libc::EINTR)),
        _ => Ok(()),
    }
}

/// A process that another test begins has the locks of this one, until it runs its program.
fn patiently<T>(work: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match work() {
            Err(error) if error.message().contains("another lodger is at work") => {
                std::thread::yield_now();
            }
            done => return done,
        }
    }
}

fn open(path: &Path) -> Result<Draft> {
    patiently(|| Draft::open(path))
}

fn opened(path: &Path) -> Result<Opened> {
    patiently(|| read(path))
}

/// Does `work` with at most `steps` steps.
fn with_steps<T>(steps: usize, work: impl FnOnce() -> T) -> T {
    LEFT.set(steps);
    let outcome = work();
    LEFT.set(usize::MAX);
    outcome
}

/// A checkpoint with the id `id` and these images.
fn write(draft: &mut Draft, id: &str, names: &[&str]) -> Result<()> {
    write_since(draft, id, names, None)
}

/// As [`write`], since a dump of memory with the same id.
fn write_with_parent(draft: &mut Draft, id: &str, names: &[&str]) -> Result<()> {
    let place = draft.new_path().join(PARENT);
    fs::create_dir(&place).unwrap();
    let manifest = Manifest {
        id: id.to_owned(),
        pre_dump: true,
        ..super::super::tests::manifest()
    };
    let content = serde_json::to_vec(&manifest).unwrap();
    fs::write(place.join(MANIFEST), &content).unwrap();
    let digest = super::super::sum::of(&content);
    write_since(draft, id, names, Some(digest))
}

fn write_since(draft: &mut Draft, id: &str, names: &[&str], parent: Option<String>) -> Result<()> {
    for name in names {
        fs::write(draft.new_path().join(name), format!("{id} {name}")).unwrap();
    }
    fs::write(draft.new_path().join(LOG), id).unwrap();
    let files = Follower::begin(draft.new_files()).unwrap().finish()?;
    let manifest = Manifest {
        id: id.to_owned(),
        parent,
        ..super::super::tests::manifest()
    };
    draft.commit(manifest, files, false)
}

fn make(path: &Path, id: &str, names: &[&str]) {
    let mut draft = open(path).unwrap();
    write(&mut draft, id, names).unwrap();
    draft.finish().unwrap();
}

/// The id of the checkpoint there, which is whole.
fn whole(path: &Path) -> Option<String> {
    let opened = opened(path).ok()?;
    verify(&opened.directory, &opened.manifest).unwrap();
    Some(opened.manifest.id)
}

fn list(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap();
    let mut names: Vec<String> = names
        .map(|n| n.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

const OLD: [&str; 3] = ["core-1.img", "pages-1.img", "old.img"];
const NEWER: [&str; 4] = ["core-1.img", "new.img", "pages-1.img", "pages-2.img"];

#[test]
fn a_checkpoint_takes_the_place_of_an_earlier_one() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a/b");
    make(&path, "first", &OLD);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o700
    );
    assert_eq!(whole(&path).as_deref(), Some("first"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    make(&path, "second", &NEWER);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o700
    );
    assert_eq!(whole(&path).as_deref(), Some("second"));
    let expected = [
        "core-1.img",
        LOG,
        MANIFEST,
        "new.img",
        "pages-1.img",
        "pages-2.img",
    ];
    assert_eq!(list(&path), expected);
}

#[test]
fn killed_at_any_step_it_is_the_earlier_checkpoint_or_the_new_one() {
    type Write = fn(&mut Draft, &str, &[&str]) -> Result<()>;
    let ways: [(bool, Write); 3] = [(true, write), (false, write), (true, write_with_parent)];
    for (had_one, write) in ways {
        let mut is_done = false;
        for steps in 0.. {
            let place = tempfile::tempdir().unwrap();
            if had_one {
                let mut draft = open(place.path()).unwrap();
                write(&mut draft, "earlier", &OLD).unwrap();
                draft.finish().unwrap();
            }
            let mut draft = open(place.path()).unwrap();
            let committed = with_steps(steps, || write(&mut draft, "new", &NEWER)).is_ok();
            // Its lock ends with it, and nothing else happens.
            drop(draft);
            // Whoever brings the earlier one back may be killed, too.
            for less in [0, 1, 2, 3, 5, 7] {
                drop(with_steps(less, || opened(place.path())));
                drop(with_steps(less, || open(place.path())));
            }
            let found = whole(place.path());
            match (had_one, committed) {
                (_, true) => assert_eq!(found.as_deref(), Some("new"), "{steps}"),
                // The last step may be done, and its answer not be heard.
                (true, false) => assert!(
                    matches!(found.as_deref(), Some("earlier" | "new")),
                    "{steps}: {found:?}"
                ),
                (false, false) => {
                    assert!(matches!(found.as_deref(), None | Some("new")), "{steps}")
                }
            }
            make(place.path(), "next", &["core-1.img"]);
            assert_eq!(list(place.path()), ["core-1.img", LOG, MANIFEST], "{steps}");
            if committed {
                is_done = steps > NEWER.len();
                break;
            }
        }
        assert!(is_done);
    }
}

/// As above, with a process that really ends.
#[test]
fn a_process_that_ends_in_the_middle_leaves_the_earlier_checkpoint_or_the_new_one() {
    const NAME: &str =
        "a_process_that_ends_in_the_middle_leaves_the_earlier_checkpoint_or_the_new_one";
    if let Ok(victim) = std::env::var(VICTIM) {
        let (steps, path) = victim.split_once(' ').unwrap();
        let mut draft = open(Path::new(path)).unwrap();
        with_steps(steps.parse().unwrap(), || write(&mut draft, "new", &NEWER)).unwrap();
        return;
    }
    for (steps, expected) in [
        (0, "earlier"),
        (3, "earlier"),
        (6, "earlier"),
        (9, "earlier"),
        (11, "earlier"),
        (12, "new"),
        (99, "new"),
    ] {
        let place = tempfile::tempdir().unwrap();
        make(place.path(), "earlier", &OLD);
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                &format!("{}::{NAME}", module_path!().split_once("::").unwrap().1),
            ])
            .env(VICTIM, format!("{steps} {}", place.path().display()))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(
            signal,
            (steps < 99).then_some(libc::SIGABRT),
            "{steps}: {status}"
        );
        assert_eq!(whole(place.path()).as_deref(), Some(expected), "{steps}");
    }
}

#[test]
fn where_a_directory_cannot_be_locked_a_file_in_it_is() {
    let place = tempfile::tempdir().unwrap();
    let directory = OwnedFd::from(fs::File::open(place.path()).unwrap());
    let lock = |operation| lock_file(&directory, operation);
    let shared = FlockOperation::NonBlockingLockShared;
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    let held = [lock(shared).unwrap(), lock(shared).unwrap()];
    assert!(held.iter().all(Option::is_some));
    let error = lock(exclusive).unwrap_err();
    assert!(
        error.message().contains("another lodger is at work"),
        "{error}"
    );
    drop(held);
    let _held = patiently(|| lock(exclusive)).unwrap();
    assert!(lock(shared).is_err());
    assert_eq!(list(place.path()), [LOCK]);
}

#[test]
fn a_checkpoint_that_failed_leaves_its_log_and_the_earlier_one() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a");
    let draft = open(&path).unwrap();
    draft.abandon().unwrap();
    assert!(!path.exists());
    make(&path, "earlier", &OLD);
    let before = list(&path);
    for steps in 0.. {
        let mut draft = open(&path).unwrap();
        let committed = with_steps(steps, || write(&mut draft, "new", &NEWER)).is_ok();
        draft.abandon().unwrap();
        assert_eq!(fs::read_to_string(path.join(LOG)).unwrap(), "new");
        assert_eq!(list(&path), before, "{steps}");
        assert_eq!(whole(&path).as_deref(), Some("earlier"), "{steps}");
        if committed {
            assert!(steps > NEWER.len());
            return;
        }
    }
}

#[test]
fn one_checkpoint_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    make(place.path(), "first", &OLD);
    let draft = open(place.path()).unwrap();
    for error in [
        Draft::open(place.path()).unwrap_err(),
        read(place.path()).unwrap_err(),
    ] {
        assert!(
            error.message().contains("another lodger is at work"),
            "{error}"
        );
        assert!(error.hints().is_some());
    }
    draft.abandon().unwrap();
    let (one, other) = (opened(place.path()).unwrap(), opened(place.path()).unwrap());
    assert!(Draft::open(place.path()).is_err());
    drop((one, other));
    open(place.path()).unwrap();
}

#[test]
fn only_a_directory_of_the_callers_is_taken() {
    let place = tempfile::tempdir().unwrap();
    let (link, file) = (place.path().join("link"), place.path().join("file"));
    symlink(place.path(), &link).unwrap();
    fs::write(&file, "").unwrap();
    for path in [link.clone(), link.join(""), link.join("."), file] {
        let error = open(&path).unwrap_err();
        assert!(
            error.message().contains("symbolic link"),
            "{path:?}: {error}"
        );
        assert!(opened(&path).is_err());
    }
    let foreign = match sys::cred::uid() {
        // Root's own directories are as good as any.
        0 => return,
        _ => open(Path::new("/usr")).unwrap_err(),
    };
    assert!(foreign.message().contains("belongs to uid 0"), "{foreign}");
}

fn of_one_byte() -> File {
    File {
        size: 1,
        digest: String::new(),
    }
}

#[test]
fn what_lies_there_is_not_followed_and_not_taken() {
    let place = tempfile::tempdir().unwrap();
    let (path, outside) = (place.path().join("a"), place.path().join("outside"));
    fs::create_dir(&path).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "x").unwrap();
    // In the place of the new files.
    symlink(&outside, path.join(NEW)).unwrap();
    drop(open(&path).unwrap());
    fs::remove_dir(path.join(NEW)).unwrap();
    fs::create_dir(path.join(NEW)).unwrap();
    symlink(&outside, path.join(NEW).join("link")).unwrap();
    symlink(&outside, path.join(NEW).join(EARLIER)).unwrap();
    drop(open(&path).unwrap());
    assert!(outside.join("kept").exists());
    // Prepared by somebody else, while the directory was open.
    make(&path, "earlier", &OLD);
    let mut unfinished = super::super::tests::manifest();
    let image = of_one_byte();
    unfinished.files.insert("old.img".to_owned(), image.clone());
    fs::create_dir(path.join(NEW)).unwrap();
    fs::set_permissions(path.join(NEW), fs::Permissions::from_mode(0o777)).unwrap();
    let content = serde_json::to_vec(&unfinished).unwrap();
    fs::write(path.join(NEW).join(MANIFEST), content).unwrap();
    open(&path).unwrap().abandon().unwrap();
    assert_eq!(whole(&path).as_deref(), Some("earlier"));
    // Somebody's virtual disk.
    fs::write(path.join("disk.img"), "x").unwrap();
    let error = open(&path).unwrap_err();
    assert!(error.message().contains("\"disk.img\""), "{error}");
    assert!(path.join("disk.img").exists());
    fs::remove_file(path.join("disk.img")).unwrap();
    for content in ["", "{", "{}", "\"../../x\""] {
        fs::write(path.join(MANIFEST), content).unwrap();
        assert!(open(&path).is_err(), "{content:?}");
    }
    let mut manifest = super::super::tests::manifest();
    manifest.files.insert("../outside/kept".to_owned(), image);
    fs::write(path.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let error = open(&path).unwrap_err();
    assert!(error.message().contains("no name of an image"), "{error}");
}

#[test]
fn an_image_that_comes_or_goes_late_stops_it() {
    let place = tempfile::tempdir().unwrap();
    let mut draft = open(place.path()).unwrap();
    fs::write(draft.new_path().join("core-1.img"), "").unwrap();
    let files = Follower::begin(draft.new_files())
        .unwrap()
        .finish()
        .unwrap();
    fs::write(draft.new_path().join("more.img"), "").unwrap();
    let new = draft.new_path();
    let mut commit = || draft.commit(super::super::tests::manifest(), files.clone(), true);
    assert!(commit().unwrap_err().message().contains("\"more.img\""));
    fs::remove_file(new.join("more.img")).unwrap();
    fs::rename(new.join("core-1.img"), place.path().join("x")).unwrap();
    assert!(commit().unwrap_err().message().contains("\"core-1.img\""));
    fs::rename(place.path().join("x"), new.join("core-1.img")).unwrap();
    commit().unwrap();
    fs::write(new.join("late.img"), "").unwrap();
    assert!(
        draft
            .finish()
            .unwrap_err()
            .message()
            .contains("\"late.img\"")
    );
}
