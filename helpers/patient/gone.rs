//! Files that are in no directory, and mapped all the same; and a file with two names of which one is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::AtomicU64;

use crate::memory::map;
use crate::{Answer, Feature, child, count_on, moves};

const PAGE: usize = 4096;

/// What is mapped at `address`.
fn text(address: *mut u8, length: usize) -> String {
    // SAFETY: every mapping here is larger, and nobody writes to it meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(address, length) };
    String::from_utf8_lossy(bytes).into_owned()
}

fn write(address: *mut u8, bytes: &[u8]) {
    // SAFETY: every mapping here is larger.
    unsafe { address.copy_from(bytes.as_ptr(), bytes.len()) };
}

fn memfd(content: &[u8]) -> File {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let fd = call!(memfd_create(c"twin".as_ptr(), flags));
    // SAFETY: it was just made, and nobody else has it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(3 * 4096).unwrap();
    for page in 0..3 {
        file.write_all_at(content, page * 4096).unwrap();
    }
    file
}

/// Two files in memory of the same name: one that is open, and mapped both ways; and one that is mapped privately, and that only a
/// child has open, which has the first one mapped, too.
pub(crate) struct Twins {
    first: File,
    shared: *mut u8,
    private: *mut u8,
    /// Of the second.
    other: *mut u8,
}

impl Twins {
    pub(crate) fn new() -> Self {
        let (first, second) = (memfd(b"first"), memfd(b"second"));
        let shared = map(3 * PAGE, libc::MAP_SHARED, first.as_raw_fd());
        let private = map(3 * PAGE, libc::MAP_PRIVATE, first.as_raw_fd());
        let other = map(3 * PAGE, libc::MAP_PRIVATE, second.as_raw_fd());
        write(private.wrapping_add(PAGE), b"own");
        write(other.wrapping_add(PAGE), b"own");
        call!(fcntl(
            first.as_raw_fd(),
            libc::F_ADD_SEALS,
            libc::F_SEAL_SHRINK | libc::F_SEAL_GROW
        ));
        let twins = Self {
            first,
            shared,
            private,
            other,
        };
        child(|| count_on(twins.counter()));
        drop(second);
        twins
    }

    /// In the last page of the first.
    fn counter(&self) -> &'static AtomicU64 {
        // SAFETY: the mapping has three pages, and is never unmapped.
        unsafe { &*self.shared.wrapping_add(2 * PAGE + 64).cast() }
    }
}

impl Feature for Twins {
    fn look(&self, answer: &mut Answer) {
        for (name, address) in [
            ("shared", self.shared),
            ("private", self.private),
            ("other", self.other),
        ] {
            let (clean, written) = (text(address, 6), text(address.wrapping_add(PAGE), 6));
            answer.put(format!("twins.{name}"), format!("{clean:?} {written:?}"));
        }
        let fd = self.first.as_raw_fd();
        answer.put("twins.seals", call!(fcntl(fd, libc::F_GET_SEALS)));
        answer.put("twins.length", self.first.metadata().unwrap().len());
    }

    fn consume(&mut self, answer: &mut Answer) {
        self.first.write_all_at(b"FIRST", 0).unwrap();
        answer.put("used.twins.shared", text(self.shared, 5));
        answer.put("used.twins.private", text(self.private, 5));
        write(self.shared.wrapping_add(PAGE), b"MAPPED");
        let mut read = [0_u8; 6];
        self.first.read_exact_at(&mut read, 4096).unwrap();
        answer.put("used.twins.read", String::from_utf8_lossy(&read));
        answer.put("used.twins.other", text(self.other, 6));
        answer.put("used.twins.child", moves(self.counter()));
    }
}

/// A file in no directory that is open, and mapped both ways.
pub(crate) struct Open {
    file: File,
    shared: *mut u8,
    private: *mut u8,
}

