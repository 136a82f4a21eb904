//! Reading and opening files that somebody else may have prepared.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};

use super::defence::{Defence, is_on};
use super::refused::{self, Call};
use super::{Error, Result, path_walk};

/// Opens `path` beneath `dir` for reading, without ever blocking on it.
fn open_to_read(dir: impl AsFd, path: &Path) -> Result<OwnedFd> {
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if !is_on(Defence::BoundedReads) {
        flags.remove(OFlags::NONBLOCK);
    }
    rustix::fs::openat(dir, path, flags, Mode::empty())
        .map_err(|e| Error::new("openat", format!("{path:?}, O_RDONLY"), e))
}

/// Refuses `fd` when it is not a regular file: ELOOP for a link, EISDIR for a directory, EINVAL for the rest.
/// Returns its size in bytes, 0 for the files of /proc.
pub fn require_regular(fd: impl AsFd, path: &Path) -> Result<u64> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)
        .map_err(|e| Error::new("fstat", format!("{path:?}"), e))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(u64::try_from(stat.st_size).unwrap_or(0)),
        FileType::Directory => Err(Error::new("open", format!("{path:?}"), libc::EISDIR)),
        FileType::Symlink => Err(Error::new("open", format!("{path:?}"), libc::ELOOP)),
        _ => Err(Error::new(
            "open",
            format!("{path:?} /* not a regular file */"),
            libc::EINVAL,
        )),
    }
}

/// Reads the regular file `path`; EFBIG when it has more than `limit` bytes, EINVAL when it is no regular file.
pub fn read_regular(path: &Path, limit: usize) -> Result<Vec<u8>> {
    read_limited(open_to_read(CWD, path)?, path, limit)
}

/// As [`read_regular`], relative to `dir`.
pub fn read_regular_at(dir: impl AsFd, path: &Path, limit: usize) -> Result<Vec<u8>> {
    read_limited(open_to_read(dir, path)?, path, limit)
}

