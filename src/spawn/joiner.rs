//! The joiner: one more process, between this one and a container's init, which joins the namespaces that are there
//! already and sets the clocks of a new one.
//!
//! It is needed because this process has to stay where it is, and because only the children of a process are in the pid
//! namespace that it joins (setns(2)), or in the time namespace whose offsets it sets (time_namespaces(7)). Init becomes
//! a child of this process all the same (CLONE_PARENT). The joiner is gone once init is there.
//!
//! Order: what does not belong to the container's user namespace is joined from outside of it, where there is power over
//! both; then the user namespace; then what belongs to it. Before it is in a user namespace that others are in, it becomes
//! undumpable, and init is so from the start: none of them can look into either (CVE-2016-9962).

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::line::{Failure, shortened};
use super::{Creation, bit, reported};
use crate::error::{Doing, Error, Result};
use crate::host::Joinable;
use crate::init::{Init, die_with_runtime, set_oom_score};
use crate::plan::{
    ClockOffset, JoinedNamespace, Namespace, Plan, UserNamespace, namespace_pointer,
};
use crate::state::NamespaceMark;
use crate::sys::defence::{Defence, is_on};
use crate::sys::ns::flag;
use crate::sys::process::{Child, Cloned};
use crate::{sys, userns};

const TIME_OFFSETS: &str = "/proc/self/timens_offsets";

/// Whether init cannot be made without one.
pub(super) fn is_needed(plan: &Plan) -> bool {
    !plan.joined.is_empty()
        || !plan.time_offsets.is_empty()
        || matches!(plan.user_namespace, UserNamespace::Joined { .. })
}

/// What the joiner says at its end.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// Init is made; its pidfd comes with this.
    Made {
        pid: i32,
        mark: Option<NamespaceMark>,
    },
    /// It is not.
    Failed(Failure),
}

/// What is to be joined, and made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Joining<'a> {
    pub(super) plan: &'a Plan,
    pub(super) joinable: &'a Joinable,
    /// The namespaces that init is in from the start, of those that are made: `CLONE_NEW…` bits.
    pub(super) new: u32,
}

impl Creation<'_> {
    /// What a joiner is to do, which makes namespaces of the kinds in `new`.
    pub(super) fn joining(&self, new: u32) -> Joining<'_> {
        Joining {
            plan: self.plan,
            joinable: self.joinable,
            new,
        }
    }
}

/// Makes init, which does `run`, through a joiner. Gives its mark as well, where it can be told only from within.
pub(super) fn clone<'a>(
    joining: Joining<'_>,
    init: Init<'a>,
    run: impl FnOnce(Init<'a>) -> Infallible,
) -> Result<(Child, Option<NamespaceMark>)> {
    let what = || "cannot make the process that joins namespaces".to_owned();
    let (ours, theirs) = sys::socket::pair().doing(what)?;
    match sys::process::clone(0).doing(what)? {
        Cloned::Child => {
            drop(ours);
            work(joining, &theirs, || run(init))
        }
        Cloned::Parent(joiner) => {
            drop(theirs);
            // Init's end of the line must be init's alone.
            drop(init);
            let heard = hear(&ours);
            let exit = sys::process::wait(&joiner).doing(what)?;
            heard.map_err(|error| error.unwrap_or_else(|| Error::new(what()).because(exit)))
        }
    }
}

/// What it said; `Err(None)`: nothing.
fn hear(line: &OwnedFd) -> std::result::Result<(Child, Option<NamespaceMark>), Option<Error>> {
    let lost = |cause: &dyn std::fmt::Display| {
        Error::new("cannot understand the process that joins namespaces").because(cause)
    };
    let packet = sys::socket::receive(line).map_err(|cause| lost(&cause))?;
    let packet = packet.ok_or(None)?;
    let word = serde_json::from_slice(&packet.content).map_err(|cause| lost(&cause))?;
    match (word, packet.fd) {
        (Word::Made { pid, mark }, Some(pidfd)) if !sys::pidfd::is_stand_in(&pidfd) => {
            Ok((Child { pid, pidfd }, mark))
        }
        // The joiner's /proc may be another. It is this process's child, whose number is nobody else's.
        (Word::Made { pid, mark }, Some(_)) => {
            let pidfd = sys::process::open_pidfd(pid).map_err(|cause| lost(&cause))?;
            Ok((Child { pid, pidfd }, mark))
        }
        (Word::Made { .. }, None) => Err(Some(lost(&"no pidfd came with its word"))),
        (Word::Failed(failure), _) => Err(Some(reported(failure))),
    }
}

