//! The bundle: a directory with config.json (runtime-spec bundle.md), read and checked, never changed.
//!
//! config.json is trusted to say what the caller wants, but not to be well-formed: it is read with a size limit, as a
//! regular file only, and every problem found is reported with its JSON pointer, not just the first.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxResources, Spec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sys;
use crate::sys::defence::{Defence, is_on};

mod attributes;
mod hooks;
pub(crate) mod json;
mod namespaces;
mod raw;
pub mod seccomp;
mod support;
mod template;
mod validate;

pub use hooks::may_have_hooks;
pub use template::{rootless_template, template, with_open_files};

/// The largest config.json that is read, in bytes.
const CONFIG_LIMIT: usize = 16 << 20;

/// Something in config.json that cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// JSON pointer (RFC 6901) to the property.
    pub pointer: String,
    /// What is wrong with it, without the pointer.
    pub message: String,
    /// The code of the cause (`LDG-…`), where it is a row of the table in [`crate::doctor`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl Problem {
    /// A problem with the property at `pointer`. Control characters of both texts are escaped, as they may come from config.json.
    pub fn new(pointer: impl AsRef<str>, message: impl AsRef<str>) -> Self {
        Self {
            pointer: escape(pointer.as_ref()),
            message: escape(message.as_ref()),
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

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The pointer to the whole document is empty (RFC 6901 §5).
        let pointer = if self.pointer.is_empty() {
            "config.json"
        } else {
            &self.pointer
        };
        write!(f, "{pointer}: {}", self.message)
    }
}

