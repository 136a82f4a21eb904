//! Open files, where the process is, and the descriptors that tell of events.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::{Answer, Feature, comes, filled, signals};

/// The open descriptors, and what kind of thing each is.
pub(crate) fn tell(answer: &mut Answer) {
    let mut told = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let Ok(target) = fs::read_link(entry.as_ref().unwrap().path()) else {
            continue;
        };
        let target = target.to_str().unwrap().to_string();
        let number: u32 = entry
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        // The standard streams are the caller's, and one is the directory itself.
        if number < 3 || target.ends_with("/fd") {
            continue;
        }
        // Inode numbers are new each time.
        let kind = target.split(":[").next().unwrap().to_string();
        told.push((number, kind));
    }
    told.sort();
    answer.put("descriptors", format!("{told:?}"));
    answer.put("cwd", std::env::current_dir().unwrap().display());
}

fn descriptor(fd: i32) -> OwnedFd {
    // SAFETY: it was just made, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A file that is open, and has no name any more.
pub(crate) struct Unlinked(File);

impl Unlinked {
    pub(crate) fn new() -> Self {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open("/unlinked")
            .unwrap();
        file.write_all(b"without a name").unwrap();
        file.seek(SeekFrom::Start(8)).unwrap();
        fs::remove_file("/unlinked").unwrap();
        Self(file)
    }
}

impl Feature for Unlinked {
    fn look(&self, answer: &mut Answer) {
        let fd = self.0.as_raw_fd();
        let mut text = [0_u8; 14];
        call!(pread(fd, text.as_mut_ptr().cast(), text.len(), 0));
        answer.put("unlinked.text", String::from_utf8_lossy(&text));
        answer.put("unlinked.position", call!(lseek(fd, 0, libc::SEEK_CUR)));
        let status: libc::stat = filled("fstat", |to| {
            // SAFETY: it is what fstat fills.
            unsafe { libc::fstat(fd, to) }
        });
        answer.put("unlinked.links", status.st_nlink);
        answer.put("unlinked.name", fs::exists("/unlinked").unwrap());
    }

    fn consume(&mut self, answer: &mut Answer) {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        self.0.write_all(b" at all").unwrap();
        answer.put("used.unlinked.rest", rest);
        answer.put("used.unlinked.length", self.0.metadata().unwrap().len());
    }
}

/// A working directory, a mask, limits, and files opened in several ways.
pub(crate) struct Place {
    appended: File,
    directory: File,
    read: File,
}

impl Place {
    pub(crate) fn new() -> Self {
        fs::create_dir_all("/place/below").unwrap();
        fs::write("/place/read", "0123456789").unwrap();
        std::env::set_current_dir("/place/below").unwrap();
        // SAFETY: nothing can be wrong about it.
        unsafe { libc::umask(0o027) };
        for (resource, soft, hard) in [
            (libc::RLIMIT_NOFILE, 200, 300),
            (libc::RLIMIT_CORE, 0, 0),
            (libc::RLIMIT_STACK, 4 << 20, 5 << 20),
        ] {
            let limit = libc::rlimit {
                rlim_cur: soft,
                rlim_max: hard,
            };
            call!(setrlimit(resource, &raw const limit));
        }
        let mut appended = OpenOptions::new()
            .append(true)
            .create(true)
            .open("/place/appended")
            .unwrap();
        appended.write_all(b"one ").unwrap();
        let mut read = File::open("/place/read").unwrap();
        read.seek(SeekFrom::Start(3)).unwrap();
        call!(fcntl(read.as_raw_fd(), libc::F_SETFD, 0));
        Self {
            appended,
            directory: File::open("/place").unwrap(),
            read,
        }
    }
}

impl Feature for Place {
    fn look(&self, answer: &mut Answer) {
        for (name, file) in [
            ("appended", &self.appended),
            ("directory", &self.directory),
            ("read", &self.read),
        ] {
            let fd = file.as_raw_fd();
            answer.put(
                format!("place.{name}"),
                format!(
                    "{:#o} {} {}",
                    call!(fcntl(fd, libc::F_GETFL)),
                    call!(fcntl(fd, libc::F_GETFD)),
                    call!(lseek(fd, 0, libc::SEEK_CUR))
                ),
            );
        }
        answer.put(
            "place.limits",
            fs::read_to_string("/proc/self/limits").unwrap(),
        );
    }

    fn consume(&mut self, answer: &mut Answer) {
        self.appended.write_all(b"two").unwrap();
        let text = fs::read_to_string("../appended").unwrap();
        answer.put("used.place.appended", text);
        let mut rest = String::new();
        self.read.read_to_string(&mut rest).unwrap();
        answer.put("used.place.read", rest);
    }
}

/// An event counter, a timer, a descriptor of signals, and one that waits for the first.
pub(crate) struct Events {
    event: OwnedFd,
    timer: OwnedFd,
    signals: OwnedFd,
    poll: OwnedFd,
}

const EVENT: u64 = 0xfeed;

impl Events {
    pub(crate) fn new() -> Self {
        let event = descriptor(call!(eventfd(7, libc::EFD_NONBLOCK)));
        let timer = descriptor(call!(timerfd_create(libc::CLOCK_MONOTONIC, 0)));
        // SAFETY: all zero is a value of it.
        let mut setting: libc::itimerspec = unsafe { std::mem::zeroed() };
        setting.it_value.tv_sec = 3600;
        setting.it_interval.tv_sec = 17;
        call!(timerfd_settime(
            timer.as_raw_fd(),
            0,
            &raw const setting,
            std::ptr::null_mut()
        ));
        let set = signals::set(&[libc::SIGUSR2]);
        let signals = descriptor(call!(signalfd(-1, &raw const set, libc::SFD_NONBLOCK)));
        let poll = descriptor(call!(epoll_create1(0)));
        let mut wanted = libc::epoll_event {
            events: u32::try_from(libc::EPOLLIN).unwrap(),
            u64: EVENT,
        };
        call!(epoll_ctl(
            poll.as_raw_fd(),
            libc::EPOLL_CTL_ADD,
            event.as_raw_fd(),
            &raw mut wanted
        ));
        Self {
            event,
            timer,
            signals,
            poll,
        }
    }

    /// What the last descriptor has to tell: how many events, and of what.
    fn polled(&self) -> String {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        let count = call!(epoll_wait(self.poll.as_raw_fd(), events.as_mut_ptr(), 4, 0));
        let data = events[0].u64;
        format!("{count} {data:#x}")
    }
}

impl Feature for Events {
    fn look(&self, answer: &mut Answer) {
        let info = |fd: &OwnedFd| {
            let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
            fs::read_to_string(path).unwrap()
        };
        let line = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.unwrap_or_default().to_string()
        };
        answer.put("events.count", line(&info(&self.event), "eventfd-count"));
        answer.put("events.signals", line(&info(&self.signals), "sigmask"));
        let timer: libc::itimerspec = filled("timerfd_gettime", |to| {
            // SAFETY: it is what the call fills.
            unsafe { libc::timerfd_gettime(self.timer.as_raw_fd(), to) }
        });
        answer.put(
            "events.timer",
            format!(
                "runs {} every {}",
                (1..=3600).contains(&timer.it_value.tv_sec),
                timer.it_interval.tv_sec
            ),
        );
        answer.put("events.poll", self.polled());
    }

    fn consume(&mut self, answer: &mut Answer) {
        let mut count = 0_u64;
        call!(read(self.event.as_raw_fd(), (&raw mut count).cast(), 8));
        answer.put("used.events.count", count);
        answer.put("used.events.poll", self.polled());
    }
}

