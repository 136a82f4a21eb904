//! How the kernel runs threads, and what it lets them do.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Answer, Feature, child, comes, filled};

static IS_SET: AtomicBool = AtomicBool::new(false);

/// Words of a mask of 8192 CPUs.
const CPU_WORDS: usize = 128;

const IOPRIO_WHO_PROCESS: i32 = 1;
const PR_GET_MDWE: i32 = 66;
const PR_SET_MEMORY_MERGE: i32 = 67;
const PR_GET_MEMORY_MERGE: i32 = 68;

/// `struct sched_attr` of linux/sched/types.h.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Threads with attributes of their own: `attributes=NAME,…` sets these for the first thread, `attributes=NAME,…:NAME,…` those behind
/// the colon for a second one, and what follows another colon for a child.
pub(crate) struct Attributes;

impl Attributes {
    pub(crate) fn new(names: &str) -> Self {
        let mut parts = names.split(':');
        let first = parts.next().unwrap_or_default();
        let second = parts.next().unwrap_or_default().to_owned();
        if let Some(third) = parts.next() {
            // It says that it has them by closing its end.
            let (mut ready, told) = std::io::pipe().unwrap();
            let number = ready.as_raw_fd();
            child(move || {
                call!(close(number));
                set(third);
                drop(told);
                loop {
                    // SAFETY: waits for a signal, nothing else.
                    unsafe { libc::pause() };
                }
            });
            assert_eq!(ready.read(&mut [0]).unwrap(), 0);
        }
        if !second.is_empty() {
            let work = move || {
                set(&second);
                IS_SET.store(true, Ordering::Relaxed);
                loop {
                    std::thread::park();
                }
            };
            let thread = std::thread::Builder::new().name("second".into());
            thread.spawn(work).unwrap();
            assert!(comes(|| IS_SET.load(Ordering::Relaxed)));
        }
        set(first);
        Self
    }
}

fn set(names: &str) {
    for name in names.split(',').filter(|name| !name.is_empty()) {
        set_one(name);
    }
}

fn set_one(name: &str) {
    let prctl = |option: i32, value: libc::c_ulong, more: libc::c_ulong| {
        call!(prctl(option, value, more, 0, 0));
    };
    let policy = |policy: i32| {
        let none = libc::sched_param { sched_priority: 0 };
        call!(sched_setscheduler(0, policy, &raw const none));
    };
    match name {
        "first-cpu" | "last-cpu" => {
            let mask = cpus(0);
            let used = |word: &u64| *word != 0;
            let one = match name {
                "first-cpu" => mask
                    .iter()
                    .position(used)
                    .map(|n| (n, mask[n] & mask[n].wrapping_neg())),
                _ => mask
                    .iter()
                    .rposition(used)
                    .map(|n| (n, 1 << mask[n].ilog2())),
            };
            let (n, bit) = one.unwrap();
            let mut mask = [0; CPU_WORDS];
            mask[n] = bit;
            call!(sched_setaffinity(0, 8 * CPU_WORDS, mask.as_ptr().cast()));
        }
        "best-effort" => io_priority(2 << 13 | 6),
        "idle-io" => io_priority(3 << 13),
        "slack" => prctl(libc::PR_SET_TIMERSLACK, 123_456, 0),
        "little-slack" => prctl(libc::PR_SET_TIMERSLACK, 7, 0),
        "personality" => {
            call!(personality(0x0004_0000));
        }
        "batch" => policy(libc::SCHED_BATCH),
        "idle" => policy(libc::SCHED_IDLE),
        "reset" => policy(libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK),
        "slice" => {
            let mut attr = sched(0);
            attr.runtime = 2_000_000;
            call!(syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0));
        }
        "nice" => {
            call!(setpriority(libc::PRIO_PROCESS, 0, 7));
        }
        "memory" => {
            let nodes = [1_u64];
            // MPOL_BIND
            call!(syscall(libc::SYS_set_mempolicy, 2, nodes.as_ptr(), 64));
        }
        "huge" => prctl(libc::PR_SET_THP_DISABLE, 1, 0),
        "merge" => prctl(PR_SET_MEMORY_MERGE, 1, 0),
        "core" => fs::write("/proc/self/coredump_filter", "0x1\n").unwrap(),
        "group" => fs::write("/proc/self/autogroup", "5\n").unwrap(),
        "user" => {
            call!(setresgid(1000, 1000, 1000));
            call!(setresuid(1000, 1000, 1000));
        }
        other => panic!("no such attribute: {other}"),
    }
}

