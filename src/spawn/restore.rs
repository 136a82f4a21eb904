//! Restoring a container: its process becomes CRIU, which makes the container's own as a sibling of itself, and tells of what it
//! does; the container is this process's child.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use super::guard::{self, Guard};
use super::line::{self, Order, Phase};
use super::restored::Restored;
use super::restoring::{Known, Progress};
use super::{
    Cloning, Creation, Heard, Made, Problem, Until, end, joiner, net_devices, new_flags, order,
    undo, wait_for, without_cgroup,
};
use crate::cgroup;
use crate::checkpoint::criu::{self, Criu};
use crate::checkpoint::image::{self, Manifest};
use crate::checkpoint::lack;
use crate::checkpoint::outside::Outside;
use crate::checkpoint::preflight::fit;
use crate::checkpoint::rpc::{CGROUPS_IGNORE, Event, NETWORK_LOCK_SKIP, Opts, Swrk};
use crate::checkpoint::saved::{Program, Saved};
use crate::error::{Doing, Error, Result};
use crate::init::{GivenToCriu, Init};
use crate::state::{OuterRecord, ProcessIdentity, Record, Status};
use crate::sys;
use crate::sys::memory::SharedByte;
use crate::sys::ns::flag;
use crate::sys::process::{Child, Cloned};
use crate::sys::signal::{Held, Signals};
use crate::sys::tty;

/// The name of CRIU's log in the work directory.
const LOG: &str = "restore.log";

/// The most that is read of it, in bytes.
const LOG_LIMIT: usize = 64 << 20;

/// As much as CRIU can tell.
const LOG_LEVEL: i32 = 4;

/// The most that CRIU may tell: it has some ten things, and one more for a terminal.
const MOST_EVENTS: usize = 1000;

/// What a container is restored from, and how.
#[derive(Debug)]
pub struct Restoring<'a> {
    /// CRIU.
    pub criu: &'a Criu,
    /// The directory of the images.
    pub images: BorrowedFd<'a>,
    /// The directory that CRIU writes its log to.
    pub work: BorrowedFd<'a>,
    /// Where that is.
    pub work_path: &'a Path,
    /// What the images are of.
    pub manifest: &'a Manifest,
    /// The mounts from outside, as the plan has them.
    pub outside: Vec<Outside>,
    /// The system call filters that its processes are under, in the order in which they were loaded.
    pub filters: Vec<Program>,
    /// The flags with which they were loaded.
    pub filter_flags: Vec<u64>,
    /// CRIU's configuration file, if it is to read one.
    pub config: Option<OwnedFd>,
    /// What it is asked beside what is always asked.
    pub opts: Opts,
    /// How long it may do nothing that can be seen.
    pub patience: Duration,
}

/// What goes along with CRIU's work.
struct Way<'a, 'scope> {
    restoring: &'a Restoring<'a>,
    record: &'a mut Record,
    heard: &'a mut Heard,
    /// Whether the images are what they were.
    verified: Option<ScopedJoinHandle<'scope, Result<()>>>,
    guard: &'a Guard,
}

impl Way<'_, '_> {
    /// Waits until it is known whether the images are what they were.
    fn verified(&mut self) -> Result<()> {
        let panicked = || Error::new("the images could not be verified");
        match self.verified.take().map(ScopedJoinHandle::join) {
            None => Ok(()),
            Some(joined) => joined.unwrap_or_else(|_| Err(panicked())),
        }
    }
}

