use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::fs::{CWD, RenameFlags};

use super::*;

const KINDS: [(&str, ResolveFlags); 8] = [
    ("in root", ResolveFlags::IN_ROOT),
    (
        "in root, no magic",
        ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS),
    ),
    (
        "in root, no links",
        ResolveFlags::IN_ROOT.union(ResolveFlags::NO_SYMLINKS),
    ),
    (
        "in root, one mount",
        ResolveFlags::IN_ROOT.union(ResolveFlags::NO_XDEV),
    ),
    ("beneath", ResolveFlags::BENEATH),
    (
        "beneath, no links",
        ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS),
    ),
    (
        "beneath, one mount, no magic",
        ResolveFlags::BENEATH
            .union(ResolveFlags::NO_XDEV)
            .union(ResolveFlags::NO_MAGICLINKS),
    ),
    (
        "beneath, one mount, no links",
        ResolveFlags::BENEATH
            .union(ResolveFlags::NO_XDEV)
            .union(ResolveFlags::NO_SYMLINKS),
    ),
];

fn ways() -> Vec<OFlags> {
    let read = OFlags::RDONLY | OFlags::NONBLOCK;
    vec![
        OFlags::PATH,
        OFlags::PATH | OFlags::NOFOLLOW,
        OFlags::PATH | OFlags::DIRECTORY,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        read,
        read | OFlags::NOFOLLOW,
        read | OFlags::DIRECTORY,
        read | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        OFlags::WRONLY | OFlags::NONBLOCK,
    ]
}

/// What was found: the file by its numbers and whether it is open for use, or the error.
type Answer = std::result::Result<(u64, u64, OFlags), Errno>;

fn answer(opened: Result<OwnedFd>) -> Answer {
    let fd = opened?;
    let used = rustix::fs::fcntl_getfl(&fd)? & (OFlags::PATH | OFlags::ACCMODE);
    let (device, inode) = identity(&fd)?;
    Ok((device, inode, used))
}

fn compare(root: &OwnedFd, path: &str) {
    for (name, resolve) in KINDS {
        for flags in ways() {
            let flags = flags | OFlags::CLOEXEC;
            let kernel = loop {
                match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
                    Err(Errno::AGAIN) => {}
                    opened => break answer(opened),
                }
            };
            if kernel == Err(Errno::NOSYS) {
                return;
            }
            let own = answer(open(root.as_fd(), Path::new(path), flags, resolve));
            assert_eq!(own, kernel, "{path:?}, {name}, {flags:?}");
        }
    }
}

fn directory(at: &OwnedFd, name: &str) {
    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755)).unwrap();
}

fn file(at: &OwnedFd, name: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o644)).unwrap();
}

fn link(at: &OwnedFd, name: &str, target: &str) {
    rustix::fs::symlinkat(target, at, name).unwrap();
}

fn opened(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).unwrap()
}

/// `secret` is beside the root, which is `root`.
fn tree(place: &Path) -> OwnedFd {
    let outside = opened(place);
    file(&outside, "secret");
    directory(&outside, "root");
    let root = opened(&place.join("root"));
    for name in ["d", "d/e", "d/e/f", "closed", "proc"] {
        directory(&root, name);
    }
    for name in ["file", "secret", "d/file", "d/e/file", "closed/file"] {
        file(&root, name);
    }
    rustix::fs::mkfifoat(&root, "fifo", Mode::from_raw_mode(0o644)).unwrap();
    for (name, target) in [
        ("to-file", "file"),
        ("to-dir", "d"),
        ("to-slash", "d/"),
        ("to-file-slash", "file/"),
        ("to-root", "/"),
        ("to-self", "."),
        ("up", ".."),
        ("up-far", "../../../../../../.."),
        ("escape", "../secret"),
        ("absolute", "/secret"),
        ("absolute-dir", "/d/e"),
        ("loop", "loop"),
        ("loop-a", "loop-b"),
        ("loop-b", "d/../loop-a"),
        ("dangling", "nowhere"),
        ("dangling-slash", "nowhere/"),
        ("d/back", "../d/e"),
        ("d/e/back", "../../to-dir/e"),
        ("d/e/out", "../../../secret"),
        ("through-file", "file/../secret"),
        ("many-dots", "./d/./e/../e/././file"),
        ("double", "d//e///file"),
    ] {
        link(&root, name, target);
    }
    link(&root, "chain0", "file");
    for number in 1..=42 {
        let target = format!("chain{}", number - 1);
        link(&root, &format!("chain{number}"), &target);
    }
    let closed = Mode::from_raw_mode(0);
    rustix::fs::chmodat(&root, "closed", closed, AtFlags::empty()).unwrap();
    root
}

