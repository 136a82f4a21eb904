#![expect(clippy::disallowed_methods, reason = "test trees are made by path")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::image::Merged;
use crate::image::tar::{Entry, Extent, Kind, Time};

mod hostile;
mod settled;

const TIME: Time = Time {
    seconds: 1_234_567_890,
    nanoseconds: 987_654_321,
};

/// An entry and its content.
#[derive(Debug, Clone)]
struct Brought(Entry, Vec<u8>);

fn entry(kind: Kind, path: &str) -> Brought {
    let entry = Entry {
        path: path.into(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: TIME,
        size: 0,
        link: Vec::new(),
        xattrs: Vec::new(),
        extents: None,
        offset: 0,
    };
    Brought(entry, Vec::new())
}

fn directory(path: &str) -> Brought {
    entry(Kind::Directory, path)
}

fn file(path: &str, content: &str) -> Brought {
    let mut brought = entry(Kind::File, path).mode(0o644);
    brought.0.size = content.len() as u64;
    brought.1 = content.into();
    brought
}

fn symlink(path: &str, target: &str) -> Brought {
    let mut brought = entry(Kind::Symlink, path);
    brought.0.link = target.into();
    brought
}

fn hard_link(path: &str, target: &str) -> Brought {
    let mut brought = entry(Kind::HardLink, path);
    brought.0.link = target.into();
    brought
}

impl Brought {
    fn mode(mut self, mode: u32) -> Self {
        self.0.mode = mode;
        self
    }

    fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.0.uid, self.0.gid) = (uid, gid);
        self
    }

    fn at(mut self, seconds: i64) -> Self {
        self.0.mtime.seconds = seconds;
        self
    }

    fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.0.xattrs.push((name.into(), value.into()));
        self
    }
}

/// All become the caller's, whoever that is.
fn how(bottom: bool) -> How {
    How {
        owners: Owners::Squashed {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        },
        limits: Limits::default(),
        bottom,
    }
}

/// A layer, in a directory that has a neighbour which must not be touched.
struct Made {
    dir: TempDir,
    root: OwnedFd,
    outcome: Result<Unpacked>,
}

impl Made {
    fn of(brought: &[Brought], how: &How) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/canary"), "canary").unwrap();
        let root: OwnedFd = fs::File::open(dir.path().join("root")).unwrap().into();
        let outcome = unpack(&root, brought, how);
        Self { dir, root, outcome }
    }

    fn upper(brought: &[Brought]) -> Self {
        Self::of(brought, &how(false))
    }

    fn bottom(brought: &[Brought]) -> Self {
        Self::of(brought, &how(true))
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn report(&self) -> &Report {
        &self.outcome.as_ref().unwrap().report
    }

    fn meta(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(path)).unwrap()
    }

    /// What is in it: `d a`, `o a` (opaque), `f a/b content`, `l a target`, `w a` (whiteout), `p a`.
    fn tree(&self) -> Vec<String> {
        let mut lines = Vec::new();
        list(&self.path(""), "", &mut lines);
        lines.sort_by(|a, b| a[2..].cmp(&b[2..]));
        lines
    }

    fn error(&self) -> String {
        match &self.outcome {
            Ok(_) => "unpacked".into(),
            Err(error) => error.message(),
        }
    }

    fn settle(&mut self, below: &[&Made]) -> Result<()> {
        let fds = below.iter().map(|made| made.root.try_clone().unwrap());
        let below = Merged::new(fds.collect());
        let unsettled = std::mem::take(&mut self.outcome.as_mut().unwrap().unsettled);
        settle(&self.root, unsettled, &below, &how(false))
    }
}

fn unpack(root: &OwnedFd, brought: &[Brought], how: &How) -> Result<Unpacked> {
    let mut unpacker = Unpacker::new(root, how)?;
    for Brought(entry, content) in brought {
        unpacker.entry(entry, &mut &content[..])?;
    }
    unpacker.finish()
}

