//! Hooks in the container's namespaces: children of init, which waits for each.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::program::Program;
use super::{Init, Stage, give_up_with, protocol};
use crate::error::{Doing, Result};
use crate::plan::Hook;
use crate::spawn::hook::{self, Given, Told};
use crate::spawn::line::{Failure, InitEnd, Order, Report};
use crate::state::Status;
use crate::sys;
use crate::sys::defence::{Defence, is_on};

impl Init<'_> {
    /// The hooks before the root is changed: the runtime's, then those in here.
    pub(super) fn run_first_hooks(&self) -> Result<()> {
        let hooks = &self.plan.hooks;
        if !hooks.has_any_before_root() {
            return Ok(());
        }
        self.enter(Stage::Hooks);
        let what = || "cannot wait for the hooks".to_owned();
        if hooks.runtime_before_root().next().is_some()
            && !(self.plan.others_see_init() && is_on(Defence::NotDumpable))
        {
            // They look into this process: a network is made for the namespace at /proc/PID/ns/net.
            sys::cred::set_dumpable(true).doing(what)?;
        }
        self.line.send(&Report::Mounted).doing(what)?;
        if self.line.receive().map_err(protocol)? != Some(Order::HooksDone) {
            // The runtime went away.
            sys::process::exit_now(1);
        }
        sys::cred::set_dumpable(!is_on(Defence::NotDumpable)).doing(what)?;
        create_container(&hooks.create_container, self.told, &self.plan.root.path)
    }

    /// Made while nothing of this process is given away yet.
    pub(super) fn state_for_last_hooks(&self) -> Result<Option<OwnedFd>> {
        if self.plan.hooks.start_container.is_empty() {
            return Ok(None);
        }
        let own = Some(sys::process::own_pid());
        let text = self.told.text(Status::Created, own)?;
        hook::state_file(&text).map(Some)
    }

    /// The hooks before the program. Returns only if none has failed.
    pub(super) fn run_last_hooks(&self, program: &Program, state: Option<OwnedFd>, line: &InitEnd) {
        let Some(state) = state else { return };
        self.enter(Stage::Hooks);
        let hooks = &self.plan.hooks.start_container;
        if let Err(error) = run(hooks, state.as_fd(), program.env(), None) {
            let failure = Failure {
                by_hook: true,
                ..Failure::of(&error)
            };
            give_up_with(line, failure);
        }
    }
}

/// Runs the `createContainer` hooks: the host's files are still there, and the working directory is the container's root.
fn create_container(hooks: &[Hook], told: Told<'_>, root: &Path) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let text = told.text(Status::Creating, Some(sys::process::own_pid()))?;
    let state = hook::state_file(&text)?;
    run(hooks, state.as_fd(), &[], Some(root))
}

fn run(
    hooks: &[Hook],
    state: BorrowedFd<'_>,
    env: &[CString],
    directory: Option<&Path>,
) -> Result<()> {
    for hook in hooks {
        let given = Given {
            state,
            env,
            directory,
            wanted: None,
        };
        let ended = hook::run(hook, &given);
        // What a hook has left behind and has ended would be the program's to wait for.
        sys::process::reap_ended().doing(|| "cannot tidy up after a hook".to_owned())?;
        ended?;
    }
    Ok(())
}
