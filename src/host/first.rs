//! What the first reading of this process was: it may have changed its user namespace since.

use std::sync::OnceLock;

use super::HostFacts;

static FIRST: OnceLock<HostFacts> = OnceLock::new();

impl HostFacts {
    /// Keeps the first facts of this process for a diagnosis.
    #[must_use]
    pub(super) fn remembered(self) -> Self {
        FIRST.get_or_init(|| self.clone());
        self
    }

    /// The facts that this process has read first, if it has read any.
    pub fn first() -> Option<&'static Self> {
        FIRST.get()
    }
}
