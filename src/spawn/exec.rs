//! Another process in a running container.
//!
//! The caller owns the outer user namespace and so has every capability over the container's: one setns(2) by pidfd
//! joins everything, from the initial namespace, without entering the outer one first.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::line::{self, Order, Phase, RuntimeEnd};
use super::{Heard, Outlets, Problem, end, order, wait_for};
use crate::cgroup::Entrance;
use crate::error::{Doing, Error, Result};
use crate::init::Manner;
use crate::plan::{Note, Process};
use crate::seccomp::Agent;
use crate::state::{ContainerState, Record, Status, once_visible};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::process::{Child, Cloned};

/// A process that is to join a container.
#[derive(Debug)]
pub struct Joining<'a> {
    /// The container.
    pub record: &'a Record,
    /// The process.
    pub process: &'a Process,
    /// How it is made.
    pub manner: Manner,
    /// What the caller gets of it.
    pub outlets: Outlets,
    /// The container's id.
    pub id: &'a str,
    /// Whether every adaptation is an error (`--strict`).
    pub strict: bool,
    /// The way into the container's cgroup, if it has one.
    pub entrance: Option<Entrance>,
}

/// A process that has joined.
#[derive(Debug)]
pub struct Member {
    /// It.
    pub child: Child,
    /// What was adapted.
    pub notes: Vec<Note>,
    /// The first end of its terminal, if it has one and nobody else got it.
    pub console: Option<OwnedFd>,
}

/// Starts a process in a container. Afterwards this process is in the container's namespaces itself, but for the pid
/// namespace, which only its children are in.
///
/// `agent` is who gets the listener of its filter.
pub fn exec(joining: &Joining<'_>, agent: Option<Agent>) -> Result<Member> {
    let Joining {
        record, process, ..
    } = joining;
    let stopped = || Error::new("cannot exec in a stopped container");
    let pidfd = record.process.open(&record.boot_id)?.ok_or_else(stopped)?;
    // Whatever the kernel says of one that ended meanwhile.
    let unless_stopped = |error| match sys::process::wait_ended(&pidfd, 0) {
        Ok(true) => stopped(),
        _ => error,
    };
    let lent = process.oom_score_adj.map(OomScore::lend).transpose()?;
    let initial = process.attributes.cpu_affinity.as_ref();
    if let Some(cpus) = initial.and_then(|affinity| affinity.initial.as_ref()) {
        crate::init::restrict_cpus(cpus, "/process/execCPUAffinity/initial")?;
    }
    // The host's, while it is at /proc.
    let proc = crate::init::open_proc(&process.attributes)?;
    // From here on the container's processes must not look into this one (CVE-2016-9962).
    sys::cred::set_dumpable(!is_on(Defence::NotDumpable))
        .doing(|| "cannot become undumpable".to_owned())?;
    let join = || sys::ns::join_process(pidfd.as_fd(), record.namespaces);
    once_visible(record.process.pid, &pidfd, join)
        .doing(|| "cannot join the container's namespaces".to_owned())
        .map_err(|e| {
            e.hint(
                "the container must belong to you; after `su` or `sudo` it may be another user's",
            )
        })
        .map_err(unless_stopped)?;
    if !is_on(Defence::NotDumpable) {
        // The change of namespace has cleared it by itself.
        sys::cred::set_dumpable(true).doing(|| "cannot become dumpable".to_owned())?;
    }
    let (runtime, line) = line::pair().doing(|| "cannot make a line to the process".to_owned())?;
    let cloned = sys::process::clone(0).doing(|| "cannot make a process".to_owned());
    let child = match cloned.map_err(unless_stopped)? {
        Cloned::Parent(child) => {
            drop(line);
            lent.iter().for_each(OomScore::give_back);
            child
        }
        Cloned::Child => {
            drop(runtime);
            let own = record.user_namespace.as_ref();
            let maps = own.map(|own| (own.uid_map.as_slice(), own.gid_map.as_slice()));
            crate::init::join(process, &joining.manner, maps, line, proc)
        }
    };
    let mut heard = Heard {
        agent,
        ..Heard::default()
    };
    match talk_through(joining, &child, &runtime, &mut heard) {
        Ok(()) => Ok(Member {
            child,
            notes: heard.notes,
            console: heard.console,
        }),
        Err(problem) => Err(problem.explain(end(&child).map(|exit| exit.to_string()))),
    }
}

/// The oom_score_adj that a child gets through this process, before anything of the container is in reach.
struct OomScore {
    /// This process's file, opened while it is its own to write to.
    file: OwnedFd,
    /// What was in it.
    own: Vec<u8>,
}

impl OomScore {
    const PATH: &str = "/proc/self/oom_score_adj";

    fn lend(score: i32) -> Result<Self> {
        let path = Path::new(Self::PATH);
        let what = || "cannot look at this process's oom_score_adj".to_owned();
        let own = sys::path::read_regular(path, 64).doing(what)?;
        let file = sys::path::open_existing(path).doing(what)?;
        crate::init::write_oom_score(score)?;
        Ok(Self { file, own })
    }

    /// The runtime stays behind, and is no more to be killed than before.
    fn give_back(&self) {
        let _courtesy = sys::path::write_once(&self.file, &self.own, Path::new(Self::PATH));
    }
}

fn talk_through(
    joining: &Joining<'_>,
    child: &Child,
    line: &RuntimeEnd,
    heard: &mut Heard,
) -> std::result::Result<(), Problem> {
    // Before its program is there, and has children.
    if let Some(entrance) = &joining.entrance {
        entrance.admit(child.pid)?;
    }
    order(line, Order::Go)?;
    wait_for(Phase::SettingUp, line, heard)?;
    if joining.strict {
        Note::refuse(&heard.notes)?;
    }
    joining.outlets.hand_over_console(heard)?;
    if let Some(agent) = &mut heard.agent {
        let state = ContainerState::of(joining.id, joining.record, Status::Running);
        agent.introduce(child.pid, &state)?;
    }
    let exec = Order::Exec {
        die_with_runtime: false,
    };
    order(line, exec)?;
    wait_for(Phase::Starting, line, heard)?;
    Ok(joining.outlets.tell(child, "setns")?)
}
