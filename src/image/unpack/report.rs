//! What a person may want to know of a layer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::names::{MOST, Names, shown};

/// What was unpacked, and what was not as the layer has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of its files, holes included.
    pub bytes: u64,
    /// Files whose owner is not the one that the layer says, because all are the caller's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub squashed: u64,
    /// Devices, which became empty files.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub devices: Names,
    /// Sockets, which were left out: only a directory has some.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub sockets: Names,
    /// Extended attributes that were not taken: how many files had each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Report {
    /// An extended attribute was not taken.
    pub(super) fn drop_xattr(&mut self, name: &[u8]) {
        let name = shown(name);
        let known = self.xattrs.len() < MOST || self.xattrs.contains_key(&name);
        let name = if known { name } else { "others".to_owned() };
        *self.xattrs.entry(name).or_default() += 1;
    }
}
