//! What the kernel keeps for each thread, and CRIU does not save: it is read before the images are committed, and given back while
//! the restored processes stand still.
//!
//! Only what differs from what the kernel gives to a process is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::checkpoint::inspect::{Process, Task};
use crate::plan::NumberSet;
use crate::sys;
use crate::sys::sched::{IOPRIO_CLASS_SHIFT, Share};

/// The kernel's timer slack, in nanoseconds (PR_SET_TIMERSLACK(2const)).
const USUAL_SLACK: u64 = 50_000;

/// What of its memory the kernel writes when a process dumps core (core(5)).
const USUAL_CORE_FILTER: u32 = 0x33;

/// IOPRIO_CLASS_IDLE, the last one.
const LAST_IO_CLASS: u32 = 3;

/// The lower and the upper end of what a thread may be taken to use of a CPU, where nobody has said.
const USUAL_CLAMP: [u32; 2] = [0, 1024];

/// SCHED_OTHER, SCHED_BATCH and SCHED_IDLE (sched(7)): threads that share a CPU.
const FAIR: [u32; 3] = [0, 3, 5];

/// How many threads are given something back.
const MOST: usize = 1 << 16;

/// The longest list of CPUs, in bytes.
const LONGEST_LIST: usize = 1024;

/// The most that is read of a file.
const LIMIT: usize = 16 << 10;

/// What of personality(2) can be given back: PER_LINUX32 and ADDR_NO_RANDOMIZE. CRIU has it too, and could not work with others.
const PERSONALITIES: u32 = 0x0004_0008;

/// The attributes of a container's processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The execution domain of all (personality(2)).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub personality: u32,
    /// Those of single threads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskAttributes>,
}

/// Those of a thread; `None`: as of any other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskAttributes {
    /// Its number in the container.
    pub tid: i32,
    /// The CPUs that it may run on (sched_setaffinity(2)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<NumberSet>,
    /// Class and level, as ioprio_set(2) takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<u32>,
    /// In nanoseconds (PR_SET_TIMERSLACK(2const)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer_slack: Option<u64>,
    /// For how long it runs in one piece, in nanoseconds (`sched_runtime` of sched_setattr(2)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<u64>,
    /// The lower and the upper end of the utilisation clamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<[u32; 2]>,
    /// Of a process's first thread: which mappings are in its core dumps (/proc/PID/coredump_filter, core(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_filter: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Attributes {
    /// Whether there is nothing to give back.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What in it cannot have come from a checkpoint.
    pub fn fault(&self) -> Option<String> {
        if !is_restorable(self.personality) {
            return Some(format!("{:#x} is no personality", self.personality));
        }
        if self.tasks.len() > MOST {
            return Some(format!("it has attributes of more than {MOST} threads"));
        }
        let mut seen = BTreeSet::new();
        let mut tasks = self.tasks.iter();
        tasks.find_map(|task| {
            let why = match seen.insert(task.tid) && task.tid > 0 {
                true => task.fault()?,
                false => "is there twice, or none",
            };
            Some(format!("thread {} {why}", task.tid))
        })
    }
}

impl TaskAttributes {
    fn fault(&self) -> Option<&'static str> {
        let is_long = |cpus: &NumberSet| cpus.to_string().len() > LONGEST_LIST;
        let is_class = |value: u32| (1..=LAST_IO_CLASS).contains(&(value >> IOPRIO_CLASS_SHIFT));
        if self.cpus.as_ref().is_some_and(is_long) {
            return Some("has more CPUs than can be listed");
        }
        (!self.io_priority.is_none_or(is_class)).then_some("has an I/O priority of no class")
    }

    fn is_empty(&self) -> bool {
        *self
            == Self {
                tid: self.tid,
                ..Self::default()
            }
    }
}

/// Whether processes can be given this execution domain.
fn is_restorable(personality: u32) -> bool {
    personality & !PERSONALITIES == 0
}

/// Those of `processes`, which stand still. What cannot be read is left out: its thread has ended.
pub fn of(processes: &[Process]) -> Attributes {
    let own = sys::sched::share_of(0).unwrap_or_default();
    let living = || processes.iter().filter(|process| !process.has_ended());
    let mut tasks = Vec::new();
    // Most are in one control group.
    let mut usual: BTreeMap<Option<String>, Option<NumberSet>> = BTreeMap::new();
    for process in living() {
        let groups = text(&format!("/proc/{}/cgroup", process.pid));
        let usual = usual
            .entry(groups)
            .or_insert_with_key(|groups| usual_cpus(groups.as_deref()?));
        for task in &process.tasks {
            let found = of_task(process.pid, task, (usual.as_ref(), own));
            if !found.is_empty() && tasks.len() < MOST {
                tasks.push(found);
            }
        }
    }
    Attributes {
        personality: common_personality(processes),
        tasks,
    }
}

