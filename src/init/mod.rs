//! Everything that happens in the container's process between clone3 and execve, and nothing else.
//!
//! The code here decides nothing: it follows the plan, in order, and stops at the first thing that fails. It writes no
//! log and runs no exit handler; it reports over the line, and the parent prints. From the moment the root's fd is
//! open, no path of the container is resolved but beneath it (`beneath`). A process that may share a pid namespace
//! with container code cannot be looked into ([`sys::cred::set_dumpable`]; CVE-2016-9962).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::doctor::Step;
use crate::error::{Doing, Error, Result};
use crate::plan::idmap::maps_id;
use crate::plan::{IdMapping, Namespace, Plan, Process, UserNamespace};
use crate::seccomp::Filter;
use crate::spawn::hook::Told;
use crate::spawn::line::{Failure, InitEnd, Order, Report};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::memory::SharedByte;
use crate::sys::seccomp::Instruction;

mod attributes;
mod beneath;
mod console;
mod copy_up;
mod devices;
mod filesystem;
mod hooks;
mod idmap;
mod keyring;
mod labels;
mod mounts;
mod network;
mod oom;
mod overlay_root;
mod passwd;
mod paths;
mod privileges;
mod program;
mod restore;
mod rootfs;
mod scheduling;
mod seccomp;
mod sysctl;

use keyring::join_keyring;
pub(crate) use labels::open_proc;
pub(crate) use oom::set_oom_score;
pub use oom::write_oom_score;
use program::Program;
pub use restore::Given as GivenToCriu;
pub(crate) use scheduling::restrict_cpus;

/// How far init came, for the message when it ends without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for the id maps.
    IdMaps,
    /// Opening the sources of mounts.
    Sources,
    /// Making the mounts.
    Mounts,
    /// Binding devices.
    Devices,
    /// Waiting for the hooks before the root is changed, or running some of them.
    Hooks,
    /// Masking paths and making them read-only.
    Paths,
    /// Changing the root.
    Pivot,
    /// Setting ids, capabilities and limits.
    Privileges,
    /// Waiting for `start`.
    Gate,
    /// Running the program.
    Exec,
}

impl Stage {
    const ALL: [Self; 10] = [
        Self::IdMaps,
        Self::Sources,
        Self::Mounts,
        Self::Devices,
        Self::Hooks,
        Self::Paths,
        Self::Pivot,
        Self::Privileges,
        Self::Gate,
        Self::Exec,
    ];

    /// The stage with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// What is being done.
    pub fn describe(self) -> &'static str {
        match self {
            Self::IdMaps => "waiting for the id maps",
            Self::Sources => "opening the sources of the mounts",
            Self::Mounts => "mounting",
            Self::Devices => "binding devices",
            Self::Hooks => "waiting for hooks",
            Self::Paths => "masking paths",
            Self::Pivot => "changing the root",
            Self::Privileges => "setting ids, capabilities and limits",
            Self::Gate => "waiting for start",
            Self::Exec => "running the program",
        }
    }
}

/// How a process is made, beside what the config says: the caller's flags.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// The session keyring to join, by name; `None`: the caller's stays.
    pub keyring: Option<String>,
    /// What of the caller's open files the program gets.
    pub preserved: Preserved,
    /// The system call filter of the config, compiled.
    pub filter: Option<Filter>,
    /// Whether to change the root by moving it and chroot(2): pivot_root(2) cannot leave an initramfs.
    pub no_pivot: bool,
}

impl Manner {
    /// The programs of the system call filters that are loaded, in that order.
    pub fn loaded_filters(&self) -> Vec<&[Instruction]> {
        let filter = self.filter.iter().filter(|_| is_on(Defence::Seccomp));
        filter.flat_map(Filter::programs).collect()
    }

    /// The flags with which they are loaded.
    pub fn loaded_flags(&self) -> Vec<u64> {
        let filter = self.filter.iter().filter(|_| is_on(Defence::Seccomp));
        filter.flat_map(Filter::all_flags).collect()
    }
}

/// The caller's open files that the program gets, under the same numbers, from 3 on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preserved {
    /// How many of them, the first ones, are sockets that the program is told about (sd_listen_fds(3)).
    pub listening: u32,
    /// The names of those sockets, if they have some.
    pub names: Option<String>,
    /// How many there are altogether.
    pub count: u32,
}

