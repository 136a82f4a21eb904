//! Names that a person may want to know, as far as there is room for them.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Some names, and how many more there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The first hundred.
    pub first: Vec<String>,
    /// How many more.
    pub more: u64,
}

/// How many names, and of what length, are kept.
pub(super) const MOST: usize = 100;
const LONGEST: usize = 256;

impl Names {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.more.saturating_add(self.first.len() as u64)
    }

    pub(super) fn add(&mut self, name: &[u8]) {
        if self.first.len() < MOST {
            self.first.push(shown(name));
        } else {
            self.more += 1;
        }
    }
}

/// The name as it is kept.
pub(super) fn shown(name: &[u8]) -> String {
    let end = name.len().min(LONGEST);
    String::from_utf8_lossy(&name[..end]).into_owned()
}
