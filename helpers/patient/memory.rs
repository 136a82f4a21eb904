//! Memory: shared with a child, with a file, with nobody; System V's; much of it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Answer, Feature, child, count_on, filled, moves, shared_words};

/// Maps this many bytes, to be read and written.
pub(crate) fn map(length: usize, flags: i32, fd: i32) -> *mut u8 {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place that the kernel chooses.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, fd, 0) };
    let failed = address == libc::MAP_FAILED;
    assert!(!failed, "mmap: {}", std::io::Error::last_os_error());
    address.cast()
}

/// Memory that is shared with a child, which counts in it.
pub(crate) struct Shared(&'static [AtomicU64; 512]);

impl Shared {
    pub(crate) fn new() -> Self {
        let words = shared_words();
        words[1].store(0x5eed, Ordering::Relaxed);
        child(|| count_on(&words[0]));
        Self(words)
    }
}

impl Feature for Shared {
    fn look(&self, answer: &mut Answer) {
        answer.put(
            "shared.word",
            format!("{:#x}", self.0[1].load(Ordering::Relaxed)),
        );
    }

    fn consume(&mut self, answer: &mut Answer) {
        answer.put("used.shared.child", moves(&self.0[0]));
    }
}

/// A file in memory, sealed and mapped.
pub(crate) struct Memfd {
    file: File,
    mapped: *mut u8,
}

const MEMFD: &[u8] = b"kept in memory";

impl Memfd {
    pub(crate) fn new() -> Self {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let fd = call!(memfd_create(c"patient".as_ptr(), flags));
        // SAFETY: it was just made, and nobody else has it.
        let mut file = unsafe { File::from_raw_fd(fd) };
        file.write_all(MEMFD).unwrap();
        let mapped = map(MEMFD.len(), libc::MAP_SHARED, fd);
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        call!(fcntl(fd, libc::F_ADD_SEALS, seals));
        Self { file, mapped }
    }
}

impl Feature for Memfd {
    fn look(&self, answer: &mut Answer) {
        let fd = self.file.as_raw_fd();
        // SAFETY: the mapping is as long, and nobody writes to it.
        let mapped = unsafe { std::slice::from_raw_parts(self.mapped, MEMFD.len()) };
        answer.put("memfd.mapped", String::from_utf8_lossy(mapped));
        answer.put("memfd.seals", call!(fcntl(fd, libc::F_GET_SEALS)));
        answer.put("memfd.position", call!(lseek(fd, 0, libc::SEEK_CUR)));
    }

    fn consume(&mut self, answer: &mut Answer) {
        self.file.rewind().unwrap();
        self.file.write_all(b"K").unwrap();
        // SAFETY: the mapping is not empty; the file has been written to, and is what is mapped.
        answer.put("used.memfd.first", unsafe { self.mapped.read_volatile() });
        let mut rest = String::new();
        self.file.read_to_string(&mut rest).unwrap();
        answer.put("used.memfd.rest", rest);
    }
}

/// A segment of shared memory, a semaphore and a queue of messages.
pub(crate) struct SysV {
    segment: i32,
    attached: *mut u8,
    semaphore: i32,
    queue: i32,
}

#[repr(C)]
struct Message {
    kind: libc::c_long,
    text: [u8; 8],
}

impl SysV {
    pub(crate) fn new() -> Self {
        let mode = libc::IPC_CREAT | 0o640;
        let segment = call!(shmget(0x1234, 8192, mode));
        // SAFETY: a new mapping at a place that the kernel chooses.
        let attached: *mut u8 = unsafe { libc::shmat(segment, std::ptr::null(), 0) }.cast();
        assert_ne!(attached.addr(), usize::MAX, "shmat");
        // SAFETY: the segment is larger.
        unsafe { attached.copy_from(b"segment".as_ptr(), 7) };
        let semaphore = call!(semget(0x1235, 2, mode));
        call!(semctl(semaphore, 1, libc::SETVAL, 5));
        let queue = call!(msgget(0x1236, mode));
        for (kind, text) in [(7, *b"message1"), (8, *b"message2")] {
            let message = Message { kind, text };
            call!(msgsnd(queue, (&raw const message).cast(), 8, 0));
        }
        Self {
            segment,
            attached,
            semaphore,
            queue,
        }
    }
}

impl Feature for SysV {
    fn look(&self, answer: &mut Answer) {
        // SAFETY: the segment is larger, and nobody writes to it.
        let text = unsafe { std::slice::from_raw_parts(self.attached, 7) };
        answer.put("sysv.segment", String::from_utf8_lossy(text));
        let status: libc::shmid_ds = filled("shmctl", |to| {
            // SAFETY: it is what IPC_STAT fills.
            unsafe { libc::shmctl(self.segment, libc::IPC_STAT, to) }
        });
        answer.put("sysv.segment.size", status.shm_segsz);
        answer.put(
            "sysv.segment.mode",
            format!("{:o}", status.shm_perm.mode & 0o777),
        );
        answer.put("sysv.ids", format!("{} {}", self.segment, self.queue));
        answer.put(
            "sysv.semaphore",
            call!(semctl(self.semaphore, 1, libc::GETVAL)),
        );
        let status: libc::msqid_ds = filled("msgctl", |to| {
            // SAFETY: it is what IPC_STAT fills.
            unsafe { libc::msgctl(self.queue, libc::IPC_STAT, to) }
        });
        answer.put("sysv.messages", status.msg_qnum);
    }

    fn consume(&mut self, answer: &mut Answer) {
        let mut down = libc::sembuf {
            sem_num: 1,
            sem_op: -5,
            sem_flg: 0,
        };
        call!(semop(self.semaphore, &raw mut down, 1));
        answer.put(
            "used.sysv.semaphore",
            call!(semctl(self.semaphore, 1, libc::GETVAL)),
        );
        let mut message = Message {
            kind: 0,
            text: [0; 8],
        };
        // The second of the two, by its type.
        call!(msgrcv(
            self.queue,
            (&raw mut message).cast(),
            8,
            8,
            libc::IPC_NOWAIT
        ));
        answer.put("used.sysv.message", String::from_utf8_lossy(&message.text));
    }
}

/// 200 MB, every word of which is known.
pub(crate) struct Large(Vec<u64>);

const WORDS: u64 = 200 * 1024 * 1024 / 8;

fn word(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

impl Large {
    pub(crate) fn new() -> Self {
        Self((0..WORDS).map(word).collect())
    }
}

impl Feature for Large {
    fn look(&self, answer: &mut Answer) {
        let right = self
            .0
            .iter()
            .zip(0..)
            .filter(|(found, n)| **found == word(*n));
        answer.put("large.right", right.count());
    }

    fn consume(&mut self, _answer: &mut Answer) {}
}

/// Memory, some pages of which are written whenever it is used: each has the number of the use that wrote it last.
pub(crate) struct Written {
    pages: Vec<[u64; PAGE]>,
    uses: u64,
}

/// Words of a page.
const PAGE: usize = 512;

/// 32 MiB.
const PAGES: usize = 8192;

/// The pages that a use writes: each third of some that lie together.
fn written_by(n: u64) -> impl Iterator<Item = usize> {
    let begin = usize::try_from(n).unwrap() * 200;
    (begin..begin + 900).step_by(3).map(|page| page % PAGES)
}

impl Written {
    pub(crate) fn new() -> Self {
        let pages = vec![[u64::MAX; PAGE]; PAGES];
        Self { pages, uses: 0 }
    }
}

impl Feature for Written {
    fn look(&self, answer: &mut Answer) {
        let mut expected = vec![u64::MAX; PAGES];
        for n in 0..self.uses {
            written_by(n).for_each(|page| expected[page] = n);
        }
        let wrong = self.pages.iter().zip(&expected);
        let wrong = wrong.filter(|(page, n)| page.iter().any(|word| word != *n));
        answer.put("written.uses", self.uses);
        answer.put("written.wrong", wrong.count());
    }

    fn consume(&mut self, answer: &mut Answer) {
        for page in written_by(self.uses) {
            self.pages[page] = [self.uses; PAGE];
        }
        self.uses += 1;
        answer.put("used.written", self.uses);
    }
}

/// A file that is mapped, once shared and once private.
pub(crate) struct Mapped {
    shared: *mut u8,
    private: *mut u8,
}

impl Mapped {
    pub(crate) fn new() -> Self {
        fs::write("/mapped", [b'.'; 4096]).unwrap();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/mapped")
            .unwrap();
        let of = |flags| map(4096, flags, file.as_raw_fd());
        let (shared, private) = (of(libc::MAP_SHARED), of(libc::MAP_PRIVATE));
        // SAFETY: the mappings are larger.
        unsafe { shared.copy_from(b"shared".as_ptr(), 6) };
        // SAFETY: as above.
        unsafe { private.wrapping_add(6).copy_from(b"private".as_ptr(), 7) };
        Self { shared, private }
    }
}

impl Feature for Mapped {
    fn look(&self, answer: &mut Answer) {
        for (name, address) in [
            ("mapped.shared", self.shared),
            ("mapped.private", self.private),
        ] {
            // SAFETY: the mapping is larger, and nobody writes to it meanwhile.
            let text = unsafe { std::slice::from_raw_parts(address, 14) };
            answer.put(name, String::from_utf8_lossy(text));
        }
        let file = fs::read("/mapped").unwrap();
        answer.put("mapped.file", String::from_utf8_lossy(&file[..14]));
    }

    fn consume(&mut self, answer: &mut Answer) {
        // SAFETY: the mapping is larger.
        unsafe { self.shared.copy_from(b"SHARED".as_ptr(), 6) };
        let file = fs::read("/mapped").unwrap();
        answer.put("used.mapped.file", String::from_utf8_lossy(&file[..14]));
    }
}

/// A file that is mapped and has no name any more, which cannot be dumped without privilege.
pub(crate) struct Deleted;

impl Deleted {
    pub(crate) fn new() -> Self {
        fs::write("/deleted", [b'.'; 4096]).unwrap();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/deleted")
            .unwrap();
        map(4096, libc::MAP_SHARED, file.as_raw_fd());
        fs::remove_file("/deleted").unwrap();
        Self
    }
}

impl Feature for Deleted {
    fn look(&self, _answer: &mut Answer) {}

    fn consume(&mut self, _answer: &mut Answer) {}
}
