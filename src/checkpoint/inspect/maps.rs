//! What the processes of a container have mapped (proc_pid_maps(5)).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, ResolveFlags};

use crate::error::{Doing, Result};
use crate::sys;

/// The longest line: a path of 4096 bytes, each of them written as an escape.
const LONGEST_LINE: u64 = 32 << 10;

const DELETED: &[u8] = b" (deleted)";

/// What the kernel puts before the names of memfd_create(2).
const MEMFD: &[u8] = b"/memfd:";

/// And before the keys of shmget(2).
const SEGMENT: &[u8] = b"/SYSV";

/// Files of the kernel's own that have no name anywhere, by what their names begin with: CRIU knows each kind.
const NAMELESS: [&[u8]; 5] = [MEMFD, SEGMENT, b"/dev/zero", b"/anon_hugepage", b"/[aio]"];

/// Whether this is how the kernel calls a file that is in no directory.
pub(super) fn is_gone(name: &[u8]) -> bool {
    name.ends_with(DELETED)
}

/// Whether this is how the kernel calls a file that never had a name in a directory.
pub(super) fn is_nameless(name: &[u8]) -> bool {
    NAMELESS.iter().any(|kind| name.starts_with(kind))
}

/// A mapping of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping<'a> {
    /// Device of the file: major and minor number.
    device: (u32, u32),
    /// Its inode.
    inode: u64,
    /// Whether what is written goes to the file.
    shared: bool,
    /// Its path, as the kernel tells it.
    path: &'a [u8],
}

/// `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE PATH`; `None` for what is no mapping of a file.
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let permissions = words.by_ref().nth(1)?;
    let device = words.by_ref().nth(1)?;
    let inode = words.next()?;
    let path = words.next()?;
    let path = &path[path.iter().position(|byte| *byte != b' ')?..];
    let number =
        |digits: &[u8], base| u32::from_str_radix(std::str::from_utf8(digits).ok()?, base).ok();
    let colon = device.iter().position(|byte| *byte == b':')?;
    Some(Mapping {
        device: (
            number(&device[..colon], 16)?,
            number(&device[colon + 1..], 16)?,
        ),
        inode: std::str::from_utf8(inode).ok()?.parse().ok()?,
        shared: permissions.ends_with(b"s"),
        path: path.starts_with(b"/").then_some(path)?,
    })
}

/// A mapped file that CRIU cannot open, nor do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It had this name.
    Deleted(PathBuf),
    /// One in memory, of this name (memfd_create(2)), that is mapped privately, and that nobody has open: of pages that were not
    /// written to, CRIU would know nothing.
    Private(PathBuf),
    /// A shared memory segment of this name (shmget(2)), of an ipc namespace that is not dumped.
    Segment(PathBuf),
}

/// Looks for mapped files that CRIU cannot open.
#[derive(Debug)]
pub struct Search<'a> {
    /// The root of the container.
    root: OwnedFd,
    /// The device of files in memory that have no name (memfd_create(2), shmget(2), shared anonymous memory): CRIU dumps their
    /// content, and asks for no name.
    memory: (u32, u32),
    /// The inodes of those files in memory that somebody has open.
    open: &'a BTreeSet<u64>,
    /// What the kernel calls the open files that are in no directory.
    gone: &'a BTreeSet<Vec<u8>>,
    /// Whether shared memory segments are dumped, with their ipc namespace.
    segments: bool,
}

impl<'a> Search<'a> {
    /// `root`: the root of the container. `open`: the inodes of the files in memory that its processes have open. `gone`: what the
    /// kernel calls the open files that are in no directory.
    pub fn new(
        root: OwnedFd,
        open: &'a BTreeSet<u64>,
        gone: &'a BTreeSet<Vec<u8>>,
    ) -> Result<Self> {
        let memory = memory_device()?;
        let memory = (rustix::fs::major(memory), rustix::fs::minor(memory));
        Ok(Self {
            root,
            memory,
            open,
            gone,
            segments: true,
        })
    }

    /// For a container whose ipc namespace is not its own: CRIU leaves that alone.
    pub fn without_segments(self) -> Self {
        Self {
            segments: false,
            ..self
        }
    }