impl Open {
    pub(crate) fn new() -> Self {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open("/gone")
            .unwrap();
        file.write_all(&[b'.'; 2 * PAGE]).unwrap();
        let shared = map(2 * PAGE, libc::MAP_SHARED, file.as_raw_fd());
        let private = map(2 * PAGE, libc::MAP_PRIVATE, file.as_raw_fd());
        write(shared, b"shared");
        write(private.wrapping_add(PAGE), b"private");
        fs::remove_file("/gone").unwrap();
        Self {
            file,
            shared,
            private,
        }
    }
}

impl Feature for Open {
    fn look(&self, answer: &mut Answer) {
        answer.put("gone.shared", text(self.shared, 8));
        answer.put("gone.private", text(self.private, 8));
        answer.put("gone.written", text(self.private.wrapping_add(PAGE), 8));
        answer.put("gone.links", self.file.metadata().unwrap().nlink());
        answer.put("gone.name", fs::exists("/gone").unwrap());
    }

    fn consume(&mut self, answer: &mut Answer) {
        write(self.shared, b"SHARED");
        let mut read = [0_u8; 8];
        self.file.read_exact_at(&mut read, 0).unwrap();
        answer.put("used.gone.read", String::from_utf8_lossy(&read));
    }
}

/// A file that was opened by one of its two names, which is gone.
pub(crate) struct Linked(File);

impl Linked {
    pub(crate) fn new() -> Self {
        fs::write("/kept", "by its other name").unwrap();
        fs::hard_link("/kept", "/linked").unwrap();
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).open("/linked").unwrap();
        file.seek(SeekFrom::Start(3)).unwrap();
        fs::remove_file("/linked").unwrap();
        Self(file)
    }
}

impl Feature for Linked {
    fn look(&self, answer: &mut Answer) {
        answer.put("linked.links", self.0.metadata().unwrap().nlink());
        let mut names: Vec<_> = fs::read_dir("/")
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_string_lossy().contains("link"))
            .collect();
        names.sort();
        answer.put("linked.names", format!("{names:?}"));
    }

    fn consume(&mut self, answer: &mut Answer) {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        answer.put("used.linked.rest", rest);
        self.0.write_all_at(b"BY", 0).unwrap();
        let text = fs::read_to_string("/kept").unwrap();
        answer.put("used.linked.kept", text);
    }
}

/// A watch on a file, and one on a directory deep below.
pub(crate) struct Watches(File);

impl Watches {
    pub(crate) fn new() -> Self {
        fs::create_dir_all("/watches/a/b/c").unwrap();
        fs::write("/watches/a/file", "").unwrap();
        let fd = call!(inotify_init1(libc::IN_NONBLOCK));
        call!(inotify_add_watch(
            fd,
            c"/watches/a/file".as_ptr(),
            libc::IN_MODIFY
        ));
        call!(inotify_add_watch(
            fd,
            c"/watches/a/b/c".as_ptr(),
            libc::IN_CREATE
        ));
        // SAFETY: it was just made, and nobody else has it.
        Self(unsafe { File::from_raw_fd(fd) })
    }

    /// The number of the watch that an event is of.
    fn event(&mut self) -> i32 {
        let mut event = [0_u8; 512];
        let _length = self.0.read(&mut event).unwrap();
        i32::from_ne_bytes([event[0], event[1], event[2], event[3]])
    }
}

impl Feature for Watches {
    fn look(&self, answer: &mut Answer) {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let info = fs::read_to_string(path).unwrap();
        let watches = info.lines().filter(|line| line.starts_with("inotify"));
        let mut masks: Vec<String> = watches
            .map(|line| {
                let words = line
                    .split(' ')
                    .filter(|word| word.starts_with("wd:") || word.starts_with("mask:"));
                words.collect::<Vec<_>>().join(" ")
            })
            .collect();
        masks.sort();
        answer.put("watches.masks", format!("{masks:?}"));
    }

    fn consume(&mut self, answer: &mut Answer) {
        fs::write("/watches/a/b/c/new", "").unwrap();
        answer.put("used.watches.directory", self.event());
        let file = OpenOptions::new().append(true).open("/watches/a/file");
        file.unwrap().write_all(b"x").unwrap();
        answer.put("used.watches.file", self.event());
    }
}
