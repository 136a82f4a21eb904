//! The parent's side: makes the container's process, talks it through its set-up, records it, and undoes everything
//! when something fails. Init reports, this side prints: one failure, one error.

use std::os::fd::{AsFd, OwnedFd};

use crate::bundle::Bundle;
use crate::cgroup;
use crate::checkpoint::saved::Saved;
use crate::error::{Doing, Error, Result};
use crate::host::Joinable;
use crate::init::{Init, Manner};
use crate::plan::{Hook, Namespace, Note, Outer, Plan, UserNamespace};
use crate::seccomp::Agent;
use crate::state::{ContainerState, Entry, ImageUse, NamespaceMark, OuterRecord, Record, Status};
use crate::sys;
use crate::sys::memory::SharedByte;
use crate::sys::ns::flag;
use crate::sys::process::{Child, Cloned};
use crate::userns::{self, Entering};

mod cgroups;
mod exec;
mod foreground;
mod guard;
mod handover;
pub mod hook;
mod hooks;
mod host_terminal;
mod inside;
mod joiner;
pub mod line;
mod nameless;
mod net_devices;
pub mod notify;
mod problem;
mod record;
mod relay;
mod restore;
mod restored;
mod restoring;
mod start;
mod whole_file;

pub use exec::{Joining, Member, exec};
pub use foreground::wait as wait_in_foreground;
pub use handover::Receiver;
pub use hooks::{Poststop, Runner};
pub use host_terminal::HostTerminal;
pub use inside::open_inside;
pub(crate) use problem::reported;
pub use relay::Relay;
pub use restore::Restoring;
pub use start::{NotStarted, start};
pub use whole_file::WholeFile;

use cgroups::without_cgroup;
use hook::Told;
use line::{Handshake, Next, Order, Phase, ProtocolError, RuntimeEnd};
use problem::{Problem, end, undo};

/// What is done with the container once it is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It waits for `start`.
    Created,
    /// Its program runs, and dies with this process.
    Foreground,
    /// Its program runs on its own.
    Detached,
}

/// A container to make.
#[derive(Debug)]
pub struct Creation<'a> {
    /// Where it comes from.
    pub bundle: &'a Bundle,
    /// What to do.
    pub plan: &'a Plan,
    /// The namespaces to join.
    pub joinable: &'a Joinable,
    /// How to do it.
    pub manner: Manner,
    /// The account's name, or its uid.
    pub owner: String,
    /// Its state directory, locked.
    pub entry: &'a Entry,
    /// What the caller gets of it.
    pub outlets: Outlets,
    /// How far to go.
    pub until: Until,
    /// Whether every adaptation is an error (`--strict`).
    pub strict: bool,
    /// Whether its program is told of a socket in the state directory (NOTIFY_SOCKET).
    pub notify: bool,
    /// Who runs hooks in the caller's namespaces; needed only where the plan has some.
    pub runner: Option<&'a Runner>,
    /// Who makes the plan's cgroup; needed only where it has one.
    pub cgroups: Option<&'a cgroup::Maker>,
    /// The image it is made from, if it is.
    pub image: Option<&'a ImageUse>,
    /// What it is restored from, if it is.
    pub restoring: Option<&'a Restoring<'a>>,
}

/// Where the caller wants to be told of a new process.
#[derive(Debug, Default)]
pub struct Outlets {
    /// Where its pid goes.
    pub pid_file: Option<WholeFile>,
    /// Where the first end of its terminal goes; `None`: it is kept for this process.
    pub console: Option<Receiver>,
    /// Where its pidfd goes.
    pub pidfd: Option<Receiver>,
}

impl Outlets {
    /// Tells of `child`, which `kind` names to the one who gets the pidfd, as runc does.
    fn tell(&self, child: &Child, kind: &str) -> Result<()> {
        if let Some(receiver) = &self.pidfd {
            if sys::pidfd::is_stand_in(&child.pidfd) {
                return Err(Error::new("cannot hand over a pidfd")
                    .because("there are none: this kernel (before Linux 5.2), or a filter around lodger, refuses them")
                    .code("LDG-KERNEL-CALLS")
                    .hint("leave out --pidfd-socket; --pid-file tells the process's number"));
            }
            receiver.hand_over(kind, child.pidfd.as_fd())?;
        }
        match &self.pid_file {
            // Without a newline, as runc does.
            Some(file) => file.write(&child.pid.to_string()),
            None => Ok(()),
        }
    }

