//! A program to be checkpointed: it sets up what its arguments name, and tells what it has of it whenever it is asked.
//!
//! `patient WORD…` keeps one thing for each word (see [`feature`]). At SIGUSR1 it looks at all of them without changing them; at
//! SIGUSR2 it uses them up as well: reads what is queued, reaps who has ended, and so on. What it finds it writes as lines
//! `NAME VALUE` to `$ANSWERS/answer`, at first unasked; `asked` counts the answers. It ends by panicking where a call fails. Built
//! static, so that it runs on any root filesystem.
#![expect(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a program of its own, not part of lodger: it opens what it likes, and ends by panicking"
)]

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Makes a call of libc's that answers -1 where it fails.
macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: every pointer among the arguments is to something that outlives the call and is as large as it says.
        let value = unsafe { libc::$name($($argument),*) };
        $crate::checked(stringify!($name), value)
    }};
}

mod attributes;
mod files;
mod gone;
mod memory;
mod processes;
mod signals;
mod sockets;

/// How long something may take that is to happen by itself: only against a hang.
const LIMIT: Duration = Duration::from_secs(20);

/// What is told: one value for each name.
#[derive(Debug, Default)]
struct Answer(BTreeMap<String, String>);

impl Answer {
    fn put(&mut self, name: impl Into<String>, value: impl Display) {
        let value = value.to_string().replace('\n', ";");
        let before = self.0.insert(name.into(), value);
        assert!(before.is_none(), "told twice: {before:?}");
    }
}

/// Something that a checkpoint must keep.
trait Feature {
    /// Tells what there is of it.
    fn look(&self, answer: &mut Answer);
    /// Uses it up, and tells what came of it.
    fn consume(&mut self, answer: &mut Answer);
}

fn feature(word: &str) -> Box<dyn Feature> {
    match word {
        "shared" => Box::new(memory::Shared::new()),
        "memfd" => Box::new(memory::Memfd::new()),
        "sysv" => Box::new(memory::SysV::new()),
        "large" => Box::new(memory::Large::new()),
        "written" => Box::new(memory::Written::new()),
        "mapped" => Box::new(memory::Mapped::new()),
        "unlinked" => Box::new(files::Unlinked::new()),
        "place" => Box::new(files::Place::new()),
        "events" => Box::new(files::Events::new()),
        "watch" => Box::new(files::Watch::new()),
        "lock" => Box::new(files::Lock::new()),
        "unix" => Box::new(sockets::Unix::new()),
        "pipes" => Box::new(sockets::Pipes::new()),
        "pty" => Box::new(sockets::Pty::new()),
        "listen" => Box::new(sockets::Listen::new()),
        "tcp" => Box::new(sockets::Tcp::new()),
        "udp" => Box::new(sockets::Udp::new()),
        "signals" => Box::new(signals::Signals::new()),
        "marks" => Box::new(signals::Marks::new()),
        "threads" => Box::new(processes::Threads::new()),
        "tree" => Box::new(processes::Tree::new()),
        "zombie" => Box::new(processes::Zombie::new()),
        "stopped" => Box::new(processes::Stopped::new()),
        "filter" => Box::new(signals::Filter::new()),
        "deleted" => Box::new(memory::Deleted::new()),
        "twins" => Box::new(gone::Twins::new()),
        "gone" => Box::new(gone::Open::new()),
        "linked" => Box::new(gone::Linked::new()),
        "watches" => Box::new(gone::Watches::new()),
        other => match other.strip_prefix("attributes=") {
            Some(names) => Box::new(attributes::Attributes::new(names)),
            None => panic!("no such feature: {other}"),
        },
    }
}

