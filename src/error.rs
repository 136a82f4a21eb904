//! The error that reaches a person: what we were doing, what the kernel answered, what the reader can do.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::doctor::Step;
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// An error on its way to the person who called.
///
/// `what` and `causes` become the `msg` of a JSON log line, which engines match (see the strings in the tests).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    what: String,
    causes: Vec<String>,
    hints: Vec<String>,
    exit: u8,
    /// Apart, as an error is returned from everywhere and is to be small.
    diagnosis: Box<Diagnosis>,
}

/// What a diagnosis begins with, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Diagnosis {
    origin: Option<Origin>,
    step: Option<Step>,
    code: Option<String>,
}

/// The system call that an error began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The call's name.
    pub call: String,
    /// Its arguments, as they were made.
    pub args: String,
    /// The error number (errno(3)).
    pub errno: i32,
}

impl From<&sys::Error> for Origin {
    fn from(error: &sys::Error) -> Self {
        Self {
            call: error.call.to_owned(),
            args: error.args.clone(),
            errno: error.errno,
        }
    }
}

/// The result of a command or a step of it.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The exit status of a failure (runc's).
    pub const FAILURE: u8 = 1;
    /// The exit status when `exec` could not run its program (runc's).
    pub const EXEC_FAILURE: u8 = 255;

    /// An error that says what could not be done.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            exit: Self::FAILURE,
            diagnosis: Box::default(),
        }
    }

    /// Adds what stopped it, most often a [`crate::sys::Error`].
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Adds the system call that stopped it, for a diagnosis to begin with ([`crate::doctor::consult`]).
    #[must_use]
    pub fn because_of(mut self, cause: &sys::Error) -> Self {
        self.diagnosis.origin = Some(cause.into());
        self.because(cause)
    }

    /// Sets the system call that it began with, where that was made by another process.
    #[must_use]
    pub fn began_with(mut self, origin: Option<Origin>) -> Self {
        self.diagnosis.origin = origin;
        self
    }

    /// Says what was being done, for a diagnosis; the innermost step that is named stays.
    #[must_use]
    pub fn step(mut self, step: Step) -> Self {
        self.diagnosis.step = self.diagnosis.step.or(Some(step));
        self
    }

    /// Sets the code of the cause (`LDG-…`), a row of the table in [`crate::doctor`].
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.diagnosis.code = Some(code.into());
        self
    }

    /// Takes the hints away, for better ones.
    #[must_use]
    pub fn without_hints(mut self) -> Self {
        self.hints.clear();
        self
    }

    /// Adds something the reader can do, or whom to ask for what.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds, as a hint, what could not be put in order after it: there is one error to tell.
    #[must_use]
    pub fn after(self, tidied: Result<()>) -> Self {
        match tidied {
            Ok(()) => self,
            Err(left) => self.hint(left.message()),
        }
    }

    /// Puts a step around the error: `what` becomes `outer: what`.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.what = format!("{outer}: {}", self.what);
        self
    }

    /// Puts the causes behind `what`, on one line with it.
    #[must_use]
    pub fn in_one_line(mut self) -> Self {
        self.what = [&[self.what], &*self.causes].concat().join(": ");
        self.causes.clear();
        self
    }

    /// Sets the exit status.
    #[must_use]
    pub fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// The exit status of the program.
    pub fn exit_status(&self) -> u8 {
        self.exit
    }

    /// The system call that it began with, if one is known.
    pub fn origin(&self) -> Option<&Origin> {
        self.diagnosis.origin.as_ref()
    }

    /// What was being done, if that is known.
    pub fn failed_step(&self) -> Option<Step> {
        self.diagnosis.step
    }

    /// The code of the cause, if it was found.
    pub fn cause_code(&self) -> Option<&str> {
        self.diagnosis.code.as_deref()
    }

    /// What could not be done, without the causes.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What stopped it, one line.
    pub fn cause(&self) -> Option<String> {
        (!self.causes.is_empty()).then(|| self.causes.join(": "))
    }

    /// One line: what, then the causes.
    pub fn message(&self) -> String {
        let mut message = self.what.clone();
        for cause in &self.causes {
            message.push_str(": ");
            message.push_str(cause);
        }
        printable(&message)
    }

    /// The hints, one line.
    pub fn hints(&self) -> Option<String> {
        (!self.hints.is_empty()).then(|| printable(&self.hints.join("; ")))
    }
}

/// For people, several lines: `what`, then `caused by:`, then `hint:`, then `code:`.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", printable(&self.what))?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {}", printable(cause))?;
        }
        for hint in &self.hints {
            write!(f, "\n  hint: {}", printable(hint))?;
        }
        match self.cause_code() {
            Some(code) => write!(f, "\n  code: {}", printable(code)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Text from outside may hold control characters, which must not reach a terminal; line breaks of ours stay.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && is_on(Defence::Printable) {
            clean.extend(c.escape_debug());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// `text` as one word of a shell, for commands that people are told to run: names and paths are from outside too, and what
/// they hold is no command.
pub fn shell_word(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_./@%+:,-".contains(&b);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// JSON text with the control characters escaped that JSON lets stand (U+007F to U+009F); line breaks stay.
pub fn printable_json(json: &str) -> String {
    let mut clean = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() && c != '\n' && is_on(Defence::Printable) {
            clean.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Says what was being done when a step failed.
pub trait Doing<T> {
    /// `what` (called only on failure) becomes the message, the present error its cause.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for crate::sys::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(what()).because_of(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_shell_is_one_whatever_it_holds() {
        for (text, word) in [
            ("/home/ann-1/a.b_c@d", "/home/ann-1/a.b_c@d"),
            ("", "''"),
            ("a b", "'a b'"),
            ("$(id)`id`;&|<>*?~", "'$(id)`id`;&|<>*?~'"),
            ("it's", r"'it'\''s'"),
            ("DOM\\ann", r"'DOM\ann'"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }

    #[test]
    fn prints_what_cause_and_hint() {
        let error = Error::new("cannot do it")
            .because("open(\"x\"): EPERM")
            .hint("ask");
        assert_eq!(
            error.to_string(),
            "cannot do it\n  caused by: open(\"x\"): EPERM\n  hint: ask"
        );
        assert_eq!(error.message(), "cannot do it: open(\"x\"): EPERM");
    }

    #[test]
    fn the_code_comes_last_and_is_no_part_of_the_message() {
        let error = Error::new("no").code("LDG-NPROC").hint("ask");
        assert_eq!(error.to_string(), "no\n  hint: ask\n  code: LDG-NPROC");
        assert_eq!(error.message(), "no");
        assert_eq!(error.hints().as_deref(), Some("ask"));
    }

    #[test]
    fn json_with_control_characters_means_the_same() {
        let json = "{\n  \"a\": \"\u{9b}1m\u{7f}\\u001b\"\n}";
        let clean = printable_json(json);
        assert_eq!(clean, "{\n  \"a\": \"\\u009b1m\\u007f\\u001b\"\n}");
        let value = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&clean), value(json));
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let error = Error::new("bad \u{1b}[2J id").because("a\rb");
        assert_eq!(error.to_string(), "bad \\u{1b}[2J id\n  caused by: a\\rb");
    }
}