fn list(directory: &Path, prefix: &str, lines: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let stat = fs::symlink_metadata(entry.path()).unwrap();
        let kind = stat.file_type();
        if kind.is_dir() {
            let mut value = [0; 8];
            let opaque = rustix::fs::getxattr(entry.path(), OPAQUE, &mut value[..]).is_ok();
            lines.push(format!("{} {path}", if opaque { 'o' } else { 'd' }));
            list(&entry.path(), &format!("{path}/"), lines);
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            lines.push(format!("l {path} {}", target.display()));
        } else if kind.is_char_device() {
            assert_eq!(stat.rdev(), 0);
            lines.push(format!("w {path}"));
        } else if kind.is_fifo() {
            lines.push(format!("p {path}"));
        } else {
            let content = fs::read_to_string(entry.path()).unwrap();
            lines.push(format!("f {path} {content}"));
        }
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

#[test]
fn files_come_with_mode_and_time() {
    let made = Made::bottom(&[
        directory("./").mode(0o711).at(5),
        directory("etc/").mode(0o2750).at(7),
        file("etc/passwd", "root").mode(0o600),
        file("/etc/tool", "run").mode(0o4755),
        symlink("etc/link", "../nowhere at all"),
        entry(Kind::Fifo, "etc/fifo").mode(0o622),
        hard_link("passwd", "./etc/passwd"),
        directory("etc/sub").mode(0o1777).at(9),
        file("etc/sub/last", ""),
    ]);
    // Looking at them changes when they were last read.
    for (path, mode, seconds) in [
        ("", 0o711, 5),
        ("etc", 0o2750, 7),
        ("etc/passwd", 0o600, TIME.seconds),
        ("etc/tool", 0o4755, TIME.seconds),
        ("etc/link", 0o777, TIME.seconds),
        ("etc/fifo", 0o622, TIME.seconds),
        ("etc/sub", 0o1777, 9),
    ] {
        let meta = made.meta(path);
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{path}");
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec()),
            (seconds, 987_654_321),
            "{path}"
        );
        assert_eq!(meta.atime(), seconds, "{path}");
    }
    assert_eq!(
        made.tree(),
        [
            "d etc",
            "p etc/fifo",
            "l etc/link ../nowhere at all",
            "f etc/passwd root",
            "d etc/sub",
            "f etc/sub/last ",
            "f etc/tool run",
            "f passwd root"
        ]
    );
    assert_eq!(made.meta("passwd").ino(), made.meta("etc/passwd").ino());
    assert_eq!((made.report().entries, made.report().bytes), (9, 7));
}

#[test]
fn holes_stay_holes() {
    let mut sparse = file("disk", "headtail");
    let size = 64 << 20;
    sparse.0.size = size;
    let extent = |offset| Extent { offset, length: 4 };
    sparse.0.extents = Some(vec![extent(0), extent(size - 4)]);
    let made = Made::bottom(&[sparse.clone()]);
    let meta = made.meta("disk");
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() < 1024, "{}", meta.blocks());
    assert!(fs::read(made.path("disk")).unwrap().ends_with(b"\0tail"));
    sparse.0.extents = Some(vec![extent(size - 3)]);
    assert!(Made::bottom(&[sparse]).error().contains("beyond its end"));
}

#[test]
fn what_is_brought_twice_is_the_later() {
    let made = Made::upper(&[
        file("a", "first"),
        file("a", "second"),
        directory("b"),
        file("b/kept", ""),
        directory("b").mode(0o700),
        directory("c"),
        file("c/gone", ""),
        file("c", "file"),
        file("d", "file"),
        directory("d"),
        symlink("e", "a"),
        file("e", "e"),
        symlink("a", "b"),
    ]);
    assert_eq!(
        made.tree(),
        ["l a b", "d b", "f b/kept ", "f c file", "o d", "f e e"]
    );
    assert_eq!(made.meta("b").mode() & 0o777, 0o700);
}

#[test]
fn a_file_is_no_parent() {
    let made = Made::upper(&[file("a/b", ""), file("a/b/c", "")]);
    assert!(
        made.error()
            .contains("beneath \"a/b\", which is no directory in this layer"),
        "{}",
        made.error()
    );
}

#[test]
fn links_among_the_parents_lead_inside() {
    let made = Made::upper(&[
        directory("usr/lib"),
        symlink("lib", "usr/lib"),
        symlink("abs", "/usr/../usr/lib/"),
        symlink("up", "../../../usr"),
        file("lib/one", ""),
        file("abs/two", ""),
        file("up/lib/three", ""),
        file("lib/deep/four", ""),
        file("lib/deep/five", ""),
        directory("lib/deep").mode(0o700),
        symlink("loop", "loop"),
    ]);
    let tree = made.tree();
    for file in ["one", "two", "three", "deep/four", "deep/five"] {
        assert!(
            tree.contains(&format!("f usr/lib/{file} ")),
            "{file}: {tree:?}"
        );
    }
    assert_eq!(made.meta("usr/lib/deep").mode() & 0o777, 0o700);
    let made = Made::upper(&[symlink("loop", "loop"), file("loop/x", "")]);
    assert!(made.error().contains("more than 40 symbolic links"));
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let made = Made::upper(&[
        file("etc/.wh.gone", ""),
        file(".wh.replaced", ""),
        file("replaced", "new"),
        file("kept", "new"),
        file(".wh.kept", ""),
        directory("before"),
        file(".wh.before", ""),
        file(".wh.after", ""),
        directory("after"),
        file(".wh.implied", ""),
        file("implied/x", ""),
        directory("opaque"),
        file("opaque/.wh..wh..opq", ""),
        file("opaque/x", ""),
        file(".wh..wh.plnk", ""),
        file(".wh..wh.aufs/x", ""),
    ]);
    assert_eq!(
        made.tree(),
        [
            "o after",
            "o before",
            "d etc",
            "w etc/gone",
            "o implied",
            "f implied/x ",
            "f kept new",
            "o opaque",
            "f opaque/x ",
            "f replaced new"
        ]
    );
}