/// As [`read_regular_at`], of a path beneath `dir` in which no link is followed.
pub fn read_regular_beneath(dir: impl AsFd, path: &Path, limit: usize) -> Result<Vec<u8>> {
    if !is_on(Defence::StateDirectory) {
        return read_regular_at(dir, path, limit);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    read_limited(open_beneath(dir, path, flags, resolve)?, path, limit)
}

/// Reads `fd`, a regular file, to its end; EFBIG when there is more than `limit` bytes. `path` is for the message.
pub fn read_limited(fd: OwnedFd, path: &Path, limit: usize) -> Result<Vec<u8>> {
    /// Enough for most files of /proc and /etc in one read.
    const USUAL: usize = 4096;
    let too_big = || {
        Error::new(
            "read",
            format!("{path:?} /* over {limit} bytes */"),
            libc::EFBIG,
        )
    };
    if !is_on(Defence::BoundedReads) {
        return read_all(fd, path);
    }
    let size = usize::try_from(require_regular(&fd, path)?).unwrap_or(usize::MAX);
    if size > limit {
        return Err(too_big());
    }
    // One byte more than there is, so that the end is seen without growing.
    let mut content = vec![0; size.max(USUAL - 1) + 1];
    let mut length = 0;
    loop {
        match rustix::io::read(&fd, &mut content[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::new("read", format!("{path:?}"), e)),
        }
        if length > limit {
            return Err(too_big());
        }
        if length == content.len() {
            content.resize(length * 2, 0);
        }
    }
    content.truncate(length);
    Ok(content)
}

/// What is not done: whatever it is, it is read until it ends.
fn read_all(fd: OwnedFd, path: &Path) -> Result<Vec<u8>> {
    let mut content = vec![0; 4096];
    let mut length = 0;
    loop {
        let count = rustix::io::read(&fd, &mut content[length..])
            .map_err(|e| Error::new("read", format!("{path:?}"), e))?;
        length += count;
        if count == 0 {
            content.truncate(length);
            return Ok(content);
        }
        if length == content.len() {
            content.resize(length * 2, 0);
        }
    }
}

/// The names in a directory, without `.` and `..`; of those that are no UTF-8, what can be shown.
pub fn names(dir: impl AsFd) -> Result<Vec<String>> {
    let error = |e| Error::new("getdents64", "directory", e);
    let mut names = Vec::new();
    for item in rustix::fs::Dir::read_from(dir).map_err(error)? {
        let item = item.map_err(error)?;
        let name = item.file_name().to_string_lossy();
        if name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

/// Writes all of `content` to `fd`. `path` is for the message.
pub fn write_all(fd: OwnedFd, content: &[u8], path: &Path) -> Result<()> {
    File::from(fd)
        .write_all(content)
        .map_err(|e| Error::new("write", format!("{path:?}"), e))
}

/// Opens a kernel object through its magic link (/proc/PID/ns/…): read-only, followed.
pub fn open_magic(path: &Path) -> Result<OwnedFd> {
    open_magic_at(CWD, path)
}

/// As [`open_magic`], relative to `dir`.
pub fn open_magic_at(dir: impl AsFd, path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::new("openat", format!("{path:?}, O_RDONLY"), e))
}

/// Opens the root directory of the procfs that is mounted at `path`; ENOTDIR when something else is.
pub fn open_procfs(path: &Path) -> Result<OwnedFd> {
    /// PROC_ROOT_INO of the kernel's proc_fs.h.
    const ROOT_INODE: u64 = 1;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| Error::new("openat", format!("{path:?}, O_PATH"), e))?;
    let kind = rustix::fs::fstatfs(&fd)
        .map_err(|e| Error::new("fstatfs", format!("{path:?}"), e))?
        .f_type;
    let inode = rustix::fs::fstat(&fd)
        .map_err(|e| Error::new("fstat", format!("{path:?}"), e))?
        .st_ino;
    if kind == rustix::fs::PROC_SUPER_MAGIC && inode == ROOT_INODE {
        return Ok(fd);
    }
    let args = format!("{path:?} /* not procfs */");
    Err(Error::new("openat", args, libc::ENOTDIR))
}

/// Writes `content` in one write(2) to a file that exists, as the files of /proc want it.
pub fn write_existing(path: &Path, content: &[u8]) -> Result<()> {
    write_existing_at(CWD, path, content)
}

/// Opens a file that exists for writing.
pub fn open_existing(path: &Path) -> Result<OwnedFd> {
    open_existing_at(CWD, path)
}

fn open_existing_at(dir: impl AsFd, path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(dir, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::new("openat", format!("{path:?}, O_WRONLY"), e))
}

/// As [`write_existing`], relative to `dir`.
pub fn write_existing_at(dir: impl AsFd, path: &Path, content: &[u8]) -> Result<()> {
    write_once(open_existing_at(dir, path)?, content, path)
}

/// Writes `content` in one write(2). `path` is for the message.
pub fn write_once(fd: impl AsFd, content: &[u8], path: &Path) -> Result<()> {
    match rustix::io::write(fd, content) {
        Ok(count) if count == content.len() => Ok(()),
        Ok(_) => Err(Error::new(
            "write",
            format!("{path:?} /* short */"),
            libc::EIO,
        )),
        Err(e) => Err(Error::new("write", format!("{path:?}"), e)),
    }
}

/// Opens the file `name` of `dir` itself, whatever it is: an O_PATH fd, of the link if it is one.
pub fn open_itself(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|e| Error::new("openat", format!("{name:?}, O_PATH|O_NOFOLLOW"), e))
}

/// Opens the directory `name` of `dir` for reading; ENOTDIR or ELOOP when it is a link or something else.
pub fn open_directory(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OwnedFd> {
    let name = name.as_ref();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|e| Error::new("openat", format!("{name:?}, O_DIRECTORY"), e))
}

/// Makes a FIFO with exactly these permission bits (mkfifoat(3)); `false` when something has the name already.
pub fn make_fifo(dir: impl AsFd, name: &OsStr, mode: u32) -> Result<bool> {
    let umask = super::cred::swap_umask(0);
    let made = rustix::fs::mkfifoat(dir, name, Mode::from_raw_mode(mode));
    super::cred::swap_umask(umask);
    match made {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(e) => Err(Error::new("mkfifoat", format!("{name:?}, {mode:o}"), e)),
    }
}

