//! What is said of an adaptation.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::bundle::escape;
use crate::error::Error;

/// The most remedies that one error gives.
const REMEDIES: usize = 3;

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

    /// Refuses what `notes` tell of (`--strict`): one error with all of them, at most three remedies, and the code if they
    /// have one alone.
    ///
    /// # Errors
    /// There are some.
    pub fn refuse(notes: &[Self]) -> Result<(), Error> {
        if notes.is_empty() {
            return Ok(());
        }
        let what = "cannot do as it is asked, without an adaptation (--strict)";
        let mut error = Error::new(what);
        let (mut remedies, mut codes) = (Vec::new(), Vec::new());
        for note in notes {
            error = error.because(format!("{}: {}", note.property, note.reason));
            if !remedies.contains(&&note.remedy) {
                remedies.push(&note.remedy);
            }
            codes.extend(note.code.as_ref().filter(|code| !codes.contains(code)));
        }
        let remedies = remedies.into_iter().take(REMEDIES);
        let error = remedies.fold(error, |error, remedy| error.hint(remedy));
        Err(match codes.as_slice() {
            [code] => error.code(*code),
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_refuses_all() {
        assert_eq!(Note::refuse(&[]), Ok(()));
        let notes = ["a", "b", "b", "c", "d"].map(|remedy| Note::new("/p", "r", remedy));
        let error = Note::refuse(&notes).unwrap_err();
        assert_eq!(error.cause().unwrap(), ["/p: r"; 5].join(": "));
        assert_eq!(error.hints().as_deref(), Some("a; b; c"));
        assert_eq!(error.cause_code(), None);
        let coded = |code: &str| Note::new("/p", "r", "m").code(code);
        for (notes, code) in [
            (
                vec![coded("LDG-RLIMIT"), coded("LDG-RLIMIT")],
                Some("LDG-RLIMIT"),
            ),
            (
                vec![coded("LDG-RLIMIT"), notes[0].clone()],
                Some("LDG-RLIMIT"),
            ),
            (vec![coded("LDG-RLIMIT"), coded("LDG-NPROC")], None),
        ] {
            let error = Note::refuse(&notes).unwrap_err();
            assert_eq!(error.cause_code(), code);
        }
    }
}
