//! The cgroup filesystem: a directory is a cgroup, its files are read and written (cgroups(7), cgroup-v2.rst).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};

use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::host::CGROUP_MOUNT;
use crate::sys;

/// The filesystem type of version 2 (statfs(2)).
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// The most that is read of one file: the pids of all processes that a machine can have.
const MAX_FILE: usize = 64 << 20;

/// Nothing on the way is a link, leads up or into another filesystem.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_SYMLINKS);

/// The hierarchy of version 2.
#[derive(Debug)]
pub struct Hierarchy {
    root: OwnedFd,
}

/// One cgroup, by its directory: it may be gone by now, but is never another one.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: String,
}

impl Hierarchy {
    /// The hierarchy, where version 2 is all there is.
    pub fn find() -> Result<Option<Self>> {
        let what = || format!("cannot look for control groups in {CGROUP_MOUNT}");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match rustix::fs::openat(CWD, CGROUP_MOUNT, flags, Mode::empty()) {
            Ok(root) => root,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(e) => {
                let args = format!("{CGROUP_MOUNT:?}, O_PATH");
                return Err(sys::Error::new("openat", args, e)).doing(what);
            }
        };
        let kind = rustix::fs::fstatfs(&root)
            .map_err(|e| sys::Error::new("fstatfs", format!("{CGROUP_MOUNT:?}"), e))
            .doing(what)?
            .f_type;
        Ok((kind == CGROUP2_SUPER_MAGIC).then_some(Self { root }))
    }

    /// The cgroup `path`, as /proc/PID/cgroup has it; `None` when there is none of the name. What is opened is of the hierarchy's own mount,
    /// and so of its type.
    pub fn open(&self, path: &str) -> Result<Option<Dir>> {
        open_beneath(&self.root, path, path)
    }
}

fn open_beneath(from: &OwnedFd, relative: &str, path: &str) -> Result<Option<Dir>> {
    let trimmed = relative.trim_matches('/');
    let trimmed = if trimmed.is_empty() { "." } else { trimmed };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match sys::path::open_beneath(from, Path::new(trimmed), flags, RESOLVE) {
        Ok(fd) => Ok(Some(Dir {
            fd,
            path: path.to_owned(),
        })),
        Err(error) if error.is(libc::ENOENT) => Ok(None),
        Err(error) => Err(error).doing(|| format!("cannot open the cgroup {path}")),
    }
}

impl Dir {
    /// The cgroup `path` of the hierarchy, as /proc/PID/cgroup has it; `None` where there is none, or no hierarchy.
    pub fn open(path: &str) -> Result<Option<Self>> {
        match Hierarchy::find()? {
            Some(hierarchy) => hierarchy.open(path),
            None => Ok(None),
        }
    }

    /// Its path, as /proc/PID/cgroup has it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its number: the inode of its directory, which the kernel gives no other cgroup until the next boot.
    pub fn id(&self) -> Result<u64> {
        let stat = rustix::fs::fstat(&self.fd)
            .map_err(|e| sys::Error::new("fstat", format!("{:?}", self.place("")), e))
            .doing(|| format!("cannot examine the cgroup {}", self.path))?;
        Ok(stat.st_ino)
    }

    /// The cgroup `relative` beneath this one; `None` when there is none.
    pub fn child(&self, relative: &str) -> Result<Option<Self>> {
        open_beneath(&self.fd, relative, &join(&self.path, relative))
    }