fn of_task(pid: i32, task: &Task, (usual, own): (Option<&NumberSet>, Share)) -> TaskAttributes {
    let tid = task.tid;
    let cpus = sys::sched::cpus_of(tid).ok();
    let cpus = cpus.and_then(|may| NumberSet::of((0..NumberSet::LIMIT).filter(|cpu| may(*cpu))));
    let share = sys::sched::share_of(tid).unwrap_or(own);
    let is_fair = FAIR.contains(&share.policy);
    let slack = number(&format!("/proc/{tid}/timerslack_ns"), 10);
    let filter = (tid == pid).then(|| format!("/proc/{pid}/coredump_filter"));
    let filter = filter.and_then(|path| number(&path, 16));
    TaskAttributes {
        tid: task.inside,
        cpus: cpus.filter(|cpus| {
            usual.is_some_and(|usual| usual != cpus) && cpus.to_string().len() <= LONGEST_LIST
        }),
        io_priority: sys::sched::io_priority_of(tid).ok().filter(is_io_priority),
        // 0 is that of one of real-time scheduling, which has none.
        timer_slack: slack.filter(|slack| ![0, USUAL_SLACK].contains(slack)),
        slice: Some(share.slice).filter(|slice| is_fair && *slice != own.slice),
        clamp: Some(share.clamp).filter(|clamp| is_fair && ![[0, 0], USUAL_CLAMP].contains(clamp)),
        core_filter: filter
            .and_then(|filter| u32::try_from(filter).ok())
            .filter(|filter| *filter != USUAL_CORE_FILTER),
    }
}

/// Whether somebody has set it: of no class it comes from the nice value.
fn is_io_priority(value: &u32) -> bool {
    (1..=LAST_IO_CLASS).contains(&(value >> IOPRIO_CLASS_SHIFT))
}

/// The execution domain that all `processes` have and can be given back; 0 where there is none.
pub fn common_personality(processes: &[Process]) -> u32 {
    let living = processes.iter().filter(|process| !process.has_ended());
    let domains: BTreeSet<u32> = living
        .map(|process| personality(process.pid).unwrap_or(0))
        .collect();
    match domains.first() {
        Some(domain) if domains.len() == 1 && is_restorable(*domain) => *domain,
        _ => 0,
    }
}

/// The execution domain of a process.
pub fn personality(pid: i32) -> Option<u32> {
    number(&format!("/proc/{pid}/personality"), 16).and_then(|domain| u32::try_from(domain).ok())
}

/// The CPUs of a process in these control groups (/proc/PID/cgroup, cgroups(7)) that nobody has restricted: those of the cpuset(7), or
/// all there are.
fn usual_cpus(groups: &str) -> Option<NumberSet> {
    let places = cpusets(groups);
    let mut lists = places.iter().filter_map(|place| text(place));
    let list = lists
        .next()
        .or_else(|| text("/sys/devices/system/cpu/online"))?;
    let set = NumberSet::parse(list.trim()).ok()?;
    NumberSet::of(set.numbers())
}

/// Where the CPUs of a process in these control groups may be listed: its own group, and those above.
fn cpusets(groups: &str) -> Vec<String> {
    const FORMS: [(&str, &str, &str); 2] = [
        (":cpuset:", "/sys/fs/cgroup/cpuset", "cpuset.effective_cpus"),
        ("0::", "/sys/fs/cgroup", "cpuset.cpus.effective"),
    ];
    let mut places = Vec::new();
    for (mark, mount, file) in FORMS {
        let mut lines = groups.lines();
        let group = lines.find_map(|line| match mark.starts_with(':') {
            true => line.split_once(mark).map(|(_, group)| group),
            false => line.strip_prefix(mark),
        });
        let Some(group) = group else { continue };
        let above = Path::new(group).ancestors().filter_map(Path::to_str);
        places.extend(above.map(|group| format!("{mount}{}/{file}", group.trim_end_matches('/'))));
    }
    places
}

fn text(path: &str) -> Option<String> {
    let text = sys::path::read_regular(Path::new(path), LIMIT).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn number(path: &str, radix: u32) -> Option<u64> {
    u64::from_str_radix(text(path)?.trim(), radix).ok()
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "what is set is a thread's, which ends"
)]
mod tests {
    use super::*;

