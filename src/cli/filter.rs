//! The system call filter of a container or a process, and its agent.

use crate::error::Result;
use crate::plan::{FakeRoot, Plan, Seccomp};
use crate::seccomp::{self, Agent, Filter};
use crate::spawn::Until;
use crate::state::Store;

/// The system call filter of the plan, compiled, and that which feigns.
pub(super) fn filter(
    seccomp: Option<&Seccomp>,
    fake_root: FakeRoot,
    store: Option<&Store>,
) -> Result<Option<Filter>> {
    let compiled = seccomp.map(|s| seccomp::prepare(s, store.map(Store::directory)));
    let compiled = compiled.transpose();
    let filter = compiled.map_err(|found| super::spec::problems(&found))?;
    Ok(match fake_root {
        FakeRoot::None => filter,
        FakeRoot::Ignore => Some(seccomp::with_fake_root(filter)),
    })
}

/// The seccomp agent, if the filter notifies one: reached where the program is run, looked for where `start` will.
pub(super) fn agent(plan: &Plan, until: Until) -> Result<Option<Agent>> {
    let listener = plan.seccomp.as_ref().and_then(|s| s.listener.as_ref());
    match (listener, until) {
        (None, _) => Ok(None),
        (Some(listener), Until::Created) => Agent::require(listener).map(|()| None),
        (Some(listener), _) => Agent::connect(listener).map(Some),
    }
}