    /// Hands the terminal over, if somebody wants it; else it stays in `heard`.
    fn hand_over_console(&self, heard: &mut Heard) -> Result<()> {
        let Some(receiver) = &self.console else {
            return Ok(());
        };
        let Some(master) = heard.console.take() else {
            return Ok(());
        };
        let name = sys::tty::name(&master).doing(|| "cannot name the terminal".to_owned())?;
        receiver.hand_over(&name, master.as_fd())
    }
}

/// What init told on the way.
#[derive(Debug, Default)]
struct Heard {
    notes: Vec<Note>,
    console: Option<OwnedFd>,
    /// Who gets the listener of the system call filter.
    agent: Option<Agent>,
    /// The line to CRIU, which init becomes.
    criu: Option<OwnedFd>,
}

/// Init, made and not yet set up.
struct Cloning {
    child: Child,
    line: RuntimeEnd,
    /// Its mark, where this side could not look it up.
    mark: Option<NamespaceMark>,
    /// Whether it began its life in the container's cgroup.
    in_cgroup: bool,
}

/// A container that was made.
#[derive(Debug)]
pub struct Made {
    /// Its process.
    pub child: Child,
    /// What was adapted, by the plan and by the kernel.
    pub notes: Vec<Note>,
    /// The first end of its terminal, if it has one and nobody else got it.
    pub console: Option<OwnedFd>,
    /// Whether other processes may outlive it: it has no pid namespace of its own.
    pub may_leave_others: bool,
}

