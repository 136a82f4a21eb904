//! Threads and children, and who there is.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Answer, Feature, child, comes, count_on, moves, shared_words, signals};

/// What stat(5) of a process has: its name, whether it runs, is stopped or has ended (`T`, `Z`; else `R`), its parent, process
/// group and session.
fn stat(pid: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = text.rsplit_once(')')?;
    let (_, name) = name.split_once('(')?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let state = if ["T", "Z"].contains(&words[0]) {
        words[0]
    } else {
        "R"
    };
    Some(format!(
        "{name} {state} {} {} {}",
        words[1], words[2], words[3]
    ))
}

/// Everybody in the container, and the threads of this process.
pub(crate) fn tell(answer: &mut Answer) {
    let numbers = |path: &str| {
        let mut numbers: Vec<u32> = fs::read_dir(path)
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    for pid in numbers("/proc") {
        if let Some(stat) = stat(&pid.to_string()) {
            answer.put(format!("process.{pid}"), stat);
        }
    }
    for thread in numbers("/proc/self/task") {
        let text = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
        let line = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_string()
        };
        answer.put(
            format!("thread.{thread}"),
            format!("{} {}", line("Name:"), line("SigBlk:")),
        );
    }
}

/// Threads of different names that block different signals.
pub(crate) struct Threads(Vec<Arc<AtomicU64>>);

impl Threads {
    pub(crate) fn new() -> Self {
        let start = |(name, signal): (&str, i32)| {
            let counter = Arc::new(AtomicU64::new(0));
            let own = Arc::clone(&counter);
            let work = move || {
                let blocked = signals::set(&[signal]);
                call!(pthread_sigmask(
                    libc::SIG_BLOCK,
                    &raw const blocked,
                    std::ptr::null_mut()
                ));
                count_on(&own)
            };
            let thread = std::thread::Builder::new().name(name.into());
            thread.spawn(work).unwrap();
            // Until then its name and its mask are not what they will be.
            assert!(comes(|| counter.load(Ordering::Relaxed) > 0));
            counter
        };
        let threads = [
            ("first", libc::SIGQUIT),
            ("second", libc::SIGALRM),
            ("third", libc::SIGIO),
        ];
        Self(threads.into_iter().map(start).collect())
    }
}

impl Feature for Threads {
    fn look(&self, answer: &mut Answer) {
        answer.put("threads.count", self.0.len());
    }

    fn consume(&mut self, answer: &mut Answer) {
        for (n, counter) in self.0.iter().enumerate() {
            answer.put(format!("used.threads.{n}"), moves(counter));
        }
    }
}

/// A child in a session of its own, whose child is in a process group of its own, and has a child too: each counts.
pub(crate) struct Tree(&'static [AtomicU64; 512]);

impl Tree {
    pub(crate) fn new() -> Self {
        let words = shared_words();
        child(|| {
            call!(setsid());
            child(|| {
                call!(setpgid(0, 0));
                child(|| count_on(&words[2]));
                count_on(&words[1])
            });
            count_on(&words[0])
        });
        assert!(comes(|| words[..3]
            .iter()
            .all(|word| word.load(Ordering::Relaxed) > 0)));
        Self(words)
    }
}

impl Feature for Tree {
    fn look(&self, answer: &mut Answer) {
        answer.put("tree.depth", 3);
    }

    fn consume(&mut self, answer: &mut Answer) {
        for n in 0..3 {
            answer.put(format!("used.tree.{n}"), moves(&self.0[n]));
        }
    }
}

/// A child that has ended, and has not been waited for.
pub(crate) struct Zombie(i32);

impl Zombie {
    pub(crate) fn new() -> Self {
        let pid = child(|| {
            // SAFETY: ends the process, nothing else.
            unsafe { libc::_exit(23) }
        });
        let ended = || stat(&pid.to_string()).is_some_and(|stat| stat.contains(" Z "));
        assert!(comes(ended));
        Self(pid)
    }
}

impl Feature for Zombie {
    fn look(&self, answer: &mut Answer) {
        answer.put("zombie", stat(&self.0.to_string()).unwrap_or_default());
    }

    fn consume(&mut self, answer: &mut Answer) {
        let mut status = 0;
        call!(waitpid(self.0, &raw mut status, libc::WNOHANG));
        answer.put("used.zombie", libc::WEXITSTATUS(status));
    }
}

/// A child that is stopped.
pub(crate) struct Stopped {
    pid: i32,
    words: &'static [AtomicU64; 512],
}

impl Stopped {
    pub(crate) fn new() -> Self {
        let words = shared_words();
        let pid = child(|| count_on(&words[0]));
        call!(kill(pid, libc::SIGSTOP));
        let stopped = || stat(&pid.to_string()).is_some_and(|stat| stat.contains(" T "));
        assert!(comes(stopped));
        Self { pid, words }
    }
}

impl Feature for Stopped {
    fn look(&self, answer: &mut Answer) {
        answer.put("stopped", stat(&self.pid.to_string()).unwrap_or_default());
    }

    fn consume(&mut self, answer: &mut Answer) {
        call!(kill(self.pid, libc::SIGCONT));
        answer.put("used.stopped", moves(&self.words[0]));
    }
}