/// A watch on a directory.
pub(crate) struct Watch(File);

impl Watch {
    pub(crate) fn new() -> Self {
        fs::create_dir_all("/watched").unwrap();
        let fd = call!(inotify_init1(libc::IN_NONBLOCK));
        call!(inotify_add_watch(fd, c"/watched".as_ptr(), libc::IN_CREATE));
        // SAFETY: it was just made, and nobody else has it.
        Self(unsafe { File::from_raw_fd(fd) })
    }
}

impl Feature for Watch {
    fn look(&self, answer: &mut Answer) {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = fs::read_to_string(path).unwrap();
        let watches = text.lines().filter(|line| line.starts_with("inotify"));
        answer.put("watch.count", watches.count());
    }

    fn consume(&mut self, answer: &mut Answer) {
        fs::write("/watched/new", "").unwrap();
        let mut event = [0_u8; 512];
        let length = self.0.read(&mut event).unwrap();
        // What follows the numbers is the name.
        let name = String::from_utf8_lossy(&event[16..length]);
        answer.put("used.watch.name", name.trim_end_matches('\0'));
    }
}

/// A lock on a file.
pub(crate) struct Lock(#[expect(dead_code, reason = "it is held")] File);

impl Lock {
    pub(crate) fn new() -> Self {
        let file = File::create("/locked").unwrap();
        file.lock().unwrap();
        Self(file)
    }
}

impl Feature for Lock {
    fn look(&self, answer: &mut Answer) {
        let other = File::open("/locked").unwrap();
        answer.put("lock.held", other.try_lock().is_err());
    }

    fn consume(&mut self, answer: &mut Answer) {
        let held = comes(|| File::open("/locked").unwrap().try_lock().is_err());
        answer.put("used.lock.held", held);
    }
}