impl Creation<'_> {
    /// Restores the container. On failure nothing of it is left.
    pub(super) fn restore(
        &self,
        outer: Option<OuterRecord>,
        restoring: &Restoring<'_>,
    ) -> Result<Made> {
        // What is damaged could make it work for ever.
        image::verify_small(restoring.images, restoring.manifest)?;
        let stage = SharedByte::new().doing(|| "cannot share memory with init".to_owned())?;
        let (_held, signals) = self.ending_signals()?;
        let guard = Guard::make()?;
        let restored = self.restore_guarded(outer, restoring, (&stage, signals, &guard));
        match (&restored, self.until) {
            (Ok(_), Until::Foreground) => guard.stay(),
            _ => guard.leave(),
        }
        restored
    }

    /// Signals that ask this process to end. All are blocked in the foreground; else these are, until the first is dropped.
    fn ending_signals(&self) -> Result<(Option<Held>, Signals)> {
        let what = || "cannot wait for signals".to_owned();
        if self.until == Until::Foreground {
            return Ok((None, Signals::ending().doing(what)?));
        }
        let (held, signals) = Held::ending().doing(what)?;
        Ok((Some(held), signals))
    }

    fn restore_guarded(
        &self,
        outer: Option<OuterRecord>,
        restoring: &Restoring<'_>,
        (stage, signals, guard): (&SharedByte, Signals, &Guard),
    ) -> Result<Made> {
        let before = sys::children::own().doing(|| "cannot see who runs".to_owned())?;
        let mut cgroup = self.cgroup_first()?;
        let criu = match self.clone_criu(stage, cgroup.as_ref(), restoring) {
            Ok(criu) => criu,
            Err(error) => return Err(without_cgroup(cgroup, error)),
        };
        let moved = match net_devices::move_all(&self.plan.net_devices, &criu.child) {
            Ok(moved) => moved,
            Err(error) => {
                let error = undo(&criu.child, error.into(), stage);
                return Err(without_cgroup(cgroup, error));
            }
        };
        let mut known = Known {
            before,
            first: None,
            restored: false,
            signals: Some(signals),
            damage: None,
            progress: Progress::new(restoring.patience),
        };
        let with = (restoring, &mut known, guard);
        let talked = self.talk_to_criu(&criu, outer, &mut cgroup, with);
        let problem = match (talked, known.first.take()) {
            (Ok(heard), Some(child)) => {
                // It has nothing left to do.
                end(&criu.child);
                return Ok(Made {
                    child,
                    notes: heard.notes,
                    console: heard.console,
                    may_leave_others: false,
                });
            }
            (Ok(_), None) => (
                Problem::from(Error::new("CRIU has not told of what it restored")),
                None,
            ),
            (Err(problem), first) => (problem, first),
        };
        // Nobody whom it traces goes on without it.
        if let Some(first) = problem.1.as_ref().filter(|_| known.restored) {
            guard::kill_first(&first.pidfd);
        }
        // It may have helpers at work, which are of its process group.
        let killed = sys::process::kill_group(&criu.child);
        tracing::debug!("ending CRIU: {killed:?}");
        let error = undo(&criu.child, problem.0, stage);
        let error = without_cgroup(cgroup, end_restored(problem.1, &known.before, error));
        Err(match moved.and_then(|moved| moved.give_back()) {
            Some(lost) => error.hint(lost),
            None => error,
        })
    }

    /// Makes the process that becomes CRIU. The namespaces that are in the images it makes itself.
    fn clone_criu(
        &self,
        stage: &SharedByte,
        cgroup: Option<&cgroup::Made>,
        restoring: &Restoring<'_>,
    ) -> Result<Cloning> {
        let (runtime, line) =
            line::pair().doing(|| "cannot make the container's process".to_owned())?;
        let log = open_log(restoring)?;
        let by_criu = flag::PID | flag::IPC | flag::TIME | flag::CGROUP;
        let new = new_flags(self.plan) & !by_criu;
        let init = Init {
            plan: self.plan,
            manner: &self.manner,
            line,
            gate: None,
            stage,
            told: self.told(),
        };
        let given = GivenToCriu {
            criu: restoring.criu,
            images: restoring.images,
            work: restoring.work,
            log: log.as_fd(),
            config: restoring.config.as_ref().map(AsFd::as_fd),
            outside: &restoring.outside,
            streams: &restoring.manifest.streams,
            personality: restoring.manifest.attributes.personality,
            opts: restoring.asked(),
        };
        let (child, in_cgroup) = if joiner::is_needed(self.plan) {
            // Its mark is for those that join a user namespace, too.
            let (child, _) = joiner::clone(self.joining(new), init, |init| init.restore(given))?;
            (child, false)
        } else {
            match self.clone(new, cgroup)? {
                (Cloned::Parent(child), in_cgroup) => (child, in_cgroup),
                (Cloned::Child, _) => init.restore(given),
            }
        };
        Ok(Cloning {
            child,
            line: runtime,
            mark: None,
            in_cgroup,
        })
    }

    fn talk_to_criu(
        &self,
        criu: &Cloning,
        outer: Option<OuterRecord>,
        cgroup: &mut Option<cgroup::Made>,
        (restoring, known, guard): (&Restoring<'_>, &mut Known, &Guard),
    ) -> std::result::Result<Heard, Problem> {
        let mut heard = Heard {
            notes: self.plan.notes.clone(),
            ..Heard::default()
        };
        let mut record = self.admit(criu, outer, cgroup, &mut heard)?;
        let filters: Vec<_> = restoring.filters.iter().map(Vec::as_slice).collect();
        let saved = Saved {
            filter_flags: restoring.filter_flags.clone(),
            ..Saved::of(self.plan, &self.manner)
        };
        saved.write(self.entry, &filters)?;
        wait_for(Phase::SettingUp, &criu.line, &mut heard)?;
        let line = heard.criu.take();
        let line = line.ok_or_else(|| Error::new("there is no line to CRIU"))?;
        let line = Swrk::over(line);
        guard.hold(&line, &criu.child)?;
        let exec = Order::Exec {
            die_with_runtime: false,
        };
        order(&criu.line, exec)?;
        wait_for(Phase::Starting, &criu.line, &mut heard)?;
        tracing::debug!(pid = criu.child.pid, "CRIU restores");
        let (damage, told) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| sys::Error::new("pipe2", "O_CLOEXEC", e))
            .doing(|| "cannot verify the images".to_owned())?;
        known.damage = Some(damage);
        std::thread::scope(|scope| {
            // While CRIU works; it is waited for before the processes go on.
            let verify = move || {
                let verified = image::verify_large(restoring.images, restoring.manifest);
                if verified.is_err() {
                    let _else_it_is_seen_later = rustix::io::write(&told, b"!");
                }
                verified
            };
            let verified = std::thread::Builder::new().spawn_scoped(scope, verify);
            let verified = verified
                .map_err(|e| sys::Error::new("clone", "CLONE_THREAD", e))
                .doing(|| "cannot verify the images".to_owned())?;
            let way = Way {
                restoring,
                record: &mut record,
                heard: &mut heard,
                verified: Some(verified),
                guard,
            };
            self.follow((&line, &criu.child), known, way)
        })?;
        if let Some(child) = &known.first {
            self.run_hooks(&self.plan.hooks.poststart, Status::Running, child)?;
            self.outlets.tell(child, "standard")?;
        }
        Ok(heard)
    }

    /// Does its part of what CRIU does, until that is done.
    fn follow(
        &self,
        (line, criu): (&Swrk, &Child),
        known: &mut Known,
        mut way: Way<'_, '_>,
    ) -> Result<()> {
        for _ in 0..MOST_EVENTS {
            match known.next(line, criu, &way.restoring.log_path())? {
                Event::Notify { script, pid, fd } => {
                    tracing::debug!(script, pid, "CRIU tells");
                    if let (None, Some(pid)) = (&known.first, pid) {
                        let first = first(pid)?;
                        let guarded = way.guard.know(&first);
                        known.first = Some(first);
                        guarded?;
                    }
                    if script == "orphan-pts-master" {
                        way.heard.console = fd;
                        self.hand_over_terminal(way.heard)?;
                    } else if let Some(child) = &known.first {
                        self.at(&script, child, &mut way)?;
                    }
                    known.restored |= script == "post-restore";
                    line.go_on(true)?;
                }
                Event::Done { .. } => return Ok(()),
                failed => {
                    // Damaged images are why, whatever CRIU says of them.
                    way.verified()?;
                    return Err(way.restoring.explain(&failed, &self.plan.root.path));
                }
            }
        }
        Err(Error::new("CRIU tells more than there can be to tell"))
    }

    /// Does what is to be done when CRIU has come to `script`.
    fn at(&self, script: &str, child: &Child, way: &mut Way<'_, '_>) -> Result<()> {
        let restoring = way.restoring;
        match script {
            "setup-namespaces" => {
                let hooks = self.plan.hooks.runtime_before_root();
                self.run_hooks(hooks, Status::Creating, child)
            }
            "post-restore" => {
                let restored = Restored(child.pid);
                restored.check_places(restoring.manifest, new_flags(self.plan))?;
                restored.check_joined(self.plan, self.joinable)?;
                restored.check_sources(self.plan, &restoring.outside, restoring.manifest)?;
                way.verified()?;
                let notes = restored.give_back(&restoring.manifest.attributes)?;
                way.heard.notes.extend(notes);
                way.record.process = ProcessIdentity::of(child.pid)?;
                way.record.notes.clone_from(&way.heard.notes);
                self.entry.draft_record(way.record)?;
                self.entry.publish_record()
            }
            // Its processes have everything by now, and do nothing yet.
            "pre-resume" => Restored(child.pid).check_restrictions(
                restoring.manifest.filters,
                self.plan.process.no_new_privileges,
            ),
            _ => Ok(()),
        }
    }

    fn hand_over_terminal(&self, heard: &mut Heard) -> Result<()> {
        let size = self.plan.process.terminal.and_then(|wanted| wanted.size);
        if let (Some(size), Some(master)) = (size, &heard.console) {
            let (rows, columns) = (size.rows, size.columns);
            tty::set_size(master, tty::Size { rows, columns })
                .doing(|| "cannot set the size of the container's terminal".to_owned())?;
        }
        self.outlets.hand_over_console(heard)
    }
}