/// In the joiner.
fn work(joining: Joining<'_>, line: &OwnedFd, run: impl FnOnce() -> Infallible) -> ! {
    let (word, pidfd) = match joining.make() {
        Ok((Cloned::Child, _)) => match run() {},
        Ok((Cloned::Parent(Child { pid, pidfd }), mark)) => (Word::Made { pid, mark }, Some(pidfd)),
        Err(error) => (Word::Failed(shortened(&Failure::of(&error))), None),
    };
    let text = serde_json::to_vec(&word).unwrap_or_default();
    // If nobody is there any more, init finds that out by itself.
    let _nobody_to_tell = match &pidfd {
        Some(pidfd) => sys::socket::send_with(line, &text, pidfd.as_fd()),
        None => sys::socket::send(line, &text),
    };
    sys::process::exit_now(0)
}

impl Joining<'_> {
    /// Joins everything, and makes init.
    fn make(&self) -> Result<(Cloned, Option<NamespaceMark>)> {
        die_with_runtime(true)?;
        let clocks = self.open_clocks()?;
        let user = self.user()?;
        if user.is_some() {
            // While the /proc files of this process are its own.
            set_oom_score(&self.plan.process)?;
            sys::cred::set_dumpable(!is_on(Defence::NotDumpable))
                .doing(|| "cannot become undumpable".to_owned())?;
        }
        let (inside, outside): (Vec<_>, Vec<_>) = self.plan.joined.iter().partition(|n| n.owned);
        if let (Some(_), Some(outer), false) = (&user, self.joinable.outer(), outside.is_empty()) {
            sys::ns::join_user(outer)
                .doing(|| "cannot go through the user namespace around those to join".to_owned())?;
        }
        self.join_all(&outside)?;
        if let Some((index, user)) = user {
            sys::ns::join_user(user)
                .doing(|| cannot_join(index))
                .map_err(|error| {
                    error.hint("it must be a user namespace of yours, or of a container of yours")
                })?;
            // The change of user namespace may have cleared it.
            die_with_runtime(true)?;
        }
        self.join_all(&inside)?;
        let mut new = self.new;
        if let Some(clocks) = clocks {
            sys::ns::unshare(flag::TIME).doing(|| "cannot make a time namespace".to_owned())?;
            set_clocks(&clocks, &self.plan.time_offsets)?;
            new &= !flag::TIME;
        }
        let mark = self.mark(&mut new)?;
        let cloned = userns::once_freed(|| sys::process::clone_sibling(new))
            .map_err(|cause| self.explain(new, cause))?;
        Ok((cloned, mark))
    }

    fn user(&self) -> Result<Option<(usize, std::os::fd::BorrowedFd<'_>)>> {
        let UserNamespace::Joined { index, .. } = self.plan.user_namespace else {
            return Ok(None);
        };
        self.file(index).map(|file| Some((index, file)))
    }

    fn file(&self, index: usize) -> Result<std::os::fd::BorrowedFd<'_>> {
        let file = self.joinable.file(index);
        file.ok_or_else(|| Error::new(cannot_join(index)).because("it was not opened"))
    }

    /// Joins the mount namespace last: its /proc may be another.
    fn join_all(&self, namespaces: &[&JoinedNamespace]) -> Result<()> {
        let mut ordered = namespaces.to_vec();
        ordered.sort_by_key(|namespace| namespace.kind == Namespace::Mount);
        for namespace in ordered {
            sys::ns::join(self.file(namespace.index)?, bit(namespace.kind))
                .doing(|| cannot_join(namespace.index))
                .map_err(|error| explain_join(namespace, error))?;
        }
        Ok(())
    }

    /// The file of the clocks of the time namespace to be, opened while it can be.
    fn open_clocks(&self) -> Result<Option<OwnedFd>> {
        if self.plan.time_offsets.is_empty() {
            return Ok(None);
        }
        sys::path::open_existing(Path::new(TIME_OFFSETS))
            .doing(|| "cannot set /linux/timeOffsets".to_owned())
            .map_err(|error| {
                error.hint("time namespaces need a kernel that has them (CONFIG_TIME_NS)")
            })
            .map(Some)
    }

    /// By what the container's processes are known, where the runtime cannot look it up: nobody can look into an init that
    /// has joined a user namespace. It is then the mount namespace, which is made here.
    fn mark(&self, new: &mut u32) -> Result<Option<NamespaceMark>> {
        let joins_user = matches!(self.plan.user_namespace, UserNamespace::Joined { .. });
        if !joins_user || *new & flag::PID != 0 {
            return Ok(None);
        }
        let what = || "cannot tell the container's mount namespace".to_owned();
        if let Some(mount) = self.plan.joined.iter().find(|n| n.kind == Namespace::Mount) {
            let file = self.file(mount.index)?.try_clone_to_owned();
            let file = file.map_err(|error| Error::new(what()).because(error))?;
            return NamespaceMark::new(&file).map(Some);
        }
        sys::ns::unshare(flag::MOUNT).doing(|| "cannot make a mount namespace".to_owned())?;
        *new &= !flag::MOUNT;
        let file = sys::path::open_magic(Path::new("/proc/self/ns/mnt")).doing(what)?;
        NamespaceMark::new(&file).map(Some)
    }

    fn explain(&self, new: u32, cause: sys::Error) -> Error {
        if new & flag::USER != 0 {
            return userns::explain_refusal(cause);
        }
        let joins_pid = self.plan.joined.iter().any(|n| n.kind == Namespace::Pid);
        let ended = joins_pid && cause.is(libc::ENOMEM);
        let error = Error::new("cannot make the container's process").because(cause);
        match ended {
            true => error.hint(
                "the first process of the pid namespace has ended: nobody can come in any more",
            ),
            false => error,
        }
    }
}

