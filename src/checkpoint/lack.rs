//! What the host has no more of when a checkpoint or a restore fails: room, files, processes, memory. CRIU says so in its log, if that has room.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatVfs};
use rustix::process::{Resource, getrlimit};

use super::criu::errors;
use crate::error::Error;
use crate::state;

/// A file of this many bytes is written to see whether there is room.
const PROBE: usize = 64 << 10;

/// Its name, beside the images.
const PROBE_NAME: &str = "room";

/// What there is no more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// Bytes or inodes of a filesystem, or of the caller's quota there.
    Room,
    /// A file may not be so large (RLIMIT_FSIZE).
    FileSize,
    /// The filesystem is read-only.
    Writing,
    /// File descriptors.
    Files,
    /// Processes.
    Processes,
    /// Memory.
    Memory,
}

impl Lack {
    /// What the kernel says with this number, if that is a lack (errno(3)).
    pub(super) fn of_errno(errno: i32) -> Option<Self> {
        match errno {
            libc::ENOSPC | libc::EDQUOT => Some(Self::Room),
            libc::EFBIG => Some(Self::FileSize),
            libc::EROFS => Some(Self::Writing),
            // More files on their way to others than one may have open (unix(7)).
            libc::EMFILE | libc::ENFILE | libc::ETOOMANYREFS => Some(Self::Files),
            libc::EAGAIN => Some(Self::Processes),
            libc::ENOMEM => Some(Self::Memory),
            _ => None,
        }
    }

    /// What the errors in `log` tell of, as strerror(3) says it; the last one counts. A log on a full disk may end within a word.
    fn of_log(log: &[u8]) -> Option<Self> {
        const WORDS: [(&str, Lack); 8] = [
            // With more of them than it may have it gets none, and says no reason (MSG_CTRUNC of recvmsg(2)).
            ("Can't retrieve FDs from socket", Lack::Files),
            ("No space left", Lack::Room),
            ("Disk quota exceeded", Lack::Room),
            ("File too large", Lack::FileSize),
            ("Read-only file system", Lack::Writing),
            ("Too many open files", Lack::Files),
            ("Resource temporarily unavailable", Lack::Processes),
            ("Cannot allocate memory", Lack::Memory),
        ];
        let of_line = |line: &str| {
            let found = WORDS.iter().find(|(word, _)| line.contains(word));
            let lack = found.map(|(_, lack)| *lack)?;
            // Somebody else's lock on a file has the same words.
            let is_new = ["fork", "clone"].iter().any(|call| line.contains(call));
            (lack != Self::Processes || is_new).then_some(lack)
        };
        let told = errors(log).iter().rev().find_map(|line| of_line(line));
        told.or_else(|| {
            // What it runs for a tmpfs has the log as its standard error.
            let log = String::from_utf8_lossy(log);
            let mut lines = log.lines().rev();
            lines.find_map(|line| of_line(line).filter(|_| line.starts_with("tar")))
        })
    }

    /// Whether there is room in `directory`: a file is written there, and removed.
    fn of_writing(directory: BorrowedFd<'_>) -> Option<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let written = rustix::fs::openat(directory, PROBE_NAME, flags, Mode::RUSR | Mode::WUSR)
            .and_then(|file| write_all(&file, &[1; PROBE]));
        let removed = rustix::fs::unlinkat(directory, PROBE_NAME, AtFlags::empty());
        tracing::trace!("looking for room: {written:?}, {removed:?}");
        written
            .err()
            .and_then(|errno| Self::of_errno(errno.raw_os_error()))
    }

    /// Says in `error` what is missing, where (`path`), and what to do.
    pub(super) fn explain(self, error: Error, path: &Path) -> Error {
        let limit = |resource| {
            let now = getrlimit(resource).current;
            now.map_or_else(|| "any number of".to_owned(), |limit| limit.to_string())
        };
        match self {
            Self::Room => match room(path) {
                Some((code, lacking)) => error.code(code).hint(format!(
                    "the filesystem of {path:?} {lacking}: make room there, or name a directory elsewhere with --image-path"
                )),
                None => error.hint("make room on its filesystem"),
            },
            Self::FileSize => error.hint(format!(
                "files may have {} bytes (RLIMIT_FSIZE): raise that (ulimit -f)",
                limit(Resource::Fsize)
            )),
            Self::Writing => error.code("LDG-HOME-READONLY").hint(format!(
                "the filesystem of {path:?} is read-only: name a directory that can be written to with --image-path"
            )),
            Self::Files => error.code("LDG-NOFILE").hint(format!(
                "a process may have {} files open (RLIMIT_NOFILE): raise that (ulimit -n), 1024 are enough",
                limit(Resource::Nofile)
            )),
            Self::Processes => error.code("LDG-NPROC").hint(format!(
                "you may have {} processes (RLIMIT_NPROC), threads among them: end some, or raise that (ulimit -u)",
                limit(Resource::Nproc)
            )),
            Self::Memory => error.hint("end something that needs memory, or raise the limit of it (ulimit -v, memory.max)"),
        }
    }
}