/// Changes the owner and the group of the file that `fd`, which may be O_PATH, is open on (fchownat(2)).
pub fn change_owner(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    use rustix::fs::{Gid, Uid};
    let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(fd, "", owner, group, AtFlags::EMPTY_PATH)
        .map_err(|e| Error::new("fchownat", format!("fd, {uid}, {gid}, AT_EMPTY_PATH"), e))
}

/// Whether this process may open the file that `fd`, which may be O_PATH, is open on for reading or for writing
/// (faccessat2(2)). Where the kernel cannot tell (before Linux 5.8, or under a filter), it may.
pub fn may_open(fd: impl AsFd) -> Result<bool> {
    for mode in [libc::R_OK, libc::W_OK] {
        // SAFETY: the path is a NUL-terminated literal; all else are plain numbers.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_faccessat2,
                fd.as_fd().as_raw_fd(),
                c"".as_ptr(),
                mode,
                libc::AT_EMPTY_PATH | libc::AT_EACCESS,
            )
        };
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            _ if answer == 0 => return Ok(true),
            Some(errno) if refused::is_refused(Call::Faccessat2, errno) => return Ok(true),
            Some(libc::EACCES | libc::EPERM) => {}
            _ => return Err(Error::new("faccessat2", "fd, AT_EMPTY_PATH", error)),
        }
    }
    Ok(false)
}

/// Whether this process may use the file `path`, from `dir`, as `access` says (faccessat2(2), AT_EACCESS; where that is refused
/// as such, faccessat(2), which asks for the real ids).
pub fn may_use(dir: impl AsFd, path: impl AsRef<OsStr>, access: Access) -> bool {
    let path = path.as_ref();
    match rustix::fs::accessat(&dir, path, access, AtFlags::EACCESS) {
        Err(e) if refused::is_refused(Call::Faccessat2, e.raw_os_error()) => {
            rustix::fs::accessat(&dir, path, access, AtFlags::empty()).is_ok()
        }
        answer => answer.is_ok(),
    }
}

/// Resolves `path` beneath `root` as `resolve` says (openat2(2)); where the call is refused, step by step.
pub fn open_beneath(
    root: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    // A rename somewhere on the machine at the wrong moment makes the kernel answer EAGAIN: it may be asked again.
    const TRIES: u32 = 64;
    let flags = flags | OFlags::CLOEXEC;
    let mut by_steps = refused::is_known(Call::Openat2);
    let mut tries = 0;
    loop {
        let opened = match by_steps {
            false => rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve),
            true => path_walk::open(root.as_fd(), path, flags, resolve),
        };
        match opened {
            Ok(fd) => return Ok(fd),
            Err(rustix::io::Errno::AGAIN) if tries < TRIES => tries += 1,
            Err(e) if !by_steps && refused::is_refused(Call::Openat2, e.raw_os_error()) => {
                by_steps = true;
            }
            Err(e) => {
                let refused = if by_steps { " /* by steps */" } else { "" };
                let args = format!("root, {path:?}, {}{refused}", describe_resolve(resolve));
                return Err(Error::new("openat2", args, e));
            }
        }
    }
}

fn describe_resolve(resolve: ResolveFlags) -> &'static str {
    if resolve.contains(ResolveFlags::NO_XDEV) {
        "RESOLVE_BENEATH|RESOLVE_NO_XDEV|RESOLVE_NO_SYMLINKS"
    } else if resolve.contains(ResolveFlags::NO_SYMLINKS) {
        "RESOLVE_IN_ROOT|RESOLVE_NO_SYMLINKS"
    } else {
        "RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_procfs_is_written_to() {
        assert!(open_procfs(Path::new("/proc")).is_ok());
        for other in ["/tmp", "/proc/self"] {
            let error = open_procfs(Path::new(other)).unwrap_err();
            assert!(error.is(libc::ENOTDIR) || error.is(libc::ELOOP), "{error}");
        }
    }
}