/// Why a bundle was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// config.json could not be read.
    #[error("cannot read config.json: {0}")]
    Read(#[source] sys::Error),
    /// The bundle path is not absolute.
    #[error("the bundle path {0:?} is not absolute")]
    Relative(PathBuf),
    /// config.json is not UTF-8 (RFC 8259 §8.1).
    #[error("config.json is not UTF-8, at byte {offset}")]
    NotUtf8 {
        /// The first byte that does not belong.
        offset: usize,
    },
    /// config.json is not JSON.
    #[error("config.json is not JSON: {message} at line {line}, column {column}")]
    NotJson {
        /// What the parser says.
        message: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Arrays and objects are nested too deeply.
    #[error("config.json is nested deeper than 64 levels, at line {line}, column {column}")]
    TooDeep {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// An object has the same key twice.
    #[error("config.json has the key {key:?} twice in one object, at line {line}, column {column}")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Something follows the JSON value.
    #[error("config.json goes on after the end of its object, at line {line}, column {column}")]
    TrailingBytes {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// A value has the wrong type.
    #[error("config.json is not valid: {0}")]
    WrongType(Problem),
    /// Values are wrong, or ask for what is not supported.
    #[error("config.json cannot be used:{}", list(.0))]
    Invalid(Vec<Problem>),
}

impl BundleError {
    /// What the reader can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read(e) if e.is(Errno::ENOENT as i32) => Some(
                "a bundle is a directory with config.json and a root filesystem: `lodger spec` writes a config.json",
            ),
            Self::Read(e) if e.is(Errno::EFBIG as i32) => {
                Some("config.json may have 16 MiB at most")
            }
            _ => None,
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
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
    /// What is passed over because the specification says so, with a warning: capabilities nobody knows (config.md, "capabilities").
    pub warnings: Vec<Problem>,
}

impl Bundle {
    /// Reads and checks the bundle in `directory`, which must be absolute.
    ///
    /// config.json is opened without blocking, and must be a regular file of at most 16 MiB.
    pub fn open(directory: &Path) -> Result<Self, BundleError> {
        if !directory.is_absolute() {
            return Err(BundleError::Relative(directory.to_owned()));
        }
        Self::parse(directory.to_owned(), read(&directory.join("config.json"))?)
    }

    /// As [`Bundle::parse`], with `process`, the text of a process (config.md, "process"), in place of the one in `config`.
    /// Its problems have the pointers they would have in config.json.
    pub fn parse_with_process(
        directory: PathBuf,
        config: &[u8],
        process: &[u8],
    ) -> Result<Self, BundleError> {
        let mut value = json::parse(config)?;
        let process = json::parse(process)?;
        if let Some(members) = value.as_object_mut() {
            members.insert("process".to_owned(), process);
        }
        let text = serde_json::to_vec(&value).map_err(|e| BundleError::NotJson {
            message: e.to_string(),
            line: e.line(),
            column: e.column(),
        })?;
        Self::parse(directory, text)
    }

    /// Gives the process a terminal, whatever the configuration says.
    pub fn give_terminal(&mut self) {
        if let Some(process) = self.spec.process_mut() {
            process.set_terminal(Some(true));
        }
    }

    /// Checks `config`, the text of config.json of the bundle in `directory`. Does no I/O.
    pub fn parse(directory: PathBuf, config: Vec<u8>) -> Result<Self, BundleError> {
        let mut value = json::parse(&config)?;
        let mut problems = support::refuse(&mut value);
        problems.extend(raw::check(&mut value));
        attributes::check_decisive(&mut value, &mut problems);
        attributes::check_lists(&mut value, &mut problems);
        attributes::rename_flags(&mut value);
        let warnings = raw::pass_over(&mut value);
        match typed::<Spec>(value, "") {
            Ok(spec) => {
                problems.extend(validate::check(&spec));
                if problems.is_empty() {
                    return Ok(Self {
                        directory,
                        config,
                        spec,
                        warnings,
                    });
                }
            }
            Err(problem) if problems.is_empty() => return Err(BundleError::WrongType(problem)),
            // It may be one of those found already, in the words of the parser.
            Err(problem) if problems.iter().any(|p| p.pointer == problem.pointer) => {}
            Err(problem) => problems.push(problem),
        }
        Err(BundleError::Invalid(problems))
    }
}

/// Reads the configuration in `file`, to be parsed with [`Bundle::parse`].
pub fn read(file: &Path) -> Result<Vec<u8>, BundleError> {
    sys::path::read_regular(file, CONFIG_LIMIT).map_err(BundleError::Read)
}

/// Reads `text`, which has what `linux.resources` of config.json may have: limits for a container that is there already.
/// Problems have the pointers they would have in config.json.
pub fn parse_resources(text: &[u8]) -> Result<LinuxResources, BundleError> {
    let resources = json::parse(text)?;
    // A list would be taken for a struct's members in their order.
    if !resources.is_object() {
        let problem = Problem::new("/linux/resources", "is not an object");
        return Err(BundleError::WrongType(problem));
    }
    let mut value = serde_json::json!({"linux": {"resources": resources}});
    let problems = raw::check(&mut value);
    if !problems.is_empty() {
        return Err(BundleError::Invalid(problems));
    }
    let resources = value.pointer_mut("/linux/resources").map(Value::take);
    typed(resources.unwrap_or_default(), "/linux/resources").map_err(BundleError::WrongType)
}

/// `at` is the pointer of `value` in config.json.
fn typed<T: DeserializeOwned>(value: Value, at: &str) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let beneath: String = e.path().iter().map(segment).collect();
        let pointer = format!("{at}{beneath}");
        Problem::new(pointer, e.inner().to_string())
    })
}

fn segment(segment: &serde_path_to_error::Segment) -> String {
    use serde_path_to_error::Segment;
    match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", pointer_token(key)),
        Segment::Enum { variant } => format!("/{}", pointer_token(variant)),
        Segment::Unknown => "/?".to_owned(),
    }
}

/// `key` as one token of a JSON pointer (RFC 6901 §3).
pub(crate) fn pointer_token(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// `text` with everything a terminal might act upon escaped as in a Rust string; quotes and backslashes stay.
pub(crate) fn escape(text: &str) -> String {
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || !is_on(Defence::Printable) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| {
            let plain = matches!(c, '"' | '\'' | '\\');
            let escaped = (!plain).then(|| c.escape_debug());
            plain
                .then_some(c)
                .into_iter()
                .chain(escaped.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests;
