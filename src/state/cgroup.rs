//! The container's cgroup, as the state directory has it before there is a record.

use std::path::Path;

use super::{Entry, MAX_FILE, because_full};
use crate::cgroup::CgroupRecord;
use crate::error::{Error, Result};
use crate::sys;

/// The cgroup that is about to be made, for whoever removes what a killed runtime has left.
const CGROUP: &str = "cgroup.json";

impl Entry {
    /// Keeps where the cgroup will be.
    pub fn note_cgroup(&self, cgroup: &CgroupRecord) -> Result<()> {
        let what = || format!("cannot keep the cgroup of container {:?}", self.id);
        let text = serde_json::to_vec(cgroup).map_err(|e| Error::new(what()).because(e))?;
        self.write(CGROUP, &text)
            .map_err(|cause| because_full(&self.fd, Error::new(what()), cause))
    }

    /// The cgroup that was about to be made, if it was one that does not go by itself.
    pub fn noted_cgroup(&self) -> Option<CgroupRecord> {
        let text = sys::path::read_regular_at(&self.fd, Path::new(CGROUP), MAX_FILE).ok()?;
        serde_json::from_slice(&text).ok()
    }
}