#[test]
fn whiteouts_of_the_lowest_layer_leave_nothing() {
    let made = Made::bottom(&[
        file("a/.wh.gone", ""),
        file("b/.wh..wh..opq", ""),
        file("c", ""),
    ]);
    assert_eq!(made.tree(), ["f c "]);
}

#[test]
fn devices_become_empty_files() {
    let null = Kind::CharDevice { major: 1, minor: 3 };
    let zero = Kind::CharDevice { major: 0, minor: 0 };
    let disk = Kind::BlockDevice { major: 8, minor: 0 };
    let made = Made::upper(&[
        entry(null, "dev/null").mode(0o666),
        entry(zero, "dev/zero"),
        entry(disk, "dev/sda"),
    ]);
    assert_eq!(
        made.tree(),
        ["d dev", "f dev/null ", "f dev/sda ", "f dev/zero "]
    );
    assert_eq!(made.meta("dev/null").mode() & 0o777, 0o666);
    assert_eq!(
        made.report().devices.first,
        ["dev/null", "dev/zero", "dev/sda"]
    );
    let many: Vec<_> = (0..103).map(|n| entry(null, &format!("d{n}"))).collect();
    assert_eq!(Made::upper(&many).report().devices.more, 3);
}

#[test]
fn attributes_are_set_or_counted() {
    let acl = [2, 0, 0, 0, 2, 0, 7, 0, 1, 0, 0, 0];
    let made = Made::upper(&[
        file("a", "")
            .xattr("user.note", b"kept")
            .xattr("trusted.overlay.opaque", b"y"),
        directory("b")
            .xattr("user.overlay.opaque", b"y")
            .xattr("user.note", b"too"),
        symlink("c", "a").xattr("user.note", b"not on links"),
        file("d", "")
            .xattr("security.selinux", b"label")
            .xattr("security.selinux", b"label"),
        file("e", "").xattr("system.posix_acl_access", &acl),
    ]);
    assert_eq!(xattr(&made.path("a"), "user.note").unwrap(), b"kept");
    assert_eq!(xattr(&made.path("b"), "user.note").unwrap(), b"too");
    assert_eq!(made.tree(), ["f a ", "d b", "l c a", "f d ", "f e "]);
    let dropped: Vec<_> = made
        .report()
        .xattrs
        .iter()
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    assert_eq!(
        dropped,
        [
            "security.selinux 2",
            "system.posix_acl_access 1",
            "trusted.overlay.opaque 1",
            "user.note 1",
            "user.overlay.opaque 1"
        ]
    );
}

#[test]
fn wanted_owners_are_kept_and_counted() {
    let made = Made::bottom(&[
        file("root", ""),
        file("daemon", "").owner(1, 1),
        directory("mail").owner(0, 8),
        symlink("link", "x").owner(1, 0),
    ]);
    assert_eq!(made.report().squashed, 3);
    assert_eq!(xattr(&made.path("root"), "user.rootlesscontainers"), None);
    assert_eq!(
        xattr(&made.path("daemon"), "user.rootlesscontainers").unwrap(),
        [8, 1, 16, 1]
    );
    assert_eq!(
        xattr(&made.path("mail"), "user.rootlesscontainers").unwrap(),
        [16, 8]
    );
}

#[test]
fn an_owner_beyond_the_map_is_refused_by_name() {
    let mut how = how(true);
    let own = rustix::process::geteuid().as_raw();
    let map = vec![crate::plan::IdMapping {
        container_id: 0,
        host_id: own,
        size: 1,
    }];
    how.owners = Owners::Mapped {
        uid_map: map.clone(),
        gid_map: map,
    };
    let made = Made::of(&[file("var/mail", "").owner(8, 8)], &how);
    let error = made.outcome.unwrap_err();
    assert!(
        error
            .message()
            .contains("cannot unpack \"var/mail\": it belongs to 8:8"),
        "{error}"
    );
    assert!(error.hints().unwrap().contains("--squash-owners"));
}

#[test]
fn the_whole_stream_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root: OwnedFd = fs::File::open(dir.path()).unwrap().into();
    let mut stream: &[u8] = &[0; 20 * 512];
    layer(&mut stream, &root, &how(true)).unwrap();
    assert_eq!(stream.len(), 0);
}