/// From the root of [`tree`].
const PATHS: &str = "\
    / // . ./ .. ../ ../.. ./.. file /file file/ file/. file/.. d d/ d/. d/.. d/../ d/../.. d/../../secret \
    d/e/f/../../../.. d/e/f/../../../file d/e/file //d//e//file d/file/x nowhere nowhere/ nowhere/x \
    nowhere/.. fifo fifo/ closed closed/ closed/file closed/. closed/.. closed/nowhere closed/../file to-file \
    to-file/ to-file/. to-dir to-dir/ to-dir/. to-dir/.. to-dir/e/file to-slash to-slash/file to-file-slash \
    to-root to-root/ to-root/d to-self to-self/file up up/ up/secret up-far up-far/secret escape d/../escape \
    absolute absolute-dir absolute-dir/ absolute-dir/file absolute-dir/.. absolute-dir/../.. \
    absolute-dir/../../../secret loop loop/ loop/x loop-a loop-b/x dangling dangling/ dangling-slash dangling/x d/back \
    d/back/file d/back/../file d/e/back/file d/e/back/back/back/file d/e/out through-file many-dots double \
    chain38 chain39 chain40 chain41 chain39/ chain5/../file to-self/to-self/to-self/to-self/file proc proc/";

/// From this machine's root.
const FROM_ROOT: &str = "\
    proc proc/ proc/self proc/self/ proc/.. proc/version proc/self/status proc/self/exe proc/self/cwd \
    proc/self/cwd/ proc/self/root proc/self/root/etc proc/self/fd/0 proc/self/ns/mnt proc/thread-self \
    proc/mounts proc/net/dev proc/self/../version dev/null dev/fd/0 dev/fd dev sys sys/kernel dev/../etc";

/// From its procfs.
const FROM_PROC: &str = "\
    self self/ self/status self/attr/current thread-self/attr self/exe self/cwd/x mounts net self/net/dev \
    self/task sys/kernel/ostype 1/status .. self/..";

#[test]
fn it_answers_as_the_kernel_does() {
    let place = tempfile::tempdir().unwrap();
    let root = tree(place.path());
    let long = "x".repeat(256);
    let longest = "./".repeat(2048);
    let deep = "../".repeat(100) + "secret";
    let mut paths: Vec<&str> = PATHS.split(' ').collect();
    paths.push("");
    paths.extend([
        long.as_str(),
        longest.as_str(),
        &longest[..4095],
        &longest[..4094],
        deep.as_str(),
    ]);
    for path in paths {
        compare(&root, path);
    }
    let open = Mode::from_raw_mode(0o755);
    rustix::fs::chmodat(&root, "closed", open, AtFlags::empty()).unwrap();
}

#[test]
fn mounts_and_the_links_of_procfs_are_as_the_kernel_has_them() {
    let root = opened(Path::new("/"));
    for path in FROM_ROOT.split(' ') {
        compare(&root, path);
    }
    let proc = opened(Path::new("/proc"));
    for path in FROM_PROC.split(' ') {
        compare(&proc, path);
    }
    // Not a directory at all.
    let file = rustix::fs::openat(&proc, "version", place(), Mode::empty()).unwrap();
    for path in ["", ".", "..", "/", "x"] {
        compare(&file, path);
    }
}

#[test]
fn what_it_has_not_got_it_refuses() {
    let root = opened(Path::new("/"));
    let open = |flags, resolve| {
        open(
            root.as_fd(),
            Path::new("tmp/x-is-not-there"),
            flags,
            resolve,
        )
    };
    let create = open(OFlags::CREATE | OFlags::WRONLY, ResolveFlags::IN_ROOT);
    assert_eq!(create.unwrap_err(), Errno::INVAL);
    let unscoped = open(OFlags::PATH, ResolveFlags::NO_XDEV);
    assert_eq!(unscoped.unwrap_err(), Errno::INVAL);
    let down = open(OFlags::PATH, ResolveFlags::NO_SYMLINKS);
    assert_eq!(down.unwrap_err(), Errno::NOENT);
    let both = ResolveFlags::IN_ROOT | ResolveFlags::BENEATH;
    assert_eq!(open(OFlags::PATH, both).unwrap_err(), Errno::INVAL);
    let cached = ResolveFlags::IN_ROOT | ResolveFlags::CACHED;
    assert_eq!(open(OFlags::PATH, cached).unwrap_err(), Errno::INVAL);
}

#[test]
fn a_deep_path_takes_no_more_fds_where_nothing_leads_back() {
    let place = tempfile::tempdir().unwrap();
    let root = opened(place.path());
    let path: PathBuf = std::iter::repeat_n("d", 300).collect();
    let mut made = PathBuf::new();
    for name in &path {
        made.push(name);
        rustix::fs::mkdirat(&root, &made, Mode::from_raw_mode(0o755)).unwrap();
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let passed = Passed::new(root.as_fd(), path.as_os_str().as_bytes(), resolve);
    assert!(passed.is_one_way);
    let own = answer(open(root.as_fd(), &path, OFlags::PATH, resolve));
    let kernel = answer(rustix::fs::openat(
        &root,
        &path,
        OFlags::PATH,
        Mode::empty(),
    ));
    assert_eq!(own, kernel);
}

/// Calls `look` until it has been so often that `enough` is, while `swap` goes on beside it.
fn beside(swap: impl Fn() + Sync, mut look: impl FnMut() -> bool) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                swap();
            }
        });
        // However it ends, the other one must.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| while !look() {}));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