fn cannot_join(index: usize) -> String {
    format!("cannot join {}", namespace_pointer(index))
}

fn explain_join(namespace: &JoinedNamespace, error: Error) -> Error {
    match namespace.kind {
        Namespace::Pid => error.hint(
            "it must be a pid namespace within your own: one of a container that you see with ps(1)",
        ),
        _ => error.hint("it must belong to a user namespace of yours, or of a container of yours"),
    }
}

/// Sets the clocks of the time namespace that this process has made, and its children will be in.
fn set_clocks(file: &OwnedFd, offsets: &[ClockOffset]) -> Result<()> {
    let line = |o: &ClockOffset| format!("{} {} {}\n", o.clock, o.secs, o.nanosecs);
    let text: String = offsets.iter().map(line).collect();
    sys::path::write_once(file, text.as_bytes(), Path::new(TIME_OFFSETS)).map_err(|cause| {
        let hint = match cause.errno {
            libc::ERANGE => "a clock would stand before its beginning, or too far in the future: `cat /proc/uptime` tells how far back \
                             it can go",
            libc::EPERM => "it needs CAP_SYS_TIME in your user namespace",
            _ => "a time namespace has the clocks \"monotonic\" and \"boottime\"",
        };
        let said: Vec<String> = offsets.iter().map(|o| line(o).trim_end().to_owned()).collect();
        Error::new(format!("cannot set /linux/timeOffsets to {}", said.join(", ")))
            .because(cause)
            .hint(hint)
    })
}
