//! What is said of an adaptation.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::bundle::escape;

/// An adaptation of what the config asks, said aloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// JSON pointer (RFC 6901) to the property concerned.
    pub property: String,
    /// What was done instead, and why.
    pub reason: String,
    /// What the reader can do about it.
    pub remedy: String,
    /// The code of the cause (`LDG-…`), where it is a row of the table in [`crate::doctor`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl Note {
    /// A note on the property at `property`. Control characters are escaped, as they may come from config.json.
    pub fn new(
        property: impl AsRef<str>,
        reason: impl AsRef<str>,
        remedy: impl AsRef<str>,
    ) -> Self {
        Self {
            property: escape(property.as_ref()),
            reason: escape(reason.as_ref()),
            remedy: escape(remedy.as_ref()),
            code: None,
        }
    }

    /// With the code of its cause.
    #[must_use]
    pub fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }
}