    fn tasks(tasks: &[TaskAttributes]) -> Attributes {
        Attributes {
            personality: 0,
            tasks: tasks.to_vec(),
        }
    }

    #[test]
    fn what_is_damaged_is_told() {
        let task = |tid| TaskAttributes {
            tid,
            ..TaskAttributes::default()
        };
        let mut good = task(1);
        good.cpus = Some(NumberSet::parse("0-3,8191").unwrap());
        good.io_priority = Some(2 << IOPRIO_CLASS_SHIFT | 7);
        assert_eq!(tasks(&[good.clone(), task(2)]).fault(), None);
        for tid in [0, -1, 1] {
            assert!(tasks(&[good.clone(), task(tid)]).fault().is_some(), "{tid}");
        }
        for class in [0, 4, u32::MAX >> IOPRIO_CLASS_SHIFT] {
            let mut bad = task(1);
            bad.io_priority = Some(class << IOPRIO_CLASS_SHIFT);
            assert!(tasks(&[bad]).fault().is_some(), "{class}");
        }
        let mut long = task(1);
        long.cpus = Some(NumberSet::parse(&["0"; 1000].join(",")).unwrap());
        assert!(tasks(&[long]).fault().is_some());
        let many: Vec<_> = (1..).take(MOST + 1).map(task).collect();
        assert!(tasks(&many).fault().is_some());
        assert_eq!(tasks(&many[1..]).fault(), None);
        for (personality, is_good) in [
            (0, true),
            (8, true),
            (0x0004_0008, true),
            (0x0040_0000, false),
        ] {
            let attributes = Attributes {
                personality,
                ..Attributes::default()
            };
            assert_eq!(attributes.fault().is_none(), is_good, "{personality:#x}");
        }
    }

    #[test]
    fn only_what_there_is_is_written() {
        let mut task = TaskAttributes {
            tid: 7,
            ..TaskAttributes::default()
        };
        assert!(task.is_empty());
        assert_eq!(serde_json::to_string(&task).unwrap(), r#"{"tid":7}"#);
        task.cpus = Some(NumberSet::parse("1,3-5").unwrap());
        assert!(!task.is_empty());
        let text = serde_json::to_string(&tasks(&[task.clone()])).unwrap();
        assert_eq!(text, r#"{"tasks":[{"tid":7,"cpus":"1,3-5"}]}"#);
        let again: Attributes = serde_json::from_str(&text).unwrap();
        assert_eq!(again, tasks(&[task]));
        let beyond = text.replace("3-5", "3-8192");
        assert!(serde_json::from_str::<Attributes>(&beyond).is_err());
    }

    #[test]
    fn cpusets_from_the_nearest_on() {
        let places = cpusets("1:name=systemd:/x\n0::/a/b\n");
        assert_eq!(
            places,
            [
                "/sys/fs/cgroup/a/b/cpuset.cpus.effective",
                "/sys/fs/cgroup/a/cpuset.cpus.effective",
                "/sys/fs/cgroup/cpuset.cpus.effective",
            ]
        );
        let places = cpusets("4:cpuset:/\n0::/\n");
        assert_eq!(
            places,
            [
                "/sys/fs/cgroup/cpuset/cpuset.effective_cpus",
                "/sys/fs/cgroup/cpuset.cpus.effective",
            ]
        );
        assert!(cpusets("").is_empty());
    }

    #[test]
    fn what_a_thread_of_this_process_has_set_is_found() {
        let found = std::thread::spawn(|| {
            let may = sys::sched::cpus_of(0).unwrap();
            let one = (0..NumberSet::LIMIT).find(|cpu| may(*cpu)).unwrap();
            sys::sched::set_cpus_of(0, std::iter::once(one)).unwrap();
            sys::sched::set_io_priority_of(0, 3 << IOPRIO_CLASS_SHIFT).unwrap();
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            let task = Task {
                tid,
                inside: 7,
                tracer: 0,
                mode: 0,
                filters: None,
            };
            let more = NumberSet::parse("0-8191").unwrap();
            let own = sys::sched::share_of(0).unwrap();
            let found = of_task(tid, &task, (Some(&more), own));
            let same = of_task(tid, &task, (found.cpus.as_ref(), own));
            (found, same, one)
        });
        let (found, same, one) = found.join().unwrap();
        assert_eq!(found.tid, 7);
        assert_eq!(found.cpus.unwrap().to_string(), one.to_string());
        assert_eq!(found.io_priority, Some(3 << IOPRIO_CLASS_SHIFT));
        assert_eq!((found.slice, found.clamp), (None, None));
        assert_eq!(same.cpus, None);
    }
}