fn main() {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    // Whoever forks must not have other threads, and inherits what is kept of signals.
    words.sort_by_key(|word| match word.as_str() {
        "threads" => 2,
        "filter" => 1,
        word if word.starts_with("attributes=") => 1,
        _ => 0,
    });
    let requests = signals::set(&[libc::SIGUSR1, libc::SIGUSR2]);
    call!(sigprocmask(
        libc::SIG_BLOCK,
        &raw const requests,
        std::ptr::null_mut()
    ));
    let mut features: Vec<_> = words.iter().map(|word| feature(word)).collect();
    let mut random = [0_u8; 8];
    call!(getrandom(random.as_mut_ptr().cast(), random.len(), 0));
    let itself = Itself {
        nonce: u64::from_ne_bytes(random),
        count: 0,
        asked: 0,
    };
    serve(itself, &mut features, &requests);
}

/// What is told of the process whatever it was asked for.
struct Itself {
    /// Tells one that goes on from one that was started anew.
    nonce: u64,
    /// Goes up by itself.
    count: u64,
    asked: u64,
}

fn serve(mut itself: Itself, features: &mut [Box<dyn Feature>], requests: &libc::sigset_t) {
    itself.answer(features, false);
    let tick = libc::timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    loop {
        // SAFETY: both are there for as long as the call takes, and nothing is asked of the third.
        let signal = unsafe { libc::sigtimedwait(requests, std::ptr::null_mut(), &raw const tick) };
        match signal {
            libc::SIGUSR1 => itself.answer(features, false),
            libc::SIGUSR2 => itself.answer(features, true),
            // The time is over, or another signal came.
            _ => itself.count += 1,
        }
    }
}

impl Itself {
    fn answer(&mut self, features: &mut [Box<dyn Feature>], consume: bool) {
        self.asked += 1;
        let mut answer = Answer::default();
        answer.put("nonce", self.nonce);
        answer.put("count", self.count);
        answer.put("asked", self.asked);
        processes::tell(&mut answer);
        files::tell(&mut answer);
        signals::tell(&mut answer);
        for feature in features {
            feature.look(&mut answer);
            if consume {
                feature.consume(&mut answer);
            }
        }
        let directory = PathBuf::from(std::env::var_os("ANSWERS").unwrap_or_else(|| "/".into()));
        let lines: Vec<String> = answer
            .0
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"))
            .collect();
        fs::write(directory.join("answer.new"), lines.concat()).unwrap();
        fs::rename(directory.join("answer.new"), directory.join("answer")).unwrap();
    }
}

/// Asserts that a call did not fail.
#[track_caller]
fn checked<T: PartialEq + From<i8>>(name: &str, value: T) -> T {
    let failed = value == T::from(-1);
    assert!(!failed, "{name}: {}", std::io::Error::last_os_error());
    value
}

/// What a call writes that fills a structure.
#[track_caller]
fn filled<T>(name: &str, call: impl FnOnce(*mut T) -> i32) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    checked(name, call(value.as_mut_ptr()));
    // SAFETY: all zero is a value of these structures of C, and the call has filled it.
    unsafe { value.assume_init() }
}

/// Words that children share, all of them 0.
fn shared_words() -> &'static [AtomicU64; 512] {
    // SAFETY: a new mapping, as large as the array, which is never unmapped.
    unsafe { &*memory::map(4096, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1).cast() }
}

/// Counts for ever, slowly.
fn count_on(counter: &AtomicU64) -> ! {
    loop {
        counter.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether somebody counts on.
fn moves(counter: &AtomicU64) -> &'static str {
    let before = counter.load(Ordering::Relaxed);
    let moved = comes(|| counter.load(Ordering::Relaxed) > before);
    if moved { "goes on" } else { "stands still" }
}

/// Waits until something is so.
fn comes(condition: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !condition() {
        if begin.elapsed() > LIMIT {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Runs `work` in a child; returns its pid.
fn child(work: impl FnOnce()) -> i32 {
    let pid = call!(fork());
    if pid == 0 {
        work();
        // SAFETY: ends the process, nothing else.
        unsafe { libc::_exit(0) }
    }
    pid
}