    /// The first file that process `pid` has mapped and that CRIU cannot open by its name, if it has to: for any other way it takes
    /// CAP_CHECKPOINT_RESTORE in the initial user namespace. A process that has ended has nothing mapped.
    ///
    /// # Errors
    /// The mappings cannot be read.
    pub fn first(&self, pid: i32) -> Result<Option<Trouble>> {
        let path = format!("/proc/{pid}/maps");
        let what = || format!("cannot read the mappings of process {pid}");
        let file = match sys::path::open_magic(Path::new(&path)) {
            Err(error) if error.is(libc::ENOENT) || error.is(libc::ESRCH) => return Ok(None),
            opened => File::from(opened.doing(what)?),
        };
        match self.first_in(BufReader::with_capacity(64 << 10, file)) {
            Ok(found) => Ok(found),
            // It ends meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(e) => Err(sys::Error::new("read", format!("{path:?}"), e)).doing(what),
        }
    }

    fn first_in(&self, mut maps: impl BufRead) -> std::io::Result<Option<Trouble>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if (&mut maps)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)?
                == 0
            {
                return Ok(None);
            }
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let trouble = parse(line).and_then(|mapping| self.trouble(&mapping));
            if trouble.is_some() {
                return Ok(trouble);
            }
        }
    }

    fn trouble(&self, mapping: &Mapping<'_>) -> Option<Trouble> {
        let name = mapping.path.strip_suffix(DELETED)?;
        let path = |name| PathBuf::from(OsStr::from_bytes(name));
        if mapping.device == self.memory {
            if !self.segments && name.starts_with(SEGMENT) {
                return Some(Trouble::Segment(path(name)));
            }
            let name = path(name.strip_prefix(MEMFD)?);
            let is_there = mapping.shared || self.open.contains(&mapping.inode);
            return (!is_there).then_some(Trouble::Private(name));
        }
        // Whether it is that one is seen by who opens it for CRIU.
        let is_open = || self.gone.contains(&unescaped(mapping.path));
        let is_there = || is_open() || self.inode_of(mapping.path) == Some(mapping.inode);
        (!is_nameless(name) && !is_there()).then(|| Trouble::Deleted(path(name)))
    }

    /// The inode of the file with this name in the container: one may be called so.
    fn inode_of(&self, path: &[u8]) -> Option<u64> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = Path::new(OsStr::from_bytes(path));
        let file = sys::path::open_beneath(&self.root, path, OFlags::PATH, resolve).ok()?;
        Some(rustix::fs::fstat(file).ok()?.st_ino)
    }
}

/// The name without the kernel's escapes: a line break is written `\012`, and nothing else is.
fn unescaped(name: &[u8]) -> Vec<u8> {
    const ESCAPE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, others)) = rest.split_first() {
        match rest.strip_prefix(ESCAPE) {
            Some(others) => {
                plain.push(b'\n');
                rest = others;
            }
            None => {
                plain.push(*first);
                rest = others;
            }
        }
    }
    plain
}

