//! The real thing: a thread that plays CRIU, under the filter, and a process that plays the container.
#![allow(
    clippy::disallowed_methods,
    reason = "the files and processes of tests"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags};

use super::*;
use crate::sys::segment::Segment;
use crate::sys::{memory, trace};

mod filters;

/// A process with a file mapped that is ours to exchange: its own program.
struct Container {
    directory: tempfile::TempDir,
    process: Child,
}

impl Container {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("a program");
        // By another process: what this one has open to write, another test's child would have too, and then nobody runs it.
        let copied = Command::new("/bin/cp")
            .arg("/bin/cat")
            .arg(&program)
            .status();
        assert!(copied.unwrap().success());
        let mut process = Command::new(&program);
        let process = process.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = process.spawn().unwrap();
        // When it answers, all is mapped.
        process.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let answer = process.stdout.as_mut().unwrap().read_exact(&mut [0]);
        answer.unwrap();
        Self { directory, process }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("a program")
    }

    fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Where in map_files the program is.
    fn map_file(&self) -> PathBuf {
        map_file(self.pid(), "/a program")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _it_may_be_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn map_file(pid: i32, name: &str) -> PathBuf {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.contains(name)).unwrap();
    let range = line.split(' ').next().unwrap();
    PathBuf::from(format!("/proc/{pid}/map_files/{range}"))
}

/// Those of the filters: of two, the second one is logged.
const FLAGS: [u64; 2] = [
    libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW | libc::SECCOMP_FILTER_FLAG_LOG,
];

/// What CRIU had, the complaint, and how many calls were answered.
struct Seen<T> {
    had: T,
    complaint: Option<String>,
    answers: u32,
}

/// Runs `criu` under the filter, in a thread of its own that traces the container, with a supervisor.
fn supervised<T: Send + 'static>(
    first: i32,
    filters: &[Vec<Instruction>],
    criu: impl FnOnce() -> T + Send + 'static,
) -> Seen<T> {
    supervised_aloud(first, filters, &AtomicU32::new(0), criu)
}