/// What init is given: the plan, and its end of everything it shares with the parent.
#[derive(Debug)]
pub struct Init<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// How to do it.
    pub manner: &'a Manner,
    /// The line to the runtime.
    pub line: InitEnd,
    /// The listening socket on which `start` arrives; `None` when the runtime itself starts the program.
    pub gate: Option<OwnedFd>,
    /// Where the stage is written.
    pub stage: &'a SharedByte,
    /// What its hooks are told.
    pub told: Told<'a>,
}

/// What is at hand once init has begun.
struct Begun {
    /// The caller's umask.
    umask: u32,
    sources: rootfs::Sources,
    /// The procfs for labels, if there are some.
    proc: Option<OwnedFd>,
}

/// The program, ready to be run, and what `startContainer` hooks read, if there are some.
type Prepared = (Program, Option<OwnedFd>);

impl Init<'_> {
    /// Sets up the container and becomes its program.
    pub fn run(self) -> ! {
        let error = match self.set_up() {
            Ok(None) => sys::process::exit_now(1),
            Ok(Some((program, state))) => match self.wait_for_start() {
                Ok(None) => sys::process::exit_now(1),
                Ok(Some((from_gate, die_with_runtime))) => {
                    let line = from_gate.as_ref().unwrap_or(&self.line);
                    self.run_last_hooks(&program, state, line);
                    self.enter(Stage::Exec);
                    let error = start(&program, die_with_runtime, line);
                    give_up(line, &error)
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        give_up(&self.line, &error)
    }

    fn enter(&self, stage: Stage) {
        self.stage.set(stage as u8);
    }

    /// Leaves what is the caller's, opens what is mounted from the host, and becomes the container's root; `None` when the runtime
    /// went away.
    fn begin(&self, kept: &[BorrowedFd<'_>]) -> Result<Option<Begun>> {
        let own = sys::fd::FIRST + self.manner.preserved.count;
        if is_on(Defence::CloseFiles) {
            sys::fd::close_others(own, kept).doing(|| "cannot close inherited files".to_owned())?;
        }
        die_with_runtime(true)?;
        if self.line.receive().map_err(protocol)? != Some(Order::Go) {
            return Ok(None);
        }
        let plan = self.plan;
        let umask = sys::cred::swap_umask(0o022);
        begin_session()?;
        // Whoever has joined a user namespace has done so before.
        if !matches!(plan.user_namespace, UserNamespace::Joined { .. }) {
            // Before this process becomes undumpable: its /proc files are no longer its own then.
            set_oom_score(&plan.process)?;
        }
        if plan.namespaces.contains(&Namespace::Cgroup) {
            sys::ns::unshare(sys::ns::flag::CGROUP)
                .doing(|| "cannot make a cgroup namespace".to_owned())?;
        }

        self.enter(Stage::Sources);
        sys::mount::make_all_slave()
            .doing(|| "cannot leave mount propagation".to_owned())
            .map_err(|e| e.step(Step::Mount))?;
        let sources = rootfs::Sources::open(plan)?;
        let proc = labels::open_proc(&plan.process.attributes)?;
        become_root(plan)?;
        Ok(Some(Begun {
            umask,
            sources,
            proc,
        }))
    }

    /// Everything up to the program; `None` when the runtime went away.
    fn set_up(&self) -> Result<Option<Prepared>> {
        let mut kept = vec![self.line.as_fd()];
        kept.extend(self.gate.as_ref().map(AsFd::as_fd));
        let Some(begun) = self.begin(&kept)? else {
            return Ok(None);
        };
        let Begun {
            umask,
            sources,
            proc,
        } = begun;
        let plan = self.plan;
        let terminal = self.build_root(&sources)?;
        drop(sources);
        if let Some(terminal) = terminal {
            console::take(&terminal, &plan.process)?;
        }
        join_keyring(self.manner, &plan.process, proc.as_ref(), &self.line)?;

        self.enter(Stage::Privileges);
        let state = self.state_for_last_hooks()?;
        kept.extend(state.as_ref().map(AsFd::as_fd));
        let program = Program::prepare(&plan.process, self.manner, &kept, Some(umask), proc)?;
        // The change of uid has cleared it again. Whoever dies before this line is noticed at the next order.
        die_with_runtime(true)?;
        self.line
            .send(&Report::Ready)
            .doing(|| "cannot report to the runtime".to_owned())?;
        Ok(Some((program, state)))
    }

    /// Mounts, devices, masks; at the end the root is changed and nothing of the host is in reach. Returns the terminal,
    /// if there is to be one.
    fn build_root(&self, sources: &rootfs::Sources) -> Result<Option<OwnedFd>> {
        let plan = self.plan;
        self.enter(Stage::Mounts);
        let root = rootfs::attach(plan, sources)?;
        let late = mounts::make_all(plan, sources, &root, &self.line)?;
        self.enter(Stage::Devices);
        devices::bind_all(plan, sources, &root, &self.line)?;
        devices::make_fifos(plan, &root)?;
        devices::link_all(plan, &root)?;
        let terminal = self.make_terminal(&root)?;
        root.make_dir_if_missing(&plan.process.cwd)
            .map_err(|e| e.within("cannot prepare the working directory"))?;
        self.run_first_hooks()?;
        for mount in &late {
            mount.make_readonly()?;
        }
        set_names(plan)?;
        network::set_loopback_up(plan)?;
        sysctl::write_all(&plan.sysctl, &root)?;
        self.enter(Stage::Paths);
        paths::mask_all(plan, sources, &root)?;
        paths::make_all_readonly(&plan.readonly_paths, &root)?;
        self.enter(Stage::Pivot);
        rootfs::pivot(plan, &root, self.manner.no_pivot)?;
        Ok(terminal)
    }

    fn make_terminal(&self, root: &beneath::RootDir) -> Result<Option<OwnedFd>> {
        let Some(wanted) = self.plan.process.terminal else {
            return Ok(None);
        };
        let terminal = console::make(root, wanted, &self.line)?;
        console::bind(root, &terminal)?;
        Ok(Some(terminal))
    }

    /// Waits until the program is to be run. Returns whether to die with the runtime, and the line that `start` came
    /// on, if it did; `None` when the runtime went away.
    fn wait_for_start(&self) -> Result<Option<(Option<InitEnd>, bool)>> {
        match self.line.receive().map_err(protocol)? {
            Some(Order::Exec { die_with_runtime }) => Ok(Some((None, die_with_runtime))),
            Some(Order::Detach) => self.wait_at_gate().map(|line| Some((Some(line), false))),
            _ => Ok(None),
        }
    }

    fn wait_at_gate(&self) -> Result<InitEnd> {
        self.enter(Stage::Gate);
        let what = || "cannot wait for start".to_owned();
        let gate = self
            .gate
            .as_ref()
            .ok_or_else(|| Error::new(what()).because("there is no gate"))?;
        die_with_runtime(false)?;
        // `exec` and warm starts must be able to open this process's namespaces while it waits.
        sys::cred::set_dumpable(true).doing(what)?;
        self.line.send(&Report::Detached).doing(what)?;
        loop {
            let line = InitEnd::over(sys::socket::accept(gate).doing(what)?);
            // Whoever hangs up without an order did not start anything.
            if let Ok(Some(Order::Exec { .. })) = line.receive() {
                sys::cred::set_dumpable(!is_on(Defence::NotDumpable)).doing(what)?;
                return Ok(line);
            }
        }
    }
}

/// The id maps of the user namespace that a process has joined: uids, gids. `None`: it is the caller's own.
pub type Joined<'a> = Option<(&'a [IdMapping], &'a [IdMapping])>;

/// In a process that has joined a container's namespaces: becomes `process`. `proc` is what [`open_proc`] gave to its parent,
/// when that had not joined yet.
pub fn join(
    process: &Process,
    manner: &Manner,
    joined: Joined<'_>,
    line: InitEnd,
    proc: Option<OwnedFd>,
) -> ! {
    // Until then it has the caller's ids, without which her systemd would not move it.
    match line.receive() {
        Ok(Some(Order::Go)) => {}
        Ok(_) => sys::process::exit_now(1),
        Err(error) => give_up(&line, &protocol(error)),
    }
    let error = match prepare_to_join(process, manner, joined, &line, proc) {
        Ok(program) => match wait_for_exec(&line) {
            Ok(true) => match restrict_to_last(process) {
                Ok(()) => start(&program, false, &line),
                Err(error) => error,
            },
            // The runtime went away.
            Ok(false) => sys::process::exit_now(1),
            Err(error) => error,
        },
        Err(error) => error,
    };
    give_up(&line, &error)
}

/// Says that all is ready, and waits until the program is to be run; whether it is.
fn wait_for_exec(line: &InitEnd) -> Result<bool> {
    line.send(&Report::Ready)
        .doing(|| "cannot tell the runtime that all is ready".to_owned())?;
    let order = line.receive().map_err(protocol)?;
    Ok(matches!(order, Some(Order::Exec { .. })))
}

/// Once the process is where it stays (config.md, "execCPUAffinity").
fn restrict_to_last(process: &Process) -> Result<()> {
    let affinity = process.attributes.cpu_affinity.as_ref();
    match affinity.and_then(|affinity| affinity.last.as_ref()) {
        Some(cpus) => restrict_cpus(cpus, "/process/execCPUAffinity/final"),
        None => Ok(()),
    }
}

fn prepare_to_join(
    process: &Process,
    manner: &Manner,
    joined: Joined<'_>,
    line: &InitEnd,
    proc: Option<OwnedFd>,
) -> Result<Program> {
    begin_session()?;
    // The caller's own ids need not be mapped: what they own would be nobody's in the container, terminal and keyring.
    if let Some((uid_map, gid_map)) = joined {
        take_root_ids(uid_map, gid_map)?;
    }
    if let Some(wanted) = process.terminal {
        let root = sys::mount::open_path(Path::new("/"))
            .doing(|| "cannot open the container's root".to_owned())?;
        let root = beneath::RootDir::new(root);
        console::take(&console::make(&root, wanted, line)?, process)?;
    }
    join_keyring(manner, process, proc.as_ref(), line)?;
    Program::prepare(process, manner, &[line.as_fd()], None, proc)
}

/// Runs the program; returns only on failure.
fn start(program: &Program, dies: bool, line: &InitEnd) -> Error {
    let outlives = if dies {
        Ok(())
    } else {
        die_with_runtime(false)
    };
    match outlives {
        Ok(()) => program.exec(line),
        Err(error) => error,
    }
}

/// Whether to be killed when the runtime ends.
pub(crate) fn die_with_runtime(die: bool) -> Result<()> {
    sys::cred::die_with_parent(die).doing(|| "cannot follow the runtime's end".to_owned())
}

fn protocol(error: crate::spawn::line::ProtocolError) -> Error {
    Error::new("cannot understand the runtime").because(error)
}

/// Reports the error over the line and ends; if the runtime is gone there is nobody to tell.
fn give_up(line: &InitEnd, error: &Error) -> ! {
    give_up_with(line, Failure::of(error))
}

fn give_up_with(line: &InitEnd, failure: Failure) -> ! {
    let _nobody_to_tell = line.send_last(&Report::Failed(failure));
    sys::process::exit_now(1)
}

/// Takes the ids of the container's root, if it has one, and keeps others from looking in.
fn become_root(plan: &Plan) -> Result<()> {
    let what = || "cannot become the container's root".to_owned();
    if let Some((uid_map, gid_map)) = plan.user_namespace.maps() {
        let setgroups = plan.user_namespace.setgroups() == Some(true);
        if setgroups && plan.process.additional_gids.is_some() && is_on(Defence::Groups) {
            sys::cred::set_groups(&[]).doing(what)?;
        }
        take_root_ids(uid_map, gid_map)?;
    }
    sys::cred::set_dumpable(!is_on(Defence::NotDumpable)).doing(what)?;
    // A change of uid has cleared it.
    die_with_runtime(true)
}

/// Takes uid and gid 0, where they are mapped.
pub(crate) fn take_root_ids(uid_map: &[IdMapping], gid_map: &[IdMapping]) -> Result<()> {
    let what = || "cannot become the container's root".to_owned();
    if maps_id(gid_map, 0) {
        sys::cred::set_gid(0).doing(what)?;
    }
    if maps_id(uid_map, 0) {
        sys::cred::set_uid(0).doing(what)?;
    }
    Ok(())
}

/// A terminal of the caller's is out of reach in a session of one's own (CVE-2017-5226).
fn begin_session() -> Result<()> {
    if !is_on(Defence::OwnSession) {
        return Ok(());
    }
    sys::cred::new_session().doing(|| "cannot begin a session".to_owned())
}

fn set_names(plan: &Plan) -> Result<()> {
    if let Some(name) = &plan.hostname {
        sys::cred::set_hostname(name).doing(|| "cannot set /hostname".to_owned())?;
    }
    if let Some(name) = &plan.domainname {
        sys::cred::set_domainname(name).doing(|| "cannot set /domainname".to_owned())?;
    }
    Ok(())
}