/// The device of files in memory that have no name, as stat(2) gives it.
pub(super) fn memory_device() -> Result<u64> {
    let what = || "cannot make a file in memory".to_owned();
    let file = sys::memfd::sealed("lodger", b"").doing(what)?;
    let stat = rustix::fs::fstat(file).map_err(|e| sys::Error::new("fstat", "memfd", e));
    Ok(stat.doing(what)?.st_dev)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inode of a file in memory that is open.
    const OPEN: u64 = 9;

    fn with_search<T>(test: impl FnOnce(&Search<'_>) -> T) -> T {
        let open = BTreeSet::from([OPEN]);
        let root = sys::mount::open_path(Path::new("/")).unwrap();
        let gone = BTreeSet::from([b"/tmp/a\nb (deleted)".to_vec()]);
        test(&Search::new(root, &open, &gone).unwrap())
    }

    #[test]
    fn lines_of_the_kernel() {
        let line = b"7f4cf9488000-7f4cf948a000 rw-s 00000000 fe:00 2206686                    /tmp/a b (deleted)";
        assert_eq!(
            parse(line),
            Some(Mapping {
                device: (0xfe, 0),
                inode: 2_206_686,
                shared: true,
                path: b"/tmp/a b (deleted)",
            })
        );
        for none in [
            &b"7f4cf948d000-7f4cf948e000 ---p 00000000 00:00 0 "[..],
            b"0824c000-0826e000 rw-p 00000000 00:00 0                                  [heap]",
            b"7f4cf948d000-7f4cf948e000 ---p",
            b"a b c d e f",
            b"",
        ] {
            assert_eq!(parse(none), None);
        }
    }

    #[test]
    fn deleted_are_files_that_had_a_name() {
        let told = |path: &str, device, inode, shared| {
            let path = path.as_bytes();
            let mapping = Mapping {
                device,
                inode,
                shared,
                path,
            };
            with_search(|search| search.trouble(&mapping))
        };
        let memory = with_search(|search| search.memory);
        let disk = (0xfe, 0);
        let name = PathBuf::from;
        for shared in [true, false] {
            let deleted = Some(Trouble::Deleted(name("/tmp/x")));
            assert_eq!(told("/tmp/x (deleted)", disk, 1, shared), deleted);
            assert_eq!(told("/tmp/x", disk, 1, shared), None);
            // Somebody has it open.
            assert_eq!(told("/tmp/a\\012b (deleted)", disk, 1, shared), None);
        }
        for nameless in [
            "/memfd:x (deleted)",
            "/SYSV00000000 (deleted)",
            "/anon_hugepage (deleted)",
            "/[aio] (deleted)",
        ] {
            assert_eq!(told(nameless, disk, 1, true), None);
        }
        for (path, inode, shared, expected) in [
            ("/SYSV00000000 (deleted)", OPEN, true, None),
            ("/dev/zero (deleted)", 1, true, None),
            ("/memfd:a b (deleted)", 1, true, None),
            ("/memfd:a b (deleted)", OPEN, true, None),
            ("/memfd:a b (deleted)", OPEN, false, None),
            (
                "/memfd:a b (deleted)",
                1,
                false,
                Some(Trouble::Private(name("a b"))),
            ),
        ] {
            assert_eq!(told(path, memory, inode, shared), expected, "{path}");
        }
        let of_others = |path: &[u8], device| {
            with_search(|search| {
                let search = Search {
                    root: search.root.try_clone().unwrap(),
                    ..*search
                };
                search.without_segments().trouble(&Mapping {
                    device,
                    inode: OPEN,
                    shared: true,
                    path,
                })
            })
        };
        let segment = Some(Trouble::Segment(name("/SYSV00000000")));
        assert_eq!(of_others(b"/SYSV00000000 (deleted)", memory), segment);
        assert_eq!(of_others(b"/memfd:x (deleted)", memory), None);
        assert_eq!(of_others(b"/SYSV00000000 (deleted)", disk), None);
    }

    #[test]
    fn a_file_may_be_called_deleted() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x (deleted)");
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let inode = std::fs::metadata(&file).unwrap().ino();
        let is_trouble = |inode| {
            let mapping = Mapping {
                device: (0xfe, 0),
                inode,
                shared: true,
                path: file.as_os_str().as_bytes(),
            };
            with_search(|search| search.trouble(&mapping).is_some())
        };
        assert!(!is_trouble(inode));
        assert!(is_trouble(inode + 1));
    }

    #[test]
    fn the_first_of_many_is_found() {
        let own = sys::process::own_pid();
        // What the test program has mapped has its names, or is in memory.
        assert_eq!(with_search(|search| search.first(own)).unwrap(), None);
        assert_eq!(with_search(|search| search.first(i32::MAX)).unwrap(), None);
        let mut text = String::new();
        for n in 0..70_000 {
            text += &format!("{n:x}000-{n:x}fff r--p 00000000 fe:00 {n}    /lib/x{n}\n");
        }
        let found = |text: &[u8]| with_search(|search| search.first_in(text)).unwrap();
        assert_eq!(found(text.as_bytes()), None);
        text += "7f000-7f001 rw-s 00000000 fe:00 7    /tmp/gone (deleted)\n\
            7f001-7f002 rw-s 00000000 fe:00 7    /b (deleted)";
        let first = Trouble::Deleted(PathBuf::from("/tmp/gone"));
        assert_eq!(found(text.as_bytes()), Some(first));
        // A line that nobody writes does not take more memory than is allowed.
        assert_eq!(found(&vec![b'/'; 1 << 20]), None);
    }
}