impl Creation<'_> {
    /// Makes the container. On failure nothing of it is left. `agent` is who gets the listener of its filter, if the
    /// program is run.
    pub fn make(&self, entering: Entering, agent: Option<Agent>) -> Result<Made> {
        let outer = entering.finish()?;
        if let Some(restoring) = self.restoring {
            return self.restore(outer, restoring);
        }
        let stage = SharedByte::new().doing(|| "cannot share memory with init".to_owned())?;
        let mut cgroup = self.cgroup_first()?;
        let init = match self.clone_init(&stage, cgroup.as_ref()) {
            Ok(init) => init,
            Err(error) => return Err(without_cgroup(cgroup, error)),
        };
        let child = &init.child;
        let moved = match net_devices::move_all(&self.plan.net_devices, child) {
            Ok(moved) => moved,
            Err(error) => {
                let error = undo(child, error.into(), &stage);
                return Err(without_cgroup(cgroup, error));
            }
        };
        match self.talk_through(&init, outer, &mut cgroup, agent) {
            Ok(Heard { notes, console, .. }) => Ok(Made {
                child: init.child,
                notes,
                console,
                may_leave_others: new_flags(self.plan) & flag::PID == 0,
            }),
            Err(problem) => {
                let lost = moved.and_then(|moved| moved.give_back());
                let error = without_cgroup(cgroup, undo(child, problem, &stage));
                Err(match lost {
                    Some(lost) => error.hint(lost),
                    None => error,
                })
            }
        }
    }

    /// What the container's user namespace is made from, if it gets a new one.
    fn outer(&self) -> Option<&Outer> {
        match &self.plan.user_namespace {
            UserNamespace::New { outer, .. } => Some(outer),
            UserNamespace::Inherit | UserNamespace::Joined { .. } => None,
        }
    }

    /// Makes the process, in `cgroup` if that is there already.
    fn clone_init(&self, stage: &SharedByte, cgroup: Option<&cgroup::Made>) -> Result<Cloning> {
        let what = || "cannot make the container's process".to_owned();
        let gate = match self.until {
            Until::Created => Some(self.entry.make_gate()?),
            Until::Foreground | Until::Detached => None,
        };
        let (runtime, line) = line::pair().doing(what)?;
        let init = Init {
            plan: self.plan,
            manner: &self.manner,
            line,
            gate,
            stage,
            told: self.told(),
        };
        // A joiner makes init, and is not in the cgroup itself.
        let mut in_cgroup = cgroup.is_some() && !joiner::is_needed(self.plan);
        let (child, mark) = if joiner::is_needed(self.plan) {
            let joining = self.joining(new_flags(self.plan) & !flag::CGROUP);
            joiner::clone(joining, init, |init| init.run())?
        } else {
            let flags = new_flags(self.plan) & !flag::CGROUP;
            let cloned = self.clone(flags, cgroup)?;
            in_cgroup = cloned.1;
            match cloned.0 {
                Cloned::Parent(child) => (child, None),
                Cloned::Child => init.run(),
            }
        };
        Ok(Cloning {
            child,
            line: runtime,
            mark,
            in_cgroup,
        })
    }

    /// Makes a process in new namespaces of the kinds in `flags`, in `cgroup` if that is there already; whether it is in it.
    fn clone(&self, flags: u32, cgroup: Option<&cgroup::Made>) -> Result<(Cloned, bool)> {
        let mut in_cgroup = cgroup.is_some();
        let cgroup = cgroup.map(cgroup::Made::directory);
        let clone = || sys::process::clone_into(flags, cgroup);
        let cloned = match userns::once_freed(clone) {
            // Before Linux 5.7, or as a filter feigns: it can be moved as well.
            Err(cause) if in_cgroup && cause.is(nix::libc::ENOSYS) => {
                in_cgroup = false;
                userns::once_freed(|| sys::process::clone(flags))
            }
            cloned => cloned,
        };
        match cloned {
            Ok(cloned) => Ok((cloned, in_cgroup)),
            Err(cause) => Err(userns::explain_container(self.outer(), cause)),
        }
    }

    /// Maps the ids of `init`, puts it into its cgroup, and lets it begin; drafts the record.
    fn admit(
        &self,
        init: &Cloning,
        outer: Option<OuterRecord>,
        cgroup: &mut Option<cgroup::Made>,
        heard: &mut Heard,
    ) -> std::result::Result<Record, Problem> {
        let Cloning {
            child, line, mark, ..
        } = init;
        if let UserNamespace::New {
            outer,
            uid_map,
            gid_map,
            setgroups,
        } = &self.plan.user_namespace
        {
            userns::map_container(outer, child.pid, (uid_map, gid_map), *setgroups)?;
        }
        tracing::debug!(
            pid = child.pid,
            "the container's process is made, its ids are mapped"
        );
        // Before init hides itself.
        let mark = match mark {
            None => NamespaceMark::of(child.pid, new_flags(self.plan))?,
            known => known.clone(),
        };
        match cgroup {
            None => *cgroup = self.cgroup_around(child)?,
            Some(made) if !init.in_cgroup => made.admit(child.pid)?,
            Some(_) => {}
        }
        order(line, Order::Go)?;
        // Before it hides itself, too: it is gone from a /proc that shows nobody else's processes (hidepid) then.
        let known = self.record(child, outer, mark)?;
        // While init is at work.
        self.entry.write_config(&self.bundle.config)?;
        let saved = Saved::of(self.plan, &self.manner);
        saved.write(self.entry, &self.manner.loaded_filters())?;
        let notes = cgroup.iter().flat_map(|made| &made.notes);
        heard.notes.extend(notes.cloned());
        let cgroup = cgroup.as_ref().map(|made| made.record.clone());
        let record = Record { cgroup, ..known };
        self.entry.draft_record(&record)?;
        Ok(record)
    }

    fn talk_through(
        &self,
        init: &Cloning,
        outer: Option<OuterRecord>,
        cgroup: &mut Option<cgroup::Made>,
        agent: Option<Agent>,
    ) -> std::result::Result<Heard, Problem> {
        let Cloning { child, line, .. } = init;
        let mut heard = Heard {
            notes: self.plan.notes.clone(),
            agent,
            ..Heard::default()
        };
        let mut record = self.admit(init, outer, cgroup, &mut heard)?;
        if self.plan.hooks.has_any_before_root() {
            wait_for(Phase::Mounting, line, &mut heard)?;
            // Before anybody's program is run for what will not be made.
            if self.strict {
                Note::refuse(&heard.notes)?;
            }
            let hooks = self.plan.hooks.runtime_before_root();
            self.run_hooks(hooks, Status::Creating, child)?;
            order(line, Order::HooksDone)?;
        }
        wait_for(Phase::SettingUp, line, &mut heard)?;
        tracing::debug!(notes = heard.notes.len(), "the container is set up");
        if self.strict {
            Note::refuse(&heard.notes)?;
        }
        if heard.notes.len() > record.notes.len() {
            record.notes.clone_from(&heard.notes);
            self.entry.draft_record(&record)?;
        }
        self.outlets.hand_over_console(&mut heard)?;
        self.entry.publish_record()?;
        if let Some(agent) = &mut heard.agent {
            let state = ContainerState::of(self.entry.id(), &record, Status::Created);
            agent.introduce(child.pid, &state)?;
        }
        match self.until {
            Until::Created => {
                order(line, Order::Detach)?;
                wait_for(Phase::Detaching, line, &mut heard)?;
            }
            Until::Foreground | Until::Detached => {
                let die_with_runtime = self.until == Until::Foreground;
                order(line, Order::Exec { die_with_runtime })?;
                wait_for(Phase::Starting, line, &mut heard)?;
                self.run_hooks(&self.plan.hooks.poststart, Status::Running, child)?;
            }
        }
        self.outlets.tell(child, "standard")?;
        Ok(heard)
    }

    /// Runs hooks in the caller's namespaces.
    fn run_hooks<'h>(
        &self,
        hooks: impl IntoIterator<Item = &'h Hook>,
        status: Status,
        child: &Child,
    ) -> Result<()> {
        let mut hooks = hooks.into_iter().peekable();
        if hooks.peek().is_none() {
            return Ok(());
        }
        let runner = self
            .runner
            .ok_or_else(|| Error::new("there is nobody to run the hooks"))?;
        let state = self.told().text(status, Some(child.pid))?;
        runner.run(hooks, &state, &self.bundle.directory)
    }

    /// What hooks are told of the container.
    pub fn told(&self) -> Told<'_> {
        Told {
            oci_version: self.bundle.spec.version(),
            id: self.entry.id(),
            bundle: &self.bundle.directory,
            annotations: &self.plan.annotations,
        }
    }
}