impl Restoring<'_> {
    /// What CRIU is asked.
    fn asked(&self) -> Opts {
        Opts {
            log_level: Some(LOG_LEVEL),
            log_file: Some(LOG.to_owned()),
            unprivileged: Some(true),
            rst_sibling: Some(true),
            notify_scripts: Some(true),
            manage_cgroups_mode: Some(CGROUPS_IGNORE),
            network_lock: Some(NETWORK_LOCK_SKIP),
            orphan_pts_master: self.manifest.terminal.then_some(true),
            ..self.opts.clone()
        }
    }

    /// Where the log is.
    pub fn log_path(&self) -> PathBuf {
        self.work_path.join(LOG)
    }

    /// Why CRIU has failed to restore a container whose root is at `root`.
    fn explain(&self, event: &Event, root: &Path) -> Error {
        let path = self.log_path();
        let log = sys::path::read_regular(&path, LOG_LIMIT).unwrap_or_default();
        let why = criu::last_error(&log);
        let why = why.or_else(|| match event {
            Event::Failed {
                message: Some(message),
                ..
            } => Some(message.clone()),
            Event::Failed {
                errno: Some(errno), ..
            } => Some(std::io::Error::from_raw_os_error(*errno).to_string()),
            _ => None,
        });
        let why = why.unwrap_or_else(|| "it has ended without a word".to_owned());
        if let Some(short) = fit::too_few_files(&why) {
            return short.hint(format!("full log: {}", path.display()));
        }
        let error = Error::new("criu failed")
            .because(crate::error::printable(&why))
            .hint(format!("full log: {}", path.display()));
        lack::explain_restore(error, &log, root, self.work_path)
    }
}

