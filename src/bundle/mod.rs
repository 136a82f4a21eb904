//! The bundle: a directory with config.json (runtime-spec bundle.md), read and checked, never changed.
//!
//! config.json is trusted to say what the caller wants, but not to be well-formed: it is read with a size limit, as a
//! regular file only, and every problem found is reported with its JSON pointer, not just the first.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

/// Something in config.json that cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// JSON pointer (RFC 6901) to the property.
    pub pointer: String,
    /// What is wrong with it, without the pointer.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.message)
    }
}

/// A bundle whose config.json was read and is well-formed.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Absolute path of the bundle directory.
    pub directory: PathBuf,
    /// config.json as it was read: the snapshot that the state directory keeps (runtime.md, "create").
    pub config: Vec<u8>,
    /// config.json, parsed.
    pub spec: Spec,
}