/// The `CLONE_NEW…` bits of the namespaces that are made, and so the container's alone.
pub fn new_flags(plan: &Plan) -> u32 {
    let user = match plan.user_namespace {
        UserNamespace::New { .. } => flag::USER,
        UserNamespace::Inherit | UserNamespace::Joined { .. } => 0,
    };
    plan.namespaces
        .iter()
        .fold(user, |bits, kind| bits | bit(*kind))
}

/// The `CLONE_NEW…` bits of the namespaces that are joined.
pub fn joined_flags(plan: &Plan) -> u32 {
    let user = match plan.user_namespace {
        UserNamespace::Joined { .. } => flag::USER,
        UserNamespace::Inherit | UserNamespace::New { .. } => 0,
    };
    plan.joined
        .iter()
        .fold(user, |bits, joined| bits | bit(joined.kind))
}

/// The `CLONE_NEW…` bit of a kind of namespaces.
fn bit(kind: Namespace) -> u32 {
    match kind {
        Namespace::Mount => flag::MOUNT,
        Namespace::Pid => flag::PID,
        Namespace::Ipc => flag::IPC,
        Namespace::Uts => flag::UTS,
        Namespace::Network => flag::NETWORK,
        Namespace::Time => flag::TIME,
        Namespace::Cgroup => flag::CGROUP,
    }
}

fn order(line: &RuntimeEnd, order: Order) -> std::result::Result<(), Problem> {
    match line.send(order) {
        // Init is gone: what it said last is worth more than our broken pipe.
        Err(error) if error.is(nix::libc::EPIPE) => Ok(()),
        sent => sent.map_err(Problem::Line),
    }
}

fn wait_for(
    phase: Phase,
    line: &RuntimeEnd,
    heard: &mut Heard,
) -> std::result::Result<(), Problem> {
    loop {
        let received = line.receive().map_err(Problem::Protocol)?;
        let (report, fd) = received.unzip();
        match Handshake::accept(phase, report).map_err(Problem::Protocol)? {
            Next::Done => return Ok(()),
            Next::Keep(note) => heard.notes.push(note),
            Next::Console => {
                let console = fd.flatten();
                heard.console = Some(console.ok_or(Problem::Protocol(ProtocolError::NoTerminal))?);
            }
            Next::Criu => {
                let criu = fd.flatten();
                heard.criu = Some(criu.ok_or(Problem::Protocol(ProtocolError::NoCriu))?);
            }
            Next::Listener => {
                let agent = heard.agent.take().zip(fd.flatten());
                let missing = Problem::Protocol(ProtocolError::NoListener);
                let (agent, listener) = agent.ok_or(missing)?;
                agent.hand_over(listener.as_fd())?;
                order(line, Order::Proceed)?;
            }
            Next::Fail(failure) => return Err(Problem::Init(failure)),
        }
    }
}
