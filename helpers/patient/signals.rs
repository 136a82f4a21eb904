//! Signals and timers, and what else is kept of a process: names, marks, filters.

use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::{Answer, Feature, filled};

/// A set of signals.
pub(crate) fn set(signals: &[i32]) -> libc::sigset_t {
    let mut set: libc::sigset_t = filled("sigemptyset", |to| {
        // SAFETY: it is what the call fills.
        unsafe { libc::sigemptyset(to) }
    });
    for signal in signals {
        call!(sigaddset(&raw mut set, *signal));
    }
    set
}

/// What status(5) of the process has that is to stay the same.
pub(crate) fn tell(answer: &mut Answer) {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    for line in text.lines() {
        let (name, value) = line.split_once(':').unwrap();
        let kept = [
            "Name",
            "Umask",
            "Uid",
            "Gid",
            "Groups",
            "NSpid",
            "NSpgid",
            "NSsid",
            "SigPnd",
            "ShdPnd",
            "SigBlk",
            "SigIgn",
            "SigCgt",
            "NoNewPrivs",
            "Seccomp",
            "Threads",
        ];
        if kept.contains(&name) || name.starts_with("Cap") || name == "Seccomp_filters" {
            let words: Vec<&str> = value.split_whitespace().collect();
            let value = match name {
                "ShdPnd" => without_requests(words[0]),
                _ => words.join(" "),
            };
            answer.put(format!("status.{name}"), value);
        }
    }
    let arguments: Vec<String> = std::env::args().collect();
    answer.put("arguments", format!("{arguments:?}"));
    let mut variables: Vec<_> = std::env::vars().collect();
    variables.sort();
    answer.put("environment", format!("{variables:?}"));
}

/// A set of waiting signals, in hexadecimal digits, without the requests: the next one may have come already.
fn without_requests(waiting: &str) -> String {
    let bit = |signal: i32| 1_u64 << (signal - 1);
    let requests = bit(libc::SIGUSR1) | bit(libc::SIGUSR2);
    let waiting = u64::from_str_radix(waiting, 16).unwrap();
    format!("{:016x}", waiting & !requests)
}

static HANDLED: AtomicU64 = AtomicU64::new(0);
static STACK: AtomicUsize = AtomicUsize::new(0);

const STACK_SIZE: usize = 64 * 1024;

extern "C" fn handler(_signal: i32) {
    let here = 0_u8;
    let address = (&raw const here).addr();
    let stack = STACK.load(Ordering::Relaxed);
    // Only on the stack that is for it.
    if (stack..stack + STACK_SIZE).contains(&address) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
}

/// A handler on a stack of its own, signals that wait, and timers.
pub(crate) struct Signals {
    timer: libc::timer_t,
}

impl Signals {
    pub(crate) fn new() -> Self {
        let stack = crate::memory::map(STACK_SIZE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        STACK.store(stack.addr(), Ordering::Relaxed);
        let alternate = libc::stack_t {
            ss_sp: stack.cast(),
            ss_flags: 0,
            ss_size: STACK_SIZE,
        };
        call!(sigaltstack(&raw const alternate, std::ptr::null_mut()));
        let function: extern "C" fn(i32) = handler;
        let action = libc::sigaction {
            sa_sigaction: function as libc::sighandler_t,
            sa_mask: set(&[libc::SIGINT]),
            sa_flags: libc::SA_ONSTACK | libc::SA_RESTART,
            sa_restorer: None,
        };
        call!(sigaction(
            libc::SIGHUP,
            &raw const action,
            std::ptr::null_mut()
        ));
        // Two that wait: one of the process, one with a value.
        let blocked = set(&[libc::SIGWINCH, libc::SIGRTMIN() + 3]);
        call!(sigprocmask(
            libc::SIG_BLOCK,
            &raw const blocked,
            std::ptr::null_mut()
        ));
        // SAFETY: nothing can be wrong about it.
        let own = unsafe { libc::getpid() };
        call!(kill(own, libc::SIGWINCH));
        for value in [41, 42] {
            let value = libc::sigval {
                sival_ptr: std::ptr::without_provenance_mut(value),
            };
            call!(sigqueue(own, libc::SIGRTMIN() + 3, value));
        }
        // SAFETY: all zero is a value of it.
        let mut real: libc::itimerval = unsafe { std::mem::zeroed() };
        real.it_value.tv_sec = 3600;
        call!(setitimer(
            libc::ITIMER_REAL,
            &raw const real,
            std::ptr::null_mut()
        ));
        Self {
            timer: posix_timer(),
        }
    }
}

fn posix_timer() -> libc::timer_t {
    // SAFETY: all zero is a value of it.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGRTMIN() + 4;
    let timer: libc::timer_t = filled("timer_create", |to| {
        // SAFETY: both are what the call expects.
        unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, to) }
    });
    // SAFETY: all zero is a value of it.
    let mut setting: libc::itimerspec = unsafe { std::mem::zeroed() };
    setting.it_value.tv_sec = 3600;
    setting.it_interval.tv_sec = 19;
    call!(timer_settime(
        timer,
        0,
        &raw const setting,
        std::ptr::null_mut()
    ));
    timer
}

