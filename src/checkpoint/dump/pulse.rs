//! A sign of life: memory that two processes share.

use crate::error::{Doing, Result};
use crate::sys::memory::SharedByte;

/// What the second process changes as long as it moves, and the first one looks at.
#[derive(Debug)]
pub(super) struct Pulse(SharedByte);

impl Pulse {
    /// It is at something that takes as long as it takes.
    pub(super) const AT_WORK: u8 = u8::MAX;

    pub(super) fn new() -> Result<Self> {
        let byte =
            SharedByte::new().doing(|| "cannot share memory with the supervisor".to_owned())?;
        byte.set(Self::AT_WORK);
        Ok(Self(byte))
    }

    /// How it is now.
    pub(super) fn now(&self) -> u8 {
        self.0.get()
    }

    /// It moves.
    pub(super) fn beat(&self) {
        self.0.set(self.0.get().wrapping_add(1) % Self::AT_WORK);
    }

    /// It begins with something long.
    pub(super) fn begin_work(&self) {
        self.0.set(Self::AT_WORK);
    }
}