/// As [`supervised`], with the number of answered calls told all the time.
fn supervised_aloud<T: Send + 'static>(
    first: i32,
    filters: &[Vec<Instruction>],
    told: &AtomicU32,
    criu: impl FnOnce() -> T + Send + 'static,
) -> Seen<T> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        trace::seize(first).unwrap();
        sys::cred::set_no_new_privs().unwrap();
        sender.send(install().unwrap()).unwrap();
        criu()
    });
    let mut supervisor = Supervisor::new(receiver.recv().unwrap(), first, filters, &FLAGS).unwrap();
    let mut answers = 0;
    loop {
        rustix::event::poll(
            &mut [PollFd::from_borrowed_fd(supervisor.fd(), PollFlags::IN)],
            None,
        )
        .unwrap();
        match supervisor.answer_one().unwrap() {
            Answered::Some => {
                answers += 1;
                told.store(answers, Ordering::SeqCst);
            }
            Answered::Gone => break,
        }
    }
    Seen {
        had: thread.join().unwrap(),
        complaint: supervisor.complaint(),
        answers,
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

fn errno<T>(result: &std::io::Result<T>) -> Option<i32> {
    result.as_ref().err().and_then(std::io::Error::raw_os_error)
}

/// By newfstatat(2), as CRIU; the standard library uses statx(2).
fn stat(path: &Path) -> Option<i32> {
    rustix::fs::stat(path)
        .err()
        .map(rustix::io::Errno::raw_os_error)
}

#[test]
fn a_mapped_file_is_given_and_it_is_that_file() {
    let container = Container::new();
    let (link, pid) = (container.map_file(), container.pid());
    let inode = fs::metadata(container.file()).unwrap().ino();
    let seen = supervised(pid, &[], move || {
        let name = link.file_name().unwrap().to_owned();
        let by_path = open(&link).unwrap();
        let directory = open(link.parent().unwrap()).unwrap();
        let flags = rustix::fs::OFlags::PATH;
        let by_directory = rustix::fs::openat(&directory, name, flags, rustix::fs::Mode::empty());
        let process = open(Path::new(&format!("/proc/{pid}"))).unwrap();
        let beneath = Path::new("map_files").join(link.file_name().unwrap());
        let by_process = rustix::fs::openat(&process, &beneath, flags, rustix::fs::Mode::empty());
        let inherited = |fd: &OwnedFd| {
            !rustix::io::fcntl_getfd(fd)
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        };
        let mut start = [0; 4];
        (&by_path).read_exact(&mut start).unwrap();
        assert_eq!(&start, b"\x7fELF");
        // Close-on-exec as it was asked for: std asks for it.
        assert!(!inherited(&by_path.try_clone().unwrap().into()));
        assert!(
            inherited(by_directory.as_ref().unwrap()) && inherited(by_process.as_ref().unwrap())
        );
        [by_path.into(), by_directory.unwrap(), by_process.unwrap()]
            .map(|fd: OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino)
    });
    assert_eq!(seen.had, [inode; 3]);
    assert_eq!(seen.complaint, None);
}

/// The kernel says `NAME (deleted)` of a file that is gone: who puts another one there is believed, if by nothing but its name. The
/// file itself is given from where it is open: it is the process's program.
#[test]
fn what_has_taken_the_place_of_a_file_is_not_given() {
    type Put = fn(program: &Path, place: &Path);
    let put: [(&str, Put); 5] = [
        ("another file", |_, place| {
            fs::write(place, "secret").unwrap()
        }),
        ("a copy", |_, place| {
            fs::copy("/bin/cat", place).unwrap();
        }),
        ("a link to another file", |_, place| {
            std::os::unix::fs::symlink("/etc/passwd", place).unwrap();
        }),
        ("a FIFO", |_, place| {
            let parent = File::open(place.parent().unwrap()).unwrap();
            let made = sys::path::make_fifo(&parent, place.file_name().unwrap(), 0o600);
            assert!(made.unwrap());
        }),
        ("nothing", |program, place| {
            assert!(!program.exists() && !place.exists());
        }),
    ];
    for (what, put) in put {
        let container = Container::new();
        let (link, program) = (container.map_file(), container.file());
        let inode = fs::metadata(&program).unwrap().ino();
        fs::remove_file(&program).unwrap();
        put(&program, &program.with_file_name("a program (deleted)"));
        let seen = supervised(container.pid(), &[], move || {
            open(&link).map(|f| f.metadata().unwrap().ino()).ok()
        });
        assert_eq!((seen.had, seen.complaint), (Some(inode), None), "{what}");
    }
}

#[test]
fn a_link_to_the_same_file_is_followed() {
    let container = Container::new();
    let (link, file) = (container.map_file(), container.file());
    fs::rename(&file, file.with_extension("elsewhere")).unwrap();
    // The path that the kernel has is the new one.
    std::os::unix::fs::symlink("a program.elsewhere", &file).unwrap();
    let seen = supervised(container.pid(), &[], move || {
        open(&link).map(|f| f.metadata().unwrap().ino()).unwrap()
    });
    assert_eq!(seen.had, fs::metadata(&file).unwrap().ino());
}

#[test]
fn nothing_is_given_for_writing_nor_of_others() {
    let (container, other) = (Container::new(), Container::new());
    let (link, of_other) = (container.map_file(), other.map_file());
    // In the same namespaces, and the supervisor could: but CRIU does not trace it.
    let own = map_file(sys::process::own_pid(), "/lib");
    let seen = supervised(container.pid(), &[], move || {
        let write = fs::OpenOptions::new().read(true).write(true).open(&link);
        let truncate = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_TRUNC)
            .open(&link);
        [
            errno(&write),
            errno(&truncate),
            errno(&open(&of_other)),
            errno(&open(&own)),
        ]
    });
    assert_eq!(seen.had, [Some(libc::EPERM); 4]);
    assert_eq!(seen.complaint, None);
}

#[test]
fn where_nothing_is_mapped_there_is_no_file() {
    let container = Container::new();
    let pid = container.pid();
    let stack = map_file(pid, "[stack]");
    let seen = supervised(pid, &[], move || {
        let absent = PathBuf::from(format!("/proc/{pid}/map_files/1000-2000"));
        let own = PathBuf::from("/proc/self/map_files/1000-2000");
        [
            errno(&open(&stack)),
            errno(&open(&absent)),
            errno(&open(&own)),
            stat(&own),
        ]
    });
    assert_eq!(seen.had, [Some(libc::ENOENT); 4]);
}

#[test]
fn the_callers_own_files_are_none_of_its_business() {
    let container = Container::new();
    let seen = supervised(container.pid(), &[], || {
        let own = map_file(sys::process::own_pid(), "/lib");
        let own = Path::new("/proc/self/map_files").join(own.file_name().unwrap());
        [errno(&open(&own)), stat(&own)]
    });
    assert_eq!(seen.had, [Some(libc::EPERM); 2]);
}