/// Opens the log, and empties it: what CRIU says before it opens it itself goes there too.
fn open_log(restoring: &Restoring<'_>) -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let what = || format!("cannot write CRIU's log {:?}", restoring.log_path());
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::TRUNC
        | OFlags::APPEND
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let log = rustix::fs::openat(restoring.work, LOG, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| sys::Error::new("openat", format!("{LOG:?}, O_CREAT|O_TRUNC"), e))
        .doing(what)
        .map_err(|e| e.hint("--work-path DIR says where it goes"))?;
    sys::path::require_regular(&log, &restoring.log_path()).doing(what)?;
    Ok(log)
}

/// The container's first process, which CRIU has made as a child of this one: until it is waited for, its number is its own.
fn first(pid: i32) -> Result<Child> {
    let what = || format!("cannot hold the restored process {pid}");
    if !sys::children::own().doing(what)?.contains(&pid) {
        return Err(Error::new(what()).because("it is not a child of this process"));
    }
    let pidfd = sys::process::open_pidfd(pid).doing(what)?;
    Ok(Child { pid, pidfd })
}

/// Ends what is there of a container whose CRIU has ended: with the first process all others of its pid namespace do.
fn end_restored(known: Option<Child>, before: &[i32], error: Error) -> Error {
    if let Some(child) = known {
        end(&child);
        return error;
    }
    // CRIU may have made it and not told of it.
    let children = sys::children::own().unwrap_or_default();
    for pid in children.into_iter().filter(|pid| !before.contains(pid)) {
        if let Ok(child) = first(pid) {
            end(&child);
        }
    }
    error
}