impl Feature for Signals {
    fn look(&self, answer: &mut Answer) {
        answer.put("signals.handled", HANDLED.load(Ordering::Relaxed));
        let stack: libc::stack_t = filled("sigaltstack", |to| {
            // SAFETY: it is what the call fills.
            unsafe { libc::sigaltstack(std::ptr::null(), to) }
        });
        answer.put(
            "signals.stack",
            format!("{:#x} {}", stack.ss_sp.addr(), stack.ss_size),
        );
        let action: libc::sigaction = filled("sigaction", |to| {
            // SAFETY: it is what the call fills.
            unsafe { libc::sigaction(libc::SIGHUP, std::ptr::null(), to) }
        });
        answer.put("signals.action", format!("{:#x}", action.sa_flags));
        let real: libc::itimerval = filled("getitimer", |to| {
            // SAFETY: it is what the call fills.
            unsafe { libc::getitimer(libc::ITIMER_REAL, to) }
        });
        answer.put("signals.real", (1..=3600).contains(&real.it_value.tv_sec));
        let setting: libc::itimerspec = filled("timer_gettime", |to| {
            // SAFETY: it is what the call fills.
            unsafe { libc::timer_gettime(self.timer, to) }
        });
        answer.put(
            "signals.timer",
            format!(
                "runs {} every {}",
                (1..=3600).contains(&setting.it_value.tv_sec),
                setting.it_interval.tv_sec
            ),
        );
    }

    fn consume(&mut self, answer: &mut Answer) {
        call!(raise(libc::SIGHUP));
        answer.put("used.signals.handled", HANDLED.load(Ordering::Relaxed));
        let waiting = set(&[libc::SIGWINCH, libc::SIGRTMIN() + 3]);
        let mut taken = Vec::new();
        for _ in 0..3 {
            let mut info: libc::siginfo_t = filled("none", |_| 0);
            let signal = call!(sigwaitinfo(&raw const waiting, &raw mut info));
            // SAFETY: only one that was queued has a value.
            let value = unsafe { info.si_value() };
            let value = if signal == libc::SIGWINCH {
                0
            } else {
                value.sival_ptr.addr()
            };
            taken.push((signal, value));
        }
        answer.put("used.signals.taken", format!("{taken:?}"));
    }
}

/// A name, a score for the end of memory, a niceness, and a disposition of a child's.
pub(crate) struct Marks;

impl Marks {
    pub(crate) fn new() -> Self {
        call!(prctl(libc::PR_SET_NAME, c"marked".as_ptr(), 0, 0, 0));
        fs::write("/proc/self/oom_score_adj", "500").unwrap();
        call!(setpriority(libc::PRIO_PROCESS, 0, 5));
        call!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
        Self
    }
}

impl Feature for Marks {
    fn look(&self, answer: &mut Answer) {
        answer.put(
            "marks.score",
            fs::read_to_string("/proc/self/oom_score_adj")
                .unwrap()
                .trim(),
        );
        answer.put("marks.nice", call!(getpriority(libc::PRIO_PROCESS, 0)));
        answer.put("marks.dumpable", call!(prctl(libc::PR_GET_DUMPABLE)));
        let reaper: i32 = filled("prctl", |to| {
            // SAFETY: it is the number that the call writes.
            unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, to) }
        });
        answer.put("marks.reaper", reaper);
    }

    fn consume(&mut self, _answer: &mut Answer) {}
}

/// A filter of system calls that the program adds itself, which cannot be dumped without privilege.
pub(crate) struct Filter;

impl Filter {
    pub(crate) fn new() -> Self {
        let mut allow = libc::sock_filter {
            code: u16::try_from(libc::BPF_RET).unwrap(),
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ALLOW,
        };
        let program = libc::sock_fprog {
            len: 1,
            filter: &raw mut allow,
        };
        call!(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        call!(prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program
        ));
        Self
    }
}

impl Feature for Filter {
    fn look(&self, _answer: &mut Answer) {}

    fn consume(&mut self, _answer: &mut Answer) {}
}
