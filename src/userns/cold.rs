//! A new outer user namespace, whoever runs: where no container does, and for those who want to know whether there can be one.

use super::{Entering, enter_single_id, helpers};
use crate::error::{Doing, Result};
use crate::plan::Outer;
use crate::sys;

/// As [`super::begin`], for a namespace that nobody is in yet.
///
/// # Errors
/// The kernel refuses it, or a helper cannot be started.
pub fn begin_new(outer: &Outer) -> Result<Entering> {
    match outer {
        Outer::SingleId { uid, gid } => {
            enter_single_id(*uid, *gid)?;
            Ok(Entering::Done(None))
        }
        Outer::Helpers {
            newuidmap,
            newgidmap,
            uids,
            gids,
        } => {
            // newuidmap refuses a target whose /proc directory is not the caller's.
            sys::cred::set_dumpable(true).doing(|| "cannot become dumpable".to_owned())?;
            helpers::begin([(newuidmap, uids), (newgidmap, gids)]).map(Entering::Mapping)
        }
        Outer::Current => Ok(Entering::Done(None)),
        Outer::OneLevel { .. } => {
            // The container's own is the first, and its init, a copy of this process, is the helpers' target.
            sys::cred::set_dumpable(true).doing(|| "cannot become dumpable".to_owned())?;
            Ok(Entering::Done(None))
        }
    }
}
