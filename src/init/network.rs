//! The network namespace, where it is the container's own.

use crate::error::{Doing, Result};
use crate::plan::{Namespace, Plan};
use crate::sys::netlink::{LOOPBACK, Rtnetlink};

/// Sets the one device of a new network namespace up. No specification says that it should be, but programs that talk to
/// themselves, and containers of one pod, count on it.
pub(super) fn set_loopback_up(plan: &Plan) -> Result<()> {
    if !plan.namespaces.contains(&Namespace::Network) {
        return Ok(());
    }
    Rtnetlink::open()
        .and_then(|net| net.set_up(LOOPBACK))
        .doing(|| "cannot set the loopback device up".to_owned())
}
