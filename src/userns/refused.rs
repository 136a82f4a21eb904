//! A user namespace that was refused.

use crate::doctor::Step;
use crate::error::Error;
use crate::sys;

/// The error of a clone or unshare with CLONE_NEWUSER that the kernel refused; [`crate::doctor::consult`] finds out why.
pub fn explain(cause: sys::Error) -> Error {
    Error::new("user namespace refused")
        .because_of(&cause)
        .step(Step::UserNamespace)
}