    /// Whether it has the file: not where the controller is not enabled, or the kernel is older.
    pub fn has(&self, file: &str) -> bool {
        rustix::fs::statat(&self.fd, file, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The text of a file.
    pub fn read(&self, file: &str) -> sys::Result<String> {
        let fd = self.open_file(file, OFlags::RDONLY)?;
        let bytes = sys::path::read_limited(fd, &self.place(file), MAX_FILE)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Writes `value` to a file, in one write(2).
    pub fn write(&self, file: &str, value: &str) -> sys::Result<()> {
        let fd = self.open_file(file, OFlags::WRONLY)?;
        let error = |e: i32| {
            let path = self.place(file);
            sys::Error::new("write", format!("{path:?}, {value:?}"), e)
        };
        match rustix::io::write(fd, value.as_bytes()) {
            Ok(count) if count == value.len() => Ok(()),
            Ok(_) => Err(error(libc::EIO)),
            Err(e) => Err(error(e.raw_os_error())),
        }
    }

    pub(super) fn open_file(&self, file: &str, flags: OFlags) -> sys::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, file, flags, Mode::empty()).map_err(|e| {
            let mode = if flags.contains(OFlags::WRONLY) {
                "O_WRONLY"
            } else {
                "O_RDONLY"
            };
            sys::Error::new("openat", format!("{:?}, {mode}", self.place(file)), e)
        })
    }

    /// The words of a file, as those with the names of controllers have.
    pub fn words(&self, file: &str) -> Result<Vec<String>> {
        let text = self
            .read(file)
            .doing(|| format!("cannot read {file} of the cgroup {}", self.path))?;
        Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// The controllers that it has (cgroup.controllers).
    pub fn controllers(&self) -> Result<Vec<String>> {
        self.words("cgroup.controllers")
    }

    /// Makes the cgroup `name` in this one; `false` when there is one.
    pub(super) fn make_directory(&self, name: &str) -> Result<bool> {
        let mode = Mode::from_raw_mode(0o755);
        match rustix::fs::mkdirat(&self.fd, name, mode) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Ok(false),
            Err(e) => return Err(self.make_error(name, e)),
        }
        // Whatever the umask: who is in the container must be able to read it.
        match rustix::fs::chmodat(&self.fd, name, mode, AtFlags::empty()) {
            // Removed by somebody else already.
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(true),
            Err(e) => {
                let args = format!("{:?}, 0755", self.place(name));
                Err(sys::Error::new("fchmodat", args, e))
                    .doing(|| format!("cannot make a cgroup in {}", self.path))
            }
        }
    }

    fn make_error(&self, name: &str, errno: rustix::io::Errno) -> Error {
        let args = format!("{:?}, 0755", self.place(name));
        let cause = sys::Error::new("mkdirat", args, errno);
        let hint = match cause.errno {
            libc::EACCES | libc::EPERM => {
                "it is not yours to divide: start lodger in a cgroup that is, as in \
                 `systemd-run --user --scope -p Delegate=yes …`, or leave /linux/cgroupsPath out"
            }
            libc::EROFS => {
                "the hierarchy is mounted read-only: in a container, that is for its runtime to change"
            }
            libc::EAGAIN => {
                "it may not have more cgroups: cgroup.max.descendants or cgroup.max.depth of one above says so"
            }
            libc::ENAMETOOLONG | libc::EINVAL => "another /linux/cgroupsPath helps",
            _ => "look at the cgroup with `ls -ld`",
        };
        Error::new(format!("cannot make a cgroup in {}", self.path))
            .because_of(&cause)
            .step(Step::Cgroup)
            .hint(hint)
    }

    /// Puts the process into this cgroup, all of its threads with it (cgroup.procs).
    pub fn join(&self, pid: i32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
            .map_err(|cause| {
                let hint = match cause.errno {
                    libc::EBUSY => Some("cgroups in it have controllers: then it cannot have processes itself"),
                    libc::EOPNOTSUPP => Some("it, or one above it, is for threads (cgroup.type): processes need another one"),
                    libc::EACCES | libc::EPERM => Some(
                        "whoever moves a process must be able to write to cgroup.procs of the lowest cgroup that has both places in it",
                    ),
                    libc::ENODEV | libc::ENOENT => Some("it was removed meanwhile"),
                    _ => None,
                };
                let error = Error::new(format!("cannot put process {pid} into the cgroup {}", self.path)).because_of(&cause).step(Step::Cgroup);
                hint.into_iter().fold(error, Error::hint)
            })
    }

    /// Where `file` is, for messages.
    pub(super) fn place(&self, file: impl AsRef<OsStr>) -> std::path::PathBuf {
        Path::new(CGROUP_MOUNT)
            .join(self.path.trim_matches('/'))
            .join(file.as_ref())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The path of `relative` beneath the cgroup `path`.
pub fn join(path: &str, relative: &str) -> String {
    let relative = relative.trim_matches('/');
    match (path.trim_end_matches('/'), relative) {
        ("", "") => "/".to_owned(),
        (path, "") => path.to_owned(),
        (path, relative) => format!("{path}/{relative}"),
    }
}

#[cfg(test)]
pub(super) use tests::pretended;

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with files in the place of a cgroup.
    pub(in crate::cgroup) fn pretended(files: &[(&str, &str)]) -> (tempfile::TempDir, Dir) {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in files {
            use std::io::Write;
            let file = place.path().join(name);
            let mut file = tempfile::NamedTempFile::new_in(place.path())
                .unwrap()
                .persist(file)
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        let fd = OwnedFd::from(std::fs::File::open(place.path()).unwrap());
        let path = "/pretended".to_owned();
        (place, Dir { fd, path })
    }

    #[test]
    fn paths_are_joined() {
        let table = [
            ("/", "a", "/a"),
            ("/a", "b/c", "/a/b/c"),
            ("/a/", "/b/", "/a/b"),
            ("/a", "", "/a"),
            ("/", "", "/"),
        ];
        for (path, relative, expected) in table {
            assert_eq!(join(path, relative), expected, "{path} {relative}");
        }
    }

    #[test]
    fn an_error_names_call_file_and_value() {
        let (_place, dir) = pretended(&[("cgroup.type", "domain\n")]);
        assert_eq!(dir.read("cgroup.type").unwrap(), "domain\n");
        assert!(dir.has("cgroup.type") && !dir.has("memory.max"));
        let error = dir.write("memory.max", "64M").unwrap_err();
        assert_eq!(
            error.to_string(),
            "openat(\"/sys/fs/cgroup/pretended/memory.max\", O_WRONLY): ENOENT (No such file or directory)"
        );
        let error = dir.read("memory.max").unwrap_err();
        assert!(error.to_string().contains("O_RDONLY): ENOENT"), "{error}");
    }

    #[test]
    fn no_link_is_followed() {
        let (place, dir) = pretended(&[]);
        std::os::unix::fs::symlink("/tmp", place.path().join("out")).unwrap();
        assert!(dir.child("none").unwrap().is_none());
        for path in ["out", "..", "../.."] {
            let error = dir.child(path).unwrap_err();
            assert!(error.message().contains("openat2"), "{error}");
        }
        std::os::unix::fs::symlink("/dev/null", place.path().join("cgroup.procs")).unwrap();
        let error = dir.join(1).unwrap_err();
        assert!(error.message().contains("ELOOP"), "{error}");
    }
}