#[test]
fn all_else_goes_on_to_the_kernel() {
    let container = Container::new();
    let seen = supervised(container.pid(), &[], || {
        for address in [0, 1, 4095, u64::MAX, 1 << 63] {
            let refused = trace::open_at_address(address).unwrap_err();
            assert!(refused.is(libc::EFAULT), "{address:#x}: {refused}");
        }
        // Longer than any that matters, and one that ends where the page does.
        let long = format!("/{}", "x".repeat(5000));
        assert_eq!(errno(&open(Path::new(&long))), Some(libc::ENAMETOOLONG));
        assert_eq!(
            errno(&open(Path::new("/proc/self/map_files/not-there"))),
            Some(libc::ENOENT)
        );
        assert_eq!(errno(&open(Path::new("1-2"))), Some(libc::ENOENT));
        fs::metadata("/bin/sleep").unwrap();
        fs::read("/bin/sleep").unwrap().len()
    });
    assert!(seen.had > 4);
    assert!(seen.answers >= 9, "{}", seen.answers);
}

#[test]
fn callers_may_be_killed_at_any_moment() {
    const CALLERS: u32 = 150;
    // Each makes as many calls, and some more.
    const CALLS: u32 = 40;
    let container = Container::new();
    let link = container.map_file();
    let answers = Arc::new(AtomicU32::new(0));
    let answered = Arc::clone(&answers);
    let seen = supervised_aloud(container.pid(), &[], &answers, move || {
        let mut killed = 0;
        for round in 0..CALLERS {
            let before = answered.load(Ordering::SeqCst);
            let mut caller = Command::new("/bin/cat");
            caller.args([&link; CALLS as usize]);
            let caller = caller.stdout(Stdio::null()).stderr(Stdio::null());
            let mut caller = caller.spawn().unwrap();
            // Later and later, by what it has done, and a little more.
            while answered.load(Ordering::SeqCst) - before < round % CALLS {
                std::thread::yield_now();
            }
            for _ in 0..round {
                let _syscall = fs::metadata("/");
            }
            caller.kill().unwrap();
            killed += u32::from(caller.wait().unwrap().code().is_none());
        }
        open(&link).map(|file| file.as_raw_fd()).unwrap();
        killed
    });
    assert!(seen.had > 0);
    assert!(seen.answers > CALLERS, "{}", seen.answers);
}

#[test]
fn of_a_segment_only_what_was_written_is_copied() {
    // Files may be smaller than 4 GiB where tests run.
    const SIZE: u64 = 3 << 30;
    const WRITTEN: [u64; 4] = [0, 4096, 1 << 30, SIZE - 1];
    let container = Container::new();
    let seen = supervised(container.pid(), &[], || {
        let segment = Segment::make(SIZE, &WRITTEN).unwrap();
        let start = segment.address();
        let name = format!("{start:x}-{:x}", start + SIZE);
        let path = Path::new("/proc/self/map_files").join(name);
        let stat = rustix::fs::stat(&path).unwrap();
        assert_eq!(stat.st_ino, u64::from(segment.id().unsigned_abs()));
        assert_eq!(stat.st_size.cast_unsigned(), SIZE);
        assert_eq!(stat.st_mode & libc::S_IFMT, libc::S_IFREG);
        let copy = open(&path).unwrap();
        let mut data = Vec::new();
        let mut at = 0;
        while let Ok(start) = rustix::fs::seek(&copy, rustix::fs::SeekFrom::Data(at)) {
            at = rustix::fs::seek(&copy, rustix::fs::SeekFrom::Hole(start)).unwrap();
            data.push((start, at - start));
        }
        let mut byte = [0];
        for offset in WRITTEN {
            assert_eq!(rustix::io::pread(&copy, &mut byte, offset).unwrap(), 1);
            assert_eq!(byte, [1]);
        }
        let left = super::segment::amount(segment.id()).unwrap();
        (data, copy.metadata().unwrap().len(), left)
    });
    let (data, length, left) = seen.had;
    let page = memory::proc_units().1;
    // What is huge is made at once (shmem_enabled); by default pages are small.
    assert_eq!(data.iter().map(|(_, length)| length).sum::<u64>(), left);
    assert!(left <= 4 * page.max(2 << 20), "{left}");
    assert_eq!(data[0].0, 0);
    assert_eq!(length, SIZE);
}