/// `path`, from a root that somebody changes with `swap` all the time, never leads to a file `secret` outside of it: seen as
/// often as the same path leads there when it is simply opened.
fn never_outside(place: &Path, path: &str, swap: impl Fn() + Sync) {
    const OFTEN: u32 = 30;
    let outside = opened(place);
    let root = opened(&place.join("root"));
    let secret = answer(rustix::fs::openat(
        &outside,
        "secret",
        OFlags::PATH,
        Mode::empty(),
    ));
    let secret = secret.unwrap();
    let (mut hits, mut found) = (0, BTreeSet::new());
    beside(swap, || {
        let naive = rustix::fs::openat(&root, path, OFlags::PATH, Mode::empty());
        hits += u32::from(answer(naive).is_ok_and(|seen| seen == secret));
        for (_, resolve) in KINDS {
            let own = answer(open(root.as_fd(), Path::new(path), OFlags::PATH, resolve));
            if let Ok(seen) = own {
                assert_ne!(seen, secret, "{path:?}, {resolve:?}");
                found.insert(seen.1);
            }
        }
        hits >= OFTEN && !found.is_empty()
    });
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere_else() {
    let place = tempfile::tempdir().unwrap();
    let root = tree(place.path());
    file(&root, "d/secret");
    link(&root, "evil", place.path().to_str().unwrap());
    never_outside(place.path(), "d/secret", || {
        rustix::fs::renameat_with(&root, "d", &root, "evil", RenameFlags::EXCHANGE).unwrap();
    });
}

#[test]
fn a_directory_that_is_moved_out_on_the_way_leads_nowhere_else() {
    let place = tempfile::tempdir().unwrap();
    let root = tree(place.path());
    file(&root, "d/secret");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let path = "d/e/f/../../secret";
    let plain = |at: BorrowedFd<'_>, path: &str| {
        answer(rustix::fs::openat(at, path, flags, Mode::empty())).unwrap()
    };
    let (inside, outside) = (
        plain(root.as_fd(), "d/secret"),
        plain(root.as_fd(), "../secret"),
    );
    let resolve = ResolveFlags::BENEATH;
    let mut walk = Walk {
        passed: Passed::new(root.as_fd(), path.as_bytes(), resolve),
        rest: Vec::new(),
        links: 0,
        flags,
        resolve,
        mount: None,
    };
    walk.push(path.as_bytes()).unwrap();
    for expected in ["d", "e", "f"] {
        let name = walk.rest.pop().unwrap();
        assert_eq!(name, expected);
        assert!(walk.step(&name, false).unwrap().is_none());
    }
    let parent = opened(place.path());
    rustix::fs::renameat(&root, "d/e", &parent, "e").unwrap();
    assert_eq!(plain(walk.passed.here(), "../../secret"), outside);
    assert_eq!(answer(walk.run()), Ok(inside));
}

#[test]
fn a_file_that_becomes_a_link_at_the_end_is_not_followed_elsewhere() {
    let place = tempfile::tempdir().unwrap();
    let root = tree(place.path());
    link(&root, "evil", place.path().join("secret").to_str().unwrap());
    never_outside(place.path(), "file", || {
        rustix::fs::renameat_with(&root, "file", &root, "evil", RenameFlags::EXCHANGE).unwrap();
    });
}

/// Names that are often there, and ways to put them together.
fn any_path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "..", ".", "", "l", "m", "n"]);
    prop::collection::vec(name, 1..7).prop_map(|names| names.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_answers_as_the_kernel_does_in_any_tree(
        links in prop::collection::vec((any_path(), any_path()), 0..12),
        paths in prop::collection::vec(any_path(), 8),
    ) {
        let place = tempfile::tempdir().unwrap();
        let outside = opened(place.path());
        directory(&outside, "a");
        let root = opened(&place.path().join("a"));
        for name in ["a", "a/a", "a/b", "b", "b/a"] {
            directory(&root, name);
        }
        file(&root, "c");
        file(&root, "a/b/c");
        for (name, target) in links {
            // Only what lies in the tree, and where there is a place for it.
            let name = name.trim_matches('/');
            if !name.contains("..") && !name.is_empty() && !target.is_empty() {
                let _taken = rustix::fs::symlinkat(target, &root, name);
            }
        }
        for path in &paths {
            compare(&root, path);
        }
    }
}