/// Says in `error`, with which a checkpoint into `images` failed, what is missing, if that is why. `log` is what CRIU said, and `new`
/// where it wrote.
pub fn explain(error: Error, images: &Path, criu: Option<(&[u8], BorrowedFd<'_>)>) -> Error {
    if error.cause_code().is_some() {
        return error;
    }
    let own = error.origin().map(|origin| origin.errno);
    let lack = own.and_then(Lack::of_errno).or_else(|| {
        let (log, new) = criu?;
        Lack::of_log(log).or_else(|| Lack::of_writing(new))
    });
    match lack {
        Some(lack) => lack.explain(error, images),
        None => error,
    }
}

/// As [`explain`], of a restore: CRIU makes files without a name again where they were, beneath `root` or in a mount, and what was in
/// memory; its log is in `work`.
pub fn explain_restore(error: Error, log: &[u8], root: &Path, work: &Path) -> Error {
    let lack = Lack::of_log(log);
    let is_silent = errors(log).is_empty();
    let full = match lack {
        Some(Lack::Room) => [root, work].into_iter().find_map(full),
        None if is_silent => full(work),
        _ => None,
    };
    match (full, lack) {
        (Some((path, code, lacking)), _) => error.code(code).hint(format!(
            "the filesystem of {path:?} {lacking}: make room there; --work-path says where the log goes"
        )),
        (None, Some(Lack::Room)) => error.code("LDG-HOME-BYTES").hint(
            "one of the container's mounts has no room for what was in it: make room there; a tmpfs has what its size= allows",
        ),
        (None, Some(Lack::Writing)) => error.hint(
            "one of the container's mounts is read-only that was not when the checkpoint was made: have it as it was",
        ),
        (None, Some(lack)) => lack.explain(error, work),
        (None, None) => error,
    }
}

/// A path, and what its filesystem lacks, if that is full: a log of CRIU's takes some room, too.
fn full(path: &Path) -> Option<(&Path, &'static str, &'static str)> {
    let left = rustix::fs::statvfs(path).ok()?;
    let room = left.f_bavail.saturating_mul(left.f_frsize);
    let is_full = room < PROBE as u64 || (left.f_files > 0 && left.f_favail == 0);
    let (code, lacking) = state::lacking(&left);
    is_full.then_some((path, code, lacking))
}

fn write_all(file: &rustix::fd::OwnedFd, mut content: &[u8]) -> rustix::io::Result<()> {
    while !content.is_empty() {
        match rustix::io::write(file, content) {
            Ok(count) => content = content.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// What the filesystem has no more of, that `path` is on, or would be.
fn room(path: &Path) -> Option<(&'static str, &'static str)> {
    let left: Option<StatVfs> = path
        .ancestors()
        .find_map(|path| rustix::fs::statvfs(path).ok());
    left.map(|left| state::lacking(&left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_crius_log_tells() {
        let line = |said: &str| format!("(00.020) Error (criu/bfd.c:1): {said}\n");
        for (said, lack) in [
            (
                "bfd: Error flushing image: No space left on device",
                Some(Lack::Room),
            ),
            ("bfd: Error flushing image: No space le", None),
            ("Can't write: Disk quota exceeded", Some(Lack::Room)),
            ("Can't write: File too large", Some(Lack::FileSize)),
            (
                "Unable to open x.img: Read-only file system",
                Some(Lack::Writing),
            ),
            ("Can't open: Too many open files", Some(Lack::Files)),
            ("Can't retrieve FDs from socket", Some(Lack::Files)),
            (
                "Can't fork: Resource temporarily unavailable",
                Some(Lack::Processes),
            ),
            ("mmap: Cannot allocate memory", Some(Lack::Memory)),
            ("Can not set flock: Resource temporarily unavailable", None),
            ("Can't open: No such file or directory", None),
        ] {
            let log = line(said) + &line("Dumping FAILED.");
            assert_eq!(Lack::of_log(log.as_bytes()), lack, "{said}");
        }
        let tar = "tar: child process: Cannot fork: Resource temporarily unavailable\n".to_owned()
            + &line("Can't dump tmpfs content");
        assert_eq!(Lack::of_log(tar.as_bytes()), Some(Lack::Processes));
        let harmless = "(0) Warn  (a.c:1): No space left on device\n";
        assert_eq!(Lack::of_log(harmless.as_bytes()), None);
        // What does not end it does not count, as does not what came of something else.
        let own = line("rlimit: Can't setup RLIMIT_NOFILE for self: Too many open files");
        assert_eq!(Lack::of_log(own.as_bytes()), None);
        let both = line("x: No space left on device") + &line("y: Too many open files");
        assert_eq!(Lack::of_log(both.as_bytes()), Some(Lack::Files));
    }

    #[test]
    fn what_a_restore_lacks_has_a_remedy() {
        let nowhere = Path::new("/no/such/place");
        let hints = |said: &str| {
            let log = format!("(00.020) Error (criu/x.c:1): {said}\n");
            let error = explain_restore(Error::new("x"), log.as_bytes(), nowhere, nowhere);
            error.hints()
        };
        for (said, remedy) in [
            ("Can't write: No space left on device", "size= allows"),
            (
                "Can't open: Read-only file system",
                "read-only that was not",
            ),
            ("Can't fork: Resource temporarily unavailable", "ulimit -u"),
            ("mmap: Cannot allocate memory", "memory.max"),
        ] {
            let hints = hints(said).unwrap_or_default();
            assert!(hints.contains(remedy), "{said}: {hints}");
        }
        assert_eq!(hints("Can't open: No such file or directory"), None);
    }

    #[test]
    fn each_lack_has_a_remedy() {
        let here = Path::new("/");
        for errno in [
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EFBIG,
            libc::EROFS,
            libc::EMFILE,
            libc::ENFILE,
            libc::EAGAIN,
            libc::ENOMEM,
        ] {
            let lack = Lack::of_errno(errno).unwrap();
            let error = lack.explain(Error::new("x"), here);
            assert!(error.hints().is_some(), "{errno}");
        }
        assert_eq!(Lack::of_errno(libc::EPERM), None);
    }
}