fn io_priority(value: i32) {
    call!(syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value));
}

fn sched(tid: i32) -> SchedAttr {
    let mut attr = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    call!(syscall(
        libc::SYS_sched_getattr,
        tid,
        &raw mut attr,
        size,
        0
    ));
    attr
}

/// The CPUs that a thread may run on.
fn cpus(tid: i32) -> [u64; CPU_WORDS] {
    let mut mask = [0; CPU_WORDS];
    call!(sched_getaffinity(
        tid,
        8 * CPU_WORDS,
        mask.as_mut_ptr().cast()
    ));
    mask
}

fn numbers(path: &str) -> Vec<i32> {
    let names = fs::read_dir(path).unwrap();
    let mut numbers: Vec<i32> = names
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// What there is of a thread, by its number.
fn of(tid: i32) -> String {
    let mask = cpus(tid).map(|word| format!("{word:x}")).join(",");
    let mask = mask.trim_end_matches(",0");
    let io = call!(syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid));
    let SchedAttr {
        policy,
        flags,
        nice,
        runtime,
        ..
    } = sched(tid);
    format!("cpus={mask} io={io:x} policy={policy} flags={flags:x} nice={nice} slice={runtime}")
}

impl Feature for Attributes {
    fn look(&self, answer: &mut Answer) {
        for pid in numbers("/proc") {
            for tid in numbers(&format!("/proc/{pid}/task")) {
                answer.put(format!("attributes.{tid}"), of(tid));
            }
        }
        let flag = |option| {
            // SAFETY: these take nothing but plain integers.
            unsafe { libc::prctl(option, 0, 0, 0, 0) }
        };
        for (name, option) in [
            ("slack", libc::PR_GET_TIMERSLACK),
            ("huge", libc::PR_GET_THP_DISABLE),
            ("mce", libc::PR_MCE_KILL_GET),
            ("mdwe", PR_GET_MDWE),
            ("merge", PR_GET_MEMORY_MERGE),
            ("dumpable", libc::PR_GET_DUMPABLE),
            ("securebits", libc::PR_GET_SECUREBITS),
            ("nnp", libc::PR_GET_NO_NEW_PRIVS),
            ("speculation", libc::PR_GET_SPECULATION_CTRL),
        ] {
            answer.put(format!("attribute.{name}"), flag(option));
        }
        let tsc: i32 = filled("prctl", |to| {
            // SAFETY: it is the number that the call writes.
            unsafe { libc::prctl(libc::PR_GET_TSC, to) }
        });
        answer.put("attribute.tsc", tsc);
        let death: i32 = filled("prctl", |to| {
            // SAFETY: it is the number that the call writes.
            unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, to) }
        });
        answer.put("attribute.death", death);
        answer.put(
            "attribute.personality",
            call!(personality(0xffff_ffff as libc::c_ulong)),
        );
        let mode: i32 = filled("get_mempolicy", |to| {
            // SAFETY: the kernel writes the mode, and nothing else is asked for.
            let answer = unsafe { libc::syscall(libc::SYS_get_mempolicy, to, 0, 0, 0, 0) };
            i32::try_from(answer).unwrap()
        });
        answer.put("attribute.memory", mode);
        for name in ["coredump_filter", "autogroup", "timerslack_ns"] {
            let text = fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
            // An autogroup has a number before its nice value.
            let text = text.trim().rsplit(' ').next().unwrap_or_default();
            answer.put(format!("attribute.{name}"), text);
        }
        let status = fs::read_to_string("/proc/self/status").unwrap();
        for name in [
            "CapAmb",
            "Speculation_Store_Bypass",
            "SpeculationIndirectBranch",
        ] {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            answer.put(format!("attribute.{name}"), line.unwrap_or_default());
        }
    }

    fn consume(&mut self, _answer: &mut Answer) {}
}
